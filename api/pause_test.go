package api_test

import (
	"strings"
	"testing"
	"time"
)

// The end of a pause lies ahead, is shown, and is in the audit; a repeat without one takes it away.
func TestAPauseMayEndByItself(t *testing.T) {
	t.Parallel()
	s := serve(t)
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
	pause := func(body string) reply { return s.call("POST", "/v1/pools/claude/pause", admin, body) }
	for body, want := range map[string]struct {
		status int
		code   string
	}{
		`{"until":"` + in(-time.Second) + `"}`:           {422, "impossible_time"},
		`{"until":"` + in(400*24*time.Hour) + `"}`:       {422, "impossible_time"},
		`{"until":"tomorrow"}`:                           {400, "invalid_request"},
		`{"until":3600}`:                                 {400, "invalid_request"},
		`{"untill":"` + in(time.Hour) + `"}`:             {400, "invalid_request"},
		`{"until":"` + in(time.Hour) + `","until":null}`: {400, "invalid_json"},
	} {
		pause(body).want(t, want.status, want.code)
	}
	until := in(time.Hour)
	r := pause(`{"reason":"work","until":"`+until+`"}`).want(t, 200)
	if got := r.str(t, "expected_resume_at"); !strings.HasPrefix(got, strings.TrimSuffix(until, "Z")) {
		t.Errorf("it is expected to go on at %q, want %s", got, until)
	}
	if acts := s.call("GET", "/v1/audit", admin, nil).want(t, 200); !strings.Contains(string(acts.body), "work (until "+until+")") {
		t.Errorf("the audit is %s", acts.body)
	}
	if r := pause(`{"reason":"work","until":null}`).want(t, 200); r.json(t)["expected_resume_at"] != nil {
		t.Errorf("paused for good: %s", r.body)
	}
}
