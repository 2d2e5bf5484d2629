package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicehq/sluice/tasks"
)

const (
	jobsRoot    = "/jobs"
	jobsOnAPage = 50
	patience    = 50 * time.Millisecond // that a list looks for what it shows: behind a million jobs a rare filter leads on instead
	resultMost  = 256 << 10             // bytes of a text that a page shows
)

// Jobs is what the pages of jobs ask. What a tenant does not have is tasks.ErrNotFound.
type Jobs interface {
	// Jobs lists a tenant's jobs, newest first, without prompts and results.
	Jobs(ctx context.Context, f tasks.Filter) (tasks.Page, error)
	Job(ctx context.Context, tenant, id string) (tasks.Job, error)
	// Prompt is Job with what was asked, where that is still kept.
	Prompt(ctx context.Context, tenant, id string) (tasks.Job, error)
	// Holder names the tenant that a job is of.
	Holder(ctx context.Context, id string) (tenant string, err error)
	// Tenants names those who have, or had, something waiting.
	Tenants(ctx context.Context) ([]string, error)
	// Waiting says what a job waits for; nil: nothing, or nobody knows.
	Waiting(ctx context.Context, j *tasks.Job) *tasks.Waiting
	// Timeline is what each moment of a job was for, from its acceptance to its end or to now.
	Timeline(ctx context.Context, tenant, id string) ([]tasks.Span, error)
	Mover
	ManyMover
}

// Mover moves a tenant's job. What the job's state does not allow is tasks.ErrConflict,
// what the tenant may not have more of a *tasks.QuotaError.
type Mover interface {
	Cancel(ctx context.Context, tenant, id string) error
	// Retry is for who: a model that its token is not for is a *[RefusedError].
	Retry(ctx context.Context, who Actor, tenant, id string) error
	Delete(ctx context.Context, tenant, id string) error
}

// jobsPage is the list of jobs with what it is filtered by.
type jobsPage struct {
	frame
	Filter   jobsFilter
	Tenants  []string // to choose from; none for who sees one
	Statuses []tasks.Status
	Refresh  string // where the list is renewed from
	Live     jobsList

	RetryAll, CancelAll string // where what the list finds is moved; "": not by the viewer
}

// jobsFilter is what a form holds, as it was typed.
type jobsFilter struct{ Tenant, Status, Model, Pool, Batch, Metadata, Since, Until, After string }

// jobsList is the part of the page that is renewed.
type jobsList struct {
	Title string
	At    string
	Fault string
	Mixed bool // rows may be of others than the viewer
	Rows  []jobRow
	Next  string // address of the page behind; "" at the end
}

type jobRow struct {
	ID, Path, Model, Pool, Batch, Tenant string
	Status                               string
	Accepted                             moment
	Words                                string // what it waits for, or how it ended
	Attempts                             int
	Tokens                               string
}

// frame is what stands around every page.
type frame struct {
	Viewer  viewer
	Here    string // which entry of the menu it is
	Version string
	Jobs    bool // there are pages of jobs
	Batches bool // and of batches
	New     bool // and one to submit
	Usage   bool // and one of what was used
	Upload  bool // and one to submit a batch, that the viewer may
	Hooks   bool // pages of webhooks
	Tenancy bool // one of the tenants, that the viewer may see
	Audit   bool // and one of the audit, that the viewer may see
}

// List is what the list is called that a page's thing is of.
func (f frame) List() string { return strings.ToUpper(f.Here[:1]) + f.Here[1:] }

func (w *Web) frame(v viewer, here string) frame {
	return frame{
		Viewer: v, Here: here, Version: w.cfg.Version, Jobs: w.cfg.Jobs != nil, Batches: w.cfg.Batches != nil, Usage: w.cfg.Usage != nil, New: w.cfg.Submit != nil && v.is(scopeWrite), Upload: w.cfg.Upload != nil && v.is(scopeWrite),
		Hooks: w.cfg.Webhooks != nil, Tenancy: w.cfg.Tenants != nil && v.Operates(), Audit: w.cfg.Audit != nil && v.Admin(),
	}
}

