package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// Only the record's own word is final; whatever is not known is not.
func TestAnUnknownErrorIsNotFinal(t *testing.T) {
	for _, c := range []struct {
		err        error
		void, away bool
	}{
		{nil, false, false},
		{tasks.ErrFinal, true, false},
		{tasks.ErrLost, true, false},
		{tasks.ErrNotFound, true, false},
		{tasks.ErrConflict, false, false},
		{tasks.ErrKeyReused, false, false},
		{tasks.ErrKeyBusy, false, false},
		{tasks.ErrBacklogFull, false, false},
		{&tasks.QuotaError{Quota: "queued_jobs"}, false, false},
		{tasks.ErrUnavailable, false, true},
		{tasks.ErrFull, false, true},
		{syscall.EPIPE, false, true},
		{io.EOF, false, true},
		{errors.New("NOAUTH Authentication required."), false, true},
		{errors.New("nobody has seen this yet"), false, true},
		{context.DeadlineExceeded, false, true},
		{context.Canceled, false, false},
		{fmt.Errorf("%w: %w", tasks.ErrUnavailable, context.Canceled), false, true},
	} {
		for _, err := range []error{c.err, fmt.Errorf("end job_1: %w", c.err)} {
			if c.err == nil && err != nil {
				continue
			}
			if void, away := tasks.Void(err), tasks.Away(err); void != c.void || away != c.away {
				t.Errorf("%v: void %t, away %t; want %t, %t", err, void, away, c.void, c.away)
			}
		}
	}
}

func TestWhatRedisSaysInPlaceOfAnAnswerIsNotNow(t *testing.T) {
	for text, want := range map[string]error{
		"OOM command not allowed when used memory > 'maxmemory'.":                                                                   tasks.ErrFull,
		"ERR Error running script (call to f_1): @user_script:3: @user_script: 3: -OOM command not allowed when used memory > 'x'.": tasks.ErrFull,
		"MISCONF Redis is configured to save RDB snapshots":                                                                         tasks.ErrFull,
		"ERR Error running script (call to f_1): @user_script:3: @user_script: 3: -MISCONF Redis is configured":                     tasks.ErrFull,
		"NOPERM User app has no permissions to run the 'evalsha' command":                                                           tasks.ErrUnavailable,
		"ERR Error running script (call to f_1): @user_script:1: attempt to index a nil value":                                      tasks.ErrUnavailable,
		"redis: unexpected type=<nil> for Slice":                                                                                    tasks.ErrUnavailable,
		"write: broken pipe":                                                                                                        tasks.ErrUnavailable,
		"tls: failed to verify certificate":                                                                                         tasks.ErrUnavailable,
	} {
		said := errors.New(text)
		for _, given := range []error{said, fmt.Errorf("pause pool p: %w", said)} {
			if err := tasks.NotNow(given); !errors.Is(err, want) || !errors.Is(err, said) {
				t.Errorf("%q: %v, want %v", given, err, want)
			}
		}
	}
	if err := tasks.NotNow(nil); err != nil {
		t.Errorf("nothing: %v", err)
	}
	if err := tasks.NotNow(context.Canceled); !errors.Is(err, context.Canceled) || errors.Is(err, tasks.ErrUnavailable) {
		t.Errorf("a canceled asker: %v", err)
	}
	full := fmt.Errorf("%w: x", tasks.ErrFull)
	if err := tasks.NotNow(full); err != full {
		t.Errorf("marked twice: %v", err)
	}
}
