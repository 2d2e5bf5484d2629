package fake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"time"
)

// batches is a client of the provider's batches.
type batches struct {
	testing.TB
	url string
	d   Dialect
}

func (c batches) call(method, path, media string, body []byte) (int, string) {
	c.Helper()
	req, err := http.NewRequestWithContext(c.Context(), method, c.url+path, bytes.NewReader(body))
	if err != nil {
		c.Fatal(err)
	}
	req.Header.Set("Content-Type", media)
	req.Header.Set("Authorization", "Bearer "+testKey)
	if c.d == Anthropic {
		req.Header.Set("Anthropic-Version", "2026-10-21")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, string(text) + "|" + err.Error()
	}
	return resp.StatusCode, string(text)
}

// create makes a batch that asks these prompts, by the names a, b, c and so on.
func (c batches) create(prompts ...string) (int, string) {
	c.Helper()
	var lines []string
	for i, p := range prompts {
		body := fmt.Sprintf(`{"model":"m","max_tokens":9,"messages":[{"role":"user","content":%q}]}`, p)
		if c.d == Anthropic {
			lines = append(lines, fmt.Sprintf(`{"custom_id":"%c","params":%s}`, 'a'+i, body))
		} else {
			lines = append(lines, fmt.Sprintf(`{"custom_id":"%c","method":"POST","url":"/v1/chat/completions","body":%s}`, 'a'+i, body))
		}
	}
	if c.d == Anthropic {
		return c.call("POST", "/v1/messages/batches", "application/json", []byte(`{"requests":[`+strings.Join(lines, ",")+"]}"))
	}
	var form bytes.Buffer
	m := multipart.NewWriter(&form)
	_ = m.WriteField("purpose", "batch") // a buffer takes all, here and below
	part, _ := m.CreateFormFile("file", "lines.jsonl")
	_, _ = part.Write([]byte(strings.Join(lines, "\n") + "\n"))
	_ = m.Close()
	status, said := c.call("POST", "/v1/files", m.FormDataContentType(), form.Bytes())
	if status != 200 {
		return status, said
	}
	return c.call("POST", "/v1/batches", "application/json", []byte(`{"input_file_id":"`+member(c, said, "id")+`","endpoint":"/v1/chat/completions","completion_window":"24h","metadata":{"whose":"ours"}}`))
}

func (c batches) path() string {
	if c.d == Anthropic {
		return "/v1/messages/batches"
	}
	return "/v1/batches"
}

// results are the lines of a batch that has ended.
func (c batches) results(id string) string {
	c.Helper()
	if c.d == Anthropic {
		_, lines := c.call("GET", c.path()+"/"+id+"/results", "", nil)
		return lines
	}
	_, done := c.call("GET", "/v1/files/file-output-"+id+"/content", "", nil)
	_, rest := c.call("GET", "/v1/files/file-error-"+id+"/content", "", nil)
	return done + rest
}

func member(t testing.TB, body, name string) string {
	t.Helper()
	var all map[string]any
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		t.Fatalf("got %s: %v", body, err)
	}
	said, _ := all[name].(string)
	return said
}

func (c batches) status(id string) string {
	c.Helper()
	_, said := c.call("GET", c.path()+"/"+id, "", nil)
	if c.d == Anthropic {
		return member(c, said, "processing_status")
	}
	return member(c, said, "status")
}

func eachDialect(t *testing.T, cfg Config, test func(t *testing.T, f *Provider, c batches, clock *handClock)) {
	for _, d := range []Dialect{Anthropic, OpenAI} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			clock := &handClock{now: testTime}
			cfg.Clock = clock
			f, url := startFake(t, cfg)
			test(t, f, batches{t, url, d}, clock)
		})
	}
}

