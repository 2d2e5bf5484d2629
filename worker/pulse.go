package worker

import (
	"context"
	"sync"
	"time"
)

// pulse notices when this process stood still: it was stopped, or its share of the
// processor was used up. What came meanwhile looks as if it had come just now, so
// rate-limit headers that are read then may be as old as the stop was long.
//
// It beats while the process has something in hand, and reads the machine's clock.
type pulse struct {
	mu       sync.Mutex
	last     time.Time // beat; zero while there is nothing in hand
	from, to time.Time // the process stood still in between, the last time that it did
	busy     chan struct{}
}

const (
	beat = 20 * time.Millisecond
	// stillness is a gap between beats that a busy machine does not make often.
	stillness = 3 * beat
	// reading is what a process that goes on may need until it has read what came.
	reading = 100 * time.Millisecond
)

func newPulse() *pulse { return &pulse{busy: make(chan struct{}, 1)} }

// wake has the pulse beat; something is in hand.
func (p *pulse) wake() {
	select {
	case p.busy <- struct{}{}:
	default:
	}
}

// run beats while inHand says so, until ctx ends.
func (p *pulse) run(ctx context.Context, inHand func() bool) error {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		tick.Stop()
		p.mu.Lock()
		p.last = time.Time{}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-p.busy:
		}
		for tick.Reset(beat); inHand(); {
			p.at(time.Now())
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}
}

// at notes that the process runs at a moment.
func (p *pulse) at(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.last.IsZero() && now.Sub(p.last) > stillness {
		p.from, p.to = p.last, now
	}
	p.last = now
}

// late reports whether what seems to have come at a moment may have come long
// before, while the process stood still.
func (p *pulse) late(came, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	from, to := p.from, p.to
	if !p.last.IsZero() && now.Sub(p.last) > stillness { // whoever asks runs before the pulse does
		from, to = p.last, now
	}
	return came.After(from) && came.Before(to.Add(reading))
}
