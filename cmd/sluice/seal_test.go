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

// Through our own form, both dialects, files, batches and webhooks: with a key listed nothing of
// it lies in Redis, in the folder of bodies or in the log; without one all of it does.
func TestWithAKeyNothingLiesInPlain(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{false, true} {
		t.Run(fmt.Sprint(sealed), func(t *testing.T) {
			t.Parallel()
			received := make(chan string, 16)
			hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				received <- string(b)
				w.WriteHeader(http.StatusInternalServerError)
				_, _ = io.WriteString(w, "canary-receiver")
			}))
			t.Cleanup(hook.Close)
			at, folder := quoting(t), t.TempDir()
			yaml := fmt.Sprintf(`
providers:
  a: {dialect: anthropic, base_url: %q, api_key: key-one, stream: false}
  o: {dialect: openai, base_url: %q, api_key: key-two}
pools:
  claude: {provider: a, models: ["claude-*"], limits: {requests_per_minute: 6000, request_burst: 50, concurrency: 32}}
  gpt: {provider: o, models: ["gpt-*"], limits: {requests_per_minute: 6000, request_burst: 50, concurrency: 32}, share_in_flight: true, cache: {ttl: 1m}}
webhooks: {allow_http: true, allow_private: true}
bodies: {url: "file://%s", above: 1024}
`, at, at, folder)
			if !sealed {
				yaml += "seal: {keys: {}}\n"
			} else {
				yaml += "seal: {keys: {first: " + sealKey("a") + "}}\n"
			}
			server := durably(t)
			r := outageOn(t, server, "", yaml)
			sealing := map[bool]float64{true: 1}[sealed]
			if n := r.gauge("sluice_sealed"); n != sealing {
				t.Errorf("sluice_sealed is %v", n)
			}
			if said := r.said.count("lie in plain"); (said == 0) != sealed {
				t.Errorf("the log says %d times that content lies in plain", said)
			}
			var endpoint struct{ ID, Secret string }
			r.call("POST", "/v1/webhook-endpoints", `{"url":"`+hook.URL+`/canary-url","events":["job.succeeded"],"include_result":true,"headers":{"X-Own":"canary-header"}}`, &endpoint)

			var j jobView
			r.call("POST", "/v1/jobs", `{"model":"claude-x","prompt":"canary-prompt","metadata":{"k":"canary-metadata"}}`, &j, "Idempotency-Key", "canary-key")
			if done := r.final(j.ID); done.Status != "succeeded" || done.Text != "canary-answer" {
				t.Fatalf("%+v", done)
			}
			if event := <-received; !strings.Contains(event, "canary-answer") {
				t.Errorf("the webhook brings %s", event)
			}
			var again jobView
			r.call("POST", "/v1/jobs", `{"model":"claude-x","prompt":"canary-prompt","metadata":{"k":"canary-metadata"}}`, &again, "Idempotency-Key", "canary-key")
			if again.ID != j.ID {
				t.Errorf("the same key made %s beside %s", again.ID, j.ID)
			}
			r.call("POST", "/v1/jobs", `{"model":"claude-x","prompt":"REFUSE"}`, &j)
			if done := r.final(j.ID); done.Status != "failed" {
				t.Errorf("%+v", done)
			}
			r.call("POST", "/v1/jobs", `{"model":"claude-x","prompt":"`+strings.Repeat("canary-long ", 500)+`"}`, &j)
			r.final(j.ID)
			if _, said := r.raw("POST", "/anthropic/v1/messages", `{"model":"claude-x","max_tokens":9,"messages":[{"role":"user","content":"canary-message"}]}`); !strings.Contains(said, "canary-answer") {
				t.Errorf("messages: %s", said)
			}
			if _, said := r.raw("POST", "/openai/v1/chat/completions", `{"model":"gpt-x","stream":true,"messages":[{"role":"user","content":"canary-chat"}]}`); !strings.Contains(said, "canary-streamed") || !strings.Contains(said, "[DONE]") {
				t.Errorf("a stream: %s", said)
			}
			file := r.upload(`{"custom_id":"canary-line","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-x","messages":[{"role":"user","content":"canary-file"}]}}` + "\n")
			if _, said := r.raw("GET", "/openai/v1/files/"+file+"/content", ""); !strings.Contains(said, "canary-file") {
				t.Errorf("the file: %s", said)
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
				t.Errorf("the output: %s", said)
			}
			var page struct{ Data []jobView }
			if r.call("GET", "/v1/jobs?metadata.k=canary-metadata", "", &page); len(page.Data) != 1 {
				t.Errorf("%d jobs are found by metadata", len(page.Data))
			}

			lies := len(redistest.Holding(t, server.Client(), "canary")) > 0
			if lies == sealed {
				t.Errorf("Redis has canaries at %v", redistest.Holding(t, server.Client(), "canary"))
			}
			if err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				if b, err := os.ReadFile(path); err != nil || sealed && bytes.Contains(b, []byte("canary")) {
					t.Errorf("%s has canaries (%v)", path, err)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if n := r.said.count("canary"); n > 0 {
				t.Errorf("the log has %d canaries", n)
			}
		})
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

func TestSealRotate(t *testing.T) {
	t.Parallel()
	server := durably(t)
	old := "seal: {keys: {old: " + sealKey("o") + "}}\n"
	r := outageOn(t, server, "", strings.Replace(claude(quoting(t)), "api_key:", "stream: false, api_key:", 1)+old)
	id := r.submit()
	r.final(id)
	rotate := func(yaml string) (code int, said string) {
		file := filepath.Join(t.TempDir(), "sluice.yaml")
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		code = program(context.Background(), []string{"--config", file, "seal", "rotate"}, []string{"HOME=" + t.TempDir(), "SLUICE_REDIS__URL=" + server.URL()}, nil, &out, &out)
		return code, out.String()
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
		if code, said := rotate(c.yaml); code != c.code || !strings.Contains(said, c.want) {
			t.Errorf("%d %s; want %d %s", code, said, c.code, c.want)
		}
	}
}
