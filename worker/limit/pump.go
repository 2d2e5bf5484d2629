package limit

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	batch     = 32              // calls that may pass at once on one question to Redis
	recheck   = time.Second     // a slot that was longer ahead is checked for a hold before it is used
	shutAfter = 2 * time.Second // of answers that say that the gate cannot be asked
)

// Run asks for slots on behalf of [Gate.Take], keeps this process's reservations alive
// and writes settlements that failed. It returns nil when ctx ends, and an error
// at once when the gate runs already. Calls still waiting in Take then get
// [ErrStopped]; reservations that nobody renews end 20 s later by themselves, so
// Run should outlive the calls under way. With nothing to do it asks Redis nothing.
func (g *Gate) Run(ctx context.Context) error {
	if !g.running.CompareAndSwap(false, true) {
		return errors.New("limit: the gate is running already")
	}
	defer g.running.Store(false)
	g.mu.Lock()
	g.stopped = false
	g.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for _, part := range []func(context.Context){g.listen, g.keepAlive, g.writeLedger} {
		wg.Go(func() { part(ctx) })
	}
	g.pump(ctx)
	cancel()
	wg.Wait()
	g.stop(ctx)
	return nil
}

// shuts reports whether an answer of Redis says that this process cannot ask the gate,
// and others may be able to.
func shuts(err error) bool {
	var said redis.Error
	if !errors.As(err, &said) {
		return false
	}
	text := said.Error()
	if _, own, ok := strings.Cut(text, ": -"); ok { // a server before 7.0, of what a script was told
		text = own
	}
	code, _, _ := strings.Cut(text, " ") // in capitals; what a script says has none
	return code == "ERR" || code == "NOPERM" || code != strings.ToUpper(code)
}

// dismissLocked ends the wait of all with an error.
func (g *Gate) dismissLocked(err error) {
	for el := g.queue.Front(); el != nil; el = g.queue.Front() {
		w := g.queue.Remove(el).(*waiter)
		if w.doubt {
			g.laterLocked(back(w.key, g.epoch.Load()))
		}
		w.err, w.done = err, true
		close(w.ready)
	}
}

// stop ends what Run had begun: the calls still waiting, the place in line, what
// the ledger owes.
func (g *Gate) stop(ctx context.Context) {
	g.mu.Lock()
	g.stopped = true
	inLine := g.inLine != ""
	g.inLine, g.slotAhead = "", false
	g.dismissLocked(ErrStopped)
	for _, a := range g.handed {
		if a.status == "ok" {
			g.laterLocked(back(a.key, g.epoch.Load()))
		}
	}
	g.handed = nil
	g.returnLateLocked()
	g.mu.Unlock()

	end, cancel := lastCall(ctx)
	defer cancel()
	if inLine {
		g.leaveLine(end)
	}
	g.writeAll(end)
}

type renewArgs struct {
	common
	Key string `json:"key"`
}

// renew shows that this process lives.
func (g *Gate) renew(ctx context.Context, waitsFor string) error {
	epoch, said, err := g.run(ctx, renewScript, &renewArgs{Key: waitsFor})
	if err != nil {
		return err
	}
	return g.receiveAll(epoch, said)
}

// keepAlive renews the lease of this process while it has anything in Redis.
func (g *Gate) keepAlive(ctx context.Context) {
	failed := false
	for {
		g.pause(ctx, g.cfg.lease/4)
		if ctx.Err() != nil {
			return
		}
		now := g.clock.now()
		g.mu.Lock()
		for key, end := range g.unsettled {
			if now.After(end) {
				g.forgetLocked(key)
			}
		}
		busy, asking := len(g.unsettled) > 0 || g.slotAhead || g.inLine != "", g.inLine
		g.mu.Unlock()
		if !busy {
			continue
		}
		err := g.renew(ctx, asking)
		if err != nil && !failed && ctx.Err() == nil {
			g.log.WarnContext(ctx, "could not renew the lease on reservations", "error", err)
		}
		failed = err != nil
	}
}

// pump asks for the head of the queue, and for those behind it that may pass at
// the same moment. It holds at most one slot that lies ahead.
func (g *Gate) pump(ctx context.Context) {
	failures := 0
	var since time.Time // when Redis first answered so; zero: not the last time
	for ctx.Err() == nil {
		ws := g.heads()
		if len(ws) == 0 {
			g.rest()
			select {
			case <-g.wakeQueue:
			case <-g.wakePump:
				g.claim("")
			case <-ctx.Done():
			}
			continue
		}
		answers, err := g.askFor(ctx, ws)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			g.note(true)
			g.m.acquires.WithLabelValues(g.cfg.Pool, "error").Inc()
			if failures == 0 {
				g.log.ErrorContext(ctx, "Redis does not answer; nothing passes the gate", "error", err)
			}
			switch now := g.clock.now(); {
			case !shuts(err):
				since = time.Time{}
			case since.IsZero():
				since = now
			case now.Sub(since) > shutAfter:
				g.mu.Lock()
				g.dismissLocked(ErrShut)
				g.mu.Unlock()
			}
			g.pause(ctx, backoff(failures))
			failures++
			continue
		}
		if failures > 0 {
			g.log.InfoContext(ctx, "Redis answers again; the gate is open")
			failures, since = 0, time.Time{}
		}
		last := answers[len(answers)-1]
		g.note(last.status != "ok" || last.wait > 0)
		for i, a := range answers {
			g.serve(ctx, ws[i], a)
		}
	}
}

// rest is for a pump with nobody to ask for: nobody has to wait, and no question takes the
// late places along.
func (g *Gate) rest() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stuck = false
	g.returnLateLocked()
}

