package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const (
	poolsRoot = "/pools"
	poolActs  = 20 // newest acts that a pool's page shows
	poolWaits = 40 // and changes of what its jobs waited for
)

// Pools is what a pool's page asks beside Status. An unknown pool is tasks.ErrNotFound.
type Pools interface {
	// Shares is how tenants share a pool's allowance.
	Shares(ctx context.Context, pool string) (tasks.Shares, error)
	// Past is what a pool's jobs have waited for, the oldest first.
	Past(ctx context.Context, pool string) (tasks.Past, error)
	// Accounts are how a pool's accounts stand, in the order of the configuration.
	Accounts(ctx context.Context, pool string) ([]tasks.PoolAccount, error)
	// Audit is what operators did to a pool, the newest first, at most n.
	Audit(ctx context.Context, pool string, n int) ([]tasks.PoolAct, error)
}

// poolPage is one pool.
type poolPage struct {
	frame
	Refresh string
	Live    poolLive
}

// poolLive is the part of the page that is renewed.
type poolLive struct {
	Title, At string
	Fault     string
	Pool      poolView
	Figures   []fact
	Accounts  []accountRow // none: the pool is one account, and nothing is to be told of its way
	Tenants   []shareRow
	Others    string
	Fair      string
	Mishaps   []mishapRow
	Waited    []step
	Acts      []auditRow
}

// shareRow is what a tenant has of a pool.
type shareRow struct {
	Tenant, Jobs                                 string // Jobs is where those in the pool are listed; "": not to the viewer
	Waits, Runs                                  string // likewise those that wait, and that run
	Weight, Share, Minute, Hour, Queued, Running string
	Lag, Since                                   string
}

// accountRow is how one of a pool's accounts stands.
type accountRow struct {
	Name, Provider, State, Reason, Back string
	Used, Shares, Answered, Way, Weight string
}

// poolPage shows a pool, and what is told of everybody's jobs in it to who operates.
func (w *Web) poolPage(rw http.ResponseWriter, r *http.Request, v viewer) {
	if live, status, ok := w.poolLive(rw, r, v); ok {
		w.page(rw, status, "pool.html", poolPage{w.frame(v, "pools"), w.poolPath(r.PathValue("pool")), live})
	}
}

func (w *Web) poolFragment(rw http.ResponseWriter, r *http.Request, v viewer) {
	if live, status, ok := w.poolLive(rw, r, v); ok {
		w.page(rw, status, "pool", live)
	}
}

// poolLive asks how a pool is. A pool that is not there is answered; a fault is shown as one.
func (w *Web) poolLive(rw http.ResponseWriter, r *http.Request, v viewer) (live poolLive, status int, ok bool) {
	ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
	defer cancel()
	now, name := w.cfg.Now(), r.PathValue("pool")
	live = poolLive{Title: name + " – Sluice", At: now.UTC().Format("15:04:05 UTC")}
	pools, err := w.cfg.Status(ctx)
	i := slices.IndexFunc(pools, func(p tasks.PoolStatus) bool { return p.Name == name })
	if err == nil && i < 0 {
		w.refused(rw, r, v, http.StatusNotFound, "There is no such pool", "The configuration has none of this name.")
		return live, 0, false
	}
	if err == nil {
		live.Pool, live.Figures, live.Mishaps = w.viewPool(pools[i], v, now), figures(&pools[i], now), w.mishapRows(&pools[i].Mishaps, v)
		live.Title = string(pools[i].State) + " – " + name
		if v.Operates() && w.cfg.Pools != nil {
			err = w.poolShared(ctx, &live, name, now)
		}
	}
	if err != nil {
		w.cfg.Log.Error("read a pool for the console", "pool", name, "error", err)
		live.Fault = "The state of the pool cannot be read just now. Accepted jobs are not lost by that; the page goes on trying."
		return live, http.StatusServiceUnavailable, true
	}
	return live, http.StatusOK, true
}

// poolShared adds what is told of everybody's jobs.
func (w *Web) poolShared(ctx context.Context, live *poolLive, name string, now time.Time) error {
	shares, err := w.cfg.Pools.Shares(ctx, name)
	past, errPast := w.cfg.Pools.Past(ctx, name)
	acts, errActs := w.cfg.Pools.Audit(ctx, name, poolActs)
	accounts, errAccounts := w.cfg.Pools.Accounts(ctx, name)
	if err := errors.Join(err, errPast, errActs, errAccounts); err != nil {
		return err
	}
	if len(accounts) > 1 || len(accounts) == 1 && accounts[0].Egress != "" {
		for i := range accounts {
			live.Accounts = append(live.Accounts, viewAccount(&accounts[i], now))
		}
	}
	for i := range shares.Tenants[:min(len(shares.Tenants), jobsOnAPage)] {
		live.Tenants = append(live.Tenants, w.shareRow(&shares.Tenants[i], name, now))
	}
	if more := len(shares.Tenants) - len(live.Tenants) + shares.Others; more > 0 {
		live.Others = grouped(int64(more)) + " more had less."
	}
	if shares.Hour > 0 {
		live.Fair = fmt.Sprintf("Jain's index of those that waited throughout the last hour: %.3f; 1 is equal by weight.", shares.Hour)
	}
	live.Waited = waited(past, now)
	for i := range acts {
		live.Acts = append(live.Acts, auditRow{At: at(acts[i].At, now), By: acts[i].By, Action: acts[i].Action, Reason: tasks.PauseReason(acts[i].Reason, acts[i].Until)})
	}
	return nil
}

