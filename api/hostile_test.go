package api_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/api"
)

// with returns a submit body with further members.
func with(members string) string { return `{"model":"claude-x","prompt":"x",` + members + `}` }

func TestHostileBodies(t *testing.T) {
	t.Parallel()
	s := serve(t)
	deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	pairs := func(n int) string {
		m := map[string]string{}
		for i := range n {
			m[strings.Repeat("k", i+1)] = "v"
		}
		b, _ := json.Marshal(m)
		return `"metadata":` + string(b)
	}
	long := func(n int) string { return strings.Repeat("a", n) }
	rows := []struct {
		name, body string
		status     int
		detail     string // a part of the detail
	}{
		{"nothing", "", 400, "ends before"},
		{"white space", " \n\t", 400, "ends before"},
		{"null", "null", 400, "must be a JSON object"},
		{"a list", "[]", 400, "must be a JSON object"},
		{"a string", `"x"`, 400, "must be a JSON object"},
		{"a number", "1", 400, "must be a JSON object"},
		{"a word", "hello", 400, ""},
		{"cut off in a name", `{"mod`, 400, "ends before"},
		{"cut off in a value", `{"model":"claude-x","prompt":"x`, 400, "ends before"},
		{"cut off before the brace", `{"model":"claude-x","prompt":"x"`, 400, "ends before"},
		{"a second value", hello + "{}", 400, "follows"},
		{"a trailing word", hello + " x", 400, "follows"},
		{"a trailing brace", hello + "}", 400, "follows"},
		{"a trailing NUL", hello + "\x00", 400, "follows"},
		{"a byte order mark", "\ufeff" + hello, 400, ""},
		{"UTF-16", "{\x00\"\x00", 400, ""},
		{"a comment", `{/*x*/"model":"claude-x","prompt":"x"}`, 400, ""},
		{"a trailing comma", `{"model":"claude-x","prompt":"x",}`, 400, ""},
		{"single quotes", `{'model':'claude-x'}`, 400, ""},
		{"NaN", with(`"max_tokens":NaN`), 400, ""},
		{"a bare newline in a string", "{\"model\":\"claude-x\",\"prompt\":\"a\nb\"}", 400, ""},
		{"invalid UTF-8", "{\"model\":\"claude-x\",\"prompt\":\"\xff\"}", 400, ""},
		{"a lone surrogate", `{"model":"claude-x","prompt":"\ud800"}`, 400, ""},
		{"a bad escape", `{"model":"claude-x","prompt":"\x41"}`, 400, ""},

		{"an unknown member", with(`"temperature":1`), 400, `"temperature"`},
		{"another case", `{"Model":"claude-x","prompt":"x"}`, 400, `"Model"`},
		{"an empty name", with(`"":1`), 400, `""`},
		{"a very long name", with(`"` + long(5000) + `":1`), 400, "unknown"},
		{"a name with a quote and a tag", with(`"\"<script>":1`), 400, "unknown"},
		{"server's own: id", with(`"id":"job_1"`), 400, `"id"`},
		{"server's own: tenant", with(`"tenant":"other"`), 400, `"tenant"`},
		{"server's own: status", with(`"status":"succeeded"`), 400, `"status"`},
		{"server's own: pool", with(`"pool":"gpt"`), 400, `"pool"`},
		{"server's own: result", with(`"result":{}`), 400, `"result"`},
		{"custom_id outside a batch", with(`"custom_id":"a"`), 400, `"custom_id"`},
		{"a member twice", with(`"model":"gpt-5"`), 400, "twice"},
		{"a member twice by escapes", with(`"m\u006fdel":"gpt-5"`), 400, "twice"},
		{"metadata twice", with(`"metadata":{"a":"1","a":"2"}`), 400, "/metadata/a"},
		{"twice inside a request", `{"request":{"model":"gpt-5","x":{"a":1,"a":2}}}`, 400, "twice"},
		{"twice inside messages", `{"model":"claude-x","messages":[{"role":"user","content":"a","content":"b"}]}`, 400, "twice"},

		{"no model", `{"prompt":"x"}`, 400, `"model"`},
		{"model null", `{"model":null,"prompt":"x"}`, 400, `"model" is missing`},
		{"model empty", `{"model":"","prompt":"x"}`, 400, `"model"`},
		{"model a number", `{"model":1,"prompt":"x"}`, 400, `"model" must be a string`},
		{"model with a control character", `{"model":"claude-\u0000","prompt":"x"}`, 400, `"model"`},
		{"model too long", `{"model":"claude-` + long(256) + `","prompt":"x"}`, 400, `"model"`},
		{"model unknown", `{"model":"llama","prompt":"x"}`, 404, `"model"`},
		{"a fallback unknown", with(`"fallback_models":["llama"]`), 404, "fallback_models"},
		{"a fallback null", with(`"fallback_models":[null]`), 400, "fallback_models"},
		{"a fallback not a string", with(`"fallback_models":[1]`), 400, "fallback_models"},
		{"fallbacks a string", with(`"fallback_models":"gpt-5"`), 400, "fallback_models"},
		{"too many fallbacks", with(`"fallback_models":["gpt-1","gpt-2","gpt-3","gpt-4","gpt-5","gpt-6","gpt-7","gpt-8","gpt-9"]`), 400, "fallback_models"},

		{"no input", `{"model":"claude-x"}`, 400, "Exactly one"},
		{"two inputs", with(`"messages":[{"role":"user","content":"x"}]`), 400, "Exactly one"},
		{"two inputs, one empty", `{"model":"claude-x","prompt":"hi","messages":[]}`, 400, "Exactly one"},
		{"two empty inputs", `{"model":"claude-x","messages":[],"prompt":""}`, 400, "Exactly one"},
		{"an empty list", `{"model":"claude-x","messages":[]}`, 400, `"messages" must not be empty`},
		{"an empty text", `{"model":"claude-x","prompt":""}`, 400, `"prompt" must not be empty`},
		{"a slip of syntax in the second line", "{\n \"model\": \"é\", \"prompt\": 'x'}", 400, "line 2, column 26, byte "},
		{"a slip of syntax in one line", `{"model":'claude-x'}`, 400, "column 10, byte 9"},
		{"three inputs", with(`"messages":[{"role":"user","content":"x"}],"request":{"model":"claude-x"}`), 400, "Exactly one"},
		{"an empty prompt", `{"model":"claude-x","prompt":""}`, 400, `"prompt"`},
		{"every input null", `{"model":"claude-x","prompt":null,"messages":null,"request":null}`, 400, "Exactly one"},
		{"prompt an object", `{"model":"claude-x","prompt":{}}`, 400, `"prompt" must be a string`},
		{"messages empty", `{"model":"claude-x","messages":[]}`, 400, `"messages"`},
		{"messages a string", `{"model":"claude-x","messages":"x"}`, 400, `"messages"`},
		{"a message a string", `{"model":"claude-x","messages":["x"]}`, 400, "messages[0]"},
		{"a message without a role", `{"model":"claude-x","messages":[{"content":"x"}]}`, 400, "messages[0]"},
		{"a message without content", `{"model":"claude-x","messages":[{"role":"user","content":"x"},{"role":"user"}]}`, 400, "messages[1]"},
		{"a role that is a number", `{"model":"claude-x","messages":[{"role":1,"content":"x"}]}`, 400, "messages[0].role"},
		{"content that is a number", `{"model":"claude-x","messages":[{"role":"user","content":1}]}`, 400, "messages[0].content"},
		{"system without messages", with(`"system":"x"`), 400, `"system"`},
		{"system a number", `{"model":"claude-x","messages":[{"role":"user","content":"x"}],"system":1}`, 400, `"system"`},
		{"request a string", `{"request":"x"}`, 400, `"request"`},
		{"request without any model", `{"request":{"messages":[]}}`, 400, `"model"`},
		{"request of another model", `{"model":"claude-x","request":{"model":"claude-y"}}`, 400, "request.model"},
		{"request.model a number", `{"request":{"model":1}}`, 400, "request.model"},
		{"request.max_tokens a string", `{"request":{"model":"gpt-5","max_tokens":"9"}}`, 400, "request.max_tokens"},
		{"max_tokens that differ", `{"max_tokens":1,"request":{"model":"gpt-5","max_tokens":2}}`, 400, "max_tokens"},

		{"max_tokens 0", with(`"max_tokens":0`), 400, "max_tokens"},
		{"max_tokens negative", with(`"max_tokens":-1`), 400, "max_tokens"},
		{"max_tokens a fraction", with(`"max_tokens":1.5`), 400, "max_tokens"},
		{"max_tokens with an exponent", with(`"max_tokens":1e3`), 400, "max_tokens"},
		{"max_tokens huge", with(`"max_tokens":99999999999999999999999`), 400, "max_tokens"},
		{"max_tokens a string", with(`"max_tokens":"1"`), 400, "max_tokens"},
		{"priority unknown", with(`"priority":"urgent"`), 400, "priority"},
		{"priority a number", with(`"priority":1`), 400, "priority"},
		{"priority in capitals", with(`"priority":"HIGH"`), 400, "priority"},
		{"not_before a number", with(`"not_before":1700000000`), 400, "not_before"},
		{"not_before a day", with(`"not_before":"2030-01-01"`), 400, "not_before"},
		{"not_before without a zone", with(`"not_before":"2030-01-01T00:00:00"`), 400, "not_before"},
		{"not_before on the 31st of February", with(`"not_before":"2030-02-31T00:00:00Z"`), 400, "not_before"},
		{"deadline a word", with(`"deadline":"tomorrow"`), 400, "deadline"},
		{"deadline with a comma", with(`"deadline":"2030-01-01T00:00:00,5Z"`), 400, "deadline"},
		{"deadline with an hour of one digit", with(`"deadline":"2030-01-01T1:00:00Z"`), 400, "deadline"},
		{"deadline with an offset of a day", with(`"deadline":"2030-01-01T00:00:00+24:00"`), 400, "deadline"},
		{"deadline in the past", with(`"deadline":"2020-01-01T00:00:00Z"`), 422, "deadline"},
		{"deadline before not_before", with(`"deadline":"2990-01-01T00:00:00Z","not_before":"2991-01-01T00:00:00Z"`), 422, "deadline"},
		{"deadline at not_before", with(`"deadline":"2990-01-01T00:00:00Z","not_before":"2990-01-01T00:00:00Z"`), 422, "deadline"},

		{"metadata a list", with(`"metadata":[]`), 400, "metadata"},
		{"metadata of numbers", with(`"metadata":{"a":1}`), 400, "metadata.a"},
		{"a pair of metadata null", with(`"metadata":{"a":null}`), 400, "metadata.a"},
		{"an unknown member null", with(`"seed":null`), 400, "unknown"},
		{"a member null and given again", with(`"max_tokens":null,"max_tokens":1`), 400, "twice"},
		{"metadata nested", with(`"metadata":{"a":{"b":"c"}}`), 400, "metadata.a"},
		{"metadata with an empty key", with(`"metadata":{"":"x"}`), 400, "metadata"},
		{"metadata with a long key", with(`"metadata":{"` + long(65) + `":"x"}`), 400, "metadata"},
		{"metadata with a long value", with(`"metadata":{"a":"` + long(513) + `"}`), 400, "metadata"},
		{"17 pairs of metadata", with(pairs(17)), 400, "metadata"},

		{"webhook_url a number", with(`"webhook_url":1`), 400, "webhook_url"},
		{"webhook_url empty", with(`"webhook_url":""`), 400, "webhook_url"},
		{"webhook_url relative", with(`"webhook_url":"/hook"`), 422, "webhook_url"},
		{"webhook_url by http", with(`"webhook_url":"http://a.example/"`), 422, "webhook_url"},
		{"webhook_url a file", with(`"webhook_url":"file:///etc/passwd"`), 422, "webhook_url"},
		{"webhook_url without a host", with(`"webhook_url":"https:///x"`), 422, "webhook_url"},
		{"webhook_url with a user", with(`"webhook_url":"https://u:p@a.example/"`), 422, "webhook_url"},
		{"webhook_url with a newline", with(`"webhook_url":"https://a.example/\r\nX: y"`), 422, "webhook_url"},
		{"webhook_url with a fragment", with(`"webhook_url":"https://a.example/#x"`), 422, "webhook_url"},
		{"webhook_url too long", with(`"webhook_url":"https://a.example/` + long(2048) + `"`), 400, "webhook_url"},

		{"129 levels", `{"request":` + deep(129) + `}`, 400, "nested"},
		{"100,000 levels", `{"request":` + deep(100_000) + `}`, 400, "nested"},
		{"129 levels after a string with quotes", `{"a\\\"[":"\\\\","request":` + deep(129) + `}`, 400, "nested"},
		{"100,000 open lists", strings.Repeat("[", 100_000), 400, "nested"},
	}
	if len(rows) < 60 {
		t.Errorf("only %d rows", len(rows))
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := s.call("POST", "/v1/jobs", writer, row.body)
			if r.StatusCode != row.status {
				t.Fatalf("%.200s: got %d, want %d: %s", row.body, r.StatusCode, row.status, r.body)
			}
			if detail := r.str(t, "detail"); !strings.Contains(detail, row.detail) || len(detail) > 400 {
				t.Errorf("%.200s: the detail is %q, want %q in it", row.body, detail, row.detail)
			}
			// The same line is as bad in a batch, and takes its neighbours with it.
			if strings.ContainsAny(row.body, "\n") || strings.TrimSpace(row.body) == "" || strings.Contains(row.body, "custom_id") {
				return
			}
			b := s.call("POST", "/v1/batches", writer, hello+"\r\n\n"+row.body+"\n"+hello, "Content-Type", "application/x-ndjson")
			if b.StatusCode != row.status {
				t.Fatalf("%.200s in a batch: got %d, want %d: %s", row.body, b.StatusCode, row.status, b.body)
			}
			if b.json(t)["line"] != 3.0 || !strings.HasPrefix(b.str(t, "detail"), "Line 3: ") {
				t.Errorf("the batch does not name line 3: %s", b.body)
			}
		})
	}
	if len(s.world.jobs) != 0 || len(s.world.batches) != 0 || len(s.world.staged) != 0 {
		t.Errorf("%d jobs, %d batches and %d staged ones came of nothing but faults", len(s.world.jobs), len(s.world.batches), len(s.world.staged))
	}
}

