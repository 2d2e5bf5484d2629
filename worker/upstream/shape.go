package upstream

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// outline is what the shape of an answer is judged by: members of a JSON
// object. Of one that is given twice the last counts, as most readers have it.
type outline struct {
	failed  bool // an error that is not null, or a type that says so
	kind    string
	choices jsontext.Value
	content jsontext.Value
	stop    jsontext.Value
	usage   jsontext.Value
	tier    jsontext.Value
	tells   bool // some member may hold a model's text

	// Of the answers of OpenAI's other endpoints.
	endpoint   tasks.Path // whose answer it is to be
	data       jsontext.Value
	output     jsontext.Value
	status     jsontext.Value
	incomplete jsontext.Value
}

// outlined reads the outline of the JSON object in body, and aliases it.
func outlined(body []byte) (o outline, err error) {
	err = eachMember(body, func(name string, v jsontext.Value, _, _ int) error {
		switch name {
		case "error":
			o.failed = o.failed || !isNull(v)
		case "type":
			o.kind = text(v)
			o.failed = o.failed || o.kind == "error"
		default:
			if part := o.part(name); part != nil {
				*part = v
			}
		}
		switch name {
		case "choices", "content", "message", "text", "response", "output", "completion", "candidates", "delta", "generated_text", "result", "answer":
			o.tells = o.tells || !isNull(v)
		}
		return nil
	})
	return o, err
}

// part is where the value of a member belongs, or nil.
func (o *outline) part(name string) *jsontext.Value {
	switch name {
	case "choices":
		return &o.choices
	case "content":
		return &o.content
	case "stop_reason":
		return &o.stop
	case "usage":
		return &o.usage
	case "service_tier":
		return &o.tier
	case "data":
		return &o.data
	case "output":
		return &o.output
	case "status":
		return &o.status
	case "incomplete_details":
		return &o.incomplete
	}
	return nil
}

// judge is the one rule of what an answer is, for an object that came whole as
// for one put together from a stream: how it ended when body has the shape of the
// dialect's answers at that endpoint, else what it is instead. A status of 200 says nothing: gateways send their
// errors with it, and a provider that fails half way has no other one left.
func judge(d Dialect, at tasks.Path, body []byte) (tasks.Finish, *providerError) {
	o, err := outlined(body)
	if err != nil {
		return "", noAnswer("something that is no JSON object")
	}
	o.endpoint = at
	if e := o.judge(d, body); e != nil {
		return "", e
	}
	return o.finish(d), nil
}

func (o *outline) judge(d Dialect, body []byte) *providerError {
	if o.failed {
		return reported(body)
	}
	var e *providerError
	switch {
	case o.endpoint == tasks.Embeddings:
		e = o.embeddings()
	case o.endpoint == tasks.Responses:
		e = o.response()
	case d == OpenAI:
		e = o.completion()
	default:
		e = o.message()
	}
	if e == nil || e.stated {
		return e
	}
	// Perhaps an error in an envelope of a gateway's own.
	if said := stated(body, e.came); said.stated {
		return said
	}
	if e.strange && !o.tells {
		e.body = body
	}
	return e
}

// foreign is an object that has no member by which the dialect's answers are known.
func foreign(came string) *providerError {
	e := noAnswer(came)
	e.strange = true
	return e
}

func noAnswer(came string) *providerError {
	return &providerError{status: http.StatusInternalServerError, came: came}
}

// completion judges an OpenAI chat completion: at least one choice, each with a
// message. Source: developers.openai.com/api/docs/api-reference/chat/object.
func (o *outline) completion() *providerError {
	if o.choices.Kind() != '[' {
		if strings.HasPrefix(o.kind, "message") || strings.HasPrefix(o.kind, "content_block") {
			return otherDialect(Anthropic)
		}
		return foreign("something that is no chat completion: it has no choices")
	}
	worst := noAnswer("something that is no chat completion: its choices are empty")
	first := true
	_ = eachElement(o.choices, func(v jsontext.Value) error { // read once already
		e := judgeChoice(v)
		if first || worst == nil || e != nil && e.stated && !worst.stated {
			worst = e
		}
		first = false
		return nil
	})
	return worst
}

