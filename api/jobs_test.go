package api_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/caps"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/tasks"
)

func TestSubmit(t *testing.T) {
	t.Parallel()
	s := serve(t)
	r := s.call("POST", "/v1/jobs", writer, `{"model":"claude-x","prompt":"Say \"hi\" 😀","max_tokens":7,"priority":"high",
		"metadata":{"b":"2","a":"1"},"fallback_models":["gpt-5"],"webhook_url":"https://hooks.example/x?y=1",
		"not_before":"2999-01-01T00:00:00+01:00","deadline":"2999-01-02T00:00:00Z"}`,
		"anthropic-version", "2023-06-01", "anthropic-beta", "a, b").want(t, 202)
	id := r.str(t, "id")
	if got := r.Header.Get("Location"); got != public+"/v1/jobs/"+id {
		t.Errorf("Location is %q", got)
	}
	if r.Header.Get("Retry-After") == "" || r.Header.Get("Retry-After") == "2" {
		t.Errorf("Retry-After of a job that may not begin before 2999 is %q", r.Header.Get("Retry-After"))
	}
	j, err := s.world.Job(t.Context(), "acme", id)
	if err != nil {
		t.Fatal(err)
	}
	q := j.Request
	if q.Kind != tasks.Text || string(q.Body) != `"Say \"hi\" 😀"` || q.MaxTokens != 7 || q.Version != "2023-06-01" || q.Beta != "a, b" || q.InputTokens != tasks.EstimateTokens(len(q.Body)) {
		t.Errorf("the request came out as %+v (%s)", q, q.Body)
	}
	if j.Priority != tasks.High || j.Pool != "claude" || j.Fallback[0] != "gpt-5" || j.WebhookURL != "https://hooks.example/x?y=1" ||
		j.Metadata["a"] != "1" || j.Deadline != time.Date(2999, 1, 2, 0, 0, 0, 0, time.UTC) || j.NotBefore != time.Date(2998, 12, 31, 23, 0, 0, 0, time.UTC) {
		t.Errorf("the job came out as %+v", j)
	}
	v := r.json(t)
	if v["status"] != "scheduled" || v["waiting"].(map[string]any)["for"] != "not_before" {
		t.Errorf("the answer is %s", r.body)
	}
	if !strings.Contains(string(r.body), `"metadata":{"a":"1","b":"2"}`) {
		t.Errorf("metadata is not in order: %s", r.body)
	}
	if strings.Contains(s.log.String(), "hooks.example") || strings.Contains(s.log.String(), "Say") {
		t.Errorf("the log tells too much: %s", s.log)
	}
}

func TestSubmitKeepsTheCallersBytes(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for _, row := range []struct{ name, body, want, kind, model string }{
		{"messages", `{"model":"claude-x","messages":[ {"role":"user","content":"\u00e9"} ]}`, `{"messages":[ {"role":"user","content":"\u00e9"} ]}`, "messages", "claude-x"},
		{"system before", `{"system":[{"type":"text","text":"s"}],"model":"claude-x","messages":[{"role":"user","content":[]}]}`,
			`{"messages":[{"role":"user","content":[]}],"system":[{"type":"text","text":"s"}]}`, "messages", "claude-x"},
		{"request", `{"request": { "model" : "gpt-5","seed":90071992547409931234, "x":1.0e5,"nested":{"max_tokens":3} } }`,
			`{ "model" : "gpt-5","seed":90071992547409931234, "x":1.0e5,"nested":{"max_tokens":3} }`, "request", "gpt-5"},
		{"request and model", `{"model":"claude-x","request":{"messages":[]}}`, `{"messages":[]}`, "request", "claude-x"},
		{"escaped names", `{"mo\u0064el":"claude-x","pr\u006fmpt":"x"}`, `"x"`, "prompt", "claude-x"},
	} {
		t.Run(row.name, func(t *testing.T) {
			id := s.call("POST", "/v1/jobs", writer, row.body).want(t, 202).str(t, "id")
			j, err := s.world.Job(t.Context(), "acme", id)
			if err != nil {
				t.Fatal(err)
			}
			if string(j.Request.Body) != row.want || string(j.Request.Kind) != row.kind || j.Model != row.model {
				t.Errorf("got %s %s for %s, want %s %s", j.Request.Kind, j.Request.Body, j.Model, row.kind, row.want)
			}
		})
	}
}

// Clients that write out every field of a type send null for those that are not set.
func TestAMemberThatIsNullIsNotGiven(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const unset = `"max_tokens":null,"priority":null,"webhook_url":null,"metadata":null,"fallback_models":null,"not_before":null,"deadline":null`
	for name, row := range map[string]struct{ given, nulls string }{
		"prompt":   {`"model":"claude-x","prompt":"x"`, `"messages":null,"system":null,"request":null`},
		"messages": {`"model":"claude-x","messages":[{"role":"user","content":"x"}]`, `"prompt":null,"system":null,"request":null`},
		"request":  {`"request":{"model":"claude-x","messages":[]}`, `"model":null,"prompt":null,"messages":null,"system":null`},
	} {
		t.Run(name, func(t *testing.T) {
			job := func(body string) tasks.Job {
				conforms(t, "Submit", []byte(body))
				id := s.call("POST", "/v1/jobs", writer, body).want(t, 202).str(t, "id")
				j, err := s.world.Job(t.Context(), "acme", id)
				if err != nil {
					t.Fatal(err)
				}
				j.ID, j.CreatedAt, j.Bytes = "", time.Time{}, 0
				return j
			}
			left, null := job("{"+row.given+"}"), job("{"+row.nulls+","+row.given+","+unset+"}")
			if !reflect.DeepEqual(left, null) {
				t.Errorf("left out it is\n%+v, null\n%+v", left, null)
			}
			line := "{" + row.given + "," + unset + `,"custom_id":null}`
			conforms(t, "BatchLine", []byte(line))
			b := s.call("POST", "/v1/batches", writer, line, "Content-Type", "application/x-ndjson").want(t, 202).str(t, "id")
			jobs, _, err := s.world.BatchJobs(t.Context(), "acme", b, 0, 1)
			if err != nil || len(jobs) != 1 || jobs[0].CustomID != "1" {
				t.Errorf("in a batch: %+v, %v", jobs, err)
			}
		})
	}
}