func TestLimitsAreInclusive(t *testing.T) {
	t.Parallel()
	s := serve(t)
	m := map[string]string{}
	for i := range 16 {
		m[strings.Repeat("ü", 48+i)] = strings.Repeat("é", 512)
	}
	b, _ := json.Marshal(m)
	s.call("POST", "/v1/jobs", writer, with(`"metadata":`+string(b))).want(t, 202)
	s.call("POST", "/v1/jobs", writer, `{"request":{"model":"gpt-5","x":`+strings.Repeat("[", 126)+strings.Repeat("]", 126)+`}}`).want(t, 202)
	s.call("POST", "/v1/jobs", writer, `{"model":"claude-x","prompt":"`+strings.Repeat(`[{\"`, 500)+`"}`).want(t, 202)
}

func TestHostileHeaders(t *testing.T) {
	t.Parallel()
	s := serve(t)
	rows := []struct {
		name, value string
		status      int
	}{
		{"Idempotency-Key", `""`, 400},
		{"Idempotency-Key", strings.Repeat("k", 256), 400},
		{"Idempotency-Key", "has space", 400},
		{"Idempotency-Key", "\xfcmlaut", 400},
		{"Idempotency-Key", "tab\tbed", 400},
		{"Idempotency-Key", strings.Repeat("k", 255), 202},
		{"Idempotency-Key", `"` + strings.Repeat("q", 255) + `"`, 202},
		{"Content-Type", "text/plain", 415},
		{"Content-Type", "application/json; charset=latin1", 415},
		{"Content-Type", "application/x-ndjson", 415},
		{"Content-Type", ";", 415},
		{"Content-Type", "application/json; charset=UTF-8", 202},
		{"Content-Type", "", 202},
		{"Content-Encoding", "br", 415},
		{"Content-Encoding", "gzip, gzip", 415},
		{"Content-Encoding", "deflate", 415},
		{"Content-Encoding", "identity", 202},
		{"Content-Encoding", "gzip", 400}, // which the body is not
		{"anthropic-version", "two words", 400},
		{"anthropic-version", strings.Repeat("v", 65), 400},
		{"anthropic-beta", strings.Repeat("b", 1025), 400},
		{"anthropic-beta", "\xff", 400},
	}
	for _, row := range rows {
		if r := s.call("POST", "/v1/jobs", writer, hello, row.name, row.value); r.StatusCode != row.status {
			t.Errorf("%s: %.60q: got %d, want %d: %s", row.name, row.value, r.StatusCode, row.status, r.body)
		}
	}
	req := s.request(t.Context(), "POST", "/v1/jobs", writer, hello)
	req.Header["Idempotency-Key"] = []string{"a", "b"}
	res, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 400 {
		t.Errorf("two Idempotency-Keys: got %d, want 400", res.StatusCode)
	}
}