func (w *Web) jobsPage(rw http.ResponseWriter, r *http.Request, v viewer) {
	q := r.URL.Query()
	if id := strings.TrimSpace(q.Get("id")); id != "" {
		http.Redirect(rw, r, w.base+jobsRoot+"/"+url.PathEscape(id), http.StatusSeeOther)
		return
	}
	page := jobsPage{frame: w.frame(v, "jobs"), Filter: w.jobsFilter(q, v), Statuses: tasks.Statuses}
	page.RetryAll, page.CancelAll = w.manyLinks(page.Filter, v)
	page.Refresh = w.base + "/console/jobs?" + page.Filter.query(page.Filter.After)
	ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
	defer cancel()
	if v.Operates() {
		page.Tenants = w.tenants(ctx, page.Filter.Tenant)
	}
	var status int
	page.Live, status = w.jobsListed(ctx, page.Filter, v)
	w.page(rw, status, "jobs.html", page)
}

// tenants lists whose jobs may be chosen, among them the one that is.
func (w *Web) tenants(ctx context.Context, chosen string) []string {
	names, err := w.cfg.Jobs.Tenants(ctx)
	if err != nil {
		w.cfg.Log.Error("list tenants for the console", "error", err)
	}
	if !slices.Contains(names, chosen) {
		names = append(names, chosen)
	}
	slices.Sort(names)
	return names
}

func (w *Web) jobsFilter(q url.Values, v viewer) jobsFilter {
	get := func(name string) string { return strings.TrimSpace(q.Get(name)) }
	f := jobsFilter{
		Tenant: get("tenant"), Status: get("status"), Model: get("model"), Pool: get("pool"), Batch: get("batch"),
		Metadata: get("metadata"), Since: get("since"), Until: get("until"), After: get("after"),
	}
	if f.Tenant == "" {
		f.Tenant = v.home()
	}
	return f
}

// query is the filter as an address has it, from the job behind after on.
func (f jobsFilter) query(after string) string {
	q := url.Values{}
	for name, value := range map[string]string{
		"tenant": f.Tenant, "status": f.Status, "model": f.Model, "pool": f.Pool, "batch": f.Batch,
		"metadata": f.Metadata, "since": f.Since, "until": f.Until, "after": after,
	} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q.Encode()
}

// errFilter is what somebody typed and nothing can be found by.
type errFilter string

func (e errFilter) Error() string { return string(e) }

// filter reads what was typed.
func (f jobsFilter) filter() (tasks.Filter, error) {
	out := tasks.Filter{Tenant: f.Tenant, Status: tasks.Status(f.Status), Model: f.Model, Pool: f.Pool, Batch: f.Batch, After: f.After, Limit: jobsOnAPage, Patience: patience}
	for name, text := range map[string]string{"tenant": f.Tenant, "model": f.Model, "pool": f.Pool, "batch": f.Batch, "metadata": f.Metadata, "after": f.After} {
		if len(text) > 512 || !utf8.ValidString(text) {
			return out, errFilter("What stands in " + name + " is too long, or no text.")
		}
	}
	if out.Status != "" && !out.Status.Valid() {
		return out, errFilter("There is no such status.")
	}
	if f.Metadata != "" {
		key, value, ok := strings.Cut(f.Metadata, "=")
		if !ok || key == "" {
			return out, errFilter("Write metadata as key=value.")
		}
		out.Metadata = map[string]string{key: value}
	}
	for text, to := range map[*string]*time.Time{&f.Since: &out.Since, &f.Until: &out.Until} {
		at, err := parseTime(*text)
		if err != nil {
			return out, err
		}
		*to = at
	}
	return out, nil
}

// parseTime reads a time as a form's field has it, in UTC, or as RFC 3339 has it.
func parseTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, errFilter("Write times as 2026-11-20T15:04, in UTC.")
}

// jobsList is the list that an address asks for.
func (w *Web) jobsList(ctx context.Context, r *http.Request, v viewer) (jobsList, int) {
	return w.jobsListed(ctx, w.jobsFilter(r.URL.Query(), v), v)
}