// What the provider takes is forwarded: -1, 0, null and no limit at all, and the
// default never goes into a body that somebody else wrote.
func TestMaxTokensOfARequest(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for _, row := range []struct {
		body          string
		written, most int // into the body; of all answers
		open          bool
	}{
		{`{"request":{"model":"gpt-5","max_completion_tokens":5}}`, 0, 5, false},
		{`{"request":{"model":"gpt-5","max_tokens":6}}`, 0, 6, false},
		{`{"request":{"model":"gpt-5","max_tokens":6,"n":3}}`, 0, 18, false},
		{`{"request":{"model":"gpt-5","max_tokens":null}}`, 0, 128_000, true},
		{`{"request":{"model":"gpt-5","max_tokens":-1}}`, 0, 128_000, true},
		{`{"request":{"model":"gpt-5","max_tokens":0}}`, 0, 128_000, true},
		{`{"request":{"model":"gpt-5"}}`, 0, 128_000, true},
		{`{"request":{"model":"claude-sonnet-4-5"}}`, 0, 64_000, true},
		{`{"max_tokens":9,"request":{"model":"gpt-5"}}`, 9, 9, false},
		{`{"max_tokens":9,"request":{"model":"gpt-5","max_tokens":null}}`, 9, 9, false},
		{`{"max_tokens":null,"request":{"model":"gpt-5","max_tokens":9}}`, 0, 9, false},
		{`{"max_tokens":9,"request":{"model":"gpt-5","max_output_tokens":9}}`, 9, 9, false},
		{`{"request":{"model":"gpt-5","max_output_tokens":1}}`, 0, 128_000, true},
		{`{"max_tokens":9,"request":{"model":"gpt-5","n":2}}`, 9, 18, false},
		{`{"model":"gpt-5","prompt":"x"}`, 1024, 0, false},
		{`{"model":"gpt-5","prompt":"x","not_before":null,"deadline":null}`, 1024, 0, false},
		{`{"model":"gpt-5","prompt":"x","max_tokens":10000000,"metadata":{}}` + "\n", 10000000, 0, false},
	} {
		id := s.call("POST", "/v1/jobs", writer, row.body).want(t, 202).str(t, "id")
		j, err := s.world.Job(t.Context(), "acme", id)
		if err != nil {
			t.Fatal(err)
		}
		if r := j.Request; r.MaxTokens != row.written || r.OutputTokens != row.most || r.Open != row.open {
			t.Errorf("%s: got %d to write, %d at most, open %t; want %d, %d, %t", row.body, r.MaxTokens, r.OutputTokens, r.Open, row.written, row.most, row.open)
		}
	}
	for _, body := range []string{
		`{"max_tokens":9,"request":{"model":"gpt-5","max_tokens":8}}`,
		`{"max_tokens":9,"request":{"model":"gpt-5","max_completion_tokens":8}}`,
		`{"max_tokens":9,"request":{"model":"gpt-5","max_tokens":9,"max_completion_tokens":8}}`,
		`{"max_tokens":9,"request":{"model":"gpt-5","max_tokens":-1}}`,
		`{"max_tokens":9,"request":{"model":"gpt-5","max_tokens":0}}`,
		`{"request":{"model":"gpt-5","max_tokens":1.5}}`,
		`{"request":{"model":"gpt-5","max_tokens":true}}`,
		`{"max_tokens":-1,"request":{"model":"gpt-5"}}`,
		`{"max_tokens":0,"model":"gpt-5","prompt":"x"}`,
	} {
		if detail := s.call("POST", "/v1/jobs", writer, body).want(t, 400, "invalid_request").str(t, "detail"); !strings.Contains(detail, "max_tokens") {
			t.Errorf("%s: the refusal is %q", body, detail)
		}
	}
}

