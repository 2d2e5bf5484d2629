package api_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/api"
)

func lines(t *testing.T, body []byte) (list []map[string]any) {
	t.Helper()
	for line := range bytes.Lines(body) {
		if len(list) < 10 {
			conforms(t, "Result", line)
		}
		list = append(list, reply{Response: &http.Response{}, body: line}.json(t))
	}
	return list
}

// A caller that names no media type, as curl does, may send either form.
func TestBatchFormWithoutContentType(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const job = `{"model":"claude-x","prompt":"x"}`
	for _, header := range []string{"", "application/x-www-form-urlencoded"} {
		for body, jobs := range map[string]float64{
			job:                                  1,
			job + "\n" + job:                     2,
			`{"jobs":[` + job + `,` + job + `]}`: 2,
			"\r\n { \"jobs\" : [" + job + "]}\n": 1,
		} {
			r := s.call("POST", "/v1/batches", writer, body, "Content-Type", header).want(t, 202)
			if total := r.json(t)["counts"].(map[string]any)["total"]; total != jobs {
				t.Errorf("Content-Type %q, %q: %v jobs, want %v", header, body, total, jobs)
			}
		}
		for _, body := range []string{"", " ", "{", `{"jobs"`, `{"jobs":[]}`, `{"job":[]}`} {
			s.call("POST", "/v1/batches", writer, body, "Content-Type", header).want(t, 400)
		}
	}
}

