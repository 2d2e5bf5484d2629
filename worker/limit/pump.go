package limit

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	batch     = 32          // calls that may pass at once on one question to Redis
	recheck   = time.Second // a slot that was longer ahead is checked for a hold before it is used
	maxLedger = 100_000     // settlements kept while Redis is away; reservations end by themselves
)

// waiter is one Take.
type waiter struct {
	need  Need
	since time.Time
	ready chan struct{} // closed when grant or err is set
	gone  chan struct{} // closed when the caller has left

	// Under Gate.mu.
	key   string // of the reservation, a new one after each that was given back
	el    *list.Element
	doubt bool // asked, and the answer was lost: the reservation may exist
	left  bool
	done  bool
	grant Grant
	err   error
}

// Take blocks until the call may be sent, first come first served in this
// process, and returns its place, which has to be settled. It needs Run. When
// ctx ends, the place goes back and the error is ctx's; without Redis it waits
// and asks again. ErrStopped says that Run has ended.
func (g *Gate) Take(ctx context.Context, n Need) (Grant, error) {
	if n.ID == "" || strings.ContainsAny(n.ID, " \t\r\n") {
		return Grant{}, fmt.Errorf("limit: Need.ID %q: want a name without white space", n.ID)
	}
	n.InputTokens, n.MaxTokens = max(0, n.InputTokens), max(0, n.MaxTokens)
	if err := ctx.Err(); err != nil {
		return Grant{}, err
	}
	w := &waiter{need: n, since: time.Now(), ready: make(chan struct{}), gone: make(chan struct{}), key: g.newKey(n)}
	g.mu.Lock()
	if g.stopped {
		g.mu.Unlock()
		return Grant{}, ErrStopped
	}
	w.el = g.queue.PushBack(w)
	g.mu.Unlock()
	wake(g.wakeQueue)

	select {
	case <-w.ready:
		return w.grant, w.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case w.done && w.err == nil:
		delete(g.held, w.key)
		g.laterLocked(settlement{grant: w.grant, how: "back"})
	case w.done:
	default:
		w.left = true
		g.queue.Remove(w.el)
		close(w.gone)
		if w.doubt {
			g.laterLocked(g.back(w.key, w.need))
		}
	}
	return Grant{}, ctx.Err()
}

func (g *Gate) newKey(n Need) string {
	return n.ID + "/" + g.holder + "/" + strconv.FormatUint(g.serial.Add(1), 36)
}

func (g *Gate) back(key string, n Need) settlement {
	return settlement{grant: Grant{ID: n.ID, Class: n.Class, key: key, epoch: g.epoch.Load()}, how: "back"}
}

// Run asks for slots on behalf of Take, keeps this process's reservations alive
// and writes settlements that failed. It returns nil when ctx ends, and an error
// at once when the gate runs already. Calls still waiting in Take then get
// ErrStopped; reservations that nobody renews end 20 s later by themselves, so
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
	for _, part := range []func(context.Context){g.listen, g.alive, g.write} {
		wg.Go(func() { part(ctx) })
	}
	g.pump(ctx)
	cancel()
	wg.Wait()

	g.mu.Lock()
	g.stopped = true
	inLine := g.asking != ""
	g.asking, g.slot = "", false
	for el := g.queue.Front(); el != nil; el = g.queue.Front() {
		w := g.queue.Remove(el).(*waiter)
		if w.doubt {
			g.laterLocked(g.back(w.key, w.need))
		}
		w.err, w.done = ErrStopped, true
		close(w.ready)
	}
	for _, a := range g.handed {
		if a.status == "ok" {
			g.laterLocked(g.back(a.key, Need{}))
		}
	}
	g.handed = nil
	g.mu.Unlock()

	end, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer stop()
	if inLine {
		if err := g.leave(end); err != nil {
			g.log.WarnContext(end, "could not leave the line; the lease ends it", "error", err)
		}
	}
	g.writeAll(end)
	return nil
}

