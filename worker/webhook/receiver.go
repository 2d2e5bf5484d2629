package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// ReceiverConfig describes a Receiver.
type ReceiverConfig struct {
	// Keys verify what arrives. At least one that is not zero.
	Keys []VerifyKey
	// Out takes one line a request. Nil: nothing is printed.
	Out io.Writer
	// JSON has each line an object: at, verdict, reason, id, type, about and bytes. False: words.
	JSON bool
	// Status answers what verifies. Zero: 204. Another one lets the owner of a
	// receiver see what a sender makes of it.
	Status int
	// MaxBytes is the largest body taken. Zero: 1 MiB.
	MaxBytes int64
	// Now is the clock that times are compared with. Nil: time.Now.
	Now func() time.Time
}

// Receiver is an http.Handler that takes deliveries, verifies them and prints
// one line each: time, verdict, webhook-id, type, data.id and size. It prints
// nothing else of a body, and nothing at all of one that did not verify but its
// size.
//
// It answers 405 to what is no POST, 413 to a body that is too large, 400 to one
// that breaks off, 401 to one that does not verify, and the configured status
// otherwise, repeats included: a receiver says yes to what it has already.
type Receiver struct {
	keys     []VerifyKey
	status   int
	maxBytes int64
	now      func() time.Time

	mu   sync.Mutex
	out  io.Writer
	json bool
	seen map[string]bool
	ring [1024]string // the ids in seen, oldest at next
	next int
}

// NewReceiver returns a receiver, or an error when no key can verify anything.
func NewReceiver(cfg ReceiverConfig) (*Receiver, error) {
	r := &Receiver{
		keys: cfg.Keys, out: cfg.Out, status: cfg.Status, maxBytes: cfg.MaxBytes, now: cfg.Now, json: cfg.JSON,
		seen: map[string]bool{},
	}
	usable := 0
	for _, k := range r.keys {
		if k != nil && k.usable() {
			usable++
		}
	}
	if usable == 0 {
		return nil, errors.New("receive webhooks: no key to verify with")
	}
	if r.out == nil {
		r.out = io.Discard
	}
	if r.status == 0 {
		r.status = http.StatusNoContent
	}
	if r.maxBytes == 0 {
		r.maxBytes = 1 << 20
	}
	if r.now == nil {
		r.now = time.Now
	}
	return r, nil
}

// ServeHTTP takes one delivery.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		w.WriteHeader(http.StatusMethodNotAllowed)
		r.print(received{Verdict: "refused", Reason: "not a POST"})
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, r.maxBytes))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		r.print(received{Verdict: "refused", Reason: "too large", Bytes: len(body)})
		return
	case err != nil:
		w.WriteHeader(http.StatusBadRequest)
		r.print(received{Verdict: "refused", Reason: "broken off", Bytes: len(body)})
		return
	}
	if err := Verify(req.Header, body, r.now(), r.keys...); err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		r.print(received{Verdict: "refused", Reason: err.Error(), Bytes: len(body)})
		return
	}
	id := req.Header.Get(HeaderID)
	verdict := "verified"
	if r.repeated(id) {
		verdict = "repeated"
	}
	var event struct {
		Type string `json:"type"`
		Data struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &event) != nil {
		event.Type, event.Data.ID = "", ""
	}
	w.WriteHeader(r.status)
	r.print(received{Verdict: verdict, ID: id, Type: plain(event.Type), About: plain(event.Data.ID), Bytes: len(body)})
}

// repeated reports whether id was among the last that verified, and notes it.
func (r *Receiver) repeated(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[id] {
		return true
	}
	delete(r.seen, r.ring[r.next])
	r.seen[id] = true
	r.ring[r.next] = id
	r.next = (r.next + 1) % len(r.ring)
	return false
}

// received is what is told of a request.
type received struct {
	At      string `json:"at"`
	Verdict string `json:"verdict"`
	Reason  string `json:"reason,omitempty"` // of a refusal
	ID      string `json:"id,omitempty"`     // the webhook-id
	Type    string `json:"type,omitempty"`
	About   string `json:"about,omitempty"` // its data.id
	Bytes   int    `json:"bytes"`
}

func (r *Receiver) print(d received) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d.At = stamp(r.now())
	if r.json {
		_ = json.NewEncoder(r.out).Encode(d) // who reads it may have gone
		return
	}
	what := d.Reason
	if what == "" {
		what = d.ID + " " + d.Type + " " + d.About
	}
	fmt.Fprintf(r.out, "%s %s %s %d bytes\n", d.At, d.Verdict, what, d.Bytes)
}

// plain is s when it is a short name, and "-" for anything that should not reach
// a terminal.
func plain(s string) string {
	if len(s) == 0 || len(s) > 128 {
		return "-"
	}
	for i := range len(s) {
		if !isIDByte(s[i]) && s[i] != '.' {
			return "-"
		}
	}
	return s
}
