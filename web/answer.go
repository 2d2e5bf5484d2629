package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// Partials is the text of a running job.
type Partials interface {
	// Partial returns the text of the newest attempt that has produced any.
	Partial(ctx context.Context, id string, attempt, offset int) (tasks.Partial, error)
	// Listen asks the job's worker to publish its text for the next while.
	Listen(ctx context.Context, id string) error
}

// result shows what a job's provider answered; while that is to come, to its own tenant as it comes.
func (w *Web) result(rw http.ResponseWriter, r *http.Request, v viewer) {
	j, ok := w.find(rw, r, v)
	if !ok || !w.mayRead(rw, r, v, "job", j.Owner(), j.ID) {
		return
	}
	page := resultPage{frame: w.frame(v, "jobs"), What: "Answer", ID: j.ID, Path: w.jobPath(j.ID), Tenant: j.Owner(), Text: tasks.ResultText(j.Result), Metadata: written(&j), Finish: string(j.Finish)}
	switch {
	case page.Text != "":
	case !j.Status.Final() && w.cfg.Follow != nil:
		page.Status, page.Text = string(j.Status), w.partial(r.Context(), j.ID)
		if v.own(j.Owner()) {
			page.Events = page.Path + "/events"
		}
	case len(j.Result) > 0:
		page.Text = string(j.Result)
	case j.Error != nil:
		page.Text = string(j.Error.Code) + ": " + j.Error.Message
	}
	page.cut()
	w.page(rw, http.StatusOK, "result.html", page)
}

// partial is what has come of a job's text; "" where nobody knows.
func (w *Web) partial(ctx context.Context, id string) string {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	err := w.cfg.Partials.Listen(ctx, id)
	p, errText := w.cfg.Partials.Partial(ctx, id, 0, 0)
	if err = errors.Join(err, errText); err != nil && !errors.Is(err, tasks.ErrNotFound) {
		w.cfg.Log.Error("read a job's text for the console", "error", err)
	}
	return p.Text
}

// followJob sends a job's events to its own tenant, for as long as the session is good. Of
// another's each look is noted, so that there is nothing to be followed.
func (w *Web) followJob(rw http.ResponseWriter, r *http.Request, v viewer) {
	j, ok := w.find(rw, r, v)
	switch {
	case !ok:
		return
	case w.cfg.Follow == nil || !v.own(j.Owner()) || !v.reads(j.Owner()):
		problem(rw, http.StatusForbidden, "a job's text is sent as it comes to its own tenant alone")
		return
	}
	ctx, stop := w.whileSignedIn(r)
	defer stop()
	if err := w.cfg.Follow(rw, r.WithContext(ctx), v.via("console"), j.Owner(), j.ID); err != nil {
		w.refuse(rw, v, "job", "follow", err)
	}
}

// whileSignedIn is a request's context that ends with the session, and with this process.
func (w *Web) whileSignedIn(r *http.Request) (ctx context.Context, stop func()) {
	ctx, stop = context.WithCancel(r.Context())
	go func() {
		defer stop()
		tick := time.NewTicker(w.every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.streams.closed:
				return
			case <-tick.C:
			}
			if _, err := w.who(r); err != nil && !unknown(err) {
				return
			}
		}
	}()
	return ctx, stop
}
