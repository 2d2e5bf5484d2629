// Package pool is what one upstream allowance makes of its calls: how each
// ended, what that means to the breaker, whether a refusal was meant for one
// request or for the key, and whether this process reaches the provider at all.
//
// It promises that what a provider says to one prompt stops nobody else: a
// refusal that may concern the key is held until a probe, or an ordinary success,
// has shown which it was, and neither the job nor the pool is judged before. A row
// of failures is looked into in the same way: it stops the job, the model, this
// process or the pool, whichever is found failing; docs/adr/0011 has the rule.
//
// It never sees a job's record, never logs a prompt, an answer or a key, and
// keeps of a prompt no more than a digest.
package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/pause"
	"github.com/sluicehq/sluice/worker/upstream"
)

// Asker is the way to the provider, past the gate.
type Asker interface {
	Do(ctx context.Context, ask upstream.Ask) upstream.Answer
	// Models lists the models that the key may see.
	Models(ctx context.Context) (a upstream.Answer, names []string)
}

// bare is what this process has seen of 429s that say nothing of how long to wait.
type bare struct {
	mu   sync.Mutex
	by   map[string]time.Time // model -> when the last call that was refused so was sent
	well time.Time            // when the last call of any model was sent that succeeded
}

// saw takes in an answer, and reports whether it is such a 429, and whether that is
// the model's own.
func (b *bare) saw(model string, a upstream.Answer, sent time.Time) (own, silent bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case a.Outcome == tasks.Succeeded:
		delete(b.by, model)
		b.well = later(b.well, sent)
		return false, false
	case a.Outcome != tasks.RateLimited || a.HasRetryAfter:
		return false, false
	}
	before, again := b.by[model]
	if b.by == nil || len(b.by) > 100 { // models come and go
		b.by = map[string]time.Time{}
	}
	b.by[model] = sent
	return again && b.well.After(before), true
}

// Call is one call upstream, as its answer is judged.
type Call struct {
	Job    string        // for which
	Tenant string        // whose job it is
	Model  string        // that was asked
	Prompt []byte        // the request's body; only a digest of it is kept
	Took   time.Duration // since it was sent
	Held   func()        // called before a refusal for the pace is held for an inquiry; may be nil
}

// Standing is what a call's answer means for its job and its pool.
type Standing int

// The standings.
const (
	Open      Standing = iota // the pool goes on, and the job is judged by its answer alone
	Paused                    // the pool is paused, or was since the call was sent: the job has no part in it
	AtFault                   // a refusal, and the key is well: it was meant for this request
	Unsettled                 // a refusal, and it could not be found out whether of the request or of the key
	Away                      // this process cannot reach the provider, and others can: the job has no part in it
	Singled                   // refused for the pace while others are answered: the pool is not to wait for it
	Blamed                    // likewise, so often that its request is to blame
)

// HealthConfig says what a Health works with.
type HealthConfig struct {
	// Breaker describes the pool's breaker; its Probe is set here.
	Breaker pause.Config
	// Asker probes the provider; nil in a process that makes no calls.
	Asker Asker
	// Models are the globs of the models that the pool serves.
	Models []string
	Log    *slog.Logger // nil: none
}

// Health tells a pool's breaker how its calls end. Its methods may be called by
// many goroutines.
type Health struct {
	breaker *pause.Breaker
	within  *pause.Breaker // of the pool, of one of several accounts; else nil
	asker   Asker          // nil where no calls are made
	doubts  *doubts        // likewise
	way     way
	bare    bare
	alone   alone
	models  []string
	log     *slog.Logger

	calls, input, output, refused atomic.Int64 // what this process sent of the allowance; 429s
}

// NewHealth returns a pool's Health and makes its breaker.
func NewHealth(c HealthConfig) (*Health, error) {
	h := &Health{asker: c.Asker, models: c.Models, log: c.Log, way: way{gone: make(chan struct{}), left: make(chan struct{}, 1)}}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	h.log = h.log.With("pool", c.Breaker.Pool)
	if c.Asker != nil {
		h.doubts = newDoubts(c.Asker, c.Models, h.log)
		c.Breaker.Probe, c.Breaker.Ask, c.Breaker.Cut = h.probe, h.ask, h.leave
	}
	var err error
	if h.breaker, err = pause.New(c.Breaker); err != nil {
		return nil, err
	}
	return h, nil
}

