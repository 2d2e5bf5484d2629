package worker_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker"
	"github.com/sluicehq/sluice/worker/upstream"
)

// bounded sees how many large answers are recorded at once.
type bounded struct {
	worker.Record
	now, most atomic.Int64
}

func (b *bounded) End(ctx context.Context, t tasks.Ticket, e tasks.Ending) ([]tasks.Ticket, error) {
	if len(e.Result) > upstream.SmallBytes {
		n := b.now.Add(1)
		defer b.now.Add(-1)
		for m := b.most.Load(); n > m && !b.most.CompareAndSwap(m, n); m = b.most.Load() {
		}
	}
	return b.Record.End(ctx, t, e)
}

// However many large answers come at once, in whatever form, few are in hand, and all
// come to their end; small ones pass them.
func TestLargeAnswersAreFewAtOnce(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("a", upstream.SmallBytes+1000)
	var n atomic.Int64
	p := newProvider(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%2 == 0 {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"type":"message","role":"assistant","content":[{"type":"text","text":%q}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}`, text)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n"+
			"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n")
		for i := 0; i < len(text); i += 32 << 10 {
			fmt.Fprintf(w, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":%q}}\n\n", text[i:min(len(text), i+32<<10)])
		}
		_, _ = io.WriteString(w, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"+
			"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":1}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
	})
	var seen bounded
	s := start(t, p, options{large: 1, record: func(r worker.Record) worker.Record {
		seen.Record = r
		return &seen
	}})
	var ids []string
	for range 6 {
		ids = append(ids, s.submit())
	}
	for _, id := range ids {
		if j := s.final(id); j.Status != tasks.StatusSucceeded || len(j.Result) <= upstream.SmallBytes || len(j.Log) != 1 {
			t.Errorf("job %s: %s, %d bytes, %+v", id, j.Status, len(j.Result), j.Error)
		}
	}
	if m := seen.most.Load(); m != 1 {
		t.Errorf("%d large answers were in hand at once; want 1", m)
	}
}
