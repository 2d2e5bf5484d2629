package fake

import (
	"bytes"
	"net/http"
	"regexp"
	"strings"
)

// calling is a kind that has the answer call tools after its text, in a form that
// providers and the gateways before them were seen to give.
type calling struct {
	kind, says string
	// chunks are the deltas of OpenAI's stream, whole the members that the message
	// has when it is not streamed.
	chunks []string
	whole  string
	// events are those of Anthropic's stream, blocks what its content has more when
	// it is not streamed.
	events []string
	blocks string
}

// The two calls that most kinds make, as parts of the answers in both dialects.
const (
	osloCall = `{"id":"call_a","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Oslo\"}"}}`
	romeCall = `{"id":"call_b","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Rome\"}"}}`
	bothCall = `"tool_calls":[` + osloCall + `,` + romeCall + `]`

	osloUse  = `{"type":"tool_use","id":"call_a","name":"weather","input":{"city":"Oslo"}}`
	romeUse  = `{"type":"tool_use","id":"call_b","name":"weather","input":{"city":"Rome"}}`
	bothUses = osloUse + `,` + romeUse

	osloStart = `{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"call_a","name":"weather","input":{}}}`
	romeStart = `{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"call_b","name":"weather","input":{}}}`
	osloHead  = `{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"city\":\""}}`
	romeHead  = `{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"city\":\""}}`
	osloTail  = `{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"Oslo\"}"}}`
	romeTail  = `{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"Rome\"}"}}`
	osloStop  = `{"type":"content_block_stop","index":1}`
	romeStop  = `{"type":"content_block_stop","index":2}`
)

// part is a delta with one piece of a call: members is what stands before its function.
func part(members, function string) string {
	if members != "" {
		members += ","
	}
	return `{"tool_calls":[{` + members + `"function":{` + function + `}}]}`
}

// callings is the table of the kinds that call tools.
func callings() []calling {
	const (
		name       = `"name":"weather","arguments":""`
		head       = `"arguments":"{\"city\":\""`
		oslo, rome = `"arguments":"Oslo\"}"`, `"arguments":"Rome\"}"`
		a, b       = `"id":"call_a","type":"function"`, `"id":"call_b","type":"function"`
		i0, i1     = `"index":0`, `"index":1`
		wholeOslo  = `"name":"weather","arguments":"{\"city\":\"Oslo\"}"`
		wholeRome  = `"name":"weather","arguments":"{\"city\":\"Rome\"}"`
	)
	turns := []string{osloStart, osloHead, osloTail, osloStop, romeStart, romeHead, romeTail, romeStop}
	both := func(kind, says string, chunks ...string) calling {
		return calling{kind, says, chunks, bothCall, turns, bothUses}
	}
	interleaved := both("tools_interleaved", "two calls of tools whose pieces come by turns",
		part(i0+","+a, name), part(i1+","+b, name), part(i0, head), part(i1, head), part(i1, rome), part(i0, oslo))
	interleaved.events = []string{osloStart, romeStart, osloHead, romeHead, romeTail, osloTail, osloStop, romeStop}
	unordered := both("tools_unordered", "two calls of tools, the second first",
		part(i1+","+b, name), part(i1, head), part(i1, rome), part(i0+","+a, name), part(i0, head), part(i0, oslo))
	unordered.events = []string{romeStart, romeHead, romeTail, romeStop, osloStart, osloHead, osloTail, osloStop}
	return []calling{
		both("tools", "two calls of tools, in pieces", part(i0+","+a, name), part(i0, head), part(i0, oslo), part(i1+","+b, name), part(i1, head), part(i1, rome)),
		interleaved,
		unordered,
		both("tools_no_index", "two calls of tools without an index", part(a, name), part("", head), part("", oslo), part(b, name), part("", head), part("", rome)),
		both("tools_one_index", "two calls of tools under the same index", part(i0+","+a, wholeOslo), part(i0+","+b, wholeRome)),
		both("tools_id_again", "two calls of tools with the id in each piece",
			part(i0+","+a, name), part(i0+","+a, head), part(i0+","+a, oslo), part(i1+","+b, name), part(i1+","+b, head), part(i1+","+b, rome)),
		both("tools_whole", "two calls of tools whole in one piece, without an index",
			`{"tool_calls":[{`+a+`,"function":{`+wholeOslo+`}},{`+b+`,"function":{`+wholeRome+`}}]}`),
		{
			"tools_no_id", "two calls of tools without an id (OpenAI)",
			[]string{part(i0, name), part(i0, head), part(i0, oslo), part(i1, name), part(i1, head), part(i1, rome)},
			strings.NewReplacer(`"id":"call_a",`, "", `"id":"call_b",`, "").Replace(bothCall), turns, bothUses,
		},
		{
			"tools_empty", "a call of a tool without arguments",
			[]string{part(i0+","+a, name)},
			`"tool_calls":[{` + a + `,"function":{` + name + `}}]`,
			[]string{osloStart, osloStop}, `{"type":"tool_use","id":"call_a","name":"weather","input":{}}`,
		},
		{
			"function_call", "a call in the form before tools, function_call (OpenAI)",
			[]string{`{"function_call":{` + name + `}}`, `{"function_call":{` + head + `}}`, `{"function_call":{` + oslo + `}}`},
			`"function_call":{` + wholeOslo + `}`, turns, bothUses,
		},
	}
}

var (
	endOfChunks = regexp.MustCompile(`data: [^\n]*"finish_reason":"`)
	endOfBlocks = []byte("event: message_delta\n")
	endOfText   = regexp.MustCompile(`"content":"(?:[^"\\]|\\.)*"`)
	endOfParts  = []byte(`}],"stop_reason":`)
)

// turn adds the calls behind the text of a whole answer.
func (c *calling) turn(x *exchange, h http.Header, body []byte) []byte {
	ended := "tool_calls"
	if c.kind == "function_call" {
		ended = "function_call"
	}
	streamed := strings.HasPrefix(h.Get("Content-Type"), "text/event-stream")
	switch p := x.f.cfg.prepare(&x.ask); {
	case x.call.Dialect == OpenAI && streamed:
		say := &openAISpeaker{c: &x.call, q: &x.ask, p: &p, at: x.f.cfg.Clock.Now().Unix()}
		var chunks []byte
		for _, delta := range c.chunks {
			chunks = say.chunk(chunks, delta, "null")
		}
		if at := endOfChunks.FindIndex(body); at != nil {
			body = spliced(body, at[0], chunks)
		}
	case x.call.Dialect == OpenAI:
		if at := endOfText.FindIndex(body); at != nil {
			body = spliced(body, at[1], []byte(","+c.whole))
		}
	case streamed:
		var events []byte
		for _, e := range c.events {
			kind, _, _ := strings.Cut(strings.TrimPrefix(e, `{"type":"`), `"`)
			events = append(events, "event: "+kind+"\ndata: "+e+"\n\n"...)
		}
		body = spliced(body, bytes.Index(body, endOfBlocks), events)
	default:
		body = spliced(body, bytes.Index(body, endOfParts)+1, []byte(","+c.blocks))
	}
	return reason(ended, "tool_use")(x, h, body)
}

func spliced(body []byte, at int, more []byte) []byte {
	return append(append(append(make([]byte, 0, len(body)+len(more)), body[:at]...), more...), body[at:]...)
}
