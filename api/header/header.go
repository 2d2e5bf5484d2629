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

// blanks leaves out what may stand between words.
var blanks = strings.NewReplacer(" ", "", "\t", "")

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

// Provider keeps what the caller says to its provider: anthropic-version and
// anthropic-beta, OpenAI-Beta, OpenAI-Organization and OpenAI-Project.
func Provider(h http.Header, r *tasks.Request) error {
	for _, f := range []struct {
		name string
		most int
		kept *string
	}{
		{"anthropic-version", 64, &r.Version}, {tasks.OpenAIOrganization, 128, &r.OpenAI.Organization}, {tasks.OpenAIProject, 128, &r.OpenAI.Project},
	} {
		values := h.Values(f.name)
		if len(values) == 0 {
			continue
		}
		if len(values) > 1 || len(values[0]) > f.most || !Visible(values[0]) || values[0] == "" {
			return fault.Fail(fault.InvalidRequest, "The %s header must be one word of at most %d characters.", f.name, f.most)
		}
		*f.kept = values[0]
	}
	for _, f := range []struct {
		name string
		kept *string
	}{{"anthropic-beta", &r.Beta}, {"OpenAI-Beta", &r.OpenAI.Beta}} {
		*f.kept = strings.Join(h.Values(f.name), ",")
		if len(*f.kept) > 1024 || *f.kept != "" && !Visible(blanks.Replace(*f.kept)) {
			return fault.Fail(fault.InvalidRequest, "The %s header must be at most 1024 ASCII characters.", f.name)
		}
	}
	return nil
}

// Told is what the caller says to its provider, in parts: the same for requests that say
// the same. It is part of what is kept of requests over releases: what was not read by
// one before this is left out where it is not said.
func Told(h http.Header) []string {
	parts := []string{strings.Join(h["Anthropic-Version"], ","), strings.Join(h["Anthropic-Beta"], ",")}
	for _, name := range []string{"OpenAI-Beta", tasks.OpenAIOrganization, tasks.OpenAIProject} {
		if values := h.Values(name); len(values) > 0 {
			parts = append(parts, name+": "+strings.Join(values, ","))
		}
	}
	return parts
}
