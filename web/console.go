package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const statusTimeout = 5 * time.Second

// consolePage is the whole page; fragmentPage the part of it that is renewed.
type consolePage struct {
	frame
	Fake    bool
	Notices []string
	Live    fragmentPage
}

type fragmentPage struct {
	Title   string // of the window: the worst first
	Fault   bool   // the status could not be read
	At      string
	Queued  string
	Running string
	Oldest  string
	Pools   []poolView
	System  []fact // on what it runs, for who operates
}

// poolView answers, for one pool: what waits, for what, since when, what next.
type poolView struct {
	Name     string
	Page     string // where it is shown alone
	Path     string // of its forms
	Jobs     string // where its waiting jobs are found; "": nowhere
	Runs     string // likewise those that run
	State    string
	Since    moment
	Reason   string
	Detail   string // of the reason, for an admin: hosts and targets
	PausedBy string
	Resume   moment
	Queued   string
	Running  string
	Oldest   string
	Waits    string
	Next     string
	LastHour string // what went wrong in it
	Drained  string // when the last that waits is expected to start; "": none waits
	Bars     []bar
	CanPause bool
	CanLift  bool
}

// moment is a time for a reader and for a machine.
type moment struct {
	Clock   string // for a reader
	Machine string // RFC 3339
	Away    string // "3 min 20 s"
}

// bar is one dimension of an allowance.
type bar struct {
	Label   string
	Percent int
	Width   int // 0 to 100
	Limit   string
	Level   string // "", "high" or "full"
	Spark   string // points of its last hour; "": not known
	Hour    string // that in words
}

func (w *Web) console(rw http.ResponseWriter, r *http.Request, v viewer) {
	live, status := w.live(r.Context(), v)
	page := consolePage{frame: w.frame(v, "pools"), Fake: w.cfg.Fake, Live: live}
	if w.cfg.Notices != nil && v.Operates() {
		page.Notices = w.cfg.Notices()
	}
	w.page(rw, status, "console.html", page)
}

func (w *Web) fragment(rw http.ResponseWriter, r *http.Request, v viewer) {
	live, status := w.live(r.Context(), v)
	w.page(rw, status, "pools", live)
}

// live asks how the pools are. A fault is shown as one, with 503.
func (w *Web) live(ctx context.Context, v viewer) (fragmentPage, int) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	pools, err := w.cfg.Status(ctx)
	now := w.cfg.Now()
	if err != nil {
		w.cfg.Log.Error("read status for the console", "error", err)
		return unread(now), http.StatusServiceUnavailable
	}
	page := w.view(pools, v, now)
	if v.Operates() {
		page.System = w.system(ctx, now)
	}
	return page, http.StatusOK
}

// unread is what is shown while the status cannot be read.
func unread(now time.Time) fragmentPage {
	return fragmentPage{Title: "Status unknown – Sluice", Fault: true, At: now.UTC().Format("15:04:05 UTC")}
}

// view puts a status into words, the pools in trouble first.
func (w *Web) view(pools []tasks.PoolStatus, v viewer, now time.Time) fragmentPage {
	pools = slices.Clone(pools)
	slices.SortStableFunc(pools, func(a, b tasks.PoolStatus) int {
		return cmp.Or(cmp.Compare(trouble(b.State), trouble(a.State)), strings.Compare(a.Name, b.Name))
	})
	page := fragmentPage{At: now.UTC().Format("15:04:05 UTC"), Oldest: "–"}
	var queued, running int64
	var paused, degraded int
	var oldest time.Time
	for _, p := range pools {
		queued, running = queued+p.Queued-p.Scheduled, running+p.Running
		if !p.OldestQueuedAt.IsZero() && (oldest.IsZero() || p.OldestQueuedAt.Before(oldest)) {
			oldest = p.OldestQueuedAt
		}
		switch p.State {
		case tasks.PoolPaused:
			paused++
		case tasks.PoolDegraded:
			degraded++
		}
		page.Pools = append(page.Pools, w.viewPool(p, v, now))
	}
	page.Queued, page.Running = grouped(queued), grouped(running)
	if !oldest.IsZero() {
		page.Oldest = span(now.Sub(oldest))
	}
	switch {
	case paused > 0:
		page.Title = fmt.Sprintf("%d paused – Sluice", paused)
	case degraded > 0:
		page.Title = fmt.Sprintf("%d degraded – Sluice", degraded)
	default:
		page.Title = "Sluice"
	}
	return page
}