func TestAJobsLife(t *testing.T) {
	t.Parallel()
	s := serve(t)
	id := s.submit()
	path := "/v1/jobs/" + id
	queued := s.call("GET", path, reader, nil).want(t, 200)
	s.world.start(id)
	running := s.call("GET", path, reader, nil).want(t, 200)
	if v := running.json(t); v["status"] != "running" || v["waiting"] != nil || v["finish"] != nil || v["attempts"] != 1.0 ||
		v["upstream"].(map[string]any)["provider"] != "fake" {
		t.Errorf("running: %s", running.body)
	}
	s.world.again(id)
	retrying := s.call("GET", path, reader, nil).want(t, 200)
	s.world.start(id)
	s.world.succeed(id, "Hello\n<b>")
	done := s.call("GET", path, reader, nil).want(t, 200)
	v := done.json(t)
	if v["status"] != "succeeded" || v["text"] != "Hello\n<b>" || v["finish"] != "length" || v["attempts"] != 2.0 {
		t.Errorf("succeeded: %s", done.body)
	}
	if !bytes.Contains(done.body, append([]byte(`"result":`), answerBody("Hello\n<b>")...)) {
		t.Errorf("the result was changed: %s", done.body)
	}
	up := v["upstream"].(map[string]any)
	if up["provider"] != "fake" || len(up["attempts"].([]any)) != 2 || len(up["request_ids"].([]any)) != 1 {
		t.Errorf("upstream is %v", up)
	}
	tags := map[string]bool{}
	for _, r := range []reply{queued, running, retrying, done} {
		tags[r.Header.Get("ETag")] = true
	}
	if len(tags) != 4 {
		t.Errorf("four states have %d entity tags", len(tags))
	}
	r := s.call("GET", path, reader, nil, "If-None-Match", `"x", W/`+done.Header.Get("ETag")).want(t, 304)
	if len(r.body) != 0 || r.Header.Get("ETag") != done.Header.Get("ETag") {
		t.Errorf("304 with %q and %q", r.body, r.Header.Get("ETag"))
	}
	s.call("GET", path, reader, nil, "If-None-Match", queued.Header.Get("ETag")).want(t, 200)

	s.call("POST", path+"/cancel", writer, nil).want(t, 409, "already_final")
	s.call("POST", path+"/retry", writer, nil).want(t, 409, "conflict")
	s.call("DELETE", path, writer, nil).want(t, 204)
	s.call("DELETE", path, writer, nil).want(t, 404, "not_found")
	s.call("GET", path, reader, nil).want(t, 404, "not_found")
}

func TestAnEntityTagChangesWithWhatAJobWaitsFor(t *testing.T) {
	t.Parallel()
	s := serve(t)
	path := "/v1/jobs/" + s.submit()
	first := s.call("GET", path, reader, nil).want(t, 200).Header.Get("ETag")
	s.call("GET", path, reader, nil, "If-None-Match", first).want(t, 304)
	s.call("GET", path, reader, nil, "If-None-Match", strings.TrimSuffix(first, `"`)+`-gzip"`).want(t, 304)
	s.call("POST", "/v1/pools/claude/pause", admin, `{"reason":"x"}`).want(t, 200)
	r := s.call("GET", path, reader, nil, "If-None-Match", first).want(t, 200)
	if r.json(t)["waiting"].(map[string]any)["for"] != "paused" {
		t.Errorf("waiting: %s", r.body)
	}
}

func TestCancelAndRetry(t *testing.T) {
	t.Parallel()
	s := serve(t)
	path := "/v1/jobs/" + s.submit()
	s.call("DELETE", path, writer, nil).want(t, 409, "conflict")
	r := s.call("POST", path+"/cancel", writer, nil).want(t, 200)
	if v := r.json(t); v["status"] != "canceled" || v["error"].(map[string]any)["code"] != "canceled" {
		t.Errorf("canceled: %s", r.body)
	}
	if v := s.call("POST", path+"/retry", writer, nil).want(t, 200).json(t); v["status"] != "queued" || v["error"] != nil {
		t.Errorf("retried: %v", v)
	}
	s.call("POST", path+"/retry", writer, nil).want(t, 409, "conflict")
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	s := serve(t)
	first := s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", `"abc"`).want(t, 202)
	s.world.start(first.str(t, "id"))
	// The same content in another order and form, the key bare.
	again := s.call("POST", "/v1/jobs", writer, `{ "prompt":"Say \u0068ello.", "model":"claude-x" }`, "Idempotency-Key", "abc").want(t, 202)
	if !bytes.Equal(first.body, again.body) {
		t.Errorf("the first answer was\n%s, its repeat\n%s", first.body, again.body)
	}
	for _, name := range []string{"Location", "Retry-After"} {
		if first.Header.Get(name) != again.Header.Get(name) || again.Header.Get(name) == "" {
			t.Errorf("%s was %q, in the repeat %q", name, first.Header.Get(name), again.Header.Get(name))
		}
	}
	if first.Header.Get("Idempotency-Replayed") != "" || again.Header.Get("Idempotency-Replayed") != "true" {
		t.Error("Idempotency-Replayed must be on the repeat only")
	}
	s.call("POST", "/v1/jobs", writer, `{"model":"claude-x","prompt":"other"}`, "Idempotency-Key", "abc").want(t, 422, "idempotency_key_reused")
	s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "abc", "anthropic-beta", "x").want(t, 422, "idempotency_key_reused")
	s.call("POST", "/v1/batches", writer, hello, "Idempotency-Key", "abc", "Content-Type", "application/x-ndjson").want(t, 422, "idempotency_key_reused")
	if r := s.call("POST", "/v1/jobs", other, hello, "Idempotency-Key", "abc").want(t, 202); r.Header.Get("Idempotency-Replayed") != "" {
		t.Error("another tenant's key was taken for this one's")
	}
	s.world.mu.Lock()
	s.world.keys["acme|busy"] = &keyed{busy: true}
	s.world.mu.Unlock()
	s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "busy").want(t, 409, "idempotency_key_busy")
}

// A repeat may come between the job's being stored and its answer's being kept.
func TestARepeatBeforeTheAnswerIsKeptIsA202(t *testing.T) {
	t.Parallel()
	s := serve(t)
	first := s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "k").want(t, 202)
	s.world.mu.Lock()
	kept := s.world.keys["acme|k"].answer
	s.world.keys["acme|k"].answer = nil
	s.world.mu.Unlock()
	id := first.str(t, "id")
	s.world.start(id)
	s.world.succeed(id, "done")
	r := s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "k").want(t, 202)
	if r.str(t, "id") != id || r.Header.Get("Idempotency-Replayed") != "true" || r.Header.Get("Retry-After") == "" {
		t.Errorf("%s %v", r.body, r.Header)
	}
	s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "k", "Prefer", "wait=5").want(t, 200)
	s.world.mu.Lock()
	if s.world.keys["acme|k"].answer != nil {
		t.Error("a repeat's answer is kept as the first one")
	}
	s.world.keys["acme|k"].answer = kept
	s.world.mu.Unlock()
	if r := s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "k").want(t, 202); !bytes.Equal(r.body, first.body) {
		t.Errorf("first %s\nagain %s", first.body, r.body)
	}
}

