package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// TestOpenAI asks as OpenAI's SDKs do, beside chat completions.
func TestOpenAI(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil, "SLUICE_PROVIDERS__OPENAI__FORWARD_HEADERS=OpenAI-Organization")
	t.Run("headers", func(t *testing.T) { testOpenAIHeaders(t, s) })
	t.Run("embeddings", func(t *testing.T) { testEmbeddings(t, s) })
	t.Run("responses", func(t *testing.T) { testResponses(t, s) })
	t.Run("models", func(t *testing.T) { testOpenAIModels(t, s) })
	t.Run("files", func(t *testing.T) { testOpenAIFiles(t, s) })
	t.Run("batches", func(t *testing.T) { testOpenAIBatches(t, s) })
	t.Run("batches of all forms", func(t *testing.T) { testBatchesOfAllForms(t, s) })
}

// What a caller says to its provider goes with the job, whichever route made it; what names
// another allowance goes only where the provider's configuration lists it.
func testOpenAIHeaders(t *testing.T, s *system) {
	c := s.as(t, "headers")
	fields := []string{"OpenAI-Beta", "one=v1, two=v2", "OpenAI-Organization", "org-a", "OpenAI-Project", "proj-b"}
	ask := func(path, body string) {
		t.Helper()
		c.do("POST", path, body, fields...).want(t, 200)
	}
	ask("/openai/v1/chat/completions", `{"model":"gpt-h","messages":[{"role":"user","content":"exact-h-chat"}]}`)
	ask("/openai/v1/responses", `{"model":"gpt-h","input":"exact-h-response"}`)
	ask("/openai/v1/responses", `{"model":"gpt-h","background":true,"input":"exact-h-background"}`)
	ask("/openai/v1/embeddings", `{"model":"gpt-h","input":"exact-h-embedding"}`)
	ask("/anthropic/v1/messages", `{"model":"claude-h","max_tokens":9,"messages":[{"role":"user","content":"exact-h-message"}]}`)
	c.submit(`{"model":"gpt-h","prompt":"exact-h-job"}`, fields...)
	c.do("POST", "/v1/batches", `{"jobs":[{"model":"gpt-h","prompt":"exact-h-line"}]}`, fields...).want(t, 202)
	file := c.uploads(t, `{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-h","messages":[{"role":"user","content":"exact-h-batch"}]}}`)
	ask("/openai/v1/batches", `{"input_file_id":"`+file.str("id")+`","endpoint":"/v1/chat/completions","completion_window":"24h"}`)
	for _, way := range []string{"chat", "response", "background", "embedding", "job", "line", "batch", "message"} {
		eventually(t, way+" is asked upstream", func() bool { return len(s.provider.calls("exact-h-"+way)) == 1 })
		h, beta, organization := s.provider.calls("exact-h-" + way)[0].header, "one=v1, two=v2", "org-a"
		if way == "message" {
			beta, organization = "", "" // another dialect's
		}
		if h.Get("OpenAI-Beta") != beta || h.Get("OpenAI-Organization") != organization || h.Get("OpenAI-Project") != "" {
			t.Errorf("%s: sent upstream with %q, %q, %q; want %q, %q and no project", way, h.Get("OpenAI-Beta"), h.Get("OpenAI-Organization"), h.Get("OpenAI-Project"), beta, organization)
		}
	}
	// A repeat that names another organisation is no repeat, with a key or without.
	const again = `{"model":"gpt-h","input":"exact-h-again"}`
	c.do("POST", "/openai/v1/embeddings", again, "OpenAI-Organization", "org-a").want(t, 200)
	c.do("POST", "/openai/v1/embeddings", again, "OpenAI-Organization", "org-b", "X-Stainless-Retry-Count", "1").want(t, 200)
	if n := len(s.provider.calls("exact-h-again")); n != 2 {
		t.Errorf("two organisations had %d calls", n)
	}
	c.do("POST", "/openai/v1/embeddings", again, "OpenAI-Organization", "org-a", "Idempotency-Key", "h").want(t, 200)
	if r := c.do("POST", "/openai/v1/embeddings", again, "OpenAI-Organization", "org-b", "Idempotency-Key", "h"); r.status != 422 {
		t.Errorf("another organisation under the same key: %d %s", r.status, r.body)
	}
	for _, wrong := range [][]string{
		{"OpenAI-Organization", "two words"}, {"OpenAI-Project", strings.Repeat("x", 129)}, {"OpenAI-Beta", strings.Repeat("x", 1025)}, {"OpenAI-Beta", "é"},
	} {
		if r := c.do("POST", "/openai/v1/embeddings", again, wrong...); r.status != 400 || !strings.Contains(r.str("error.message"), wrong[0]) || strings.Contains(r.str("error.message"), wrong[1]) {
			t.Errorf("%s: %s", wrong[0], r.body)
		}
	}
}

