package store_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redisd"
	"github.com/sluicehq/sluice/tasks/redistest"
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
	for _, damaged := range []string{"\x28\xb5\x2f\xfd", "\x28\xb5\x2f\xfdxxxxxxxxxxxxx", "\xfe\x01", "\xfe\x01\x05xxxxxx", "\xfe\x01\xff\xff\xff\xff\x0fxxxx"} {
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

// usual is how a call ends whose answer is whole.
func usual() tasks.Ending {
	u := tasks.Usage{InputTokens: 4638, OutputTokens: 10}
	return tasks.Ending{
		Status: tasks.StatusSucceeded, Result: []byte(`{"text":"no"}`), Provider: "provider", Finish: tasks.FinishComplete, Usage: &u,
		Attempt: tasks.Attempt{Outcome: tasks.Succeeded, Status: 200, RequestID: "req_011F00000000000000001051", Account: "provider", Usage: &u},
	}
}

// What many ends have in common stands in few bytes where bodies lie elsewhere, and is read
// as it was, also by a store that writes it in full.
func TestAnEndIsBriefAndReadInFull(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*tasks.Ending)
		brief  bool // as far as may be
	}{
		"usual":            {func(*tasks.Ending) {}, true},
		"no request id":    {func(e *tasks.Ending) { e.Attempt.RequestID = "" }, true},
		"cost":             {func(e *tasks.Ending) { e.Attempt.Cost = &tasks.Cost{Amount: 7, Maybe: 1} }, true},
		"from a cache":     {func(e *tasks.Ending) { e.Usage.CacheReadInputTokens = 3 }, true},
		"to a cache":       {func(e *tasks.Ending) { e.Usage.CacheCreationInputTokens = 3 }, true},
		"no tokens":        {func(e *tasks.Ending) { *e.Usage = tasks.Usage{} }, true},
		"cut off":          {func(e *tasks.Ending) { e.Finish = tasks.FinishLength }, false},
		"no usage":         {func(e *tasks.Ending) { e.Usage, e.Attempt.Usage = nil, nil }, false},
		"other usage":      {func(e *tasks.Ending) { e.Attempt.Usage = &tasks.Usage{InputTokens: 1} }, false},
		"another account":  {func(e *tasks.Ending) { e.Attempt.Account = "b" }, false},
		"another model":    {func(e *tasks.Ending) { e.Attempt.Model = "b" }, false},
		"another status":   {func(e *tasks.Ending) { e.Attempt.Status = 201 }, false},
		"an answer shared": {func(e *tasks.Ending) { e.Attempt.Outcome = tasks.Shared }, false},
		"maybe billed":     {func(e *tasks.Ending) { e.Attempt.MaybeBilled = true }, false},
		"failed": {func(e *tasks.Ending) {
			e.Status, e.Error = tasks.StatusFailed, &tasks.JobError{Code: tasks.AttemptsExhausted}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := onFolder(t)
			h.config.Bodies = nil
			plain := store.New(h.config)
			e := usual()
			c.change(&e)
			var jobs []tasks.Job
			for _, writer := range []*store.Store{h.Store, plain} {
				one := job("acme")
				_, next := create(t, writer, one)
				take(t, writer, next[0])
				start(t, writer, next[0])
				if _, err := writer.End(t.Context(), next[0], e); err != nil {
					t.Fatal(err)
				}
				kept := h.rdb.HMGet(t.Context(), "sluice:{s}:j:"+one.ID, "log", "e").Val()
				if brief := !strings.Contains(kept[0].(string), "outcome"); brief != (c.brief && writer == h.Store) {
					t.Errorf("it is kept as %s", kept)
				}
				for _, reader := range []*store.Store{h.Store, plain} {
					j, err := reader.Job(t.Context(), "acme", one.ID)
					if err != nil {
						t.Fatal(err)
					}
					if call := &j.Log[0]; !call.EndedAt.Equal(j.FinishedAt) || call.StartedAt.After(call.EndedAt) {
						t.Errorf("a call from %v to %v of a job that ended %v", call.StartedAt, call.EndedAt, j.FinishedAt)
					}
					j.ID, j.CreatedAt, j.StartedAt, j.FinishedAt, j.ExpiresAt, j.Log[0].StartedAt, j.Log[0].EndedAt = "", time.Time{}, time.Time{}, time.Time{}, time.Time{}, time.Time{}, time.Time{}
					jobs = append(jobs, j)
				}
			}
			for _, j := range jobs[1:] {
				if !reflect.DeepEqual(j, jobs[0]) {
					t.Errorf("one reads\n%+v\nanother\n%+v", jobs[0], j)
				}
			}
		})
	}
}

// Of a job of 20 KiB whose prompt lay in a folder and whose answer is short Redis has at
// most 1 KiB, with its part of every index.
func TestADoneJobTakesLittleOfRedis(t *testing.T) {
	t.Parallel()
	h := &shelf{T: t, rdb: redistest.Start(t, redistest.Options{Args: []string{"--hash-max-ziplist-value", strconv.Itoa(redisd.PackedValue), "--zset-max-ziplist-entries", "0"}}).Client()} // as of many jobs
	h.open("file://" + t.TempDir())
	result := `{"model":"claude-bench","id":"msg_011F000000000000000%05d","type":"message","role":"assistant","content":[{"type":"text","text":"You wrote: sctpubzv eyedosqmi jfnaxxc zikx ewnq zjisaz pwmar odkuim"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":4638,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":10,"service_tier":"standard"}}`
	body := []byte(`"` + strings.Repeat("x", 20<<10) + `"`)
	const jobs = 32
	batch, _, err := h.OpenBatch(t.Context(), store.NewID("batch"), "proof", "")
	must(t, err)
	lines := make([]tasks.Job, jobs)
	for i := range lines {
		lines[i] = job("proof")
		j := &lines[i]
		j.Batch, j.Line, j.CustomID, j.Model, j.Metadata = batch.ID, i+1000, strconv.Itoa(i+1000), "claude-bench", nil
		j.Request.Body, j.Bytes, j.Request.InputTokens = bytes.Clone(body), int64(len(body)), 5003
	}
	must(t, h.StageBatch(t.Context(), batch.ID, lines, tasks.Limits{}))
	_, err = h.CommitBatch(t.Context(), batch.ID, tasks.BatchCommit{Lines: jobs})
	must(t, err)
	_, next, err := h.Unfold(t.Context(), batch.ID)
	must(t, err)
	for i := 0; i < jobs; i++ {
		k := next[i]
		take(t, h.Store, k)
		_, more, err := h.Start(t.Context(), k)
		must(t, err)
		next = append(next, more...)
		e := usual()
		e.Result = fmt.Appendf(nil, result, i)
		more, err = h.End(t.Context(), k, e)
		must(t, err)
		next = append(next, more...)
	}
	keys := []string{"sluice:{s}:tn:proof", "sluice:{s}:gone", "sluice:{s}:gl:" + batch.ID}
	for i := range lines {
		keys = append(keys, "sluice:{s}:j:"+lines[i].ID)
	}
	sum := int64(0)
	for _, key := range keys {
		sum += h.rdb.MemoryUsage(t.Context(), key, 0).Val()
	}
	const tables = 24 + 2*16 // of a key that ends some time, beside what Redis says: its entry there, and its part of two tables
	if each := sum/jobs + tables; each > 1<<10 {
		t.Errorf("a job takes %d bytes: %v", each, h.rdb.HGetAll(t.Context(), "sluice:{s}:j:"+lines[0].ID).Val())
	} else {
		t.Logf("a job takes %d bytes", each)
	}
}
