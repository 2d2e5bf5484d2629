package api_test

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/caps"
	"github.com/sluicehq/sluice/tasks"
)

// revoked is a ledger that keeps some tokens, and of which some were revoked.
type revoked struct {
	kept map[string]tasks.Token
	list []tasks.Revocation
}

func (r revoked) Token(_ context.Context, id string) (tasks.Token, error) {
	if t, ok := r.kept[id]; ok {
		return t, nil
	}
	return tasks.Token{}, tasks.ErrNotFound
}

func (r revoked) Revoked(context.Context, int64) (tasks.Revocations, error) {
	return tasks.Revocations{Version: 1, List: r.list}, nil
}

// pathOf is a path of a described route.
func pathOf(pattern, job, batch string) string {
	id := job
	if strings.Contains(pattern, "batches") {
		id = batch
	}
	return strings.NewReplacer("{id}", id, "{name}", "claude", "{tenant}", "acme").Replace(pattern)
}

// bare is one request whose answer is not held to openapi.yaml, which takes time where there are hundreds.
func (s *site) bare(method, path, token string, body any) (status int, said string) {
	s.t.Helper()
	res, err := s.client.Do(s.request(context.Background(), method, path, token, body))
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatalf("%s %s: read the answer: %v", method, path, err)
	}
	return res.StatusCode, string(b)
}

// A token that was revoked opens no route, neither to what is its user's own nor to another user's of the
// tenant, whether the server keeps it or not, and by none of the providers' forms; that user's other token and
// another user go on, each with its own.
func TestARevokedTokenOfAUserOpensNoRoute(t *testing.T) {
	t.Parallel()
	secret, now := []byte(strings.Repeat("s", 32)), time.Now().Truncate(time.Second)
	soon := now.Add(time.Hour)
	mint := func(sub, id string) string {
		raw, err := auth.Mint(auth.MintConfig{
			Secret: secret, Issuer: "sluice", Audience: "sluice", Subject: sub, Tenant: "acme", Scopes: auth.Scopes(), ID: id, TTL: time.Hour, Now: func() time.Time { return now },
		})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	record := func(id string) tasks.Token {
		return tasks.Token{ID: id, Tenant: "acme", Subject: "ann", Scopes: auth.Scopes(), Created: soon.Add(-2 * time.Hour), Expires: soon}
	}
	ledger := revoked{kept: map[string]tasks.Token{"tok_good": record("tok_good"), "tok_gone": record("tok_gone")}, list: []tasks.Revocation{{ID: "gone", Until: soon}, {ID: "tok_gone", Until: soon}}}
	s := serve(t, allForms, func(c *api.Config) {
		v, err := auth.New(auth.Config{Issuer: "sluice", Audience: "sluice", HMACSecret: secret, Ledger: ledger, SeparateUsers: true})
		if err != nil {
			t.Fatal(err)
		}
		c.Verifier, c.Caps = v, room(t, caps.Config{FailedTokens: 10_000})
	})
	ann, bob := mint("ann", "tok_good"), mint("bob", "other")
	made := func(token string) (job, batch string) {
		job = s.call("POST", "/v1/jobs", token, hello).want(t, 202).str(t, "id")
		return job, s.call("POST", "/v1/batches", token, hello, "Content-Type", "application/x-ndjson").want(t, 202).str(t, "id")
	}
	hers, herBatch := made(ann)
	his, hisBatch := made(bob)
	before := s.world.made()
	asked := 0
	for _, op := range described(t) {
		method, pattern, _ := strings.Cut(op, " ")
		if slices.Contains([]string{"/healthz", "/readyz", "/openapi.yaml", "/docs"}, pattern) {
			continue
		}
		for _, gone := range []string{mint("ann", "gone"), mint("ann", "tok_gone")} {
			for job, batch := range map[string]string{hers: herBatch, his: hisBatch} {
				asked++
				if status, body := s.bare(method, pathOf(pattern, job, batch), gone, nil); status != 401 || strings.Contains(body, "claude") {
					t.Errorf("%s by a revoked token: %d %s", op, status, body)
				}
			}
		}
	}
	if asked < 200 || s.world.made() != before {
		t.Errorf("%d cells, %d were made", asked, s.world.made()-before)
	}
	for _, row := range []struct {
		token, job string
		want       int
	}{{ann, hers, 200}, {ann, his, 404}, {bob, his, 200}, {bob, hers, 404}} {
		s.call("GET", "/v1/jobs/"+row.job, row.token, nil).want(t, row.want)
	}
}

// switched is a verifier whose claims a test changes.
type switched struct{ claims *auth.Claims }

func (v switched) Verify(context.Context, string) (auth.Claims, error) { return *v.claims, nil }

// live is how many jobs have not ended.
func (w *world) live() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range w.jobs {
		if !j.Status.Final() {
			n++
		}
	}
	return n
}

