package pause

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Run brings the queue and the gate in line with the state each second, probes
// the provider when a probe is due, and counts successes that wait, until ctx ends;
// it then returns nil. Redis, queue or gate being away does not end it. Run once at
// a time.
func (b *Breaker) Run(ctx context.Context) error {
	var (
		wg               sync.WaitGroup
		arrived, failing bool
	)
	wg.Go(func() { b.flush(ctx) })
	defer func() {
		wg.Wait()
		// What succeeded is still worth counting, and Redis may still be there.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = b.send(end, Verdict{Kind: Good})
		if b.ask != nil {
			_, _ = b.others(end, true)
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.moved:
		case <-timer.C:
		}
		if !arrived {
			arrived = b.arrive(ctx) == nil
		}
		s, err := b.enforce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			b.count.errors.WithLabelValues(b.pool, "enforce").Inc()
		}
		if failing != (err != nil) {
			failing = err != nil
			if failing {
				b.log.Warn("queue or gate may not follow the breaker; trying on", "error", err)
			} else {
				b.log.Info("queue and gate follow the breaker again")
			}
		}
		timer.Reset(b.attend(ctx, s, &wg))
	}
}

// attend starts what the state asks of this process, and returns how soon to look again.
func (b *Breaker) attend(ctx context.Context, s snapshot, wg *sync.WaitGroup) time.Duration {
	if b.away.Load() {
		return b.tick
	}
	again := b.tick
	if b.ask != nil && s.h["sus"] != "" {
		wg.Go(func() { b.lookInto(ctx) })
		again = lookEvery // one process at a time is asked
	}
	if b.probe == nil || b.probing.Load() {
		return again
	}
	fence, soon := b.takeProbe(ctx, s)
	if fence > 0 {
		b.probing.Store(true)
		wg.Go(func() {
			b.probeOnce(ctx, fence)
			b.probing.Store(false)
			signal(b.moved)
		})
	}
	return min(again, soon)
}

// flush counts the successes that wait.
func (b *Breaker) flush(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.waiting:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(fresh):
		}
		if err := b.send(ctx, Verdict{Kind: Good}); err != nil && ctx.Err() == nil {
			b.log.Warn("successes were not counted", "error", err)
		}
	}
}

// arrive says which key this process runs with.
func (b *Breaker) arrive(ctx context.Context) error {
	if b.fingerprint == "" {
		return nil
	}
	asked, _, err := b.run(ctx, b.script.arrive, args{"fp": b.fingerprint})
	if err != nil {
		return fmt.Errorf("announce to pool %s: %w", b.pool, err)
	}
	if asked == 1 {
		b.log.Info("another key or address: the provider is probed once")
	}
	return nil
}

// takeProbe asks for the lease to probe when a probe is due. It returns the
// lease's fencing number or 0, and how long until it is worth asking again.
func (b *Breaker) takeProbe(ctx context.Context, s snapshot) (int64, time.Duration) {
	const retry = 20 * time.Millisecond // the clock that counts is not ours: it may be due a little later
	wait, due := s.untilProbe(b.fingerprint)
	if !due {
		return 0, b.tick
	}
	if wait > 0 {
		return 0, max(wait, retry)
	}
	fence, s, err := b.run(ctx, b.script.take, args{
		"holder": b.holder, "lease": (b.probeTimeout + leaseSpare).Milliseconds(), "fp": b.fingerprint,
	})
	if err != nil || fence > 0 {
		return fence, b.tick
	}
	if wait, due = s.untilProbe(b.fingerprint); !due {
		return 0, b.tick
	}
	return 0, max(wait, retry)
}

