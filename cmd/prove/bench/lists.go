package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Lists measures the console behind very many jobs: how long its pages take, and what views cost that are open.
type Lists struct {
	Options
	Jobs   int           `default:"50000" help:"Jobs of one tenant that the lists are of."`
	Loads  int           `default:"20" help:"Loads of each page."`
	Views  int           `default:"200" help:"Views that are open at once."`
	Span   time.Duration `default:"30s" help:"How long processor time is taken, with the views and without."`
	Submit int           `default:"10" help:"Jobs a second that come and run meanwhile."`
}

const (
	listWait  = 150.0 // ms
	viewShare = 5.0   // % of a core
	endedJobs = 500   // of those in the lists, the oldest; the pool's burst
)

// Run fills the record and looks at it.
func (l *Lists) Run(ctx context.Context, lab *rig.Lab) error {
	s := setup{
		name: "lists", aof: l.fsync("everysec"), limits: limits{requests: 1200, burst: endedJobs, concurrency: 64}, workers: 1, fake: fake.Config{MeanLatency: 100 * time.Millisecond, MeanOutputTokens: 8, MaxPrompts: 1000},
	}
	return l.measure(ctx, func(ctx context.Context) error {
		return l.with(ctx, lab, s, func(st *stack) error { return l.look(ctx, st) })
	})
}

func (l *Lists) look(ctx context.Context, st *stack) error {
	if err := st.fill(ctx, endedJobs, backlogBytes); err != nil {
		return err
	}
	if err := rig.Until(ctx, 3*time.Minute, "the first have ended", func(context.Context) (bool, error) { return st.Provider.Tally().Calls >= endedJobs, nil }); err != nil {
		return err
	}
	if err := st.pause(ctx); err != nil {
		return err
	}
	begun := time.Now()
	if err := st.fill(ctx, l.Jobs-endedJobs, backlogBytes); err != nil {
		return err
	}
	// A batch is accepted before all of its lines are in the lists
	if err := rig.Until(ctx, 10*time.Minute, "all lines are in the lists", func(ctx context.Context) (bool, error) {
		var pools struct{ Data []struct{ Queued int } }
		c := st.Client()
		defer c.Close()
		a, err := c.Ask(ctx, http.MethodGet, "/v1/pools", "", nil)
		if err == nil {
			err = json.Unmarshal(a.Body, &pools)
		}
		return err == nil && pools.Data[0].Queued >= l.Jobs-endedJobs, err
	}); err != nil {
		return err
	}
	filled := time.Since(begun)
	admin, err := signIn(ctx, st.api, st.Token)
	if err != nil {
		return err
	}
	figures, err := l.pages(ctx, admin)
	if err != nil {
		return err
	}
	used, err := st.memory(ctx)
	if err != nil {
		return err
	}
	views, err := l.views(ctx, st)
	if err != nil {
		return err
	}
	figures = append(append(figures, views...), plain("time to fill", "%.0f s", filled.Seconds(), fmt.Sprintf("%d jobs in batches; Redis then uses %.2f GiB", l.Jobs, used/(1<<30))))
	return report(fmt.Sprintf("lists: %d jobs of one tenant, all but %d of them waiting, one API, one worker; each page %d times by one reader", l.Jobs, endedJobs, l.Loads), figures)
}

// visitor is somebody who has signed in to the console.
type visitor struct {
	http.Client
	base, cookie string
}

func signIn(ctx context.Context, addr, token string) (*visitor, error) {
	v := &visitor{base: "http://" + addr}
	v.Transport = &http.Transport{}
	v.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := v.ask(ctx, http.MethodPost, "/login", url.Values{"token": {token}}.Encode(), "text/html")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if v.cookie, _, _ = strings.Cut(res.Header.Get("Set-Cookie"), ";"); v.cookie == "" {
		return nil, fmt.Errorf("sign in: the answer is %d without a cookie", res.StatusCode)
	}
	return v, nil
}

func (v *visitor) ask(ctx context.Context, method, path, form, accept string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, v.base+path, strings.NewReader(form))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("Cookie", v.cookie)
	if form != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return v.Do(req)
}

// load loads a page, and returns how long that took.
func (v *visitor) load(ctx context.Context, path string) (ms float64, page string, err error) {
	begun := time.Now()
	res, err := v.ask(ctx, http.MethodGet, path, "", "text/html")
	if err != nil {
		return 0, "", err
	}
	body, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %.200s", path, res.StatusCode, body)
	}
	return time.Since(begun).Seconds() * 1000, string(body), err
}

// pages loads each page again and again.
func (l *Lists) pages(ctx context.Context, v *visitor) (figures []figure, err error) {
	const tenant = "tenant=proof"
	_, first, err := v.load(ctx, "/jobs?"+tenant)
	if err != nil {
		return nil, err
	}
	_, older, _ := strings.Cut(first, `href="/jobs?after=`)
	older, _, _ = strings.Cut(older, `"`)
	for _, p := range []struct{ name, path string }{
		{"the overview", "/"},
		{"the pool", "/pools/" + rig.Pool},
		{"all jobs", "/jobs?" + tenant},
		{"the page behind", "/jobs?after=" + strings.ReplaceAll(older, "&amp;", "&")},
		{"those that wait", "/jobs?status=queued&" + tenant},
		{"those that succeeded, the oldest", "/jobs?status=succeeded&" + tenant},
		{"those that failed, which none did", "/jobs?status=failed&" + tenant},
		{"of a model that nobody asked for", "/jobs?model=claude-none&" + tenant},
		{"of metadata that nobody wrote", "/jobs?metadata=team%3Dnone&" + tenant},
		{"of a time before", "/jobs?until=2026-01-01T00:00&" + tenant},
		{"batches", "/batches?" + tenant},
		{"tenants", "/tenants"},
	} {
		var took []float64
		refused := 0
		for len(took) < l.Loads {
			ms, _, err := v.load(ctx, p.path)
			switch {
			case err == nil:
				took = append(took, ms)
			case refused == l.Loads || ctx.Err() != nil:
				return nil, err
			default:
				refused++
			}
		}
		figures = append(figures, atMost(p.name, "%.0f ms", percentile(took, 0.95), listWait, fmt.Sprintf("19 of 20 loads; the median %.0f ms; %d refused", median(took), refused)))
	}
	return figures, nil
}

