// Package upstream asks an LLM provider one question and says once, for good,
// how that went.
//
// It promises that a call is sent at most once (nothing here retries), that it
// is always streamed (a response where its caller streams; embeddings never), that success is only claimed when the provider's closing
// event has arrived and what came has the shape of the dialect's answers,
// whatever the status, that a result is the JSON object the provider's
// non-streaming API would have answered, and that a body given in the
// provider's own form reaches the provider byte for byte, but for the members
// that ask for a stream.
//
// It never follows a redirect, never reads the environment, never decides
// whether to try again (that is the retry rule's), never puts a prompt, a
// result or a key into an error or a log, and never hands on our key, not even
// inside a model's own text.
package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/egress"
)

// DefaultMaxResultBytes caps a result when Config says nothing.
const DefaultMaxResultBytes = 8 << 20

// Config is what a Caller needs.
type Config struct {
	Provider

	// Client sends the calls, and nothing goes out by another way; nil means one with a pool
	// of its own, HTTP/2, no proxy and no limit but the context's. Its redirect policy is
	// replaced.
	Client *http.Client
	// MaxResultBytes caps the assembled result; 0 means DefaultMaxResultBytes.
	MaxResultBytes int64
	// UserAgent is sent with every call; empty means "sluice".
	UserAgent string
	// Now is read to turn a date into a wait when the answer has no Date header;
	// nil means time.Now.
	Now func() time.Time
}

// Caller makes calls to one provider. It is safe for concurrent use.
type Caller struct {
	provider  Provider
	client    *http.Client
	own       *http.Transport // nil when the client was given
	url       string          // of the dialect's one call
	models    string          // of the list of models
	maxResult int64
	userAgent string
	now       func() time.Time
	redact    redactor
	answered  atomic.Bool // an answer in HTTP has come
}

// New returns a Caller, or an error that joins every fault of the Config.
func New(cfg Config) (*Caller, error) {
	var faults []error
	if !cfg.Dialect.Valid() {
		faults = append(faults, fmt.Errorf("dialect %q is neither %q nor %q", cfg.Dialect, Anthropic, OpenAI))
	}
	endpoint, err := endpoint(cfg.Dialect, cfg.BaseURL)
	if err != nil {
		faults = append(faults, err)
	}
	if !printable(cfg.APIKey) {
		faults = append(faults, errors.New("the API key holds a character that no header may carry"))
	}
	if !printable(cfg.UserAgent) {
		faults = append(faults, errors.New("the user agent holds a character that no header may carry"))
	}
	if cfg.MaxResultBytes < 0 {
		faults = append(faults, fmt.Errorf("a result of at most %d bytes", cfg.MaxResultBytes))
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("provider %q: %w", cfg.Name, errors.Join(faults...))
	}

	c := &Caller{
		provider:  cfg.Provider,
		url:       endpoint,
		models:    modelsURL(cfg.Dialect, endpoint),
		maxResult: cfg.MaxResultBytes,
		userAgent: cfg.UserAgent,
		now:       cfg.Now,
		redact:    newRedactor(cfg.APIKey),
	}
	if c.maxResult == 0 {
		c.maxResult = DefaultMaxResultBytes
	}
	if c.userAgent == "" {
		c.userAgent = "sluice"
	}
	if c.now == nil {
		c.now = time.Now
	}
	if cfg.Client != nil {
		client := *cfg.Client
		c.client = &client
	} else {
		c.own = Transport(cfg.Roots, nil)
		c.client = &http.Client{Transport: c.own}
	}
	c.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

// Close drops the idle connections of a Caller that has a client of its own.
func (c *Caller) Close() {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
}

// Provider returns who is asked, without the key.
func (c *Caller) Provider() Provider {
	p := c.provider
	p.APIKey = ""
	return p
}

// Transport returns a pool for many long calls to one host, whose certificate roots vouch
// for, by connections that dial opens; nil: the system vouches, and they are opened
// directly. It has no time limit on an answer: a provider may think for minutes before its
// first byte, and the call's context bounds the whole.
func Transport(roots *x509.CertPool, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Transport {
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAliveConfig: egress.KeepAlive}).DialContext
	}
	return &http.Transport{
		Proxy:                 nil,
		DialContext:           dial,
		TLSClientConfig:       &tls.Config{RootCAs: roots},
		TLSHandshakeTimeout:   10 * time.Second,
		ForceAttemptHTTP2:     true,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: 20 * time.Second, PingTimeout: 20 * time.Second},
		DisableCompression:    true,
		MaxIdleConns:          0,
		MaxIdleConnsPerHost:   1024,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
}

// Address returns the host and port of a provider's base URL, and how that speaks TLS, by
// roots as for [Transport]; nil: without.
func Address(base string, roots *x509.CertPool) (string, *tls.Config, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return "", nil, errors.New("cannot be read as a URL")
	case u.Scheme == "https":
		return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")), &tls.Config{ServerName: u.Hostname(), RootCAs: roots}, nil
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80")), nil, nil
}

