// Package edge proves what callers see who reach Sluice through a proxy: nginx and
// HAProxy with their packages' settings and the examples in deploy, as they are but
// for the ports.
//
// It never judges how a job ends, and asks nothing of a proxy that the examples do not.
package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Command proves that nothing is lost between callers and APIs.
type Command struct {
	Posts    int           `default:"5000" help:"Submits at least, while the APIs are restarted."`
	Restarts int           `default:"20" help:"Restarts of an API, one after the other."`
	Drain    time.Duration `default:"3s" help:"drain_delay of the APIs."`
	Examples string        `default:"deploy" type:"existingdir" help:"The folder of nginx.conf and haproxy.cfg."`
	Timeout  time.Duration `default:"4m" help:"The proof fails when it takes longer."`
}

const (
	callers = 6                      // of each proxy
	pause   = 120 * time.Millisecond // of a caller between two submits
	maxWait = 5                      // s, of the APIs; HAProxy's package gives up after its 50 s, nginx after 60 s
	held    = "what the provider never answers"
)

// Run proves. It is an error that a guarantee was broken.
func (c *Command) Run(ctx context.Context, lab *rig.Lab) error {
	programs, err := find("nginx", "haproxy")
	if err != nil {
		if os.Getenv("CI") != "" {
			return err
		}
		fmt.Println("SKIPPED, nothing is proved:", err)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	s, err := lab.Stage(ctx, rig.Config{
		Name: "proxies", APIs: 2, Workers: 1, Fake: fake.Config{MeanLatency: 50 * time.Millisecond, MeanOutputTokens: 8}, Pool: "limits: {requests_per_minute: 600000, input_tokens_per_minute: 6000000000, output_tokens_per_minute: 60000000, request_burst: 100, concurrency: 64}",
		API: []string{"SLUICE_DRAIN_DELAY=" + c.Drain.String(), fmt.Sprintf("SLUICE_MAX_WAIT=%ds", maxWait), `SLUICE_TRUSTED_PROXIES=["127.0.0.0/8"]`},
	})
	if err != nil {
		return err
	}
	s.Provider.Meet = func(_ string, body []byte) bool { return strings.Contains(string(body), held) }
	p, err := start(ctx, programs, c.Examples, s)
	if err == nil {
		err = c.prove(ctx, s, p)
	}
	return errors.Join(err, p.close(), s.Close())
}

func (c *Command) prove(ctx context.Context, s *rig.Stage, p *proxies) error {
	err := c.restarts(ctx, s, p)
	for _, proof := range []func(context.Context, *rig.Stage, *proxies) error{waits, events, bodies} {
		err = errors.Join(err, proof(ctx, s, p))
	}
	return err
}

// tally is what callers were told.
type tally struct {
	mu      sync.Mutex
	posts   int
	told    map[string]bool // ids
	proxied int             // answered by the proxy itself
	broken  []string        // what else went wrong
}

func (t *tally) note(way string, a answer, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.posts++
	switch {
	case err != nil:
		t.broken = append(t.broken, way+": "+err.Error())
	case a.status == http.StatusAccepted && a.id != "":
		t.told[a.id] = true
	case !a.own:
		t.proxied++
		t.broken = append(t.broken, fmt.Sprintf("%s: the proxy itself answers %d", way, a.status))
	default:
		t.broken = append(t.broken, fmt.Sprintf("%s: %d %.200s", way, a.status, a.body))
	}
}

func (t *tally) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.posts
}

// restarts proves that restarts cost no caller an answer.
func (c *Command) restarts(ctx context.Context, s *rig.Stage, p *proxies) error {
	t := &tally{told: map[string]bool{}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	var g errgroup.Group
	for way, addr := range p.front {
		for i := range callers {
			g.Go(func() error { return submits(ctx, stop, t, way, addr, s.Token, i%2 == 0) })
		}
	}
	began := time.Now()
	var err error
	for i := 0; i < c.Restarts && err == nil; i++ {
		api := s.APIs[i%len(s.APIs)]
		if err = errors.Join(api.Stop(), api.Start()); err == nil {
			err = api.AwaitReady(ctx)
		}
	}
	if err == nil {
		err = rig.Until(ctx, c.Timeout, fmt.Sprintf("%d were submitted", c.Posts), func(context.Context) (bool, error) { return t.count() >= c.Posts, nil })
	}
	took := time.Since(began)
	close(stop)
	if err = errors.Join(err, g.Wait()); err != nil {
		return err
	}
	client := s.Client()
	defer client.Close()
	jobs, err := client.Jobs(ctx, "")
	if err != nil {
		return err
	}
	untold, ghosts := 0, len(t.told)
	for _, j := range jobs {
		if t.told[j.ID] {
			ghosts--
		} else {
			untold++
		}
	}
	fmt.Printf("%d restarts in %.0f s under %d POSTs: %d answered by a proxy's error, %d accepted and not told, %d told and not there, %d otherwise without an id\n",
		c.Restarts, took.Seconds(), t.posts, t.proxied, untold, ghosts, len(t.broken)-t.proxied)
	if len(t.broken)+untold+ghosts > 0 {
		return fmt.Errorf("a guarantee was broken by restarts: %s", strings.Join(t.broken[:min(len(t.broken), 10)], "\n"))
	}
	return nil
}

// submits submits one job after the other until stop, each once: what has no answer
// is not sent again.
func submits(ctx context.Context, stop <-chan struct{}, t *tally, way, addr, token string, keys bool) error {
	c := newCaller(addr, token)
	defer c.close()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		var headers []string
		if keys {
			headers = []string{"Idempotency-Key", fmt.Sprintf("%s-%p-%d", way, c, i)}
		}
		a, err := c.do(ctx, http.MethodPost, "/v1/jobs", job("a question"), headers...)
		t.note(way, a, err)
	}
}

