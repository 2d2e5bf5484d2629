package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// Body returns the bytes that are sent for r.
//
// A raw request keeps every byte it has; only its top-level "stream" is set to
// true, for OpenAI "stream_options.include_usage" as well, "model" when another
// one is asked, and for Anthropic, which refuses a body without it, "max_tokens"
// when there is none. Each is replaced where it stands or added at the end of
// its object. The two other forms are written in the dialect.
//
// An error means that r can never be sent; it quotes nothing of r.
func Body(d Dialect, model string, r tasks.Request) ([]byte, error) {
	switch r.Kind {
	case tasks.Raw:
		return rawBody(d, model, r)
	case tasks.Text:
		if !jsontext.Value(r.Body).IsValid(lenient) || jsontext.Value(r.Body).Kind() != '"' {
			return nil, errors.New("the prompt is not a JSON string")
		}
		messages := make([]byte, 0, len(r.Body)+40)
		messages = append(messages, `[{"role":"user","content":`...)
		messages = append(messages, r.Body...)
		messages = append(messages, `}]`...)
		return builtBody(d, model, r.MaxTokens, nil, messages), nil
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
		return builtBody(d, model, r.MaxTokens, system, messages), nil
	}
	return nil, fmt.Errorf("a request of unknown kind %q", r.Kind)
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
func rawBody(d Dialect, model string, r tasks.Request) ([]byte, error) {
	edits := []edit{{name: "stream", value: []byte("true")}}
	if d == OpenAI {
		edits = append(edits, edit{name: "stream_options", change: func(old jsontext.Value) ([]byte, error) {
			switch old.Kind() {
			case '{':
				return splice(old, []edit{{name: "include_usage", value: []byte("true")}})
			case 'n', 0:
				return []byte(`{"include_usage":true}`), nil
			}
			return old, nil // for the provider to refuse
		}})
	} else if r.MaxTokens > 0 {
		edits = append(edits, edit{name: "max_tokens", change: func(old jsontext.Value) ([]byte, error) {
			if isNull(old) {
				return strconv.AppendInt(nil, int64(r.MaxTokens), 10), nil
			}
			return old, nil
		}})
	}
	if model != "" {
		edits = append(edits, edit{name: "model", change: func(old jsontext.Value) ([]byte, error) {
			if text(old) == model {
				return old, nil
			}
			return appendString(nil, model), nil
		}})
	}
	out, err := splice(r.Body, edits)
	if err != nil {
		return nil, errors.New("the request is not a JSON object")
	}
	return out, nil
}

// edit sets one member of an object to value, or to what change makes of the
// present one (nil when it is missing).
type edit struct {
	name   string
	value  []byte
	change func(old jsontext.Value) ([]byte, error)
}

func (e edit) apply(old jsontext.Value) ([]byte, error) {
	if e.change != nil {
		return e.change(old)
	}
	return e.value, nil
}

// splice applies edits to the object in data without touching any other byte.
// A member given more than once is edited each time, since readers differ in
// which one counts; one that is missing is added after the last member.
func splice(data []byte, edits []edit) ([]byte, error) {
	out := make([]byte, 0, len(data)+96)
	found := make([]bool, len(edits))
	copied, last := 0, 0
	err := eachMember(data, func(name string, v jsontext.Value, start, end int) error {
		last = end
		for i, e := range edits {
			if e.name != name {
				continue
			}
			found[i] = true
			value, err := e.apply(v)
			if err != nil {
				return err
			}
			out = append(out, data[copied:start]...)
			out = append(out, value...)
			copied = end
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	empty := last == 0
	if empty {
		last = bytes.IndexByte(data, '{') + 1
	}
	out = append(out, data[copied:last]...)
	for i, e := range edits {
		if found[i] {
			continue
		}
		value, err := e.apply(nil)
		if err != nil {
			return nil, err
		}
		if !empty {
			out = append(out, ',')
		}
		empty = false
		out = appendString(out, e.name)
		out = append(out, ':')
		out = append(out, value...)
	}
	return append(out, data[last:]...), nil
}
