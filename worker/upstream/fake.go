package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Fake is a provider that never was: it speaks both dialects, holds each key
// to strict limits, answers with made-up text, and fails on demand. It is a
// http.Handler for programs, tests and benchmarks alike.
//
//	POST /v1/messages                Anthropic, whole or streamed
//	POST /v1/messages/count_tokens   Anthropic; free
//	POST /v1/chat/completions        OpenAI, whole or streamed
//	GET  /v1/models                  either, told apart by anthropic-version
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
// It never stores a prompt or a key, only digests of them; its control paths
// are open to anybody who can reach it.
type Fake struct {
	cfg    FakeConfig
	clock  Clock
	mux    *http.ServeMux
	closed chan struct{}
	close  sync.Once
	serial atomic.Uint64

	mu       sync.Mutex
	accounts map[string]*account
	faults   []*rule
	dice     *rand.Rand
	stats    ledger
}

// FakeConfig says how the fake provider behaves.
type FakeConfig struct {
	// The limits of one key and dialect; 0 means no limit.
	RequestsPerMinute     float64
	InputTokensPerMinute  float64
	OutputTokensPerMinute float64
	// The capacities of the buckets. RequestBurst 0 means a second's worth, at
	// least 1; the token bursts 0 mean a minute's worth.
	RequestBurst float64
	InputBurst   float64
	OutputBurst  float64

	// MeanLatency is the mean time to the first byte; 0 means none. LatencySigma
	// is the spread of its lognormal; 0 means always the mean.
	MeanLatency  time.Duration
	LatencySigma float64
	// TimePerToken is how long each output token takes; 0 means none.
	TimePerToken time.Duration
	// MeanOutputTokens is the mean length of an answer before max_tokens cuts it
	// off; 0 means 64. OutputSigma is the spread of its lognormal; 0 means
	// always the mean.
	MeanOutputTokens float64
	OutputSigma      float64

	// Seed shifts every draw; 0 is a seed like any other.
	Seed uint64
	// RequireKey refuses every other key with 401; empty takes any key, and
	// still refuses a call without one.
	RequireKey string
	// Models are globs of the models that exist; none means that all do.
	Models []string
	// Faults are in force from the start and again after a reset.
	Faults []Fault
	// MaxPrompts is how many distinct prompts are counted one by one; 0 means
	// 1,000,000. Beyond, calls with new prompts are counted in the totals only.
	MaxPrompts int

	// OnCall, if set, is told of every call to a model as it ends, from the
	// goroutine that served it.
	OnCall func(Call)
	// Clock is the fake's time; nil means the real one.
	Clock Clock
}

// Clock is time for a Fake.
type Clock interface {
	Now() time.Time
	// Sleep waits for d, or returns ctx's error as soon as ctx is over.
	Sleep(ctx context.Context, d time.Duration) error
}

type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }

func (realClock) Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Call is one call to a model, as the fake saw it.
type Call struct {
	Dialect      Dialect
	Key          string // the first 12 hex digits of the key's SHA-256
	Prompt       string // hex SHA-256 of the text of the last user message
	RequestID    string
	At           time.Time // when it arrived
	Status       int       // 0 when it was left without one
	Accepted     bool      // it passed the limits and was charged
	Completed    bool      // its answer was written whole
	Refused      string    // why it was not accepted, such as "requests" or "529"
	InputTokens  int64     // charged
	OutputTokens int64     // charged
}

