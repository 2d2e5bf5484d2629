package upstream

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/estimate"
)

// Question is a job's request, read once for all that is asked about it: its
// class, whether its answer is repeatable, and the body that is sent.
type Question struct {
	model   string
	request tasks.Request
	raw     layout // of a raw request
	fault   error  // of its JSON
	user    string // whom the provider is told that it is for; "": nobody
}

// Read reads a request that asks model; empty keeps a raw request's own.
func Read(model string, r tasks.Request) Question {
	q := Question{model: model, request: r}
	if r.Kind == tasks.Raw {
		q.raw, q.fault = lay(r.Body)
	}
	return q
}

// Class names the kind of job whose expected output is learned together: the
// model, the power of two at or above its most output, whether it has files and
// whether it thinks first. Jobs of one class have answers of like length, and
// estimates that are off by the same, so one mean fits them.
//
// It has a small set of values for each model. A model's name that is long or
// odd is "other", since a caller chooses it.
func (q *Question) Class(d Dialect) string {
	model := cmp.Or(q.model, text(q.raw.value("model")))
	if !cleanModel(model) {
		model = "other"
	}
	most := "any"
	if limit := q.request.Cap(); limit > 0 {
		most = strconv.Itoa(1 << bits.Len64(uint64(min(limit, 1<<20)-1)))
	}
	if q.request.Kind != tasks.Text && estimate.HasFiles(q.request.Body) {
		most += "/files"
	}
	if e := q.request.Endpoint; e != tasks.Chat {
		most += "/" + string(e)
	}
	effort := q.raw.value("reasoning_effort")
	if d == Anthropic && thinks(q.raw.value("thinking")) || d == OpenAI && effort.Kind() == '"' && text(effort) != "none" {
		most += "/thinking"
	}
	return model + "/" + most
}

// thinks reads Anthropic's thinking member: {"type":"enabled"} or "adaptive".
func thinks(v jsontext.Value) bool {
	kind := ""
	_ = eachMember(v, func(name string, v jsontext.Value, _, _ int) error { // read once already; no object does not think
		if name == "type" {
			kind = text(v)
		}
		return nil
	})
	return kind != "" && kind != "disabled"
}

func cleanModel(model string) bool {
	const clean = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@"
	return model != "" && len(model) <= 64 && strings.Trim(model, clean) == ""
}

// Repeatable reports whether the request asks for the same answer each time, as
// far as a provider can give it: it is in the provider's own form and its
// temperature is 0. A request that states no temperature has the provider's,
// which is not.
func (q *Question) Repeatable() bool {
	n, err := strconv.ParseFloat(string(q.raw.value("temperature")), 64)
	return q.fault == nil && err == nil && n == 0
}

// asksUsage reports whether a stream's count of tokens is asked for, as OpenAI has it.
func (q *Question) asksUsage() bool {
	options := q.raw.value("stream_options")
	if options.Kind() != '{' {
		return false
	}
	l, _ := lay(options) // read once already
	return string(l.value("include_usage")) == "true"
}

// choices is how many answers are asked for, as OpenAI has it.
func (q *Question) choices() int64 { return max(1, count(q.raw.value("n"))) }

