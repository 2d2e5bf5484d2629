package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/tasks"
)

const jsonType = "application/json"

// submitJob is POST /v1/jobs.
func (a *API) submitJob(c echo.Context) error {
	r, x := c.Request(), exchangeOf(c)
	ctx, h, tenant := r.Context(), c.Response().Header(), x.caller.Tenant
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return err
	}
	wait := preferredWait(r.Header)
	body, err := readBody(c.Response(), r, a.MaxBody, jsonType)
	if err != nil {
		return err
	}
	s, err := decodeSubmit(body, false, a.Now())
	if err != nil {
		return err
	}
	job := s.job
	if err := providerHeaders(r.Header, &job.Request); err != nil {
		return err
	}
	if err := a.place(&job); err != nil {
		return err
	}
	if err := a.checkWebhookURL(ctx, job.WebhookURL); err != nil {
		return err
	}
	job.ID, job.Tenant = a.NewID("job"), tenant
	if err := a.reachable(ctx, &job); err != nil && !a.known(ctx, tenant, key) {
		return err
	}
	submission := tasks.Submission{Job: job, Key: key}
	if key != "" {
		f := newFingerprint(r, "/v1/jobs")
		if err := f.add(body); err != nil {
			return told(jsonread.Syntax(err))
		}
		submission.Fingerprint = f.String()
	}

	grant, err := a.admit(ctx, tenant)
	if err != nil {
		return err
	}
	submission.Limits = grant.Limits
	submission.Job.Reserved = reserve(&job.Request, grant.Limits)
	accepted, err := a.Jobs.Submit(ctx, submission)
	if err != nil {
		// Whether a store that fell silent has the job is not known: then the
		// tenant has spent, as it would have with the job.
		if !errors.Is(err, tasks.ErrUnavailable) && ctx.Err() == nil {
			a.refund(ctx, tenant)
		}
		return err
	}
	a.tellQuotas(ctx, h, tenant, grant)
	if accepted.Replayed {
		a.refund(ctx, tenant)
		h.Set("Idempotency-Replayed", "true")
		if done, err := a.replay(c, accepted); done || err != nil {
			return err
		}
	} else {
		a.metrics.taken(accepted.Job.Pool, 1)
	}

	// From here on the job is safe, and nothing may end in an error.
	job = accepted.Job
	if wait > 0 {
		h.Set("Preference-Applied", "wait="+strconv.Itoa(int(wait/time.Second)))
		extendWrite(c, wait)
		if err := a.awaitResult(ctx, &job, accepted.Waiting, wait); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			a.Log.LogAttrs(ctx, slog.LevelWarn, "wait for a result", slog.String("request_id", x.id), slog.Any("error", err))
		}
	}
	waiting := accepted.Waiting
	if wait > 0 || waiting == nil {
		waiting = a.waiting(ctx, &job)
	}
	ans := a.accepted(ctx, &job, waiting)
	switch {
	case accepted.Replayed:
		// What this is a repeat of gave, or gives in a moment, an answer of its
		// own: nothing is kept in its place, and without a wait it is a 202.
		if wait == 0 && len(accepted.Answer) == 0 {
			ans.Status, ans.RetryAfter = http.StatusAccepted, max(ans.RetryAfter, 1)
		}
	case key != "":
		a.saveAnswer(ctx, tenant, key, job.ID, ans)
	}
	return ans.write(c)
}

// place finds the job's pool.
func (a *API) place(job *tasks.Job) error {
	pool, ok := a.Pools.Match(job.Model)
	if !ok {
		return fault.Fail(fault.ModelNotFound, `No pool serves the model in "model".`)
	}
	job.Pool = pool
	for _, model := range job.Fallback {
		if _, ok := a.Pools.Match(model); !ok {
			return fault.Fail(fault.ModelNotFound, `No pool serves one of the models in "fallback_models".`)
		}
	}
	return nil
}

// estimateSpare is how far past the deadline an estimate has to lie before a
// job is refused for it: estimates are no better, and of a pool that opens
// nobody knows when they are a guess of some seconds.
const estimateSpare = 30 * time.Second

// reachable refuses a job that would have to wait past its deadline, in its own
// pool and in those of its fallbacks: told now, its caller can do something
// else. A job of high priority passes, since estimates are of the tenant's
// whole backlog; so does one whose pool opens nobody knows when. Those end
// expired, without a call.
func (a *API) reachable(ctx context.Context, job *tasks.Job) error {
	if job.Deadline.IsZero() || job.Priority == tasks.High {
		return nil
	}
	left := job.Deadline.Sub(a.Now())
	late := time.Duration(math.MaxInt64)
	for _, model := range append([]string{job.Model}, job.Fallback...) {
		pool, ok := a.Pools.Match(model)
		if !ok {
			continue
		}
		estimate, err := a.Pools.Estimate(ctx, pool, job.Tenant)
		if err != nil {
			return nil
		}
		late = min(late, estimate-left)
	}
	if late <= estimateSpare {
		return nil
	}
	p := fault.Fail(fault.DeadlineUnreachable, `The queue is longer than the time to "deadline".`)
	p.RetryAfter = late
	return p
}