// Ask is one question.
type Ask struct {
	Question Question
	// Owner is whose the job is, which the provider is told as a keyed hash where it has a
	// UserKey; "": it is told nothing.
	Owner string

	// Leave, if set, is closed when the provider is not reached any more. A call of
	// which not all has left is given up then, and costs nothing; one that was sent
	// goes on, since its answer may come and be paid for.
	Leave <-chan struct{}
	// Traceparent is the call's place in its job's trace, for a provider that is sent it; "": none.
	Traceparent string

	// OnStart, if set, is told once how many input tokens the provider charged
	// to its limit: as soon as an Anthropic stream begins, and at the end for a
	// provider that says so only then. It is not called when that never arrives.
	// rates are the answer's rate-limit headers, as fresh as they can be.
	OnStart func(inputTokens int64, rates Rates)
	// OnText, if set, is told each piece of text as it arrives; the pieces
	// joined are tasks.ResultText of the result. An end that may be the beginning
	// of our key is told with what follows it. Both are called in order from the
	// goroutine that called Do.
	OnText func(delta string)
	// OnEvent, if set, is told each event of an answer that is streamed, byte for byte
	// but for comments and our key: not of an answer that comes whole, and not of the
	// count of tokens that OpenAI sends in a chunk of its own and the request did not
	// ask for. An event whose text may end with the beginning of our key is told
	// with what follows it, the closing one once the answer is known to be one. No more
	// bytes are told than a result may have.
	OnEvent func(raw []byte)
	events  *relayed
	// OnLarge, if set, is called once before more than SmallBytes of an answer are
	// held, and waits until there is room for it; meanwhile nothing more is read. Its
	// error ends the call.
	OnLarge func() error
}

// SmallBytes is how large a result gets before there has to be room for it.
const SmallBytes = 256 << 10

// Answer is what came of an Ask. Outcome is always set.
type Answer struct {
	Outcome tasks.Outcome
	// Doubt is set where a refusal may have been meant for this request alone or
	// for everything that is asked under the same key.
	Doubt Doubt
	// Status is the HTTP status; 0 when none arrived. An error that came in place
	// of an answer or inside a stream has the status that it began with, 200.
	Status int
	// RequestID is the provider's own name of the call; "" when none arrived.
	RequestID string
	// Result is the provider's body, only set when Outcome is tasks.Succeeded. Each
	// byte is as it came, but for our key, which is "[key]" in whichever string.
	Result json.RawMessage
	// Streamed is true when OnEvent was told all of a stream: up to its closing event, or
	// to the provider's own error behind events before it.
	Streamed bool
	// Finish is how the answer in Result ended: one of tasks.Finishes, or the
	// provider's own word where it is none that we know, at most 64 bytes. "" when
	// there is no Result.
	Finish tasks.Finish
	// Usage is the provider's final count; nil when it never arrived. Its parts
	// do not overlap in either dialect: input tokens read from a cache are
	// counted under CacheReadInputTokens alone.
	Usage *tasks.Usage
	// Served is how the provider says that it served the call; set with Usage.
	Served tasks.Served
	// ChargedInput is how many input tokens count against the provider's limit:
	// for Anthropic everything but what was read from a cache, for OpenAI the
	// whole prompt. 0 when the provider did not say.
	ChargedInput int64

	// RetryAfter is how long the provider asks to wait, at most a day. It is
	// meaningful only with HasRetryAfter.
	RetryAfter    time.Duration
	HasRetryAfter bool
	// ResumeAt is when a spend cap is lifted, as stated or as documented; zero
	// when unknown.
	ResumeAt time.Time
	// ShouldRetry is the provider's x-should-retry; nil when absent.
	ShouldRetry *bool
	// Rates are the rate-limit headers, as they stood when the answer began, and
	// HeadersAt is when they came.
	Rates     Rates
	HeadersAt time.Time

	// Organization is whose key it was, as the answer says; "": it does not.
	Organization string

	// Refusal is the body that came with a status outside 2xx, when it is JSON and has
	// at most 16 KiB; as in Result, our key is not in it.
	Refusal json.RawMessage

	// Cause is why no answer of the provider's came, where that is known.
	Cause Cause
	// Message is a short text for the job's owner: the provider's type and
	// message of the error, at most 500 bytes, never a key. It may quote the
	// request, so it belongs into the job's error and into no log.
	Message string
	// MaybeBilled is true when the provider may have charged for a call whose
	// answer did not arrive whole.
	MaybeBilled bool
}

// blame says why no answer of the provider's came.
func (a *Answer) blame(c Cause) { a.Cause, a.Message = c, c.Message }
