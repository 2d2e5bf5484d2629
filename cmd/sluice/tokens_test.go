package main_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api/auth"
)

// A token that the server keeps lives long, asks only for its models, and is good on no
// process within a second of its revocation: requests that wait, open streams and sessions
// of the console end. A token that was minted offline is revoked by its jti as well.
func TestATokenIsRevokedEverywhere(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	first := s.url
	s.startAPI()
	admin := s.as(t, "ops", auth.ScopeAdmin)
	on := func(url string, raw string) caller { other := *s; other.url = url; return caller{&other, t, raw} }
	made := admin.do("POST", "/v1/tokens", `{"tenant":"acme","scope":"jobs:read jobs:write admin","ttl":"3650d","name":"ci","models":["halted-*"]}`).want(t, 201)
	raw, id := made.str("token"), made.str("id")
	pooled := admin.do("POST", "/v1/tokens", `{"tenant":"acme","scope":"jobs:read jobs:write","ttl":"1h","name":"ci","pools":["halted","none"]}`).want(t, 201).str("token")
	for _, at := range []string{first, s.url} {
		on(at, raw).do("GET", "/v1/jobs", "").want(t, 200)
	}
	file := on(first, raw).uploads(t, `{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"gpt-x","input":"x"}}`+"\n").want(t, 200).str("id")
	for path, body := range map[string]string{
		"/anthropic/v1/messages":              `{"model":"claude-x","max_tokens":5,"messages":[{"role":"user","content":"x"}]}`,
		"/openai/v1/chat/completions":         `{"model":"gpt-x","messages":[{"role":"user","content":"x"}]}`,
		"/openai/v1/responses":                `{"model":"gpt-x","input":"x","background":true}`,
		"/openai/v1/embeddings":               `{"model":"gpt-x","input":"x"}`,
		"/v1/batches":                         `{"jobs":[{"model":"gpt-x","prompt":"x"}]}`,
		"/anthropic/v1/messages/batches":      `{"requests":[` + asked("a", "halted-x", "x") + `,` + asked("b", "claude-x", "x") + `]}`,
		"/anthropic/v1/messages/count_tokens": `{"model":"claude-x","messages":[{"role":"user","content":"x"}]}`,
		"/openai/v1/batches":                  `{"input_file_id":"` + file + `","endpoint":"/v1/embeddings","completion_window":"24h"}`,
	} {
		if r := on(first, raw).do("POST", path, body); r.status != 403 || !strings.Contains(string(r.body), "halted-*") {
			t.Errorf("another model by %s: %d %s", path, r.status, r.body)
		}
		if r := on(first, pooled).do("POST", path, body); r.status != 403 || !strings.Contains(string(r.body), "only these pools: halted, none") {
			t.Errorf("another pool by %s: %d %s", path, r.status, r.body)
		}
	}
	admin.do("POST", "/v1/pools/halted/pause", `{"reason":"to wait"}`).want(t, 200)
	job := on(first, raw).do("POST", "/v1/jobs", prompt("halted-x", "waits")).want(t, 202).str("id")

	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Transport: s.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	visit := func(method string, form url.Values) int {
		path := "/login"
		if form == nil {
			path = "/"
		}
		req, err := http.NewRequestWithContext(t.Context(), method, first+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Origin", first)
		}
		res, err := browser.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	if visit("POST", url.Values{"token": {raw}}) != 303 || visit("GET", nil) != 200 {
		t.Fatal("nobody is signed in")
	}
	poll := make(chan reply, 2)
	go func() { poll <- on(first, raw).do("GET", "/v1/jobs/"+job+"?wait=30", "") }()
	go func() {
		poll <- on(first, raw).do("POST", "/anthropic/v1/messages", `{"model":"halted-x","max_tokens":5,"messages":[{"role":"user","content":"x"}]}`)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", first+"/v1/jobs/"+job+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+raw)
	stream, err := (&http.Client{Transport: s.transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	events := bufio.NewScanner(stream.Body)
	for events.Scan() && !strings.HasPrefix(events.Text(), "data:") {
	}

	told := make(chan reply, 1)
	go func() {
		told <- on(first, raw).do("POST", "/anthropic/v1/messages", `{"model":"halted-x","max_tokens":5,"stream":true,"messages":[{"role":"user","content":"x"}]}`)
	}()
	eventually(t, "the stream's job waits", func() bool {
		return len(on(first, raw).do("GET", "/v1/jobs", "").get("data").([]any)) == 3
	})

	// On the second process; then the first has to know.
	admin.do("DELETE", "/v1/tokens/"+id+"?reason=lost", "").want(t, 204)
	begun := time.Now()
	on(s.url, raw).do("GET", "/v1/jobs", "").want(t, 401)
	eventually(t, "the first process refuses it", func() bool { return on(first, raw).do("GET", "/v1/jobs", "").status == 401 })
	if took := time.Since(begun); took > 10*time.Second { // a second, by the ledger's own test
		t.Errorf("it was good for %s", took)
	}
	on(first, raw).do("POST", "/v1/jobs", prompt("halted-x", "late")).want(t, 401)
	for range 2 {
		if r := <-poll; r.status != 401 {
			t.Errorf("a request that waited: %d %s", r.status, r.body)
		}
	}
	if r := <-told; !strings.HasSuffix(strings.TrimSpace(string(r.body)), "}") || !strings.Contains(string(r.body), "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"authentication_error\"") {
		t.Errorf("a stream of a call: %d %s", r.status, r.body)
	}
	for events.Scan() {
	}
	if took := time.Since(begun); took > 25*time.Second {
		t.Errorf("the stream ended after %s", took)
	}
	if got := visit("GET", nil); got == 200 {
		t.Error("the session of the console goes on")
	}
	admin.do("DELETE", "/v1/tokens/"+id, "").want(t, 204)

	offline := token(t, "acme")
	on(first, offline).do("GET", "/v1/jobs", "").want(t, 200)
	admin.do("DELETE", "/v1/tokens/"+jtiOf(t, offline), "").want(t, 204)
	eventually(t, "the first process refuses the other", func() bool { return on(first, offline).do("GET", "/v1/jobs", "").status == 401 })

	var acts []string
	for _, a := range admin.do("GET", "/v1/audit", "").want(t, 200).get("data").([]any) {
		acts = append(acts, at(a, "action").(string)+" "+at(a, "via").(string))
	}
	if got := strings.Join(acts, ", "); got != "revoke_token api, revoke_token api, pause api, create_token api, create_token api" {
		t.Errorf("the audit: %s", got)
	}
	if keys, err := s.redis.Client().Keys(t.Context(), "*").Result(); err != nil || len(keys) == 0 {
		t.Error(keys, err)
	}
	if strings.Contains(s.api.stderr.String(), raw) {
		t.Error("the token is in the log")
	}

	// Without Redis nothing is changed, and nobody is told that a token is bad.
	s.redis.Kill()
	eventually(t, "writes are refused", func() bool {
		r := admin.do("POST", "/v1/jobs", prompt("claude-x", "x"))
		return r.status == 503 || r.status == 403
	})
	keep := on(first, token(t, "acme"))
	eventually(t, "a good token's writes are 503", func() bool { return keep.do("POST", "/v1/jobs", prompt("claude-x", "x")).status == 503 })
}

func jtiOf(t *testing.T, raw string) string {
	t.Helper()
	var c struct {
		JTI string `json:"jti"`
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err = errors.Join(err, json.Unmarshal(text, &c)); err != nil {
		t.Fatal(err)
	}
	return c.JTI
}
