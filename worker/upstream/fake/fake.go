// Package fake is a provider that never was: it speaks both dialects, holds
// each key to strict limits, answers with made-up text, and fails on demand. A
// [Provider] is a http.Handler for programs, tests and benchmarks alike.
//
//	POST /v1/messages                Anthropic, whole or streamed
//	POST /v1/messages/count_tokens   Anthropic; free
//	POST /v1/chat/completions        OpenAI, whole or streamed
//	POST /v1/responses               OpenAI, whole
//	POST /v1/embeddings              OpenAI
//	GET  /v1/models                  either, told apart by anthropic-version
//	     /v1/messages/batches        Anthropic: create, read, list, cancel, delete, results
//	     /v1/files, /v1/batches      OpenAI: upload, content, delete; create, read, list, cancel
//	GET  /fake/stats                 what happened so far (?detail=1: by prompt)
//	GET, POST, DELETE /fake/faults   the faults in force; one more; none
//	POST /fake/reset                 as if just started
//
// Limits are token buckets that refill continuously, one set for each key and
// dialect, full at the start. A call takes a request and its input on arrival,
// and its output as it is produced; it is refused with 429 and costs nothing
// when a bucket is short (for output: empty). A bucket of tokens may go into
// debt by what an admitted call still produces. An input larger than the whole
// bucket is admitted when the bucket is full.
//
// Answers depend on the prompt, the model and the seed alone: their text,
// length and latency are the same in every order of calls. A prompt may ask
// for more: [[tokens:N]] for an answer of N tokens, [[latency:2s]] for a first
// byte that late, [[fault:529]] for a fault, and [[fault:529:2]] for one on the
// first two calls with that prompt. The header X-Fake-Fault does the same for
// one call.
//
// A batch is answered later, at no limit: a batch takes about Config.BatchDelay, some
// batches never answer half of their lines, and what is left after Config.BatchWindow has expired.
// A fault whose Model is "batches.create", "batches.read", "batches.list", "batches.results" or
// "batches.file" strikes these calls alone: "reset" of a create is one whose answer is lost,
// "cut" and "truncated" end a file of results half-way, and "garbage" has lines in it that nobody asked for.
//
// It never stores a prompt or a key, only digests of them, but for the requests of
// batches; its control paths are open to anybody who can reach it. It never imports its caller's code:
// what it says is no echo of how that is read.
package fake

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// Provider is the fake provider.
type Provider struct {
	cfg    Config
	mux    *http.ServeMux
	closed chan struct{}
	close  sync.Once
	serial atomic.Uint64

	mu       sync.Mutex
	accounts map[string]*account // by dialect and key
	faults   rules
	dice     *rand.Rand
	stats    ledger
	batches  []*batch
	files    map[string]*uploaded
}

// New returns a Provider that is ready to serve, or an error that names every
// fault of the configuration.
func New(cfg Config) (*Provider, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	f := &Provider{cfg: cfg, mux: http.NewServeMux(), closed: make(chan struct{})}
	f.Reset()

	f.mux.HandleFunc("POST /v1/messages", func(w http.ResponseWriter, r *http.Request) { f.serveCall(w, r, Anthropic, "") })
	f.mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) { f.serveCall(w, r, OpenAI, "") })
	for _, path := range []string{responses, embeddings} {
		f.mux.HandleFunc("POST /v1/"+path, func(w http.ResponseWriter, r *http.Request) { f.serveCall(w, r, OpenAI, path) })
	}
	f.mux.HandleFunc("POST /v1/messages/count_tokens", f.serveCount)
	f.routeBatches()
	f.mux.HandleFunc("GET /v1/models", f.serveModels)
	f.mux.HandleFunc("GET /fake/stats", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, f.Stats(r.URL.Query().Get("detail") == "1"))
	})
	f.mux.HandleFunc("GET /fake/faults", f.serveFaults)
	f.mux.HandleFunc("POST /fake/faults", f.takeFault)
	f.mux.HandleFunc("DELETE /fake/faults", func(w http.ResponseWriter, _ *http.Request) {
		f.ClearFaults()
		w.WriteHeader(http.StatusNoContent)
	})
	f.mux.HandleFunc("POST /fake/reset", func(w http.ResponseWriter, _ *http.Request) {
		f.Reset()
		w.WriteHeader(http.StatusNoContent)
	})
	f.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		f.exchange(asked(r)).refuse(w, refusals["404"], "Not Found", 0)
	})
	return f, nil
}

// ServeHTTP answers as the provider would.
func (f *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.mux.ServeHTTP(w, r) }

// Close lets go of the calls that a fault keeps hanging. It may be called twice.
func (f *Provider) Close() { f.close.Do(func() { close(f.closed) }) }

// Reset makes the buckets full, the counts zero, and the faults those of the
// configuration.
func (f *Provider) Reset() {
	now := f.cfg.Clock.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accounts = make(map[string]*account)
	f.dice = rand.New(rand.NewPCG(f.cfg.Seed, 0x51a1ce))
	f.faults = nil
	for _, fault := range f.cfg.Faults {
		f.faults = append(f.faults, newRule(fault, now))
	}
	f.stats = newLedger()
	f.batches, f.files = nil, map[string]*uploaded{}
}

// AddFault puts one more fault in force. Faults are tried in the order in
// which they came; the first that strikes a call is the only one.
func (f *Provider) AddFault(fault Fault) error {
	if err := fault.check(); err != nil {
		return err
	}
	now := f.cfg.Clock.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, newRule(fault, now))
	return nil
}

// ClearFaults ends every fault in force.
func (f *Provider) ClearFaults() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// Stats returns the counts so far; detail adds those by prompt.
func (f *Provider) Stats(detail bool) Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settleBatches(f.cfg.Clock.Now())
	return f.stats.stats(detail)
}

func (f *Provider) takeFault(w http.ResponseWriter, r *http.Request) {
	var form faultForm
	read := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	read.DisallowUnknownFields()
	err := read.Decode(&form)
	if err == nil {
		err = f.AddFault(form.fault())
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (f *Provider) serveFaults(w http.ResponseWriter, _ *http.Request) {
	f.mu.Lock()
	forms := f.faults.forms(f.cfg.Clock.Now())
	f.mu.Unlock()
	writeJSON(w, forms)
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "the answer cannot be written", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// serveCount is the count_tokens endpoint. It has limits of its own at the
// provider; here it has none.
func (f *Provider) serveCount(w http.ResponseWriter, r *http.Request) {
	x := f.exchange(Anthropic)
	x.ask.counting = true
	flaw, ok := x.receive(w, r)
	if !ok {
		return
	}
	if flaw != "" {
		x.refuse(w, refusals["400"], flaw, 0)
		return
	}
	x.describe(w.Header())
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"input_tokens":%d}`, x.ask.tokens)
}

// serveModels lists the configured models, or one of each provider.
func (f *Provider) serveModels(w http.ResponseWriter, r *http.Request) {
	d := asked(r)
	x := f.exchange(d)
	if !x.authorize(w, r) {
		return
	}
	var models []string
	for _, m := range f.cfg.Models {
		if !strings.ContainsAny(m, `*?[\`) {
			models = append(models, m)
		}
	}
	if len(models) == 0 && d == Anthropic {
		models = []string{"claude-sonnet-4-5"}
	} else if len(models) == 0 {
		models = []string{"gpt-4o"}
	}
	x.describe(w.Header())
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(listModels(d, models))
}