func TestSeedsThatAFloatCannotTellApartAreOtherContent(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.call("POST", "/v1/jobs", writer, `{"request":{"model":"gpt-5","seed":9007199254740993}}`, "Idempotency-Key", "k").want(t, 202)
	s.call("POST", "/v1/jobs", writer, `{"request":{"model":"gpt-5","seed":9007199254740992}}`, "Idempotency-Key", "k").want(t, 422)
}

func TestManyIdenticalSubmitsMakeOneJob(t *testing.T) {
	t.Parallel()
	s := serve(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			r := s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "k")
			if r.StatusCode != 202 && r.StatusCode != 409 {
				t.Errorf("got %d: %s", r.StatusCode, r.body)
			}
		})
	}
	wg.Wait()
	if n := len(s.world.jobs); n != 1 {
		t.Errorf("%d jobs came of 50 identical submits", n)
	}
}

func TestARepeatAfterTheJobsEnd(t *testing.T) {
	t.Parallel()
	s := serve(t)
	finish := func(path string) {
		until(t, "somebody waits", func() bool {
			s.world.mu.Lock()
			defer s.world.mu.Unlock()
			for id, c := range s.world.watchers {
				if len(c) > 0 && id != "" {
					return true
				}
			}
			return false
		})
		id := strings.TrimPrefix(path, "/v1/jobs/")
		s.world.start(id)
		s.world.succeed(id, "hi")
	}
	got := make(chan reply)
	go func() {
		got <- s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "k", "Prefer", "wait=30")
	}()
	until(t, "the job is there", func() bool { s.world.mu.Lock(); defer s.world.mu.Unlock(); return len(s.world.order) == 1 })
	finish("/v1/jobs/" + s.world.order[0])
	first := (<-got).want(t, 200)
	if first.Header.Get("Preference-Applied") != "wait=30" || first.str(t, "text") != "hi" {
		t.Errorf("a waited-for submit: %v %s", first.Header, first.body)
	}
	again := s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "k", "Prefer", "wait=30").want(t, 200)
	if !bytes.Equal(first.body, again.body) || again.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the repeat differs: %s", again.body)
	}
	s.call("DELETE", "/v1/jobs/"+first.str(t, "id"), writer, nil).want(t, 204)
	gone := s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "k").want(t, 404, "not_found")
	if bytes.Contains(gone.body, []byte("msg_1")) {
		t.Error("a deleted result came back")
	}
}

func TestPreferWait(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) { c.RereadEvery = 100 * time.Millisecond }) // when a pause is seen
	start := time.Now()
	r := s.call("POST", "/v1/jobs", writer, hello, "Prefer", "respond-async, wait=1").want(t, 202)
	if took := time.Since(start); took < 900*time.Millisecond {
		t.Errorf("wait=1 answered 202 after %v", took)
	}
	if r.Header.Get("Preference-Applied") != "wait=1" {
		t.Errorf("Preference-Applied is %q", r.Header.Get("Preference-Applied"))
	}
	for _, prefer := range []string{"wait=x", "wait=-1", "wait", "wait=0", "return=minimal", "wait=99999999999999999999"} {
		if r := s.call("POST", "/v1/jobs", writer, hello, "Prefer", prefer).want(t, 202); r.Header.Get("Preference-Applied") != "" {
			t.Errorf("Prefer: %s was applied as %q", prefer, r.Header.Get("Preference-Applied"))
		}
	}
	// A paused pool answers at once, whether it was paused before or meanwhile.
	s.call("POST", "/v1/pools/claude/pause", admin, `{"reason":"x"}`).want(t, 200)
	start = time.Now()
	if r := s.call("POST", "/v1/jobs", writer, hello, "Prefer", "wait=61").want(t, 202); r.Header.Get("Preference-Applied") != "wait=50" {
		t.Errorf("wait=61 was applied as %q", r.Header.Get("Preference-Applied"))
	}
	s.call("POST", "/v1/pools/claude/resume", admin, nil).want(t, 200)
	got := make(chan reply)
	go func() { got <- s.call("POST", "/v1/jobs", writer, hello, "Prefer", "wait=60") }()
	until(t, "the submit waits", func() bool {
		s.world.mu.Lock()
		defer s.world.mu.Unlock()
		return len(s.world.watchers[s.world.order[len(s.world.order)-1]]) == 1
	})
	s.call("POST", "/v1/pools/claude/pause", admin, nil).want(t, 200)
	(<-got).want(t, 202)
	if took := time.Since(start); took > 40*time.Second {
		t.Errorf("a paused pool held submits for %v", took)
	}
}

