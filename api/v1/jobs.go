package v1

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/header"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

const jsonType = "application/json"

// SubmitJob is POST /v1/jobs.
func (a *API) SubmitJob(c echo.Context) error {
	r, x := c.Request(), a.c.Caller(c)
	ctx, h := r.Context(), c.Response().Header()
	key, err := header.IdempotencyKey(r.Header)
	if err != nil {
		return err
	}
	wait := preferredWait(r.Header)
	handed, err := a.handIn(c, x, key)
	ans, again := firstAnswer(h, handed.Grant, handed.Replayed, handed.Answer)
	if err != nil {
		return err
	}
	if again {
		return ans.write(c)
	}

	// From here on the job is safe, and nothing may end in an error.
	wait = a.apply(c, wait)
	if err := a.desk.Result(ctx, x, &handed, wait); err != nil {
		return err
	}
	ans = a.accepted(ctx, &handed.Job, handed.Waiting)
	switch {
	case handed.Replayed:
		// What this is a repeat of gave, or gives in a moment, an answer of its
		// own: nothing is kept in its place, and without a wait it is a 202.
		if wait == 0 && len(handed.Answer) == 0 {
			ans.Status, ans.RetryAfter = http.StatusAccepted, max(ans.RetryAfter, 1)
		}
	case key != "":
		a.desk.Keep(ctx, x.Tenant, key, handed.Job.ID, ans.kept())
	}
	return ans.write(c)
}

// handIn reads a job and hands it in. Its body is no more of use then, while its caller may
// wait for long.
func (a *API) handIn(c echo.Context, x desk.Caller, key string) (handed desk.Handed, err error) {
	r := c.Request()
	defer wire.Charged(r).Spent()
	body, err := wire.Read(c.Response(), r, a.c.MaxBody, jsonType)
	if err != nil {
		return handed, err
	}
	submission, err := a.submission(r, x.Tenant, body, key)
	if err != nil {
		return handed, err
	}
	handed, err = a.desk.Submit(c.Request().Context(), x, submission)
	handed.Job.Request.Body = nil
	return handed, err
}

// submission reads what is handed in. Nothing else is waited for in the turn to read.
func (a *API) submission(r *http.Request, tenant string, body []byte, key string) (s tasks.Submission, err error) {
	var unread error
	if key != "" { // before the body is another
		f := newFingerprint(r, "/v1/jobs")
		unread = f.add(body, func(bytes int64) error { return wire.Charged(r).Take(r.Context(), bytes) })
		s.Fingerprint = f.String()
	}
	done, err := a.desk.Reading(r.Context(), tenant, len(body))
	if err != nil {
		return s, err
	}
	defer done()
	s.Job, err = decodeSubmit(body, false, a.c.Now())
	if err = cmp.Or(err, unread); err != nil {
		return s, err
	}
	s.Named, s.Key = s.Job.ID != "", key
	return s, header.Provider(r.Header, &s.Job.Request)
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
	ans.RetryAfter = seconds(a.desk.Expected(ctx, job))
	ans.Body = append(a.job(make([]byte, 0, 1024), job, waiting), '\n')
	return ans
}

func (ans *answer) write(c echo.Context) error {
	h := c.Response().Header()
	h.Set("Location", ans.Location)
	if ans.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(ans.RetryAfter, 10))
	}
	wire.JSON(c.Response(), ans.Status, ans.Body)
	return nil
}

// kept is the answer as it is kept. Of a 200 that is only that it was one: a
// final job reads the same ever after, so its result need not be kept twice, nor
// outlive the job's deletion.
func (ans *answer) kept() []byte {
	saved, _ := json.Marshal(ans) // two numbers and a string: it never fails
	if ans.Status != http.StatusOK {
		saved = append(append(saved, '\n'), ans.Body...)
	}
	return saved
}

// firstAnswer sets what every answer to a submit says of the tenant's quotas and of
// being a repeat, and returns what was kept for the repeat; ok is false when there
// is nothing to give again.
func firstAnswer(h http.Header, g quota.Grant, replayed bool, saved []byte) (ans answer, ok bool) {
	setRateLimit(h, g)
	if !replayed {
		return ans, false
	}
	h.Set("Idempotency-Replayed", "true")
	head, body, found := bytes.Cut(saved, []byte("\n"))
	if json.Unmarshal(head, &ans) != nil || !found {
		return answer{}, false
	}
	ans.Body = body
	return ans, true
}

// objectID returns the path's id, or a 404 for one that no object can have.
func objectID(c echo.Context, prefix string) (string, error) {
	id := c.Param("id")
	if !isObjectID(id, prefix) {
		return "", tasks.ErrNotFound
	}
	return id, nil
}

// isToken reports whether s holds only letters, digits, dashes and underscores.
func isToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return s != ""
}

func isObjectID(id, prefix string) bool {
	return len(id) <= 64 && strings.HasPrefix(id, prefix) && isToken(id)
}

// GetJob is GET /v1/jobs/{id}.
func (a *API) GetJob(c echo.Context) error {
	id, wait, err := a.polled(c, "job_")
	if err != nil {
		return err
	}
	job, err := a.desk.AwaitJob(c.Request().Context(), a.c.Caller(c).Tenant, id, wait)
	if err != nil {
		return err
	}
	return a.writeJob(c, &job)
}

