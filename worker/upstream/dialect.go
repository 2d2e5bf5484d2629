package upstream

import (
	"crypto/x509"
	"errors"
	"net/url"
	"strings"

	"github.com/sluicehq/sluice/tasks"
)

// Dialect is the protocol that a provider speaks.
type Dialect string

// The dialects: Anthropic's Messages API and OpenAI's chat completions, which
// many other providers speak as well.
const (
	Anthropic Dialect = "anthropic"
	OpenAI    Dialect = "openai"
)

// Valid reports whether d is a dialect.
func (d Dialect) Valid() bool { return d == Anthropic || d == OpenAI }

// The public addresses of the two providers, and the version of Anthropic's
// API that is asked for when the caller named none.
const (
	AnthropicBaseURL = "https://api.anthropic.com"
	OpenAIBaseURL    = "https://api.openai.com/v1"
	DefaultVersion   = "2023-06-01"
)

// Serves reports whether the dialect has the endpoint.
func (d Dialect) Serves(e tasks.Path) bool { return e == tasks.Chat || d == OpenAI && e.Valid() }

// Provider is somebody who answers prompts.
type Provider struct {
	// Name is the provider's name in configuration and job records.
	Name string
	// Dialect must be one of the two.
	Dialect Dialect
	// BaseURL is where the dialect's paths begin; empty means the public address.
	// As with the official SDKs, Anthropic's is the host's root and OpenAI's
	// includes "/v1". Both are forgiven: a trailing "/v1" of an Anthropic address
	// is dropped, and an OpenAI address without any path gets one.
	BaseURL string
	// APIKey is sent as x-api-key or as a bearer token; empty sends neither.
	APIKey string

	// What a compatible server refuses is not sent. NoStream: answers are asked for
	// whole, and neither "stream" nor "stream_options" is sent. NoStreamOptions:
	// "stream_options" alone is left out; the usage is then what the server says unasked.
	NoStream, NoStreamOptions bool
	// TokenLimit is the member that carries a job's limit of output tokens. Empty
	// means the dialect's own: "max_tokens", and "max_completion_tokens" for OpenAI.
	TokenLimit string
	// Organization and Project have a caller's OpenAI-Organization and OpenAI-Project sent
	// on, where Dialect is OpenAI. They name another allowance than APIKey's own.
	Organization, Project bool
	// TraceContext has the calls of traced jobs carry their trace in traceparent.
	TraceContext bool
	// UserKey has a call say by a keyed hash of whom it is made, where its caller names nobody:
	// Anthropic's metadata.user_id, OpenAI's safety_identifier. Nil: no call does.
	UserKey []byte
	// Models are the provider's names of models, by ours, where they are others. A list of
	// models has ours; an answer is not changed.
	Models map[string]string
	// Roots vouch for the certificate of BaseURL. Nil: the system's.
	Roots *x509.CertPool
}

// limitName is the member that carries a job's limit of output tokens.
func (p *Provider) limitName() string {
	switch {
	case p.TokenLimit != "":
		return p.TokenLimit
	case p.Dialect == OpenAI:
		return "max_completion_tokens"
	}
	return "max_tokens"
}

// endpoint returns the address of the dialect's one call.
func endpoint(d Dialect, base string) (string, error) {
	if base == "" {
		base = AnthropicBaseURL
		if d == OpenAI {
			base = OpenAIBaseURL
		}
	}
	u, err := url.Parse(base)
	if err != nil {
		// The parser's own message repeats the address, which may hold a password.
		return "", errors.New("the base URL cannot be parsed")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "", errors.New("the base URL is neither http nor https")
	case u.Host == "":
		return "", errors.New("the base URL names no host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("the base URL may hold a host and a path only")
	}
	path := strings.TrimRight(u.Path, "/")
	if d == OpenAI {
		if path == "" {
			path = "/v1"
		}
		path += "/chat/completions"
	} else {
		path = strings.TrimSuffix(path, "/v1") + "/v1/messages"
	}
	u.Path, u.RawPath = path, ""
	return u.String(), nil
}

// address is where a call to one of the provider's endpoints goes.
func (c *Caller) address(e tasks.Path) string {
	if e == tasks.Chat {
		return c.url
	}
	return strings.TrimSuffix(c.url, "/chat/completions") + "/" + string(e)
}

// modelsURL is the address of the list, beside that of the dialect's one call.
func modelsURL(d Dialect, call string) string {
	if d == OpenAI {
		return strings.TrimSuffix(call, "/chat/completions") + "/models"
	}
	return strings.TrimSuffix(call, "/messages") + "/models"
}