// A proxy gives up at 50 or 60 s: a wait has to end before, and say how long it was.
func TestNoWaitIsLongerThanMaxWait(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) { c.MaxWait = time.Second })
	id := s.submit()
	batch := s.call("POST", "/v1/batches", writer, hello, "Content-Type", "application/x-ndjson").want(t, 202).str(t, "id")
	for name, c := range map[string]struct {
		method, path, prefer string
		status               int
		applied              string
	}{
		"a submit, more than is had": {"POST", "/v1/jobs", "wait=60", 202, "wait=1"},
		"a submit, less than a day":  {"POST", "/v1/jobs", "wait=86399", 202, "wait=1"},
		"a poll":                     {"GET", "/v1/jobs/" + id + "?wait=60", "", 200, "wait=1"},
		"a poll of a batch":          {"GET", "/v1/batches/" + batch + "?wait=2", "", 200, "wait=1"},
		"a poll that does not wait":  {"GET", "/v1/jobs/" + id + "?wait=0", "", 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			body, headers := any(nil), []string{}
			if c.method == "POST" {
				body, headers = hello, []string{"Prefer", c.prefer}
			}
			r := s.call(c.method, c.path, writer, body, headers...).want(t, c.status)
			if took := time.Since(start); took > 30*time.Second || r.Header.Get("Preference-Applied") != c.applied {
				t.Errorf("answered after %v, applied %q; want %q", took, r.Header.Get("Preference-Applied"), c.applied)
			}
		})
	}
}

func TestLongPoll(t *testing.T) {
	t.Parallel()
	s := serve(t)
	id := s.submit()
	path := "/v1/jobs/" + id
	got := make(chan reply)
	go func() { got <- s.call("GET", path+"?wait=60", reader, nil) }()
	until(t, "the poll waits", func() bool { return s.world.watched(id) == 1 })
	s.world.start(id)
	select {
	case r := <-got:
		t.Fatalf("answered before the end: %s", r.body)
	default:
	}
	s.world.succeed(id, "hi")
	if r := (<-got).want(t, 200); r.str(t, "status") != "succeeded" {
		t.Errorf("got %s", r.body)
	}
	until(t, "the subscription is gone", func() bool { return s.world.watched(id) == 0 })
	for _, bad := range []string{"61", "-1", "x", "", "1&wait=2", "1.5"} {
		s.call("GET", path+"?wait="+bad, reader, nil).want(t, 400, "invalid_request")
	}
}

func TestALostNoticeIsMadeUpFor(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) { c.RereadEvery = 10 * time.Millisecond })
	id := s.submit()
	got := make(chan reply)
	go func() { got <- s.call("GET", "/v1/jobs/"+id+"?wait=60", reader, nil) }()
	until(t, "the poll waits", func() bool { return s.world.watched(id) == 1 })
	s.world.mu.Lock()
	s.world.watchers[id] = nil // the notice of what follows is lost
	s.world.mu.Unlock()
	s.world.start(id)
	s.world.succeed(id, "hi")
	if r := (<-got).want(t, 200); r.str(t, "status") != "succeeded" {
		t.Errorf("got %s", r.body)
	}
}

func TestDrainLetsPollsGo(t *testing.T) {
	t.Parallel()
	s := serve(t)
	id := s.submit()
	got := make(chan reply)
	go func() { got <- s.call("GET", "/v1/jobs/"+id+"?wait=60", reader, nil) }()
	until(t, "the poll waits", func() bool { return s.world.watched(id) == 1 })
	s.api.Drain()
	if r := (<-got).want(t, 200); r.str(t, "status") != "queued" {
		t.Errorf("got %s", r.body)
	}
}

func TestOneTenantCannotHoldEverything(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) { c.Caps = room(t, caps.Config{TenantStreams: 1}) })
	id := s.submit()
	got := make(chan reply)
	go func() { got <- s.call("GET", "/v1/jobs/"+id+"?wait=60", reader, nil) }()
	until(t, "the poll waits", func() bool { return s.world.watched(id) == 1 })
	s.call("GET", "/v1/jobs/"+id+"?wait=60", reader, nil).want(t, 200)
	if r := s.call("GET", "/v1/jobs/"+id+"/events", reader, nil).want(t, 429, "too_many_streams"); r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.world.start(id)
	s.world.succeed(id, "")
	(<-got).want(t, 200)
}

