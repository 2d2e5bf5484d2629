package worker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/sluicehq/sluice/tasks"
)

// away takes no events, until it does.
type away struct {
	Texts
	back  chan struct{}
	fails func() // when it does not
	bytes int
	end   tasks.StreamEnd
}

func (a *away) AppendEvents(_ context.Context, _ tasks.Ticket, _, _ int, raw []byte, end tasks.StreamEnd) (int, bool, error) {
	select {
	case <-a.back:
		a.bytes, a.end = a.bytes+len(raw), end
		return len(raw), true, nil
	default:
		a.fails()
		return 0, false, errors.New("away")
	}
}

// While Redis takes no events a call holds a bounded number of them, also those that come
// during a write that fails, and what has a gap is given no end.
func TestEventsThatNobodyTakesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		texts := &away{back: make(chan struct{})}
		e := (&attempt{w: &Worker{c: Config{Texts: texts}}}).stream(t.Context())
		event := make([]byte, 1<<20)
		full := make(chan struct{})
		left := 32
		texts.fails = func() {
			if left--; left > 0 {
				e.add(event)
			} else if left == 0 {
				close(full)
			}
		}
		e.add(event)
		<-full
		synctest.Wait()
		close(texts.back)
		e.finish(t.Context(), tasks.StreamWhole)
		if texts.bytes > eventsWaiting+len(event) || texts.end != tasks.StreamOpen {
			t.Errorf("%d bytes were held, and their end is %q", texts.bytes, texts.end)
		}
	})
}
