package limit

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// said is an answer of Redis.
type said string

func (s said) Error() string { return string(s) }
func (said) RedisError()     {}

func TestWhatSaysThatTheGateIsShut(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		io.EOF: false,
		said("the state of the gate is of a newer release"):                                                                  true,
		said("NOPERM User app has no permissions to run the 'evalsha' command"):                                              true,
		said("ERR Error running script (call to f_0): @user_script:9: -NOPERM no permissions"):                               true,
		said("OOM command not allowed when used memory > 'maxmemory'."):                                                      false,
		said("ERR Error running script (call to f_0): @user_script:9: @user_script: 9: -OOM command not allowed"):            false,
		said("ERR Error running script (call to f_0): @user_script:9: @user_script: 9: -MISCONF Errors writing to the AOF"):  false,
		said("ERR Error running script (call to f_0): @user_script:9: @user_script: 9: -READONLY You can't write against a"): false,
	} {
		if got := shuts(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}

// refusing answers in the place of Redis while it has an error.
type refusing struct {
	err   atomic.Pointer[error]
	times atomic.Int64
}

func (r *refusing) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *refusing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (r *refusing) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := r.err.Load()
		if err == nil || *err == nil || cmd.Name() != "evalsha" {
			return next(ctx, cmd)
		}
		r.times.Add(1)
		cmd.SetErr(*err)
		return *err
	}
}

// The time that Redis is away is none in which it says that the gate is shut.
func TestTheGateIsShutOnlyByWhatIsSaidForSomeSeconds(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	f, r := newFakeClock(), &refusing{}
	rdb.AddHook(r)
	g := f.gate(t, rdb, Limits{RequestsPerMinute: 6000, RequestBurst: 10})
	start(t, g)
	answers := func(err error, times int64) {
		t.Helper()
		r.err.Store(&err)
		from := r.times.Load()
		eventually(t, err.Error(), func() bool {
			if r.times.Load() >= from+times {
				return true
			}
			f.advance(2 * time.Second) // the longest pause between two questions
			return false
		})
	}
	ended := func(what string, done <-chan error) (err error) {
		t.Helper()
		eventually(t, what, func() bool {
			f.advance(2 * time.Second)
			select {
			case err = <-done:
				return true
			default:
				return false
			}
		})
		return err
	}
	var shut, none error = said("ERR max number of clients reached"), nil
	done := taking(t.Context(), g, Need{ID: "a"})
	answers(io.EOF, 5)
	answers(shut, 1)
	r.err.Store(&none)
	if err := ended("the call passes", done); err != nil {
		t.Fatalf("one answer after an outage: %v", err)
	}
	r.err.Store(&shut)
	if err := ended("it is shut", taking(t.Context(), g, Need{ID: "b"})); !errors.Is(err, ErrShut) {
		t.Fatalf("the gate cannot be asked: %v", err)
	}
}
