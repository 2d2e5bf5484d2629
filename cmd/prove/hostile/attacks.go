package hostile

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// attack is one thing that a hostile tenant does.
type attack struct {
	name    string
	prepare func(f *foe, ctx context.Context) error // before anybody watches
	strike  func(f *foe, ctx context.Context)       // until ctx ends, whatever the answers
	clear   func(f *foe, ctx context.Context) error // of what would go on into the next round
	lie     string                                  // where large bodies do: "redis:" in pieces, "file:" in a folder, "" in the record
}

func nothing(*foe, context.Context) error { return nil }

var attacks = []attack{
	{"list", (*foe).fill, (*foe).list, nothing, ""},
	{"bodies", nothing, (*foe).bodies, nothing, ""},
	{"folder", nothing, (*foe).bodies, nothing, "file:"},
	{"pieces", nothing, (*foe).bodies, nothing, "redis:"},
	{"drip", nothing, (*foe).drip, nothing, ""},
	{"retry", (*foe).fail, (*foe).retry, nothing, ""},
	{"lines", nothing, (*foe).batches, (*foe).drained, ""},
	{"hooks", (*foe).hang, (*foe).hooks, (*foe).drained, ""},
	{"tokens", nothing, (*foe).guess, nothing, ""},
}

// foe is the tenant that attacks.
type foe struct {
	stage    *rig.Stage
	token    string
	failed   string             // a job that the provider refused
	hanging  []*httptest.Server // receivers that never answer
	released chan struct{}

	mu      sync.Mutex
	answers map[int]int // by status; 0: none came
}

func newFoe(s *rig.Stage) (*foe, error) {
	token, err := rig.TokenOf("foe")
	return &foe{stage: s, token: token, released: make(chan struct{}), answers: map[int]int{}}, err
}

func (f *foe) close() {
	close(f.released)
	for _, s := range f.hanging {
		s.Close()
	}
}

// summary is what the attacker was answered: how often each status.
func (f *foe) summary() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var parts []string
	for _, status := range slices.Sorted(maps.Keys(f.answers)) {
		name := strconv.Itoa(status)
		if status == 0 {
			name = "cut off"
		}
		parts = append(parts, fmt.Sprintf("%d %s", f.answers[status], name))
	}
	return strings.Join(parts, ", ")
}

// request makes a request of the attacking tenant.
func (f *foe) request(method, path, media string, body []byte, headers ...string) []byte {
	headers = append(headers, "Authorization: Bearer "+f.token)
	if body != nil {
		headers = append(headers, "Content-Type: "+media)
	}
	return rig.Request(method, f.stage.Addrs[0], path, body, headers...)
}

// send sends one request on a connection of its own.
func (f *foe) send(ctx context.Context, request []byte) (a rig.Answer, err error) {
	c, err := rig.Dial(ctx, f.stage.Addrs[0])
	if err == nil {
		a, err = c.Do(ctx, request)
		c.Close()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[a.Status]++
	return a, err
}

// accepted sends a request that has to be accepted.
func (f *foe) accepted(ctx context.Context, request []byte) error {
	c, err := rig.Dial(ctx, f.stage.Addrs[0])
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Expect(ctx, http.StatusAccepted, request)
}

// again sends a request until ctx ends: n at a time, and each of the n no more often
// than every so often.
func (f *foe) again(ctx context.Context, n int, every time.Duration, request []byte) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for at := time.Now().Add(every * time.Duration(i) / time.Duration(n)); rig.Wait(ctx, time.Until(at)) == nil; at = at.Add(every) {
				_, _ = f.send(ctx, request)
				if now := time.Now(); at.Before(now.Add(-every)) {
					at = now.Add(-every) // what was missed is not caught up with
				}
			}
		})
	}
	all.Wait()
}

// large is a submit of a prompt of so many MiB, sent as a few kB, that is not to run.
func (f *foe) large(mib int) []byte {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	fmt.Fprintf(w, `{"model":%q,"not_before":%q,"prompt":"`, rig.Model, time.Now().Add(24*time.Hour).UTC().Format(time.RFC3339))
	for range mib {
		_, _ = io.WriteString(w, strings.Repeat("A", 1<<20)) // into memory
	}
	_, _ = io.WriteString(w, `"}`)
	_ = w.Close()
	return f.request(http.MethodPost, "/v1/jobs", "application/json", packed.Bytes(), "Content-Encoding: gzip")
}

// fill stores large jobs.
func (f *foe) fill(ctx context.Context) error {
	request := f.large(20)
	for range 10 {
		if err := f.accepted(ctx, request); err != nil {
			return err
		}
	}
	return nil
}

func (f *foe) list(ctx context.Context) {
	f.again(ctx, 4, 40*time.Millisecond, f.request(http.MethodGet, "/v1/jobs?limit=1", "", nil))
}

