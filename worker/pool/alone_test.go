package pool

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream"
)

// A 429 is one job's own when it comes again and again while others are answered, and
// the pool's when they are refused as well.
func TestWhose429ItIs(t *testing.T) {
	t.Parallel()
	silent, stated, good := upstream.Answer{Outcome: tasks.RateLimited}, upstream.Answer{Outcome: tasks.RateLimited, HasRetryAfter: true}, upstream.Answer{Outcome: tasks.Succeeded}
	ramp, empty := upstream.Answer{Outcome: tasks.RampLimited}, stated
	empty.Rates.Tokens = upstream.Rate{Present: true, Limit: 1000}
	type call struct {
		job string
		a   upstream.Answer
	}
	many := func(n int, c ...call) (all []call) {
		for range n {
			all = append(all, c...)
		}
		return all
	}
	for _, c := range []struct {
		name           string
		before         []call
		last           call
		shown, inquire bool
	}{
		{"the first", many(20, call{"b", good}), call{"a", silent}, false, true},
		{"the first, with a wait", many(20, call{"b", good}), call{"a", stated}, false, true},
		{"the first, for a ramp", many(20, call{"b", good}), call{"a", ramp}, false, false},
		{"the first, and nothing is left", many(20, call{"b", good}), call{"a", empty}, false, false},
		{"the first, with a wait, and others were refused", many(2, call{"b", stated}, call{"c", stated}), call{"a", stated}, false, false},
		{"the first, and others were refused", many(2, call{"b", silent}, call{"c", silent}), call{"a", silent}, false, false},
		{"again, and others were answered", []call{{"a", silent}, {"b", good}}, call{"a", silent}, true, false},
		{"again, and others were answered before", []call{{"b", good}, {"a", silent}}, call{"a", silent}, false, true},
		{"again, and nobody else asked", []call{{"a", silent}}, call{"a", silent}, false, true},
		{"again, and many were refused", append(many(9, call{"b", good}), call{"c", silent}, call{"a", silent}, call{"b", good}, call{"c", silent}), call{"a", silent}, false, true},
		{"again, and another one is refused for itself", append([]call{{"a", silent}, {"c", silent}}, many(10, call{"b", good})...), call{"a", silent}, true, false},
		{"again, after an answer", []call{{"a", silent}, {"a", good}, {"b", good}}, call{"a", silent}, false, true},
		{"again, with a wait", []call{{"a", stated}, {"b", good}}, call{"a", stated}, false, true},
		{"a ramp again, and others were answered", []call{{"a", ramp}, {"b", good}}, call{"a", ramp}, true, false},
		{"a ramp again, and others were told it", append(many(9, call{"b", good}), call{"a", ramp}, call{"b", good}, call{"c", ramp}), call{"a", ramp}, false, false},
		{"a third time, with a wait", []call{{"a", stated}, {"a", stated}, {"b", good}}, call{"a", stated}, true, false},
	} {
		l, now := alone{}, time.Unix(1000, 0)
		ask := func(c call) sight {
			now = now.Add(4 * time.Second)
			return l.saw(Call{Job: c.job, Model: "gpt-a", Took: time.Second}, c.a, now)
		}
		for _, one := range c.before {
			ask(one)
		}
		if v := ask(c.last); v.shown != c.shown || (v.begin != nil) != c.inquire {
			t.Errorf("%s: %+v; want shown %t, inquire %t", c.name, v, c.shown, c.inquire)
		}
	}
}

// Many prompts of one tenant that are refused at once are inquired into where others'
// are answered, and are the pace where others are refused as well, or there are none.
func TestManyRefusalsOfOneTenant(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		others  []tasks.Outcome
		inquire bool
	}{
		"others are answered":        {[]tasks.Outcome{tasks.Succeeded, tasks.Succeeded, tasks.Succeeded, tasks.Succeeded}, true},
		"others are refused as well": {[]tasks.Outcome{tasks.Succeeded, tasks.RateLimited, tasks.Succeeded, tasks.RateLimited}, false},
		"too few others":             {[]tasks.Outcome{tasks.Succeeded}, false},
		"no others":                  {nil, false},
	} {
		l, now := alone{}, time.Unix(1000, 0)
		saw := func(tenant, job string, o tasks.Outcome) sight {
			now = now.Add(10 * time.Millisecond)
			return l.saw(Call{Job: job, Tenant: tenant, Model: "gpt-a", Took: time.Millisecond}, upstream.Answer{Outcome: o, HasRetryAfter: true}, now)
		}
		for i, o := range c.others {
			saw("other", "b"+strconv.Itoa(i), o)
		}
		for i := range 100 {
			v := saw("poison", "a"+strconv.Itoa(i), tasks.RateLimited)
			if asks := v.begin != nil || v.wait != nil; i > 3 && asks != c.inquire {
				t.Fatalf("%s: the refusal %d: %+v; want it inquired into: %t", name, i, v, c.inquire)
			}
		}
	}
}

