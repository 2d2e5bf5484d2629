package upstream

import (
	"math/bits"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// Class names the kind of job whose expected output is learned together: the
// model, the power of two at or above its max_tokens, and whether it thinks
// first. Jobs of one class have answers of like length, so one mean fits them.
//
// It has a small set of values for each model. A model's name that is long or
// odd is "other", since a caller chooses it.
func Class(d Dialect, model string, r tasks.Request) string {
	maxTokens := int64(r.MaxTokens)
	thinking := false
	if r.Kind == tasks.Raw {
		// A body that is no object is refused when the call is made.
		_ = eachMember(r.Body, func(name string, v jsontext.Value, _, _ int) error {
			switch name {
			case "model":
				if model == "" {
					model = text(v)
				}
			case "max_tokens", "max_completion_tokens":
				if r.MaxTokens <= 0 {
					maxTokens = count(v)
				}
			case "thinking":
				if d == Anthropic {
					thinking = thinks(v)
				}
			case "reasoning_effort":
				thinking = d == OpenAI && v.Kind() == '"' && text(v) != "none"
			}
			return nil
		})
	}

	b := make([]byte, 0, len(model)+16)
	if cleanModel(model) {
		b = append(b, model...)
	} else {
		b = append(b, "other"...)
	}
	b = append(b, '/')
	switch {
	case maxTokens <= 0:
		b = append(b, "any"...)
	default:
		b = strconv.AppendInt(b, 1<<bits.Len64(uint64(min(maxTokens, 1<<20)-1)), 10)
	}
	if thinking {
		b = append(b, "/thinking"...)
	}
	return string(b)
}

// thinks reads Anthropic's thinking member: {"type":"enabled"} or "adaptive".
func thinks(v jsontext.Value) bool {
	if v.Kind() != '{' {
		return false
	}
	kind := ""
	_ = eachMember(v, func(name string, v jsontext.Value, _, _ int) error { // read once already
		if name == "type" {
			kind = text(v)
		}
		return nil
	})
	return kind != "" && kind != "disabled"
}

func cleanModel(model string) bool {
	if model == "" || len(model) > 64 {
		return false
	}
	for i := 0; i < len(model); i++ {
		c := model[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			c == '-' || c == '_' || c == '.' || c == ':' || c == '/' || c == '@') {
			return false
		}
	}
	return true
}