func TestList(t *testing.T) {
	t.Parallel()
	s := serve(t)
	var ids []string
	for range 5 {
		ids = append(ids, s.submit())
	}
	s.call("POST", "/v1/jobs", other, hello).want(t, 202)
	s.call("POST", "/v1/jobs", writer, `{"model":"gpt-5","prompt":"x"}`).want(t, 202)
	s.world.start(ids[1])
	s.world.refuse(ids[1])

	type page struct {
		Data []struct{ ID, Status, Model string }
		Next *string
		More bool `json:"has_more"`
	}
	list := func(query string) (p page) {
		t.Helper()
		if err := json.Unmarshal(s.call("GET", "/v1/jobs"+query, reader, nil).want(t, 200).body, &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := list(""); len(p.Data) != 6 || p.More || p.Next != nil || p.Data[1].ID != ids[4] {
		t.Errorf("all: %+v", p)
	}
	var seen []string
	for query := "?limit=2&model=claude-x"; ; {
		p := list(query)
		for _, j := range p.Data {
			seen = append(seen, j.ID)
		}
		if !p.More {
			break
		}
		query = "?limit=2&model=claude-x&after=" + *p.Next
	}
	if len(seen) != 5 || seen[0] != ids[4] || seen[4] != ids[0] {
		t.Errorf("page by page: %v", seen)
	}
	if p := list("?status=failed"); len(p.Data) != 1 || p.Data[0].ID != ids[1] {
		t.Errorf("failed: %+v", p)
	}
	for _, bad := range []string{"limit=0", "limit=101", "limit=x", "limit=", "status=done", "status=queued&status=failed", "after=1%0a", "batch=b", "a;b", "after=%zz"} {
		s.call("GET", "/v1/jobs?"+bad, reader, nil).want(t, 400, "invalid_request")
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.world.limits.SubmitsPerMinute = 2
	r := s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "k").want(t, 202)
	if r.Header.Get("RateLimit") != `"submits_per_minute";r=1;t=1` || r.Header.Get("RateLimit-Policy") != `"submits_per_minute";q=2;w=60` {
		t.Errorf("RateLimit is %q, RateLimit-Policy %q", r.Header.Get("RateLimit"), r.Header.Get("RateLimit-Policy"))
	}
	// A repeat and a refused body cost nothing.
	s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "k").want(t, 202)
	s.call("POST", "/v1/jobs", writer, `{"model":"claude-x","prompt":"y"}`, "Idempotency-Key", "k").want(t, 422)
	s.call("POST", "/v1/jobs", writer, `{}`).want(t, 400)
	s.call("POST", "/v1/jobs", writer, hello).want(t, 202)
	r = s.call("POST", "/v1/jobs", writer, hello).want(t, 429, "quota_exceeded")
	if r.Header.Get("Retry-After") != "12" || r.Header.Get("RateLimit") != `"submits_per_minute";r=0;t=12` || r.Header.Get("RateLimit-Policy") != `"submits_per_minute";q=2;w=60` {
		t.Errorf("refused with %v", r.Header)
	}
	s.call("POST", "/v1/batches", writer, hello+"\n", "Content-Type", "application/x-ndjson").want(t, 429)

	s = serve(t)
	s.world.limits.QueuedJobs = 1
	s.submit()
	r = s.call("POST", "/v1/jobs", writer, hello).want(t, 429, "quota_exceeded")
	if r.Header.Get("Retry-After") != "1" || r.Header.Get("RateLimit-Policy") != `"queued_jobs";q=1` {
		t.Errorf("refused with %v", r.Header)
	}
	s.call("POST", "/v1/batches", writer, hello, "Content-Type", "application/x-ndjson").want(t, 429, "quota_exceeded")
	if len(s.world.batches) != 0 || len(s.world.staged) != 0 {
		t.Errorf("a refused batch left something: %v %v", s.world.batches, s.world.staged)
	}

	// Bodies count as they came, decompressed.
	s = serve(t)
	long := `{"model":"claude-x","prompt":"` + strings.Repeat("x", 100) + `"}`
	s.world.limits.QueuedBytes = int64(len(long) + len(hello))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(long))
	_ = z.Close()
	id := s.call("POST", "/v1/jobs", writer, zipped.Bytes(), "Content-Encoding", "gzip").want(t, 202).str(t, "id")
	for _, refused := range []reply{
		s.call("POST", "/v1/jobs", writer, long),
		s.call("POST", "/v1/batches", writer, hello+"\n"+hello, "Content-Type", "application/x-ndjson"),
	} {
		if refused.want(t, 429, "quota_exceeded"); refused.Header.Get("Retry-After") != "1" || !strings.HasPrefix(refused.Header.Get("RateLimit-Policy"), `"queued_bytes";q=`) {
			t.Errorf("refused with %v", refused.Header)
		}
	}
	s.submit()
	s.call("POST", "/v1/jobs", writer, hello).want(t, 429, "quota_exceeded")
	s.call("POST", "/v1/jobs/"+id+"/cancel", writer, nil).want(t, 200)
	s.submit()
	s.call("POST", "/v1/jobs/"+id+"/retry", writer, nil).want(t, 429, "quota_exceeded")
	if len(s.world.batches) != 0 || len(s.world.staged) != 0 {
		t.Errorf("a refused batch left something: %v %v", s.world.batches, s.world.staged)
	}
}