// Of jobs that were under way together, none shows anything of the others, and one
// inquiry at a time is asked.
func TestRefusalsThatCameTogetherShowNothing(t *testing.T) {
	t.Parallel()
	l, now, last := alone{}, time.Unix(1000, 0), time.Time{}
	for range 2 {
		now = now.Add(5 * time.Second)
		for job := range 2 * aloneKept {
			v := l.saw(Call{Job: string(rune('a' + job%64)), Model: "gpt-a", Took: time.Second}, upstream.Answer{Outcome: tasks.RateLimited}, now)
			if v.shown {
				t.Fatal("a refusal was shown to be one job's own")
			}
			if v.begin == nil {
				continue
			}
			if at := v.begin.at; at.Before(last.Add(inquiryEvery)) || at.After(now.Add(aloneQueue)) {
				t.Errorf("an inquiry at %v, after one at %v, now %v", at, last, now)
			}
			last = v.begin.at
		}
	}
}

// A few prompts that are told 429 for ever, with nobody else about, are each inquired
// into at each refusal after the first, so that none of them is taken for the pace; and
// each is blamed by a question of its own within some rounds.
func TestAFewJobsRefusedForEverHoldNobodyUp(t *testing.T) {
	t.Parallel()
	for name, a := range map[string]upstream.Answer{"silent": {Outcome: tasks.RateLimited}, "stated": {Outcome: tasks.RateLimited, HasRetryAfter: true}} {
		l, now, blamed := alone{}, time.Unix(1000, 0), map[string]bool{}
		for range 30 {
			l.saw(Call{Job: "good", Model: "gpt-a"}, upstream.Answer{Outcome: tasks.Succeeded}, now)
		}
		for round := range 2 * aloneBlamed {
			for _, job := range []string{"a", "b", "c", "d"} {
				v := l.saw(Call{Job: job, Model: "gpt-a", Took: time.Second}, a, now.Add(time.Duration(job[0]-'a')*300*time.Millisecond))
				if round > 0 && v.begin == nil && v.wait == nil {
					t.Errorf("%s, round %d: job %s is not inquired into", name, round, job)
				}
				if round+1 >= aloneBlamed && v.begin != nil {
					blamed[job] = true
				}
			}
			if round == 3 {
				if v := l.saw(Call{Job: "e", Model: "gpt-a"}, a, now.Add(3*time.Second)); v.begin == nil && v.wait == nil {
					t.Errorf("%s: the first refusal of one more job is not inquired into", name)
				}
			}
			now = now.Add(10 * time.Second)
		}
		if len(blamed) != 4 {
			t.Errorf("%s: blamed %v", name, blamed)
		}
	}
}

// Refusals that come while a model is asked for another one wait for its answer; not
// so where they are many.
func TestRefusalsWaitForTheInquiryUnderWay(t *testing.T) {
	t.Parallel()
	l, now := alone{}, time.Unix(1000, 0)
	saw := func(job string, o tasks.Outcome) sight {
		return l.saw(Call{Job: job, Model: "gpt-a", Took: time.Second}, upstream.Answer{Outcome: o}, now)
	}
	for range 30 {
		saw("good", tasks.Succeeded)
	}
	first := saw("a", tasks.RateLimited)
	if first.begin == nil {
		t.Fatal("the first refusal begins no inquiry")
	}
	for _, job := range []string{"b", "c"} {
		if v := saw(job, tasks.RateLimited); v.wait != first.begin || v.begin != nil {
			t.Errorf("job %s: %+v; want it to wait", job, v)
		}
	}
	if v := saw("d", tasks.RateLimited); v.wait != nil {
		t.Errorf("of 34 calls 4 are refused, and yet the last waits: %+v", v)
	}
}

