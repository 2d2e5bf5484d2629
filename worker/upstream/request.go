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

// Body returns the bytes that are sent.
//
// A raw request keeps every byte it has; only its top-level "stream" is set to
// true, for OpenAI "stream_options.include_usage" as well, "model" when another
// one is asked, and for Anthropic, which refuses a body without it, "max_tokens"
// when there is none. Each is replaced where it stands or added at the end of
// its object. The two other forms are written in the dialect.
//
// An error means that the request can never be sent; it quotes nothing of it.
func (q *Question) Body(d Dialect) ([]byte, error) {
	switch r := q.request; r.Kind {
	case tasks.Raw:
		if q.fault != nil {
			return nil, errors.New("the request is not a JSON object")
		}
		return q.rawBody(d), nil
	case tasks.Text:
		if !jsontext.Value(r.Body).IsValid(lenient) || jsontext.Value(r.Body).Kind() != '"' {
			return nil, errors.New("the prompt is not a JSON string")
		}
		messages := make([]byte, 0, len(r.Body)+40)
		messages = append(messages, `[{"role":"user","content":`...)
		messages = append(messages, r.Body...)
		messages = append(messages, `}]`...)
		return builtBody(d, q.model, r.MaxTokens, nil, messages), nil
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
		return builtBody(d, q.model, r.MaxTokens, system, messages), nil
	default:
		return nil, fmt.Errorf("a request of unknown kind %q", r.Kind)
	}
}

func builtBody(d Dialect, model string, maxTokens int, system, messages []byte) []byte {
	b := make([]byte, 0, len(system)+len(messages)+len(model)+160)
	b = append(b, `{"model":`...)
	b = appendString(b, model)
	if maxTokens > 0 {
		if d == OpenAI {
			b = append(b, `,"max_completion_tokens":`...)
		} else {
			b = append(b, `,"max_tokens":`...)
		}
		b = strconv.AppendInt(b, int64(maxTokens), 10)
	}
	if d == OpenAI {
		b = append(b, `,"messages":`...)
		if !isNull(system) {
			b = append(b, `[{"role":"system","content":`...)
			b = append(b, system...)
			b = append(b, '}')
			if rest := bytes.TrimLeft(messages[1:], " \t\r\n"); rest[0] != ']' {
				b = append(b, ',')
			}
			messages = messages[1:]
		}
		b = append(b, messages...)
		return append(b, `,"stream":true,"stream_options":{"include_usage":true}}`...)
	}
	if !isNull(system) {
		b = append(b, `,"system":`...)
		b = append(b, system...)
	}
	b = append(b, `,"messages":`...)
	b = append(b, messages...)
	return append(b, `,"stream":true}`...)
}

// rawBody is Body for a raw request.
func (q *Question) rawBody(d Dialect) []byte {
	always := func(value string) func(jsontext.Value) []byte {
		return func(jsontext.Value) []byte { return []byte(value) }
	}
	edits := []edit{{"stream", always("true")}}
	if d == OpenAI {
		edits = append(edits, edit{"stream_options", func(old jsontext.Value) []byte {
			switch old.Kind() {
			case '{':
				l, _ := lay(old) // read once already
				return l.splice([]edit{{"include_usage", always("true")}})
			case 'n', 0:
				return []byte(`{"include_usage":true}`)
			}
			return old // for the provider to refuse
		}})
	} else if q.request.MaxTokens > 0 {
		edits = append(edits, edit{"max_tokens", func(old jsontext.Value) []byte {
			if isNull(old) {
				return strconv.AppendInt(nil, int64(q.request.MaxTokens), 10)
			}
			return old
		}})
	}
	if q.model != "" {
		edits = append(edits, edit{"model", func(old jsontext.Value) []byte {
			if text(old) == q.model {
				return old
			}
			return appendString(nil, q.model)
		}})
	}
	return q.raw.splice(edits)
}

// layout is where the members that matter here stand in a JSON object, in order.
type layout struct {
	data    []byte
	members []place
	last    int // the end of the last member of all; 0 when there is none
}

type place struct {
	name       string
	start, end int
}

// lay finds the members of the object in data. After a fault it has those before it.
func lay(data []byte) (layout, error) {
	matter := [...]string{"model", "max_tokens", "max_completion_tokens", "temperature", "thinking", "reasoning_effort",
		"stream", "stream_options", "include_usage"}
	l := layout{data: data}
	err := eachMember(data, func(name string, _ jsontext.Value, start, end int) error {
		l.last = end
		if slices.Contains(matter[:], name) {
			l.members = append(l.members, place{name, start, end})
		}
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
// nil when it is missing.
type edit struct {
	name   string
	change func(old jsontext.Value) []byte
}

// splice applies edits to the object without touching any other byte. A member
// given more than once is edited each time, since readers differ in which one
// counts; one that is missing is added after the last member.
func (l *layout) splice(edits []edit) []byte {
	out := make([]byte, 0, len(l.data)+96)
	copied := 0
	for _, m := range l.members {
		if i := slices.IndexFunc(edits, func(e edit) bool { return e.name == m.name }); i >= 0 {
			out = append(out, l.data[copied:m.start]...)
			out = append(out, edits[i].change(l.data[m.start:m.end])...)
			copied = m.end
		}
	}
	last, empty := l.last, l.last == 0
	if empty {
		last = bytes.IndexByte(l.data, '{') + 1
	}
	out = append(out, l.data[copied:last]...)
	for _, e := range edits {
		if slices.ContainsFunc(l.members, func(m place) bool { return m.name == e.name }) {
			continue
		}
		if !empty {
			out = append(out, ',')
		}
		empty = false
		out = appendString(out, e.name)
		out = append(out, ':')
		out = append(out, e.change(nil)...)
	}
	return append(out, l.data[last:]...)
}