// A request that no wait makes fit was told that its quota is used up, and to come
// again; and a picture was refused for its bytes.
func TestWhatCanNeverFitIsNotCalledUsedUp(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.world.limits = quota.Limits{SubmitsPerMinute: 100, TokensPerDay: 500_000, QueuedJobs: 3}
	s.world.inputLimit = 50_000
	nd := []string{"Content-Type", "application/x-ndjson"}
	refused := func(what string, r reply, numbers ...string) {
		t.Helper()
		detail := r.want(t, 422, "impossible_size").str(t, "detail")
		for _, n := range numbers {
			if !strings.Contains(detail, n) {
				t.Errorf("%s: the refusal %q does not say %s", what, detail, n)
			}
		}
		if r.Header.Get("Retry-After") != "" {
			t.Errorf("%s: told to come again after %s s", what, r.Header.Get("Retry-After"))
		}
	}
	asking := func(tokens int) string {
		return `{"model":"claude-x","prompt":"hi","max_tokens":` + strconv.Itoa(tokens) + `}`
	}
	refused("a job", s.call("POST", "/v1/jobs", writer, asking(500_000)), "500004 tokens", "tokens_per_day is 500000", "max_tokens")
	refused("answers by the hundred", s.call("POST", "/v1/jobs", writer, `{"request":{"model":"gpt-4o","messages":[],"n":128}}`), "tokens_per_day is 500000")
	refused("an input", s.call("POST", "/v1/jobs", writer, `{"model":"claude-x","prompt":"`+strings.Repeat("word ", 100_000)+`"}`), "125003 input tokens", "50000 a minute")
	refused("a line", s.call("POST", "/v1/batches", writer, hello+"\n"+asking(500_000), nd...), "Line 2", "tokens_per_day")
	refused("a batch", s.call("POST", "/v1/batches", writer, asking(300_000)+"\n"+asking(300_000), nd...), "600008 tokens", "tokens_per_day is 500000")
	refused("its lines", s.call("POST", "/v1/batches", writer, strings.Repeat(hello+"\n", 4), nd...), "more than 3 jobs", "queued_jobs")
	if len(s.world.jobs) != 0 || len(s.world.staged) != 0 || s.world.admitted != 0 {
		t.Errorf("%d jobs, %d staged and %d submits came of refusals", len(s.world.jobs), len(s.world.staged), s.world.admitted)
	}

	// Parts that are no text count by what they hold: a hundred pictures, a document.
	shot, err := os.ReadFile("../tasks/estimate/testdata/1000x800.png")
	if err != nil {
		t.Fatal(err)
	}
	base := base64.StdEncoding.EncodeToString
	for what, body := range map[string]string{
		"pictures":   `{"model":"claude-x","messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + base(shot) + `"}}]}` + strings.Repeat(`,{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"`+base(shot)+`"}}]}`, 99) + `]}`,
		"a document": `{"model":"claude-x","messages":[{"role":"user","content":[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"` + base(append([]byte("%PDF-1.4\n"), make([]byte, 2_500_000)...)) + `"}}]}]}`,
	} {
		refused(what, s.call("POST", "/v1/jobs", writer, body), "50000 a minute")
		refused("a line with "+what, s.call("POST", "/v1/batches", writer, hello+"\n"+body, nd...), "Line 2", "50000 a minute")
	}

	// What is within the limits, and a picture of 2.5 MB is, is taken or waits.
	picture, err := os.ReadFile("../tasks/estimate/testdata/1000x800.png")
	if err != nil {
		t.Fatal(err)
	}
	picture = append(picture, make([]byte, 2_500_000)...)
	body := `{"model":"claude-x","messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + base64.StdEncoding.EncodeToString(picture) + `"}}]}]}`
	id := s.call("POST", "/v1/jobs", writer, body).want(t, 202).str(t, "id")
	if j, err := s.world.Job(t.Context(), "acme", id); err != nil || j.Reserved > 1067+1024+100 {
		t.Errorf("a picture of 1,067 tokens is counted as %d, %v", j.Reserved, err)
	}
	first := s.call("POST", "/v1/jobs", writer, asking(400_000)).want(t, 202).str(t, "id")
	s.call("POST", "/v1/jobs", writer, asking(400_000)).want(t, 429, "quota_exceeded")
	s.call("POST", "/v1/jobs/"+first+"/cancel", writer, nil).want(t, 200)
	s.world.limits.TokensPerDay, s.world.limits.QueuedBytes = 0, 100
	refused("a body", s.call("POST", "/v1/jobs", writer, `{"model":"claude-x","prompt":"`+strings.Repeat("x", 100)+`"}`), "132 bytes", "queued_bytes is 100")
	refused("the bytes of a batch", s.call("POST", "/v1/batches", writer, hello+"\n"+hello+"\n"+hello, nd...), "more than 100 bytes", "queued_bytes")
	s.world.limits.TokensPerDay = 300_000
	refused("a retry", s.call("POST", "/v1/jobs/"+first+"/retry", writer, nil), "400004 tokens", "tokens_per_day is 300000")
}

// A retry takes of every quota what a submit takes, and a refusal takes nothing.
func TestARetryIsAdmittedLikeASubmit(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.world.limits.SubmitsPerMinute, s.world.limits.TokensPerDay = 10, 2500 // hello may take about 1,030
	first := s.submit()
	r := s.call("POST", "/v1/jobs", writer, hello).want(t, 202)
	if got := r.Header.Get("RateLimit"); !strings.Contains(got, `"submits_per_minute";r=8;`) || !strings.Contains(got, `"tokens_per_day";r=4`) {
		t.Errorf("RateLimit is %q, want 8 submits and some 440 tokens left", got)
	}
	s.call("POST", "/v1/jobs/"+first+"/cancel", writer, nil).want(t, 200)
	r = s.call("POST", "/v1/jobs/"+first+"/retry", writer, nil).want(t, 429, "quota_exceeded")
	if r.Header.Get("Retry-After") != "3600" || r.Header.Get("RateLimit-Policy") != `"tokens_per_day";q=2500;w=86400` || s.world.admitted != 2 {
		t.Errorf("refused with %v, %d submits taken, want 2", r.Header, s.world.admitted)
	}
	s.world.limits.TokensPerDay, s.world.limits.QueuedJobs = 0, 1
	r = s.call("POST", "/v1/jobs/"+first+"/retry", writer, nil).want(t, 429, "quota_exceeded")
	if r.Header.Get("RateLimit-Policy") != `"queued_jobs";q=1` || s.world.admitted != 2 {
		t.Errorf("refused with %v, %d submits taken, want 2", r.Header, s.world.admitted)
	}
	s.world.limits.QueuedJobs = 2
	r = s.call("POST", "/v1/jobs/"+first+"/retry", writer, nil).want(t, 200)
	if got := r.Header.Get("RateLimit"); !strings.Contains(got, `"submits_per_minute";r=7;`) {
		t.Errorf("RateLimit is %q, want 7 submits left", got)
	}
	s.call("POST", "/v1/jobs/"+first+"/retry", writer, nil).want(t, 409, "conflict")
	if s.world.admitted != 3 {
		t.Errorf("%d submits taken, want 3: a refused retry took one", s.world.admitted)
	}
}