func zip(t testing.TB, parts ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	for _, part := range parts {
		if _, err := io.WriteString(z, part); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestBodySizes(t *testing.T) {
	t.Parallel()
	const most = 1000
	s := serve(t, func(c *api.Config) { c.MaxBody, c.MaxBatchBody = most, 4*most })
	body := func(n int) string {
		return `{"model":"claude-x","prompt":"` + strings.Repeat("a", n-len(`{"model":"claude-x","prompt":""}`)) + `"}`
	}
	gz := []string{"Content-Encoding", "gzip"}
	s.call("POST", "/v1/jobs", writer, body(most)).want(t, 202)
	s.call("POST", "/v1/jobs", writer, body(most+1)).want(t, 413, "body_too_large")
	s.call("POST", "/v1/jobs", writer, zip(t, body(most)), gz...).want(t, 202)
	s.call("POST", "/v1/jobs", writer, zip(t, body(most+1)), gz...).want(t, 413, "body_too_large")
	s.call("POST", "/v1/jobs", writer, zip(t, body(most), " "), gz...).want(t, 413, "body_too_large")
	s.call("POST", "/v1/jobs", writer, zip(t, strings.Repeat("a", 2<<20)), gz...).want(t, 413, "body_too_large")
	s.call("POST", "/v1/jobs", writer, zip(t, hello)[:20], gz...).want(t, 400)
	s.call("POST", "/v1/jobs", writer, append(zip(t, hello), "rest"...), gz...).want(t, 400)
	broken := zip(t, body(most))
	broken[len(broken)/2] ^= 0xff
	s.call("POST", "/v1/jobs", writer, broken, gz...).want(t, 400)
	// Without a Content-Length.
	s.call("POST", "/v1/jobs", writer, io.MultiReader(strings.NewReader(body(most)))).want(t, 202)
	s.call("POST", "/v1/jobs", writer, io.MultiReader(strings.NewReader(body(most+1)))).want(t, 413, "body_too_large")

	nd := []string{"Content-Type", "application/x-ndjson"}
	s.call("POST", "/v1/batches", writer, body(most)+"\n"+body(most)+"\n"+body(most), nd...).want(t, 202)
	r := s.call("POST", "/v1/batches", writer, body(most)+"\n"+body(most+1)+"\n", nd...).want(t, 413, "body_too_large")
	if r.json(t)["line"] != 2.0 {
		t.Errorf("a long line is not named: %s", r.body)
	}
	five := strings.Repeat(body(most)+"\n", 5)
	s.call("POST", "/v1/batches", writer, five, nd...).want(t, 413, "body_too_large")
	s.call("POST", "/v1/batches", writer, io.MultiReader(strings.NewReader(five)), nd...).want(t, 413, "body_too_large")
	s.call("POST", "/v1/batches", writer, zip(t, five), append(nd, gz...)...).want(t, 413, "body_too_large")
	s.call("POST", "/v1/batches", writer, zip(t, body(most)+"\n"+body(most)), append(nd, gz...)...).want(t, 202)
	r = s.call("POST", "/v1/batches", writer, `{"jobs":[`+body(most)+","+body(most+1)+`]}`).want(t, 413, "body_too_large")
	if r.json(t)["line"] != 2.0 {
		t.Errorf("a long element is not named: %s", r.body)
	}
	if len(s.world.staged) != 0 {
		t.Errorf("%d batches are left staged", len(s.world.staged))
	}
}

// Most callers send the whole body before they read, and those find the
// answer although nobody wanted the rest.
func TestTheAnswerArrivesThoughTheBodyIsNotWanted(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) { c.MaxBody = 1 << 20 })
	long := strings.Repeat(`{"model":"claude-x","prompt":"`+strings.Repeat("a", 1000)+`"}`+"\n", 16_000)
	for name, x := range map[string]struct {
		path, token, body string
		status            int
	}{
		"too long":          {"/v1/jobs", writer, long, 413},
		"a malformed line":  {"/v1/batches", writer, "{\n" + long, 400},
		"no token":          {"/v1/batches", "", long, 401},
		"a scope is lacked": {"/v1/jobs", reader, long, 403},
		"no such route":     {"/v1/job", writer, long, 404},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			req := s.request(t.Context(), "POST", x.path, x.token, x.body, "Content-Type", "application/x-ndjson")
			if err := req.Write(conn); err != nil {
				t.Fatalf("the body was cut off: %v", err)
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode != x.status {
				t.Errorf("status %d; want %d", res.StatusCode, x.status)
			}
		})
	}
}

