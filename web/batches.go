package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const batchesRoot = "/batches"

// Batches is what the pages of batches ask. What a tenant does not have is tasks.ErrNotFound.
type Batches interface {
	// Batches lists a tenant's batches, newest first.
	Batches(ctx context.Context, f tasks.BatchFilter) (tasks.BatchPage, error)
	Batch(ctx context.Context, tenant, id string) (tasks.Batch, error)
	// BatchHolder names the tenant that a batch is of.
	BatchHolder(ctx context.Context, id string) (tenant string, err error)
	// CancelBatch cancels what has not ended. What has ended is tasks.ErrFinal.
	CancelBatch(ctx context.Context, tenant, id string) error
	// BatchLines is what of a batch has ended, from an index on, each job a line with its
	// break as in the API's results, and the index to go on from; 0 at the end.
	BatchLines(ctx context.Context, tenant, id string, from int) (lines []byte, next int, err error)
}

type batchesPage struct {
	frame
	Tenant   string
	Status   string
	Tenants  []string
	Statuses []tasks.BatchStatus
	Refresh  string
	Live     batchesList
}

// batchesList is the part of the page that is renewed.
type batchesList struct {
	Title string
	At    string
	Fault string
	Rows  []batchView
	Next  string
}

// batchPage is one batch.
type batchPage struct {
	frame
	Refresh string
	Live    batchView
}

type batchView struct {
	Title    string
	At       string
	ID, Path string
	Tenant   string
	Status   string
	Words    string
	Percent  int
	Accepted moment
	Counts   []batchCount
	Curl     string
	CanMove  bool
	Results  string // address of what has ended; "": nothing has, or it is not for the viewer
	Whole    bool   // all of it has
	Retry    string // where what failed is run again; "": nothing did, or the viewer may not
}

// batchCount is how many lines are in a state, and where they are shown.
type batchCount struct{ Name, Count, Path string }

func (w *Web) batchesPage(rw http.ResponseWriter, r *http.Request, v viewer) {
	ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
	defer cancel()
	page := batchesPage{
		frame: w.frame(v, "batches"), Tenant: tenantOf(r, v), Status: r.URL.Query().Get("status"),
		Statuses: tasks.BatchStatuses, Refresh: w.base + "/console/batches?" + r.URL.Query().Encode(),
	}
	if v.Operates() {
		page.Tenants = w.tenants(ctx, page.Tenant)
	}
	var status int
	page.Live, status = w.batchesList(ctx, r, v)
	w.page(rw, status, "batches.html", page)
}

// tenantOf is the tenant that an address asks for, or the viewer's.
func tenantOf(r *http.Request, v viewer) string {
	if t := strings.TrimSpace(r.URL.Query().Get("tenant")); t != "" {
		return t
	}
	return v.home()
}

func (w *Web) batchesList(ctx context.Context, r *http.Request, v viewer) (batchesList, int) {
	now, q := w.cfg.Now(), r.URL.Query()
	list := batchesList{Title: "Batches – Sluice", At: now.UTC().Format("15:04:05 UTC")}
	f := tasks.BatchFilter{Tenant: tenantOf(r, v), Status: tasks.BatchStatus(q.Get("status")), Limit: jobsOnAPage, After: q.Get("after"), Patience: patience}
	switch {
	case !v.sees(f.Tenant):
		list.Fault = "Your token shows the batches of its own tenant, " + v.Tenant + "."
		return list, http.StatusForbidden
	case f.Status != "" && !f.Status.Valid():
		list.Fault = "There is no such status."
		return list, http.StatusBadRequest
	case max(len(f.After), len(f.Tenant)) > idMost:
		list.Fault = "What stands in the address is too long."
		return list, http.StatusBadRequest
	}
	page, err := w.cfg.Batches.Batches(ctx, f)
	if err != nil && !errors.Is(err, tasks.ErrNotFound) {
		w.cfg.Log.Error("list batches for the console", "error", err)
		list.Fault = "The batches cannot be read just now. Nothing is lost by that; the page goes on trying."
		return list, http.StatusServiceUnavailable
	}
	for i := range page.Batches {
		list.Rows = append(list.Rows, w.batchView(&page.Batches[i], v, now))
	}
	if page.HasMore {
		q.Set("after", page.Next)
		list.Next = w.base + batchesRoot + "?" + q.Encode()
	}
	return list, http.StatusOK
}

