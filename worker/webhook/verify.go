package webhook

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of the specification, in the spelling that net/http keeps them by.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

// Tolerance is how far the time of an attempt may be from a receiver's clock,
// either way. The official libraries all use it.
const Tolerance = 5 * time.Minute

// maxSignatures bounds the work that a stranger can ask for with one header.
const maxSignatures = 16

// VerifyError says why a message is not accepted. It is one of the constants
// below and never holds anything that the sender wrote.
type VerifyError string

// The reasons to refuse a message.
const (
	ErrHeaders   VerifyError = "the webhook headers are missing, repeated or malformed"
	ErrTooOld    VerifyError = "the message is too old"
	ErrTooNew    VerifyError = "the message is from the future"
	ErrSignature VerifyError = "no signature matches"
)

// Error returns the reason.
func (e VerifyError) Error() string { return string(e) }

// Verify checks that body was signed, with one of keys, for the headers that came
// with it and within [Tolerance] of now. The error is a [VerifyError]. The body must
// be the bytes as they arrived. Of each header exactly one line is taken; a time is
// plain decimal digits; unknown signature versions are passed over.
func Verify(h http.Header, body []byte, now time.Time, keys ...VerifyKey) error {
	id, signatures := single(h, HeaderID), single(h, HeaderSignature)
	unix, ok := parseTimestamp(single(h, HeaderTimestamp))
	entries := strings.Split(signatures, " ")
	if !ok || !ValidID(id) || signatures == "" || len(entries) > maxSignatures {
		return ErrHeaders
	}
	at := time.Unix(unix, 0)
	if now.Sub(at) > Tolerance {
		return ErrTooOld
	}
	if at.Sub(now) > Tolerance {
		return ErrTooNew
	}
	message := signedMessage(id, unix, body)
	for _, entry := range entries {
		version, encoded, _ := strings.Cut(entry, ",")
		signature, ok := decodeCanonical(encoded)
		if !ok || len(signature) == 0 {
			continue
		}
		for _, key := range keys {
			if key != nil && key.version() == version && key.check(message, signature) {
				return nil
			}
		}
	}
	return ErrSignature
}

// single returns a header that is given once, else "".
func single(h http.Header, name string) string {
	if values := h[name]; len(values) == 1 {
		return values[0]
	}
	return ""
}

// parseTimestamp takes digits only: no sign, no space, no leading zero, and no
// more of them than any time that could be within tolerance has.
func parseTimestamp(s string) (int64, bool) {
	if s == "" || len(s) > 12 || s[0] == '0' {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
