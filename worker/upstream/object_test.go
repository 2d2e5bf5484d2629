package upstream

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// many are answers with n members, calls, blocks or parts, each in the way that
// it is put together.
func many(n int) map[string]row {
	list := func(open, one, last string) string {
		var b strings.Builder
		b.WriteString(open)
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, one, i)
		}
		return b.String() + last
	}
	repeat := func(head, one, tail string) string {
		var b strings.Builder
		b.WriteString(head)
		for i := range n {
			fmt.Fprintf(&b, "data: "+one+"\n\n", i)
		}
		return b.String() + tail
	}
	const (
		ends  = `data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}` + "\n\ndata: [DONE]\n\n"
		begun = `data: {"type":"message_start","message":{"type":"message","content":[]}}` + "\n\n"
		stops = `data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}` + "\n\n" + `data: {"type":"message_stop"}` + "\n\n"
	)
	rows := map[string]row{
		"a whole completion's members": {d: OpenAI, body: []byte(list(`{`, `"m%d":1`, `,"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}`))},
		"a whole message's members":    {d: Anthropic, body: []byte(list(`{`, `"m%d":1`, `,"type":"message","content":[],"stop_reason":"end_turn"}`))},
		"a chunk's members":            {d: OpenAI, body: []byte("data: " + list(`{`, `"m%d":1`, `}`) + "\n\n" + ends)},
		"members, a chunk each":        {d: OpenAI, body: []byte(repeat("", `{"m%d":1}`, ends))},
		"a delta's members":            {d: OpenAI, body: []byte("data: " + list(`{"choices":[{"index":0,"delta":{`, `"m%d":"x"`, `}}]}`) + "\n\n" + ends)},
		"a delta's members, one each":  {d: OpenAI, body: []byte(repeat("", `{"choices":[{"index":0,"delta":{"m%d":"x"}}]}`, ends))},
		"pieces of a text":             {d: OpenAI, body: []byte(repeat("", `{"choices":[{"index":0,"delta":{"content":"%d"}}]}`, ends))},
		"parts of a text":              {d: OpenAI, body: []byte(repeat("", `{"choices":[{"index":0,"delta":{"content":[{"type":"text","text":"%d"}]}}]}`, ends))},
		"pieces of a call":             {d: OpenAI, body: []byte(repeat("", `{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"arguments":"%d"}}]}}]}`, ends))},
		"message_start's members":      {d: Anthropic, body: []byte("data: " + list(`{"type":"message_start","message":{`, `"m%d":1`, `,"type":"message","content":[]}}`) + "\n\n" + stops)},
		"members of an event":          {d: Anthropic, body: []byte(begun + "data: " + list(`{"type":"message_delta",`, `"m%d":1`, `}`) + "\n\n" + stops)},
		"pieces of a block":            {d: Anthropic, body: []byte(repeat(begun, `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%d"}}`, stops))},
		"members of a usage":           {d: Anthropic, body: []byte(begun + "data: " + list(`{"type":"message_delta","usage":{`, `"m%d":1`, `}}`) + "\n\n" + stops)},
		"members of an error":          {d: Anthropic, body: []byte("data: " + list(`{"type":"error","error":{`, `"m%d":1`, `}}`) + "\n\n"), outcome: tasks.ServerError},
		"errors in a list":             {d: OpenAI, body: []byte(list(`{"errors":[`, `{"m":%d}`, `]}`)), outcome: tasks.ServerError},
	}
	return rows
}

// The work for an answer grows as its size does, whatever it has many of: one
// provider's odd answer took seconds of a worker.
func TestAnAnswerWithManyPartsCostsByItsSize(t *testing.T) {
	t.Parallel()
	took := func(r row) time.Duration {
		r.status = 200
		began := time.Now()
		a, _ := r.asked(t, r.body)
		took := time.Since(began)
		if want := cmp.Or(r.outcome, tasks.Succeeded); a.Outcome != want {
			t.Fatalf("%s: %s", a.Outcome, a.Message)
		}
		return took
	}
	few, lots := many(750), many(6000)
	for name := range few {
		a, b := took(few[name]), took(lots[name])
		// Eight times the members; a square would be 64 times. A machine that is
		// busy with something else gets more tries.
		for tries := 0; b > 20*a && b > 75*time.Millisecond; tries++ {
			if tries == 8 {
				t.Errorf("%s: 750 took %v, and 6,000 %v", name, a, b)
				break
			}
			a, b = max(a, took(few[name])), min(b, took(lots[name]))
		}
	}
}