// known reports whether a key stands for something already: its repeat gets the
// first answer, however long the queue is now. A key is looked up by reserving
// it for a moment, as a batch does.
func (a *API) known(ctx context.Context, tenant, key string) bool {
	if key == "" {
		return false
	}
	b, prior, err := a.Batches.OpenBatch(ctx, tenant, key)
	if err != nil || prior != nil {
		return true // or it cannot be told: then the submit says why
	}
	if err := a.Batches.AbortBatch(context.WithoutCancel(ctx), b.ID); err != nil {
		a.Log.LogAttrs(ctx, slog.LevelWarn, "let go of an Idempotency-Key", slog.Any("error", err))
	}
	return false
}

// checkWebhookURL asks whoever knows the network's rules; "" passes.
func (a *API) checkWebhookURL(ctx context.Context, url string) error {
	if url == "" {
		return nil
	}
	if a.CheckWebhookURL == nil {
		if !strings.HasPrefix(strings.ToLower(url), "https:") {
			return fault.Fail(fault.WebhookURLRefused, `The member "webhook_url" must be an https address.`)
		}
		return nil
	}
	if err := a.CheckWebhookURL(ctx, url); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// The reason could tell what a name means inside our network.
		return fault.Fail(fault.WebhookURLRefused, `The address in "webhook_url" must not be called.`)
	}
	return nil
}

// admit takes a submit of the tenant's allowance. What else limits it is in the
// grant, and is held by the store where it queues the work.
func (a *API) admit(ctx context.Context, tenant string) (quota.Grant, error) {
	if a.Quota == nil {
		return quota.Grant{}, nil
	}
	return a.Quota.Admit(ctx, tenant, 1)
}

// reserve is how many tokens are set aside for a request.
func reserve(r *tasks.Request, l tasks.Limits) int64 {
	if l.TokensPerDay <= 0 {
		return 0
	}
	return r.Tokens()
}

// tellQuotas tells an admitted caller what is left, its tokens after what it has
// just taken. That these cannot be looked up is no reason to fail.
func (a *API) tellQuotas(ctx context.Context, h http.Header, tenant string, g quota.Grant) {
	if limit := g.Limits.TokensPerDay; limit > 0 {
		if day, err := a.Jobs.Tokens(ctx, tenant); err == nil {
			g.Windows = append(g.Windows, quota.Window{
				Name: quota.TokensPerDay, Limit: limit, Remaining: limit - day.Used - day.Reserved, Span: 24 * time.Hour, Reset: day.ResetsIn,
			})
		}
	}
	setRateLimit(h, g)
}

// refund gives a submit back. A failure is logged and costs the tenant no more
// than that.
func (a *API) refund(ctx context.Context, tenant string) {
	if a.Quota == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := a.Quota.Refund(ctx, tenant, 1); err != nil {
		a.Log.LogAttrs(ctx, slog.LevelWarn, "refund a quota", slog.Any("error", err))
	}
}

// awaitResult waits until the job is final. It gives up at once when the job's
// pool is paused, because then it will not be soon; told is what is known of
// that already, or nil.
func (a *API) awaitResult(ctx context.Context, job *tasks.Job, told *tasks.Waiting, wait time.Duration) error {
	first := true
	return a.await(ctx, job.Tenant, job.ID, wait, job, func() (bool, error) {
		if !first {
			latest, err := a.Jobs.Job(ctx, job.Tenant, job.ID)
			if err != nil {
				return false, err
			}
			*job, told = latest, nil
		}
		first = false
		if job.Status.Final() {
			return true, nil
		}
		if job.Status == tasks.StatusRunning {
			return false, nil
		}
		if told != nil {
			return told.For == tasks.WaitPaused, nil
		}
		w, err := a.Pools.Waiting(ctx, *job)
		return err == nil && w.For == tasks.WaitPaused, nil
	})
}

// answer is what a submit was answered: it is kept under the Idempotency-Key
// and given again byte for byte.
type answer struct {
	Status     int             `json:"status"`
	Location   string          `json:"location"`
	RetryAfter int64           `json:"retry_after,omitempty"`
	Body       json.RawMessage `json:"-"`
}