// Breaker returns the pool's breaker, for whoever runs it and asks its state.
func (h *Health) Breaker() *pause.Breaker { return h.breaker }

// Used returns what this process has sent of the pool's allowance: calls, and
// the tokens that were charged.
func (h *Health) Used() (calls, input, output int64) {
	return h.calls.Load(), h.input.Load(), h.output.Load()
}

// Refused returns how many 429s this process has seen.
func (h *Health) Refused() int64 { return h.refused.Load() }

// Report records how a call ended and says what that means. A refusal that may
// have been meant for the key is held until it is known, at most for some
// seconds: Report returns only then, or when ctx ends.
func (h *Health) Report(ctx context.Context, c Call, a upstream.Answer) Standing {
	h.count(a)
	if a.Doubt != upstream.NoDoubt && h.doubts != nil {
		return h.settle(ctx, c, a)
	}
	v := judge(a)
	v.Model, v.Job = c.Model, c.Job
	if h.doubts != nil {
		h.doubts.answered(c.Model, a.Outcome, c.Took)
		h.way.answered(a, c.Took)
	}
	if h.asker == nil {
		h.record(ctx, v, c.Took)
	} else {
		v = h.note(ctx, c, a, v)
		if s := h.singled(ctx, c, a); s != Open {
			return s
		}
		if h.crowded(ctx, c, a) {
			return Paused
		}
	}
	if v.Kind == pause.Good || v.Kind == pause.Ignore {
		return Open
	}
	return h.standing(ctx, c)
}

// note tells the breaker of a verdict, or has it look into what may be this process's or
// the configuration's fault alone, and returns the verdict as it then is.
func (h *Health) note(ctx context.Context, c Call, a upstream.Answer, v pause.Verdict) pause.Verdict {
	switch {
	case h.Away() != "":
		h.record(ctx, v, c.Took)
	case misfits(a) && !h.breaker.Worked():
		v = blamed(v, a)
		h.suspect(ctx, v)
	case unreached(a) && !h.reaches(ctx, c.Took):
		h.suspect(ctx, v)
	default:
		h.record(ctx, v, c.Took)
	}
	return v
}

// crowded reports whether a 429 without a word of how long is the model's own: it is
// refused again, and others have succeeded since it was refused before. Then the
// model is held back, and the pace of the pool is not to blame.
func (h *Health) crowded(ctx context.Context, c Call, a upstream.Answer) bool {
	own, silent := h.bare.saw(c.Model, a, time.Now().Add(-c.Took))
	if !own {
		return silent && h.breaker.Sick(c.Model)
	}
	if err := h.breaker.HoldModel(ctx, c.Model, string(a.Outcome), 0); err != nil {
		h.log.Warn("a model was not held back", "error", err)
		return false
	}
	return true
}

func (h *Health) count(a upstream.Answer) {
	h.calls.Add(1)
	h.input.Add(a.ChargedInput)
	if a.Usage != nil {
		h.output.Add(a.Usage.OutputTokens)
	}
	if a.Status == 429 {
		h.refused.Add(1)
	}
}

// standing says what a failed call means for its job. While a suspicion is looked
// into it waits for what comes of that, so that no attempt is counted for an outage.
func (h *Health) standing(ctx context.Context, c Call) Standing {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for h.asker != nil && h.Away() == "" && ctx.Err() == nil && h.breaker.Suspected(ctx) {
		select {
		case <-ctx.Done():
		case <-look.C:
		}
	}
	switch {
	case h.Away() != "":
		return Away
	case h.pausedSince(context.WithoutCancel(ctx), c.Took), h.breaker.Sick(c.Model):
		return Paused
	}
	return Open
}

