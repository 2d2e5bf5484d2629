package upstream

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// question is a request as the fake understands it.
type question struct {
	counting  bool // for count_tokens, which needs no max_tokens
	model     string
	maxTokens int
	stream    bool
	usage     bool // OpenAI: a last chunk with the usage
	choices   int
	text      string // of all messages
	last      string // of the last user message
	tokens    int    // input
}

// read takes in a request, and returns what the provider would find wrong with
// it, or "".
func (q *question) read(d Dialect, h http.Header, body []byte) (flaw string) {
	if media, _, _ := strings.Cut(h.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(media), "application/json") {
		return "Content-Type: expected application/json"
	}
	var in struct {
		Model               string `json:"model"`
		MaxTokens           *int64 `json:"max_tokens"`
		MaxCompletionTokens *int64 `json:"max_completion_tokens"`
		Messages            []struct {
			Role    string         `json:"role"`
			Content jsontext.Value `json:"content"`
		} `json:"messages"`
		System        jsontext.Value `json:"system"`
		Tools         jsontext.Value `json:"tools"`
		Stream        *bool          `json:"stream"`
		StreamOptions *struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
		N           *int           `json:"n"`
		Temperature jsontext.Value `json:"temperature"`
		TopP        jsontext.Value `json:"top_p"`
		TopK        jsontext.Value `json:"top_k"`
	}
	if !jsontext.Value(body).IsValid(lenient) {
		return "The request body is not valid JSON"
	}
	if err := json.Unmarshal(body, &in, lenient); err != nil {
		return "The request body does not have the right types: " + pointer(err)
	}

	var all strings.Builder
	extra := 0
	system, n := contentText(in.System)
	all.WriteString(system)
	extra += n
	for _, m := range in.Messages {
		t, n := contentText(m.Content)
		all.WriteByte('\n')
		all.WriteString(t)
		extra += n + 4 // the frame of a message
		if m.Role == "user" {
			q.last = t
		}
	}
	q.model, q.text = in.Model, all.String()
	q.stream = in.Stream != nil && *in.Stream
	q.usage = in.StreamOptions != nil && in.StreamOptions.IncludeUsage
	q.choices = 1
	q.tokens = countTokens(q.text) + extra + len(in.Tools)/4

	switch {
	case in.Model == "":
		return "model: Field required"
	case len(in.Messages) == 0:
		return "messages: at least one message is required"
	}
	for i, m := range in.Messages {
		if d == Anthropic && m.Role != "user" && m.Role != "assistant" {
			return fmt.Sprintf("messages.%d.role: Input should be 'user' or 'assistant'", i)
		}
		if m.Role == "" {
			return fmt.Sprintf("messages.%d.role: Field required", i)
		}
		if d == Anthropic && m.Content == nil {
			return fmt.Sprintf("messages.%d.content: Field required", i)
		}
	}

	if d == OpenAI {
		q.maxTokens = 4096
		for _, n := range []*int64{in.MaxTokens, in.MaxCompletionTokens} {
			if n != nil {
				if *n < 1 || *n > 1<<20 {
					return "max_completion_tokens: out of range"
				}
				q.maxTokens = int(*n)
			}
		}
		if in.N != nil {
			if *in.N < 1 || *in.N > 128 {
				return "n: out of range"
			}
			q.choices = *in.N
		}
		return ""
	}

	version := h.Get("Anthropic-Version")
	if _, err := time.Parse(time.DateOnly, version); err != nil {
		return "anthropic-version: header is required"
	}
	if version >= "2026-10-21" && (in.Temperature != nil || in.TopP != nil || in.TopK != nil) {
		return "temperature: Extra inputs are not permitted"
	}
	if q.counting {
		return ""
	}
	if in.MaxTokens == nil {
		return "max_tokens: Field required"
	}
	if *in.MaxTokens < 1 || *in.MaxTokens > 1<<20 {
		return "max_tokens: out of range"
	}
	q.maxTokens = int(*in.MaxTokens)
	return ""
}

// pointer returns where in the body a fault is, without quoting the body.
func pointer(err error) string {
	if at, ok := err.(*json.SemanticError); ok {
		return string(at.JSONPointer)
	}
	return "/"
}

// digest names the prompt without showing it.
func (q *question) digest() string {
	sum := sha256.Sum256([]byte(q.last))
	return hex.EncodeToString(sum[:])
}

// contentText returns the text of a content member, a string or an array of
// blocks, and the tokens of what is not text.
func contentText(v jsontext.Value) (string, int) {
	switch v.Kind() {
	case '"':
		return text(v), 0
	case '[':
	default:
		return "", 0
	}
	var b strings.Builder
	tokens := 0
	_ = eachElement(v, func(block jsontext.Value) error { // it was valid as a whole
		if block.Kind() != '{' {
			return nil
		}
		found := false
		_ = eachMember(block, func(name string, v jsontext.Value, _, _ int) error {
			if name == "text" && v.Kind() == '"' {
				b.WriteString(text(v))
				found = true
			}
			return nil
		})
		if !found {
			tokens += 1500 // an image, or thereabouts
		}
		return nil
	})
	return b.String(), tokens
}

// countTokens is the fake's tokenizer: a token for every five letters of a
// word, begun or whole, and one for every other visible character. On English
// prose that comes to about four bytes a token.
func countTokens(s string) int {
	tokens, run := 0, 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80:
			run++
			continue
		case c > ' ':
			tokens++
		}
		tokens += (run + 4) / 5
		run = 0
	}
	return tokens + (run+4)/5 + 3
}

// directive returns the argument of [[name:argument]] in the last user message.
func (q *question) directive(name string) string {
	_, rest, ok := strings.Cut(q.last, "[["+name+":")
	if !ok {
		return ""
	}
	value, _, ok := strings.Cut(rest, "]]")
	if !ok {
		return ""
	}
	return value
}

// length returns the number of [[tokens:N]].
func (q *question) length() (int, bool) {
	n, err := strconv.Atoi(q.directive("tokens"))
	return n, err == nil && n >= 0 && n <= 1<<20
}

// delay returns the time of [[latency:D]].
func (q *question) delay() (time.Duration, bool) {
	d, err := time.ParseDuration(q.directive("latency"))
	return d, err == nil && d >= 0
}
