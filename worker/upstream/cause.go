package upstream

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/worker/egress"
)

// Cause is why no answer of the provider's came, where that is known: something
// between here and the provider, or in its place. What the provider itself
// refuses is told by Outcome, Doubt and Message.
type Cause struct {
	// Kind is what it was; "" when nothing is known.
	Kind CauseKind
	// Message is for the job's owner, and is Answer.Message as well. It names no
	// host, target or proxy.
	Message string
	// Detail is for operators and for the log: hosts and targets, and no word of a
	// prompt, of an answer or of a key.
	Detail string
}

// CauseKind is a kind of cause.
type CauseKind string

// The kinds of causes.
const (
	NoSuchHost   CauseKind = "no_such_host"
	Refused      CauseKind = "refused"         // nothing listens there
	TimedOut     CauseKind = "timeout"         // no connection, or no answer, in time
	Broken       CauseKind = "broken"          // the connection ended before an answer
	TLSName      CauseKind = "tls_name"        // the certificate is another host's
	TLSAuthority CauseKind = "tls_authority"   // the certificate's issuer is not trusted
	TLSExpired   CauseKind = "tls_expired"     // the certificate is not valid any more, or not yet
	TLSFailed    CauseKind = "tls"             // any other failure of the certificate or the handshake
	Redirected   CauseKind = "redirect"        // never followed
	NotHTTP      CauseKind = "not_http"        // another protocol, or http where https is spoken, or the reverse
	NotDialect   CauseKind = "not_the_dialect" // a page, or another API
	Encoded      CauseKind = "encoding"        // compressed in a way that was not asked for and is not read
	Egress       CauseKind = "egress"          // the way that was in use failed, and the provider is not to blame
	EgressShut   CauseKind = "egress_shut"     // no way to the provider is open
)

// Misfit reports whether a person has to put something right before any answer
// can come: the address, its certificate or the configured dialect. If it has
// never been otherwise and all calls see it, no wait heals it.
func (k CauseKind) Misfit() bool {
	switch k {
	case TLSName, TLSAuthority, TLSExpired, TLSFailed, Redirected, NotHTTP, NotDialect, Encoded:
		return true
	}
	return false
}

// words is what a kind is called before the job's owner.
func (k CauseKind) words() string {
	return map[CauseKind]string{
		NoSuchHost:   "the provider's name could not be resolved",
		Refused:      "the provider could not be reached: the connection was refused",
		TimedOut:     "the provider could not be reached in time",
		Broken:       "the connection ended before an answer",
		TLSName:      "the provider could not be reached: its certificate is for another name",
		TLSAuthority: "the provider could not be reached: its certificate is signed by an authority that is not trusted here",
		TLSExpired:   "the provider could not be reached: its certificate has expired or is not valid yet",
		TLSFailed:    "the provider could not be reached: no secure connection could be made",
		Redirected:   "the provider's address redirects to another, which is not followed",
		NotHTTP:      "the provider's address does not speak the protocol that is configured for it",
		NotDialect:   "the address did not answer as the provider's API",
		Encoded:      "the answer is compressed in a way that was not asked for",
		Egress:       "the way to the provider failed",
		EgressShut:   "no way to the provider is open",
	}[k]
}

// connection returns the cause of a call to which no status arrived. sent is
// true when the whole request had been written.
func connection(err error, sent bool) Cause {
	if c, ok := wayside(err); ok {
		return c
	}
	k := unconnected(err)
	c := Cause{Kind: k, Message: k.words(), Detail: err.Error()}
	switch {
	case k == TimedOut && sent:
		c.Message = "the provider did not answer in time"
	case k == Broken && !sent:
		c.Message = "the provider could not be reached"
	}
	return c
}

// wayside is the cause of a call that came to nothing on its way, where that is known.
func wayside(err error) (Cause, bool) {
	var way *egress.Error
	if !errors.As(err, &way) {
		return Cause{}, false
	}
	k := Egress
	if way.Shut {
		k = EgressShut
	}
	return Cause{Kind: k, Message: k.words(), Detail: way.Error()}, true
}

// unconnected is the kind of what kept a connection from coming about, or broke it.
func unconnected(err error) CauseKind {
	var (
		dns     *net.DNSError
		record  tls.RecordHeaderError
		timeout net.Error
	)
	switch {
	case errors.As(err, &dns) && !dns.IsTimeout:
		return NoSuchHost
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch), strings.Contains(err.Error(), "malformed HTTP"):
		return NotHTTP // net/http has no value for the last
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	}
	if k, ok := distrusted(err); ok {
		return k
	}
	if errors.As(err, &timeout) && timeout.Timeout() {
		return TimedOut
	}
	return Broken
}

