package anthropic

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/relay"
)

// ping is what Anthropic's own streams have while nothing comes.
const ping = "event: ping\ndata: {\"type\": \"ping\"}\n\n"

// events is the stream of a message that came whole
// (platform.claude.com/docs/en/build-with-claude/streaming).
func events(result []byte, _ bool) []byte {
	body := relay.ReadObject(result)
	blocks := relay.ReadList(body.Get("content"))
	end := relay.Object{}
	for _, name := range []string{"stop_reason", "stop_sequence", "stop_details", "container"} {
		if v := body.Get(name); v != nil {
			end = append(end, relay.Member{Name: name, Value: v})
		}
	}
	usage := body.Get("usage")
	start := body.Without("stop_details", "container")
	start.Set("content", "[]")
	start.Set("stop_reason", "null")
	start.Set("stop_sequence", "null")

	var out []byte
	event := func(kind, rest string) { out = relay.Event(out, kind, []byte(`{"type":"`+kind+`"`+rest+`}`)) }
	event("message_start", `,"message":`+string(start.JSON()))
	for i, raw := range blocks {
		block, deltas := opened(raw)
		event("content_block_start", fmt.Sprintf(`,"index":%d,"content_block":%s`, i, block))
		for _, d := range deltas {
			event("content_block_delta", fmt.Sprintf(`,"index":%d,"delta":%s`, i, d))
		}
		event("content_block_stop", fmt.Sprintf(`,"index":%d`, i))
	}
	rest := `,"delta":` + string(end.JSON())
	if usage != nil {
		rest += `,"usage":` + string(usage)
	}
	event("message_delta", rest)
	event("message_stop", "")
	return out
}

// opened returns a block of content as it is when it begins, and the deltas that make it
// what it is. One that no delta is known for comes with its beginning.
func opened(raw []byte) (start []byte, deltas [][]byte) {
	block := relay.ReadObject(raw)
	delta := func(kind, name string, value []byte) {
		var o jsonwrite.Object
		o.Str("type", kind)
		o.Name(name)
		o.B = append(o.B, value...)
		deltas = append(deltas, o.End())
	}
	grows := func(member, kind string) {
		if v := block.Get(member); len(v) > 0 && v[0] == '"' {
			if string(v) != `""` {
				delta(kind, member, v)
			}
			block.Set(member, `""`)
		}
	}
	switch kind := block.Text("type"); {
	case kind == "text":
		grows("text", "text_delta")
		if cited := relay.ReadList(block.Get("citations")); len(cited) > 0 {
			for _, c := range cited {
				delta("citations_delta", "citation", c)
			}
			block.Set("citations", "[]")
		}
	case kind == "thinking":
		grows("thinking", "thinking_delta")
		grows("signature", "signature_delta")
	case strings.HasSuffix(kind, "tool_use") && block.Get("input") != nil:
		var input bytes.Buffer
		if json.Compact(&input, block.Get("input")) == nil {
			delta("input_json_delta", "partial_json", jsonwrite.AppendString(nil, input.String()))
			block.Set("input", "{}")
		}
	default:
		return raw, nil
	}
	return block.JSON(), deltas
}