// accepted is the answer to an accepted job: 200 when it is final already, else 202.
func (a *API) accepted(ctx context.Context, job *tasks.Job, waiting *tasks.Waiting) answer {
	ans := answer{Status: http.StatusOK, Location: a.jobURL(job.ID)}
	if job.Status.Final() {
		ans.Body = append(a.job(nil, job, nil), '\n')
		return ans
	}
	ans.Status = http.StatusAccepted
	ans.RetryAfter = 1
	if estimate, err := a.Pools.Estimate(ctx, job.Pool, job.Tenant); err == nil {
		if !job.NotBefore.IsZero() {
			estimate = max(estimate, job.NotBefore.Sub(a.Now()))
		}
		ans.RetryAfter = seconds(estimate)
	}
	ans.Body = append(a.job(make([]byte, 0, 1024), job, waiting), '\n')
	return ans
}

func (ans *answer) write(c echo.Context) error {
	h := c.Response().Header()
	h.Set("Location", ans.Location)
	if ans.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(ans.RetryAfter, 10))
	}
	writeJSON(c.Response(), ans.Status, ans.Body)
	return nil
}

// saveAnswer keeps the answer. Of a 200 it keeps only that it was one: a final
// job reads the same ever after, so its result need not be kept twice, nor
// outlive the job's deletion.
func (a *API) saveAnswer(ctx context.Context, tenant, key, id string, ans answer) {
	saved, err := json.Marshal(ans)
	if err == nil {
		if ans.Status != http.StatusOK {
			saved = append(append(saved, '\n'), ans.Body...)
		}
		err = a.Jobs.SaveAnswer(ctx, tenant, key, id, saved)
	}
	if err != nil {
		// A repeat will be answered with the job as it then stands.
		a.Log.LogAttrs(ctx, slog.LevelWarn, "save the answer of an Idempotency-Key", slog.Any("error", err))
	}
}

// loadAnswer reads what saveAnswer kept; ok is false when there is nothing to
// give again.
func loadAnswer(saved []byte) (ans answer, ok bool) {
	head, body, found := bytes.Cut(saved, []byte("\n"))
	if json.Unmarshal(head, &ans) != nil || !found {
		return ans, false
	}
	ans.Body = body
	return ans, true
}

// replay gives the first answer again. done is false when that was never
// recorded, or was a final job: then the job is answered as it stands now. Of a
// job that is no more nobody is told that it was accepted.
func (a *API) replay(c echo.Context, accepted tasks.Accepted) (done bool, err error) {
	if accepted.Job.ID == "" || accepted.Job.Status == "" {
		return true, fault.Fail(fault.NotFound, "The job of this Idempotency-Key has outlived its time; send it with another key to run it again.")
	}
	if ans, ok := loadAnswer(accepted.Answer); ok {
		return true, ans.write(c)
	}
	return false, nil
}

// waiting says what a job waits for; nil for nothing, or when it cannot be told.
func (a *API) waiting(ctx context.Context, job *tasks.Job) *tasks.Waiting {
	if job.Status.Final() || job.Status == tasks.StatusRunning {
		return nil
	}
	w, err := a.Pools.Waiting(ctx, *job)
	if err != nil {
		return nil
	}
	return &w
}

// objectID returns the path's id, or a 404 for one that no object can have.
func objectID(c echo.Context, prefix string) (string, error) {
	id := c.Param("id")
	if !isObjectID(id, prefix) {
		return "", tasks.ErrNotFound
	}
	return id, nil
}

func isObjectID(id, prefix string) bool {
	return len(id) <= 64 && strings.HasPrefix(id, prefix) && isToken(id)
}

// getJob is GET /v1/jobs/{id}.
func (a *API) getJob(c echo.Context) error {
	var job tasks.Job
	err := a.poll(c, "job_", &job, func(ctx context.Context, tenant, id string) (_ bool, err error) {
		job, err = a.Jobs.Job(ctx, tenant, id)
		return job.Status.Final(), err
	})
	if err != nil {
		return err
	}
	return a.writeJob(c, &job)
}

// poll reads the object that the path names, by read, which reports whether it
// has ended, and waits for its end as long as ?wait=N says. Where a notice of
// the end brings the job, it is laid down in job; nil: it brings none.
func (a *API) poll(c echo.Context, prefix string, job *tasks.Job, read func(ctx context.Context, tenant, id string) (ended bool, err error)) error {
	ctx, tenant := c.Request().Context(), exchangeOf(c).caller.Tenant
	id, err := objectID(c, prefix)
	if err != nil {
		return err
	}
	q, err := query(c.Request(), "wait")
	if err != nil {
		return err
	}
	wait, err := queryWait(q)
	if err != nil {
		return err
	}
	extendWrite(c, wait)
	return a.await(ctx, tenant, id, wait, job, func() (bool, error) { return read(ctx, tenant, id) })
}

