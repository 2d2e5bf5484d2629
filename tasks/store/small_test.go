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
