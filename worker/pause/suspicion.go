package pause

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	randv2 "math/rand/v2"
	"sync"
	"time"
)

// lookEvery is how often a process looks what others found.
const lookEvery = 100 * time.Millisecond

// lookInto gives this process's opinion on a suspicion, if it is asked for one, and
// returns when it is known what came of it.
func (b *Breaker) lookInto(ctx context.Context) {
	select {
	case b.asking <- struct{}{}:
		defer func() { <-b.asking }()
	default:
		return
	}
	fence, s := b.mayAsk(ctx)
	if fence <= 0 {
		return
	}
	kind, v := b.opinion(ctx, s)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	result, after, err := b.run(end, b.script.opinion, b.rules(verdictArgs(args{"fence": fence, "kind": kind}, v)))
	if err != nil {
		b.count.errors.WithLabelValues(b.pool, "ask").Inc()
		b.log.Warn("what was found out was lost", "error", err)
		return
	}
	b.remember(after)
	switch result {
	case 2:
		if b.outvoted(ctx, s) && b.cut != nil {
			b.cut(cmp.Or(v.Reason, kind))
		}
	case 3:
		b.log.Warn("a model is held back: others answer", "model", s.h["sus"], "reason", v.Reason)
	case 4:
		b.open(end, after)
	}
}

// opinion asks, and returns what was found in the word of opinion.lua.
func (b *Breaker) opinion(ctx context.Context, s snapshot) (kind string, v Verdict) {
	call, cancel := context.WithTimeout(ctx, b.probeTimeout)
	defer cancel()
	v, err := b.ask(call, s.h["sus"], s.known())
	kind = string(v.Kind)
	switch {
	case ctx.Err() != nil, err != nil, v.Kind == Ignore:
		kind = "ignore"
	case v.Kind == Bad && v.Alone:
		kind = "alone"
	}
	b.count.probes.WithLabelValues(b.pool, kind).Inc()
	b.log.Info("a suspicion was looked into", "found", kind, "reason", v.Reason, "error", err)
	return kind, v
}

// outvoted waits for the opinion of another process after nothing has answered here,
// and reports whether that one found the provider well: the pool stays open.
func (b *Breaker) outvoted(ctx context.Context, was snapshot) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(lookEvery):
		}
		if _, s := b.mayAsk(ctx); s.now > 0 && !s.same(was) {
			return !s.broken()
		}
	}
}

// mayAsk asks for the lease to look into a suspicion; 0 when it is not this
// process's turn.
func (b *Breaker) mayAsk(ctx context.Context) (fence int64, s snapshot) {
	fence, s, err := b.run(ctx, b.script.ask, b.rules(args{"lease": (b.probeTimeout + leaseSpare).Milliseconds(), "retry_after": 0}))
	if err != nil {
		if ctx.Err() == nil {
			b.count.errors.WithLabelValues(b.pool, "ask").Inc()
		}
		return 0, s
	}
	b.remember(s)
	if fence < 0 {
		b.open(ctx, s)
	}
	return fence, s
}

func (b *Breaker) open(ctx context.Context, s snapshot) {
	b.opened(s)
	if err := b.enforceNow(ctx); err != nil {
		b.log.Warn("queue or gate may not follow the breaker; trying on", "error", err)
	}
}

// Suspected reports whether a suspicion is being looked into.
func (b *Breaker) Suspected(ctx context.Context) bool {
	if len(b.asking) > 0 {
		return true
	}
	if _, err := b.State(ctx); err != nil {
		return false
	}
	s, _, _ := b.cached()
	return s.h["sus"] != ""
}

// Known returns the models that have succeeded, in any process, the latest first,
// as far as this process knows.
func (b *Breaker) Known() []string {
	s, _, _ := b.cached()
	return s.known()
}

// Organization is whose key the calls are made with, as the provider has said of the latest of
// them to any process; "": it has not, or nobody here knows. It asks only where nothing is known yet.
func (b *Breaker) Organization(ctx context.Context) string {
	s, _, _ := b.cached()
	if s.h == nil {
		s, _ = b.latest(ctx) // else it is asked again
	}
	return s.h["org"]
}

// Worked reports whether a call has ever succeeded with this key and address, as far
// as this process knows.
func (b *Breaker) Worked() bool {
	s, _, _ := b.cached()
	return s.h["worked|"+b.fingerprint] == "1"
}

// Held returns how long a job of a model is to wait because the model fails while
// others do not; 0: not at all. It costs nothing while no model is held back. When
// it is time to try the model, the caller does. The first job that asks here waits until
// then, and the others follow it one after the other, [turn] apart, or are spread over as
// long again where they are too many for that.
func (b *Breaker) Held(ctx context.Context, model string) time.Duration {
	s, err := b.tried(ctx, model)
	if err != nil {
		return b.tick
	}
	return b.line.wait(s, model, b.tick)
}

// TryModel tries a model that is held back, when that is due, for jobs that wait elsewhere; it may
// take as long as a probe.
func (b *Breaker) TryModel(ctx context.Context, model string) { _, _ = b.tried(ctx, model) }