// writeJob answers with the job, or with 304 when the caller has it.
func (a *API) writeJob(c echo.Context, job *tasks.Job) error {
	w := a.waiting(c.Request().Context(), job)
	etag, h := a.jobETag(job, w), c.Response().Header()
	h.Set("ETag", etag)
	h.Set("Cache-Control", "private, no-cache")
	if c.Request().Method == http.MethodGet && matches(c.Request().Header, etag) {
		c.Response().WriteHeader(http.StatusNotModified)
		return nil
	}
	writeJSON(c.Response(), http.StatusOK, append(a.job(make([]byte, 0, 1024+len(job.Result)), job, w), '\n'))
	return nil
}

// listJobs is GET /v1/jobs. A list shows no results: they are read one by one.
func (a *API) listJobs(c echo.Context) error {
	ctx := c.Request().Context()
	q, err := query(c.Request(), "status", "model", "batch", "limit", "after")
	if err != nil {
		return err
	}
	f := tasks.Filter{
		Tenant: exchangeOf(c).caller.Tenant, Status: tasks.Status(q.Get("status")),
		Model: q.Get("model"), Batch: q.Get("batch"), After: q.Get("after"),
	}
	if f.Limit, err = queryInt(q, "limit", 20, 1, 100); err != nil {
		return err
	}
	switch {
	case f.Status != "" && !f.Status.Valid():
		return fault.Fail(fault.InvalidRequest, `The query parameter "status" must be a job's status.`)
	case f.Batch != "" && !isObjectID(f.Batch, "batch_"):
		return fault.Fail(fault.InvalidRequest, `The query parameter "batch" must be a batch's id.`)
	case f.After != "" && !isObjectID(f.After, "job_"):
		return fault.Fail(fault.InvalidRequest, `The query parameter "after" must be the "next" of the page before.`)
	case len(f.Model) > maxModel:
		return fault.Fail(fault.InvalidRequest, `The query parameter "model" is too long.`)
	}
	page, err := a.Jobs.Jobs(ctx, f)
	if err != nil {
		return err
	}
	b := []byte(`{"data":[`)
	for i := range page.Jobs {
		if i > 0 {
			b = append(b, ',')
		}
		b = a.job(b, &page.Jobs[i], a.waiting(ctx, &page.Jobs[i]))
	}
	b = append(b, `],"has_more":`...)
	b = strconv.AppendBool(b, page.HasMore)
	b = append(b, `,"next":`...)
	if page.HasMore && page.Next != "" {
		b = jsonwrite.AppendString(b, page.Next)
	} else {
		b = append(b, "null"...)
	}
	writeJSON(c.Response(), http.StatusOK, append(b, "}\n"...))
	return nil
}

// cancelJob is POST /v1/jobs/{id}/cancel.
func (a *API) cancelJob(c echo.Context) error { return a.move(c, a.Jobs.Cancel) }

// retryJob is POST /v1/jobs/{id}/retry. It takes of every quota what a submit
// takes, because it costs what one costs.
func (a *API) retryJob(c echo.Context) error {
	return a.move(c, func(ctx context.Context, tenant, id string) (tasks.Job, error) {
		grant, err := a.admit(ctx, tenant)
		if err != nil {
			return tasks.Job{}, err
		}
		job, err := a.Jobs.Retry(ctx, tenant, id, grant.Limits)
		if err != nil {
			a.refund(ctx, tenant)
			return tasks.Job{}, err
		}
		a.tellQuotas(ctx, c.Response().Header(), tenant, grant)
		return job, nil
	})
}

func (a *API) move(c echo.Context, move func(ctx context.Context, tenant, id string) (tasks.Job, error)) error {
	id, err := objectID(c, "job_")
	if err != nil {
		return err
	}
	job, err := move(c.Request().Context(), exchangeOf(c).caller.Tenant, id)
	if err != nil {
		return err
	}
	return a.writeJob(c, &job)
}

// deleteJob is DELETE /v1/jobs/{id}.
func (a *API) deleteJob(c echo.Context) error {
	id, err := objectID(c, "job_")
	if err != nil {
		return err
	}
	if err := a.Jobs.Delete(c.Request().Context(), exchangeOf(c).caller.Tenant, id); err != nil {
		return err
	}
	c.Response().WriteHeader(http.StatusNoContent)
	return nil
}

// extendWrite gives a held request the time that it asked for and some to be
// written in, whatever the server's write timeout.
func extendWrite(c echo.Context, wait time.Duration) {
	if wait > 0 {
		_ = http.NewResponseController(c.Response()).SetWriteDeadline(time.Now().Add(wait + 30*time.Second))
	}
}
