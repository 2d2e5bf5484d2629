// Package header reads what callers say in header fields, whatever the form of the API:
// keys of repeats and the fields that are for the provider.
//
// It promises that a field which makes sense for nobody is refused by name, and that no
// value is repeated. It knows no job's state and writes nothing.
package header

import (
	"net/http"
	"strings"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/tasks"
)

const maxKey = 255

// IdempotencyKey returns the Idempotency-Key, "" for none. The header is a
// quoted string in draft-ietf-httpapi-idempotency-key-header and bare in most
// clients; both name the same key.
func IdempotencyKey(h http.Header) (string, error) {
	values, given := h["Idempotency-Key"]
	if !given {
		return "", nil
	}
	if len(values) > 1 {
		return "", fault.Fail(fault.InvalidRequest, "There is more than one Idempotency-Key header.")
	}
	key := values[0]
	if len(key) >= 2 && key[0] == '"' && key[len(key)-1] == '"' {
		key = key[1 : len(key)-1]
	}
	if key == "" || len(key) > maxKey || !Visible(key) {
		return "", fault.Fail(fault.InvalidRequest, "The Idempotency-Key must be 1 to %d visible ASCII characters.", maxKey)
	}
	return key, nil
}

// Visible reports whether s is visible ASCII only.
func Visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Provider keeps the caller's anthropic-version and anthropic-beta.
func Provider(h http.Header, r *tasks.Request) error {
	version, beta := h["Anthropic-Version"], h["Anthropic-Beta"]
	if len(version) > 0 {
		if len(version) > 1 || len(version[0]) > 64 || !Visible(version[0]) || version[0] == "" {
			return fault.Fail(fault.InvalidRequest, "The anthropic-version header must be one word of at most 64 characters.")
		}
		r.Version = version[0]
	}
	if len(beta) > 0 {
		r.Beta = strings.Join(beta, ",")
		if len(r.Beta) > 1024 || !Visible(strings.NewReplacer(" ", "", "\t", "").Replace(r.Beta)) && r.Beta != "" {
			return fault.Fail(fault.InvalidRequest, "The anthropic-beta header must be at most 1024 ASCII characters.")
		}
	}
	return nil
}