// polled returns the object that the path names, and how long it is waited for its end,
// which ?wait=N asks for.
func (a *API) polled(c echo.Context, prefix string) (id string, wait time.Duration, err error) {
	if id, err = objectID(c, prefix); err != nil {
		return "", 0, err
	}
	if wait, err = queryWait(c.QueryParams()); err != nil {
		return "", 0, err
	}
	return id, a.apply(c, wait), nil
}

// writeJob answers with the job, or with 304 when the caller has it.
func (a *API) writeJob(c echo.Context, job *tasks.Job) error {
	w := a.desk.Waiting(c.Request().Context(), job)
	return answerTagged(c, a.jobETag(job, w), func() []byte { return a.job(make([]byte, 0, 1024+len(job.Result)), job, w) })
}

// ListJobs is GET /v1/jobs. A list shows no results: they are read one by one.
func (a *API) ListJobs(c echo.Context) error {
	ctx := c.Request().Context()
	f, err := a.filter(c.QueryParams())
	if err != nil {
		return err
	}
	f.Tenant = a.c.Caller(c).Tenant
	page, err := a.c.Jobs.Jobs(ctx, f)
	if err != nil {
		return err
	}
	return answerPage(c, len(page.Jobs), page.Next, func(b []byte, i int) []byte {
		return a.job(b, &page.Jobs[i], a.desk.Waiting(ctx, &page.Jobs[i]))
	})
}

// names lists words for a reader.
func names[S ~string](words []S) string {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = string(w)
	}
	return strings.Join(list, ", ")
}

// filter reads which jobs are asked for.
func (a *API) filter(q url.Values) (f tasks.Filter, err error) {
	f = tasks.Filter{Status: tasks.Status(q.Get("status")), Model: q.Get("model"), Pool: q.Get("pool"), Batch: q.Get("batch"), After: q.Get("after")}
	switch {
	case f.Status != "" && !f.Status.Valid():
		return f, fault.Fail(fault.InvalidRequest, `The query parameter "status" must be one of %s.`, names(tasks.Statuses))
	case f.Batch != "" && !isObjectID(f.Batch, "batch_"):
		return f, fault.Fail(fault.InvalidRequest, `The query parameter "batch" must be a batch's id.`)
	case f.After != "" && !isObjectID(f.After, "job_"):
		return f, fault.Fail(fault.InvalidRequest, `The query parameter "after" must be the "next" of the page before.`)
	case len(f.Model) > maxModel:
		return f, fault.Fail(fault.InvalidRequest, `The query parameter "model" is too long.`)
	case f.Pool != "" && a.c.Pools.Provider(f.Pool) == "":
		return f, fault.Fail(fault.InvalidRequest, `The query parameter "pool" must be the name of a pool, as in GET /v1/status.`)
	}
	if f.Metadata, err = queryMetadata(q); err != nil {
		return f, err
	}
	if f.Since, f.Until, err = queryTimes(q); err != nil {
		return f, err
	}
	f.Limit, err = queryInt(q, "limit", 20, 1, 100)
	return f, err
}

// CancelJob is POST /v1/jobs/{id}/cancel.
func (a *API) CancelJob(c echo.Context) error { return a.move(c, a.c.Jobs.Cancel) }

// RetryJob is POST /v1/jobs/{id}/retry.
func (a *API) RetryJob(c echo.Context) error {
	return a.move(c, func(ctx context.Context, _, id string) (tasks.Job, error) {
		job, grant, err := a.desk.Retry(ctx, a.c.Caller(c), id)
		setRateLimit(c.Response().Header(), grant)
		if errors.Is(err, tasks.ErrConflict) {
			err = fault.Fail(fault.Conflict, "Only a job that failed, was canceled or expired can be queued again.")
		}
		return job, err
	})
}

func (a *API) move(c echo.Context, move func(ctx context.Context, tenant, id string) (tasks.Job, error)) error {
	id, err := objectID(c, "job_")
	if err != nil {
		return err
	}
	job, err := move(c.Request().Context(), a.c.Caller(c).Tenant, id)
	if err != nil {
		return err
	}
	return a.writeJob(c, &job)
}

// DeleteJob is DELETE /v1/jobs/{id}.
func (a *API) DeleteJob(c echo.Context) error {
	id, err := objectID(c, "job_")
	if err != nil {
		return err
	}
	err = a.c.Jobs.Delete(c.Request().Context(), a.c.Caller(c).Tenant, id)
	if errors.Is(err, tasks.ErrConflict) {
		return fault.Fail(fault.Conflict, "Only a job that has ended can be deleted: cancel it first, by POST /v1/jobs/{id}/cancel.")
	}
	if err != nil {
		return err
	}
	c.Response().WriteHeader(http.StatusNoContent)
	return nil
}

// apply tells the caller what wait it gets, and returns how long to hold the request for
// it: of the longest a fiftieth less, so that the answer is there when a proxy of the same
// patience gives up (HAProxy's package has 50 s). The answer may take that long to be
// written and some more, whatever the server's write timeout.
func (a *API) apply(c echo.Context, wait time.Duration) time.Duration {
	if wait <= 0 {
		return 0
	}
	wait = min(wait, a.c.MaxWait)
	c.Response().Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(wait/time.Second)))
	_ = http.NewResponseController(c.Response()).SetWriteDeadline(time.Now().Add(wait + 30*time.Second))
	if wait == a.c.MaxWait {
		wait -= wait / 50
	}
	return wait
}
