package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrAlone is the error of a script that one server has run, and of which no replica
// has said in time that it has it too: a failover may forget it. It may be asked
// again, if it knows its repeat.
var ErrAlone = errors.New("no replica confirms the write")

// replicaWithin is how long a replica has to confirm what a script wrote. It is below
// the time that the library waits for an answer.
const replicaWithin = time.Second

// Kept returns a [Client] whose scripts are answered, while on is set, only when one
// replica at least has all that their server had written by then: else their error
// is [ErrAlone]. It costs no round trip of its own.
func Kept(rdb redis.UniversalClient, on *atomic.Bool) redis.UniversalClient {
	return client{UniversalClient: rdb, kept: on}
}

// receipt is what is known of a script that replicas have to confirm.
type receipt struct {
	key    string // by which a cluster finds the server
	script *written
}

// spoken is an argument that goes to Redis as one text, and that the library reads
// as another: a cluster's client finds no server for the command WAIT by itself.
type spoken struct {
	*written
	shown string
}

// String is what the library reads.
func (s spoken) String() string { return s.shown }

// wait adds to a pipeline that a replica is waited for, if a script of it wants that,
// and returns what judges the answers.
func wait(p redis.Pipeliner, all []*asked) (judge func()) {
	var cmd *redis.Cmd
	sent := &written{text: "WAIT"}
	for _, a := range all {
		if a.kept != nil {
			cmd = redis.NewCmd(a.ctx, spoken{sent, "sluice-wait"}, spoken{&written{text: "1"}, a.kept.key}, replicaWithin.Milliseconds())
			cmd.SetFirstKeyPos(1)
			_ = p.Process(context.WithoutCancel(a.ctx), cmd) // it is sent with the others
			break
		}
	}
	return func() {
		for _, a := range all {
			if a.kept == nil || a.cmd.Err() != nil && !errors.Is(a.cmd.Err(), redis.Nil) {
				continue
			}
			n, err := cmd.Int64()
			switch {
			case err != nil:
				a.cmd.SetErr(fmt.Errorf("%w: %w", ErrAlone, err))
			case n < 1, a.kept.script.times.Load() != sent.times.Load(): // what was sent again alone may have run at another server
				a.cmd.SetErr(ErrAlone)
			}
		}
	}
}
