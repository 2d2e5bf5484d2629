package api_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/tasks"
)

// callers are the callers of a world: nobody repeats anything.
type callers struct{ *world }

func (callers) OpenCall(_ context.Context, c tasks.Call) (tasks.Joined, error) {
	return tasks.Joined{ID: c.ID}, nil
}

func (callers) HoldCall(context.Context, tasks.Call, tasks.CallerState) error { return nil }

func (callers) Events(context.Context, string, int) (tasks.Events, error) {
	return tasks.Events{}, tasks.ErrNotFound
}

// A Message Batch above a limit is refused whole, with Anthropic's own word for it.
func TestMessageBatchesHaveTheirLimits(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) {
		c.Calls, c.MaxBatchLines, c.MaxBody, c.MaxBatchBody = callers{c.Jobs.(*world)}, 2, 400, 700
	})
	one := func(id string, n int) string {
		return `{"custom_id":"` + id + `","params":{"model":"claude-x","x":"` + strings.Repeat("x", n) + `"}}`
	}
	for name, row := range map[string]struct {
		body   string
		status int
	}{
		"all fits":         {one("a", 10) + "," + one("b", 10), 200},
		"many requests":    {one("a", 1) + "," + one("b", 1) + "," + one("c", 1), 413},
		"a long request":   {one("a", 400), 413},
		"a long batch":     {one("a", 300) + "," + one("b", 300) + strings.Repeat(" ", 100), 413},
		"too many and bad": {one("a", 1) + "," + one("a", 1) + "," + one("c", 1), 400},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := s.client.Do(s.request(t.Context(), "POST", "/anthropic/v1/messages/batches", writer, `{"requests":[`+row.body+`]}`))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			said, err := io.ReadAll(res.Body)
			want := map[int]string{200: `"type":"message_batch"`, 400: "invalid_request_error", 413: "request_too_large"}[row.status]
			if err != nil || res.StatusCode != row.status || !strings.Contains(string(said), want) {
				t.Errorf("%d, %v: %s; want %d", res.StatusCode, err, said, row.status)
			}
		})
	}
}

// shelf keeps documents in memory.
type shelf struct {
	keeper
	mu   sync.Mutex
	docs map[string]tasks.Document
	come func() // is called while a content comes
}

func (s *shelf) PutDocument(_ context.Context, d tasks.Document) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.docs[d.ID] = d
	return nil
}

func (s *shelf) DropDocument(_ context.Context, d tasks.Document) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.docs, d.ID)
	return nil
}

func (s *shelf) Documents(_ context.Context, _ string, _ tasks.DocumentKind, after string, limit int) (page []tasks.Document, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := slices.Sorted(maps.Keys(s.docs))
	slices.Reverse(ids)
	for _, id := range ids {
		if after != "" && id >= after {
			continue
		}
		if len(page) == limit {
			return page, true, nil
		}
		page = append(page, s.docs[id])
	}
	return page, false, nil
}

func (s *shelf) AddContent(context.Context, string, string, []byte, tasks.Limits) error {
	s.come()
	return nil
}

func (s *shelf) has(n int, bytes int64) *shelf {
	for i := range n {
		id := fmt.Sprintf("file-%026d", i)
		s.docs[id] = tasks.Document{ID: id, Kind: tasks.FileDocument, Body: fmt.Appendf(nil, `{"bytes":%d}`, bytes)}
	}
	return s
}

// A tenant's files stay within their bounds, however many come at once.
func TestATenantHasFewFiles(t *testing.T) {
	t.Parallel()
	const body = "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\n" +
		"Content-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n{\"1234\":5}\r\n--b--\r\n"
	on := func(k *shelf) (upload func() int) {
		s := serve(t, allForms, func(c *api.Config) { c.Documents = k })
		return func() int {
			res, err := s.client.Do(s.request(t.Context(), "POST", "/openai/v1/files", writer, body, "Content-Type", "multipart/form-data; boundary=b"))
			if err != nil {
				t.Error(err)
				return 0
			}
			defer res.Body.Close()
			if res.StatusCode == 429 && (res.Header.Get("X-Should-Retry") == "" || res.Header.Get("Retry-After") != "") {
				t.Errorf("too many files: %v", res.Header)
			}
			return res.StatusCode
		}
	}
	const once = 3
	var arrived sync.WaitGroup
	arrived.Add(once)
	k := (&shelf{docs: map[string]tasks.Document{}, come: func() { arrived.Done(); arrived.Wait() }}).has(999, 1)
	upload := on(k)
	var all sync.WaitGroup
	for range once { // each is let in before any has ended
		all.Go(func() { upload() })
	}
	all.Wait()
	if n := len(k.docs); n > 1000 {
		t.Errorf("%d files", n)
	}
	for left, want := range map[int64]int{9: 429, 10: 200} {
		k := (&shelf{docs: map[string]tasks.Document{}, come: func() {}}).has(1, 1<<30-left)
		if got := on(k)(); got != want || len(k.docs) != map[int]int{429: 1, 200: 2}[want] {
			t.Errorf("10 bytes where %d are left: %d, and %d files, want %d", left, got, len(k.docs), want)
		}
	}
}
