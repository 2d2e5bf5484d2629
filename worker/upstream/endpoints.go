package upstream

import (
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// counted reads the usage of an answer of OpenAI's, as its endpoint writes it.
func (o *outline) counted() (u tasks.Usage, charged int64, ok bool) {
	if o.endpoint == tasks.Chat {
		return chatUsage.read(o.usage)
	}
	return otherUsage.read(o.usage)
}

// embeddings judges a list of embeddings: at least one, each numbers or the base64 of
// them. Source: developers.openai.com/api/docs/api-reference/embeddings/object.
func (o *outline) embeddings() *providerError {
	if o.data.Kind() != '[' {
		return foreign("something that is no list of embeddings: it has no data")
	}
	worst := noAnswer("a list of embeddings that is empty")
	first := true
	_ = eachElement(o.data, func(v jsontext.Value) error { // read once already
		whole := false
		_ = eachMember(v, func(name string, v jsontext.Value, _, _ int) error { // as above
			whole = whole || name == "embedding" && (v.Kind() == '[' || v.Kind() == '"') && filled(v)
			return nil
		})
		switch {
		case !whole:
			worst = noAnswer("a list of embeddings in which one has no numbers")
		case first:
			worst = nil
		}
		first = false
		return nil
	})
	return worst
}

// response judges a response: a list of output, and a status with which it has ended.
// Source: developers.openai.com/api/docs/api-reference/responses/object.
func (o *outline) response() *providerError {
	status := text(o.status)
	switch {
	case o.output.Kind() != '[':
		return foreign("something that is no response: it has no output")
	case broken(status):
		return endedBadly("status", status)
	case status == "queued" || status == "in_progress":
		return noAnswer("a response that has not ended")
	case status == "":
		return noAnswer("a response that has no status")
	}
	return nil
}

// responseEnd says how a response ended.
func (o *outline) responseEnd() tasks.Finish {
	var s speech
	_ = eachElement(o.output, func(item jsontext.Value) error { // read once already
		var kind string
		var content jsontext.Value
		_ = eachMember(item, func(name string, v jsontext.Value, _, _ int) error { // as above
			switch name {
			case "type":
				kind = text(v)
			case "content":
				content = v
			}
			return nil
		})
		switch kind {
		case "message":
			s.parts(content)
		case "function_call", "custom_tool_call":
			s.tool = true
		}
		return nil
	})
	if text(o.status) != "incomplete" {
		return s.end("")
	}
	reason := "incomplete"
	if o.incomplete.Kind() == '{' {
		_ = eachMember(o.incomplete, func(name string, v jsontext.Value, _, _ int) error { // as above
			if name == "reason" && text(v) != "" {
				reason = text(v)
			}
			return nil
		})
	}
	return s.end(reason)
}