func TestABrokenUploadLeavesNothing(t *testing.T) {
	t.Parallel()
	s := serve(t)
	r, w := io.Pipe()
	req := s.request(t.Context(), "POST", "/v1/batches", writer, io.Reader(r), "Content-Type", "application/x-ndjson", "Idempotency-Key", "k")
	done := make(chan error)
	go func() {
		res, err := s.client.Do(req)
		if err == nil {
			res.Body.Close()
		}
		done <- err
	}()
	if _, err := io.WriteString(w, strings.Repeat(hello+"\n", 500)); err != nil {
		t.Fatal(err)
	}
	until(t, "a part is staged", func() bool {
		s.world.mu.Lock()
		defer s.world.mu.Unlock()
		for _, jobs := range s.world.staged {
			return len(jobs) > 0
		}
		return false
	})
	w.CloseWithError(errors.New("cable pulled"))
	if err := <-done; err == nil {
		t.Error("the upload did not break")
	}
	until(t, "the batch is aborted", func() bool {
		s.world.mu.Lock()
		defer s.world.mu.Unlock()
		return len(s.world.staged) == 0 && len(s.world.keys) == 0
	})
	s.call("POST", "/v1/batches", writer, hello, "Content-Type", "application/x-ndjson", "Idempotency-Key", "k").want(t, 202)
}

