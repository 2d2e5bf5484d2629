package limit

import (
	"context"
	"strconv"
	"time"
)

// A process may stand still between the answer to its question and the call: it was
// stopped, or its share of the processor was used up. The places that it had by then
// are taken off the bucket here and not at the provider. Sent together with what
// the bucket has saved up since, they would be more than there is. So a place that
// is later than its slack, beyond what is usual, is given back and asked for again,
// and with it all others that this process has not used: the script then counts all
// that it grants anew.

// Confirm is called once for each grant, right before its call is sent. It returns
// the grant, or another place when the time of that one has passed by too much;
// then it waits as [Gate.Take] does. After an error there is no place, and nothing to settle.
func (g *Gate) Confirm(ctx context.Context, grant Grant) (Grant, error) {
	for again := false; ; again = true {
		if g.onTime(grant.key, again) {
			return grant, nil
		}
		var err error
		if grant, err = g.take(ctx, grant.need, true); err != nil {
			return Grant{}, err
		}
	}
}

// onTime reports whether a place may still be used, which it then is.
func (g *Gate) onTime(key string, again bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	grant, ok := g.unsent[key]
	if !ok {
		return false // given back with others
	}
	now := g.clock.now()
	late := g.lateLocked(grant, now)
	// Only what delays all calls alike is usual, such as the way to Redis. So a
	// delay has to last to become usual, and does not have to in order to be over. What
	// was asked for again has had a shorter way.
	if d := max(0, now.Sub(grant.due)); g.usual < 0 || d < g.usual && !again {
		g.usual = d
	} else if d > g.usual {
		g.usual += (d - g.usual) / 16
	}
	if late {
		g.revokeLocked()
		return false
	}
	delete(g.unsent, key)
	return true
}

func (g *Gate) lateLocked(grant Grant, now time.Time) bool {
	return grant.slack >= 0 && g.usual >= 0 && now.Sub(grant.due) > g.usual+grant.slack
}

// revokeLocked gives back every place that was not used.
func (g *Gate) revokeLocked() {
	for key, grant := range g.unsent {
		g.late = append(g.late, back(key, grant.epoch))
		g.forgetLocked(key)
		g.m.acquires.WithLabelValues(g.cfg.Pool, "late").Inc()
	}
	if g.inLine != "" {
		g.returnLateLocked()
	}
}

// returnLateLocked has the late places written back by themselves. Nothing is asked
// while this process stands in line, and the line waits for the slots that they hold.
func (g *Gate) returnLateLocked() {
	for _, s := range g.late {
		g.laterLocked(s)
	}
	g.late = nil
}

// revoked returns the places to be given back before others are asked for: none,
// or all that this process has, when one of them is late.
func (g *Gate) revoked() []lateArgs {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.now()
	for _, grant := range g.unsent {
		if g.lateLocked(grant, now) {
			g.revokeLocked()
			break
		}
	}
	late := make([]lateArgs, len(g.late))
	for i, s := range g.late {
		late[i] = lateArgs{Key: s.grant.key, BookedIn: strconv.FormatInt(s.grant.epoch, 10)}
	}
	return late
}

// gaveBack notes that Redis knows of the first n late places.
func (g *Gate) gaveBack(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.late = g.late[n:]
}

// forgetLocked forgets a reservation that is settled or given back.
func (g *Gate) forgetLocked(key string) {
	delete(g.unsettled, key)
	delete(g.unsent, key)
}

// slack is that of a place taken from an empty bucket, see lua/book.lua.
func (l Limits) slack() time.Duration {
	if l.RequestsPerMinute <= 0 {
		return -1
	}
	burst := float64(min(l.burst(), l.RequestsPerMinute))
	guard := min(2, 0.2*burst)
	return time.Duration(max(guard, burst-2*guard) / float64(l.RequestsPerMinute) * float64(time.Minute))
}