func TestADeadlineBeyondTheQueueIsRefused(t *testing.T) {
	t.Parallel()
	s := serve(t)
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339Nano) }
	body := func(deadline, more string) string {
		return `{"model":"claude-sonnet-4-5","prompt":"x","deadline":"` + deadline + `"` + more + `}`
	}
	s.call("POST", "/v1/jobs", writer, body(in(4*time.Second), "")).want(t, 202) // within what an estimate is worth
	s.world.delay.Store(int64(6 * time.Second))                                  // as of a pool that an operator has paused
	s.call("POST", "/v1/jobs", writer, body(in(4*time.Second), "")).want(t, 202)
	keyed := body(in(10*time.Minute), "")
	s.call("POST", "/v1/jobs", writer, keyed, "Idempotency-Key", "first").want(t, 202)
	s.world.delay.Store(int64(time.Hour))
	if r := s.call("POST", "/v1/jobs", writer, keyed, "Idempotency-Key", "first").want(t, 202); r.Header.Get("Idempotency-Replayed") != "true" {
		t.Error("the repeat of an accepted submit is not the first answer")
	}
	for range 2 { // the refused key is free again
		s.call("POST", "/v1/jobs", writer, keyed, "Idempotency-Key", "second").want(t, 503, "deadline_unreachable")
	}
	r := s.call("POST", "/v1/jobs", writer, body(in(10*time.Minute), "")).want(t, 503, "deadline_unreachable")
	if after, err := strconv.Atoi(r.Header.Get("Retry-After")); err != nil || after < 49*60 || after > 51*60 {
		t.Errorf("Retry-After %q; want about 50 minutes", r.Header.Get("Retry-After"))
	}
	s.call("POST", "/v1/jobs", writer, body(in(10*time.Minute), `,"fallback_models":["gpt-5"]`)).want(t, 503, "deadline_unreachable")
	s.call("POST", "/v1/jobs", writer, body(in(2*time.Hour), "")).want(t, 202)
	s.call("POST", "/v1/jobs", writer, body(in(10*time.Minute), `,"priority":"high"`)).want(t, 202)
}

// An answer outcome_unknown names the id with which a submit can be sent again.
func TestASubmitSentAgainWithItsIDIsTheSame(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.world.breakWith(&tasks.UnknownError{Err: tasks.ErrUnavailable})
	lost := s.call("POST", "/v1/jobs", writer, hello).want(t, 503, "outcome_unknown")
	id := lost.str(t, "id")
	if !strings.HasPrefix(id, "job_") || lost.Header.Get("Retry-After") == "" {
		t.Errorf("the answer is %s", lost.body)
	}
	batch := s.call("POST", "/v1/batches", writer, hello, "Content-Type", "application/x-ndjson").want(t, 503, "outcome_unknown").str(t, "id")
	for _, path := range []string{"/v1/jobs/" + id + "/cancel", "/v1/jobs/" + id + "/retry"} {
		if got := s.call("POST", path, writer, nil).want(t, 503, "outcome_unknown"); path == "/v1/jobs/"+id+"/retry" && got.str(t, "id") != id {
			t.Errorf("%s: %s", path, got.body)
		}
	}
	s.world.breakWith(nil)

	named := strings.Replace(hello, "{", `{"id":"`+id+`",`, 1)
	for i := range 2 {
		r := s.call("POST", "/v1/jobs", writer, named).want(t, 202)
		if r.str(t, "id") != id || (r.Header.Get("Idempotency-Replayed") == "true") != (i > 0) {
			t.Errorf("sent again: %s, replayed %q", r.body, r.Header.Get("Idempotency-Replayed"))
		}
	}
	s.call("POST", "/v1/jobs", writer, strings.Replace(named, `"claude-x"`, `"claude-y"`, 1)).want(t, 409, "id_taken")
	for _, form := range [][2]string{
		{"?id=" + batch, hello}, {"?id=" + batch, `{"jobs":[` + hello + `]}`}, {"", `{"id":"` + batch + `","jobs":[` + hello + `]}`}, {"?id=" + batch, `{"id":"` + batch + `","jobs":[` + hello + `]}`},
	} {
		media := "application/json"
		if form[1] == hello {
			media = "application/x-ndjson"
		}
		r := s.call("POST", "/v1/batches"+form[0], writer, form[1], "Content-Type", media).want(t, 202)
		if r.str(t, "id") != batch {
			t.Errorf("%v: %s", form, r.body)
		}
	}
	s.call("POST", "/v1/batches?id="+batch, writer, hello+"\n"+hello, "Content-Type", "application/x-ndjson").want(t, 409, "id_taken")

	other := s.world.newID("batch")
	for _, bad := range [][2]string{
		{"/v1/jobs", strings.Replace(hello, "{", `{"id":"job_1",`, 1)},
		{"/v1/jobs", strings.Replace(hello, "{", `{"id":"`+batch+`",`, 1)},
		{"/v1/jobs", strings.Replace(hello, "{", `{"id":"job_01BX5ZZKBKACTAV9WEVGEMMVRZ",`, 1)}, // of 2017
		{"/v1/jobs", strings.Replace(hello, "{", `{"id":"job_7ZZZZZZZZZZZZZZZZZZZZZZZZZ",`, 1)}, // of the year 10889
		{"/v1/batches?id=" + id, hello},
		{"/v1/batches?id=" + other, `{"id":"` + batch + `","jobs":[` + hello + `]}`},
		{"/v1/batches", `{"jobs":[` + hello + `],"id":"` + batch + `"}`},
		{"/v1/batches", strings.Replace(hello, "{", `{"id":"`+id+`",`, 1)},
	} {
		s.call("POST", bad[0], writer, bad[1]).want(t, 400)
	}
}
