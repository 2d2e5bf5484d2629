package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// echo is a provider that answers with the model and the prompt, and counts.
type echo struct {
	*httptest.Server
	mu       sync.Mutex
	answered map[string]int // by model and prompt
	calls    int
	reply    func(ask string, nth int) (text, finish string) // nil: the ask itself, "stop"
	free     int                                             // calls that are answered before the others are held; below 0: all
	holding  chan struct{}                                   // closed when a call is held
	let      chan struct{}                                   // closed when they are let go
	waiting  sync.WaitGroup                                  // the calls that are held
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	e := &echo{answered: map[string]int{}, free: -1}
	e.Server = httptest.NewServer(e)
	t.Cleanup(func() {
		e.CloseClientConnections()
		e.Close()
	})
	return e
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Model    string `json:"model"`
		Messages []struct {
			Content json.RawMessage `json:"content"`
		} `json:"messages"`
	}
	if json.NewDecoder(r.Body).Decode(&in) != nil || len(in.Messages) == 0 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	prompt := string(in.Messages[0].Content)
	_ = json.Unmarshal(in.Messages[0].Content, &prompt)
	ask := in.Model + ": " + prompt
	e.mu.Lock()
	e.calls++
	let := e.let
	if e.free == 0 {
		select {
		case <-e.holding:
		default:
			close(e.holding)
		}
		e.waiting.Add(1)
		defer e.waiting.Done()
	} else {
		let = nil
		e.free--
	}
	e.mu.Unlock()
	if let != nil {
		select {
		case <-let:
		case <-r.Context().Done():
			return
		}
	}
	if strings.Contains(ask, "[[refused]]") {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":{"message":"no","type":"invalid_request_error"}}`)
		return
	}
	if strings.HasPrefix(in.Model, "m-none") {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"error":{"message":"The model m-none does not exist","type":"invalid_request_error","code":"model_not_found"}}`)
		return
	}
	e.mu.Lock()
	e.answered[ask]++
	text, finish := ask, "stop"
	if e.reply != nil {
		text, finish = e.reply(ask, e.answered[ask])
	}
	e.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"id": "c", "object": "chat.completion", "model": in.Model,
		"choices": []any{map[string]any{"index": 0, "finish_reason": finish, "message": map[string]any{"role": "assistant", "content": text}}},
		"usage":   map[string]any{"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
	})
}

// hold answers the next free calls and holds the others.
func (e *echo) hold(free int) (holding <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.free, e.holding, e.let = free, make(chan struct{}), make(chan struct{})
	return e.holding
}

// release answers what is held and what comes.
func (e *echo) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.free = -1
	close(e.let)
}

// drop waits until those that are held have hung up; what comes is answered.
func (e *echo) drop() {
	e.mu.Lock()
	e.free = -1
	e.mu.Unlock()
	e.waiting.Wait()
}

// seen returns how often each question was answered, and the calls.
func (e *echo) seen() (map[string]int, int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.answered), e.calls
}

// desk is a folder with prompts, and a provider.
type desk struct {
	t        *testing.T
	dir      string
	data     string
	provider *echo
	environ  []string
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, dir: t.TempDir(), data: t.TempDir(), provider: newEcho(t)}
	d.environ = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "SLUICE_CONFIG=" + d.path("sluice.yaml"), "SLUICE_DATA_DIR=" + d.data}
	d.atOnce(4)
	return d
}

// atOnce sets how many calls may be under way.
func (d *desk) atOnce(calls int) {
	d.write("sluice.yaml", fmt.Sprintf(`
providers: {p: {dialect: openai, base_url: %q, api_key: k}}
pools: {p: {provider: p, models: ["m*"], limits: {requests_per_minute: 60000, request_burst: 1000, concurrency: %d}}}
`, d.provider.URL, calls))
}

func (d *desk) path(name string) string { return filepath.Join(d.dir, name) }

func (d *desk) write(name, content string) {
	d.t.Helper()
	if err := os.WriteFile(d.path(name), []byte(content), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) read(name string) string {
	d.t.Helper()
	b, err := os.ReadFile(d.path(name))
	if err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
	return string(b)
}

// runs runs the program in this process. A word that begins with @ is a file of the desk.
func (d *desk) runs(ctx context.Context, stdin string, args ...string) (code int, stdout, stderr string) {
	d.t.Helper()
	words := []string{"run"}
	for _, a := range args {
		if name, ok := strings.CutPrefix(a, "@"); ok {
			a = d.path(name)
		}
		words = append(words, a)
	}
	var out, errs bytes.Buffer
	code = typeIn(ctx, words, d.environ, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func (d *desk) run(args ...string) (code int, stdout, stderr string) {
	d.t.Helper()
	return d.runs(d.t.Context(), "", args...)
}

// ok is run, which has to succeed.
func (d *desk) ok(args ...string) (stdout, stderr string) {
	d.t.Helper()
	code, stdout, stderr := d.run(args...)
	if code != 0 {
		d.t.Fatalf("run %q: code %d\n%s", args, code, stderr)
	}
	return stdout, stderr
}

// interrupted is a run that gets free answers, and is interrupted while other
// calls are under way, which end within its grace.
func (d *desk) interrupted(free int, args ...string) {
	d.t.Helper()
	holding := d.provider.hold(free)
	ctx, cancel := context.WithCancel(d.t.Context())
	defer cancel()
	done := make(chan string, 1)
	go func() {
		code, _, stderr := d.runs(ctx, "", args...)
		done <- fmt.Sprint(code, stderr)
	}()
	d.held(holding, done)
	cancel()
	d.provider.release()
	if said := <-done; !strings.HasPrefix(said, "1") || !strings.Contains(said, "interrupted with") {
		d.t.Fatalf("interrupted: %s", said)
	}
}

// held waits until the provider holds a call of a run, which tells its end to done.
func (d *desk) held(holding <-chan struct{}, done <-chan string) {
	d.t.Helper()
	select {
	case <-holding:
	case said := <-done:
		d.t.Fatalf("no call is held: %s", said)
	case <-time.After(patience):
		d.t.Fatal("no call is held")
	}
}