// has reports whether a job and a batch are there.
func (w *world) has(job, batch string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.jobs[job] != nil && w.batches[batch] != nil
}

// clear forgets all jobs and batches.
func (w *world) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.jobs)
	clear(w.batches)
	w.order = nil
}

// A token that is narrowed to pools makes no job for another and has none run again, by no route of the table;
// the routes that make or run jobs for a token of all pools are those named here, and a new one has to be.
func TestANarrowedTokenMakesNothingByAnyRoute(t *testing.T) {
	t.Parallel()
	const message = `{"model":"claude-x","max_tokens":5,"messages":[{"role":"user","content":"x"}]}`
	makers := map[string]string{
		"POST /v1/jobs":                       hello,
		"POST /v1/batches":                    `{"jobs":[` + hello + `]}`,
		"POST /v1/jobs/retry":                 `{"status":"canceled"}`,
		"POST /v1/jobs/{id}/retry":            "",
		"POST /v1/batches/{id}/retry":         "",
		"POST /anthropic/v1/messages/batches": `{"requests":[{"custom_id":"a","params":` + message + `}]}`,
		"POST /openai/v1/responses":           `{"model":"gpt-x","input":"x","background":true}`,
	}
	waits := map[string]string{ // their answer comes with the job's end
		"POST /anthropic/v1/messages":      message,
		"POST /openai/v1/chat/completions": `{"model":"gpt-x","messages":[{"role":"user","content":"x"}]}`,
		"POST /openai/v1/embeddings":       `{"model":"gpt-x","input":"x"}`,
	}
	seen := map[string]bool{}
	for _, narrow := range []bool{false, true} {
		claims := auth.Claims{Tenant: "acme", Subject: "ci", ID: "1", Scopes: auth.Scopes()}
		s := serve(t, allForms, func(c *api.Config) { c.Verifier = switched{&claims} })
		job, batch := "", ""
		for _, op := range described(t) {
			method, pattern, _ := strings.Cut(op, " ")
			body, makes := makers[op]
			if text, ok := waits[op]; ok {
				if body, makes = text, true; !narrow {
					continue
				}
			}
			if claims.Pools = nil; s.world.live() > 0 || !s.world.has(job, batch) {
				s.world.clear()
				job, batch = s.submit(), s.batch(hello)
				s.bare("POST", "/v1/jobs/"+job+"/cancel", "t", nil)
				s.bare("POST", "/v1/batches/"+batch+"/cancel", "t", nil)
			}
			if narrow {
				claims.Pools = []string{"none"}
			}
			var sent any
			if body != "" {
				sent = body
			}
			status, said := s.bare(method, pathOf(pattern, job, batch), "t", sent)
			n := s.world.live()
			switch {
			case narrow && (n > 0 || makes && status != 403 && !strings.Contains(said, `"retried":0`)):
				t.Errorf("%s by a token for another pool: %d %s, and %d run", op, status, said, n)
			case !narrow && (n > 0) != makes:
				t.Errorf("%s by a token for all pools: %d %s, and %d run", op, status, said, n)
			}
			seen[op] = true
		}
	}
	for op := range maps.Keys(makers) {
		if !seen[op] {
			t.Errorf("there is no %s", op)
		}
	}
}
