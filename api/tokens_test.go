package api_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/tasks"
)

// SaveToken keeps a record.
func (w *world) SaveToken(_ context.Context, t tasks.Token, act tasks.Act) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.denies != nil {
		return w.denies
	}
	if w.fail == nil {
		w.kept, w.acts = append([]tasks.Token{t}, w.kept...), append([]tasks.Act{act}, w.acts...)
	}
	return w.fail
}

// KeptTokens lists records; the tests have no second page.
func (w *world) KeptTokens(_ context.Context, _ string, limit int) (tasks.TokenPage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return tasks.TokenPage{Tokens: w.kept[:min(limit, len(w.kept))]}, w.fail
}

// RevokeToken notes who revoked a token.
func (w *world) RevokeToken(ctx context.Context, _ string, act tasks.Act) error {
	return w.Note(ctx, act)
}

// Note writes a line of the audit.
func (w *world) Note(_ context.Context, act tasks.Act) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail == nil {
		w.acts = slices.DeleteFunc(w.acts, func(other tasks.Act) bool { return act.ID != "" && other.ID == act.ID })
		w.acts = append([]tasks.Act{act}, w.acts...)
	}
	return w.fail
}

// Acts lists the audit.
func (w *world) Acts(_ context.Context, _ string, limit int) (tasks.ActPage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return tasks.ActPage{Acts: w.acts[:min(limit, len(w.acts))]}, w.fail
}

// mintOf is a token of the world's: who it is for, and no more.
func mintOf(t tasks.Token) (string, error) { return t.Tenant + ":" + strings.Join(t.Scopes, ","), nil }

func TestMakingTokens(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const good = `{"tenant":"acme","scope":"jobs:read jobs:write","ttl":"90d","name":"ci"}`
	r := s.call("POST", "/v1/tokens", admin, good)
	r.want(t, 201)
	if r.str(t, "token") != "acme:jobs:read,jobs:write" || !strings.HasPrefix(r.str(t, "id"), "tok_") || r.str(t, "sub") != "ci" || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("made %s", r.body)
	}
	if list := s.call("GET", "/v1/tokens", admin, nil); list.StatusCode != 200 || strings.Contains(string(list.body), `"token":`) || !strings.Contains(string(list.body), r.str(t, "id")) {
		t.Errorf("listed %s", list.body)
	}
	s.call("DELETE", "/v1/tokens/some-jti?reason=lost", admin, nil).want(t, 204)
	s.call("POST", "/v1/pools/claude/pause", admin, `{"reason":"why"}`).want(t, 200)
	s.call("POST", "/v1/pools/claude/resume", admin, nil).want(t, 200)
	var told []string
	for _, act := range s.world.acts {
		told = append(told, act.By+" "+act.Tenant+" "+act.Via+" "+act.Action+" "+act.Target+" "+act.Reason)
	}
	want := []string{
		"somebody ops api resume claude ", "somebody ops api pause claude why", "somebody ops api revoke_token some-jti lost",
		"somebody ops api create_token " + r.str(t, "id") + " ci",
	}
	if !slices.Equal(told, want) {
		t.Errorf("audit %q, want %q", told, want)
	}
	s.call("GET", "/v1/audit", admin, nil).want(t, 200)
	for query, lines := range map[string]int{"": 4, "?limit=1": 1, "?limit=3": 3, "?limit=100": 4} {
		if r := s.call("GET", "/v1/audit"+query, admin, nil, "Accept", "application/x-ndjson").want(t, 200); strings.Count(string(r.body), "\n") != lines || r.Header.Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("the export %s, %s: %s, want %d lines", query, r.Header.Get("Content-Type"), r.body, lines)
		}
	}

	for body, status := range map[string]int{
		`{"scope":"admin","ttl":"1h","name":"x"}`:                                    400,
		`{"tenant":"../x","scope":"admin","ttl":"1h","name":"x"}`:                    400,
		`{"tenant":"acme","scope":"root","ttl":"1h","name":"x"}`:                     400,
		`{"tenant":"acme","scope":"","ttl":"1h","name":"x"}`:                         400,
		`{"tenant":"acme","scope":"admin","name":"x"}`:                               400,
		`{"tenant":"acme","scope":"admin","ttl":"-1h","name":"x"}`:                   400,
		`{"tenant":"acme","scope":"admin","ttl":"3651d","name":"x"}`:                 400,
		`{"tenant":"acme","scope":"admin","ttl":"soon","name":"x"}`:                  400,
		`{"tenant":"acme","scope":"admin","ttl":"1h"}`:                               400,
		`{"tenant":"acme","scope":"admin","ttl":"1h","name":"x","models":[]}`:        400,
		`{"tenant":"acme","scope":"admin","ttl":"1h","name":"x","models":["a?"]}`:    400,
		`{"tenant":"acme","scope":"admin","ttl":"1h","name":"x","jti":"tok_mine"}`:   400,
		`{"tenant":"acme","scope":"admin","ttl":3600,"name":"x","models":["gpt-*"]}`: 201,
	} {
		if r := s.call("POST", "/v1/tokens", admin, body); r.StatusCode != status {
			t.Errorf("%s: %d %s, want %d", body, r.StatusCode, r.body, status)
		}
	}
	for _, who := range []string{writer, "acme:monitor"} {
		s.call("POST", "/v1/tokens", who, good).want(t, 403, "forbidden")
		s.call("GET", "/v1/tokens", who, nil).want(t, 403, "forbidden")
		s.call("DELETE", "/v1/tokens/x", who, nil).want(t, 403, "forbidden")
		s.call("GET", "/v1/audit", who, nil).want(t, 403, "forbidden")
	}
	bare := serve(t, func(c *api.Config) { c.Mint = nil })
	if r := bare.call("POST", "/v1/tokens", admin, good); r.StatusCode != 409 || !strings.Contains(r.str(t, "detail"), "auth.hmac_secret") {
		t.Errorf("without a secret: %d %s", r.StatusCode, r.body)
	}
}