// tried returns the state after it has tried a model that is held back, if that is due.
func (b *Breaker) tried(ctx context.Context, model string) (snapshot, error) {
	s, _, _ := b.cached()
	if _, held := s.sick()[model]; !held {
		return s, nil
	}
	// The Run of each process has looked within a second; who waits looks again.
	if _, err := b.State(ctx); err != nil {
		return s, err
	}
	s, _, _ = b.cached()
	if one, held := s.sick()[model]; held && one.Next <= float64(s.now) && b.ask != nil {
		return b.try(ctx, model)
	}
	return s, nil
}

// try asks a model that is held back, if no other process does, and returns the state
// after it.
func (b *Breaker) try(ctx context.Context, model string) (snapshot, error) {
	mine, s, err := b.tellModel(ctx, model, "try", "", 0)
	if err != nil || !mine {
		return s, err
	}
	call, cancel := context.WithTimeout(ctx, b.probeTimeout)
	v, err := b.ask(call, model, nil)
	cancel()
	verb := "well"
	if err != nil || v.Kind == Bad || v.Kind == Ignore {
		verb = "bad"
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	b.count.probes.WithLabelValues(b.pool, string(v.Kind)).Inc()
	well, s, err := b.tellModel(end, model, verb, v.Reason, v.RetryAfter)
	if err == nil && well {
		b.log.Info("a model answers again", "model", model)
	}
	return s, err
}

// turn is how long after another a job follows that waits for the same try of a model.
const turn = 20 * time.Millisecond

// line is the jobs of this process that wait for the next try of their models.
type line struct {
	mu  sync.Mutex
	end map[string]place // by model: its last job
}

type place struct {
	next  float64 // the try that it waits for, ms
	ahead int
}

// wait returns how long a job of a model waits at its end of the line. While the model is
// being tried that is known soon; least is the shortest time then.
func (l *line) wait(s snapshot, model string, least time.Duration) time.Duration {
	sick := s.sick()
	one, held := sick[model]
	if !held {
		return 0
	}
	wait := time.Duration(one.Next-float64(s.now)) * time.Millisecond
	if one.Asked > 0 {
		wait = min(wait, max(least, time.Duration(float64(s.now)-one.Asked)*time.Millisecond))
	}
	if wait <= 0 {
		wait = least
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.end, func(other string, _ place) bool { _, held := sick[other]; return !held })
	at := place{next: one.Next}
	if last, waits := l.end[model]; waits && last.next == one.Next {
		at.ahead = last.ahead + 1
	}
	if l.end == nil {
		l.end = map[string]place{}
	}
	l.end[model] = at
	if after := time.Duration(at.ahead) * turn; after < wait {
		return wait + after
	}
	return wait + randv2.N(wait)
}

// Shut reports whether the pool is paused, as far as this process knows, and before it knows anything.
func (b *Breaker) Shut() bool {
	b.cache.Lock()
	defer b.cache.Unlock()
	return b.cache.at.IsZero() || b.cache.snap.paused()
}

// Sick reports whether a model is held back, as far as this process knows.
func (b *Breaker) Sick(model string) bool {
	s, _, _ := b.cached()
	_, held := s.sick()[model]
	return held
}

// HoldModel holds a model back, as one that fails while others do not, for wait at
// least where the provider states one; 0: it does not.
func (b *Breaker) HoldModel(ctx context.Context, model, reason string, wait time.Duration) error {
	_, _, err := b.tellModel(ctx, model, "bad", reason, wait)
	return err
}

func (b *Breaker) tellModel(ctx context.Context, model, verb, reason string, wait time.Duration) (bool, snapshot, error) {
	ok, s, err := b.run(ctx, b.script.model, b.rules(args{
		"model": model, "verb": verb, "reason": clip(reason), "lease": (b.probeTimeout + leaseSpare).Milliseconds(),
		"wait": wait.Milliseconds(),
	}))
	if err != nil {
		return false, s, fmt.Errorf("%s model %s of pool %s: %w", verb, model, b.pool, err)
	}
	b.remember(s)
	return ok == 1, s, nil
}

// Leave takes this process out of those that probe and are asked; [Breaker.Return]
// takes it in again.
func (b *Breaker) Leave(ctx context.Context) {
	b.away.Store(true)
	if _, err := b.others(ctx, true); err != nil {
		b.log.Warn("other processes may still count on this one", "error", err)
	}
}

// Return ends a [Breaker.Leave].
func (b *Breaker) Return() { b.away.Store(false) }

// Others returns how many other processes make calls of this pool.
func (b *Breaker) Others(ctx context.Context) (int64, error) { return b.others(ctx, false) }

func (b *Breaker) others(ctx context.Context, gone bool) (int64, error) {
	n, _, err := b.run(ctx, b.script.others, args{"gone": flag(gone)})
	if err != nil {
		return 0, fmt.Errorf("count the processes of pool %s: %w", b.pool, err)
	}
	return n, nil
}
