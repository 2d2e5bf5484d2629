package api_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/caps"
	"github.com/sluicehq/sluice/api/wire"
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

func (s *shelf) Documents(_ context.Context, f tasks.DocumentFilter) (page []tasks.Document, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := slices.Sorted(maps.Keys(s.docs))
	if !f.Oldest {
		slices.Reverse(ids)
	}
	for _, id := range ids {
		if f.After != "" && (id >= f.After) != f.Oldest || id == f.After {
			continue
		}
		if len(page) == f.Limit {
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

// teller are callers whose streams bring a piece whenever they are asked.
type teller struct {
	callers
	piece []byte
	asked atomic.Int64
}

func (c *teller) Events(_ context.Context, _ string, offset int) (tasks.Events, error) {
	c.asked.Add(1)
	return tasks.Events{Status: tasks.StatusRunning, Calls: 1, Call: 1, Raw: c.piece, More: len(c.piece) > 0}, nil
}

const streamed = `{"model":"claude-x","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"hi"}]}`

// pipes is a listener of connections in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// A caller who takes nothing more of a stream is told nothing more, so that nothing
// gathers for it, and is let go of.
func TestACallerWhoStopsReadingIsLetGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		calls := &teller{callers: callers{w}, piece: bytes.Repeat([]byte("data: x\n\n"), 1000)}
		registry := prometheus.NewPedanticRegistry()
		a, err := api.New(api.Config{
			Jobs: w, Batches: w, Notices: w, Pools: w, Quota: w, Verifier: w, NewID: w.newID, Calls: calls, PublicURL: public, Registerer: registry,
		})
		if err != nil {
			t.Fatal(err)
		}
		server, l := &http.Server{Handler: a.Handler()}, make(pipes)
		over := make(chan struct{})
		go func() { defer close(over); _ = server.Serve(l) }()
		mine, theirs := net.Pipe()
		l <- theirs
		go func() {
			_, _ = fmt.Fprintf(mine, "POST /anthropic/v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", writer, len(streamed), streamed)
		}()
		res, err := http.ReadResponse(bufio.NewReaderSize(mine, 16), nil)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%v, %v", res, err)
		}
		<-time.After(wire.StreamWrite / 2)
		synctest.Wait()
		held, n := gauge(t, registry, "sluice_http_held_requests"), calls.asked.Load()
		if held != 1 || n > 3 {
			t.Errorf("while it reads nothing: %v streams are held, and events were read %d times", held, n)
		}
		<-time.After(wire.StreamWrite)
		synctest.Wait()
		if held := gauge(t, registry, "sluice_http_held_requests"); held != 0 || calls.asked.Load() != n {
			t.Errorf("it has read nothing for long: %v streams are held, and events were read %d times", held, calls.asked.Load())
		}
		_ = mine.Close()
		close(l)
		<-over
		_ = server.Close()
	})
}

// gauge is the value of a metric.
func gauge(t *testing.T, from *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			sum += f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return sum
}

// A tenant holds as many streams as it may. One more is refused in the form's own words,
// before a job is made of it; other tenants have theirs.
func TestATenantHoldsFewStreams(t *testing.T) {
	t.Parallel()
	s := serve(t, allForms, func(c *api.Config) {
		c.Calls, c.Caps = &teller{callers: callers{c.Jobs.(*world)}}, room(t, caps.Config{TenantStreams: 2})
	})
	open := func(token string) *http.Response {
		t.Helper()
		res, err := s.client.Do(s.request(t.Context(), "POST", "/anthropic/v1/messages", token, streamed))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	first, second := open(writer), open(writer)
	if first.StatusCode != 200 || second.StatusCode != 200 {
		t.Fatalf("%s, %s", first.Status, second.Status)
	}
	r := s.call("POST", "/anthropic/v1/messages", writer, streamed).want(t, 429)
	if !bytes.Contains(r.body, []byte(`"rate_limit_error"`)) || r.Header.Get("X-Should-Retry") != "true" || r.Header.Get("Retry-After") == "" || r.Header.Get("Sluice-Job-Id") != "" {
		t.Errorf("one more: %v %s", r.Header, r.body)
	}
	s.world.mu.Lock()
	jobs := len(s.world.jobs)
	s.world.mu.Unlock()
	if jobs != 2 {
		t.Errorf("%d jobs of two streams", jobs)
	}
	if res := open(other); res.StatusCode != 200 {
		t.Errorf("another tenant: %s", res.Status)
	}
	first.Body.Close()
	until(t, "the place is free again", func() bool { return open(writer).StatusCode == 200 })
}

// What no list and no batch has is refused by name, and a model of the other form is told
// where it is.
func TestOpenAIsRoutesPassNothingOver(t *testing.T) {
	t.Parallel()
	k := (&shelf{docs: map[string]tasks.Document{}, come: func() {}}).has(2, 1)
	s := serve(t, allForms, func(c *api.Config) { c.Documents = k })
	create := func(metadata string) string {
		return `{"input_file_id":"file-x","endpoint":"/v1/embeddings","completion_window":"24h","metadata":` + metadata + `}`
	}
	for _, row := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "files", "", 200, `"has_more":false`},
		{"GET", "files?order=asc", "", 200, `"has_more":false`},
		{"GET", "files?order=asc&limit=1", "", 200, `"first_id":"file-00000000000000000000000000"`},
		{"GET", "files?order=desc&limit=1", "", 200, `"first_id":"file-00000000000000000000000001"`},
		{"GET", "files?order=up", "", 400, "order"},
		{"GET", "files?after=nosuch", "", 400, "after"},
		{"GET", "files?after=batch_00000000000000000000000001", "", 400, "after"},
		{"GET", "files?after=file-00000000000000000000000001", "", 200, "file-00000000000000000000000000"},
		{"GET", "batches?after=nosuch", "", 400, "after"},
		{"GET", "batches?after=" + strings.Repeat("x", 3000), "", 400, "after"},
		{"GET", "models/claude-x", "", 404, "/anthropic"},
		{"GET", "models/nosuch", "", 404, "model_not_found"},
		{"GET", "models/gpt-own", "", 200, `"id":"gpt-own"`},
		{"POST", "batches", create(`{"a":1}`), 400, "metadata"},
		{"POST", "batches", strings.Replace(create(`{}`), "{", `{"nosuch":1,`, 1), 400, "nosuch"},
		{"POST", "batches", strings.Replace(create(`{}`), "{", `{"output_expires_after":{"anchor":"now","seconds":3600},`, 1), 400, "output_expires_after"},
		{"POST", "batches", strings.Replace(create(`{}`), "{", `{"output_expires_after":{"anchor":"created_at","seconds":60},`, 1), 400, "output_expires_after"},
		{"POST", "batches", create(`{"":"x"}`), 400, "metadata"},
		{"POST", "batches", create(`{"` + strings.Repeat("k", 65) + `":"x"}`), 400, "metadata"},
		{"POST", "batches", create(`{"k":"` + strings.Repeat("é", 513) + `"}`), 400, "metadata"},
	} {
		res, err := s.client.Do(s.request(t.Context(), row.method, "/openai/v1/"+row.path, writer, row.body))
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != row.status || !strings.Contains(string(said), row.says) || row.status >= 400 && res.Header.Get("X-Should-Retry") != "false" {
			t.Errorf("%s %.60s %.90s: %d %s; want %d with %s", row.method, row.path, row.body, res.StatusCode, said, row.status, row.says)
		}
	}
}