// settle holds a refusal until it is known for whom it was meant.
func (h *Health) settle(ctx context.Context, c Call, a upstream.Answer) Standing {
	f := h.doubts.settle(ctx, c, a, func(took time.Duration) bool { return h.pausedSince(ctx, took) })
	switch f.of {
	case theRequest:
		h.record(ctx, pause.Verdict{Kind: pause.Good, Organization: a.Organization}, c.Took) // the provider is up, and the key is well
		return AtFault
	case theKey:
		v := pause.Verdict{Kind: pause.Unauthorized, Reason: string(tasks.Unauthorized), RetryAfter: f.answer.RetryAfter, ResumeAt: f.answer.ResumeAt}
		if f.answer.Outcome == tasks.SpendLimited {
			v.Kind, v.Reason = pause.Spend, string(tasks.SpendLimited)
		}
		h.doubts.suspected(c.Model)
		h.record(ctx, v, f.age)
		if !h.pausedSince(ctx, c.Took) {
			return Open // a resume is newer than what was found
		}
		return Paused
	case nobody:
		return Paused
	}
	return Unsettled
}

func (h *Health) record(ctx context.Context, v pause.Verdict, took time.Duration) {
	v.Took = took
	if err := h.breaker.Record(ctx, v); err != nil {
		h.log.Warn("an outcome was not told to the breaker", "error", err)
	}
}

// pausedSince reports whether the pool is paused, or was since a call was sent
// that long ago: the outage that the call fell into is over then, and was not
// the job's.
func (h *Health) pausedSince(ctx context.Context, took time.Duration) bool {
	s, err := h.breaker.State(ctx)
	if err != nil {
		return false
	}
	return s.Paused || !s.Since.IsZero() && s.Since.Before(s.AsOf) && s.Since.After(s.AsOf.Add(-took))
}

// judge says what an answer means to the breaker: the outcomes by which a
// provider shows that it is down or out of credit.
func judge(a upstream.Answer) pause.Verdict {
	v := pause.Verdict{Reason: string(a.Outcome), RetryAfter: a.RetryAfter, ResumeAt: a.ResumeAt, Organization: a.Organization}
	if a.Cause.Kind == upstream.Egress {
		return v // it is left, and another way is used
	}
	switch a.Outcome {
	case tasks.Succeeded, tasks.Rejected, tasks.TooLarge:
		v.Kind = pause.Good
	case tasks.Overloaded, tasks.ServerError, tasks.Timeout, tasks.ConnectError, tasks.CutOff:
		v.Kind = pause.Bad
	case tasks.SpendLimited:
		v.Kind = pause.Spend
	case tasks.Unauthorized:
		v.Kind = pause.Unauthorized
	}
	return v
}

// probe makes the smallest call that tells whether the breaker may close. While
// the provider is down, a refusal says that it is up again; for whom the refusal
// was meant is settled by the calls that follow. While the key counts as refused,
// the same refusal says that it still is.
func (h *Health) probe(ctx context.Context) (pause.Verdict, error) {
	s, err := h.breaker.State(ctx)
	if err != nil {
		return pause.Verdict{}, fmt.Errorf("read why the pool is paused: %w", err)
	}
	if s.Cause == pause.BadAuthority {
		if a, _ := h.asker.Models(ctx); convicts(a) {
			return judge(a), nil
		}
	}
	model, known := h.probed(s)
	a := h.ping(ctx, model)
	if (s.Cause == pause.Overload || s.Cause == pause.Misfit) && a.Doubt != upstream.NoDoubt {
		return pause.Verdict{Kind: pause.Good}, nil
	}
	if !known && a.Doubt == upstream.DoubtModel {
		return pause.Verdict{}, errors.New("no model is known that the key may use")
	}
	v := judge(a)
	if a.Cause.Kind == upstream.Egress {
		return blamed(v, a), nil
	}
	if v.Kind == pause.Bad && (unreached(a) || misfits(a) && !h.breaker.Worked()) {
		v = blamed(v, a)
	}
	return v, nil
}

// probed is the model that a probe asks, and whether it is known to be there. Those
// that have succeeded take turns: one of them may be ill itself.
func (h *Health) probed(s pause.State) (model string, known bool) {
	if s.Cause == pause.Overload || s.Cause == pause.Misfit {
		if names := h.breaker.Known(); len(names) > 0 {
			return names[s.Tries%len(names)], true
		}
	}
	if model = h.doubts.probed(); model != "" {
		return model, true
	}
	if names := h.breaker.Known(); len(names) > 0 {
		return names[0], true
	}
	return probeModel(h.models), false
}

