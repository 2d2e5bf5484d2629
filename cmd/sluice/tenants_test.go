package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// What one tenant may do to itself and to others: the whole program in one
// process, on a real Redis, over HTTP.

// talker is a provider that refuses what asks it to, and streams an answer with
// its text in two parts, the second of them once it is released.
type talker struct {
	*httptest.Server
	text    string
	release chan struct{} // nil: at once
}

func newTalker(t *testing.T, text string, release chan struct{}) *talker {
	k := &talker{text: text, release: release}
	k.Server = httptest.NewServer(k)
	t.Cleanup(k.Close)
	return k
}

func (k *talker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if strings.Contains(string(body), "refuse") {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"type":"error","error":{"type":"invalid_request_error","message":"no"}}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	say := func(event, format string, args ...any) {
		_, _ = fmt.Fprintf(w, "event: "+event+"\ndata: "+format+"\n\n", args...)
		_ = http.NewResponseController(w).Flush()
	}
	say("message_start", `{"type":"message_start","message":{"model":"m","id":"msg_1","type":"message","role":"assistant","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":100,"output_tokens":1}}}`)
	say("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`)
	say("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%q}}`, k.text)
	for tick, open := time.NewTicker(10*time.Millisecond), k.release == nil; !open; {
		select {
		case <-k.release:
			open = true
		case <-tick.C: // what has come is passed on with what comes next
			say("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"."}}`)
		case <-r.Context().Done():
			return
		}
	}
	say("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" and the rest"}}`)
	say("content_block_stop", `{"type":"content_block_stop","index":0}`)
	say("message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":500}}`)
	say("message_stop", `{"type":"message_stop"}`)
}

// status makes one request and returns its answer's status and code.
func (r *stage) status(method, path, body string, header ...string) (status int, code string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), `"code":"`)
	code, _, _ = strings.Cut(rest, `"`)
	return res.StatusCode, code
}

func asking(prompt string, maxTokens int) string {
	return fmt.Sprintf(`{"model":"claude-x","prompt":%q,"max_tokens":%d}`, prompt, maxTokens)
}

// A refused job that is retried over and over gave its estimate back at each
// end, and took it once: whoever did that had an empty account.
func TestRetriesDoNotEmptyTheTokensAccount(t *testing.T) {
	t.Parallel()
	k := newTalker(t, "hello", nil)
	r := outage(t, claude(k.URL)+"tenants: {default: {tokens_per_day: 1000}}\n")
	var done, refused jobView
	if res := r.call("POST", "/v1/jobs", asking("hi", 550), &done, "Prefer", "wait=20"); res.StatusCode != 200 || done.Status != "succeeded" {
		t.Fatalf("submit: %s %+v", res.Status, done)
	}
	// It used 600 of 1,000. One of 350 and its prompt fits, and is given back.
	r.call("POST", "/v1/jobs", asking("refuse", 350), &refused)
	for range 5 {
		if j := r.final(refused.ID); j.Status != "failed" {
			t.Fatalf("job %+v", j)
		}
		var again jobView
		if res := r.call("POST", "/v1/jobs/"+refused.ID+"/retry", "", &again); res.StatusCode != 200 {
			t.Fatalf("retry: %s", res.Status)
		}
	}
	r.final(refused.ID)
	if status, code := r.status("POST", "/v1/jobs", asking("refuse", 450)); status != 429 || code != "quota_exceeded" {
		t.Errorf("450 tokens more with 600 of 1,000 used: %d %s, want 429 quota_exceeded", status, code)
	}
	if status, _ := r.status("POST", "/v1/jobs", asking("refuse", 350)); status != 202 {
		t.Errorf("350 tokens more with 600 of 1,000 used: %d, want 202", status)
	}
}

// Whichever way work comes, it is held to the tenant's budget of money.
func TestABudgetHoldsAtEveryDoor(t *testing.T) {
	t.Parallel()
	k := newTalker(t, "hello", nil)
	r := outage(t, claude(k.URL)+"tenants: {default: {cost_per_day: 0.9}}\nprices: {\"claude-*\": {output: 1000}}\n")
	r.status("POST", "/v1/pools/claude/pause", `{"reason":"a test"}`)
	var first, second jobView
	r.call("POST", "/v1/jobs", asking("hi", 300), &first)
	r.call("POST", "/v1/jobs", asking("hi", 300), &second)
	r.status("POST", "/v1/jobs/"+first.ID+"/cancel", "")
	if status, _ := r.status("POST", "/v1/jobs", asking("hi", 500)); status != 202 { // what was canceled is given back
		t.Fatalf("0.5 with 0.3 of 0.9 set aside: %d, want 202", status)
	}
	for path, body := range map[string]string{
		"/v1/jobs": asking("hi", 200), "/v1/batches": `{"jobs":[` + asking("a", 60) + "," + asking("b", 60) + `]}`, "/v1/jobs/" + first.ID + "/retry": "",
	} {
		var problem struct{ Code, Detail string }
		res := r.call("POST", path, body, &problem)
		if res.StatusCode != 429 || problem.Code != "budget_exhausted" || !strings.Contains(problem.Detail, "0.9 USD a day") || !strings.Contains(problem.Detail, "T00:00:00Z") {
			t.Errorf("%s with 0.8 of 0.9 set aside: %s %+v", path, res.Status, problem)
		}
		if policy := res.Header.Get("RateLimit-Policy"); policy != `"cost_per_day";q=900000;w=86400;qu="millionths of USD"` || res.Header.Get("Retry-After") == "" {
			t.Errorf("%s: RateLimit-Policy %s, Retry-After %s", path, policy, res.Header.Get("Retry-After"))
		}
	}
	if status, code := r.status("POST", "/v1/jobs", asking("hi", 901)); status != 422 || code != "impossible_size" {
		t.Errorf("what no day can pay is %d %s, want 422 impossible_size", status, code)
	}
	var usage struct {
		Quotas []struct {
			Name                  string
			Limit, Used, Reserved float64
		}
	}
	r.call("GET", "/v1/usage", "", &usage)
	found := false
	for _, q := range usage.Quotas {
		found = found || q.Name == "cost_per_day" && q.Limit == 0.9 && q.Used == 0 && q.Reserved == 0.8
	}
	if !found {
		t.Errorf("the usage has %+v", usage)
	}
}

// A retry asks for the tokens and for the place that a submit asks for, and one
// that is canceled before it is sent gives both back.
func TestARetryPaysLikeASubmit(t *testing.T) {
	t.Parallel()
	k := newTalker(t, "hello", nil)
	r := outage(t, claude(k.URL)+"tenants: {default: {tokens_per_day: 1000, queued_jobs: 3}}\n")
	var none map[string]any
	if res := r.call("POST", "/v1/pools/claude/pause", `{"reason":"a test"}`, &none); res.StatusCode != 200 {
		t.Fatalf("pause: %s", res.Status)
	}
	var ids []string
	for i := range 6 {
		var j jobView
		if res := r.call("POST", "/v1/jobs", asking("hi", 300), &j); res.StatusCode != 202 {
			t.Fatalf("submit %d: %s, want 202: those before it were canceled", i+1, res.Status)
		}
		ids = append(ids, j.ID)
		if i < 3 {
			if status, code := r.status("POST", "/v1/jobs/"+j.ID+"/cancel", ""); status != 200 {
				t.Fatalf("cancel: %d %s", status, code)
			}
		}
	}
	retry := func(id string) (int, string) { return r.status("POST", "/v1/jobs/"+id+"/retry", "") }
	if status, code := retry(ids[0]); status != 429 || code != "quota_exceeded" {
		t.Errorf("a fourth in the queue by retry: %d %s, want 429 quota_exceeded", status, code)
	}
	r.status("POST", "/v1/jobs/"+ids[3]+"/cancel", "")
	if status, code := retry(ids[0]); status != 200 {
		t.Errorf("a third in the queue by retry: %d %s, want 200", status, code)
	}
	// There is a place again, but no tokens.
	for _, id := range []string{ids[0], ids[4]} {
		r.status("POST", "/v1/jobs/"+id+"/cancel", "")
	}
	if status, _ := r.status("POST", "/v1/jobs", asking("hi", 650)); status != 202 {
		t.Errorf("654 tokens more with 304 of 1,000 set aside: %d, want 202", status)
	}
	if status, code := retry(ids[1]); status != 429 || code != "quota_exceeded" {
		t.Errorf("304 tokens more by retry with 958 of 1,000 set aside: %d %s, want 429 quota_exceeded", status, code)
	}
	var told jobView
	r.status("POST", "/v1/jobs/"+ids[5]+"/cancel", "")
	res := r.call("POST", "/v1/jobs/"+ids[1]+"/retry", "", &told)
	if left := res.Header.Get("RateLimit"); res.StatusCode != 200 || !strings.Contains(left, `"tokens_per_day";r=42;`) {
		t.Errorf("retried: %s, RateLimit %q; want 42 tokens left", res.Status, left)
	}
}

// A list is for finding jobs: it does not grow with their results.
func TestAListShowsNoResults(t *testing.T) {
	t.Parallel()
	k := newTalker(t, strings.Repeat("x", 200_000), nil)
	r := outage(t, claude(k.URL))
	for range 5 {
		var j jobView
		if res := r.call("POST", "/v1/jobs", asking("hi", 100), &j, "Prefer", "wait=20"); res.StatusCode != 200 || len(j.Text) < 200_000 {
			t.Fatalf("submit: %s, a text of %d bytes", res.Status, len(j.Text))
		}
	}
	for _, query := range []string{"", "?status=succeeded", "?model=claude-x"} {
		var page struct {
			Data []struct {
				ID, Status   string
				Result, Text *json.RawMessage
				Usage        *struct{}
			}
		}
		if res := r.call("GET", "/v1/jobs"+query, "", &page); len(page.Data) != 5 {
			t.Errorf("GET /v1/jobs%s: %s, %d jobs, want 5", query, res.Status, len(page.Data))
		}
		for _, j := range page.Data {
			if j.Status != "succeeded" || j.Result != nil || j.Text != nil || j.Usage == nil {
				t.Errorf("listed: %+v", j)
			}
		}
	}
}

// repeater is a receiver of webhooks that says again what it was sent.
type repeater struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	got    []string
}

func newRepeater(t *testing.T, status int) *repeater {
	e := &repeater{status: status}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		e.mu.Lock()
		e.got = append(e.got, string(body))
		status := e.status
		e.mu.Unlock()
		w.WriteHeader(status)
		_, _ = w.Write(body)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *repeater) answer(status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status = status
}

func (e *repeater) seen() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.got...)
}

