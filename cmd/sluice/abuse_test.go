package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// What was found is a table, or what the API says; a release sends its reason, and needs one.
func TestAbuseInTheShell(t *testing.T) {
	t.Parallel()
	const list = `{"data":[{"tenant":"acme","rule":"sweep","window":1800,"measure":41.5,"score":0.93,"at":"2030-01-01T00:00:00Z","action":"throttle"}]}`
	api := newFakeAPI(t, func(_ int, r asked, w http.ResponseWriter) {
		answer := list
		if r.method == http.MethodPost {
			answer = `{"tenant":"acme","action":"observe"}`
		}
		_, _ = io.WriteString(w, answer)
	})
	for _, row := range []struct {
		args   []string
		code   int
		stdout string
		stderr string // a part of it
		sent   string // method, path and body; "": nothing
	}{
		{[]string{"abuse"}, 0, "TENANT  RULE   WINDOW  MEASURE  SCORE  AT                    ACTION\nacme    sweep  1800s   41.5     0.93   2030-01-01T00:00:00Z  throttle\n", "", "GET /v1/abuse "},
		{[]string{"abuse", "--json"}, 0, list + "\n", "", "GET /v1/abuse "},
		{[]string{"abuse", "release", "acme", "--reason", `a "nightly" run`}, 0, "", "acme is released", `POST /v1/abuse/acme/release {"reason":"a \"nightly\" run"}`},
		{[]string{"abuse", "release", "acme", "--reason", "ours", "--json"}, 0, `{"tenant":"acme","action":"observe"}` + "\n", "", `POST /v1/abuse/acme/release {"reason":"ours"}`},
		{[]string{"abuse", "release", "acme"}, 2, "", "--reason", ""},
	} {
		before := len(api.requests())
		code, stdout, stderr := invoke(t, "", api.environ(), row.args...)
		sent := ""
		for _, r := range api.requests()[before:] {
			sent += r.method + " " + r.uri + " " + r.body
		}
		if code != row.code || stdout != row.stdout || !strings.Contains(stderr, row.stderr) || sent != row.sent {
			t.Errorf("%q: code %d, stdout %q, stderr %q, sent %q; want %+v", row.args, code, stdout, stderr, sent, row)
		}
	}
}