// pump asks for the head of the queue, and for those behind it that may pass at
// the same moment. It holds at most one slot that lies ahead.
func (g *Gate) pump(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		ws := g.heads()
		if len(ws) == 0 {
			select {
			case <-g.wakeQueue:
			case <-g.wakePump:
				g.pick("")
			case <-ctx.Done():
			}
			continue
		}
		g.mu.Lock()
		holds := g.holds
		g.mu.Unlock()
		answers, err := g.ask(ctx, ws)
		g.mu.Lock()
		for _, w := range ws {
			w.doubt = err != nil
			if err != nil && w.left {
				g.laterLocked(g.back(w.key, w.need))
			}
		}
		if err == nil && answers[0].status == "ok" && g.holds == holds {
			g.hold = time.Time{}
		}
		g.mu.Unlock()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			g.m.acquires.WithLabelValues(g.cfg.Pool, "error").Inc()
			if failures == 0 {
				g.log.ErrorContext(ctx, "Redis does not answer; nothing passes the gate", "error", err)
			}
			pause(ctx, backoff(failures))
			failures++
			continue
		}
		if failures > 0 {
			g.log.InfoContext(ctx, "Redis answers again; the gate is open")
			failures = 0
		}
		for i, a := range answers {
			g.serve(ctx, ws[i], a)
		}
	}
}

// backoff grows from 50 ms to 2 s, half of it random.
func backoff(failures int) time.Duration {
	d := min(2*time.Second, 50*time.Millisecond<<min(failures, 6))
	return d/2 + rand.N(d/2)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
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
	if a.status == "full" {
		a = g.line(ctx, w)
	}
	switch a.status {
	case "ok":
		g.use(ctx, w, a)
	case "hold", "far":
		// The word that frees the gate can pass before we wait for it: ask again.
		g.sleep(ctx, w, a.at.Add(min(a.wait, recheck)), false)
	}
}

// use waits for a slot's send time and lets the call go, or hands the slot back.
func (g *Gate) use(ctx context.Context, w *waiter, a answer) {
	if a.wait > 0 {
		g.mu.Lock()
		g.slot = true
		g.mu.Unlock()
		due := g.sleep(ctx, w, a.at.Add(a.wait), true)
		g.mu.Lock()
		g.slot = false
		g.mu.Unlock()
		if due && a.wait > recheck {
			left, err := g.peek(ctx)
			if left > 0 {
				g.noteHold(left)
			}
			due = err == nil && left <= 0
		}
		if !due {
			g.handBack(w, a)
			return
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.left {
		g.laterLocked(settlement{grant: Grant{ID: w.need.ID, key: a.key, epoch: a.epoch}, how: "back"})
		return
	}
	g.queue.Remove(w.el)
	now := time.Now()
	w.grant = Grant{ID: w.need.ID, Class: w.need.Class, key: a.key, epoch: a.epoch}
	w.done = true
	g.held[a.key] = now.Add(g.cfg.Timeout + 30*time.Second)
	g.m.wait.Observe(now.Sub(w.since).Seconds())
	close(w.ready)
}

// handBack returns a slot that was not used. The waiter gets another key, for
// the old one is used up.
func (g *Gate) handBack(w *waiter, a answer) {
	s := settlement{grant: Grant{ID: w.need.ID, key: a.key, epoch: a.epoch}, how: "back"}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := g.settle(ctx, s); err != nil {
		g.later(s)
	}
	g.mu.Lock()
	w.key = g.newKey(w.need)
	g.mu.Unlock()
}

// sleep waits until a time and reports whether it came: not when the caller has
// left, ctx ended, a hold reaches beyond the slot, or the gate was freed meanwhile.
func (g *Gate) sleep(ctx context.Context, w *waiter, until time.Time, slot bool) bool {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	g.mu.Lock()
	freed := g.freed
	g.mu.Unlock()
	for {
		g.mu.Lock()
		held, changed := slot && g.hold.After(until), g.freed != freed
		g.mu.Unlock()
		if held || changed && (!slot || time.Until(until) > recheck) {
			return false
		}
		select {
		case <-t.C:
			return true
		case <-w.gone:
			return false
		case <-ctx.Done():
			return false
		case <-g.wakePump:
			g.pick("")
		}
	}
}

// line stands in line for a concurrency slot until one is handed over.
func (g *Gate) line(ctx context.Context, w *waiter) answer {
	g.mu.Lock()
	g.asking = w.key
	g.mu.Unlock()
	for tries := 0; ; tries++ {
		// The message may be lost while the subscription is down; then we poll.
		poll := 30 * time.Second
		if !g.live.Load() {
			poll = min(2*time.Second, 250*time.Millisecond<<min(tries, 3))
		}
		t := time.NewTimer(poll)
		select {
		case <-g.wakePump:
			t.Stop()
			a, ok := g.pick(w.key)
			g.mu.Lock()
			if !ok && g.hold.After(time.Now()) {
				// Nothing is handed over in a hold, nor at its end: ask then.
				a, ok = answer{status: "again"}, true
			}
			if ok {
				g.asking = ""
			}
			g.mu.Unlock()
			if ok {
				return a
			}
		case <-t.C:
			g.mu.Lock()
			g.asking = ""
			g.mu.Unlock()
			return answer{status: "again"}
		case <-w.gone:
			t.Stop()
			g.mu.Lock()
			g.asking = ""
			g.mu.Unlock()
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			if err := g.leave(end); err != nil {
				g.log.WarnContext(ctx, "could not leave the line", "error", err)
			}
			cancel()
			g.later(g.back(w.key, w.need)) // in case that it was handed over just before
			return answer{status: "again"}
		case <-ctx.Done():
			t.Stop()
			g.later(g.back(w.key, w.need))
			return answer{status: "again"}
		}
	}
}

// pick empties what was handed over to this process: the answer for key is
// returned, slots for anything else go back.
func (g *Gate) pick(key string) (found answer, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.handed {
		switch {
		case a.key == key:
			found, ok = a, true
		case a.status == "ok":
			g.laterLocked(settlement{grant: Grant{key: a.key, epoch: a.epoch}, how: "back"})
		}
	}
	g.handed = nil
	return found, ok
}

// later keeps a settlement for Run to write.
func (g *Gate) later(s settlement) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.laterLocked(s)
}

func (g *Gate) laterLocked(s settlement) {
	if len(g.ledger) >= maxLedger {
		return
	}
	g.ledger = append(g.ledger, s)
	wake(g.wakeLedger)
}

// write writes what was kept, as soon as Redis takes it.
func (g *Gate) write(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		select {
		case <-g.wakeLedger:
		case <-ctx.Done():
			return
		}
		for !g.writeAll(ctx) && ctx.Err() == nil {
			pause(ctx, backoff(failures))
			failures++
		}
		failures = 0
	}
}