func testEmbeddings(t *testing.T, s *system) {
	c := s.as(t, "embeddings")
	r := c.do("POST", "/openai/v1/embeddings", `{"model":"gpt-embed","input":["one","exact-embed"],"odd": 1e2}`).want(t, 200)
	if r.str("object") != "list" || r.num("usage.prompt_tokens") == 0 || r.header.Get("X-Request-Id") == "" {
		t.Errorf("embeddings: %s", r.body)
	}
	if list, _ := r.get("data").([]any); len(list) != 2 || len(at(list[1], "embedding").([]any)) == 0 {
		t.Errorf("embeddings: %s", r.body)
	}
	calls := s.provider.calls("exact-embed")
	if len(calls) != 1 || calls[0].path != "/v1/embeddings" || string(calls[0].body) != `{"model":"gpt-embed","input":["one","exact-embed"],"odd": 1e2}` {
		t.Errorf("upstream: %v", calls)
	}
	job := c.do("GET", "/v1/jobs/"+r.header.Get("Sluice-Job-Id"), "").want(t, 200)
	if job.str("status") != "succeeded" || job.str("finish") != "complete" || job.num("usage.output_tokens") != 0 || job.num("usage.input_tokens") == 0 {
		t.Errorf("its job: %s", job.body)
	}
	if r := c.do("POST", "/openai/v1/embeddings", `{"model":"gpt-embed"}`); r.status != 400 || r.str("error.type") != "invalid_request_error" {
		t.Errorf("no input: %s", r.body)
	}
	if r := c.do("POST", "/openai/v1/embeddings", `{"model":"claude-x","input":"a"}`); r.status != 404 || r.str("error.code") != "model_not_found" {
		t.Errorf("another provider's model: %s", r.body)
	}
}