// NewFake returns a Fake that is ready to serve, or an error that names every
// fault of the configuration.
func NewFake(cfg FakeConfig) (*Fake, error) {
	var faults []error
	for name, v := range map[string]float64{
		"RequestsPerMinute": cfg.RequestsPerMinute, "InputTokensPerMinute": cfg.InputTokensPerMinute,
		"OutputTokensPerMinute": cfg.OutputTokensPerMinute, "RequestBurst": cfg.RequestBurst,
		"InputBurst": cfg.InputBurst, "OutputBurst": cfg.OutputBurst, "MeanLatency": float64(cfg.MeanLatency),
		"LatencySigma": cfg.LatencySigma, "TimePerToken": float64(cfg.TimePerToken),
		"MeanOutputTokens": cfg.MeanOutputTokens, "OutputSigma": cfg.OutputSigma, "MaxPrompts": float64(cfg.MaxPrompts),
	} {
		if v < 0 || math.IsNaN(v) || math.IsInf(v, 0) {
			faults = append(faults, fmt.Errorf("%s is %v", name, v))
		}
	}
	for _, glob := range cfg.Models {
		if _, err := path.Match(glob, ""); err != nil {
			faults = append(faults, fmt.Errorf("model %q: %w", glob, err))
		}
	}
	for _, fault := range cfg.Faults {
		if err := fault.check(); err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("fake provider: %w", errors.Join(faults...))
	}
	if cfg.RequestBurst == 0 {
		cfg.RequestBurst = max(1, cfg.RequestsPerMinute/60)
	}
	if cfg.InputBurst == 0 {
		cfg.InputBurst = cfg.InputTokensPerMinute
	}
	if cfg.OutputBurst == 0 {
		cfg.OutputBurst = cfg.OutputTokensPerMinute
	}
	if cfg.MeanOutputTokens == 0 {
		cfg.MeanOutputTokens = 64
	}
	if cfg.MaxPrompts == 0 {
		cfg.MaxPrompts = 1_000_000
	}
	f := &Fake{cfg: cfg, clock: cfg.Clock, mux: http.NewServeMux(), closed: make(chan struct{})}
	if f.clock == nil {
		f.clock = realClock{}
	}
	f.Reset()

	f.mux.HandleFunc("POST /v1/messages", func(w http.ResponseWriter, r *http.Request) { f.serveCall(w, r, Anthropic) })
	f.mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) { f.serveCall(w, r, OpenAI) })
	f.mux.HandleFunc("POST /v1/messages/count_tokens", f.serveCount)
	f.mux.HandleFunc("GET /v1/models", f.serveModels)
	f.mux.HandleFunc("GET /fake/stats", f.serveStats)
	f.mux.HandleFunc("GET /fake/faults", f.serveFaults)
	f.mux.HandleFunc("POST /fake/faults", f.addFault)
	f.mux.HandleFunc("DELETE /fake/faults", f.clearFaults)
	f.mux.HandleFunc("POST /fake/reset", func(w http.ResponseWriter, _ *http.Request) {
		f.Reset()
		w.WriteHeader(http.StatusNoContent)
	})
	f.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		d := OpenAI
		if r.Header.Get("Anthropic-Version") != "" {
			d = Anthropic
		}
		f.refuse(w, &exchange{d: d, id: f.requestID(d)}, fakeErrors["404"], "Not Found", 0)
	})
	return f, nil
}

// ServeHTTP answers as the provider would.
func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.mux.ServeHTTP(w, r) }

// Close lets go of the calls that a fault keeps hanging. It may be called twice.
func (f *Fake) Close() { f.close.Do(func() { close(f.closed) }) }

// Reset makes the buckets full, the counts zero, and the faults those of the
// configuration.
func (f *Fake) Reset() {
	now := f.clock.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accounts = make(map[string]*account)
	f.dice = rand.New(rand.NewPCG(f.cfg.Seed, 0x51a1ce))
	f.faults = nil
	for _, fault := range f.cfg.Faults {
		f.faults = append(f.faults, newRule(fault, now))
	}
	f.stats = newLedger()
}

// exchange is one call on its way through the fake.
type exchange struct {
	d     Dialect
	id    string
	key   string // digest
	now   time.Time
	acct  *account
	call  Call
	ask   question
	fault *Fault
}

func (f *Fake) requestID(d Dialect) string {
	n := f.serial.Add(1)
	if d == OpenAI {
		return fmt.Sprintf("req_%032x", n)
	}
	return fmt.Sprintf("req_011F%020d", n)
}