func (w *Web) viewPool(p tasks.PoolStatus, v viewer, now time.Time) poolView {
	view := poolView{
		Name: p.Name, Page: w.base + poolsRoot + "/" + url.PathEscape(p.Name), Path: w.poolPath(p.Name), State: string(p.State), Drained: drained(&p, now),
		Since: at(p.Since, now), Reason: p.Reason, PausedBy: p.PausedBy, Resume: at(p.ExpectedResumeAt, now),
		Queued: grouped(p.Queued - p.Scheduled), Running: grouped(p.Running), Oldest: "–",
		Waits: waits(p), Next: next(p, now), LastHour: lastHour(&p.Mishaps),
		CanPause: v.Admin() && w.cfg.Pause != nil && !(p.State == tasks.PoolPaused && p.PausedBy == "operator"),
		CanLift:  v.Admin() && w.cfg.Resume != nil && p.State == tasks.PoolPaused,
	}
	switch {
	case w.cfg.Jobs == nil:
	case v.Operates() && w.cfg.Pools != nil: // by tenant
		view.Jobs = view.Page + "#shares"
		view.Runs = view.Jobs
	default:
		view.Jobs, view.Runs = w.jobsOf("", p.Name, tasks.StatusQueued), w.jobsOf("", p.Name, tasks.StatusRunning)
	}
	if v.Admin() {
		view.Detail = p.Detail
	}
	if !p.OldestQueuedAt.IsZero() {
		view.Oldest = span(now.Sub(p.OldestQueuedAt))
	}
	for _, a := range p.Allowance {
		b := bar{Label: a.Dimension.Words().Name, Percent: int(a.Used*100 + 0.5), Limit: grouped(a.Limit) + " a minute"}
		if a.Dimension == tasks.WaitConcurrency {
			b.Limit = grouped(a.Limit) + " at once"
		}
		b.Width = min(max(b.Percent, 0), 100)
		b.Spark, b.Hour = w.history.spark(p.Name, a.Dimension, now)
		switch {
		case a.Used >= 0.95:
			b.Level = "full"
		case a.Used >= 0.75:
			b.Level = "high"
		}
		view.Bars = append(view.Bars, b)
	}
	return view
}

// jobsOf is where jobs of a pool are listed: a tenant's, or the viewer's, with a status or with any.
func (w *Web) jobsOf(tenant, pool string, status tasks.Status) string {
	return w.base + jobsRoot + "?" + jobsFilter{Tenant: tenant, Pool: pool, Status: string(status)}.query("")
}

// poolPath is where the forms of a pool are.
func (w *Web) poolPath(pool string) string { return w.base + "/console/pools/" + url.PathEscape(pool) }

func trouble(s tasks.PoolState) int {
	switch s {
	case tasks.PoolOpen:
		return 0
	case tasks.PoolDegraded:
		return 1
	}
	return 2
}

// waits says how many jobs wait, and for what, by the reason that their callers are told;
// and how many are for later.
func waits(p tasks.PoolStatus) string {
	ready, later := p.Queued-p.Scheduled, ""
	switch {
	case p.Queued == 0:
		return "Nothing waits."
	case p.Scheduled == 1:
		later = "1 job is for later."
	case p.Scheduled > 1:
		later = grouped(p.Scheduled) + " jobs are for later."
	}
	if ready == 0 {
		return later
	}
	jobs := grouped(ready) + " jobs wait"
	if ready == 1 {
		jobs = "1 job waits"
	}
	return strings.TrimSpace(jobs + " for " + waitsFor(p, ready) + ". " + later)
}