func testResponses(t *testing.T, s *system) {
	c := s.as(t, "responses")
	ask := func(body string) reply {
		t.Helper()
		r := c.do("POST", "/openai/v1/responses", body)
		if r.status != 200 || r.str("object") != "response" || !regexp.MustCompile(`^resp_[0-9A-Z]{26}$`).MatchString(r.str("id")) {
			t.Fatalf("%s: %d %s", body, r.status, r.body)
		}
		if job := r.header.Get("Sluice-Job-Id"); strings.TrimPrefix(job, "job_") != strings.TrimPrefix(r.str("id"), "resp_") {
			t.Errorf("job %s of response %s", job, r.str("id"))
		}
		return r
	}
	get := func(id string) reply { return c.do("GET", "/openai/v1/responses/"+id, "") }
	ends := func(id, status string) (r reply) {
		t.Helper()
		eventually(t, "the response is "+status, func() bool { r = get(id); return r.str("status") == status })
		return r
	}

	// One whose caller waits is the provider's own, under our id.
	r := ask(`{"model":"gpt-r","input":"exact-first","max_output_tokens":500,"odd": 1e2}`)
	if r.str("status") != "completed" || r.get("output") == nil || r.num("usage.input_tokens") <= 0 {
		t.Errorf("response: %s", r.body)
	}
	calls := s.provider.calls("exact-first")
	if len(calls) != 1 || calls[0].path != "/v1/responses" || string(calls[0].body) != `{"model":"gpt-r","input":"exact-first","max_output_tokens":500,"odd": 1e2}` {
		t.Errorf("upstream: %v", calls)
	}
	if again := get(r.str("id")); again.status != 200 || !bytes.Equal(again.body, r.body) {
		t.Errorf("it is read again: %s", again.body)
	}
	// The next one goes on from it: the provider is told its own id, and refuses others.
	ask(`{"model":"gpt-r","previous_response_id":"` + r.str("id") + `","input":"exact-second"}`)
	if calls := s.provider.calls("exact-second"); len(calls) != 1 || !regexp.MustCompile(`"previous_response_id":"resp_[0-9a-f]{32}"`).Match(calls[0].body) {
		t.Errorf("upstream: %v", calls)
	}
	if r := c.do("POST", "/openai/v1/responses", `{"model":"gpt-r","previous_response_id":"resp_01JDXXXXXXXXXXXXXXXXXXXXXX","input":"x"}`); r.status != 400 {
		t.Errorf("an unknown response before it: %d %s", r.status, r.body)
	}

	// In the background it is answered at once, runs, and is found.
	b := ask(`{"model":"gpt-r","background":true,"input":"exact-third [[latency:300ms]]"}`)
	if b.str("status") != "queued" || b.get("background") != true {
		t.Errorf("in the background: %s", b.body)
	}
	if done := ends(b.str("id"), "completed"); done.str("id") != b.str("id") || done.get("output") == nil {
		t.Errorf("at the end: %s", done.body)
	}
	if r := c.do("GET", "/openai/v1/responses/"+b.str("id"), "").want(t, 200); r.get("background") != true {
		t.Errorf("at its end it is no longer in the background: %s", r.body)
	}
	// The SDK for Go asks for its events by a body of the GET.
	for body, want := range map[string]string{`{"stream":true}`: "text/event-stream", `{"stream":false}`: "application/json", "": "application/json"} {
		if r := c.do("GET", "/openai/v1/responses/"+b.str("id"), body).want(t, 200); !strings.HasPrefix(r.header.Get("Content-Type"), want) {
			t.Errorf("with the body %q: %q, want %q", body, r.header.Get("Content-Type"), want)
		}
	}
	if calls := s.provider.calls("exact-third"); len(calls) != 1 || bytes.Contains(calls[0].body, []byte("background")) {
		t.Errorf("upstream: %v", calls)
	}
	// A repeat that says so finds the first one, and any other is one of its own.
	const repeated = `{"model":"gpt-r","background":true,"input":"exact-repeat"}`
	first := ask(repeated)
	again := c.do("POST", "/openai/v1/responses", repeated, "X-Stainless-Retry-Count", "1").want(t, 200)
	if other := ask(repeated); again.str("id") != first.str("id") || other.str("id") == first.str("id") {
		t.Errorf("first %s, repeated %s, another %s", first.str("id"), again.str("id"), other.str("id"))
	}

	// One that fails says why; one that is canceled stays so.
	f := ends(ask(`{"model":"gpt-r","background":true,"input":"[[fault:400]]"}`).str("id"), "failed")
	if f.str("error.code") != "invalid_prompt" || f.str("error.message") == "" {
		t.Errorf("failed: %s", f.body)
	}
	b = ask(`{"model":"gpt-r","background":true,"input":"[[latency:20s]]"}`)
	if r := c.do("DELETE", "/openai/v1/responses/"+b.str("id"), ""); r.status != 409 || r.header.Get("X-Should-Retry") != "false" {
		t.Errorf("deleted before its end: %d %s", r.status, r.body)
	}
	for range 2 {
		if r := c.do("POST", "/openai/v1/responses/"+b.str("id")+"/cancel", "").want(t, 200); r.str("status") != "cancelled" {
			t.Errorf("canceled: %s", r.body)
		}
	}
	if r := c.do("DELETE", "/openai/v1/responses/"+b.str("id"), "").want(t, 200); r.get("deleted") != true || r.str("id") != b.str("id") {
		t.Errorf("deleted: %s", r.body)
	}

	// What is gone, another tenant's, or no response is not found.
	job := c.do("POST", "/v1/jobs", prompt("gpt-r", "a job")).want(t, 202).str("id")
	for _, id := range []string{b.str("id"), "resp_x", "resp_" + strings.TrimPrefix(job, "job_")} {
		if r := get(id); r.status != 404 || r.str("error.type") != "invalid_request_error" {
			t.Errorf("%s: %d %s", id, r.status, r.body)
		}
	}
	other := s.as(t, "other")
	if r := other.do("GET", "/openai/v1/responses/"+first.str("id"), ""); r.status != 404 {
		t.Errorf("another tenant reads: %d %s", r.status, r.body)
	}
	if r := other.do("POST", "/openai/v1/responses/"+first.str("id")+"/cancel", ""); r.status != 404 {
		t.Errorf("another tenant cancels: %d %s", r.status, r.body)
	}
}

