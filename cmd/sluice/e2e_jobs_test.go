package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"

	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api/auth"
)

// members returns the sorted names of a JSON object.
func members(v any) []string {
	o, _ := v.(map[string]any)
	return slices.Sorted(maps.Keys(o))
}

func testJob(t *testing.T, s *system) {
	c := s.as(t, "job")
	r := c.do("POST", "/v1/jobs", `{"model":"claude-x","prompt":"hello","metadata":{"b":"2","a":"1"}}`).want(t, 202)
	id := r.str("id")
	if !regexp.MustCompile(`^job_[0-9A-HJKMNP-TV-Z]{26}$`).MatchString(id) {
		t.Errorf("id %q", id)
	}
	if n, err := strconv.Atoi(r.header.Get("Retry-After")); err != nil || n < 1 {
		t.Errorf("Retry-After %q", r.header.Get("Retry-After"))
	}
	if got := r.header.Get("Location"); got != s.url+"/v1/jobs/"+id || got != r.str("links.self") {
		t.Errorf("Location %q, self %q", got, r.str("links.self"))
	}
	want := strings.Fields("attempts created_at deadline error expires_at finish finished_at id links metadata model not_before object pool priority result started_at status text upstream usage waiting")
	for _, x := range []reply{r, c.final(id)} {
		var job any
		if err := json.Unmarshal(x.body, &job); err != nil {
			t.Fatal(err)
		}
		if got := members(job); !slices.Equal(got, want) {
			t.Errorf("members %v; want %v", got, want)
		}
		if x.str("object") != "job" || x.str("pool") != "claude" || x.str("priority") != "normal" || x.str("model") != "claude-x" || x.str("metadata.a") != "1" || x.str("metadata.b") != "2" {
			t.Errorf("job %s", x.body)
		}
		for _, l := range []string{"self", "events", "cancel"} {
			if !strings.HasPrefix(x.str("links."+l), s.url+"/v1/jobs/"+id) {
				t.Errorf("link %s: %s", l, x.body)
			}
		}
	}
	x := c.final(id)
	if x.str("status") != "succeeded" || x.num("attempts") != 1 || x.str("text") == "" || x.get("error") != nil || x.get("waiting") != nil {
		t.Errorf("final job %s", x.body)
	}
	if got, want := members(x.get("usage")), strings.Fields("cache_creation_input_tokens cache_read_input_tokens input_tokens output_tokens"); !slices.Equal(got, want) {
		t.Errorf("usage %v", got)
	}
	if got := x.str("result.type"); got != "message" {
		t.Errorf("result %s", x.body)
	}
	attempts, _ := x.get("upstream.attempts").([]any)
	ids, _ := x.get("upstream.request_ids").([]any)
	if x.str("upstream.provider") != "anthropic" || len(attempts) != 1 || len(ids) != 1 {
		t.Fatalf("upstream %v", x.get("upstream"))
	}
	for _, name := range []string{"n", "started_at", "ended_at", "outcome", "status", "request_id"} {
		if at(attempts[0], name) == nil {
			t.Errorf("attempt without %s: %v", name, attempts[0])
		}
	}
	for _, name := range []string{"created_at", "started_at", "finished_at", "expires_at"} {
		if _, err := time.Parse(time.RFC3339, x.str(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if d := parseTime(t, x.str("expires_at")).Sub(parseTime(t, x.str("finished_at"))); d != 168*time.Hour {
		t.Errorf("a result is kept for %v", d)
	}
	etag := x.header.Get("ETag")
	if etag == "" {
		t.Fatal("no ETag")
	}
	if r := c.do("GET", "/v1/jobs/"+id, "", "If-None-Match", etag); r.status != 304 || len(r.body) != 0 || r.header.Get("ETag") != etag {
		t.Errorf("If-None-Match: %d %q", r.status, r.body)
	}
	c.do("GET", "/v1/jobs/"+id, "", "If-None-Match", `"other"`).want(t, 200)

	// A provider's refusal fails the job at once, with what it said.
	f := c.final(c.submit(prompt("claude-x", "[[fault:400]]")))
	if f.str("status") != "failed" || f.str("error.code") != "upstream_rejected" || f.num("error.upstream_status") != 400 || f.get("error.maybe_billed") != false || f.str("error.message") == "" {
		t.Errorf("refused job %s", f.body)
	}
}

func parseTime(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func testForwarding(t *testing.T, s *system) {
	c := s.as(t, "forward")
	const odd = `"zeta": 1,  "big":123456789012345678901234567890, "x":1.50, "e":1E+2, "neg":-0, "esc":"\u00e9\/\ud83d\ude00 <&>","nested":{"b":[1, 2,{"a" :null}],"a":true}`
	for model, path := range map[string]string{"claude-fwd": "/v1/messages", "gpt-fwd": "/v1/chat/completions"} {
		body := `{"model":"` + model + `", "max_tokens" : 7, "messages":[{"role":"user","content":"exact-` + model + `"}], ` + odd + `}`
		if f := c.final(c.submit(`{"request":` + body + `}`)); f.str("status") != "succeeded" {
			t.Errorf("%s: %s", model, f.body)
		}
		calls := s.provider.calls("exact-" + model)
		if len(calls) != 1 {
			t.Fatalf("%s: %d calls", model, len(calls))
		}
		got := calls[0]
		if !bytes.Contains(got.body, []byte(odd)) || !bytes.HasPrefix(got.body, []byte(strings.TrimSuffix(body, "}"))) || got.path != path {
			t.Errorf("%s got at %s\n%s\nwant\n%s", model, got.path, got.body, body)
		}
	}
	key := s.provider.calls("exact-claude")[0].header
	if key.Get("X-Api-Key") != "key-canary-anthropic" || key.Get("Anthropic-Version") != "2023-06-01" || key.Get("Anthropic-Beta") != "" {
		t.Errorf("headers to Anthropic %v", key)
	}
	if got := s.provider.calls("exact-gpt")[0].header.Get("Authorization"); got != "Bearer key-canary-openai" {
		t.Errorf("Authorization to OpenAI %q", got)
	}
	c.final(c.submit(prompt("claude-x", "versioned"), "anthropic-version", "2024-01-02", "anthropic-beta", "one-2024,two-2025"))
	h := s.provider.calls("versioned")[0].header
	if h.Get("Anthropic-Version") != "2024-01-02" || h.Get("Anthropic-Beta") != "one-2024,two-2025" {
		t.Errorf("headers kept %v", h)
	}
	// A prompt becomes a message, and 1024 tokens are the default.
	c.final(c.submit(prompt("claude-x", "plain-prompt é")))
	var sent struct {
		Model     string
		MaxTokens int `json:"max_tokens"`
		Messages  []struct{ Role, Content string }
	}
	if err := json.Unmarshal(s.provider.calls("plain-prompt")[0].body, &sent); err != nil || sent.MaxTokens != 1024 || len(sent.Messages) != 1 || sent.Messages[0].Content != "plain-prompt é" {
		t.Errorf("sent %+v, %v", sent, err)
	}
}

func testIdempotency(t *testing.T, s *system) {
	c := s.as(t, "keys")
	const body = `{"model":"claude-x","prompt":"once"}`
	first := c.do("POST", "/v1/jobs", body, "Idempotency-Key", "k1").want(t, 202)
	c.final(first.str("id"))
	again := c.do("POST", "/v1/jobs", body, "Idempotency-Key", "k1").want(t, 202)
	if !bytes.Equal(first.body, again.body) || again.header.Get("Idempotency-Replayed") != "true" || first.header.Get("Idempotency-Replayed") != "" || again.header.Get("Location") != first.header.Get("Location") || again.header.Get("Retry-After") != first.header.Get("Retry-After") {
		t.Errorf("first %s\nagain %s %v", first.body, again.body, again.header)
	}
	c.do("POST", "/v1/jobs", prompt("claude-x", "other"), "Idempotency-Key", "k1").want(t, 422)
	if r := s.as(t, "keys2").do("POST", "/v1/jobs", body, "Idempotency-Key", "k1").want(t, 202); r.str("id") == first.str("id") || r.header.Get("Idempotency-Replayed") != "" {
		t.Error("another tenant's key is the same key")
	}
	var mu sync.Mutex
	ids, fresh := map[string]int{}, 0
	together(50, func(int) {
		r := c.do("POST", "/v1/jobs", prompt("claude-x", "fifty"), "Idempotency-Key", "k50")
		mu.Lock()
		defer mu.Unlock()
		switch r.status {
		case 202:
			ids[r.str("id")]++
			if r.header.Get("Idempotency-Replayed") == "" {
				fresh++
			}
		case 409:
		default:
			t.Errorf("one of 50: %d %s", r.status, r.body)
		}
	})
	if len(ids) != 1 || fresh != 1 {
		t.Errorf("50 at once made %v, %d of them fresh", ids, fresh)
	}
	for id := range ids {
		c.final(id)
	}
	if n := len(s.provider.calls("fifty")); n != 1 {
		t.Errorf("50 at once made %d calls", n)
	}
	// The same for batches.
	const batch = `{"jobs":[{"model":"claude-x","prompt":"b"}]}`
	b1 := c.do("POST", "/v1/batches", batch, "Idempotency-Key", "kb").want(t, 202)
	if b2 := c.do("POST", "/v1/batches", batch, "Idempotency-Key", "kb").want(t, 202); b2.str("id") != b1.str("id") || b2.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("batch again: %s", b2.body)
	}
	c.do("POST", "/v1/batches", `{"jobs":[{"model":"claude-x","prompt":"c"}]}`, "Idempotency-Key", "kb").want(t, 422)
	c.do("POST", "/v1/jobs", body, "Idempotency-Key", "kb").want(t, 422)
	// An answer of 200 is a 200 again.
	w1 := c.do("POST", "/v1/jobs", body, "Idempotency-Key", "kw", "Prefer", "wait=20").want(t, 200)
	w2 := c.do("POST", "/v1/jobs", body, "Idempotency-Key", "kw", "Prefer", "wait=20").want(t, 200)
	if w2.header.Get("Idempotency-Replayed") != "true" || !bytes.Equal(w1.body, w2.body) {
		t.Errorf("first %s\nagain %s", w1.body, w2.body)
	}
}

func testWaits(t *testing.T, s *system) {
	c := s.as(t, "waits")
	if r := c.do("POST", "/v1/jobs", prompt("claude-x", "now"), "Prefer", "wait=20").want(t, 200); r.str("status") != "succeeded" || r.header.Get("Preference-Applied") != "wait=20" {
		t.Errorf("waited for %s", r.body)
	}
	begun, release := time.Now(), s.provider.hold("late-answer")
	r := c.do("POST", "/v1/jobs", prompt("claude-x", "late-answer"), "Prefer", "respond-async, wait=1").want(t, 202)
	if took := time.Since(begun); took < 900*time.Millisecond {
		t.Errorf("wait=1 took %v", took)
	}
	if r.header.Get("Location") == "" || r.header.Get("Retry-After") == "" {
		t.Errorf("not in time: %v %s", r.header, r.body)
	}
	for ; r.str("status") == "queued"; r = c.do("GET", "/v1/jobs/"+r.str("id")+"?wait=1", "").want(t, 200) { // on a busy machine
	}
	if r.str("status") != "running" || r.get("waiting") != nil {
		t.Errorf("not in time: %s", r.body)
	}
	release()
	if f := c.do("GET", "/v1/jobs/"+r.str("id")+"?wait=20", "").want(t, 200); f.str("status") != "succeeded" {
		t.Errorf("the job did not go on: %s", f.body)
	}
	// A long poll that ends without an end.
	id := c.submit(`{"model":"claude-x","prompt":"p","not_before":"2099-01-01T00:00:00Z"}`)
	begun = time.Now()
	p := c.do("GET", "/v1/jobs/"+id+"?wait=1", "").want(t, 200)
	if took := time.Since(begun); took < 900*time.Millisecond || p.str("status") != "scheduled" || p.str("waiting.for") != "not_before" {
		t.Errorf("poll took %v: %s", took, p.body)
	}
	c.do("POST", "/v1/jobs/"+id+"/cancel", "").want(t, 200)
	if r := c.do("POST", "/v1/jobs", prompt("claude-x", "[[fault:400]]"), "Prefer", "wait=20").want(t, 200); r.str("status") != "failed" {
		t.Errorf("waited for %s", r.body)
	}
}

func testLists(t *testing.T, s *system) {
	c := s.as(t, "lists")
	var ids []string
	for i := range 5 {
		id := c.submit(prompt(fmt.Sprintf("claude-l%d", i%2), "x"))
		c.final(id)
		ids = append(ids, id)
	}
	slices.Reverse(ids)
	list := func(query string) (got []string, r reply) {
		r = c.do("GET", "/v1/jobs"+query, "").want(t, 200)
		data, ok := r.get("data").([]any)
		if !ok || !slices.Equal(members(mustJSON(t, r.body)), []string{"data", "has_more", "next"}) {
			t.Fatalf("list %s", r.body)
		}
		for _, j := range data {
			got = append(got, at(j, "id").(string))
		}
		return got, r
	}
	if got, r := list(""); !slices.Equal(got, ids) || r.get("has_more") != false || r.get("next") != nil {
		t.Errorf("all: %v, more %v; want %v", got, r.get("has_more"), ids)
	}
	var paged []string
	for after, n := "", 0; n < 5; n++ {
		got, r := list("?limit=2" + after)
		paged = append(paged, got...)
		if r.get("has_more") != true {
			break
		}
		after = "&after=" + r.str("next")
	}
	if !slices.Equal(paged, ids) {
		t.Errorf("pages %v; want %v", paged, ids)
	}
	if got, _ := list("?model=claude-l1"); !slices.Equal(got, []string{ids[1], ids[3]}) {
		t.Errorf("by model %v", got)
	}
	if got, _ := list("?status=succeeded&limit=100"); len(got) != 5 {
		t.Errorf("by status %v", got)
	}
	if got, _ := list("?status=failed"); len(got) != 0 {
		t.Errorf("failed %v", got)
	}
	b := c.do("POST", "/v1/batches", `{"jobs":[{"model":"claude-x","prompt":"1"},{"model":"claude-x","prompt":"2"}]}`).want(t, 202).str("id")
	if got, _ := list("?batch=" + b); len(got) != 2 {
		t.Errorf("by batch %v", got)
	}
}

func mustJSON(t *testing.T, b []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return v
}

func testMoves(t *testing.T, s *system) {
	c := s.as(t, "moves")
	// Not run yet.
	id := c.submit(`{"model":"claude-x","prompt":"never-sent","not_before":"2099-01-01T00:00:00Z"}`)
	c.do("DELETE", "/v1/jobs/"+id, "").want(t, 409)
	c.do("POST", "/v1/jobs/"+id+"/retry", "").want(t, 409)
	if r := c.do("POST", "/v1/jobs/"+id+"/cancel", "").want(t, 200); r.str("status") != "canceled" || r.str("error.code") != "canceled" || r.get("finished_at") == nil {
		t.Errorf("canceled %s", r.body)
	}
	c.do("POST", "/v1/jobs/"+id+"/cancel", "").want(t, 409)
	if n := len(s.provider.calls("never-sent")); n != 0 {
		t.Errorf("%d calls of a canceled job", n)
	}
	// Running: cut off.
	id = c.submit(prompt("claude-x", "cut-off [[latency:60s]]"))
	eventually(t, "the call is made", func() bool { return len(s.provider.calls("cut-off")) == 1 })
	begun := time.Now()
	c.do("POST", "/v1/jobs/"+id+"/cancel", "").want(t, 200)
	if f := c.final(id); f.str("status") != "canceled" || time.Since(begun) > 30*time.Second {
		t.Errorf("cut off after %v: %s", time.Since(begun), f.body)
	}
	// Queued once more, and to its end.
	if r := c.do("POST", "/v1/jobs/"+id+"/retry", "").want(t, 200); r.str("id") != id || r.str("status") != "queued" || r.get("error") != nil || r.get("finished_at") != nil {
		t.Errorf("retried %s", r.body)
	}
	eventually(t, "the call is made again", func() bool { return len(s.provider.calls("cut-off")) == 2 })
	c.do("POST", "/v1/jobs/"+id+"/cancel", "").want(t, 200)
	c.do("DELETE", "/v1/jobs/"+id, "").want(t, 204)
	for _, verb := range []string{"GET ", "DELETE ", "POST /cancel", "POST /retry", "GET /events"} {
		method, path, _ := strings.Cut(verb, " ")
		c.do(method, "/v1/jobs/"+id+path, "").want(t, 404)
	}
	// Succeeded: final for good.
	id = c.submit(prompt("claude-x", "fine"))
	c.final(id)
	c.do("POST", "/v1/jobs/"+id+"/retry", "").want(t, 409)
	c.do("POST", "/v1/jobs/"+id+"/cancel", "").want(t, 409)
	c.do("DELETE", "/v1/jobs/"+id, "").want(t, 204)
	c.do("DELETE", "/v1/jobs/"+id, "").want(t, 404)
	// Failed, then well.
	id = c.submit(prompt("claude-x", "[[fault:400:1]] heals"))
	if f := c.final(id); f.str("status") != "failed" {
		t.Fatalf("%s", f.body)
	}
	c.do("POST", "/v1/jobs/"+id+"/retry", "").want(t, 200)
	if f := c.final(id); f.str("status") != "succeeded" {
		t.Errorf("after a retry: %s", f.body)
	}
	// A passing fault is tried again by itself.
	if f := c.final(c.submit(prompt("claude-x", "[[fault:500:1]] passes"))); f.str("status") != "succeeded" || f.num("attempts") != 2 {
		t.Errorf("after a passing fault: %s", f.body)
	}
}

func testTimes(t *testing.T, s *system) {
	c := s.as(t, "times")
	var at time.Time
	var id string
	for in := time.Second; ; in *= 4 { // on a busy machine it may begin before it is looked at
		at = time.Now().Add(in)
		id = c.submit(fmt.Sprintf(`{"model":"claude-x","prompt":"later","not_before":%q}`, at.Format(time.RFC3339Nano)))
		r := c.do("GET", "/v1/jobs/"+id, "").want(t, 200)
		if r.str("status") != "scheduled" && time.Now().After(at) && in < patience {
			continue
		}
		if r.str("status") != "scheduled" || r.str("waiting.for") != "not_before" || r.get("not_before") == nil {
			t.Errorf("scheduled %s", r.body)
		}
		break
	}
	if f := c.final(id); f.str("status") != "succeeded" || parseTime(t, f.str("started_at")).Before(at.Truncate(time.Millisecond)) {
		t.Errorf("not_before %v: %s", at, f.body)
	}
	// A deadline passes while the job waits: no call is made.
	id = c.submit(`{"model":"claude-x","prompt":"overdue","not_before":"2099-01-01T00:00:00Z","deadline":"2099-01-01T00:00:01Z"}`)
	c.do("POST", "/v1/jobs/"+id+"/cancel", "").want(t, 200)
	release := s.provider.hold("holder")
	holder := c.submit(prompt("single-x", "holder"))
	eventually(t, "the only slot is taken", func() bool { return len(s.provider.calls("holder")) == 1 })
	id = c.due(500*time.Millisecond, `{"model":"single-x","prompt":"overdue","deadline":%q}`)
	if f := c.final(id); f.str("status") != "expired" || f.str("error.code") != "deadline_exceeded" || f.num("attempts") != 0 || len(s.provider.calls("overdue")) != 0 {
		t.Errorf("overdue, %d calls: %s", len(s.provider.calls("overdue")), f.body)
	}
	release()
	c.final(holder)
	// And while it runs.
	id = c.due(time.Second, `{"model":"claude-x","prompt":"too slow [[fault:hang]]","deadline":%q}`)
	if f := c.final(id); f.str("status") != "expired" || f.str("error.code") != "deadline_exceeded" {
		t.Errorf("too slow: %s", f.body)
	}
}

func testPriority(t *testing.T, s *system) {
	c, admin := s.as(t, "priority"), s.as(t, "priority", auth.ScopeAdmin)
	admin.do("POST", "/v1/pools/ordered/pause", "").want(t, 200)
	var ids []string
	for i, p := range strings.Fields(strings.Repeat("low normal high ", 6)) {
		ids = append(ids, c.submit(fmt.Sprintf(`{"model":"ordered-x","prompt":"in order: %c","priority":%q}`, 'a'+i, p)))
	}
	admin.do("POST", "/v1/pools/ordered/resume", "").want(t, 200)
	for _, id := range ids {
		if f := c.final(id); f.str("status") != "succeeded" {
			t.Errorf("%s", f.body)
		}
	}
	order := ""
	for _, call := range s.provider.calls("in order: ") {
		_, rest, _ := bytes.Cut(call.body, []byte("in order: "))
		order += string(rest[:1])
	}
	// They are handed out in order, and may pass each other on the way.
	place := map[byte]int{}
	for at, n := range []byte(order) {
		place["lnh"[(n-'a')%3]] += at
	}
	if len(order) != 18 || place['h'] >= place['l'] {
		t.Errorf("sent in the order %s; want c, f, i, l, o and r, the high ones, before a, d, g, j, m and p, the low ones", order)
	}
}

// event is one server-sent event.
type event struct{ id, name, data string }

// events reads a stream to its end.
func (c caller) events(path string, headers ...string) (status int, out []event) {
	c.t.Helper()
	res, err := c.send("GET", path, "", headers...)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	var e event
	in := bufio.NewScanner(res.Body)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		name, value, _ := strings.Cut(in.Text(), ": ")
		switch name {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			e.data += value
		case "":
			if e.name != "" {
				out = append(out, e)
			}
			e = event{}
		}
	}
	return res.StatusCode, out
}

func testEvents(t *testing.T, s *system) {
	c := s.as(t, "events")
	id := c.submit(prompt("claude-x", "streamed [[latency:500ms]] [[tokens:40]]"))
	path := "/v1/jobs/" + id + "/events"
	status, all := c.events(path)
	if status != 200 || len(all) < 3 {
		t.Fatalf("%d, %+v", status, all)
	}
	var statuses []string
	text := ""
	for i, e := range all {
		v := mustJSON(t, []byte(e.data))
		switch e.name {
		case "status":
			st, _ := at(v, "status").(string)
			statuses = append(statuses, st)
		case "delta":
			s, _ := at(v, "text").(string)
			text += s
		case "done":
			if i != len(all)-1 {
				t.Errorf("done is event %d of %d", i, len(all))
			}
		default:
			t.Errorf("event %+v", e)
		}
		if e.id == "" {
			t.Errorf("event without id %+v", e)
		}
	}
	f := c.final(id)
	if all[len(all)-1].name != "done" || statuses[len(statuses)-1] != "succeeded" || text != f.str("text") || text == "" {
		t.Errorf("statuses %v, text %q; want %q", statuses, text, f.str("text"))
	}
	// Resumed after any event: exactly what follows it.
	for i := range all[:len(all)-1] {
		_, rest := c.events(path, "Last-Event-ID", all[i].id)
		if len(rest) == 0 || rest[len(rest)-1].name != "done" {
			t.Errorf("after %s: %+v", all[i].id, rest)
		}
		for _, e := range rest {
			if e.id == all[i].id {
				t.Errorf("after %s it is told again", e.id)
			}
		}
	}
	if status, rest := c.events(path, "Last-Event-ID", all[len(all)-1].id); status != 204 || len(rest) != 0 {
		t.Errorf("after done: %d %+v", status, rest)
	}
}

func testBatches(t *testing.T, s *system) {
	c := s.as(t, "batches")
	lines := `{"model":"claude-x","prompt":"one","custom_id":"a"}` + "\n\n" +
		`{"model":"gpt-x","prompt":"two"}` + "\r\n" +
		`{"model":"claude-x","prompt":"[[fault:400]]","custom_id":"bad"}` + "\n" +
		`{"model":"single-x","prompt":"slow-line"}`
	release := s.provider.hold("slow-line")
	r := c.do("POST", "/v1/batches", lines, "Content-Type", "application/x-ndjson").want(t, 202)
	id := r.str("id")
	if !strings.HasPrefix(id, "batch_") || r.header.Get("Location") != s.url+"/v1/batches/"+id || r.header.Get("Retry-After") == "" || r.str("object") != "batch" || r.str("status") != "in_progress" || r.num("counts.total") != 4 {
		t.Errorf("batch %s", r.body)
	}
	if got, want := members(r.get("counts")), strings.Fields("canceled expired failed queued running succeeded total"); !slices.Equal(got, want) {
		t.Errorf("counts %v", got)
	}
	for _, name := range []string{"created_at", "ended_at", "estimated_end_at", "links"} {
		if !slices.Contains(members(mustJSON(t, r.body)), name) {
			t.Errorf("batch without %s", name)
		}
	}
	results := func() []any {
		t.Helper()
		r := c.do("GET", "/v1/batches/"+id+"/results", "").want(t, 200)
		if got := r.header.Get("Content-Type"); got != "application/x-ndjson" {
			t.Errorf("Content-Type %q", got)
		}
		var out []any
		for line := range bytes.Lines(r.body) {
			out = append(out, mustJSON(t, line))
		}
		return out
	}
	eventually(t, "three lines are there while it runs", func() bool { return len(results()) == 3 })
	g := c.do("GET", "/v1/batches/"+id, "").want(t, 200)
	if g.str("status") != "in_progress" || g.num("counts.succeeded") != 2 || g.num("counts.failed") != 1 || g.num("counts.running")+g.num("counts.queued") != 1 {
		t.Errorf("while it runs %s", g.body)
	}
	release()
	eventually(t, "the batch ends", func() bool { return c.do("GET", "/v1/batches/"+id, "").str("status") == "ended" })
	g = c.do("GET", "/v1/batches/"+id, "").want(t, 200)
	if g.num("counts.succeeded") != 3 || g.num("counts.failed") != 1 || g.num("counts.queued") != 0 || g.num("counts.running") != 0 || g.get("ended_at") == nil {
		t.Errorf("after %s", g.body)
	}
	all := results()
	want := map[string]float64{"a": 1, "3": 3, "bad": 4, "5": 5}
	for _, l := range all {
		if got, w := members(l), strings.Fields("attempts custom_id error finish id line result status text usage"); !slices.Equal(got, w) {
			t.Errorf("line's members %v", got)
		}
		if line, ok := want[at(l, "custom_id").(string)]; !ok || at(l, "line") != line {
			t.Errorf("line %v", l)
		}
		delete(want, at(l, "custom_id").(string))
	}
	if len(want) != 0 {
		t.Errorf("no results for %v", want)
	}
	c.do("POST", "/v1/batches/"+id+"/cancel", "").want(t, 409)
	if etag := g.header.Get("ETag"); etag != "" {
		if r := c.do("GET", "/v1/batches/"+id, "", "If-None-Match", etag); r.status != 304 {
			t.Errorf("If-None-Match: %d", r.status)
		}
	}
	// As one document.
	d := c.do("POST", "/v1/batches", `{"jobs":[{"model":"claude-x","prompt":"one"},{"model":"claude-x","prompt":"two","custom_id":"z"}]}`).want(t, 202)
	if d.num("counts.total") != 2 {
		t.Errorf("document %s", d.body)
	}
}

func testBatchFaults(t *testing.T, s *system) {
	c := s.as(t, "batchfaults")
	good := strings.Repeat(`{"model":"claude-x","prompt":"good-line"}`+"\n", 450)
	for name, x := range map[string]struct {
		body, media string
		status      int
		line        float64
	}{
		"syntax at the end":  {good + `{"model":`, "application/x-ndjson", 400, 451},
		"unknown member":     {good + `{"model":"claude-x","prompt":"p","x":1}`, "application/x-ndjson", 400, 451},
		"two on a line":      {`{"model":"claude-x","prompt":"p"}{}` + "\n", "application/x-ndjson", 400, 1},
		"same custom_id":     {`{"model":"claude-x","prompt":"p","custom_id":"a"}` + "\n" + `{"model":"claude-x","prompt":"p","custom_id":"a"}`, "application/x-ndjson", 400, 2},
		"in a document":      {`{"jobs":[{"model":"claude-x","prompt":"p"},{"model":"claude-x"}]}`, "application/json", 400, 2},
		"no pool":            {`{"model":"llama-9","prompt":"p"}`, "application/x-ndjson", 404, 1},
		"deadline":           {`{"model":"claude-x","prompt":"p","deadline":"2020-01-01T00:00:00Z"}`, "application/x-ndjson", 422, 1},
		"nothing":            {"\n\n", "application/x-ndjson", 400, -1},
		"nothing at all":     {"", "application/x-ndjson", 400, -1},
		"no jobs":            {`{"jobs":[]}`, "application/json", 400, -1},
		"no such media type": {good, "text/csv", 415, -1},
	} {
		r := c.do("POST", "/v1/batches", x.body, "Content-Type", x.media)
		if r.status != x.status || r.num("line") != x.line {
			t.Errorf("%s: %d line %v; want %d line %v: %s", name, r.status, r.get("line"), x.status, x.line, r.body)
			continue
		}
		r.isProblem(t)
		if x.line > 0 && !strings.Contains(r.str("detail"), fmt.Sprintf("ine %v", x.line)) {
			t.Errorf("%s: the detail does not name the line: %s", name, r.body)
		}
	}
	if r := c.do("GET", "/v1/jobs", "").want(t, 200); len(r.get("data").([]any)) != 0 {
		t.Errorf("something was stored: %.300s", r.body)
	}
	if n := len(s.provider.calls("good-line")); n != 0 {
		t.Errorf("%d calls of refused batches", n)
	}
}

func testBatchCancel(t *testing.T, s *system) {
	c := s.as(t, "batchcancel")
	lines := `{"model":"claude-x","prompt":"quick"}` + "\n" + strings.Repeat(`{"model":"claude-x","prompt":"batch-cut [[latency:60s]]"}`+"\n", 3) +
		strings.Repeat(`{"model":"claude-x","prompt":"p","not_before":"2099-01-01T00:00:00Z"}`+"\n", 20)
	id := c.do("POST", "/v1/batches", lines, "Content-Type", "application/x-ndjson").want(t, 202).str("id")
	eventually(t, "one is done, three run", func() bool {
		r := c.do("GET", "/v1/batches/"+id, "").want(t, 200)
		return r.num("counts.succeeded") == 1 && r.num("counts.running") == 3
	})
	r := c.do("POST", "/v1/batches/"+id+"/cancel", "").want(t, 200)
	if got := r.str("status"); got != "canceling" && got != "ended" {
		t.Errorf("canceled: %s", r.body)
	}
	begun := time.Now()
	eventually(t, "it ends", func() bool {
		r = c.do("GET", "/v1/batches/"+id, "").want(t, 200)
		return r.str("status") == "ended"
	})
	if took := time.Since(begun); took > 30*time.Second || r.num("counts.canceled") != 23 || r.num("counts.succeeded") != 1 {
		t.Errorf("after %v: %s", took, r.body)
	}
}

func testPools(t *testing.T, s *system) {
	c, admin := s.as(t, "pools"), s.as(t, "pools", auth.ScopeAdmin)
	pool := func(r reply) any {
		t.Helper()
		list, ok := r.get("pools").([]any)
		if !ok {
			list, _ = r.get("data").([]any)
		}
		for _, p := range list {
			if at(p, "name") == "halted" {
				return p
			}
		}
		t.Fatalf("no such pool: %s", r.body)
		return nil
	}
	st := c.do("GET", "/v1/status", "").want(t, 200)
	for _, name := range strings.Fields("name state since reason paused_by expected_resume_at queued running oldest_queued_at allowance") {
		if !slices.Contains(members(pool(st)), name) {
			t.Errorf("pool without %s: %v", name, pool(st))
		}
	}
	if at(pool(st), "state") != "open" || st.str("status") == "" {
		t.Errorf("status %s", st.body)
	}
	if r := admin.do("POST", "/v1/pools/halted/pause", `{"reason":"the-reason"}`).want(t, 200); r.str("state") != "paused" || r.str("reason") != "the-reason" || r.str("paused_by") != "operator" || r.get("since") == nil {
		t.Errorf("paused %s", r.body)
	}
	begun := time.Now()
	r := c.do("POST", "/v1/jobs", prompt("halted-x", "while-paused"), "Prefer", "wait=30").want(t, 202)
	if took := time.Since(begun); took > 20*time.Second || r.str("waiting.for") != "paused" || r.str("status") != "queued" || r.header.Get("Retry-After") == "" {
		t.Errorf("in a paused pool, after %v: %s", took, r.body)
	}
	id := r.str("id")
	if got := pool(admin.do("GET", "/v1/pools", "").want(t, 200)); at(got, "state") != "paused" || at(got, "queued") == 0.0 || at(got, "oldest_queued_at") == nil {
		t.Errorf("pool %v", got)
	}
	if n := len(s.provider.calls("while-paused")); n != 0 {
		t.Errorf("%d calls in a paused pool", n)
	}
	if r := admin.do("POST", "/v1/pools/halted/resume", "").want(t, 200); r.str("state") != "open" || r.get("paused_by") != nil || r.get("reason") != nil {
		t.Errorf("resumed %s", r.body)
	}
	if f := c.final(id); f.str("status") != "succeeded" || f.num("attempts") != 1 {
		t.Errorf("after the pause: %s", f.body)
	}
}