// authorize returns the digest of the call's key.
func (f *Fake) authorize(r *http.Request) (digest string, ok bool) {
	key := r.Header.Get("X-Api-Key")
	if key == "" {
		key, _ = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	}
	if key == "" || f.cfg.RequireKey != "" && key != f.cfg.RequireKey {
		return "", false
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:6]), true
}

// maxFakeBody is Anthropic's cap on a request.
const maxFakeBody = 32 << 20

// serveCall answers one call to a model.
func (f *Fake) serveCall(w http.ResponseWriter, r *http.Request, d Dialect) {
	x := &exchange{d: d, id: f.requestID(d), now: f.clock.Now()}
	x.call = Call{Dialect: d, RequestID: x.id, At: x.now}
	f.mu.Lock()
	f.stats.arrive()
	f.mu.Unlock()
	defer func() {
		// Also when the handler is cut off by a panic, as net/http has it.
		f.mu.Lock()
		f.stats.leave(&x.call)
		f.mu.Unlock()
		if f.cfg.OnCall != nil {
			f.cfg.OnCall(x.call)
		}
	}()

	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxFakeBody))
	if err != nil {
		var tooBig *http.MaxBytesError
		if errors.As(err, &tooBig) {
			f.refuse(w, x, fakeErrors["413"], "", 0)
		}
		return
	}
	key, ok := f.authorize(r)
	if !ok {
		f.refuse(w, x, fakeErrors["401"], "", 0)
		return
	}
	x.key, x.call.Key = key, key

	flaw := x.ask.read(d, r.Header, body)
	x.call.Prompt = x.ask.digest()
	f.mu.Lock()
	x.acct = f.account(d, key, x.now)
	seen := f.stats.see(x.call.Prompt, f.cfg.MaxPrompts)
	x.fault = f.faultFor(r, x, seen)
	f.mu.Unlock()

	if x.fault != nil {
		if e, ok := fakeErrors[x.fault.Kind]; ok {
			f.refuse(w, x, e, "", x.fault.RetryAfter)
			return
		}
	}
	switch {
	case flaw != "":
		f.refuse(w, x, fakeErrors["400"], flaw, 0)
		return
	case !f.hasModel(x.ask.model):
		f.refuse(w, x, fakeErrors["404"], "model: "+x.ask.model, 0)
		return
	}

	f.mu.Lock()
	now := f.clock.Now() // under the lock, so that it never runs backwards
	short, wait := x.acct.admit(now, float64(x.ask.tokens))
	if short == "" {
		x.call.Accepted, x.call.InputTokens = true, int64(x.ask.tokens)
		f.stats.accept(&x.call, now)
	}
	f.mu.Unlock()
	if short != "" {
		x.call.Refused = short
		f.refuse(w, x, fakeErrors["429"], f.limitMessage(x, short), wait)
		return
	}
	f.answer(r.Context(), w, x)
}

func (f *Fake) hasModel(model string) bool {
	if len(f.cfg.Models) == 0 {
		return true
	}
	for _, glob := range f.cfg.Models {
		if ok, err := path.Match(glob, model); ok && err == nil {
			return true
		}
	}
	return false
}

func (f *Fake) limitMessage(x *exchange, short string) string {
	limit := map[string]float64{
		"requests": f.cfg.RequestsPerMinute, "input_tokens": f.cfg.InputTokensPerMinute, "output_tokens": f.cfg.OutputTokensPerMinute,
	}[short]
	what := strings.ReplaceAll(short, "_", " ")
	if x.d == OpenAI {
		return fmt.Sprintf("Rate limit reached for %s in organization org-fake on %s per min: Limit %.0f. Please try again later.", x.ask.model, what, limit)
	}
	return fmt.Sprintf("This request would exceed your organization's rate limit of %.0f %s per minute (org: 00000000-0000-4000-8000-000000000000, model: %s).", limit, what, x.ask.model)
}