// Body returns the bytes that are sent to a provider.
//
// A raw request keeps every byte it has but for the members that ask for a stream,
// "background", the one that says whom it is for where the caller named nobody, "model" when another one is asked, and the provider's limit of output tokens
// when the job states one beside the request. Each is replaced where it stands,
// added at the end of its object, or taken out where the provider refuses it.
// The two other forms are written in the dialect.
//
// An error means that the request can never be sent; it quotes nothing of it.
func (q *Question) Body(p *Provider) ([]byte, error) {
	switch r := q.request; r.Kind {
	case tasks.Raw:
		if q.fault != nil {
			return nil, errors.New("the request is not a JSON object")
		}
		return q.rawBody(p), nil
	case tasks.Text:
		if !jsontext.Value(r.Body).IsValid(lenient) || jsontext.Value(r.Body).Kind() != '"' {
			return nil, errors.New("the prompt is not a JSON string")
		}
		messages := make([]byte, 0, len(r.Body)+40)
		messages = append(messages, `[{"role":"user","content":`...)
		messages = append(messages, r.Body...)
		messages = append(messages, `}]`...)
		return q.builtBody(p, nil, messages), nil
	case tasks.Messages:
		var system, messages []byte
		err := eachMember(r.Body, func(name string, _ jsontext.Value, start, end int) error {
			switch name {
			case "system":
				system = r.Body[start:end]
			case "messages":
				messages = r.Body[start:end]
			}
			return nil
		})
		if err != nil {
			return nil, errors.New("the messages are not in a JSON object")
		}
		if len(messages) == 0 || messages[0] != '[' {
			return nil, errors.New("the messages are not a JSON array")
		}
		return q.builtBody(p, system, messages), nil
	default:
		return nil, fmt.Errorf("a request of unknown kind %q", r.Kind)
	}
}

func (q *Question) builtBody(p *Provider, system, messages []byte) []byte {
	b := make([]byte, 0, len(system)+len(messages)+len(q.model)+240)
	b = append(b, `{"model":`...)
	b = appendString(b, q.model)
	if most := q.request.MaxTokens; most > 0 {
		b = append(append(append(b, `,"`...), p.limitName()...), `":`...)
		b = strconv.AppendInt(b, int64(most), 10)
	}
	switch {
	case isNull(system):
		b = append(append(b, `,"messages":`...), messages...)
	case p.Dialect == OpenAI:
		b = append(append(b, `,"messages":[{"role":"system","content":`...), system...)
		b = append(b, '}')
		if rest := bytes.TrimLeft(messages[1:], " \t\r\n"); rest[0] != ']' {
			b = append(b, ',')
		}
		b = append(b, messages[1:]...)
	default:
		b = append(append(b, `,"system":`...), system...)
		b = append(append(b, `,"messages":`...), messages...)
	}
	switch {
	case p.NoStream:
	case p.Dialect == OpenAI && !p.NoStreamOptions:
		b = append(b, `,"stream":true,"stream_options":{"include_usage":true}`...)
	default:
		b = append(b, `,"stream":true`...)
	}
	for _, e := range q.toldUser(p) {
		b = append(append(appendString(append(b, ','), e.name), ':'), e.change(nil)...)
	}
	return append(b, '}')
}

// rawBody is Body for a raw request.
func (q *Question) rawBody(p *Provider) []byte {
	edits := q.streaming(p)
	// A record of the release before has the default of 1,024 for a raw request, and
	// no OutputTokens: that release wrote it into Anthropic's bodies alone.
	if r := q.request; r.Endpoint == tasks.Chat && r.MaxTokens > 0 && (r.OutputTokens > 0 || p.Dialect == Anthropic) {
		edits = append(edits, edit{p.limitName(), func(old jsontext.Value) []byte {
			if isNull(old) {
				return strconv.AppendInt(nil, int64(r.MaxTokens), 10)
			}
			return old
		}})
	}
	return q.raw.splice(slices.Concat(edits, q.named(), q.toldUser(p)))
}

// named has a raw request ask the model.
func (q *Question) named() []edit {
	if q.model == "" {
		return nil
	}
	return []edit{{"model", func(old jsontext.Value) []byte {
		if text(old) == q.model {
			return old
		}
		return appendString(nil, q.model)
	}}}
}

// as names the model as the provider does.
func (q *Question) as(models map[string]string) {
	if theirs, ok := models[cmp.Or(q.model, text(q.raw.value("model")))]; ok {
		q.model = theirs
	}
}

func always(value string) func(jsontext.Value) []byte {
	return func(jsontext.Value) []byte { return []byte(value) }
}

func never(jsontext.Value) []byte { return nil }