func TestBatch(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const n = 450 // three chunks
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"custom_id":"c%d","model":"claude-x","prompt":"x"}`+"\n", i)
	}
	r := s.call("POST", "/v1/batches", writer, b.String(), "Content-Type", "application/x-ndjson", "anthropic-beta", "b1").want(t, 202)
	id := r.str(t, "id")
	if r.Header.Get("Location") != public+"/v1/batches/"+id || r.Header.Get("Retry-After") != "2" {
		t.Errorf("accepted with %v", r.Header)
	}
	if counts := r.json(t)["counts"].(map[string]any); counts["total"] != 450.0 || counts["queued"] != 450.0 {
		t.Errorf("counts are %v", counts)
	}
	path := "/v1/batches/" + id
	first := s.call("GET", path, reader, nil).want(t, 200)
	s.call("GET", path, reader, nil, "If-None-Match", first.Header.Get("ETag")).want(t, 304)
	jobs, _, err := s.world.BatchJobs(t.Context(), "acme", id, 0, n)
	if err != nil {
		t.Fatal(err)
	}
	for i, j := range jobs {
		if j.Line != i+1 || j.CustomID != fmt.Sprintf("c%d", i) || j.Batch != id || j.Request.Beta != "b1" || j.Tenant != "acme" {
			t.Fatalf("job %d came out as %+v", i, j)
		}
	}
	s.call("GET", path+"/results", reader, nil).want(t, 200)
	for _, i := range []int{0, 7, 440} {
		s.world.start(jobs[i].ID)
	}
	s.world.succeed(jobs[0].ID, "zero")
	s.world.succeed(jobs[440].ID, "late")
	s.world.refuse(jobs[7].ID)
	got := lines(t, s.call("GET", path+"/results", reader, nil).want(t, 200).body)
	if len(got) != 3 || got[0]["custom_id"] != "c0" || got[0]["text"] != "zero" || got[0]["finish"] != "length" || got[1]["finish"] != nil || got[1]["status"] != "failed" || got[2]["line"] != 441.0 || got[2]["attempts"] != 1.0 {
		t.Errorf("results while it runs: %v", got)
	}
	v := s.call("GET", path, reader, nil, "If-None-Match", first.Header.Get("ETag")).want(t, 200).json(t)
	if counts := v["counts"].(map[string]any); counts["succeeded"] != 2.0 || counts["failed"] != 1.0 || counts["queued"] != 447.0 {
		t.Errorf("counts are %v", counts)
	}
	if v["estimated_end_at"] == nil {
		t.Error("there is no estimate although jobs are done")
	}
	// A job of a batch says so.
	if j := s.call("GET", "/v1/jobs/"+jobs[7].ID, reader, nil).want(t, 200).json(t); j["batch"] != id || j["custom_id"] != "c7" || j["line"] != 8.0 {
		t.Errorf("a job of the batch: %v", j)
	}

	waited := make(chan reply)
	go func() { waited <- s.call("GET", path+"?wait=60", reader, nil) }()
	until(t, "the poll waits", func() bool { return s.world.watched(id) == 1 })
	c := s.call("POST", path+"/cancel", writer, nil).want(t, 200).json(t)
	if c["status"] != "ended" || c["counts"].(map[string]any)["canceled"] != 447.0 {
		t.Errorf("canceled: %v", c)
	}
	if v := (<-waited).want(t, 200).json(t); v["status"] != "ended" {
		t.Errorf("the poll ended with %v", v)
	}
	s.call("POST", path+"/cancel", writer, nil).want(t, 409, "already_final")
	if got := lines(t, s.call("GET", path+"/results", reader, nil).want(t, 200).body); len(got) != n {
		t.Errorf("%d results of %d", len(got), n)
	}
	s.call("GET", path+"?wait=61", reader, nil).want(t, 400)
}

func TestCustomIDs(t *testing.T) {
	t.Parallel()
	s := serve(t)
	id := s.batch("", hello, "  ", `{"custom_id":"mine","model":"gpt-5","prompt":"x"}`, hello)
	jobs, _, err := s.world.BatchJobs(t.Context(), "acme", id, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, j := range jobs {
		got = append(got, fmt.Sprintf("%d=%s@%s", j.Line, j.CustomID, j.Pool))
	}
	if want := "2=2@claude 4=mine@gpt 5=5@claude"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	for name, body := range map[string]string{
		"twice":                   `{"custom_id":"a","model":"gpt-5","prompt":"x"}` + "\n" + `{"custom_id":"a","model":"gpt-5","prompt":"y"}`,
		"a number that is a line": `{"custom_id":"2","model":"gpt-5","prompt":"x"}` + "\n" + hello,
		"empty":                   hello + "\n" + `{"custom_id":"","model":"gpt-5","prompt":"x"}`,
		"not a string":            hello + "\n" + `{"custom_id":7,"model":"gpt-5","prompt":"x"}`,
		"too long":                hello + "\n" + `{"custom_id":"` + strings.Repeat("ü", 129) + `","model":"gpt-5","prompt":"x"}`,
	} {
		r := s.call("POST", "/v1/batches", writer, body, "Content-Type", "application/x-ndjson").want(t, 400, "invalid_request")
		if r.json(t)["line"] != 2.0 || !strings.Contains(r.str(t, "detail"), "custom_id") {
			t.Errorf("%s: %s", name, r.body)
		}
	}
}

func TestABatchAsADocument(t *testing.T) {
	t.Parallel()
	s := serve(t)
	id := s.call("POST", "/v1/batches", writer, ` { "jobs" : [ `+hello+`,
		{"custom_id":"b","request":{"model":"gpt-5","n":1.50}} ] } `+"\n").want(t, 202).str(t, "id")
	jobs, _, err := s.world.BatchJobs(t.Context(), "acme", id, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(jobs) != 2 || jobs[0].CustomID != "1" || jobs[1].CustomID != "b" || string(jobs[1].Request.Body) != `{"model":"gpt-5","n":1.50}` {
		t.Errorf("the jobs came out as %+v", jobs)
	}
	for _, row := range []struct {
		body string
		line any
	}{
		{``, nil}, {`[]`, nil}, {`{}`, nil}, {`{"jobs":[]}`, nil}, {`{"jobs":{}}`, nil}, {`{"jobs":null}`, nil}, {`{"job":[]}`, nil},
		{hello, nil}, {`{"jobs":[` + hello + `]}x`, nil}, {`{"jobs":[` + hello + `],"jobs":[` + hello + `]}`, nil},
		{`{"jobs":[` + hello + `],"x":1}`, nil}, {`{"jobs":[` + hello + `]`, nil},
		{`{"jobs":[` + hello + `,7]}`, 2.0}, {`{"jobs":[` + hello + `,{"model":"claude-x"}]}`, 2.0}, {`{"jobs":[` + hello + `,{"model":"claude-x","model":"y"}]}`, 2.0},
		{`{"jobs":[` + hello + "," + hello + `,`, 3.0}, {`{"jobs":[` + hello + " " + hello + `]}`, 2.0}, {`{"jobs":[` + hello + `,{"model":"\ud800"}]}`, 2.0},
		{`{"jobs":[{"a":`, 1.0},
	} {
		r := s.call("POST", "/v1/batches", writer, row.body).want(t, 400)
		if got := r.json(t)["line"]; row.line != nil && got != row.line {
			t.Errorf("%s: line %v, want %v: %s", row.body, got, row.line, r.body)
		}
	}
	for _, body := range []string{`{"jobs":[` + hello + `],"jobs":[` + hello + `]}`, `{"jobs":[` + hello + `],"j\u006fbs":7}`} {
		r := s.call("POST", "/v1/batches", writer, body).want(t, 400, "invalid_json")
		if v := r.json(t); v["line"] != nil || !strings.Contains(r.str(t, "detail"), "twice") {
			t.Errorf("%s: %s", body, r.body)
		}
	}
	if len(s.world.staged) != 0 || len(s.world.batches) != 1 {
		t.Error("a refused batch left something")
	}
}

func TestBatchIdempotency(t *testing.T) {
	t.Parallel()
	s := serve(t)
	nd := []string{"Content-Type", "application/x-ndjson", "Idempotency-Key", "k"}
	body := hello + "\n" + `{"custom_id":"a","model":"gpt-5","prompt":"x"}`
	first := s.call("POST", "/v1/batches", writer, body, nd...).want(t, 202)
	again := s.call("POST", "/v1/batches", writer, `{"prompt":"Say hello.","model":"claude-x"}`+"\n"+`{"custom_id":"a", "prompt":"x", "model":"gpt-5"}`+"\n", nd...).want(t, 202)
	if !bytes.Equal(first.body, again.body) || again.Header.Get("Idempotency-Replayed") != "true" || again.Header.Get("Location") != first.Header.Get("Location") {
		t.Errorf("the first answer was\n%s, its repeat\n%s %v", first.body, again.body, again.Header)
	}
	reused := []reply{
		s.call("POST", "/v1/batches", writer, hello, nd...),
		s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "k"),
		s.call("POST", "/v1/jobs/cancel", writer, `{"status":"queued"}`, "Idempotency-Key", "k"),
	}
	for _, r := range reused {
		if r.want(t, 422, "idempotency_key_reused"); !strings.Contains(r.str(t, "detail"), "which made "+first.str(t, "id")+".") {
			t.Errorf("%s: whose key it is, nobody says: %s", r.Request.URL.Path, r.body)
		}
	}
	s.call("POST", "/v1/batches", writer, "{", nd...).want(t, 400)
	// When the first answer was never recorded, the batch as it stands.
	s.world.mu.Lock()
	s.world.keys["acme|k"].answer = nil
	s.world.mu.Unlock()
	if r := s.call("POST", "/v1/batches", writer, body, nd...).want(t, 202); r.str(t, "id") != first.str(t, "id") {
		t.Errorf("another batch: %s", r.body)
	}
	// A refused batch leaves its key free.
	s.call("POST", "/v1/batches", writer, "{", "Content-Type", "application/x-ndjson", "Idempotency-Key", "new").want(t, 400)
	s.call("POST", "/v1/batches", writer, hello, "Content-Type", "application/x-ndjson", "Idempotency-Key", "new").want(t, 202)
	if n := len(s.world.batches); n != 2 {
		t.Errorf("%d batches, want 2", n)
	}
}

func TestTooManyLines(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) { c.MaxBatchLines = 3 })
	nd := []string{"Content-Type", "application/x-ndjson"}
	s.call("POST", "/v1/batches", writer, strings.Repeat(hello+"\n", 3), nd...).want(t, 202)
	s.call("POST", "/v1/batches", writer, strings.Repeat(hello+"\n", 4), nd...).want(t, 413, "body_too_large")
	s.call("POST", "/v1/batches", writer, `{"jobs":[`+strings.Repeat(hello+",", 3)+hello+`]}`).want(t, 413, "body_too_large")
	s.call("POST", "/v1/batches", writer, "\n\n\n", nd...).want(t, 400)
}

func TestABatchsTokensCount(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.world.limits.TokensPerDay = 3000
	nd := []string{"Content-Type", "application/x-ndjson"}
	s.call("POST", "/v1/batches", writer, strings.Repeat(hello+"\n", 2), nd...).want(t, 202)
	r := s.call("POST", "/v1/batches", writer, strings.Repeat(hello+"\n", 2), nd...).want(t, 429, "quota_exceeded")
	if r.Header.Get("Retry-After") != "3600" || len(s.world.staged) != 0 {
		t.Errorf("refused with %v, %d left staged", r.Header, len(s.world.staged))
	}
}

// Results that break off must not look whole.
func TestResultsThatBreakOff(t *testing.T) {
	t.Parallel()
	s := serve(t)
	var list []string
	for range 100 {
		list = append(list, hello)
	}
	id := s.batch(list...)
	jobs, _, err := s.world.BatchJobs(t.Context(), "acme", id, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs {
		s.world.start(j.ID)
		s.world.succeed(j.ID, strings.Repeat("x", 100_000)) // more than fits into buffers on the way
	}
	res, err := s.client.Do(s.request(t.Context(), "GET", "/v1/batches/"+id+"/results", reader, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	s.world.breakWith(fmt.Errorf("gone"))
	if _, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Error("the answer ended as if it were whole")
	}
}

func TestBatchesAreListed(t *testing.T) {
	t.Parallel()
	s := serve(t)
	a, b, c := s.batch(hello), s.batch(hello, hello), s.batch(hello)
	s.call("POST", "/v1/batches/"+b+"/cancel", writer, nil).want(t, 200)
	s.call("POST", "/v1/batches", other, hello, "Content-Type", "application/x-ndjson").want(t, 202)
	for query, want := range map[string][]string{
		"": {c, b, a}, "limit=2": {c, b}, "after=" + b: {a}, "status=ended": {b}, "status=in_progress": {c, a}, "status=canceling": nil,
		"since=2000-01-01T00:00:00Z&until=2999-01-01T00:00:00Z": {c, b, a}, "since=2999-01-01T00:00:00Z": nil, "until=2000-01-01T00:00:00Z": nil,
	} {
		v := s.call("GET", "/v1/batches?"+query, reader, nil).want(t, 200).json(t)
		var got []string
		for _, j := range v["data"].([]any) {
			got = append(got, j.(map[string]any)["id"].(string))
		}
		if next, _ := v["next"].(string); !slices.Equal(got, want) || v["has_more"] != (query == "limit=2") || query == "limit=2" && next != b {
			t.Errorf("%q: got %v, has_more %v, next %q; want %v", query, got, v["has_more"], next, want)
		}
	}
}
