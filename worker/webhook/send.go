package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/tasks"
)

// Outcome is how one attempt ended. The set is closed: it is what a tenant is
// told, and the label of a metric.
type Outcome string

// The outcomes of an attempt.
const (
	Delivered      Outcome = "delivered"       // 2xx, whatever became of the answer's body
	Gone           Outcome = "gone"            // 410: the endpoint is to be disabled
	Redirect       Outcome = "redirect"        // 3xx: never followed
	Throttled      Outcome = "throttled"       // 429
	Status4xx      Outcome = "http_4xx"        // other 4xx
	Status5xx      Outcome = "http_5xx"        // 5xx
	BlockedURL     Outcome = "blocked_url"     // the URL is no longer allowed; nothing was looked up
	BlockedAddress Outcome = "blocked_address" // the host has an address or port that is not allowed
	DNSError       Outcome = "dns_error"       // the name could not be looked up
	ConnectError   Outcome = "connect_error"   // no connection
	ConnectTimeout Outcome = "connect_timeout" // no connection in time
	TLSError       Outcome = "tls_error"       // no secure connection: certificate, name or protocol
	ConnectionLost Outcome = "connection_lost" // closed before the answer's head was complete
	ProtocolError  Outcome = "protocol_error"  // an answer that is not HTTP, or with a head over 32 KiB
	Timeout        Outcome = "timeout"         // connected, and no answer's head in time

	// Three outcomes are no fault of the endpoint and must not be counted against it.
	Busy     Outcome = "busy"     // not sent: MaxPerHost attempts to that host are under way
	Canceled Outcome = "canceled" // the caller's context was canceled; perhaps sent, and not answered
	Invalid  Outcome = "invalid"  // not sent: no usable key, or an id or body that must not be sent
)

// Outcomes lists every outcome.
func Outcomes() []Outcome {
	return []Outcome{
		Delivered, Gone, Redirect, Throttled, Status4xx, Status5xx, BlockedURL, BlockedAddress, DNSError, ConnectError,
		ConnectTimeout, TLSError, ConnectionLost, ProtocolError, Timeout, Busy, Canceled, Invalid,
	}
}

// Attempted reports whether the outcome counts as an attempt. Waiting for a turn
// and a shutdown do not.
func (o Outcome) Attempted() bool { return o != Busy && o != Canceled }

// SenderConfig describes a [Sender].
type SenderConfig struct {
	// Guard says where may be sent. Nil: the strict rule of NewGuard's zero config.
	Guard *Guard
	// Timeout bounds a whole attempt, from the look-up to the end of the answer.
	// Zero: 15 seconds.
	Timeout time.Duration
	// MaxPerHost is how many attempts to one host and port may be under way at
	// once, so that a slow receiver cannot hold every worker. Zero: 10.
	MaxPerHost int
	// Headers are sent with each attempt, where the delivery has none of the same name.
	// Empty: none but those of the scheme.
	Headers tasks.Headers
	// UserAgent is sent with each attempt. Empty: "Sluice-Webhooks/1.0".
	UserAgent string
	// RootCAs vouch for receivers' certificates. Nil: the system's.
	RootCAs *x509.CertPool
	// Registerer takes the metrics. Nil: none are kept.
	Registerer prometheus.Registerer
	// Now is the clock of webhook-timestamp and of Retry-After dates. Nil: time.Now.
	Now func() time.Time
}

// The limits of one attempt.
const (
	defaultTimeout    = 15 * time.Second
	defaultMaxPerHost = 10
	defaultUserAgent  = "Sluice-Webhooks/1.0"

	tlsTimeout     = 5 * time.Second
	headerTimeout  = 10 * time.Second
	maxHeaderBytes = 32 << 10
	idlePerHost    = 16       // connections kept for reuse: as many as one receiver's deliveries under way
	maxReadBytes   = 64 << 10 // of an answer's body, before the connection is given up
	maxKeepBytes   = 4 << 10  // of an answer's body, for the tenant's log
)

// Sender makes attempts. It is safe for concurrent use; [Sender.Close] it when done.
type Sender struct {
	guard      *Guard
	ways       *ways
	timeout    time.Duration
	maxPerHost int
	headers    tasks.Headers
	userAgent  string
	now        func() time.Time

	mu    sync.Mutex
	hosts map[string]int // attempts under way, by host and port as the URL has them

	attempts *prometheus.CounterVec
	seconds  prometheus.Histogram
}

// Delivery is one webhook, at one attempt.
type Delivery struct {
	ID   string // webhook-id: the same at every attempt; see [ValidID]
	URL  string
	Body []byte // JSON, valid UTF-8, sent as it is
	Keys []Key  // at least one; the current key first
	// Headers are the endpoint's own, as [tasks.NewHeaders] returns them.
	Headers tasks.Headers
	// CA vouches for the endpoint's receiver, beside the sender's RootCAs.
	CA tasks.CA
}