// askFor asks for waiters, and notes what a lost answer leaves in doubt.
func (g *Gate) askFor(ctx context.Context, ws []*waiter) ([]answer, error) {
	g.mu.Lock()
	holds := g.holdsNoted
	g.mu.Unlock()
	answers, err := g.ask(ctx, ws)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, w := range ws {
		w.doubt = err != nil
		if err != nil && w.left {
			g.laterLocked(back(w.key, g.epoch.Load()))
		}
	}
	if err == nil && answers[0].status == "ok" && g.holdsNoted == holds {
		g.holdUntil = time.Time{}
	}
	return answers, err
}

// heads returns the first in the queue.
func (g *Gate) heads() []*waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	var ws []*waiter
	for el := g.queue.Front(); el != nil && len(ws) < batch; el = el.Next() {
		ws = append(ws, el.Value.(*waiter))
	}
	return ws
}

// serve does what an answer says. The waiter stays in the queue unless its call
// may be sent.
func (g *Gate) serve(ctx context.Context, w *waiter, a answer) {
	result := a.status
	if a.status == "ok" {
		result = "granted"
		if a.wait > 0 {
			result = "booked"
		}
	}
	g.m.acquires.WithLabelValues(g.cfg.Pool, result).Inc()
	bound := a.bound
	if a.status == "full" {
		a = g.standInLine(ctx, w)
	}
	defer g.waited(bound)
	switch a.status {
	case "ok":
		switch {
		case a.wait > 0 && !w.until.IsZero() && a.at.Add(a.wait).After(w.until):
			g.handBack(ctx, w, a)
			g.refuse(w, &LateError{Wait: a.wait})
		case g.await(ctx, w, a):
			g.grant(w, a)
		default:
			g.handBack(ctx, w, a)
		}
	case "hold", "far":
		// The word that frees the gate can pass before we wait for it: ask again.
		g.sleep(ctx, w, a.at.Add(min(a.wait, recheck)), false)
	}
}

// waited notes what the head of the queue has waited for until now, and with it all
// behind it; "" for nothing.
func (g *Gate) waited(bound string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if bound != "" {
		g.bound, g.boundAt = bound, g.clock.now()
	}
}

// boundLocked is what a waiter that is let through has waited for.
func (g *Gate) boundLocked(w *waiter, a answer) string {
	if a.bound == "" && g.boundAt.After(w.since) {
		return g.bound
	}
	return a.bound
}

// await waits for a slot's send time, and reports whether the call may be sent.
func (g *Gate) await(ctx context.Context, w *waiter, a answer) bool {
	if a.wait <= 0 {
		return true
	}
	g.mu.Lock()
	g.slotAhead = true
	g.mu.Unlock()
	due := g.sleep(ctx, w, a.at.Add(a.wait), true)
	g.mu.Lock()
	g.slotAhead = false
	g.mu.Unlock()
	if !due || a.wait <= recheck {
		return due
	}
	left, err := g.peek(ctx)
	if left > 0 {
		g.noteHold(left)
	}
	return err == nil && left <= 0
}

// refuse ends the wait of one.
func (g *Gate) refuse(w *waiter, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.left {
		return
	}
	g.queue.Remove(w.el)
	w.err, w.done = err, true
	close(w.ready)
}

// grant lets a call go.
func (g *Gate) grant(w *waiter, a answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.left {
		g.laterLocked(back(a.key, a.epoch))
		return
	}
	g.queue.Remove(w.el)
	now := g.clock.now()
	w.grant = Grant{ID: w.need.ID, Class: w.need.Class, gate: g, key: a.key, epoch: a.epoch, need: w.need, due: a.asked.Add(a.wait), slack: a.slack, Bound: g.boundLocked(w, a)}
	g.unsent[a.key] = w.grant
	w.done = true
	g.unsettled[a.key] = now.Add(g.cfg.Timeout + 30*time.Second)
	g.m.wait.Observe(now.Sub(w.since).Seconds())
	close(w.ready)
}

// handBack returns a slot that was not used. The waiter gets another key, for
// the old one is used up.
func (g *Gate) handBack(ctx context.Context, w *waiter, a answer) {
	s := back(a.key, a.epoch)
	g.mu.Lock()
	if w.left && g.queue.Len() > 0 && ctx.Err() == nil {
		g.late = append(g.late, s) // the next question, which follows, takes it along
		g.mu.Unlock()
		return
	}
	g.mu.Unlock()
	end, cancel := lastCall(ctx)
	defer cancel()
	if err := g.writeSettlement(end, s); err != nil {
		g.later(s)
	}
	g.mu.Lock()
	w.key = g.newKey(w.need)
	g.mu.Unlock()
}

// sleep waits until a time and reports whether it came: not when the caller has
// left, ctx ended, a hold reaches beyond the slot, or the gate was freed meanwhile.
func (g *Gate) sleep(ctx context.Context, w *waiter, until time.Time, slot bool) bool {
	due, stop := g.clock.timer(until.Sub(g.clock.now()))
	defer stop()
	g.mu.Lock()
	freed := g.freedTimes
	g.mu.Unlock()
	for {
		g.mu.Lock()
		held, changed := slot && g.holdUntil.After(until), g.freedTimes != freed
		g.mu.Unlock()
		if held || changed && (!slot || until.Sub(g.clock.now()) > recheck) {
			return false
		}
		select {
		case <-due:
			return true
		case <-w.gone:
			return false
		case <-ctx.Done():
			return false
		case <-g.wakePump:
			g.claim("")
		}
	}
}
