package pipeline_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks/pipeline"
	"github.com/sluicehq/sluice/tasks/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// trips notes what goes to Redis: a line for each round trip.
type trips struct {
	mu   sync.Mutex
	seen [][]string
}

func (*trips) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (t *trips) note(cmds ...redis.Cmder) {
	var names []string
	for _, c := range cmds {
		name := c.Name()
		if name == "hello" || name == "client" {
			return // a new connection
		}
		if a := c.Args(); name == "evalsha" || name == "eval" {
			name += fmt.Sprint(" ", a[3])
		}
		names = append(names, name)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = append(t.seen, names)
}

func (t *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		t.note(cmd)
		return next(ctx, cmd)
	}
}

func (t *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		t.note(cmds...)
		return next(ctx, cmds)
	}
}

func (t *trips) take() [][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := t.seen
	t.seen = nil
	return seen
}

var add = redis.NewScript(`return redis.call('INCRBY', KEYS[1], ARGV[1])`)

func TestStepsGoTogether(t *testing.T) {
	rdb := redistest.New(t)
	ctx := t.Context()
	if err := add.Load(ctx, rdb).Err(); err != nil {
		t.Fatal(err)
	}
	seen := &trips{}
	rdb.AddHook(seen)
	c := pipeline.Client(rdb)
	got := map[string]int64{}
	var mu sync.Mutex
	step := func(key string, times int) func(context.Context) {
		return func(ctx context.Context) {
			for range times {
				n, err := add.Run(ctx, c, []string{key}, 2).Int64()
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				got[key] = n
				mu.Unlock()
			}
		}
	}
	for _, tc := range []struct {
		name  string
		after func(redis.Pipeliner)
		steps []func(context.Context)
		want  [][]string
	}{
		{"none", nil, nil, nil},
		{"one", nil, []func(context.Context){step("a", 1)}, [][]string{{"evalsha a"}}},
		{"one and more behind it", func(p redis.Pipeliner) { p.Publish(ctx, "x", "y") }, []func(context.Context){step("a", 1)}, [][]string{{"evalsha a", "publish"}}},
		{"several, in their order", nil, []func(context.Context){step("c", 1), step("a", 1), step("b", 1)}, [][]string{{"evalsha c", "evalsha a", "evalsha b"}}},
		{"one asks again", nil, []func(context.Context){step("a", 1), step("b", 3)}, [][]string{{"evalsha a", "evalsha b"}, {"evalsha b"}, {"evalsha b"}}},
		{"one asks nothing", nil, []func(context.Context){func(context.Context) {}, step("b", 1)}, [][]string{{"evalsha b"}}},
		{"what is no script goes alone", nil, []func(context.Context){
			func(ctx context.Context) { c.SAdd(ctx, "s", 1); step("a", 1)(ctx) }, step("b", 1),
		}, [][]string{{"sadd"}, {"evalsha a", "evalsha b"}}},
		{"a step within a step", nil, []func(context.Context){
			func(ctx context.Context) { pipeline.Join(ctx, nil, step("a", 1), step("b", 1)) },
		}, [][]string{{"evalsha a", "evalsha b"}}},
	} {
		pipeline.Join(ctx, tc.after, tc.steps...)
		if seen := seen.take(); !slices.EqualFunc(seen, tc.want, slices.Equal) {
			t.Errorf("%s: %q, want %q", tc.name, seen, tc.want)
		}
	}
	if got["b"] != 14 || got["c"] != 2 {
		t.Errorf("answers: %v", got)
	}
}

// A script that fails, or that Redis does not know yet, is its own step's matter.
func TestAStepFailsAlone(t *testing.T) {
	rdb := redistest.New(t)
	ctx := t.Context()
	c := pipeline.Client(rdb)
	rdb.Set(ctx, "text", "no number", 0)
	var bad, good error
	pipeline.Join(ctx, nil,
		func(ctx context.Context) { bad = add.Run(ctx, c, []string{"text"}, 1).Err() },
		func(ctx context.Context) { good = add.Run(ctx, c, []string{"n"}, 1).Err() },
	)
	if bad == nil || good != nil {
		t.Errorf("bad: %v, good: %v", bad, good)
	}
}