// A batch runs for its time, is answered at no limit, and each line is charged once.
func TestABatchIsAnsweredLater(t *testing.T) {
	t.Parallel()
	eachDialect(t, Config{RequestsPerMinute: 1, BatchDelay: time.Hour, BatchHidden: time.Second}, func(t *testing.T, f *Provider, c batches, clock *handClock) {
		status, made := c.create("one", "two", "[[fault:400]] three")
		id := member(t, made, "id")
		if status != 200 || id == "" {
			t.Fatalf("got %d %s", status, made)
		}
		if status, said := c.call("GET", c.path()+"/"+id, "", nil); status != 404 {
			t.Errorf("a fresh batch: got %d %s, want 404", status, said)
		}
		_ = clock.Sleep(t.Context(), time.Second)
		if got := c.status(id); got != "in_progress" {
			t.Errorf("got status %s", got)
		}
		_ = clock.Sleep(t.Context(), 2*time.Hour)
		if got := c.status(id); got != "ended" && got != "completed" {
			t.Errorf("got status %s at the end", got)
		}
		lines := c.results(id)
		if n := strings.Count(lines, "\n"); n != 3 || !strings.Contains(lines, "You wrote: one") || !strings.Contains(lines, "invalid_request_error") {
			t.Errorf("got %d lines: %s", n, lines)
		}
		if s := f.Stats(false); s.Accepted != 2 || s.Completed != 2 || s.SentTwice != 0 || s.OutputTokens != 18 {
			t.Errorf("got %+v", s)
		}
		if _, list := c.call("GET", c.path()+"?limit=1", "", nil); !strings.Contains(list, id) || !strings.Contains(list, `"has_more":false`) {
			t.Errorf("the list has %s", list)
		}
	})
}

// A batch that is canceled, and one that is stuck when its window ends, keep what they have.
func TestABatchEndsInParts(t *testing.T) {
	t.Parallel()
	eachDialect(t, Config{BatchDelay: time.Minute, BatchStuck: 1, BatchQueue: 4}, func(t *testing.T, f *Provider, c batches, clock *handClock) {
		_, made := c.create("one", "two")
		_, other := c.create("three", "four")
		if status, said := c.create("five"); status != 429 {
			t.Errorf("a batch beyond the queue: got %d %s", status, said)
		}
		_ = clock.Sleep(t.Context(), 10*time.Minute)
		c.call("POST", c.path()+"/"+member(t, made, "id")+"/cancel", "", nil)
		if got := c.status(member(t, made, "id")); got != "ended" && got != "cancelled" {
			t.Errorf("got status %s after the cancellation", got)
		}
		if lines := c.results(member(t, made, "id")); !strings.Contains(lines, "You wrote: one") || !strings.Contains(lines, "cancel") {
			t.Errorf("got %s", lines)
		}
		_ = clock.Sleep(t.Context(), 24*time.Hour)
		if got := c.status(member(t, other, "id")); got != "ended" && got != "expired" {
			t.Errorf("got status %s after the window", got)
		}
		if lines := c.results(member(t, other, "id")); !strings.Contains(lines, "You wrote: three") || !strings.Contains(lines, "expired") {
			t.Errorf("got %s", lines)
		}
		if s := f.Stats(false); s.Accepted != 2 {
			t.Errorf("charged %d, want 2", s.Accepted)
		}
	})
}

// Each fault strikes the calls about batches that it names.
func TestBatchesHaveFaults(t *testing.T) {
	t.Parallel()
	eachDialect(t, Config{}, func(t *testing.T, f *Provider, c batches, _ *handClock) {
		strike := func(kind, what string) {
			t.Helper()
			if err := f.AddFault(Fault{Kind: kind, Model: what, Count: 1}); err != nil {
				t.Fatal(err)
			}
		}
		strike("429", "batches.create")
		if status, _ := c.create("one"); status != 429 {
			t.Errorf("got %d, want 429", status)
		}
		strike("reset", "batches.create")
		if status, said := c.create("one", "two", "three"); status != 0 {
			t.Errorf("got %d %s, want no answer", status, said)
		}
		_, list := c.call("GET", c.path(), "", nil)
		var all struct{ Data []struct{ ID string } }
		if err := json.Unmarshal([]byte(list), &all); err != nil || len(all.Data) != 1 {
			t.Fatalf("the batch whose answer was lost is not listed: %s", list)
		}
		strike("cut", "batches.results")
		if lines := c.results(all.Data[0].ID); !strings.Contains(lines, "|") {
			t.Errorf("a file that is cut came whole: %s", lines)
		}
		strike("garbage", "batches.results")
		if lines := c.results(all.Data[0].ID); !strings.Contains(lines, "somebody-elses") || !strings.Contains(lines, "<html>") {
			t.Errorf("no garbage in %s", lines)
		}
	})
}
