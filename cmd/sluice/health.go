package main

import (
	"context"
	"log/slog"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/pause"
	"github.com/sluicehq/sluice/worker/upstream"
)

// health tells a pool's breaker how its calls end.
type health struct {
	breaker *pause.Breaker
	log     *slog.Logger
	model   atomic.Value  // string: the model of the last call, for probes
	refused *atomic.Int64 // 429s, of all pools

	calls, input, output atomic.Int64 // what this process sent of the pool's allowance
}

// Report records an answer and says whether the pool is paused now, or has been
// since the call was sent.
func (h *health) Report(ctx context.Context, model string, took time.Duration, a upstream.Answer) bool {
	h.model.Store(model)
	h.calls.Add(1)
	h.input.Add(a.ChargedInput)
	if a.Usage != nil {
		h.output.Add(a.Usage.OutputTokens)
	}
	if a.Status == 429 {
		h.refused.Add(1)
	}
	v := judge(a)
	v.Took = took
	if err := h.breaker.Record(ctx, v); err != nil {
		h.log.Warn("an outcome was not told to the breaker", "error", err)
	}
	if v.Kind == pause.Good || v.Kind == pause.Ignore {
		return false
	}
	s, err := h.breaker.State(ctx)
	if err != nil {
		return false
	}
	// Also when it has opened and closed again since the call was sent: the
	// outage that the call fell into is over, and was not the job's.
	return s.Paused || !s.Since.IsZero() && s.Since.Before(s.AsOf) && s.Since.After(s.AsOf.Add(-took))
}

// judge says what an answer means to the breaker: the outcomes by which a
// provider shows that it is down, out of credit, or refuses the key.
func judge(a upstream.Answer) pause.Verdict {
	v := pause.Verdict{Reason: string(a.Outcome), RetryAfter: a.RetryAfter, ResumeAt: a.ResumeAt}
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

// probe makes the smallest call that a provider answers.
func (h *health) probe(caller *upstream.Caller, models []string) func(context.Context) (pause.Verdict, error) {
	return func(ctx context.Context) (pause.Verdict, error) {
		model, _ := h.model.Load().(string)
		if model == "" {
			model = probeModel(models)
		}
		return judge(caller.Do(ctx, upstream.Ask{Model: model, Request: tasks.Request{
			Kind: tasks.Text, Body: []byte(`"ping"`), MaxTokens: 1, InputTokens: 8,
		}})), nil
	}
}

// probeModel is the model of a probe in a pool that has not been called yet:
// the cheapest that its globs name.
func probeModel(globs []string) string {
	for _, g := range globs {
		for _, known := range []string{"claude-haiku-4-5", "gpt-4o-mini"} {
			if ok, err := path.Match(g, known); err == nil && ok {
				return known
			}
		}
	}
	if len(globs) > 0 && !strings.ContainsAny(globs[0], "*?[") {
		return globs[0]
	}
	return "claude-haiku-4-5"
}