// jobsListed asks for a page of jobs. A fault is shown as one.
func (w *Web) jobsListed(ctx context.Context, f jobsFilter, v viewer) (jobsList, int) {
	now := w.cfg.Now()
	list := jobsList{Title: "Jobs – Sluice", At: now.UTC().Format("15:04:05 UTC"), Mixed: v.Operates()}
	if !v.sees(f.Tenant) {
		list.Fault = "Your token shows the jobs of its own tenant, " + v.Tenant + "."
		return list, http.StatusForbidden
	}
	if f.Metadata != "" && !v.own(f.Tenant) {
		list.Fault = "What other tenants wrote beside their jobs is not searched."
		return list, http.StatusForbidden
	}
	filter, err := f.filter()
	var typed errFilter
	if errors.As(err, &typed) {
		list.Fault = typed.Error()
		return list, http.StatusBadRequest
	}
	page, err := w.cfg.Jobs.Jobs(ctx, filter)
	switch {
	case errors.Is(err, tasks.ErrNotFound):
		return list, http.StatusOK
	case err != nil:
		w.cfg.Log.Error("list jobs for the console", "error", err)
		list.Fault = "The jobs cannot be read just now. Accepted jobs are not lost by that; the page goes on trying."
		return list, http.StatusServiceUnavailable
	}
	for i := range page.Jobs {
		list.Rows = append(list.Rows, w.jobRow(ctx, &page.Jobs[i], now))
	}
	if page.HasMore {
		list.Next = w.base + jobsRoot + "?" + f.query(page.Next)
	}
	return list, http.StatusOK
}

func (w *Web) jobRow(ctx context.Context, j *tasks.Job, now time.Time) jobRow {
	row := jobRow{
		ID: j.ID, Path: w.jobPath(j.ID), Model: j.Model, Pool: j.Pool, Batch: j.Batch, Tenant: j.Tenant,
		Status: string(j.Status), Accepted: at(j.CreatedAt, now), Words: w.ends(ctx, j, now), Attempts: j.Attempts,
	}
	if u := j.Usage; u != nil {
		row.Tokens = grouped(u.InputTokens+u.CacheReadInputTokens+u.CacheCreationInputTokens) + " in, " + grouped(u.OutputTokens) + " out"
	}
	return row
}

func (w *Web) jobPath(id string) string { return w.base + jobsRoot + "/" + url.PathEscape(id) }

// ends says what a job waits for and what happens next, or how it ended.
func (w *Web) ends(ctx context.Context, j *tasks.Job, now time.Time) string {
	switch {
	case j.Status == tasks.StatusSucceeded:
		return "took " + seconds(j.FinishedAt.Sub(j.CreatedAt)) + finished(j.Finish)
	case j.Status.Final() && j.Error != nil:
		return string(j.Error.Code) + " after " + seconds(j.FinishedAt.Sub(j.CreatedAt))
	case j.Status.Final():
		return "after " + seconds(j.FinishedAt.Sub(j.CreatedAt))
	case j.Status == tasks.StatusRunning:
		return "runs for " + seconds(now.Sub(j.StartedAt))
	}
	return waitingWords(w.cfg.Jobs.Waiting(ctx, j), now)
}

func finished(f tasks.Finish) string {
	if f == "" || f == tasks.FinishComplete {
		return ""
	}
	return ", ended by " + string(f)
}

// waitingWords says what is waited for, at which place, and when it is expected to start.
func waitingWords(waiting *tasks.Waiting, now time.Time) string {
	if waiting == nil || waiting.For == "" {
		return "is about to start"
	}
	words := "waits for " + waiting.For.Words().For
	if waiting.Position > 0 {
		words += fmt.Sprintf(", place %s of its tenant", grouped(waiting.Position))
	}
	if at := at(waiting.EstimatedStart, now); at.Clock != "" && waiting.EstimatedStart.After(now) {
		words += ", expected to start in " + at.Away
	}
	return words
}