// uploads sends a file as an SDK does, and returns its id.
func (c caller) uploads(t *testing.T, content string, more ...string) reply {
	t.Helper()
	form := "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n" +
		"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\nContent-Type: application/octet-stream\r\n\r\n" + content + "\r\n--b--\r\n"
	return c.do("POST", "/openai/v1/files", form, append([]string{"Content-Type", "multipart/form-data; boundary=b"}, more...)...)
}

func testOpenAIFiles(t *testing.T, s *system) {
	c, other := s.as(t, "files"), s.as(t, "other")
	// More than a chunk, with a line that is longer than one.
	content := `{"custom_id":"long","method":"POST","url":"/v1/embeddings","body":{"model":"gpt-e","input":"` + strings.Repeat("word ", 70_000) + "\"}}\n" +
		strings.Repeat("\n", 10) + strings.Repeat("x", 300)
	f := c.uploads(t, content).want(t, 200)
	id := f.str("id")
	if !regexp.MustCompile(`^file-[0-9A-Z]{26}$`).MatchString(id) || f.str("object") != "file" || f.num("bytes") != float64(len(content)) || f.str("filename") != "in.jsonl" || f.str("purpose") != "batch" || f.num("expires_at")-f.num("created_at") != 30*24*3600 {
		t.Errorf("file: %s", f.body)
	}
	if r := c.do("GET", "/openai/v1/files/"+id, "").want(t, 200); !bytes.Equal(r.body, f.body) {
		t.Errorf("read again: %s", r.body)
	}
	if r := c.do("GET", "/openai/v1/files/"+id+"/content", "").want(t, 200); string(r.body) != content {
		t.Errorf("content: %d bytes; want %d", len(r.body), len(content))
	}
	second := c.uploads(t, "{}").want(t, 200).str("id")
	r := c.do("GET", "/openai/v1/files?limit=1", "").want(t, 200)
	if r.str("first_id") != second || r.str("last_id") != second || r.get("has_more") != true {
		t.Errorf("first page: %s", r.body)
	}
	if r := c.do("GET", "/openai/v1/files?limit=1&after="+second, "").want(t, 200); r.str("first_id") != id || r.get("has_more") != false {
		t.Errorf("second page: %s", r.body)
	}
	for _, path := range []string{"/openai/v1/files/" + id, "/openai/v1/files/" + id + "/content", "/openai/v1/files/file-out-01JDXXXXXXXXXXXXXXXXXXXXXX", "/openai/v1/batches/batch_x"} {
		if r := other.do("GET", path, ""); r.status != 404 || r.str("error.type") != "invalid_request_error" {
			t.Errorf("another tenant's %s: %d %s", path, r.status, r.body)
		}
	}
	if r := other.do("DELETE", "/openai/v1/files/"+id, ""); r.status != 404 {
		t.Errorf("another tenant deletes: %d", r.status)
	}
	if r := c.do("DELETE", "/openai/v1/files/"+id, "").want(t, 200); r.get("deleted") != true {
		t.Errorf("deleted: %s", r.body)
	}
	if r := c.do("GET", "/openai/v1/files/"+id+"/content", ""); r.status != 404 {
		t.Errorf("after its deletion: %d", r.status)
	}
	// An upload is found by its key alone, whatever its boundary.
	const key = "Idempotency-Key"
	keyed := c.uploads(t, "{}", key, "u").want(t, 200).str("id")
	if again := c.uploads(t, "{}", key, "u").want(t, 200); again.str("id") != keyed || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the same key made %s, want %s", again.body, keyed)
	}
	if r := c.uploads(t, "{ }", key, "u"); r.status != 422 || r.header.Get("X-Should-Retry") != "false" || !strings.Contains(string(r.body), "which made "+keyed) {
		t.Errorf("the key of another file: %d %s", r.status, r.body)
	}
	if r := c.uploads(t, "{}", "X-Stainless-Retry-Count", "1").want(t, 200); r.str("id") == keyed {
		t.Error("an upload without a key is another's")
	}
	c.do("DELETE", "/openai/v1/files/"+keyed, "").want(t, 200)
	if r := c.uploads(t, "{}", key, "u").want(t, 200); r.str("id") == keyed {
		t.Error("after its deletion the key brings the file back")
	}
	if r := c.do("POST", "/openai/v1/files", "--b--\r\n", "Content-Type", "multipart/form-data; boundary=b"); r.status != 400 {
		t.Errorf("no file: %d %s", r.status, r.body)
	}
}