func TestARedisThatIsAwayFailsEveryStep(t *testing.T) {
	srv := redistest.Start(t, redistest.Options{})
	rdb := srv.Client()
	c := pipeline.Client(rdb)
	srv.Kill()
	errs := make([]error, 2)
	pipeline.Join(t.Context(), nil,
		func(ctx context.Context) { errs[0] = add.Run(ctx, c, []string{"a"}, 1).Err() },
		func(ctx context.Context) { errs[1] = add.Run(ctx, c, []string{"b"}, 1).Err() },
	)
	if errs[0] == nil || errs[1] == nil {
		t.Errorf("errors: %v", errs)
	}
}

// A connection that Redis refuses while it is made gives no command an error of
// its own: each is told why all the same.
func TestWhyAConnectionIsRefusedIsToldToEveryStep(t *testing.T) {
	o := *redistest.New(t).Options()
	o.Username, o.Password = "app", "another password"
	rdb := redis.NewClient(&o)
	defer rdb.Close()
	c := pipeline.Client(rdb)
	errs := make([]error, 2)
	pipeline.Join(t.Context(), func(p redis.Pipeliner) { p.Publish(t.Context(), "x", "y") },
		func(ctx context.Context) { _, errs[0] = add.Run(ctx, c, []string{"a"}, 1).Slice() },
		func(ctx context.Context) { errs[1] = add.Run(ctx, c, []string{"b"}, 1).Err() },
	)
	for _, err := range errs {
		if !redis.IsAuthError(err) {
			t.Errorf("error %v, want that the password is wrong", err)
		}
	}
}

// Of a script that is tried it is known whether it may have run, alone and beside
// others, and it is never sent a second time.
func TestATryKnowsWhetherItsScriptMayHaveRun(t *testing.T) {
	for name, c := range map[string]struct {
		begin     func(p *redistest.Proxy)
		doubt, ok bool
		times     string // the script has run
	}{
		"answered": {func(*redistest.Proxy) {}, true, true, "1"},
		"its answer lost": {func(p *redistest.Proxy) {
			p.Lose(func(command, _ string) bool { return strings.Contains(command, "eval") })
		}, true, false, "1"},
		"refused":    {func(p *redistest.Proxy) { p.Answer("-READONLY You can't write against a read only replica.") }, false, false, ""},
		"never sent": {func(p *redistest.Proxy) { p.Reset(true) }, false, false, ""},
	} {
		for _, form := range []string{"alone", "joined"} {
			t.Run(name+"/"+form, func(t *testing.T) {
				server := redistest.Start(t, redistest.Options{})
				if err := add.Load(t.Context(), server.Client()).Err(); err != nil {
					t.Fatal(err)
				}
				proxy := redistest.Before(t, server)
				client := pipeline.Client(proxy.Client(t))
				c.begin(proxy)
				ctx, trial := pipeline.Try(t.Context())
				var err error
				run := func(ctx context.Context) { err = add.Run(ctx, client, []string{"a"}, 1).Err() }
				if form == "alone" {
					run(ctx)
				} else {
					pipeline.Join(ctx, nil, run, func(ctx context.Context) { _ = add.Run(ctx, client, []string{"b"}, 1).Err() })
				}
				if trial.Doubt() != c.doubt || (err == nil) != c.ok {
					t.Errorf("doubt %t, error %v; want %t and success %t", trial.Doubt(), err, c.doubt, c.ok)
				}
				if got := server.Client().Get(t.Context(), "a").Val(); got != c.times {
					t.Errorf("it has run %q times, want %q", got, c.times)
				}
			})
		}
	}
}
