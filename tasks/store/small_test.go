package store_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

// A prompt that stays in Redis is compressed where that gains something, alone and as a
// batch's line; a worker gets what the caller sent, also of a record that holds it as
// it was; and what counts is what was sent.
func TestPromptsAreCompressed(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 6000)
	_, _ = rand.Read(noise)
	text := func(n int) []byte {
		var b strings.Builder
		for i := 0; b.Len() < n; i++ {
			fmt.Fprintf(&b, "Line %d says what line %d says, and one thing more. ", i, i/2)
		}
		body, _ := json.Marshal(b.String())
		return body
	}
	for name, c := range map[string]struct {
		body       []byte
		plain, old bool // as it was sent; by a store that compresses nothing
	}{
		"short":       {body: []byte(`"What is a sluice?"`), plain: true},
		"1 KiB":       {body: text(1 << 10)},
		"16 KiB":      {body: text(15 << 10)},
		"random":      {body: []byte(`"` + base64.StdEncoding.EncodeToString(noise) + `"`)}, // a quarter of it is base64's
		"messages":    {body: []byte(`{"messages":[{"role":"user","content":` + string(text(3000)) + `}]}`)},
		"of a former": {body: text(4 << 10), plain: true, old: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := onFolder(t)
			h.config.Above = 16 << 10
			h.Store = store.New(h.config)
			writer := h.Store
			if c.old {
				plain := h.config
				plain.Bodies = nil
				writer = store.New(plain)
			}
			one := job("acme")
			one.Request.Body, one.Bytes = bytes.Clone(c.body), int64(len(c.body))
			_, tickets, err := writer.Create(t.Context(), tasks.Submission{Job: one, Limits: tasks.Limits{QueuedBytes: 1 << 30}})
			if err != nil || len(tickets) != 1 {
				t.Fatal(tickets, err)
			}
			kept, err := h.rdb.HGet(t.Context(), "sluice:{s}:j:"+one.ID, "b").Bytes()
			if err != nil || bytes.Equal(kept, c.body) != c.plain || !c.plain && len(kept) > len(c.body)*7/8 {
				t.Errorf("%d bytes are kept as %d, %v", len(c.body), len(kept), err)
			}
			if counts, err := h.rdb.HGet(t.Context(), "sluice:{s}:j:"+one.ID, "qb").Int(); err != nil || counts != len(c.body) {
				t.Errorf("%d bytes count as %d, %v", len(c.body), counts, err)
			}
			got, err := h.Take(t.Context(), tickets[0])
			if err != nil || !bytes.Equal(got.Request.Body, c.body) {
				t.Errorf("a worker gets %d bytes, %v", len(got.Request.Body), err)
			}
		})
	}
}

// What is no whole frame is an error, and never a prompt.
func TestACompressedPromptThatIsDamagedIsNoPrompt(t *testing.T) {
	t.Parallel()
	h := onFolder(t)
	one := job("acme")
	_, tickets, err := h.Create(t.Context(), tasks.Submission{Job: one})
	if err != nil {
		t.Fatal(err)
	}
	for _, damaged := range []string{"\x28\xb5\x2f\xfd", "\x28\xb5\x2f\xfdxxxxxxxxxxxxx"} {
		if err := h.rdb.HSet(t.Context(), "sluice:{s}:j:"+one.ID, "b", damaged).Err(); err != nil {
			t.Fatal(err)
		}
		if j, err := h.Take(t.Context(), tickets[0]); err == nil {
			t.Errorf("%q is taken as %q", damaged, j.Request.Body)
		}
	}
}

// A result that stays in Redis is compressed, a short answer to a fraction; it is read whole
// by a store that compresses none, too, which keeps it as it is.
func TestResultsAreCompressed(t *testing.T) {
	t.Parallel()
	answer := `{"model":"claude-opus-4-5","id":"msg_011F00000000000000000656","type":"message","role":"assistant","content":[{"type":"text","text":%q}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":4753,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":8,"service_tier":"standard"}}`
	completion := `{"id":"chatcmpl-9xYz","object":"chat.completion","created":1795817920,"model":"gpt-5","choices":[{"index":0,"message":{"role":"assistant","content":%q,"refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":9,"total_tokens":28},"system_fingerprint":"fp_44709d6fcb"}`
	noise := make([]byte, 6000)
	_, _ = rand.Read(noise)
	for name, c := range map[string]struct {
		result string
		most   int // bytes in the record
	}{
		"short":          {`{"text":"no"}`, 13},
		"an answer":      {fmt.Sprintf(answer, "You wrote: ku iq fe chiqydsv ta iov"), 160},
		"a completion":   {fmt.Sprintf(completion, "Hello! How can I assist you today?"), 160},
		"random":         {fmt.Sprintf(answer, base64.StdEncoding.EncodeToString(noise)), 7000},
		"a long one":     {fmt.Sprintf(answer, strings.Repeat("A long answer. ", 2000)), 31_000},
		"what looks odd": {`{"x":"` + strings.Repeat("(\u00b5/", 50) + `"}`, 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := onFolder(t)
			h.config.Above = 64 << 10
			h.Store = store.New(h.config)
			h.config.Bodies = nil
			plain := store.New(h.config)
			one := job("acme")
			_, tickets, err := h.Create(t.Context(), tasks.Submission{Job: one})
			if err != nil || len(tickets) != 1 {
				t.Fatal(tickets, err)
			}
			take(t, h.Store, tickets[0])
			start(t, h.Store, tickets[0])
			if _, err := h.End(t.Context(), tickets[0], tasks.Ending{
				Status: tasks.StatusSucceeded, Attempt: tasks.Attempt{Outcome: tasks.Succeeded}, Result: []byte(c.result),
			}); err != nil {
				t.Fatal(err)
			}
			if kept := h.rdb.HGet(t.Context(), "sluice:{s}:j:"+one.ID, "r").Val(); len(kept) > c.most {
				t.Errorf("%d bytes are kept as %d, at most %d were to be", len(c.result), len(kept), c.most)
			}
			for _, s := range []*store.Store{h.Store, plain} {
				if j, err := s.Job(t.Context(), "acme", one.ID); err != nil || string(j.Result) != c.result {
					t.Errorf("%d bytes are read as %d: %.200s, %v", len(c.result), len(j.Result), j.Result, err)
				}
			}
		})
	}
}
