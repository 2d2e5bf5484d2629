package limit

import (
	"context"
	"time"
)

// standInLine stands in line for a concurrency slot until one is handed over, or
// it is better to ask again.
func (g *Gate) standInLine(ctx context.Context, w *waiter) answer {
	again := answer{status: "again"}
	g.setInLine(w.key)
	for tries := 0; ; tries++ {
		// The message may be lost while the subscription is down; then we poll.
		poll := 30 * time.Second
		if !g.subscribed.Load() {
			poll = min(2*time.Second, 250*time.Millisecond<<min(tries, 3))
		}
		due, stop := g.clock.timer(poll)
		select {
		case <-g.wakePump:
			stop()
			a, ok := g.claim(w.key)
			if !ok && g.heldNow() {
				// Nothing is handed over in a hold, nor at its end: ask then.
				a, ok = again, true
			}
			if ok {
				g.setInLine("")
				return a
			}
		case <-due:
			g.setInLine("")
			return again
		case <-w.gone:
			stop()
			g.setInLine("")
			end, cancel := lastCall(ctx)
			g.leaveLine(end)
			cancel()
			g.later(back(w.key, g.epoch.Load())) // in case that it was handed over just before
			return again
		case <-ctx.Done(): // Run leaves the line
			stop()
			g.later(back(w.key, g.epoch.Load()))
			return again
		}
	}
}

func (g *Gate) setInLine(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inLine = key; key != "" {
		g.returnLateLocked()
	}
}

func (g *Gate) leaveLine(ctx context.Context) {
	if _, _, err := g.run(ctx, leaveScript, &common{}); err != nil {
		g.log.WarnContext(ctx, "could not leave the line; the lease ends it", "error", err)
	}
}

// claim empties what was handed over to this process: the answer for key is
// returned, slots for anything else go back.
func (g *Gate) claim(key string) (found answer, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.handed {
		switch {
		case a.key == key:
			found, ok = a, true
		case a.status == "ok":
			g.laterLocked(back(a.key, a.epoch))
		}
	}
	g.handed = nil
	return found, ok
}
