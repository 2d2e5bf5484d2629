package worker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// away takes no events, until it does.
type away struct {
	Texts
	back  chan struct{}
	bytes int
	end   tasks.StreamEnd
}

func (a *away) AppendEvents(_ context.Context, _ tasks.Ticket, _, _ int, raw []byte, end tasks.StreamEnd) (int, bool, error) {
	select {
	case <-a.back:
		a.bytes, a.end = a.bytes+len(raw), end
		return len(raw), true, nil
	default:
		return 0, false, errors.New("away")
	}
}

// While Redis takes no events a call holds a bounded number of them, and what has a gap
// is given no end.
func TestEventsThatNobodyTakesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		texts := &away{back: make(chan struct{})}
		e := (&attempt{w: &Worker{c: Config{Texts: texts}}}).stream(t.Context())
		event := make([]byte, 1<<20)
		for range 32 {
			e.add(event)
			<-time.After(eventsEvery)
		}
		close(texts.back)
		e.finish(t.Context(), tasks.StreamWhole)
		if texts.bytes > eventsWaiting+len(event) || texts.end != tasks.StreamOpen {
			t.Errorf("%d bytes were held, and their end is %q", texts.bytes, texts.end)
		}
	})
}
