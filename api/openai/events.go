package openai

import (
	"encoding/json"
	"strconv"

	"github.com/sluicehq/sluice/api/relay"
)

// ping is a comment: no event of OpenAI's says that nothing comes.
const ping = ": waiting\n\n"

// events is the stream of a completion that came whole
// (developers.openai.com/api/docs/api-reference/chat-streaming): a chunk with each
// choice's message, one with its end, the count of tokens where it was asked for.
func events(result []byte, usage bool) []byte {
	body := relay.ReadObject(result)
	choices, count := relay.ReadList(body.Get("choices")), body.Get("usage")
	head := body.Without("choices", "usage")
	head.Set("object", `"chat.completion.chunk"`)
	var out []byte
	chunk := func(choice relay.Object, more ...relay.Member) {
		list := []byte("[]")
		if choice != nil {
			list = append(append([]byte{'['}, choice.JSON()...), ']')
		}
		o := append(head[:len(head):len(head)], relay.Member{Name: "choices", Value: list})
		out = relay.Event(out, "", append(o, more...).JSON())
	}
	for i, raw := range choices {
		choice := relay.ReadObject(raw)
		index, finish := choice.Get("index"), choice.Get("finish_reason")
		if index == nil {
			index = json.RawMessage(strconv.Itoa(i))
		}
		begun := relay.Object{{Name: "index", Value: index}, {Name: "delta", Value: delta(choice.Get("message"))}}
		begun = append(begun, choice.Without("index", "message", "finish_reason")...)
		chunk(append(begun, relay.Member{Name: "finish_reason", Value: json.RawMessage("null")}))
		if finish == nil {
			finish = json.RawMessage(`"stop"`)
		}
		chunk(relay.Object{{Name: "index", Value: index}, {Name: "delta", Value: json.RawMessage("{}")}, {Name: "finish_reason", Value: finish}})
	}
	if usage && count != nil {
		chunk(nil, relay.Member{Name: "usage", Value: count})
	}
	return append(out, "data: [DONE]\n\n"...)
}

// delta is a message as a chunk has it: its calls of tools are numbered.
func delta(message []byte) []byte {
	o := relay.ReadObject(message)
	calls := relay.ReadList(o.Get("tool_calls"))
	if len(calls) == 0 {
		return o.JSON()
	}
	list := []byte{'['}
	for i, raw := range calls {
		if i > 0 {
			list = append(list, ',')
		}
		call := append(relay.Object{{Name: "index", Value: json.RawMessage(strconv.Itoa(i))}}, relay.ReadObject(raw).Without("index")...)
		list = append(list, call.JSON()...)
	}
	o.Set("tool_calls", string(append(list, ']')))
	return o.JSON()
}
