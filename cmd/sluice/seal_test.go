package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// sealKey is a master key of one letter, as a configuration has it.
func sealKey(letter string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 32)))
}

// quoting answers in both dialects with what it was asked, and refuses what has REFUSE in it
// with its own words.
func quoting(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		asked := string(b)
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.Contains(asked, "REFUSE"):
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"type":"error","error":{"type":"invalid_request_error","message":"canary-error was asked"}}`)
		case strings.Contains(asked, `"stream":true`):
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, `data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"canary-streamed"},"finish_reason":"stop"}]}`+"\n\ndata: [DONE]\n\n")
		case strings.HasSuffix(r.URL.Path, "/messages"):
			_, _ = io.WriteString(w, `{"id":"m","type":"message","role":"assistant","model":"claude-x","content":[{"type":"text","text":"canary-answer"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}`)
		default:
			_, _ = io.WriteString(w, `{"id":"c","object":"chat.completion","model":"gpt-x","choices":[{"index":0,"message":{"role":"assistant","content":"canary-answer"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// upload sends a file in OpenAI's form and returns its id.
func (r *stage) upload(text string) string {
	r.t.Helper()
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	part, err := form.CreateFormFile("file", "in.jsonl")
	if err == nil {
		_, err = io.WriteString(part, text)
	}
	if err = errors.Join(err, form.WriteField("purpose", "batch"), form.Close()); err != nil {
		r.t.Fatal(err)
	}
	var file struct{ ID string }
	if res := r.call("POST", "/openai/v1/files", b.String(), &file, "Content-Type", form.FormDataContentType()); res.StatusCode != 200 {
		r.t.Fatalf("upload: %d", res.StatusCode)
	}
	return file.ID
}

// secretly does with r what has content: our own form, both dialects, files, batches, webhooks.
// Each piece of content has "canary" in it, and is read back; so is the secret of an endpoint, which it returns.
func (r *stage) secretly(hook string, received <-chan string) (secret string) {
	r.t.Helper()
	var endpoint struct{ ID, Secret string }
	r.call("POST", "/v1/webhook-endpoints", `{"url":"`+hook+`/canary-url","events":["job.succeeded"],"include_result":true,"headers":{"X-Own":"canary-header"}}`, &endpoint)
	if !strings.HasPrefix(endpoint.Secret, "whsec_") {
		r.t.Errorf("the endpoint has the secret %q", endpoint.Secret)
	}
	var j, again jobView
	r.call("POST", "/v1/jobs", `{"model":"claude-x","prompt":"canary-prompt","metadata":{"k":"canary-metadata"}}`, &j, "Idempotency-Key", "canary-key")
	if done := r.final(j.ID); done.Status != "succeeded" || done.Text != "canary-answer" {
		r.t.Fatalf("%+v", done)
	}
	if event := <-received; !strings.Contains(event, "canary-answer") {
		r.t.Errorf("the webhook brings %s", event)
	}
	r.call("POST", "/v1/jobs", `{"model":"claude-x","prompt":"canary-prompt","metadata":{"k":"canary-metadata"}}`, &again, "Idempotency-Key", "canary-key")
	if again.ID != j.ID {
		r.t.Errorf("the same key made %s beside %s", again.ID, j.ID)
	}
	r.call("POST", "/v1/jobs", `{"model":"claude-x","prompt":"REFUSE"}`, &j)
	if done := r.final(j.ID); done.Status != "failed" {
		r.t.Errorf("%+v", done)
	}
	r.call("POST", "/v1/jobs", `{"model":"claude-x","prompt":"`+strings.Repeat("canary-long ", 500)+`"}`, &j)
	r.final(j.ID)
	if _, said := r.raw("POST", "/anthropic/v1/messages", `{"model":"claude-x","max_tokens":9,"messages":[{"role":"user","content":"canary-message"}]}`); !strings.Contains(said, "canary-answer") {
		r.t.Errorf("messages: %s", said)
	}
	if _, said := r.raw("POST", "/openai/v1/chat/completions", `{"model":"gpt-x","stream":true,"messages":[{"role":"user","content":"canary-chat"}]}`); !strings.Contains(said, "canary-streamed") || !strings.Contains(said, "[DONE]") {
		r.t.Errorf("a stream: %s", said)
	}
	file := r.upload(`{"custom_id":"canary-line","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-x","messages":[{"role":"user","content":"canary-file"}]}}` + "\n")
	if _, said := r.raw("GET", "/openai/v1/files/"+file+"/content", ""); !strings.Contains(said, "canary-file") {
		r.t.Errorf("the file: %s", said)
	}
	var batch struct {
		ID, Status string
		Output     string `json:"output_file_id"`
	}
	r.call("POST", "/openai/v1/batches", `{"input_file_id":"`+file+`","endpoint":"/v1/chat/completions","completion_window":"24h","metadata":{"k":"canary-batch"}}`, &batch)
	r.until("the batch ends", func() bool {
		r.call("GET", "/openai/v1/batches/"+batch.ID, "", &batch)
		return batch.Status == "completed"
	})
	if _, said := r.raw("GET", "/openai/v1/files/"+batch.Output+"/content", ""); !strings.Contains(said, "canary-streamed") || !strings.Contains(said, "canary-line") {
		r.t.Errorf("the output: %s", said)
	}
	var page struct{ Data []jobView }
	if r.call("GET", "/v1/jobs?metadata.k=canary-metadata", "", &page); len(page.Data) != 1 {
		r.t.Errorf("%d jobs are found by metadata", len(page.Data))
	}
	return endpoint.Secret
}

// payloads are what the task queues, which asynqmon shows, have as hashes of their own.
func payloads(t *testing.T, rdb *redis.Client) (all []string) {
	t.Helper()
	for keys := rdb.Scan(t.Context(), 0, "*:t:*", 1000).Iterator(); keys.Next(t.Context()); {
		if msg, err := rdb.HGet(t.Context(), keys.Val(), "msg").Result(); err == nil {
			all = append(all, msg)
		}
	}
	return all
}

// canaries are those of a text, in plain or in base64: content, and the secret of its endpoint.
func canaries(text, secret string) (found []string) {
	for _, c := range []string{"canary", secret, base64.StdEncoding.EncodeToString([]byte("canary-prompt"))[:14]} {
		if strings.Contains(text, c) {
			found = append(found, c)
		}
	}
	return found
}

// With a key listed nothing of what a tenant sends, gets and is told lies in Redis, in its append-only
// file and dump, with the tasks, in a folder or bucket of bodies, in the log at its most talkative or in the metrics;
// without one it does, so the test looks where it would lie.
func TestWithAKeyNothingLiesInPlain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name           string
		sealed, bucket bool
	}{{"plain", false, false}, {"a folder", true, false}, {"a bucket", true, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			received := make(chan string, 16)
			hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				received <- string(b)
				w.WriteHeader(http.StatusInternalServerError)
				_, _ = io.WriteString(w, "canary-receiver")
			}))
			t.Cleanup(hook.Close)
			at, folder, bodies := quoting(t), t.TempDir(), ""
			bodies = "file://" + folder
			backend := s3mem.New()
			if c.bucket {
				if err := backend.CreateBucket("jobs"); err != nil {
					t.Fatal(err)
				}
				s3 := httptest.NewServer(gofakes3.New(backend).Server())
				t.Cleanup(s3.Close)
				bodies = "s3://jobs?endpoint=" + s3.URL
			}
			yaml := fmt.Sprintf(`
providers:
  a: {dialect: anthropic, base_url: %q, api_key: key-one, stream: false}
  o: {dialect: openai, base_url: %q, api_key: key-two}
pools:
  claude: {provider: a, models: ["claude-*"], limits: {requests_per_minute: 6000, request_burst: 50, concurrency: 32}}
  gpt: {provider: o, models: ["gpt-*"], limits: {requests_per_minute: 6000, request_burst: 50, concurrency: 32}, share_in_flight: true, cache: {ttl: 1m}}
webhooks: {allow_http: true, allow_private: true}
bodies: {url: %q, above: 1024, access_key: a, secret_key: s}
seal: {keys: {%s}}
`, at, at, bodies, map[bool]string{true: "first: " + sealKey("a")}[c.sealed])
			if !c.bucket {
				yaml = strings.Replace(yaml, ", access_key: a, secret_key: s", "", 1)
			}
			server := redistest.Start(t, redistest.Options{AOF: "always", Args: []string{"--maxmemory", "100mb", "--rdbcompression", "no", "--aof-use-rdb-preamble", "no"}})
			r := outageLogs(t, server, "", yaml, nil, slog.LevelDebug)
			if n := r.gauge("sluice_sealed"); (n == 1) != c.sealed {
				t.Errorf("sluice_sealed is %v", n)
			}
			if said := r.said.count("lie in plain"); (said == 0) != c.sealed {
				t.Errorf("the log says %d times that content lies in plain", said)
			}
			secret := r.secretly(hook.URL, received)

			var objects []string
			if err := server.Client().Save(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			files := 0
			for _, dir := range []string{folder, filepath.Dir(server.Socket())} { // bodies; dump.rdb and the append-only file
				if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
					if err != nil || !d.Type().IsRegular() {
						return err
					}
					b, err := os.ReadFile(path)
					if found := canaries(string(b), secret); len(found) > 0 {
						objects = append(objects, fmt.Sprint(path, found))
					}
					files++
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			if c.bucket {
				list, err := backend.ListBucket("jobs", &gofakes3.Prefix{}, gofakes3.ListBucketPage{})
				if err != nil || len(list.Contents) == 0 {
					t.Errorf("the bucket has %d objects, %v", len(list.Contents), err)
				}
				for _, o := range list.Contents {
					object, err := backend.GetObject("jobs", o.Key, nil)
					if err != nil {
						t.Fatal(err)
					}
					b, err := io.ReadAll(object.Contents)
					if found := canaries(o.Key+string(b), secret); err != nil || len(found) > 0 {
						objects = append(objects, fmt.Sprint(o.Key, found, err))
					}
				}
			}
			if lie := len(objects) > 0; lie == c.sealed || files < 2 {
				t.Errorf("of %d files these have canaries: %v", files, objects)
			}
			if held := redistest.Holding(t, server.Client(), "canary"); (len(held) > 0) == c.sealed {
				t.Errorf("Redis has canaries at %v", held)
			}
			// The tasks, the log and the metrics have none either way.
			if found := canaries(strings.Join(payloads(t, server.Client()), "\n"), secret); len(found) > 0 {
				t.Errorf("tasks have %v", found)
			}
			res := httptest.NewRecorder()
			promhttp.HandlerFor(r.s.registry, promhttp.HandlerOpts{}).ServeHTTP(res, httptest.NewRequest("GET", "/metrics", nil))
			if found := canaries(res.Body.String(), secret); len(found) > 0 || res.Body.Len() < 10_000 {
				t.Errorf("%d bytes of metrics have %v", res.Body.Len(), found)
			}
			if n := r.said.count("canary") + r.said.count(secret); n > 0 || r.said.count("level=") == 0 {
				t.Errorf("of %d lines of the log %d have canaries", r.said.count("level="), n)
			}
		})
	}
}

// A key that is listed while a process runs seals from then on, and a configuration with faults
// changes nothing.
func TestKeysAreTakenUpWhileAProcessRuns(t *testing.T) {
	t.Parallel()
	load := func(names ...string) *config.Config {
		var keys []string
		for _, name := range names {
			keys = append(keys, name+": "+sealKey(name[:1]))
		}
		return configured(t, "redis://127.0.0.1:1", "seal: {keys: {"+strings.Join(keys, ", ")+"}}\n")
	}
	said := &heard{}
	s := &service{cfg: load("a"), log: slog.New(slog.NewTextHandler(said, nil)), registry: prometheus.NewRegistry()}
	var next *config.Config
	var fault error
	if err := s.openSeal(roles{again: func() (*config.Config, error) { return next, fault }}); err != nil {
		t.Fatal(err)
	}
	was := reread{keys: s.cfg.Seal.Keys}
	for _, c := range []struct {
		name, want string
		next       *config.Config
		fault      error
		said       string
		times      int
	}{
		{"as it was", "a", load("a"), nil, "the keys that seal", 0},
		{"one more", "a b", load("a", "b"), nil, "the keys that seal have changed", 1},
		{"a fault", "a b", nil, errors.New("no mapping"), "has faults", 1},
		{"the same fault", "a b", nil, errors.New("no mapping"), "has faults", 1},
		{"none is listed", "a b", load(), nil, "the keys that seal stay as they were\"", 1},
		{"the old one is dropped", "b", load("b"), nil, "the keys that seal have changed", 2},
	} {
		next, fault = c.next, c.fault
		was = s.takeUp(was)
		if got := strings.Join(s.sealing.ring.Names(), " "); got != c.want || said.count(c.said) != c.times {
			t.Errorf("%s: %s, and %q was said %d times; want %s, %d", c.name, got, c.said, said.count(c.said), c.want, c.times)
		}
	}
}

// dev and run seal with a key of their own, which is the same at the next start.
func TestDevHasAKeyOfItsOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var current [2]string
	for i := range current {
		cfg := configured(t, "", "data_dir: "+dir+"\n")
		s, err := newService(t.Context(), cfg, roles{worker: true, ownKey: true}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if s.sealing.ring == nil || s.sealing.plain || len(s.sealNotices()) > 0 {
			t.Errorf("it does not seal: %v", s.sealNotices())
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "seal.key"))
		if err != nil {
			t.Fatal(err)
		}
		current[i] = string(b)
	}
	if current[0] != current[1] {
		t.Error("the second start made another key")
	}
}

// Keys are wrapped by a master key that every process has, and not before.
func TestSealRotate(t *testing.T) {
	t.Parallel()
	server := durably(t)
	r := outageOn(t, server, "", strings.Replace(claude(quoting(t)), "api_key:", "stream: false, api_key:", 1)+"seal: {keys: {new: "+sealKey("n")+", old: "+sealKey("o")+"}}\n")
	id := r.submit()
	r.final(id)
	rotate := func(ctx context.Context, out io.Writer, yaml string) int {
		file := filepath.Join(t.TempDir(), "sluice.yaml")
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		return program(ctx, []string{"--config", file, "seal", "rotate"}, []string{"HOME=" + t.TempDir(), "SLUICE_REDIS__URL=" + server.URL()}, nil, out, out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := &untilSaid{word: "waiting for processes that have not read the master key newer yet", then: cancel}
	if code := rotate(ctx, waiting, "seal: {keys: {old: "+sealKey("o")+", newer: "+sealKey("x")+"}}\n"); code != 1 || !strings.Contains(waiting.String(), "nothing was wrapped anew") {
		t.Errorf("with a key that no other process has: %d %s", code, waiting)
	}
	for _, c := range []struct {
		yaml, want string
		code       int
	}{
		{"", "seal.keys lists no key", 2},
		{"seal: {keys: {new: " + sealKey("n") + "}}\n", "need master keys that are not listed, or not as they were: old (1)", 1},
		{"seal: {keys: {old: " + sealKey("o") + ", new: " + sealKey("n") + "}}\n", "1 keys of tenants were wrapped anew with the master key new\nno key needs old any more", 0},
		{"seal: {keys: {new: " + sealKey("n") + "}}\n", "0 keys of tenants were wrapped anew", 0},
	} {
		var out bytes.Buffer
		if code := rotate(t.Context(), &out, c.yaml); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%d %s; want %d %s", code, &out, c.code, c.want)
		}
	}
}

// untilSaid keeps what is written, and does something when a word is among it.
type untilSaid struct {
	bytes.Buffer
	word string
	then func()
}

func (u *untilSaid) Write(p []byte) (int, error) {
	n, err := u.Buffer.Write(p)
	if strings.Contains(u.String(), u.word) {
		u.then()
	}
	return n, err
}

// The key that a data_dir made for itself goes on opening when others are configured, and seals
// nothing beside a Redis of one's own.
func TestTheOwnKeyStaysBesideThoseThatAreListed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	load := func(url, yaml string) *config.Config { return configured(t, url, "data_dir: "+dir+"\n"+yaml) }
	names := func(cfg *config.Config, own bool) string {
		keys, err := masters(cfg, own)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, k := range keys {
			list = append(list, k.Name)
		}
		return strings.Join(list, " ")
	}
	listed := "seal: {keys: {first: " + sealKey("a") + "}}\n"
	for _, c := range []struct {
		name, want string
		cfg        *config.Config
		own        bool
	}{
		{"no file, and one is listed", "first", load("", listed), true},
		{"sealing is off", "", load("", "seal: off\n"), true},
		{"dev makes its own", "local", load("", ""), true},
		{"one is listed beside it", "local first", load("", listed), true},
		{"a worker of that folder", "local first", load("redis://127.0.0.1:1", listed), false},
		{"it is listed itself", "local", load("", "seal: {keys: {local: "+sealKey("a")+"}}\n"), true},
		{"a Redis of one's own", "", load("redis://127.0.0.1:1", "seal: {keys: {}}\n"), true},
		{"a role that owns none", "", load("", ""), false},
		{"sealing is off by now", "local", load("", "seal: off\n"), true},
	} {
		if got := names(c.cfg, c.own); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