// ruled is a rule that an address breaks, as whoever judges addresses tells it.
type ruled string

func (r ruled) Error() string { return "refused" }
func (r ruled) Words() string { return string(r) }

func TestWebhookURLsAreAskedAbout(t *testing.T) {
	t.Parallel()
	var asked []string
	s := serve(t, func(c *api.Config) {
		c.CheckWebhookURL = func(url string) error {
			asked = append(asked, url)
			if strings.Contains(url, "internal") {
				return errors.New("internal.example is 10.0.0.3")
			}
			if strings.HasPrefix(url, "http://b.") {
				return fmt.Errorf("checked: %w", ruled("it has to be https"))
			}
			return nil
		}
	})
	s.call("POST", "/v1/jobs", writer, with(`"webhook_url":"http://a.example/"`)).want(t, 202)
	r := s.call("POST", "/v1/jobs", writer, with(`"webhook_url":"https://internal.example/"`)).want(t, 422, "webhook_url_refused")
	if bytes.Contains(r.body, []byte("10.0.0.3")) {
		t.Errorf("the answer tells what a name means inside: %s", r.body)
	}
	// A rule's own words are for everybody.
	if got, want := s.call("POST", "/v1/jobs", writer, with(`"webhook_url":"http://b.example/"`)).want(t, 422, "webhook_url_refused").str(t, "detail"), `The address in "webhook_url" must not be called: it has to be https.`; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	asked = nil
	line := with(`"webhook_url":"https://a.example/"`)
	s.call("POST", "/v1/batches", writer, line+"\n"+line, "Content-Type", "application/x-ndjson").want(t, 202)
	if len(asked) != 2 {
		t.Errorf("of two lines' addresses %d were asked about", len(asked))
	}
	s.call("POST", "/v1/batches", writer, line+"\n"+with(`"webhook_url":"https://internal.example/"`), "Content-Type", "application/x-ndjson").want(t, 422, "webhook_url_refused")
}

// BenchmarkSubmit is the whole way through the handler, without a network.
func BenchmarkSubmit(b *testing.B) {
	s := serve(b, func(c *api.Config) { c.Log = nil })
	body := `{"model":"claude-x","max_tokens":100,"prompt":"` + strings.Repeat("a", 1024) + `"}`
	h := s.api.Handler()
	b.ReportAllocs()
	for b.Loop() {
		req, err := http.NewRequest(http.MethodPost, "/v1/jobs", strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+writer)
		w := &discard{header: http.Header{}}
		h.ServeHTTP(w, req)
		if w.status != http.StatusAccepted {
			b.Fatalf("got %d", w.status)
		}
	}
}

type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }
