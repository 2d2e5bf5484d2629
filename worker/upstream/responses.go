package upstream

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// responseStream reads an OpenAI response from its events, the last of which has all of
// it. Source: developers.openai.com/api/docs/api-reference/responses-streaming.
type responseStream struct {
	onText func(string)
	onTick func(charged int64)

	body []byte // as it ended; nil: it has not
	size int
}

func (s *responseStream) event(kind string, data []byte) (done bool, err error) {
	if string(bytes.TrimSpace(data)) == "[DONE]" { // some servers close with it, as with a completion
		if s.body == nil {
			return false, errMalformed
		}
		return true, nil
	}
	var response, delta, fault jsontext.Value
	if err := eachMember(data, func(name string, v jsontext.Value, _, _ int) error {
		switch name {
		case "type":
			kind = text(v)
		case "response":
			response = v
		case "delta":
			delta = v
		case "error":
			fault = v
		}
		return nil
	}); err != nil {
		return false, errMalformed
	}
	switch {
	case kind == "error", !isNull(fault):
		return false, reported(data)
	case response.Kind() != '{':
		s.size += len(delta)
		if kind == "response.output_text.delta" || kind == "response.refusal.delta" {
			s.say(text(delta))
		}
		return false, nil
	case kind == "response.completed", kind == "response.incomplete", kind == "response.failed", kind == "response.cancelled":
		s.body = bytes.Clone(response)
		s.size = len(s.body)
		if _, e := judge(OpenAI, tasks.Responses, s.body); e != nil && e.stated {
			return false, e
		}
		return true, nil
	}
	return false, nil
}

func (s *responseStream) say(text string) {
	if s.onText != nil && text != "" {
		s.onText(text)
	}
}

func (s *responseStream) ended() bool { return s.body != nil }

func (s *responseStream) grown() int { return s.size }

func (s *responseStream) counted() (tasks.Usage, int64, bool) {
	o, err := outlined(s.body)
	if s.body == nil || err != nil {
		return tasks.Usage{}, 0, false
	}
	return otherUsage.read(o.usage)
}

func (s *responseStream) served() tasks.Served {
	o, err := outlined(s.body)
	if s.body == nil || err != nil {
		return tasks.Served{}
	}
	return servedAt(o.tier)
}

func (s *responseStream) result() ([]byte, error) {
	if s.body == nil {
		return nil, errMalformed
	}
	if _, charged, ok := s.counted(); ok && s.onTick != nil {
		s.onTick(charged)
	}
	return s.body, nil
}

func (s *responseStream) instead() *providerError { return nil }