func viewAccount(a *tasks.PoolAccount, now time.Time) accountRow {
	row := accountRow{
		Name: a.Name, Provider: a.Provider, State: string(a.State), Reason: a.Reason, Way: a.Egress, Weight: grouped(a.Weight), Answered: "no calls yet",
	}
	if a.State == tasks.PoolPaused && !a.ExpectedResumeAt.IsZero() {
		row.Back = "expected back at " + at(a.ExpectedResumeAt, now).Clock
	}
	if d, ok := fullest(a.Allowance); ok {
		row.Used = fmt.Sprintf("%.0f %% of %s", 100*d.Used, d.Dimension.Words().Name)
	}
	switch {
	case a.SharedWith != "":
		row.Shares = "has that of " + a.SharedWith + ", of the same organisation"
	case a.Shared != "":
		row.Shares = "shared: " + a.Shared
	}
	if a.Calls > 0 {
		row.Answered = fmt.Sprintf("%.0f %%", 100*a.Success)
	}
	return row
}

// fullest is the dimension of an allowance that is used most.
func fullest(list []tasks.Allowance) (most tasks.Allowance, ok bool) {
	for _, d := range list {
		if !ok || d.Used > most.Used {
			most, ok = d, true
		}
	}
	return most, ok
}

func (w *Web) shareRow(t *tasks.TenantShare, pool string, now time.Time) shareRow {
	row := shareRow{
		Tenant: t.Tenant, Weight: grouped(t.Weight), Share: fmt.Sprintf("%.0f %%", 100*t.Share), Minute: seconds(spanOf(t.Minute)), Hour: seconds(spanOf(t.Hour)),
		Queued: grouped(t.Queued), Running: grouped(t.Running), Since: at(t.Since, now).Away,
	}
	if w.cfg.Jobs != nil {
		row.Jobs, row.Waits, row.Runs = w.jobsOf(t.Tenant, pool, ""), w.jobsOf(t.Tenant, pool, tasks.StatusQueued), w.jobsOf(t.Tenant, pool, tasks.StatusRunning)
	}
	switch {
	case t.Lag >= 0.05:
		row.Lag = seconds(spanOf(t.Lag)) + " behind"
	case t.Lag <= -0.05:
		row.Lag = seconds(spanOf(-t.Lag)) + " ahead"
	}
	return row
}

// spanOf is a number of seconds as a duration.
func spanOf(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// figures are a pool's numbers, each in words.
func figures(p *tasks.PoolStatus, now time.Time) []fact {
	all := []fact{{"Waiting", grouped(p.Queued - p.Scheduled)}, {"Running", grouped(p.Running)}}
	if p.Scheduled > 0 {
		all = append(all, fact{"For later", grouped(p.Scheduled) + ", the first " + at(p.NextScheduledAt, now).Clock})
	}
	if p.WaitsFor != "" {
		all = append(all, fact{"Waits for", p.WaitsFor.Words().Name})
	}
	if !p.OldestQueuedAt.IsZero() {
		all = append(all, fact{"Oldest waits", span(now.Sub(p.OldestQueuedAt))})
	}
	if d := drained(p, now); d != "" {
		all = append(all, fact{"Last one starts", d})
	}
	if e := p.Estimates; e.Samples > 0 {
		all = append(all, fact{"Forecasts of the last hour", fmt.Sprintf("%s, of which %.0f %% held; waits were %.2f of what was told", grouped(e.Samples), 100*e.Coverage, e.P50)})
	}
	return all
}

// drained is when the last of the jobs that wait now is expected to start; "" when none waits.
func drained(p *tasks.PoolStatus, now time.Time) string {
	switch {
	case p.WaitsFor == "":
		return ""
	case p.DrainedAt.IsZero():
		return "nobody can tell"
	case !p.DrainedAt.After(now):
		return "now"
	}
	m := at(p.DrainedAt, now)
	return "in " + m.Away + ", at " + m.Clock
}

// waited is what a pool's jobs waited for, the newest first.
func waited(past tasks.Past, now time.Time) (out []step) {
	binds := slices.CompactFunc(slices.Clone(past.Binds), func(a, b tasks.Bind) bool { return a.For == b.For }) // only the tenants were others
	to := now
	for _, b := range slices.Backward(binds[max(0, len(binds)-poolWaits):]) {
		s := step{What: "nothing", From: at(b.At, now), Seconds: seconds(to.Sub(b.At)), Bad: b.For == tasks.WaitPaused || b.For == tasks.WaitNoWorker}
		switch b.For {
		case "":
		case tasks.WaitUnknown:
			s.What = "nobody looked"
		default:
			s.What = b.For.Words().Name
		}
		out, to = append(out, s), b.At
	}
	return out
}