// The prompt, the answer and the metadata of a deleted job are in no key of
// Redis: not with its webhooks and what their receivers said, not under its
// Idempotency-Key, not as a kept or shared answer, not as partial text. What is
// still to be told of it is told without them.
func TestNothingOfADeletedJobIsLeft(t *testing.T) {
	t.Parallel()
	const canary = "Canary7f3b"
	release := make(chan struct{})
	k := newTalker(t, canary, release)
	conf := strings.Replace(claude(k.URL), "max_attempts: 5", "max_attempts: 5\n    cache: {ttl: 1h}\n    share_in_flight: true", 1)
	r := outage(t, conf+"webhooks: {allow_http: true, allow_private: true}\n")
	well, ill := newRepeater(t, 200), newRepeater(t, 500)
	for _, url := range []string{well.URL, ill.URL} {
		var e struct{ ID string }
		if res := r.call("POST", "/v1/webhook-endpoints", `{"url":"`+url+`","events":["job.succeeded"],"include_result":true}`, &e); res.StatusCode != 201 {
			t.Fatalf("endpoint: %s", res.Status)
		}
	}
	body := `{"request":{"model":"claude-x","max_tokens":16,"temperature":0,"messages":[{"role":"user","content":"` + canary + `"}]},` +
		`"metadata":{"k":"` + canary + `"},"webhook_url":"` + well.URL + `/own"}`
	key := []string{"Idempotency-Key", canary}
	var first, second jobView
	r.call("POST", "/v1/jobs", body, &first, key...)
	r.until("the first is being answered", func() bool { return r.job(first.ID).Status == "running" })
	r.call("POST", "/v1/jobs", body, &second)
	r.until("the second waits for the first's answer", func() bool { return r.follows("acme", second.ID) })
	r.reads(first.ID, canary)
	close(release)
	for _, id := range []string{first.ID, second.ID} {
		if j := r.final(id); j.Status != "succeeded" || !strings.Contains(j.Text, canary) {
			t.Fatalf("job %+v", j)
		}
	}
	type delivery struct {
		ID, About, Status string
		Log               []struct {
			Outcome, Answer string
		}
	}
	var list struct{ Data []delivery }
	r.until("every delivery has been attempted", func() bool {
		r.call("GET", "/v1/deliveries", "", &list)
		n := 0
		for _, d := range list.Data {
			if len(d.Log) > 0 && strings.Contains(d.Log[0].Answer, canary) {
				n++
			}
		}
		return n == 6
	})

	rdb := r.redis.Client()
	if len(redistest.Holding(t, rdb, canary)) < 8 {
		t.Fatal("the test is void: what it looks for is not there")
	}
	for _, id := range []string{first.ID, second.ID} {
		if status, code := r.status("DELETE", "/v1/jobs/"+id, ""); status != 204 {
			t.Fatalf("delete: %d %s", status, code)
		}
	}
	for _, key := range redistest.Holding(t, rdb, canary) {
		t.Errorf("%s still holds it", key)
	}

	// What became of its events can be looked up, and what has not arrived still does.
	ill.answer(200)
	before := len(ill.seen())
	r.call("GET", "/v1/deliveries", "", &list)
	pending := 0
	for _, d := range list.Data {
		if len(d.Log) == 0 || d.Log[0].Outcome == "" || d.Log[0].Answer != "" {
			t.Errorf("delivery %+v: want its attempt without the receiver's words", d)
		}
		if d.Status == "pending" {
			pending++
			rdb.ZAddXX(t.Context(), "sluice:{s}:wdue", redis.Z{Score: 1, Member: d.ID})
			continue
		}
		if status, code := r.status("POST", "/v1/deliveries/"+d.ID+"/redeliver", ""); status != 409 || code != "conflict" {
			t.Errorf("redeliver what told of a deleted job: %d %s, want 409 conflict", status, code)
		}
	}
	if pending != 2 || len(list.Data) != 6 {
		t.Errorf("%d deliveries, %d of them pending; want 6 and 2", len(list.Data), pending)
	}
	r.until("the rest is told", func() bool { return len(ill.seen()) >= before+2 })
	for _, got := range ill.seen()[before:] {
		if !strings.Contains(got, `"job.succeeded"`) || !strings.Contains(got, `"id":"job_`) || strings.Contains(got, canary) {
			t.Errorf("told of a deleted job: %s", got)
		}
	}
	r.until("they are recorded", func() bool {
		r.call("GET", "/v1/deliveries?status=pending", "", &list)
		return len(list.Data) == 0
	})
	for _, key := range redistest.Holding(t, rdb, canary) {
		t.Errorf("%s holds it again", key)
	}

	// Its key is free: accepted must mean that something runs.
	var again jobView
	if res := r.call("POST", "/v1/jobs", body, &again, key...); res.StatusCode != 202 || again.ID == first.ID || res.Header.Get("Idempotency-Replayed") != "" {
		t.Errorf("submitted again under its key: %s, %s, was %s; want a new job", res.Status, again.ID, first.ID)
	}
	if j := r.final(again.ID); j.Status != "succeeded" {
		t.Errorf("job %+v", j)
	}
}

// reads follows a job until a text has come.
func (r *stage) reads(id, text string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/v1/jobs/"+id+"/events", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if strings.Contains(lines.Text(), text) && strings.Contains(lines.Text(), `"offset"`) {
			return
		}
	}
	r.t.Fatalf("the events of %s ended without %q", id, text)
}

// A tenant is deleted by the shell: its jobs, the one that runs too, are gone, its kept token is no longer good, and the name begins anew.
func TestATenantIsDeletedByTheShell(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	defer close(release)
	k := newTalker(t, "hello", release)
	r := outage(t, claude(k.URL))
	var running, waits jobView
	r.call("POST", "/v1/jobs", asking("runs", 10), &running)
	r.until("the job runs", func() bool { return r.job(running.ID).Status == "running" })
	r.call("POST", "/v1/jobs", `{"model":"claude-x","prompt":"later","not_before":"2099-01-01T00:00:00Z"}`, &waits)
	mine, ops := r.token, r.mint("ops")
	var kept struct{ Token string }
	r.token = ops
	r.call("POST", "/v1/tokens", `{"tenant":"acme","name":"kept","scope":"jobs:read","ttl":"1h"}`, &kept)
	var out, errs strings.Builder
	code := typeIn(t.Context(), []string{"tenants", "delete", "acme", "--reason", "left us"}, []string{"SLUICE_URL=" + r.url, "SLUICE_TOKEN=" + ops}, strings.NewReader(""), &out, &errs)
	if code != 0 || !strings.Contains(errs.String(), "acme: deleted 2 jobs") {
		t.Fatalf("exit %d, %s", code, errs.String())
	}
	r.token = mine
	for _, id := range []string{running.ID, waits.ID} {
		if status, _ := r.status("GET", "/v1/jobs/"+id, ""); status != 404 {
			t.Errorf("GET of a job: %d", status)
		}
	}
	if status, _ := r.status("POST", "/v1/jobs", asking("anew", 10)); status != 202 {
		t.Errorf("a submit of the new tenant: %d", status)
	}
	r.token = kept.Token
	if status, _ := r.status("GET", "/v1/jobs", ""); status != 401 {
		t.Errorf("the kept token: %d", status)
	}
}

// An API that cannot answer just now is asked again: what is being deleted goes on.
func TestADeletionWaitsFor503Out(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) < 3 {
			rw.WriteHeader(http.StatusServiceUnavailable)
			_, _ = rw.Write([]byte(`{"status":503,"code":"unavailable"}`))
			return
		}
		_, _ = rw.Write([]byte(`{"deleted":true,"jobs":3}`))
	}))
	t.Cleanup(api.Close)
	var out, errs strings.Builder
	code := typeIn(t.Context(), []string{"tenants", "delete", "acme"}, []string{"SLUICE_URL=" + api.URL, "SLUICE_TOKEN=x"}, strings.NewReader(""), &out, &errs)
	if code != 0 || calls.Load() != 3 || !strings.Contains(errs.String(), "acme: deleted 3 jobs") {
		t.Errorf("exit %d after %d calls, %s", code, calls.Load(), errs.String())
	}
}

// Limits of each user are refused where nobody is told apart, by the file and by the shell in the same words; to say that there is none is not.
func TestLimitsThatBindNobodyAreRefused(t *testing.T) {
	t.Parallel()
	const words = "limits each user, and auth.users is shared: say auth.users: separate, or leave it out"
	r := outage(t, claude("http://127.0.0.1:9"))
	ops := r.mint("ops")
	for flag, want := range map[string]string{"--user-queued-jobs=3": words, "--user-cost-per-day=0.5": words, "--user-submits-per-minute=0": "", "--queued-jobs=3": ""} {
		var out, errs strings.Builder
		code := typeIn(t.Context(), []string{"tenants", "set", "acme", flag}, []string{"SLUICE_URL=" + r.url, "SLUICE_TOKEN=" + ops}, strings.NewReader(""), &out, &errs)
		if (code == 0) != (want == "") || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: exit %d, %s", flag, code, errs.String())
		}
	}
	file := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(file, []byte("tenants: {acme: {users: {queued_jobs: 3}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, faults := config.Load(file, nil); !strings.Contains(fmt.Sprint(faults), words) {
		t.Errorf("the file's faults are %v", faults)
	}
}

