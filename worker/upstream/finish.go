package upstream

import (
	"cmp"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// finish says how the answer of that outline ended. The provider's word decides,
// and what was said corrects it: a refusal or a call of a tool may end with the
// same word as a whole text, and an end at which nothing was said is empty. Of
// several choices the first that did not end whole tells.
func (o *outline) finish(d Dialect) tasks.Finish {
	switch {
	case o.endpoint == tasks.Embeddings:
		return tasks.FinishComplete
	case o.endpoint == tasks.Responses:
		return o.responseEnd()
	case d == Anthropic:
		var s speech
		s.parts(o.content)
		return s.end(text(o.stop))
	}
	end := tasks.FinishComplete
	_ = eachElement(o.choices, func(v jsontext.Value) error { // read once already
		c := readChoice(v)
		var s speech
		s.message(c.message)
		if e := s.end(text(c.finish)); end == tasks.FinishComplete {
			end = e
		}
		return nil
	})
	return end
}

// speech is what an answer holds.
type speech struct{ text, refusal, tool bool }

func (s speech) end(word string) tasks.Finish {
	f := finishOf(word)
	switch {
	case f != tasks.FinishComplete:
		return f
	case s.refusal:
		return tasks.FinishRefused
	case s.tool:
		return tasks.FinishToolUse
	case !s.text:
		return tasks.FinishEmpty
	}
	return f
}

// Finish is how an answer ended that a dialect's provider gave before, by its body.
func Finish(d Dialect, e tasks.Path, body []byte) tasks.Finish {
	finish := tasks.Finish("")
	if o, err := outlined(body); err == nil {
		if o.endpoint = e; o.judge(d, body) == nil {
			finish = o.finish(d)
		}
	}
	return tasks.Finish(clip(string(finish), maxFinish))
}

// maxFinish caps a provider's own word, in bytes.
const maxFinish = 64

// finishOf knows the words of both dialects and those that servers of OpenAI's
// add: TGI, Mistral, Gemini, Z.ai. Any other word stands for itself. Sources:
// platform.claude.com/docs/en/build-with-claude/handling-stop-reasons,
// developers.openai.com/api/docs/api-reference/chat/object.
func finishOf(word string) tasks.Finish {
	switch strings.ToLower(word) {
	case "", "stop", "end_turn", "stop_sequence", "eos", "eos_token":
		return tasks.FinishComplete
	case "length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded":
		return tasks.FinishLength
	case "refusal":
		return tasks.FinishRefused
	case "content_filter", "safety", "sensitive":
		return tasks.FinishFiltered
	case "tool_use", "tool_calls", "function_call":
		return tasks.FinishToolUse
	}
	return tasks.Finish(word)
}

// message takes in an assistant's message of OpenAI's.
func (s *speech) message(message jsontext.Value) {
	_ = eachMember(message, func(name string, v jsontext.Value, _, _ int) error { // read once already
		switch {
		case name == "content" && v.Kind() == '[':
			s.parts(v)
		case name == "content", name == "audio":
			s.text = s.text || filled(v)
		case name == "refusal":
			s.refusal = s.refusal || filled(v)
		case name == "tool_calls", name == "function_call":
			s.tool = s.tool || filled(v)
		}
		return nil
	})
}

// parts takes in a list of content: blocks of Anthropic's, parts of OpenAI's.
// A thought is nothing said.
func (s *speech) parts(list jsontext.Value) {
	_ = eachElement(list, func(part jsontext.Value) error { // as above
		var kind, words string
		_ = eachMember(part, func(name string, v jsontext.Value, _, _ int) error { // as above
			switch name {
			case "type":
				kind = text(v)
			case "text", "refusal":
				words = cmp.Or(words, text(v))
			}
			return nil
		})
		switch kind {
		case "thinking", "redacted_thinking", "reasoning":
		case "tool_use":
			s.tool = true
		case "refusal":
			s.refusal = s.refusal || words != ""
		case "text", "output_text", "":
			s.text = s.text || words != ""
		default: // an image, a search and its like
			s.text = true
		}
		return nil
	})
}
