package web

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// manyTimeout is what moving many jobs may take, whatever the server's write timeout.
const manyTimeout = time.Minute

// ManyMover moves many of a tenant's jobs at once, at most [tasks.MostMoved].
type ManyMover interface {
	// Count is what a selection finds now, without moving it.
	Count(ctx context.Context, sel tasks.Selection) (tasks.Moved, error)
	// RetryAll queues again what ended without a result. Jobs for models that the token of
	// who is not for are passed over.
	RetryAll(ctx context.Context, who Actor, sel tasks.Selection) (ManyMoved, error)
	// CancelAll cancels what has not ended.
	CancelAll(ctx context.Context, who Actor, sel tasks.Selection) (ManyMoved, error)
}

// ManyMoved is what became of a selection.
type ManyMoved struct {
	tasks.Moved
	Stopped string // why the next job was refused after some were moved; "": none was
}

// manyMove is one of the two moves of many jobs.
type manyMove struct {
	action, verb, done string
	statuses           []tasks.Status // that it is for
	move               func(ctx context.Context, who Actor, sel tasks.Selection) (ManyMoved, error)
}

func (w *Web) retryMany() manyMove {
	return manyMove{"retry", "Run again", "queued again", slices.DeleteFunc(slices.Clone(tasks.Statuses), func(s tasks.Status) bool { return !s.Final() || s == tasks.StatusSucceeded }), w.cfg.Jobs.RetryAll}
}

func (w *Web) cancelMany() manyMove {
	return manyMove{"cancel", "Cancel", "canceled", slices.DeleteFunc(slices.Clone(tasks.Statuses), tasks.Status.Final), w.cfg.Jobs.CancelAll}
}

// fits reports whether the move is for jobs of a status; "" is any.
func (m manyMove) fits(status string) bool {
	return status == "" || slices.Contains(m.statuses, tasks.Status(status))
}

// manyLinks are where the jobs that a list finds are moved together; none where the viewer may not.
func (w *Web) manyLinks(f jobsFilter, v viewer) (retry, cancel string) {
	if !v.moves(f.Tenant) {
		return "", ""
	}
	if w.retryMany().fits(f.Status) {
		retry = w.base + jobsRoot + "/retry?" + f.query("")
	}
	if w.cancelMany().fits(f.Status) {
		cancel = w.base + jobsRoot + "/cancel?" + f.query("")
	}
	return retry, cancel
}

// manyPage asks whether many jobs are to be moved, or says what became of that.
type manyPage struct {
	frame
	Verb, Done   string
	Most         string     // that one go moves
	Path, Back   string     // of the form; of the list
	Of           []fact     // what they are found by
	Fields       url.Values // of the form
	Count        string
	Some, More   bool // there are any; there are others besides
	Over         bool // it was done
	Large, Quota string
}

// selection is what a list's filter finds of a move's statuses.
func (w *Web) selection(f jobsFilter, v viewer, m manyMove) (sel tasks.Selection, err error) {
	if f.Metadata != "" && !v.own(f.Tenant) {
		return sel, errFilter("What other tenants wrote beside their jobs is not searched.")
	}
	if !m.fits(f.Status) {
		return sel, errFilter("No job of that status can be " + m.done + ".")
	}
	found, err := f.filter()
	sel = tasks.Selection{
		Tenant: found.Tenant, Statuses: m.statuses, Model: found.Model, Pool: found.Pool, Batch: found.Batch,
		Since: found.Since, Until: found.Until, Metadata: found.Metadata,
	}
	if found.Status != "" {
		sel.Statuses = []tasks.Status{found.Status}
	}
	return sel, err
}

// many reads what is to be moved; who may not, and what finds nothing, is answered.
func (w *Web) many(rw http.ResponseWriter, q url.Values, v viewer, m manyMove) (f jobsFilter, sel tasks.Selection, ok bool) {
	f = w.jobsFilter(q, v)
	f.After = ""
	if !v.moves(f.Tenant) {
		w.page(rw, http.StatusForbidden, "fault.html", faultPage{w.frame(v, "jobs"), "Your token may not change these jobs", "That needs the scope " + scopeWrite + " of their tenant, or admin."})
		return f, sel, false
	}
	sel, err := w.selection(f, v, m)
	if err != nil {
		w.refuse(rw, v, "job", m.action, &RefusedError{Status: http.StatusBadRequest, Text: err.Error()})
		return f, sel, false
	}
	return f, sel, true
}

// askMany returns the handler of the page that asks. What is accepted after it was shown
// is not among what it counts, and is not moved.
func (w *Web) askMany(m manyMove) func(http.ResponseWriter, *http.Request, viewer) {
	return func(rw http.ResponseWriter, r *http.Request, v viewer) {
		q := r.URL.Query()
		if q.Get("until") == "" {
			q.Set("until", w.cfg.Now().UTC().Format(time.RFC3339Nano))
		}
		f, sel, ok := w.many(rw, q, v, m)
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
		defer cancel()
		found, err := w.cfg.Jobs.Count(ctx, sel)
		if err != nil && !(errors.Is(err, context.DeadlineExceeded) && found.Jobs > 0) {
			w.refuse(rw, v, "job", "count", err)
			return
		}
		page := w.manyPage(f, v, m)
		page.Count, page.Some, page.More = grouped(int64(found.Jobs)), found.Jobs > 0, found.More
		w.page(rw, http.StatusOK, "many.html", page)
	}
}

// moveMany returns the handler of the button. A repeat moves what is left.
func (w *Web) moveMany(m manyMove) func(http.ResponseWriter, *http.Request, viewer) {
	return func(rw http.ResponseWriter, r *http.Request, v viewer) {
		r.Body = http.MaxBytesReader(rw, r.Body, maxLoginBytes)
		if err := r.ParseForm(); err != nil || r.PostForm.Get("tenant") == "" {
			w.refuse(rw, v, "job", m.action, &RefusedError{Status: http.StatusBadRequest, Text: "The form does not say whose jobs are meant. Begin again from the list."})
			return
		}
		f, sel, ok := w.many(rw, r.PostForm, v, m)
		if !ok {
			return
		}
		_ = http.NewResponseController(rw).SetWriteDeadline(time.Now().Add(manyTimeout))
		var moved ManyMoved
		if !w.move(rw, r, v, moving{"job", m.action, f.Tenant, "jobs?" + f.query(""), true, scopeWrite}, func(ctx context.Context, who Actor, _, _ string) (err error) {
			moved, err = m.move(ctx, who, sel)
			return err
		}) {
			return
		}
		page := w.manyPage(f, v, m)
		page.Over, page.Count, page.Some, page.More, page.Quota = true, grouped(int64(moved.Jobs)), moved.Jobs > 0, moved.More, moved.Stopped
		if moved.TooLarge > 0 {
			page.Large = grouped(int64(moved.TooLarge))
		}
		w.page(rw, http.StatusOK, "many.html", page)
	}
}

func (w *Web) manyPage(f jobsFilter, v viewer, m manyMove) manyPage {
	page := manyPage{frame: w.frame(v, "jobs"), Verb: m.verb, Done: m.done, Most: grouped(tasks.MostMoved), Path: w.base + jobsRoot + "/" + m.action}
	page.Fields, _ = url.ParseQuery(f.query("")) // that we made
	for _, name := range []string{"tenant", "status", "model", "pool", "batch", "metadata", "since", "until"} {
		if value := page.Fields.Get(name); value != "" {
			page.Of = append(page.Of, fact{strings.ToUpper(name[:1]) + name[1:], value})
		}
	}
	f.Until = ""
	page.Back = w.base + jobsRoot + "?" + f.query("")
	return page
}