// probeOnce calls the provider under the lease with this fencing number and
// hands in the verdict.
func (b *Breaker) probeOnce(ctx context.Context, fence int64) {
	call, cancel := context.WithTimeout(ctx, b.probeTimeout)
	v, err := b.probe(call)
	expired := errors.Is(call.Err(), context.DeadlineExceeded)
	cancel()
	kind := string(v.Kind)
	switch {
	case ctx.Err() != nil && (err != nil || v.Kind != Good):
		kind = "abandoned" // the call was cut off here
	case expired && v.Kind != Good:
		kind, v = string(Bad), Verdict{Reason: "the probe timed out"}
	case err != nil:
		kind, v = "ignore", Verdict{}
		b.log.Warn("probe was not made", "error", err)
	case v.Kind == Ignore:
		kind = "ignore"
	}
	b.count.probes.WithLabelValues(b.pool, kind).Inc()
	// The lease is given back even while the process shuts down.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	a := b.rules(verdictArgs(args{"fence": fence, "kind": kind}, v))
	result, s, err := b.run(end, b.script.probed, a)
	if err != nil {
		b.count.errors.WithLabelValues(b.pool, "probe").Inc()
		b.log.Warn("result of a probe was lost", "error", err)
		return
	}
	switch result {
	case 2:
		b.log.Info("provider answers again, breaker half open")
	case 3:
		b.log.Info("breaker closed, slow start")
	case 4:
		b.opened(s)
	}
	if result > 1 {
		if _, err := b.enforce(end); err != nil {
			b.log.Warn("queue or gate may not follow the breaker; trying on", "error", err)
		}
	}
}

// enforceNow is enforce for a step that must not end half way because its caller went.
func (b *Breaker) enforceNow(ctx context.Context) error {
	signal(b.moved)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	_, err := b.enforce(end)
	return err
}

// enforce makes the gate and the queue follow the state.
//
// The queue's pause lives outside the state's slot, so the two cannot move in
// one step. Instead, every act is repeatable, a pause is marked as ours before
// it is made and unmarked after it is undone, each mark is refused when the state
// has moved since it was read, and after each act the state is read again. So
// a process may die, or be late, at any point, and the next look finishes its work.
func (b *Breaker) enforce(ctx context.Context) (snapshot, error) {
	select {
	case b.applying <- struct{}{}:
	case <-ctx.Done():
		return snapshot{}, ctx.Err()
	}
	s, err := b.follow(ctx)
	<-b.applying
	if s.now == 0 {
		return s, err
	}
	b.count.show(b.pool, s)
	return s, err
}

func (b *Breaker) follow(ctx context.Context) (snapshot, error) {
	const rounds = 6 // of acting and looking again; more means others keep moving it, and a tick follows
	mine := false    // a pause now found on the queue may be one that this call made
	var s snapshot
	for range rounds {
		var err error
		if s, err = b.recall(ctx); err != nil {
			return s, err
		}
		gateErr := b.followGate(ctx, s)
		acted, err := b.followQueue(ctx, s, &mine)
		if err := errors.Join(gateErr, err); err != nil {
			return s, err
		}
		if !acted {
			return s, nil
		}
	}
	return s, nil
}

// recall reads the state, puts back what Redis has forgotten of it, and ends a pause
// whose time is over.
func (b *Breaker) recall(ctx context.Context) (snapshot, error) {
	s, err := b.look(ctx)
	if err != nil {
		return s, err
	}
	was := b.seen
	if was.h["gen"] != "" && (s.h["gen"] != was.h["gen"] || s.int("rev") < was.int("rev")) {
		restored, _, err := b.run(ctx, b.script.restore, args{
			"was_gen": was.h["gen"], "was_rev": was.int("rev"), "was_fence": was.int("fence"),
			"op": was.int("op"), "op_by": was.h["op_by"], "op_why": was.h["op_why"], "op_at": was.int("op_at"), "op_until": was.int("op_until"),
			"own": was.int("own"), "held": was.int("held"),
		})
		if err != nil {
			return s, fmt.Errorf("restore state of pool %s: %w", b.pool, err)
		}
		if restored == 1 {
			b.log.Warn("Redis lost the breaker's state; an operator's pause is kept", "operator", was.operator())
		}
		if s, err = b.look(ctx); err != nil {
			return s, err
		}
	}
	if s.lapsed() {
		ended, after, err := b.run(ctx, b.script.lapse, args{})
		if err != nil {
			return s, fmt.Errorf("end the pause of pool %s: %w", b.pool, err)
		}
		if s = after; ended == 1 {
			b.log.Info("the time of an operator's pause is over")
		}
		b.remember(s)
	}
	b.seen = s
	return s, nil
}