// waitsFor is what those of a pool's jobs wait for that may run.
func waitsFor(p tasks.PoolStatus, ready int64) string {
	switch {
	case p.State == tasks.PoolPaused && p.PausedBy == "operator":
		return "an operator to resume the pool"
	case p.State == tasks.PoolPaused && p.PausedBy == "breaker":
		return "the provider to recover"
	case p.State == tasks.PoolPaused && p.PausedBy == "memory":
		return "room in Redis"
	case p.State == tasks.PoolPaused:
		return "the pool to be resumed"
	case p.WaitsFor != "":
		return strings.Replace(p.WaitsFor.Words().For, "its pool", "the pool", 1)
	case ready == 1:
		return "its turn"
	}
	return "their turn"
}

// next says what happens without anybody's doing.
func next(p tasks.PoolStatus, now time.Time) string {
	expected := ""
	if !p.ExpectedResumeAt.IsZero() {
		m := at(p.ExpectedResumeAt, now)
		expected = m.Clock + " (in " + m.Away + ")"
		if !p.ExpectedResumeAt.After(now) {
			expected = "any moment"
		}
	}
	switch {
	case p.State == tasks.PoolPaused && p.PausedBy == "operator":
		return held(expected)
	case p.State == tasks.PoolPaused && p.PausedBy == "memory":
		return "It goes on by itself when there is room in Redis: when results have expired or were deleted, or maxmemory is raised."
	case p.State == tasks.PoolPaused && expected != "":
		return tries(p, now) + ", expected " + expected + "."
	case p.State == tasks.PoolPaused:
		return tries(p, now) + "."
	case p.State == tasks.PoolDegraded && expected != "":
		return "Full pace is expected " + expected + "."
	case p.State == tasks.PoolDegraded:
		return "The pace rises step by step to the full allowance."
	}
	return goes(p, now)
}

// tries says when the breaker tries a paused pool's provider next.
func tries(p tasks.PoolStatus, now time.Time) string {
	when := ""
	if p.NextProbeAt.After(now) {
		when = " at " + at(p.NextProbeAt, now).Clock
	}
	return "The breaker tries the provider again" + when + ", and resumes the pool when that works"
}

// goes says when the jobs of a pool start that runs as it should.
func goes(p tasks.PoolStatus, now time.Time) string {
	switch ready := p.Queued - p.Scheduled; {
	case ready == 0 && p.Scheduled > 0:
		return "The first may start at " + at(p.NextScheduledAt, now).Clock + "."
	case ready == 1:
		return "It runs as the allowance permits."
	case ready > 1:
		return "They run as the allowance permits."
	}
	return "The next job starts at once."
}

// at returns a moment; the zero one for a time that is not known.
func at(t, now time.Time) moment {
	if t.IsZero() {
		return moment{}
	}
	t = t.UTC()
	layout := "15:04:05 UTC"
	if t.Format(time.DateOnly) != now.UTC().Format(time.DateOnly) {
		layout = "2 Jan 15:04 UTC"
	}
	return moment{Clock: t.Format(layout), Machine: t.Format(time.RFC3339), Away: span(now.Sub(t).Abs())}
}

// span writes a duration with its two largest units.
func span(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%d d %d h", s/86400, s%86400/3600)
}

// grouped writes a number with thin spaces between its thousands.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	from := 0
	if n < 0 {
		from = 1
	}
	for i := len(s) - 3; i > from; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// held says how an operator's pause ends: by itself as expected, unless that is "".
func held(expected string) string {
	if expected == "" {
		return "It stays paused until an operator resumes it; nothing is lost."
	}
	return "The pause ends by itself " + expected + ", or when an operator resumes it; nothing is lost."
}

// pausePage asks for the reason of a pause. It is a page of its own, so that no
// renewal of the console takes away what is being typed.
type pausePage struct {
	Viewer    viewer
	Pool      string
	Path      string
	Reason    string
	For       string // of spans: how long the pause lasts; "": until it is resumed
	Spans     []pauseSpan
	MaxReason int
	Fault     string
}

// pauseSpan is how long a pause may last that ends by itself.
type pauseSpan struct{ Value, Text string }

var spans = []pauseSpan{{"15m", "15 minutes"}, {"1h", "1 hour"}, {"4h", "4 hours"}, {"12h", "12 hours"}, {"24h", "1 day"}, {"72h", "3 days"}, {"168h", "7 days"}}