func testOpenAIBatches(t *testing.T, s *system) {
	c := s.as(t, "batches")
	line := func(id, url, body string) string {
		return `{"custom_id":"` + id + `","method":"POST","url":"` + url + `","body":` + body + "}\n"
	}
	create := func(file, endpoint string, headers ...string) reply {
		t.Helper()
		return c.do("POST", "/openai/v1/batches", `{"input_file_id":"`+file+`","endpoint":"`+endpoint+`","completion_window":"24h","metadata":{"a":"b"},"output_expires_after":{"anchor":"created_at","seconds":7200}}`, headers...).want(t, 200)
	}
	ends := func(id, status string) (r reply) {
		t.Helper()
		eventually(t, "the batch is "+status, func() bool {
			r = c.do("GET", "/openai/v1/batches/"+id, "").want(t, 200)
			return r.str("status") == status
		})
		return r
	}
	rows := func(file string) map[string]any {
		t.Helper()
		out := map[string]any{}
		for l := range strings.Lines(string(c.do("GET", "/openai/v1/files/"+file+"/content", "").want(t, 200).body)) {
			var row any
			if err := json.Unmarshal([]byte(l), &row); err != nil {
				t.Fatalf("%v: %s", err, l)
			}
			out[at(row, "custom_id").(string)] = row
		}
		return out
	}
	ask := func(text string) string {
		return `{"model":"gpt-b","messages":[{"role":"user","content":"` + text + `"}]}`
	}

	file := c.uploads(t, line("one", "/v1/chat/completions", ask("one"))+"\n"+line("two", "/v1/chat/completions", ask("[[fault:400]]"))).want(t, 200).str("id")
	b := create(file, "/v1/chat/completions")
	id := b.str("id")
	if !strings.HasPrefix(id, "batch_") || b.str("object") != "batch" || b.str("input_file_id") != file || b.str("metadata.a") != "b" || b.num("request_counts.total") != 2 || b.num("expires_at")-b.num("created_at") != 24*3600 {
		t.Errorf("batch: %s", b.body)
	}
	done := ends(id, "completed")
	if done.num("request_counts.completed") != 1 || done.num("request_counts.failed") != 1 || done.num("completed_at") < done.num("created_at") || done.get("errors") != nil {
		t.Errorf("at its end: %s", done.body)
	}
	good, bad := rows(done.str("output_file_id")), rows(done.str("error_file_id"))
	if len(good) != 1 || at(good["one"], "response.status_code") != 200.0 || at(good["one"], "response.body.object") != "chat.completion" || at(good["one"], "error") != nil || at(good["one"], "response.request_id") == "" {
		t.Errorf("output: %v", good)
	}
	if len(bad) != 1 || at(bad["two"], "response.status_code") != 400.0 || at(bad["two"], "response.body.error.type") != "invalid_request_error" {
		t.Errorf("errors: %v", bad)
	}
	if f := c.do("GET", "/openai/v1/files/"+done.str("output_file_id"), "").want(t, 200); f.str("purpose") != "batch_output" || f.num("expires_at") != f.num("created_at")+7200 {
		t.Errorf("output file: %s", f.body)
	}
	if r := c.do("GET", "/v1/batches/"+id, "").want(t, 200); r.str("status") != "ended" || r.num("counts.succeeded") != 1 {
		t.Errorf("in our own form: %s", r.body)
	}

	// The other endpoints; a repeat finds the first batch.
	file = c.uploads(t, line("r", "/v1/responses", `{"model":"gpt-b","input":"r"}`)).want(t, 200).str("id")
	b = create(file, "/v1/responses")
	if again := create(file, "/v1/responses", "X-Stainless-Retry-Count", "1"); again.str("id") != b.str("id") {
		t.Errorf("a repeat made %s; the first is %s", again.str("id"), b.str("id"))
	}
	row := rows(ends(b.str("id"), "completed").str("output_file_id"))["r"]
	response, _ := at(row, "response.body.id").(string)
	if got := c.do("GET", "/openai/v1/responses/"+response, ""); got.status != 200 || got.str("id") != response {
		t.Errorf("the response of a batch: %v: %d %s", row, got.status, got.body)
	}
	file = c.uploads(t, line("e", "/v1/embeddings", `{"model":"gpt-b","input":"e"}`)).want(t, 200).str("id")
	const key = "Idempotency-Key"
	b = create(file, "/v1/embeddings", key, "k")
	if row := rows(ends(b.str("id"), "completed").str("output_file_id"))["e"]; at(row, "response.body.object") != "list" {
		t.Errorf("embeddings: %v", row)
	}
	if again := create(file, "/v1/embeddings", key, "k"); again.str("id") != b.str("id") || again.num("created_at") != b.num("created_at") {
		t.Errorf("the same key made %s; want %s", again.body, b.body)
	}

	// A faulty file fails the batch, and each fault is told with its line.
	file = c.uploads(t, "nonsense\n"+line("a", "/v1/chat/completions", ask("x"))+line("a", "/v1/chat/completions", ask("x"))+line("b", "/v1/other", ask("x"))).want(t, 200).str("id")
	f := create(file, "/v1/chat/completions")
	list, _ := f.get("errors.data").([]any)
	if f.str("status") != "failed" || f.num("failed_at") <= 0 || len(list) != 3 || at(list[0], "line") != 1.0 || at(list[1], "line") != 3.0 || at(list[2], "line") != 4.0 || at(list[2], "code") != "invalid_url" {
		t.Errorf("a faulty file: %s", f.body)
	}
	file = c.uploads(t, line("a", "/v1/embeddings", `{"model":"gpt-b","input":"x"}`)+line("b", "/v1/chat/completions", `{"model":"claude-x","messages":[]}`)).want(t, 200).str("id")
	if f = create(file, "/v1/chat/completions"); f.str("status") != "failed" || len(f.get("errors.data").([]any)) != 2 {
		t.Errorf("another endpoint, another provider's model: %s", f.body)
	}
	if got := c.do("GET", "/openai/v1/batches/"+f.str("id"), "").want(t, 200); !bytes.Equal(got.body, f.body) {
		t.Errorf("read again: %s", got.body)
	}

	// A cancel ends what waits and runs; a repeat answers the same.
	file = c.uploads(t, line("c", "/v1/chat/completions", ask("[[latency:20s]]"))).want(t, 200).str("id")
	id = create(file, "/v1/chat/completions").str("id")
	c.do("POST", "/openai/v1/batches/"+id+"/cancel", "").want(t, 200)
	gone := ends(id, "cancelled")
	if row := rows(gone.str("error_file_id"))["c"]; at(row, "error.code") != "batch_cancelled" || at(row, "response") != nil || gone.num("cancelling_at") <= 0 || gone.num("cancelled_at") <= 0 {
		t.Errorf("canceled: %s: %v", gone.body, row)
	}
	c.do("POST", "/openai/v1/batches/"+id+"/cancel", "").want(t, 200)
	if r := c.do("POST", "/openai/v1/batches/"+b.str("id")+"/cancel", ""); r.status != 409 || r.header.Get("X-Should-Retry") != "false" {
		t.Errorf("canceled after its end: %d %s", r.status, r.body)
	}

	r := c.do("GET", "/openai/v1/batches?limit=2", "").want(t, 200)
	if list, _ := r.get("data").([]any); len(list) != 2 || r.str("first_id") != id || r.str("last_id") != f.str("id") || r.get("has_more") != true {
		t.Errorf("list: %s", r.body)
	}
	other := s.as(t, "other")
	if r := other.do("POST", "/openai/v1/batches", `{"input_file_id":"`+file+`","endpoint":"/v1/chat/completions","completion_window":"24h"}`); r.status != 404 {
		t.Errorf("another tenant's file: %d %s", r.status, r.body)
	}
	if r := other.do("POST", "/openai/v1/batches/"+id+"/cancel", ""); r.status != 404 {
		t.Errorf("another tenant cancels: %d %s", r.status, r.body)
	}
}

