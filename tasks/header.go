package tasks

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/textproto"
	"slices"
	"strings"
)

// MaxHeaders is how many headers of its own an endpoint may have.
const MaxHeaders = 8

// SecretMask stands where a secret is shown.
const SecretMask = "********"

// Headers are header fields of a webhook beside those that we send ourselves, by their
// canonical names. Their values are secrets: whoever prints or marshals them sees
// names and [SecretMask].
type Headers map[string]string

// Masked is the names with SecretMask for each value.
func (h Headers) Masked() map[string]string {
	out := make(map[string]string, len(h))
	for name := range h {
		out[name] = SecretMask
	}
	return out
}

// Format writes the names for every verb.
func (h Headers) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, h.Masked()) }

// MarshalJSON writes the names.
func (h Headers) MarshalJSON() ([]byte, error) { return json.Marshal(h.Masked()) }

// The longest name and value, in bytes.
const (
	maxHeaderName  = 64
	maxHeaderValue = 1024
)

// The reasons why headers are refused. None of them holds a name or a value.
var (
	errHeaderCount    = fmt.Errorf("at most %d headers are sent", MaxHeaders)
	errHeaderTwice    = errors.New("two names differ only in capitals")
	errHeaderName     = fmt.Errorf("a name is 1 to %d letters, digits and !#$%%&'*+-.^_`|~", maxHeaderName)
	errHeaderReserved = errors.New("one of the names is not for others to set: Host, User-Agent, Accept-Encoding, Expect, Content-…, webhook-… or what belongs to the connection")
	errHeaderValue    = fmt.Errorf("a value is 1 to %d printable ASCII characters, without a space at its ends", maxHeaderValue)
	errHeaderMask     = errors.New("a value is the mask that answers show in its place: give the value itself")
)

// NewHeaders returns fields under their canonical names, or says why they must not be
// sent: what a header cannot carry (RFC 9110, sections 5.5 and 5.6.2) and what would
// change where a request ends, whose it is or how it is signed.
func NewHeaders(fields map[string]string) (Headers, error) {
	if len(fields) > MaxHeaders {
		return nil, errHeaderCount
	}
	out := make(Headers, len(fields))
	for name, value := range fields {
		if err := checkHeader(name, value); err != nil {
			return nil, err
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if _, twice := out[name]; twice {
			return nil, errHeaderTwice
		}
		out[name] = value
	}
	return out, nil
}

func checkHeader(name, value string) error {
	switch {
	case name == "" || len(name) > maxHeaderName || strings.ContainsFunc(name, notToken):
		return errHeaderName
	case isReserved(strings.ToLower(name)):
		return errHeaderReserved
	case value == SecretMask:
		return errHeaderMask
	case value == "" || len(value) > maxHeaderValue || strings.Trim(value, " ") != value || strings.ContainsFunc(value, notPrintable):
		return errHeaderValue
	}
	return nil
}

func notToken(r rune) bool {
	alnum := r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
	return !alnum && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

func notPrintable(r rune) bool { return r < ' ' || r > '~' }

// isReserved reports whether a name in small letters is ours or the connection's.
func isReserved(name string) bool {
	for _, prefix := range []string{"content-", "webhook-", "proxy-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return slices.Contains([]string{
		"host", "user-agent", "accept-encoding", "expect",
		"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings",
	}, name)
}