func (f *foe) bodies(ctx context.Context) { f.again(ctx, 8, time.Second, f.large(20)) }

// drip opens batches of 5 MiB that never end.
func (f *foe) drip(ctx context.Context) {
	line := fmt.Sprintf(`{"model":%q,"prompt":"%s"}`+"\n", rig.Model, strings.Repeat("A", 1<<20))
	head := fmt.Sprintf("POST /v1/batches HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\nContent-Type: application/x-ndjson\r\nAuthorization: Bearer %s\r\n\r\n",
		f.stage.Addrs[0], f.token)
	var all sync.WaitGroup
	for range 36 {
		if rig.Wait(ctx, 50*time.Millisecond) != nil {
			break
		}
		all.Go(func() {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", f.stage.Addrs[0])
			if err != nil {
				return
			}
			defer c.Close()
			_, err = io.WriteString(c, head)
			for range 5 {
				if err == nil {
					_, err = fmt.Fprintf(c, "%x\r\n%s\r\n", len(line), line)
				}
			}
			for err == nil {
				if err = rig.Wait(ctx, 100*time.Millisecond); err == nil {
					_, err = io.WriteString(c, "1\r\n \r\n")
				}
			}
		})
	}
	all.Wait()
}

// fail has a job refused by the provider.
func (f *foe) fail(ctx context.Context) error {
	body := fmt.Appendf(nil, `{"model":%q,"messages":[{"role":"nobody","content":"x"}],"max_tokens":10}`, rig.Model)
	a, err := f.send(ctx, f.request(http.MethodPost, "/v1/jobs", "application/json", body))
	if err != nil {
		return err
	}
	_, id, ok := strings.Cut(a.Header.Get("Location"), "/v1/jobs/")
	if !ok {
		return fmt.Errorf("submit what is refused: status %d, %.300s", a.Status, a.Body)
	}
	f.failed = id
	_, err = f.send(ctx, f.request(http.MethodGet, "/v1/jobs/"+id+"?wait=10", "", nil))
	return err
}

func (f *foe) retry(ctx context.Context) {
	f.again(ctx, 8, 40*time.Millisecond, f.request(http.MethodPost, "/v1/jobs/"+f.failed+"/retry", "application/json", []byte("")))
}

// guess sends tokens that this installation has not signed.
func (f *foe) guess(ctx context.Context) {
	parts := strings.Split(f.token, ".")
	parts[2] = strings.Repeat("A", len(parts[2]))
	bad := rig.Request(http.MethodGet, f.stage.Addrs[0], "/v1/jobs", nil, "Authorization: Bearer "+strings.Join(parts, "."))
	f.again(ctx, 8, 40*time.Millisecond, bad)
}

// lines is a batch of n jobs, which are told of at the receivers that hang, if there are any.
func (f *foe) lines(n int) []byte {
	var b []byte
	for i := range n {
		b = fmt.Appendf(b, `{"model":%q,"prompt":"line %d","max_tokens":16`, rig.Model, i)
		if len(f.hanging) > 0 {
			b = fmt.Appendf(b, `,"webhook_url":%q`, f.hanging[i%len(f.hanging)].URL)
		}
		b = append(b, "}\n"...)
	}
	return f.request(http.MethodPost, "/v1/batches", "application/x-ndjson", b)
}

func (f *foe) batches(ctx context.Context) {
	request := f.lines(3000)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() { _, _ = f.send(ctx, request) })
		if rig.Wait(ctx, 200*time.Millisecond) != nil {
			break
		}
	}
	all.Wait()
	<-ctx.Done()
}

// hang starts 200 receivers that never answer.
func (f *foe) hang(context.Context) error {
	for range 200 {
		f.hanging = append(f.hanging, httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-f.released:
			}
		})))
	}
	return nil
}

func (f *foe) hooks(ctx context.Context) {
	_, _ = f.send(ctx, f.lines(2000))
	<-ctx.Done()
}

// drained takes back what the tenant has queued, so that a round is like the one before.
func (f *foe) drained(ctx context.Context) error {
	a, err := f.send(ctx, f.request(http.MethodGet, "/v1/batches?limit=100&status=in_progress", "", nil))
	if err != nil {
		return err
	}
	for _, part := range strings.Split(string(a.Body), `"id":"batch_`)[1:] {
		id, _, _ := strings.Cut(part, `"`)
		if _, err := f.send(ctx, f.request(http.MethodPost, "/v1/batches/batch_"+id+"/cancel", "", nil)); err != nil {
			return err
		}
	}
	return rig.Until(ctx, time.Minute, "nothing of the attack is under way", func(ctx context.Context) (bool, error) {
		n, err := f.stage.RDB.ZCard(ctx, "sluice:{s}:unfold").Result()
		return n == 0, err
	})
}