// views measures what open views take of the API's processor, beside some jobs that come and run.
func (l *Lists) views(ctx context.Context, st *stack) ([]figure, error) {
	watchers, err := l.watchers(ctx, st)
	if err != nil {
		return nil, err
	}
	if err := st.resume(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all errgroup.Group
	all.Go(func() error { return l.busy(ctx, st) })
	if err := rig.Wait(ctx, 10*time.Second); err != nil { // of the burst nothing is left
		return nil, err
	}
	without, redisWithout, err := l.share(ctx, st)
	if err != nil {
		return nil, err
	}
	var events atomic.Int64
	for i := range l.Views {
		w := watchers[i%len(watchers)]
		all.Go(func() error { return w.watch(ctx, &events) })
	}
	if err := rig.Wait(ctx, 3*time.Second); err != nil {
		return nil, err
	}
	from := events.Load()
	with, redisWith, err := l.share(ctx, st)
	if err != nil {
		return nil, err
	}
	came := events.Load() - from
	cancel()
	if err := all.Wait(); err != nil {
		return nil, err
	}
	return []figure{
		atMost(fmt.Sprintf("%d live views", l.Views), "%.1f %% of a core", with-without, viewShare,
			fmt.Sprintf("the API: %.1f %% with them, %.1f %% without; %.0f events a second, of %d sights; %d jobs a second come and 20 run", with, without, float64(came)/l.Span.Seconds(), len(watchers), l.Submit)),
		plain("Redis by them", "%.1f %% of a core", redisWith-redisWithout, fmt.Sprintf("%.1f %% with them", redisWith)),
	}, nil
}

// share is what the API and Redis take of a core, in percent.
func (l *Lists) share(ctx context.Context, st *stack) (api, redis float64, err error) {
	var spent [2][2]time.Duration
	begun := time.Now()
	for i := range spent {
		for j, p := range []*rig.Proc{st.APIs[0], st.Redis} {
			if spent[i][j], err = p.CPU(); err != nil {
				return 0, 0, err
			}
		}
		if i > 0 {
			break
		}
		if err := rig.Wait(ctx, l.Span); err != nil {
			return 0, 0, err
		}
	}
	all := time.Since(begun).Seconds() / 100
	return (spent[1][0] - spent[0][0]).Seconds() / all, (spent[1][1] - spent[0][1]).Seconds() / all, nil
}

// busy submits jobs at an even pace, until ctx ends.
func (l *Lists) busy(ctx context.Context, st *stack) error {
	c, err := rig.Dial(ctx, st.api)
	if err != nil {
		return err
	}
	defer c.Close()
	tick := time.NewTicker(time.Second / time.Duration(l.Submit))
	defer tick.Stop()
	for i := uint64(0); ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := c.Expect(ctx, http.StatusAccepted, st.single(job(i, backlogBytes, 16))); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// watcher is somebody with a page open.
type watcher struct {
	*visitor
	path string
}

// watchers are callers of several tenants, monitors and an admin, each before several pages.
func (l *Lists) watchers(ctx context.Context, st *stack) (all []watcher, err error) {
	for _, who := range []struct {
		tenant string
		scopes []string
	}{
		{"proof", []string{"jobs:read", "jobs:write"}}, {"globex", []string{"jobs:read"}}, {"initech", []string{"jobs:read"}},
		{"ops", []string{"monitor"}}, {"ops", []string{"admin", "jobs:read", "jobs:write", "content"}},
	} {
		token, err := rig.Mint(who.tenant, "watcher", who.scopes...)
		if err != nil {
			return nil, err
		}
		v, err := signIn(ctx, st.api, token)
		if err != nil {
			return nil, err
		}
		of := who.tenant
		if of == "ops" {
			of = "proof"
		}
		for _, path := range []string{"/console/pools", "/console/pools/" + rig.Pool, "/console/jobs?tenant=" + of, "/console/jobs?status=running&tenant=" + of} {
			all = append(all, watcher{v, path})
		}
	}
	return all, nil
}

// watch reads the events of a page until ctx ends.
func (w watcher) watch(ctx context.Context, events *atomic.Int64) error {
	res, err := w.ask(ctx, http.MethodGet, w.path, "", "text/event-stream")
	if err != nil {
		return fmt.Errorf("watch %s: %w", w.path, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("watch %s: %d", w.path, res.StatusCode)
	}
	piece := make([]byte, 64<<10)
	for {
		n, err := res.Body.Read(piece)
		events.Add(int64(strings.Count(string(piece[:n]), "event: page")))
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("watch %s: %w", w.path, err)
		}
	}
}