// A job that alone is refused is told apart by a probe where nobody else asks; a limit
// that the probe meets as well is the pool's.
func TestAProbeTellsAJobsOwn429(t *testing.T) {
	t.Parallel()
	for name, all := range map[string]bool{"one prompt": false, "a limit": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t)
			p.answer = func(_, prompt string) (int, string) {
				if all || strings.Contains(prompt, "POISON") {
					return http.StatusTooManyRequests, `<html>429</html>`
				}
				return 200, ""
			}
			d, want, last := newDesk(t, p, "gpt-*"), Singled, Blamed
			if all {
				want, last = Open, Open
			}
			for i := range 2 {
				d.h.alone.earliest, d.h.alone.asked = time.Time{}, nil // an inquiry is due
				if _, s := d.ask("gpt-a", "POISON"); s != want || len(p.pings) != i+1 {
					t.Errorf("refusal %d: standing %d, want %d; pings %q", i+1, s, want, p.pings)
				}
			}
			for range 2 {
				d.ask("gpt-a", "POISON")
			}
			d.h.alone.earliest, d.h.alone.asked = time.Time{}, nil // an inquiry is due
			if _, s := d.ask("gpt-a", "POISON"); s != last {
				t.Errorf("the fifth refusal: standing %d, want %d", s, last)
			}
			if st := d.state(); st.Paused {
				t.Errorf("the pool is paused: %+v", st)
			}
		})
	}
}

// Questions to several models are asked by turns, and one that would wait too long is
// not asked.
func TestQuestionsToModelsTakeTurns(t *testing.T) {
	t.Parallel()
	l, now := alone{}, time.Unix(1000, 0)
	for i := range 5 {
		model := string(rune('a' + i))
		v := l.saw(Call{Job: "job " + model, Model: model}, upstream.Answer{Outcome: tasks.RateLimited, HasRetryAfter: true}, now)
		if at := now.Add(time.Duration(i) * inquiryEvery); i < 4 && (v.begin == nil || !v.begin.at.Equal(at)) || i == 4 && v.begin != nil {
			t.Errorf("model %s: %+v; want its turn at %v, and none for the fifth", model, v.begin, at)
		}
	}
}

// A 429 that states a wait holds its job alone, its model, or the pool, whichever is
// found to be refused, and the wait is kept.
func TestWhoWaitsForAStatedWait(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		refuses func(model, prompt string) bool
		want    Standing
		pings   string
	}{
		"one prompt": {func(_, prompt string) bool { return prompt == "POISON" }, Singled, "gpt-b"},
		"one model":  {func(model, _ string) bool { return model == "gpt-b" }, Paused, "gpt-b gpt-a gpt-b"},
		"all":        {func(string, string) bool { return true }, Open, "gpt-b gpt-a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t)
			p.after, p.answer = "40", func(string, string) (int, string) { return 200, "" }
			d, held := newDesk(t, p, "gpt-*"), 0
			d.ask("gpt-a", "hello") // one that has succeeded
			p.mu.Lock()
			p.answer = func(model, prompt string) (int, string) {
				if c.refuses(model, prompt) {
					return http.StatusTooManyRequests, `{"error":{"message":"too many"}}`
				}
				return 200, ""
			}
			p.mu.Unlock()
			a := d.caller.Do(t.Context(), upstream.Ask{Question: upstream.Read("gpt-b", tasks.Request{Kind: tasks.Text, Body: []byte(`"POISON"`), MaxTokens: 5})})
			s := d.h.Report(t.Context(), Call{Job: "job", Model: "gpt-b", Held: func() { held++ }}, a)
			if s != c.want || strings.Join(p.pings, " ") != c.pings || held != 1 {
				t.Errorf("standing %d, want %d; pings %q, want %q; told %d times that it is held", s, c.want, p.pings, c.pings, held)
			}
			own := d.h.Held(t.Context(), "gpt-b")
			if c.want == Paused && (own < 30*time.Second || own > 40*time.Second) || c.want != Paused && own != 0 {
				t.Errorf("the model is held for %v", own)
			}
			if d.h.Held(t.Context(), "gpt-a") != 0 || d.state().Paused {
				t.Errorf("another model waits: %+v", d.state())
			}
		})
	}
}