// streaming has a raw request streamed, or answered whole, as its endpoint and the
// provider take it.
func (q *Question) streaming(p *Provider) []edit {
	whole := p.NoStream || q.request.Endpoint != tasks.Chat && !(q.request.Endpoint == tasks.Responses && q.request.Stream)
	edits := []edit{{"stream", always("true")}}
	if whole {
		edits = []edit{{"stream", never}}
	}
	if q.request.Endpoint == tasks.Responses {
		edits = append(edits, edit{"background", never}) // who waits in the background is our caller
	}
	switch {
	case q.request.Endpoint == tasks.Responses && !whole:
	case whole, p.NoStreamOptions:
		edits = append(edits, edit{"stream_options", never})
	case p.Dialect == OpenAI:
		edits = append(edits, edit{"stream_options", withUsage})
	}
	return edits
}

// withUsage is stream_options that ask for the count of tokens, too.
func withUsage(old jsontext.Value) []byte {
	switch old.Kind() {
	case '{':
		l, _ := lay(old) // read once already
		return l.splice([]edit{{"include_usage", always("true")}})
	case 'n', 0:
		return []byte(`{"include_usage":true}`)
	}
	return old // for the provider to refuse
}

// layout is where the members that matter here stand in a JSON object, in order.
type layout struct {
	data    []byte
	members []place
	count   int // of all members
	last    int // the end of the last member of all, or of the opening brace
}

// place is where a member stands.
type place struct {
	name       string
	after      int // the end of the member before it, or of the opening brace
	start, end int // of its value
	first      bool
}

// lay finds the members of the object in data. After a fault it has those before it.
func lay(data []byte) (layout, error) {
	matter := [...]string{"model", "max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "thinking", "reasoning_effort",
		"n", "stream", "stream_options", "include_usage", "background", "metadata", "user_id", "safety_identifier", "user"}
	l := layout{data: data, last: bytes.IndexByte(data, '{') + 1}
	err := eachMember(data, func(name string, _ jsontext.Value, start, end int) error {
		if slices.Contains(matter[:], name) {
			l.members = append(l.members, place{name, l.last, start, end, l.count == 0})
		}
		l.last = end
		l.count++
		return nil
	})
	return l, err
}

// value returns the last member with one of the names, or nil.
func (l *layout) value(names ...string) jsontext.Value {
	for _, m := range slices.Backward(l.members) {
		if slices.Contains(names, m.name) {
			return l.data[m.start:m.end]
		}
	}
	return nil
}

// edit sets one member of an object to what change makes of the present value,
// nil when it is missing. What it makes nil of is not there afterwards.
type edit struct {
	name   string
	change func(old jsontext.Value) []byte
}

// splice applies edits to the object without touching any other byte. A member
// given more than once is edited each time, since readers differ in which one
// counts; one that is missing is added after the last member.
func (l *layout) splice(edits []edit) []byte {
	out := make([]byte, 0, len(l.data)+96)
	copied, left := 0, l.count
	for _, m := range l.members {
		i := slices.IndexFunc(edits, func(e edit) bool { return e.name == m.name })
		if i < 0 {
			continue
		}
		value := edits[i].change(l.data[m.start:m.end])
		switch {
		case value != nil:
			out = append(append(out, l.data[copied:m.start]...), value...)
			copied = m.end
		case m.first, copied > m.after: // no member is left before it: the comma behind it goes
			out = append(out, l.data[copied:max(copied, m.after)]...)
			copied, left = m.end, left-1
			if rest := bytes.TrimLeft(l.data[m.end:], " \t\r\n"); rest[0] == ',' {
				copied = len(l.data) - len(rest) + 1
			}
		default:
			out = append(out, l.data[copied:m.after]...)
			copied, left = m.end, left-1
		}
	}
	out = append(out, l.data[copied:max(copied, l.last)]...)
	for _, e := range edits {
		if slices.ContainsFunc(l.members, func(m place) bool { return m.name == e.name }) {
			continue
		}
		value := e.change(nil)
		if value == nil {
			continue
		}
		if left > 0 {
			out = append(out, ',')
		}
		left++
		out = append(append(appendString(out, e.name), ':'), value...)
	}
	return append(out, l.data[max(copied, l.last):]...)
}
