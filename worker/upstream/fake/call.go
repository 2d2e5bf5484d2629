package fake

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// exchange is one call on its way through the provider.
type exchange struct {
	f     *Provider
	acct  *account
	call  Call
	ask   question
	fault *Fault
	sent  string // the key, while the call runs
}

// exchange begins a call.
func (f *Provider) exchange(d Dialect) *exchange {
	n, layout := f.serial.Add(1), "req_011F%020d"
	if d == OpenAI {
		layout = "req_%032x"
	}
	return &exchange{f: f, call: Call{Dialect: d, RequestID: fmt.Sprintf(layout, n), At: f.cfg.Clock.Now()}}
}

// asked tells the dialect of a call that no path names.
func asked(r *http.Request) Dialect {
	if r.Header.Get("Anthropic-Version") != "" {
		return Anthropic
	}
	return OpenAI
}

// authorize reports whether the call has a key that is let in; else it is refused.
func (x *exchange) authorize(w http.ResponseWriter, r *http.Request) bool {
	key := r.Header.Get("X-Api-Key")
	if key == "" {
		key, _ = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	}
	if only := x.f.cfg.RequireKey; key == "" || only != "" && key != only {
		x.refuse(w, refusals["401"], "", 0)
		return false
	}
	x.sent = key
	sum := sha256.Sum256([]byte(key))
	x.call.Key = hex.EncodeToString(sum[:6])
	return true
}

// maxBody is Anthropic's cap on a request.
const maxBody = 32 << 20

// receive reads the question, and what is wrong with it. A call that is too
// large, left, or without a key goes no further.
func (x *exchange) receive(w http.ResponseWriter, r *http.Request) (flaw string, ok bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var tooBig *http.MaxBytesError
		if errors.As(err, &tooBig) {
			x.refuse(w, refusals["413"], "", 0)
		}
		return "", false
	}
	if !x.authorize(w, r) {
		return "", false
	}
	return x.ask.read(x.call.Dialect, r.Header, body), true
}

// serveCall answers one call to a model, at one of the paths that OpenAI alone has or
// at the dialect's own.
func (f *Provider) serveCall(w http.ResponseWriter, r *http.Request, d Dialect, path string) {
	x := f.exchange(d)
	x.ask.path = path
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

	flaw, ok := x.receive(w, r)
	if !ok {
		return
	}
	x.arrive(r.Header.Get("X-Fake-Fault"))
	if x.fault != nil {
		if e, ok := refusals[x.fault.Kind]; ok {
			x.refuse(w, e, "", x.fault.RetryAfter)
			return
		}
	}
	switch {
	case flaw != "":
		x.refuse(w, refusals["400"], flaw, 0)
		return
	case !f.cfg.hasModel(x.ask.model):
		x.refuse(w, refusals["404"], "model: "+x.ask.model, 0)
		return
	}
	if short, wait := x.admit(); short != "" {
		x.call.Refused = short
		x.refuse(w, refusals["429"], x.limitMessage(short), wait)
		return
	}
	x.answer(r.Context(), w)
}

// arrive finds the call's account and the fault that strikes it, if one does:
// header's, the prompt's, or one in force.
func (x *exchange) arrive(header string) {
	f := x.f
	x.call.Prompt = x.ask.digest()
	f.mu.Lock()
	defer f.mu.Unlock()
	name := string(x.call.Dialect) + "/" + x.call.Key
	if f.accounts[name] == nil {
		f.accounts[name] = f.cfg.account(x.call.At)
	}
	x.acct = f.accounts[name]
	seen := f.stats.see(x.call.Prompt, f.cfg.MaxPrompts)
	if x.fault = directed(header, seen); x.fault == nil {
		x.fault = directed(x.ask.directive("fault"), seen)
	}
	if x.fault == nil {
		x.fault = f.faults.strike(x.ask.model, x.call.At, f.dice)
	}
}

// admit charges the call's input, or names the bucket that is short, and the wait.
func (x *exchange) admit() (short string, wait time.Duration) {
	f := x.f
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.cfg.Clock.Now() // under the lock, so that it never runs backwards
	if short, wait = x.acct.admit(now, float64(x.ask.tokens)); short == "" {
		x.call.Accepted, x.call.InputTokens = true, int64(x.ask.tokens)
		f.stats.accept(&x.call, now)
	}
	return short, wait
}

// limitMessage words a refusal for the bucket that was short.
func (x *exchange) limitMessage(short string) string {
	limit := map[string]float64{
		"requests": x.f.cfg.RequestsPerMinute, "input_tokens": x.f.cfg.InputTokensPerMinute, "output_tokens": x.f.cfg.OutputTokensPerMinute,
	}[short]
	what := strings.ReplaceAll(short, "_", " ")
	if x.call.Dialect == OpenAI {
		return fmt.Sprintf("Rate limit reached for %s in organization org-fake on %s per min: Limit %.0f. Please try again later.", x.ask.model, what, limit)
	}
	return fmt.Sprintf("This request would exceed your organization's rate limit of %.0f %s per minute (org: 00000000-0000-4000-8000-000000000000, model: %s).", limit, what, x.ask.model)
}

// refuse writes an error in the call's dialect. message replaces the error's
// own when it is not empty, and wait its retry-after when it is above 0.
func (x *exchange) refuse(w http.ResponseWriter, e refusal, message string, wait time.Duration) {
	if x.call.Refused == "" {
		x.call.Refused = e.name
	}
	x.call.Status = e.status
	h := w.Header()
	x.describe(h)
	if e.words != "" {
		// What is echoed is the key of this call; none is kept.
		echo := func(s string) string { return strings.ReplaceAll(s, "KEY", x.sent) }
		for name, value := range e.header {
			h.Set(name, echo(value))
		}
		w.WriteHeader(e.status)
		_, _ = io.WriteString(w, echo(e.raw))
		return
	}
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
		if x.call.Dialect == OpenAI {
			h.Set("Retry-After-Ms", strconv.FormatInt(int64(math.Ceil(float64(wait)/1e6)), 10))
		}
	}
	h.Set("X-Should-Retry", strconv.FormatBool(e.again))
	h.Set("Content-Type", "application/json")
	w.WriteHeader(e.status)
	_, _ = w.Write(e.body(x.call.Dialect, x.call.RequestID, message))
}

// describe sets the headers that every answer carries.
func (x *exchange) describe(h http.Header) {
	if x.call.Dialect == Anthropic {
		h["Request-Id"] = []string{x.call.RequestID}
		h["Anthropic-Organization-Id"] = []string{"00000000-0000-4000-8000-" + x.call.Key}
	} else {
		h["X-Request-Id"] = []string{x.call.RequestID}
		h["Openai-Organization"] = []string{"org-" + x.call.Key}
	}
	if x.acct != nil {
		x.f.mu.Lock()
		x.acct.describe(h, x.call.Dialect, x.f.cfg.Clock.Now())
		x.f.mu.Unlock()
	}
}
