package worker_test

import (
	"log/slog"
	"strings"
	"testing"
)

// told passes on the lines of a log that say something.
type told struct {
	what string
	said chan string
}

func (l told) Write(p []byte) (int, error) {
	if line := string(p); strings.Contains(line, l.what) {
		select {
		case l.said <- line:
		default:
		}
	}
	return len(p), nil
}

// An answer that was paid for and has no job any more is the one sign of a Redis
// that has lost its data.
func TestTheEndOfAJobThatRedisHasLostIsTold(t *testing.T) {
	t.Parallel()
	l := told{"does not know", make(chan string, 1)}
	began, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	s := start(t, newProvider(t, hang(began, gone)), options{log: slog.New(slog.NewTextHandler(l, nil))})
	id := s.submit()
	within(t, began, "the call")
	if err := s.srv.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	within(t, gone, "the call's end")
	if line := <-l.said; !strings.Contains(line, "level=WARN") || !strings.Contains(line, id) {
		t.Errorf("the log says %s", line)
	}
}