// Result is what came of an attempt.
type Result struct {
	Outcome Outcome
	Status  int           // HTTP status; 0 when none arrived
	Latency time.Duration // of the whole attempt; 0 when nothing was allowed to be sent
	// Body is the beginning of the answer, at most 4 KiB, as valid UTF-8; it is for
	// the tenant's own log of deliveries and for nothing else. An answer that came
	// compressed is not kept.
	Body string
	// RetryAfter is what the receiver asked for; 0 when it did not.
	RetryAfter time.Duration
}

// NewSender returns a sender, or an error when the metrics cannot be registered.
func NewSender(cfg SenderConfig) (*Sender, error) {
	s := &Sender{
		guard:      cfg.Guard,
		timeout:    cfg.Timeout,
		maxPerHost: cfg.MaxPerHost,
		headers:    cfg.Headers,
		userAgent:  cfg.UserAgent,
		now:        cfg.Now,
		hosts:      map[string]int{},
	}
	if s.guard == nil {
		guard, err := NewGuard(GuardConfig{})
		if err != nil {
			return nil, err
		}
		s.guard = guard
	}
	if s.timeout == 0 {
		s.timeout = defaultTimeout
	}
	if s.maxPerHost == 0 {
		s.maxPerHost = defaultMaxPerHost
	}
	if s.userAgent == "" {
		s.userAgent = defaultUserAgent
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := s.register(cfg.Registerer); err != nil {
		return nil, err
	}
	client := func(roots *x509.CertPool) *http.Client {
		return &http.Client{
			Transport:     newTransport(s.guard, roots, s.maxPerHost),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	s.ways = &ways{make: client, common: client(cfg.RootCAs), roots: cfg.RootCAs, own: map[tasks.CA]*http.Client{}}
	return s, nil
}

// newTransport has every setting that keeps an attempt bounded and on the
// guarded way out.
func newTransport(guard *Guard, roots *x509.CertPool, maxPerHost int) *http.Transport {
	// HTTP/1.1 alone: one request a connection is what the limits below are
	// counted in, and a hostile HTTP/2 server has many more ways to keep us busy.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		// Behind a proxy the guard would judge the proxy's address alone.
		Proxy:       nil,
		DialContext: guard.DialContext,
		// No DialTLSContext: it would pass DialContext by.
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxHeaderBytes,
		// Nothing is ever decompressed, so a limit on what is read is a limit on
		// what is held.
		DisableCompression:  true,
		MaxConnsPerHost:     maxPerHost,
		MaxIdleConnsPerHost: min(maxPerHost, idlePerHost),
		MaxIdleConns:        256,
		IdleConnTimeout:     30 * time.Second,
		Protocols:           protocols,
	}
}

func (s *Sender) register(reg prometheus.Registerer) error {
	s.attempts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_webhook_attempts_total",
		Help: "Webhook attempts by outcome.",
	}, []string{"outcome"})
	s.seconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "sluice_webhook_attempt_seconds",
		Help:    "Time of a webhook attempt that was allowed to be sent.",
		Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15},
	})
	for _, o := range Outcomes() {
		s.attempts.WithLabelValues(string(o))
	}
	if reg == nil {
		return nil
	}
	return errors.Join(reg.Register(s.attempts), reg.Register(s.seconds))
}

// Close closes the connections that are kept for reuse. Attempts under way end
// by themselves.
func (s *Sender) Close() { s.ways.close() }

// Send makes one attempt: it checks the URL again, signs the body for the present
// time and posts it. It returns within the configured timeout, or as soon as ctx
// ends. It never fails otherwise than by its Result, which holds nothing of where
// the attempt went.
func (s *Sender) Send(ctx context.Context, d Delivery) Result {
	res := s.send(ctx, d)
	s.attempts.WithLabelValues(string(res.Outcome)).Inc()
	if res.Latency > 0 {
		s.seconds.Observe(res.Latency.Seconds())
	}
	return res
}

func (s *Sender) send(ctx context.Context, d Delivery) Result {
	if ctx.Err() != nil {
		return Result{Outcome: Canceled}
	}
	at := s.now()
	signature := Sign(d.ID, at, d.Body, d.Keys...)
	if signature == "" || !ValidID(d.ID) || !utf8.Valid(d.Body) {
		return Result{Outcome: Invalid}
	}
	if s.guard.CheckURL(d.URL) != nil {
		return Result{Outcome: BlockedURL}
	}
	attempt, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var p progress
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(attempt, p.trace()), http.MethodPost, d.URL, bytes.NewReader(d.Body))
	if err != nil {
		return Result{Outcome: BlockedURL}
	}
	host := hostPort(req.URL)
	if !s.enter(host) {
		return Result{Outcome: Busy}
	}
	defer s.leave(host)
	secrets := s.carry(req.Header, d.Headers)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", s.userAgent)
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set(HeaderID, d.ID)
	req.Header.Set(HeaderTimestamp, strconv.FormatInt(at.Unix(), 10))
	req.Header.Set(HeaderSignature, signature)

	start := time.Now()
	resp, err := s.ways.client(d.CA).Do(req)
	if err != nil {
		res := Result{Outcome: s.failure(ctx, &p, err)}
		if res.Outcome != BlockedAddress {
			res.Latency = time.Since(start)
		}
		return res
	}
	res := s.answer(resp, secrets)
	res.Latency = time.Since(start)
	return res
}