// waits proves that a wait of 60 s ends with the job's id before a proxy gives up, by
// the package's patience in a tenth of the time; and that HAProxy's standard checks
// keep the APIs in.
func waits(ctx context.Context, s *rig.Stage, p *proxies) error {
	var g errgroup.Group
	for way, addr := range p.impatient {
		g.Go(func() error {
			c := newCaller(addr, s.Token)
			defer c.close()
			began := time.Now()
			a, err := c.do(ctx, http.MethodPost, "/v1/jobs", job(held), "Prefer", "wait=60")
			if err == nil && (a.status != http.StatusAccepted || a.id == "") {
				err = fmt.Errorf("a wait of 60 s: %d %.200s", a.status, a.body)
			}
			took := time.Since(began)
			if err == nil {
				if b, e := c.do(ctx, http.MethodGet, "/v1/jobs/"+a.id+"?wait=60", ""); e != nil || b.status != http.StatusOK {
					err = fmt.Errorf("a poll of 60 s: %d %.200s, %w", b.status, b.body, e)
				}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", way, err)
			}
			fmt.Printf("%s: a wait of 60 s is answered with the id after %.2f s, max_wait being %d s\n", way, took.Seconds(), maxWait)
			return nil
		})
	}
	return g.Wait()
}

// events proves that a stream's events come at once, and that it comes to its end.
func events(ctx context.Context, s *rig.Stage, p *proxies) error {
	for way, addr := range p.front {
		if err := stream(ctx, addr, s.Token); err != nil {
			return fmt.Errorf("%s: events: %w", way, err)
		}
		fmt.Printf("%s: events come at once, and a stream comes to its end\n", way)
	}
	return nil
}

func stream(ctx context.Context, addr, token string) error {
	c := newCaller(addr, token)
	defer c.close()
	for _, one := range []struct{ prompt, until string }{{held, "event: status"}, {"a question", "event: done"}} {
		a, err := c.do(ctx, http.MethodPost, "/v1/jobs", job(one.prompt))
		if err != nil {
			return err
		}
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		err = c.reads(short, "/v1/jobs/"+a.id+"/events", one.until)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// bodies proves that a batch of 20 MiB is taken.
func bodies(ctx context.Context, s *rig.Stage, p *proxies) error {
	line := job(strings.Repeat("x", 1<<20)) + "\n"
	for way, addr := range p.front {
		c := newCaller(addr, s.Token)
		a, err := c.do(ctx, http.MethodPost, "/v1/batches", strings.Repeat(line, 20), "Content-Type", "application/x-ndjson")
		c.close()
		if err != nil || a.status != http.StatusAccepted {
			return fmt.Errorf("%s: a batch of 20 MiB: %d %.200s, %w", way, a.status, a.body, err)
		}
		fmt.Printf("%s: a batch of 20 MiB is accepted\n", way)
	}
	return nil
}

func job(prompt string) string {
	b, err := json.Marshal(map[string]any{"model": rig.Model, "prompt": prompt, "max_tokens": 8})
	if err != nil {
		panic(err) // strings and a number
	}
	return string(b)
}

// caller is one caller with connections of its own. It sends nothing twice.
type caller struct {
	base, token string
	http        *http.Client
}

func newCaller(addr, token string) *caller {
	return &caller{base: "http://" + addr, token: token, http: &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second}}
}

func (c *caller) close() { c.http.CloseIdleConnections() }

// answer is what came back; own says that it is Sluice's.
type answer struct {
	status int
	id     string
	body   []byte
	own    bool
}

func (c *caller) request(ctx context.Context, method, path, body string, headers ...string) (*http.Response, error) {
	// A body that cannot be read again keeps the transport from sending it again.
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, io.NopCloser(strings.NewReader(body)))
	if err != nil {
		return nil, err
	}
	req.ContentLength = int64(len(body))
	if body == "" {
		req.Body = nil
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return c.http.Do(req)
}

func (c *caller) do(ctx context.Context, method, path, body string, headers ...string) (a answer, err error) {
	res, err := c.request(ctx, method, path, body, headers...)
	if err != nil {
		return a, err
	}
	a.status, a.own = res.StatusCode, res.Header.Get("X-Request-Id") != ""
	a.body, err = io.ReadAll(res.Body)
	var it struct{ ID string }
	if json.Unmarshal(a.body, &it) == nil {
		a.id = it.ID
	}
	return a, errors.Join(err, res.Body.Close())
}

// reads reads a stream until a text comes.
func (c *caller) reads(ctx context.Context, path, until string) error {
	res, err := c.request(ctx, http.MethodGet, path, "")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var got []byte
	for part := make([]byte, 4096); !strings.Contains(string(got), until); {
		n, err := res.Body.Read(part)
		got = append(got, part[:n]...)
		if err != nil && !strings.Contains(string(got), until) {
			return fmt.Errorf("%q did not come: %w; %d %.300s", until, err, res.StatusCode, got)
		}
	}
	return nil
}