func (w *Web) pauseForm(rw http.ResponseWriter, r *http.Request, v viewer) {
	if !w.mayChange(rw, r, v, w.cfg.Pause != nil) {
		return
	}
	name := r.PathValue("pool")
	w.page(rw, http.StatusOK, "pause.html", pausePage{Viewer: v, Pool: name, Path: w.poolPath(name), Spans: spans, MaxReason: tasks.MaxReason})
}

func (w *Web) pause(rw http.ResponseWriter, r *http.Request, v viewer) {
	if !w.mayChange(rw, r, v, w.cfg.Pause != nil) {
		return
	}
	name := r.PathValue("pool")
	form := pausePage{Viewer: v, Pool: name, Path: w.poolPath(name), Spans: spans, MaxReason: tasks.MaxReason}
	r.Body = http.MaxBytesReader(rw, r.Body, maxLoginBytes)
	if err := r.ParseForm(); err != nil {
		form.Fault = "The form could not be read."
		w.page(rw, http.StatusBadRequest, "pause.html", form)
		return
	}
	form.For = r.PostForm.Get("for")
	form.Reason = strings.TrimSpace(r.PostForm.Get("reason"))
	if !reasonable(form.Reason) {
		form.Fault = fmt.Sprintf("Say why, in one line of at most %d characters: whoever looks next needs to know.", tasks.MaxReason)
		w.page(rw, http.StatusUnprocessableEntity, "pause.html", form)
		return
	}
	until, ok := pauseEnd(form.For, w.cfg.Now())
	if !ok {
		form.Fault = "Choose from the list how long the pause lasts."
		w.page(rw, http.StatusUnprocessableEntity, "pause.html", form)
		return
	}
	w.changed(rw, r, v, "pause", name, w.cfg.Pause(r.Context(), name, form.Reason, until, v.via("console")))
}

// pauseEnd is when a pause of a span that the form offers ends; zero for "".
func pauseEnd(span string, now time.Time) (until time.Time, ok bool) {
	if span == "" {
		return until, true
	}
	if !slices.ContainsFunc(spans, func(s pauseSpan) bool { return s.Value == span }) {
		return until, false
	}
	d, err := time.ParseDuration(span)
	return now.Add(d).UTC().Truncate(time.Second), err == nil
}

func (w *Web) resume(rw http.ResponseWriter, r *http.Request, v viewer) {
	if !w.mayChange(rw, r, v, w.cfg.Resume != nil) {
		return
	}
	name := r.PathValue("pool")
	w.changed(rw, r, v, "resume", name, w.cfg.Resume(r.Context(), name, v.via("console")))
}

// mayChange answers for itself when the viewer may not, or when there is nothing to call.
func (w *Web) mayChange(rw http.ResponseWriter, r *http.Request, v viewer, offered bool) bool {
	switch {
	case !v.Admin():
		w.refused(rw, r, v, http.StatusForbidden, "Your token may not change pools", "This needs the scope admin.")
		return false
	case !offered:
		w.refused(rw, r, v, http.StatusNotFound, "Pools cannot be changed here", "This process has no worker's part: ask another, or use sluice pools.")
		return false
	}
	return true
}

// changed answers a change of a pool and writes down who made it.
func (w *Web) changed(rw http.ResponseWriter, r *http.Request, v viewer, act, pool string, err error) {
	switch {
	case err == nil:
		w.cfg.Log.Info("pool changed by an operator", "act", act, "pool", pool, "subject", v.Subject, "tenant", v.Tenant)
		http.Redirect(rw, r, w.base+"/", http.StatusSeeOther)
	case errors.Is(err, tasks.ErrNotFound):
		w.refused(rw, r, v, http.StatusNotFound, "There is no such pool", "The configuration has none of this name.")
	default:
		w.cfg.Log.Error("change pool", "act", act, "pool", pool, "error", err)
		w.refused(rw, r, v, http.StatusServiceUnavailable, "The pool could not be changed", "Redis cannot be reached, or did not answer in time: look whether it was, and try again.")
	}
}
