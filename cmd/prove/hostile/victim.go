package hostile

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// The victim's pace, and how long it waits for the last webhooks.
const (
	submitEvery = 20 * time.Millisecond
	hookWait    = 10 * time.Second
)

// victim is a tenant that does nothing but what it may.
type victim struct {
	addr, token string
	idle        chan *rig.Conn
	receiver    *httptest.Server
	mu          sync.Mutex
	told        map[string]time.Time // by job: when its webhook came
}

// seen is what the victim has seen in one span.
type seen struct {
	p50, p99   time.Duration // of submits, from when one was due to its answer
	told, last time.Duration // from a submit to its webhook: the median and the longest
	failed     int           // submits that were not accepted
	all        []time.Duration
}

func newVictim(s *rig.Stage) (*victim, error) {
	token, err := rig.TokenOf("victim")
	if err != nil {
		return nil, err
	}
	v := &victim{addr: s.Addrs[0], token: token, idle: make(chan *rig.Conn, 4096), told: map[string]time.Time{}}
	v.receiver = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		at := time.Now()
		var e struct{ Data struct{ ID string } }
		if body, err := io.ReadAll(r.Body); err == nil && json.Unmarshal(body, &e) == nil {
			v.mu.Lock()
			v.told[e.Data.ID] = at
			v.mu.Unlock()
		}
	}))
	return v, nil
}

func (v *victim) close() {
	close(v.idle)
	for c := range v.idle {
		c.Close()
	}
	v.receiver.Close()
}

// submits submits at the victim's pace for so long, whatever the answers, and waits
// for the webhooks of what was accepted. One that does not come counts as hookWait.
func (v *victim) submits(ctx context.Context, span time.Duration) (s seen, err error) {
	var all sync.WaitGroup
	var mu sync.Mutex
	var took []time.Duration
	due := map[string]time.Time{}
	begin := time.Now()
	for at := begin; at.Before(begin.Add(span)); at = at.Add(submitEvery) {
		if err := rig.Wait(ctx, time.Until(at)); err != nil {
			return s, err
		}
		all.Go(func() {
			id, err := v.submit(ctx)
			d := time.Since(at)
			mu.Lock()
			defer mu.Unlock()
			if took = append(took, d); err != nil {
				s.failed++
			} else {
				due[id] = at
			}
		})
	}
	all.Wait()
	_ = rig.Until(ctx, hookWait, "every webhook has come", func(context.Context) (bool, error) { // the figure tells
		v.mu.Lock()
		defer v.mu.Unlock()
		for id := range due {
			if _, ok := v.told[id]; !ok {
				return false, nil
			}
		}
		return true, nil
	})
	var hooks []time.Duration
	v.mu.Lock()
	for id, at := range due {
		d := hookWait
		if came, ok := v.told[id]; ok {
			d = came.Sub(at)
		}
		hooks = append(hooks, d)
	}
	v.mu.Unlock()
	s.all = took
	s.p50, s.p99, s.told, s.last = rank(took, 50), rank(took, 99), rank(hooks, 50), rank(hooks, 100)
	return s, ctx.Err()
}

// submit submits one small job and returns its id.
func (v *victim) submit(ctx context.Context) (string, error) {
	var c *rig.Conn
	select {
	case c = <-v.idle:
	default:
		var err error
		if c, err = rig.Dial(ctx, v.addr); err != nil {
			return "", err
		}
	}
	body := fmt.Appendf(nil, `{"model":%q,"prompt":"hello","max_tokens":16,"webhook_url":%q}`, rig.Model, v.receiver.URL)
	a, err := c.Do(ctx, rig.Request(http.MethodPost, v.addr, "/v1/jobs", body, "Content-Type: application/json", "Authorization: Bearer "+v.token))
	if err != nil {
		c.Close()
		return "", err
	}
	v.idle <- c
	_, id, _ := strings.Cut(a.Header.Get("Location"), "/v1/jobs/")
	if a.Status != http.StatusAccepted || id == "" {
		return "", fmt.Errorf("submit: status %d, %.300s", a.Status, a.Body)
	}
	return id, nil
}

// rank is a percentile by nearest rank; 0 of none.
func rank(d []time.Duration, percent int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[(percent*len(d)+99)/100-1]
}