// writeAll reports whether everything is written.
func (g *Gate) writeAll(ctx context.Context) bool {
	for {
		g.mu.Lock()
		if len(g.ledger) == 0 {
			g.mu.Unlock()
			return true
		}
		s := g.ledger[0]
		g.ledger = g.ledger[1:]
		g.mu.Unlock()
		if err := g.settle(ctx, s); err != nil {
			g.mu.Lock()
			g.ledger = append([]settlement{s}, g.ledger...)
			g.mu.Unlock()
			return false
		}
	}
}

// alive renews the lease of this process while it has anything in Redis.
func (g *Gate) alive(ctx context.Context) {
	t := time.NewTicker(g.cfg.lease / 4)
	defer t.Stop()
	failed := false
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		g.mu.Lock()
		for key, end := range g.held {
			if now.After(end) {
				delete(g.held, key)
			}
		}
		busy, asking := len(g.held) > 0 || g.slot || g.asking != "", g.asking
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

// listen takes in what other processes' scripts say.
func (g *Gate) listen(ctx context.Context) {
	sub := g.rdb.Subscribe(ctx, g.channel)
	defer sub.Close()
	// A blocked read ends only when its connection does.
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })()
	defer g.live.Store(false)
	for failures := 0; ctx.Err() == nil; {
		msg, err := sub.Receive(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if g.live.Swap(false) {
				wake(g.wakePump) // who waits for a word asks himself from now on
			}
			pause(ctx, backoff(failures))
			failures++
			if redis.IsPermissionError(err) {
				_ = sub.Subscribe(ctx, g.channel) // the connection is well: nothing else asks again
			}
			continue
		}
		failures = 0
		g.live.Store(true)
		if m, ok := msg.(*redis.Message); ok {
			g.hear(m.Payload)
		} else {
			wake(g.wakePump) // subscribed: what was said before is lost
		}
	}
}

// hear acts on one message: "holder epoch status wait key", or to all
// "* epoch hold seconds" and "* epoch free 0".
func (g *Gate) hear(text string) {
	f := strings.Fields(text)
	if len(f) < 4 || f[0] != "*" && (f[0] != g.holder || len(f) != 5) {
		return
	}
	epoch, err := parseEpoch(f[1])
	if err != nil {
		return
	}
	wait, err := parseWait(f[3])
	if err != nil {
		return
	}
	switch {
	case f[0] == g.holder:
		g.receive(answer{status: f[2], wait: wait, key: f[4], epoch: epoch, at: time.Now()})
	case f[2] == "hold":
		g.noteHold(wait)
	case f[2] == "free":
		g.free()
	}
}