func (w *Web) batchView(b *tasks.Batch, v viewer, now time.Time) batchView {
	c := b.Counts
	done := c.Succeeded + c.Failed + c.Canceled + c.Expired
	view := batchView{
		Title: string(b.Status) + " – " + b.ID, At: now.UTC().Format("15:04:05 UTC"), ID: b.ID, Path: w.batchPath(b.ID), Tenant: b.Owner(),
		Status: string(b.Status), Accepted: at(b.CreatedAt, now), CanMove: v.moves(b.Owner()) && b.Status == tasks.BatchInProgress,
		Curl: "curl -H \"Authorization: Bearer $SLUICE_TOKEN\" " + w.cfg.PublicURL + "/v1/batches/" + b.ID + "/results",
	}
	if done > 0 && v.reads(b.Owner()) {
		view.Results = view.Path + "/results"
	}
	if c.Failed+c.Canceled+c.Expired > 0 {
		view.Retry, _ = w.manyLinks(jobsFilter{Tenant: b.Owner(), Batch: b.ID}, v)
	}
	if c.Total > 0 {
		view.Percent = int(100 * done / c.Total)
	}
	lines := fmt.Sprintf("%s of %s lines have ended", grouped(done), grouped(c.Total))
	switch {
	case b.Status == tasks.BatchEnded:
		view.Whole = true
		view.Words = "All " + grouped(c.Total) + " lines ended in " + seconds(b.EndedAt.Sub(b.CreatedAt)) + "."
	case b.Status == tasks.BatchCanceling:
		view.Words = lines + "; the others are being canceled."
	case done > 0:
		left := now.Sub(b.CreatedAt) / time.Duration(done) * time.Duration(c.Total-done)
		view.Words = lines + "; at the pace so far the rest takes " + span(left) + "."
	default:
		view.Words = lines + "."
	}
	for _, n := range []struct {
		status tasks.Status
		count  int64
	}{
		{tasks.StatusQueued, c.Queued}, {tasks.StatusRunning, c.Running}, {tasks.StatusSucceeded, c.Succeeded},
		{tasks.StatusFailed, c.Failed}, {tasks.StatusCanceled, c.Canceled}, {tasks.StatusExpired, c.Expired},
	} {
		query := jobsFilter{Tenant: b.Owner(), Batch: b.ID, Status: string(n.status)}.query("")
		view.Counts = append(view.Counts, batchCount{string(n.status), grouped(n.count), w.base + jobsRoot + "?" + query})
	}
	return view
}

func (w *Web) batchPath(id string) string { return w.base + batchesRoot + "/" + url.PathEscape(id) }

// shownAt is where a job or a batch is shown; "" for anything else.
func (w *Web) shownAt(id string) string {
	switch kind, _, _ := strings.Cut(id, "_"); {
	case kind == "job" && w.cfg.Jobs != nil:
		return w.jobPath(id)
	case kind == "batch" && w.cfg.Batches != nil:
		return w.batchPath(id)
	}
	return ""
}

// findBatch returns the batch of a request, as found does.
func (w *Web) findBatch(rw http.ResponseWriter, r *http.Request, v viewer) (tasks.Batch, bool) {
	return found(w, rw, r, v, "batch", w.cfg.Batches.BatchHolder, w.cfg.Batches.Batch)
}

func (w *Web) batchPage(rw http.ResponseWriter, r *http.Request, v viewer) {
	if b, ok := w.findBatch(rw, r, v); ok {
		w.page(rw, http.StatusOK, "batch.html", batchPage{w.frame(v, "batches"), w.base + "/console/batches/" + b.ID, w.batchView(&b, v, w.cfg.Now())})
	}
}

func (w *Web) batchFragment(rw http.ResponseWriter, r *http.Request, v viewer) {
	if b, ok := w.findBatch(rw, r, v); ok {
		w.page(rw, http.StatusOK, "batch", w.batchView(&b, v, w.cfg.Now()))
	}
}

func (w *Web) cancelBatch(rw http.ResponseWriter, r *http.Request, v viewer) {
	b, ok := w.findBatch(rw, r, v)
	if !ok {
		return
	}
	if w.move(rw, r, v, moving{"batch", "cancel", b.Owner(), b.ID, v.moves(b.Owner()), scopeWrite}, byAnybody(w.cfg.Batches.CancelBatch)) {
		http.Redirect(rw, r, w.batchPath(b.ID), http.StatusSeeOther)
	}
}
