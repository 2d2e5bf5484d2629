package limit

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// maxLedger settlements are kept while Redis is away; reservations end by themselves.
const maxLedger = 100_000

// Settle ends a reservation: what was expected is replaced by what was used.
// A second Settle of the same grant changes nothing but for what it observed.
// When Redis cannot be told, the settlement is kept, [Gate.Run] writes it later, and
// the error says only that it is not written yet.
func (g *Gate) Settle(ctx context.Context, grant Grant, a Actual) error {
	how := "expected"
	switch {
	case a.Refused:
		how = "back"
	case a.Known:
		how = "used"
	}
	s := settlement{grant: grant, how: how, in: max(0, a.InputTokens), out: max(0, a.OutputTokens), seen: a.Observed}
	g.mu.Lock()
	g.forgetLocked(grant.key)
	g.mu.Unlock()
	err := g.writeSettlement(ctx, s)
	if err != nil {
		s.seen = nil // out of date by the time that it is written
		g.later(s)
		return fmt.Errorf("settle %s in pool %s: %w", grant.ID, g.cfg.Pool, err)
	}
	return nil
}

// SettleInput tells what a call's input really counted as, as soon as the
// provider says so, and what its headers said, if anything, while they are
// fresh. [Gate.Settle] still has to follow; the same input figure belongs there.
func (g *Gate) SettleInput(ctx context.Context, grant Grant, inputTokens int64, seen *Observed) error {
	if err := g.writeSettlement(ctx, settlement{grant: grant, how: "input", in: max(0, inputTokens), seen: seen}); err != nil {
		return fmt.Errorf("settle the input of %s in pool %s: %w", grant.ID, g.cfg.Pool, err)
	}
	return nil
}

type settleArgs struct {
	common
	Key      string       `json:"key"`
	BookedIn string       `json:"booked_in"`
	How      string       `json:"how"`
	Input    int64        `json:"input"`
	Output   int64        `json:"output"`
	Follow   bool         `json:"follow"`
	Headers  *headersArgs `json:"headers,omitempty"`
}

type headersArgs struct {
	Limits    [3]int64 `json:"limits"`    // 0: not said
	Remaining [3]int64 `json:"remaining"` // -1: not said
	Rounding  int64    `json:"rounding"`
	Age       float64  `json:"age"`
}

// writeSettlement writes one settlement.
func (g *Gate) writeSettlement(ctx context.Context, s settlement) error {
	a := settleArgs{
		Key: s.grant.key, BookedIn: strconv.FormatInt(s.grant.epoch, 10), How: s.how, Input: s.in, Output: s.out,
		Follow: g.cfg.FollowProvider, Headers: headers(s.seen),
	}
	epoch, reply, err := g.run(ctx, settleScript, &a)
	if err != nil {
		g.m.settles.WithLabelValues(g.cfg.Pool, "error").Inc()
		return err
	}
	if len(reply) < 8 {
		return fmt.Errorf("script answered %d values", len(reply))
	}
	kind := s.how
	if reply[0] == "0" {
		kind = "unknown"
	}
	g.m.settles.WithLabelValues(g.cfg.Pool, kind).Inc()
	if n, err := strconv.ParseFloat(reply[1], 64); err == nil {
		g.m.inflight.Set(n)
	}
	for d, name := range dimensions {
		if v, err := strconv.ParseFloat(reply[2+d], 64); err == nil {
			g.m.level.WithLabelValues(g.cfg.Pool, name).Set(v / 1000)
		}
	}
	var now [3]int64
	for d := range now {
		if v, err := strconv.ParseFloat(reply[5+d], 64); err == nil {
			now[d] = int64(v)
		}
	}
	g.limits.Store(&now)
	return g.receiveAll(epoch, reply[8:])
}

// headers is what the settle script takes of what was observed.
func headers(o *Observed) *headersArgs {
	if o == nil {
		return nil
	}
	h := &headersArgs{Remaining: [3]int64{-1, -1, -1}, Rounding: o.Rounding, Age: max(0, o.Age).Seconds()}
	if h.Rounding <= 0 {
		h.Rounding = 1000
	}
	for d, r := range []Reading{o.Requests, o.InputTokens, o.OutputTokens} {
		if r.HasLimit {
			h.Limits[d] = r.Limit
		}
		if r.HasRemaining && o.Age <= 2*time.Second {
			h.Remaining[d] = max(0, r.Remaining)
		}
	}
	return h
}

// back hands a reservation back.
func back(key string, epoch int64) settlement {
	return settlement{grant: Grant{key: key, epoch: epoch}, how: "back"}
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

// writeLedger writes what was kept, as soon as Redis takes it.
func (g *Gate) writeLedger(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		select {
		case <-g.wakeLedger:
		case <-ctx.Done():
			return
		}
		for !g.writeAll(ctx) && ctx.Err() == nil {
			g.pause(ctx, backoff(failures))
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
		if err := g.writeSettlement(ctx, s); err != nil {
			g.mu.Lock()
			g.ledger = append([]settlement{s}, g.ledger...)
			g.mu.Unlock()
			return false
		}
	}
}
