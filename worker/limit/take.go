package limit

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// waiter is one Take.
type waiter struct {
	need  Need
	since time.Time
	until time.Time     // when the call is of no use any more; zero: never
	ready chan struct{} // closed when grant or err is set
	gone  chan struct{} // closed when the caller has left

	// Under Gate.mu.
	key   string // of the reservation, a new one after each that was given back
	el    *list.Element
	doubt bool // asked, and the answer was lost: the reservation may exist
	left  bool
	done  bool
	told  bool // need.Waits has been called
	grant Grant
	err   error
}

// Take blocks until the call may be sent, first come first served in this
// process, and returns its place, which [Gate.Settle] ends. It needs [Gate.Run].
// When ctx ends, the place goes back and the error is ctx's; without Redis it waits
// and asks again. [ErrStopped] says that Run has ended.
func (g *Gate) Take(ctx context.Context, n Need) (Grant, error) {
	return g.take(ctx, n, false)
}

// take is Take; first is for a call that has waited for its turn before.
func (g *Gate) take(ctx context.Context, n Need, first bool) (Grant, error) {
	if n.ID == "" || strings.ContainsAny(n.ID, " \t\r\n") || !utf8.ValidString(n.ID) {
		return Grant{}, fmt.Errorf("limit: Need.ID %q: want a name in UTF-8 without white space", n.ID)
	}
	n.InputTokens, n.MaxTokens = max(0, n.InputTokens), max(0, n.MaxTokens)
	if err := ctx.Err(); err != nil {
		return Grant{}, err
	}
	w := &waiter{need: n, since: g.clock.now(), ready: make(chan struct{}), gone: make(chan struct{}), key: g.newKey(n)}
	if n.Within > 0 {
		w.until = w.since.Add(n.Within)
	}
	g.mu.Lock()
	if g.stopped {
		g.mu.Unlock()
		return Grant{}, ErrStopped
	}
	if first {
		w.el = g.queue.PushFront(w)
	} else {
		w.el = g.queue.PushBack(w)
	}
	told := g.tellLocked(w)
	g.mu.Unlock()
	if told {
		n.Waits()
	}
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
		g.forgetLocked(w.grant.key)
		g.laterLocked(back(w.grant.key, w.grant.epoch))
	case w.done:
	default:
		w.left = true
		g.queue.Remove(w.el)
		close(w.gone)
		if w.doubt {
			g.laterLocked(back(w.key, g.epoch.Load()))
		}
	}
	return Grant{}, ctx.Err()
}

// tellLocked reports whether a waiter is to be told now that it has to wait.
func (g *Gate) tellLocked(w *waiter) bool {
	if !g.stuck || w.told || w.need.Waits == nil {
		return false
	}
	w.told = true
	return true
}

// note notes whether the head of the queue has to wait, and tells those who want to know.
func (g *Gate) note(stuck bool) {
	g.mu.Lock()
	g.stuck = stuck
	var tell []func()
	for el := g.queue.Front(); stuck && el != nil; el = el.Next() {
		if w := el.Value.(*waiter); g.tellLocked(w) {
			tell = append(tell, w.need.Waits)
		}
	}
	g.mu.Unlock()
	for _, f := range tell {
		f()
	}
}

// Return gives back a place whose call is not made. It does not wait for Redis, which
// [Gate.Run] tells.
func (g *Gate) Return(grant Grant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetLocked(grant.key)
	g.laterLocked(back(grant.key, grant.epoch))
}

func (g *Gate) newKey(n Need) string {
	return n.ID + "/" + g.holder + "/" + strconv.FormatUint(g.serial.Add(1), 36)
}

type takeArgs struct {
	common
	Calls []callArgs `json:"calls"`
	Late  []lateArgs `json:"late"`
}

type lateArgs struct {
	Key      string `json:"key"`
	BookedIn string `json:"booked_in"`
}

type callArgs struct {
	Key      string `json:"key"`
	Class    string `json:"class"`
	Estimate int64  `json:"estimate"`
	Max      int64  `json:"max"`
}

// ask books slots for the needs, in order; there may be fewer answers than needs.
func (g *Gate) ask(ctx context.Context, ws []*waiter) ([]answer, error) {
	a := takeArgs{Calls: make([]callArgs, len(ws)), Late: g.revoked()}
	for i, w := range ws {
		a.Calls[i] = callArgs{Key: w.key, Class: w.need.Class, Estimate: w.need.InputTokens, Max: w.need.MaxTokens}
	}
	asked := g.clock.now()
	epoch, reply, err := g.run(ctx, takeScript, &a)
	if err != nil {
		return nil, err
	}
	g.gaveBack(len(a.Late))
	at := g.clock.now()
	var out []answer
	for i := 0; i+3 < len(reply) && len(out) < len(ws); i += 4 {
		wait, err := parseWait(reply[i+1])
		slack, bad := parseWait(reply[i+2])
		bound, odd := strconv.Atoi(reply[i+3])
		if err := errors.Join(err, bad, odd); err != nil {
			return nil, err
		}
		out = append(out, answer{status: reply[i], wait: wait, key: ws[len(out)].key, epoch: epoch, at: at, asked: asked, slack: slack, bound: binding(bound)})
	}
	if len(out) == 0 || len(reply) != 4*len(out) {
		return nil, fmt.Errorf("script gave %d values as answers to %d questions", len(reply), len(ws))
	}
	return out, nil
}
