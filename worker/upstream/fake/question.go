package fake

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Dialect is the protocol that a call speaks, by the name that configuration has for it.
type Dialect string

// The dialects.
const (
	Anthropic Dialect = "anthropic"
	OpenAI    Dialect = "openai"
)

// question is a request as the provider understands it.
type question struct {
	path      string // "" is the dialect's own
	counting  bool   // for count_tokens, which needs no max_tokens
	model     string
	maxTokens int
	stream    bool
	usage     bool // OpenAI: a last chunk with the usage
	choices   int
	text      string // of all messages
	last      string // of the last user message
	tokens    int    // input

	inputs     int  // embeddings: how many are asked for
	dimensions int  // of each
	base64     bool // they are asked for as base64
}

// form is a request's body: the members that the provider looks at.
type form struct {
	model                          string
	maxTokens, maxCompletionTokens *int64
	messages                       []struct {
		Role    string
		Content json.RawMessage
	}
	system, tools json.RawMessage
	stream        bool
	streamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	}
	n                       *int
	temperature, topP, topK json.RawMessage

	// Of the paths that OpenAI alone has.
	input, instructions, background json.RawMessage
	maxOutputTokens                 *int64
	dimensions                      *int
	encodingFormat, previous        string
}

// read takes in a request, and returns what the provider would find wrong with
// it, or "".
func (q *question) read(d Dialect, h http.Header, body []byte) (flaw string) {
	if media, _, _ := strings.Cut(h.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(media), "application/json") {
		return "Content-Type: expected application/json"
	}
	var in form
	if flaw := in.decode(body); flaw != "" {
		return flaw
	}
	q.model, q.stream, q.usage, q.choices = in.model, in.stream, in.streamOptions.IncludeUsage, 1
	q.measure(&in)
	if q.path != "" {
		return q.readInput(&in)
	}
	if flaw := in.incomplete(d); flaw != "" {
		return flaw
	}
	if d == OpenAI {
		return q.bound(&in)
	}
	version := h.Get("Anthropic-Version")
	if _, err := time.Parse(time.DateOnly, version); err != nil {
		return "anthropic-version: header is required"
	}
	if version >= "2026-10-21" && (in.temperature != nil || in.topP != nil || in.topK != nil) {
		return "temperature: Extra inputs are not permitted"
	}
	switch {
	case q.counting:
		return ""
	case in.maxTokens == nil:
		return "max_tokens: Field required"
	case *in.maxTokens < 1 || *in.maxTokens > 1<<20:
		return "max_tokens: out of range"
	}
	q.maxTokens = int(*in.maxTokens)
	return ""
}

// decode reads the body. A member's name counts as it is spelt; a fault is told
// by the member's name, without quoting the body.
func (in *form) decode(body []byte) (flaw string) {
	var members map[string]json.RawMessage
	if !json.Valid(body) {
		return "The request body is not valid JSON"
	}
	if json.Unmarshal(body, &members) != nil {
		return "The request body does not have the right types: /"
	}
	for _, m := range []struct {
		name string
		into any
	}{
		{"model", &in.model}, {"max_tokens", &in.maxTokens}, {"max_completion_tokens", &in.maxCompletionTokens},
		{"messages", &in.messages}, {"system", &in.system}, {"tools", &in.tools}, {"stream", &in.stream},
		{"stream_options", &in.streamOptions}, {"n", &in.n},
		{"temperature", &in.temperature}, {"top_p", &in.topP}, {"top_k", &in.topK},
		{"input", &in.input}, {"instructions", &in.instructions}, {"background", &in.background}, {"max_output_tokens", &in.maxOutputTokens},
		{"dimensions", &in.dimensions}, {"encoding_format", &in.encodingFormat}, {"previous_response_id", &in.previous},
	} {
		if raw, ok := members[m.name]; ok && json.Unmarshal(raw, m.into) != nil {
			return "The request body does not have the right types: /" + m.name
		}
	}
	return ""
}

// measure counts the input and keeps its text.
func (q *question) measure(in *form) {
	var all strings.Builder
	system, extra := contentText(in.system)
	all.WriteString(system)
	for _, m := range in.messages {
		t, n := contentText(m.Content)
		all.WriteByte('\n')
		all.WriteString(t)
		extra += n + 4 // the frame of a message
		if m.Role == "user" {
			q.last = t
		}
	}
	q.text = all.String()
	q.tokens = countTokens(q.text) + extra + len(in.tools)/4
}

// incomplete returns what the question lacks, or "".
func (in *form) incomplete(d Dialect) (flaw string) {
	switch {
	case in.model == "":
		return "model: Field required"
	case len(in.messages) == 0:
		return "messages: at least one message is required"
	}
	for i, m := range in.messages {
		switch {
		case d == Anthropic && m.Role != "user" && m.Role != "assistant":
			return fmt.Sprintf("messages.%d.role: Input should be 'user' or 'assistant'", i)
		case m.Role == "":
			return fmt.Sprintf("messages.%d.role: Field required", i)
		case d == Anthropic && m.Content == nil:
			return fmt.Sprintf("messages.%d.content: Field required", i)
		}
	}
	return ""
}

// bound takes in how long and how many OpenAI's answers may be.
func (q *question) bound(in *form) (flaw string) {
	q.maxTokens = 4096
	for _, n := range []*int64{in.maxTokens, in.maxCompletionTokens, in.maxOutputTokens} {
		if n == nil {
			continue
		}
		if *n < 1 || *n > 1<<20 {
			return "max_completion_tokens: out of range"
		}
		q.maxTokens = int(*n)
	}
	if in.n != nil {
		if *in.n < 1 || *in.n > 128 {
			return "n: out of range"
		}
		q.choices = *in.n
	}
	return ""
}

// digest names the prompt without showing it.
func (q *question) digest() string {
	sum := sha256.Sum256([]byte(q.last))
	return hex.EncodeToString(sum[:])
}

// contentText returns the text of a content member, a string or an array of
// blocks, and the tokens of what is not text.
func contentText(v json.RawMessage) (text string, tokens int) {
	if json.Unmarshal(v, &text) == nil {
		return text, 0
	}
	var blocks []json.RawMessage
	_ = json.Unmarshal(v, &blocks) // what is no list has no text
	var b strings.Builder
	for _, raw := range blocks {
		var block struct{ Text *string }
		if raw[0] != '{' {
			continue
		}
		if json.Unmarshal(raw, &block) == nil && block.Text != nil {
			b.WriteString(*block.Text)
		} else {
			tokens += 1500 // an image, or thereabouts
		}
	}
	return b.String(), tokens
}

// countTokens is the tokenizer: a token for every five letters of a
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
	_, rest, _ := strings.Cut(q.last, "[["+name+":")
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
