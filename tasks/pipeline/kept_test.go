package pipeline_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/pipeline"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// A script counts as answered only when a replica has what it wrote; one that knows
// its repeat can be asked again.
func TestAScriptIsAnsweredWhenAReplicaHasIt(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	primary := redistest.Start(t, redistest.Options{Args: []string{"--port", port, "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"}}).Client()
	follow := []string{"--replicaof", "127.0.0.1 " + port}
	replica := redistest.Start(t, redistest.Options{Args: follow})
	of := replica.Client()
	redistest.Until(t, "the replica is in step", func() bool {
		return strings.Contains(of.Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	on := new(atomic.Bool)
	seen := &trips{}
	primary.AddHook(seen)
	kept, plain := pipeline.Kept(primary, on), pipeline.Client(primary)
	ctx := t.Context()

	if err := add.Run(ctx, kept, []string{"n"}, 1).Err(); err != nil {
		t.Fatal(err)
	}
	on.Store(true)
	runs, n := 1, 0
	redistest.Until(t, "the replica confirms, which on a busy machine may take longer than it is given", func() bool {
		runs++
		seen.take()
		n, err = add.Run(ctx, kept, []string{"n"}, 1).Int()
		return !errors.Is(err, pipeline.ErrAlone)
	})
	if err != nil || n != runs || of.Get(ctx, "n").Val() != strconv.Itoa(runs) {
		t.Errorf("with a replica: %d, %v, and it has %q", n, err, of.Get(ctx, "n").Val())
	}
	if got := seen.take(); len(got) != 1 || len(got[0]) != 2 || got[0][0] != "evalsha n" {
		t.Errorf("it went as %q", got)
	}
	if err := add.Run(ctx, kept, []string{"n"}, "no number").Err(); err == nil || errors.Is(err, pipeline.ErrAlone) {
		t.Errorf("a script that fails: %v", err)
	}

	replica.Kill()
	var alone, other, again error
	var trial *pipeline.Trial
	pipeline.Join(ctx, nil, func(ctx context.Context) {
		ctx, trial = pipeline.Try(ctx)
		alone = add.Run(ctx, kept, []string{"n"}, 1).Err()
	}, func(ctx context.Context) {
		again = add.Run(ctx, kept, []string{"m"}, 1).Err()
	}, func(ctx context.Context) {
		other = add.Run(ctx, plain, []string{"n"}, 1).Err()
	})
	if !errors.Is(alone, pipeline.ErrAlone) || !errors.Is(again, pipeline.ErrAlone) || other != nil {
		t.Errorf("without a replica: %v and %v; one that does not ask for it: %v", alone, again, other)
	}
	if trial == nil || !trial.Doubt() {
		t.Error("a script that ran, and may be forgotten, is in doubt")
	}
	if n := primary.Get(ctx, "n").Val(); n != strconv.Itoa(runs+2) {
		t.Errorf("n is %s: each script runs once", n)
	}

	replica.Start()
	redistest.Until(t, "the replica is back", func() bool { return add.Run(ctx, kept, []string{"n"}, 1).Err() == nil })
	if got, want := of.Get(ctx, "n").Val(), primary.Get(ctx, "n").Val(); got != want {
		t.Errorf("the replica has %s of %s", got, want)
	}
}

// A user that may not wait for a replica is told so.
func TestWaitingForAReplicaThatIsNotPermitted(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	if err := server.Client().Do(t.Context(), "ACL", "SETUSER", "app", "on", "nopass", "~*", "+@all", "-wait").Err(); err != nil {
		t.Fatal(err)
	}
	o := *server.Client().Options()
	o.Username, o.Password = "app", "x"
	rdb := redis.NewClient(&o)
	defer rdb.Close()
	on := new(atomic.Bool)
	on.Store(true)
	err := add.Run(t.Context(), pipeline.Kept(rdb, on), []string{"n"}, 1).Err()
	if !errors.Is(err, pipeline.ErrAlone) || !redis.IsPermissionError(err) {
		t.Errorf("got %v", err)
	}
}