func testOpenAIModels(t *testing.T, s *system) {
	c := s.as(t, "models")
	r := c.do("GET", "/openai/v1/models", "").want(t, 200)
	list, _ := r.get("data").([]any)
	if r.str("object") != "list" || len(list) != 1 || at(list[0], "id") != "gpt-4o" || at(list[0], "object") != "model" || at(list[0], "owned_by") != "fake" {
		t.Errorf("models: %s", r.body)
	}
	if r := c.do("GET", "/openai/v1/models/gpt-4o", "").want(t, 200); r.str("id") != "gpt-4o" || r.num("created") <= 0 {
		t.Errorf("model: %s", r.body)
	}
	if r := c.do("GET", "/openai/v1/models/gpt-of/mine", "").want(t, 200); r.str("id") != "gpt-of/mine" || r.str("owned_by") == "" {
		t.Errorf("a model that is served without being listed: %s", r.body)
	}
	for _, id := range []string{"claude-x", "none"} {
		if r := c.do("GET", "/openai/v1/models/"+id, ""); r.status != 404 || r.str("error.code") != "model_not_found" {
			t.Errorf("%s: %d %s", id, r.status, r.body)
		}
	}
}

// A batch is seen in the form of the provider that its requests went to, in whichever it
// was made: one of several providers' under /v1 alone.
func testBatchesOfAllForms(t *testing.T, s *system) {
	c := s.as(t, "forms")
	ours := func(models ...string) string {
		t.Helper()
		var lines []string
		for _, m := range models {
			lines = append(lines, prompt(m, "exact-line"))
		}
		return c.do("POST", "/v1/batches", `{"jobs":[`+strings.Join(lines, ",")+`]}`).want(t, 202).str("id")
	}
	theirs := func(id string) string { return "msgbatch_" + strings.TrimPrefix(id, "batch_") }
	line := func(model string) string {
		return c.uploads(t, `{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"`+model+`","input":"x"}}`).want(t, 200).str("id")
	}
	create := func(file string) string {
		t.Helper()
		return c.do("POST", "/openai/v1/batches", `{"input_file_id":"`+file+`","endpoint":"/v1/embeddings","completion_window":"24h"}`).want(t, 200).str("id")
	}
	claude, mixed, gpt := ours("claude-x"), ours("claude-x", "gpt-x"), ours("gpt-x")
	made := c.do("POST", messageBatches, batchOf(asked("a", "claude-x", "x"))).want(t, 200).str("id")
	failed, run := create(line("no-such-model")), create(line("gpt-x"))
	for _, w := range []struct {
		list, after string
		want        []string
	}{
		{messageBatches, "after_id", []string{made, theirs(claude)}},
		{"/openai/v1/batches", "after", []string{run, failed, gpt}},
	} {
		for limit := 1; limit <= 4; limit++ {
			var got []string
			for after, more := "", true; more && len(got) < 9; {
				r := c.do("GET", fmt.Sprintf("%s?limit=%d%s", w.list, limit, after), "").want(t, 200)
				for _, b := range r.get("data").([]any) {
					got = append(got, at(b, "id").(string))
				}
				more = r.get("has_more") == true
				after = "&" + w.after + "=" + r.str("last_id")
			}
			if strings.Join(got, " ") != strings.Join(w.want, " ") {
				t.Errorf("%s, %d a page: %v; want %v", w.list, limit, got, w.want)
			}
		}
	}
	for _, path := range []string{messageBatches + "/" + theirs(gpt), messageBatches + "/" + theirs(mixed), messageBatches + "/" + theirs(run), "/openai/v1/batches/" + claude, "/openai/v1/batches/" + mixed} {
		for _, more := range []string{"", "/cancel", "/results"} {
			method := map[string]string{"/cancel": "POST"}[more]
			if method == "" {
				method = "GET"
			}
			if r := c.do(method, path+more, ""); r.status != 404 && r.status != 405 {
				t.Errorf("%s %s: %d %s", method, path+more, r.status, r.body)
			}
		}
	}
	// One that was made under /v1 is read whole, its results as well.
	eventually(t, "the batch ends", func() bool {
		return c.do("GET", "/openai/v1/batches/"+gpt, "").want(t, 200).str("status") == "completed"
	})
	file := c.do("GET", "/openai/v1/batches/"+gpt, "").str("output_file_id")
	if r := c.do("GET", "/openai/v1/files/"+file+"/content", "").want(t, 200); !bytes.Contains(r.body, []byte(`"object":"chat.completion"`)) {
		t.Errorf("its results: %s", r.body)
	}
	if r := c.do("GET", "/v1/batches?limit=100", "").want(t, 200); len(r.get("data").([]any)) != 5 {
		t.Errorf("under /v1: %s", r.body)
	}
}