// A batch of a token that is narrowed to pools, refused at its last line, leaves nothing of what was staged
// before, and takes nothing of a quota.
func TestABatchForAnotherPoolIsRefusedAtItsLastLine(t *testing.T) {
	t.Parallel()
	w := newWire(t, recorded(t, "anthropic/text"))
	r := outage(t, claude(w.URL)+"  other: {provider: anthropic, models: [\"other-*\"]}\n")
	narrow, err := auth.Mint(auth.MintConfig{
		Secret: stageSecret, Issuer: "sluice", Audience: "sluice", Subject: "ann", Tenant: "acme", Scopes: []string{auth.ScopeJobsRead, auth.ScopeJobsWrite}, Pools: []string{"claude"},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.token = narrow
	lines := strings.Repeat(`{"model":"claude-x","prompt":"Canary9c1"}`+"\n", 450) + `{"model":"other-x","prompt":"Canary9c1"}`
	var said struct{ Code, Detail string }
	if res := r.call("POST", "/v1/batches", lines, &said, "Content-Type", "application/x-ndjson"); res.StatusCode != http.StatusForbidden || !strings.Contains(said.Detail, "451") {
		t.Errorf("the batch: %s, %+v", res.Status, said)
	}
	for _, text := range []string{"Canary9c1", "batch_", "job_"} {
		for _, key := range redistest.Holding(t, r.redis.Client(), text) {
			t.Errorf("%s holds %s", key, text)
		}
	}
	var usage struct {
		Quotas []struct {
			Name string
			Used int64
		}
	}
	r.call("GET", "/v1/usage", "", &usage)
	for _, q := range usage.Quotas {
		if q.Used != 0 {
			t.Errorf("of the quota %s %d are used", q.Name, q.Used)
		}
	}
	if len(usage.Quotas) == 0 {
		t.Error("there is no quota")
	}
}