// distrusted is the kind of an error of TLS, where it is one.
func distrusted(err error) (CauseKind, bool) {
	var (
		name      x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		cert      *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &name):
		return TLSName, true
	case errors.As(err, &authority):
		return TLSAuthority, true
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return TLSExpired, true
	case errors.As(err, &cert), strings.Contains(err.Error(), "tls: "): // as for alerts
		return TLSFailed, true
	}
	return "", false
}

// redirected returns the cause of an answer with a status in the three hundreds.
func redirected(resp *http.Response) Cause {
	target := "nowhere"
	if u, err := resp.Location(); err == nil {
		target = (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String() // a query may hold a secret
	}
	return Cause{Kind: Redirected, Message: Redirected.words(), Detail: fmt.Sprintf("%s answered %d and redirects to %s", asked(resp), resp.StatusCode, target)}
}

// secured returns the cause of calls that end without an answer at an address where
// TLS is spoken and http is configured: many servers just close such a connection. It
// reports false where that is not so. No request is sent there.
func (c *Caller) secured(ctx context.Context) (Cause, bool) {
	u, err := url.Parse(c.url)
	if err != nil || u.Scheme != "http" || c.answered.Load() || c.own == nil {
		return Cause{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // that the handshake is taken up is all that is asked
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80")))
	if alert := tls.AlertError(0); err != nil && !errors.As(err, &alert) {
		return Cause{}, false
	}
	if err == nil {
		conn.Close()
	}
	return Cause{Kind: NotHTTP, Message: NotHTTP.words(), Detail: fmt.Sprintf("%s speaks TLS, and closed a connection without it: base_url has to begin with https", c.url)}, true
}

// aside reports whether a refusal comes from what stands in the API's place: a web
// server that knows no such path or method, or wants TLS. The provider refuses in JSON,
// and a bad request at times in words.
func aside(status int, came []byte) bool {
	switch status {
	case http.StatusBadRequest:
		return bytes.HasPrefix(bytes.TrimSpace(came), []byte("<"))
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusUpgradeRequired,
		http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return !jsontext.Value(came).IsValid(lenient)
	}
	return false
}

// stranger returns the cause of an answer that is not the dialect's.
func stranger(resp *http.Response, came []byte) Cause {
	media := resp.Header.Get("Content-Type")
	if media == "" {
		media = "no content type"
	}
	c := Cause{Kind: NotDialect, Message: NotDialect.words(), Detail: fmt.Sprintf("%s answered %d with %s", asked(resp), resp.StatusCode, media)}
	if words := excerpt(came); words != "" {
		c.Message += ": " + words
	}
	return c
}

// UnknownPath is what a job's owner is told of a 404 or 405 that may come from
// something else than the provider's API, and said so in these words.
func UnknownPath(status int, said string) string {
	s := "the address does not know the provider's API"
	if number := strconv.Itoa(status); !strings.Contains(said, number) {
		s += " (" + number + ")"
	}
	return s + ": " + said
}

// encoded returns the cause of an answer in a coding that is not read.
func encoded(resp *http.Response) Cause {
	coding := resp.Header.Get("Content-Encoding")
	return Cause{Kind: Encoded, Message: Encoded.words() + ": " + coding, Detail: fmt.Sprintf("%s answered %d in the coding %s, though none was asked for", asked(resp), resp.StatusCode, coding)}
}

// excerpt is the beginning of what came, in one line: of a page its title, or
// else its text.
func excerpt(came []byte) string {
	const most = 200
	s := string(came[:min(len(came), 64<<10)])
	if strings.HasPrefix(strings.TrimSpace(s), "<") {
		if _, title, ok := strings.Cut(s, "<title>"); ok {
			title, _, _ = strings.Cut(title, "</title>")
			s = "the page “" + strings.TrimSpace(title) + "”"
		} else {
			s = tags.ReplaceAllString(s, " ")
		}
	}
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "�")), " ")
	if n := 0; len(s) > most {
		for i := range s {
			if n++; n > most {
				return s[:i] + "…"
			}
		}
	}
	return s
}

var tags = regexp.MustCompile("<[^>]*>")

// asked is the address that answered.
func asked(resp *http.Response) string {
	if resp.Request == nil {
		return "the address"
	}
	return resp.Request.URL.String()
}