// followGate comes before the queue: it stops calls at once, the queue's pause
// only what has not been handed out.
func (b *Breaker) followGate(ctx context.Context, s snapshot) error {
	switch {
	case b.gate == nil || !s.paused() && !s.held():
		return nil
	case s.pace() == 0:
		if err := b.gate.Hold(ctx, holdFor, holdReason(s)); err != nil {
			return fmt.Errorf("hold gate of pool %s: %w", b.pool, err)
		}
		return nil
	}
	// Half open, once is enough until the gate's ramp would double it: each time
	// also ends a hold that a Retry-After has set meanwhile.
	if s.paused() && s.int("trial") == s.int("rev") && s.now-s.int("trial_at") < trialFor.Milliseconds() {
		return nil
	}
	if err := b.gate.Resume(ctx, s.pace()); err != nil {
		return fmt.Errorf("let go gate of pool %s: %w", b.pool, err)
	}
	field, value := "held", int64(0)
	if s.paused() {
		field, value = "trial", s.int("rev")
	}
	_, err := b.mark(ctx, s, field, value)
	return err
}

func holdReason(s snapshot) string {
	if s.operator() {
		return "paused by an operator"
	}
	if !s.broken() {
		return "paused: redis is nearly full"
	}
	return "paused by the breaker: " + s.h["cause"]
}

// followQueue reports whether it acted; the state is then to be read again.
// mine says, and is told, that a pause now found may be one that this call made.
func (b *Breaker) followQueue(ctx context.Context, s snapshot, mine *bool) (bool, error) {
	if b.queue == nil {
		return false, nil
	}
	paused, err := b.queue.Paused(ctx, b.pool)
	switch {
	case err != nil:
		return false, fmt.Errorf("read queue of pool %s: %w", b.pool, err)
	case paused && !s.owned() && !*mine:
		return b.adopt(ctx, s)
	case paused == s.paused() && paused == s.owned():
		return false, nil
	case s.paused():
		return true, b.pauseQueue(ctx, s, paused, mine)
	case paused:
		if err := b.queue.Resume(ctx, b.pool); err != nil {
			return false, fmt.Errorf("resume queue of pool %s: %w", b.pool, err)
		}
		*mine = false
	}
	if s.owned() {
		_, err = b.mark(ctx, s, "own", 0)
	}
	return true, err
}

// pauseQueue marks the queue's pause as ours and makes it, unless it is made.
func (b *Breaker) pauseQueue(ctx context.Context, s snapshot, paused bool, mine *bool) error {
	if !s.owned() {
		if ok, err := b.mark(ctx, s, "own", 1); err != nil || !ok || paused {
			return err
		}
	}
	*mine = true
	if err := b.queue.Pause(ctx, b.pool); err != nil {
		return fmt.Errorf("pause queue of pool %s: %w", b.pool, err)
	}
	return nil
}

// adopt takes a pause that somebody made with another tool for an operator's.
func (b *Breaker) adopt(ctx context.Context, s snapshot) (bool, error) {
	done, _, err := b.run(ctx, b.script.adopt, args{
		"rev": s.int("rev"), "by": "unknown", "reason": "the queue was paused with another tool",
		"grace": adoptGrace.Milliseconds(),
	})
	if err != nil {
		return false, fmt.Errorf("adopt pause of pool %s: %w", b.pool, err)
	}
	if done == 1 {
		b.log.Warn("the queue was paused with another tool; it counts as an operator's pause")
	}
	return done == 1, nil
}

// mark notes what was made of s; false means that the state has moved since.
func (b *Breaker) mark(ctx context.Context, s snapshot, field string, value int64) (bool, error) {
	ok, _, err := b.run(ctx, b.script.mark, args{"rev": s.int("rev"), "field": field, "value": value})
	if err != nil {
		return false, fmt.Errorf("mark state of pool %s: %w", b.pool, err)
	}
	return ok == 1, nil
}