// choice is what one choice is judged by.
type choice struct{ message, finish, fault jsontext.Value }

// readChoice reads a choice; one that is no object has no members.
func readChoice(v jsontext.Value) (c choice) {
	_ = eachMember(v, func(name string, v jsontext.Value, _, _ int) error { // the JSON was read once already
		switch name {
		case "message":
			c.message = v
		case "finish_reason":
			c.finish = v
		case "error":
			c.fault = v
		}
		return nil
	})
	return c
}

// judgeChoice judges one choice. Its finish_reason is a word; some servers
// (KoboldCpp, several gateways) never give one, and then a message that says
// something is whole all the same: its JSON was closed. For a stream that is no
// proof, and its assembly asks for the word itself.
func judgeChoice(v jsontext.Value) *providerError {
	if v.Kind() != '{' {
		return noAnswer("something that is no chat completion: a choice is no object")
	}
	c := readChoice(v)
	reason := text(c.finish)
	switch {
	case c.fault.Kind() == '{', text(c.fault) != "":
		return inside(c.fault, "an error inside a choice")
	case c.finish.Kind() == '{':
		return inside(c.finish, "a choice whose finish_reason is no word")
	case broken(reason):
		return endedBadly("finish_reason", reason)
	case c.message.Kind() != '{':
		return noAnswer("something that is no chat completion: a choice has no message")
	case reason != "":
		return nil
	case c.finish.Kind() != '"' && !isNull(c.finish):
		return noAnswer("a choice whose finish_reason is no word")
	case !speaks(c.message):
		return noAnswer("a choice that has neither text nor a finish_reason")
	}
	return nil
}

// speaks reports whether an assistant's message holds anything of an answer.
func speaks(message jsontext.Value) bool {
	spoke := false
	_ = eachMember(message, func(name string, v jsontext.Value, _, _ int) error { // read once already
		switch name {
		case "content", "refusal", "tool_calls", "function_call", "audio":
			spoke = spoke || filled(v)
		}
		return nil
	})
	return spoke
}

// message judges an Anthropic message. Its content may be empty, as when a
// model has nothing to add; a stop_reason is always there when it has ended.
// Source: platform.claude.com/docs/en/api/messages.
func (o *outline) message() *providerError {
	reason := text(o.stop)
	switch {
	case o.kind != "message" && o.choices.Kind() == '[':
		return otherDialect(OpenAI)
	case strings.HasPrefix(o.kind, "message_"):
		return noAnswer("a part of a message")
	case o.kind != "message":
		return foreign("something that is no message")
	case o.content.Kind() != '[':
		return noAnswer("a message that has no content")
	case broken(reason):
		return endedBadly("stop_reason", reason)
	case reason == "":
		return noAnswer("a message that has no stop_reason")
	}
	return nil
}

func otherDialect(d Dialect) *providerError {
	e := foreign(fmt.Sprintf("an answer of the dialect %s, which is not the one configured: set the provider's dialect to %s", d, d))
	e.stated = true
	return e
}

// broken reports whether the reason for which an answer ended is a failure of
// the provider. Other words, also unknown ones, are ways for an answer to end.
// Known from OpenRouter (error), Z.ai (network_error), vLLM and SGLang (abort),
// DeepSeek (insufficient_system_resource).
func broken(reason string) bool {
	switch reason = strings.ToLower(reason); reason {
	case "abort", "aborted", "canceled", "cancelled", "failed", "failure", "timeout", "insufficient_system_resource":
		return true
	}
	return strings.Contains(reason, "error")
}

func endedBadly(member, reason string) *providerError {
	e := noAnswer("")
	e.problem.message = fmt.Sprintf("the provider ended the answer with the %s %q", member, reason[:min(len(reason), 4<<10)])
	e.stated = true
	return e
}

// inside returns the error that a part of an answer holds.
func inside(part jsontext.Value, came string) *providerError {
	e := stated(part, came)
	e.stated = true
	return e
}