// ask looks into a suspicion against a model: does it answer, and if not, does
// another? Any answer but an outage's will do, a refusal as well. With known nil
// only the model itself is asked.
func (h *Health) ask(ctx context.Context, model string, known []string) (pause.Verdict, error) {
	if v, ok := h.way.closed(); ok && known != nil {
		return v, nil
	}
	a := h.ping(ctx, model)
	v := h.found(a)
	if known == nil && a.Outcome == tasks.RateLimited {
		v.Kind = pause.Ignore // it may be what the model is held back for
	}
	if v.Kind != pause.Bad || known == nil || unreached(a) || v.Misfit {
		return v, ctx.Err()
	}
	for _, other := range h.witnesses(ctx, model, known) {
		if w := h.found(h.ping(ctx, other)); w.Kind != pause.Bad {
			v.Alone = true
			break
		}
	}
	return v, nil
}

// found is what an answer to a ping says of an outage.
func (h *Health) found(a upstream.Answer) pause.Verdict {
	v := judge(a)
	if a.Cause.Kind == upstream.Egress || misfits(a) && !h.breaker.Worked() {
		return blamed(v, a)
	}
	if a.Doubt != upstream.NoDoubt || v.Kind == pause.Ignore {
		v.Kind = pause.Good // the provider is there
	}
	return v
}

// witnesses are two models at most that can tell whether the provider is well
// though this one fails: those that have succeeded, or else one that is listed.
func (h *Health) witnesses(ctx context.Context, model string, known []string) []string {
	other := func(name string) bool { return name == model || !Serves(h.models, name) }
	names := slices.DeleteFunc(slices.Clone(known), other)
	if len(names) == 0 {
		_, listed := h.asker.Models(ctx)
		names = slices.DeleteFunc(listed, other)
		names = names[:min(1, len(names))]
	}
	return names[:min(2, len(names))]
}

// byAnyWay asks what costs nothing again while it fails on its way alone: a way that fails
// is left after a few times, and then another serves, or none is open.
func byAnyWay(ask func() upstream.Answer) (a upstream.Answer) {
	for range 20 {
		if a = ask(); a.Cause.Kind != upstream.Egress {
			break
		}
	}
	return a
}

// ping asks a model the smallest question.
func (h *Health) ping(ctx context.Context, model string) upstream.Answer {
	sent := time.Now()
	a := byAnyWay(func() upstream.Answer { sent = time.Now(); return h.asker.Do(ctx, ping(model)) })
	h.doubts.answered(model, a.Outcome, time.Since(sent))
	h.way.answered(a, time.Since(sent))
	if a.Outcome == tasks.Succeeded {
		h.record(ctx, pause.Verdict{Kind: pause.Good, Model: model, Organization: a.Organization}, time.Since(sent))
	}
	if a.Outcome == tasks.CallCanceled && ctx.Err() != nil {
		a.Outcome = tasks.Timeout // of the probe
	}
	return a
}

// ping is the smallest question.
func ping(model string) upstream.Ask {
	return upstream.Ask{Question: upstream.Read(model, tasks.Request{
		Kind: tasks.Text, Body: []byte(`"ping"`), MaxTokens: 1, InputTokens: 8,
	})}
}

// probeModel is the model of a probe in a pool where none has succeeded yet:
// the cheapest that its globs name.
func probeModel(globs []string) string {
	for _, g := range globs {
		for _, known := range []string{"claude-haiku-4-5", "gpt-4o-mini"} {
			if Serves([]string{g}, known) {
				return known
			}
		}
	}
	if m, ok := onlyModel(globs[:min(1, len(globs))]); ok {
		return m
	}
	return "claude-haiku-4-5"
}

// onlyModel returns the one model that globs name, if they name no more.
func onlyModel(globs []string) (string, bool) {
	if len(globs) == 1 && !strings.ContainsAny(globs[0], "*?[") {
		return globs[0], true
	}
	return "", false
}