// carry sets the headers that are not of the scheme, and returns their values. A
// redirect is not followed, so they go nowhere but to the address that they are for.
func (s *Sender) carry(to http.Header, own tasks.Headers) (secrets []string) {
	for _, headers := range []tasks.Headers{s.headers, own} {
		for name, value := range headers {
			to.Set(name, value)
			secrets = append(secrets, value)
		}
	}
	return secrets
}

// enter takes one of a host's places.
func (s *Sender) enter(host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hosts[host] >= s.maxPerHost {
		return false
	}
	s.hosts[host]++
	return true
}

func (s *Sender) leave(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hosts[host]--; s.hosts[host] <= 0 {
		delete(s.hosts, host)
	}
}

func hostPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// answer reads what is wanted of an answer and closes it. The status alone says how
// the attempt ended: a receiver that has said 2xx has taken the event, and would take
// it twice if a body that drips or breaks off made us send it again.
func (s *Sender) answer(resp *http.Response, secrets []string) Result {
	defer resp.Body.Close()
	res := Result{Status: resp.StatusCode, Outcome: statusOutcome(resp.StatusCode)}
	res.RetryAfter, _ = ParseRetryAfter(resp.Header.Get("Retry-After"), s.now())

	kept, err := io.ReadAll(io.LimitReader(resp.Body, maxKeepBytes+longest(secrets)))
	if err == nil {
		// Read on, so that the connection can be used again, but not for ever.
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxReadBytes-int64(len(kept))))
	}
	if encoding := resp.Header.Get("Content-Encoding"); encoding == "" || strings.EqualFold(encoding, "identity") {
		kept = masked(kept, secrets)
		res.Body = text(kept[:min(len(kept), maxKeepBytes)])
	}
	return res
}

// masked is an answer without the values of headers that its receiver says again, so
// that they stand in no log. Behind the scheme of an Authorization is one more. What
// is shorter than six bytes is no secret, and may be part of any word.
func masked(answer []byte, secrets []string) []byte {
	for _, s := range secrets {
		_, credentials, _ := strings.Cut(s, " ")
		for _, s := range []string{s, credentials} {
			if len(s) >= 6 {
				answer = bytes.ReplaceAll(answer, []byte(s), []byte(tasks.SecretMask))
			}
		}
	}
	return answer
}

// longest is the length of the longest of secrets: so much more of an answer is read
// that none of them is cut where it ends.
func longest(secrets []string) (n int64) {
	for _, s := range secrets {
		n = max(n, int64(len(s)))
	}
	return n
}

func statusOutcome(status int) Outcome {
	switch {
	case status >= 200 && status <= 299:
		return Delivered
	case status >= 300 && status <= 399:
		return Redirect
	case status == http.StatusGone:
		return Gone
	case status == http.StatusTooManyRequests:
		return Throttled
	case status >= 400 && status <= 499:
		return Status4xx
	case status >= 500 && status <= 599:
		return Status5xx
	}
	return ProtocolError
}

// progress is how far an attempt has come. Its hooks run on the transport's
// goroutines.
type progress struct {
	tls       atomic.Bool // a handshake has begun and not succeeded
	connected atomic.Bool // a connection is ready for the request
}

func (p *progress) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		TLSHandshakeStart: func() { p.tls.Store(true) },
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err == nil {
				p.tls.Store(false)
			}
		},
		GotConn: func(httptrace.GotConnInfo) { p.connected.Store(true) },
	}
}

// failure names an attempt that got no answer.
func (s *Sender) failure(ctx context.Context, p *progress, err error) Outcome {
	var rule Rule
	var dns *net.DNSError
	switch {
	case errors.As(err, &rule):
		return BlockedAddress
	case ctx.Err() == context.Canceled:
		return Canceled
	case errors.As(err, &dns):
		return DNSError
	case p.connected.Load():
		switch {
		case isTimeout(err):
			return Timeout
		case isLost(err):
			return ConnectionLost
		}
		return ProtocolError
	case p.tls.Load():
		return TLSError
	case isTimeout(err):
		return ConnectTimeout
	}
	return ConnectError
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// isLost reports whether err says that the other side closed the connection.
func isLost(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) || errors.As(err, &op) ||
		strings.Contains(err.Error(), "server closed idle connection") // net/http exports no name for it
}

// text is b as valid UTF-8, without the half of a character that the limit cut.
func text(b []byte) string {
	for n := 1; n < utf8.UTFMax && n <= len(b) && len(b) == maxKeepBytes; n++ {
		if r := b[len(b)-n]; utf8.RuneStart(r) {
			if !utf8.FullRune(b[len(b)-n:]) {
				b = b[:len(b)-n]
			}
			break
		}
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}