// asIs is a verifier whose every token is of these claims.
type asIs struct{ auth.Claims }

func (a asIs) Verify(context.Context, string) (auth.Claims, error) { return a.Claims, nil }

// A token that is narrowed to models asks for no other, by no route, and makes none that may.
func TestATokenForSomeModels(t *testing.T) {
	t.Parallel()
	claims := auth.Claims{Tenant: "acme", Subject: "ci", ID: "1", Scopes: auth.Scopes(), Models: []string{"claude-x", "claude-sonnet-*"}}
	s := serve(t, func(c *api.Config) { c.Verifier = asIs{claims} })
	s.call("POST", "/v1/jobs", "t", `{"model":"claude-x","prompt":"p"}`).want(t, 202)
	for _, x := range []struct{ path, body string }{
		{"/v1/jobs", `{"model":"claude-y","prompt":"p"}`},
		{"/v1/jobs", `{"model":"claude-x","prompt":"p","fallback_models":["claude-y"]}`},
		{"/v1/jobs", `{"model":"claude-x2","prompt":"p"}`},
		{"/v1/batches", `{"jobs":[{"model":"claude-x","prompt":"p"},{"model":"claude-y","prompt":"p"}]}`},
		{"/v1/tokens", `{"tenant":"acme","scope":"admin","ttl":"1h","name":"x","models":["claude-*"]}`},
	} {
		r := s.call("POST", x.path, "t", x.body)
		r.want(t, 403, "forbidden")
		if !strings.Contains(r.str(t, "detail"), "claude-x, claude-sonnet-*") {
			t.Errorf("%s %s: %s does not say which", x.path, x.body, r.body)
		}
	}
	s.call("POST", "/v1/tokens", "t", `{"tenant":"acme","scope":"admin","ttl":"1h","name":"x"}`).want(t, 201)
	if got := s.world.kept[0].Models; !slices.Equal(got, claims.Models) {
		t.Errorf("a token made by it may ask %q", got)
	}
}

// A token that is revoked while the body of a request still comes changes nothing, by no
// route, and is told so.
func TestATokenIsRevokedDuringAnUpload(t *testing.T) {
	t.Parallel()
	follows := make(chan context.CancelCauseFunc)
	s := serve(t, func(c *api.Config) {
		c.Calls = callers{c.Jobs.(*world)}
		c.Follow = func(ctx context.Context, _ auth.Claims) (context.Context, func()) {
			ctx, revoke := context.WithCancelCause(ctx)
			follows <- revoke
			return ctx, func() { revoke(nil) }
		}
	})
	const message = `{"model":"claude-x","max_tokens":5,"messages":[{"role":"user","content":"x"}]`
	for path, body := range map[string]string{
		"/v1/jobs":                       `{"model":"claude-x","prompt":"p"`,
		"/v1/batches":                    `{"jobs":[{"model":"claude-x","prompt":"p"}]`,
		"/anthropic/v1/messages":         message,
		"/anthropic/v1/messages/batches": `{"requests":[{"custom_id":"a","params":` + message + `}}]`,
		"/openai/v1/chat/completions":    `{"model":"gpt-x","messages":[]`,
		"/openai/v1/responses":           `{"model":"gpt-x","input":"x","background":true`,
		"/openai/v1/embeddings":          `{"model":"gpt-x","input":"x"`,
	} {
		made := s.world.made()
		upload := &interrupted{first: body, then: func() { (<-follows)(auth.ErrRevoked) }, last: "}"}
		res, err := s.client.Do(s.request(t.Context(), "POST", path, writer, upload))
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if got := s.world.made() - made; err != nil || res.StatusCode != 401 || got > 0 {
			t.Errorf("%s: %d, %v: %s, and %d were made", path, res.StatusCode, err, said, got)
		}
	}
}

// made is how many jobs and batches there are.
func (w *world) made() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.jobs) + len(w.batches)
}

// interrupted is a body between whose parts something happens.
type interrupted struct {
	first, last string
	then        func()
}

func (b *interrupted) Read(p []byte) (n int, err error) {
	switch {
	case b.first != "":
		n = copy(p, b.first)
		b.first = b.first[n:]
	case b.last == "":
		return 0, io.EOF
	default:
		b.then()
		n = copy(p, b.last)
		b.last = b.last[n:]
	}
	return n, nil
}

// While nobody can say whether a token was revoked, it reads and changes nothing.
func TestAnUnsureTokenChangesNothing(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) {
		c.Verifier = asIs{auth.Claims{Tenant: "acme", Subject: "ci", ID: "1", Scopes: auth.Scopes(), Unsure: true}}
	})
	s.call("GET", "/v1/jobs", "t", nil).want(t, 200)
	for path, method := range map[string]string{
		"/v1/jobs": "POST", "/v1/batches": "POST", "/v1/tokens": "POST", "/v1/tokens/x": "DELETE", "/v1/tenants/acme": "PUT", "/v1/pools/claude/pause": "POST", "/v1/signing-secret/rotate": "POST",
	} {
		r := s.call(method, path, "t", nil)
		if r.want(t, http.StatusServiceUnavailable, "unavailable"); r.Header.Get("Retry-After") == "" {
			t.Errorf("%s %s: no Retry-After", method, path)
		}
	}
}