// refuse writes an error in the call's dialect. message replaces the error's
// own when it is not empty, and wait its retry-after when it is above 0.
func (f *Fake) refuse(w http.ResponseWriter, x *exchange, e fakeError, message string, wait time.Duration) {
	if x.call.Refused == "" {
		x.call.Refused = e.name
	}
	x.call.Status = e.status
	h := w.Header()
	f.describe(h, x)
	if e.html {
		h.Set("Content-Type", "text/html")
		w.WriteHeader(e.status)
		_, _ = fmt.Fprintf(w, "<html><head><title>%d %s</title></head></html>\n", e.status, http.StatusText(e.status))
		return
	}
	if e.waits {
		if wait <= 0 {
			wait = time.Second
		}
		// Whole seconds, rounded up, as both providers have it; OpenAI also says
		// it in milliseconds.
		h.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(wait.Seconds())), 10))
		if x.d == OpenAI {
			h.Set("Retry-After-Ms", strconv.FormatInt(int64(math.Ceil(float64(wait)/1e6)), 10))
		}
	}
	h.Set("X-Should-Retry", strconv.FormatBool(e.again))
	h.Set("Content-Type", "application/json")
	w.WriteHeader(e.status)
	_, _ = w.Write(e.body(x.d, x.id, message))
}

// describe sets the headers that every answer carries.
func (f *Fake) describe(h http.Header, x *exchange) {
	if x.d == Anthropic {
		h["Request-Id"] = []string{x.id}
		h["Anthropic-Organization-Id"] = []string{"00000000-0000-4000-8000-000000000000"}
	} else {
		h["X-Request-Id"] = []string{x.id}
		h["Openai-Organization"] = []string{"org-fake"}
	}
	if x.acct != nil {
		f.mu.Lock()
		x.acct.describe(h, x.d, f.clock.Now())
		f.mu.Unlock()
	}
}

// serveCount is the count_tokens endpoint. It has limits of its own at the
// provider; here it has none.
func (f *Fake) serveCount(w http.ResponseWriter, r *http.Request) {
	x := &exchange{d: Anthropic, id: f.requestID(Anthropic), now: f.clock.Now()}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxFakeBody))
	if err != nil {
		f.refuse(w, x, fakeErrors["413"], "", 0)
		return
	}
	if _, ok := f.authorize(r); !ok {
		f.refuse(w, x, fakeErrors["401"], "", 0)
		return
	}
	x.ask.counting = true
	if flaw := x.ask.read(Anthropic, r.Header, body); flaw != "" {
		f.refuse(w, x, fakeErrors["400"], flaw, 0)
		return
	}
	f.describe(w.Header(), x)
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"input_tokens":%d}`, x.ask.tokens)
}

// serveModels lists the configured models, or one of each provider.
func (f *Fake) serveModels(w http.ResponseWriter, r *http.Request) {
	d := OpenAI
	if r.Header.Get("Anthropic-Version") != "" {
		d = Anthropic
	}
	x := &exchange{d: d, id: f.requestID(d)}
	if _, ok := f.authorize(r); !ok {
		f.refuse(w, x, fakeErrors["401"], "", 0)
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
	var b []byte
	for i, m := range models {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"id":`...)
		b = appendString(b, m)
		if d == Anthropic {
			b = append(b, `,"type":"model","display_name":`...)
			b = appendString(b, m)
			b = append(b, `,"created_at":"2025-01-01T00:00:00Z"}`...)
		} else {
			b = append(b, `,"object":"model","created":1735689600,"owned_by":"fake"}`...)
		}
	}
	f.describe(w.Header(), x)
	w.Header().Set("Content-Type", "application/json")
	if d == Anthropic {
		_, _ = fmt.Fprintf(w, `{"data":[%s],"has_more":false,"first_id":%q,"last_id":%q}`, b, models[0], models[len(models)-1])
	} else {
		_, _ = fmt.Fprintf(w, `{"object":"list","data":[%s]}`, b)
	}
}
