package upstream

import (
	"errors"
	"net/url"
	"strings"
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

// modelsURL is the address of the list, beside that of the dialect's one call.
func modelsURL(d Dialect, call string) string {
	if d == OpenAI {
		return strings.TrimSuffix(call, "/chat/completions") + "/models"
	}
	return strings.TrimSuffix(call, "/messages") + "/models"
}
