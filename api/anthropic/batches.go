package anthropic

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/relay"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// Batches is what the form asks of the store about batches. Another tenant's is
// tasks.ErrNotFound.
type Batches interface {
	Batches(ctx context.Context, f tasks.BatchFilter) (tasks.BatchPage, error)
	Batch(ctx context.Context, tenant, id string) (tasks.Batch, error)
	// BatchResults returns the next final jobs of a batch, from the line next on, and
	// where to go on; 0: nowhere.
	BatchResults(ctx context.Context, tenant, id string, from int) (jobs []tasks.Job, next int, err error)
	// CancelBatch ends what of a batch has not ended; tasks.ErrFinal when all has.
	CancelBatch(ctx context.Context, tenant, id string) (tasks.Batch, error)
	// DeleteBatch forgets an ended batch with its jobs, else it is tasks.ErrConflict.
	DeleteBatch(ctx context.Context, tenant, id string) error
}

// A batch in Anthropic's form is a view of one of ours: its id has another prefix before
// the same ULID, and ours is what the console, webhooks and /v1 call it
// (platform.claude.com/docs/en/api/creating-message-batches).
const (
	batchPrefix = "msgbatch_"
	ourPrefix   = "batch_"
	batchesPath = "/v1/messages/batches"
	batchLasts  = 24 * time.Hour // until what has not ended expires
)

var isULID = regexp.MustCompile("^[0-9A-Z]{26}$").MatchString

// ours is our id of a batch; false: no batch has that one.
func ours(id string) (string, bool) {
	ulid, named := strings.CutPrefix(id, batchPrefix)
	return ourPrefix + ulid, named && isULID(ulid)
}

func theirs(id string) string { return batchPrefix + strings.TrimPrefix(id, ourPrefix) }

// named is the batch that the path names. One of another provider's is none.
func (a *API) named(c echo.Context) (tasks.Batch, error) {
	id, ok := ours(c.Param("id"))
	if !ok {
		return tasks.Batch{}, tasks.ErrNotFound
	}
	g, err := a.c.Batches.Batch(c.Request().Context(), a.c.Caller(c).Tenant, id)
	if err == nil && g.Dialect != a.form.Dialect {
		err = tasks.ErrNotFound
	}
	return g, err
}

// CreateBatch is POST /anthropic/v1/messages/batches. The body is read and staged request
// by request; nothing of it exists for anybody until all of it was read.
func (a *API) CreateBatch(c echo.Context) error {
	r, x := c.Request(), a.c.Caller(c)
	ctx := r.Context()
	said, err := relay.ReadBatch(r.Header)
	if err != nil {
		return err
	}
	if err := a.c.Desk.InTime(said.Each.Deadline, said.Key, said.Repeat); err != nil {
		return err
	}
	leave, err := a.c.Desk.Upload(x.Tenant)
	if err != nil {
		return err
	}
	defer leave()
	body, _, err := wire.Open(c.Response(), r, a.c.MaxBatchBody, "application/json")
	if err != nil {
		return err
	}
	sum, memory := relay.Digest(r, "anthropic"+batchesPath), wire.Charged(r)
	digest := func() string { return hex.EncodeToString(sum.Sum(nil)) }
	in := desk.Incoming{
		Key: said.Key, Fingerprint: digest, Dialect: a.form.Dialect, Lasts: batchLasts, Repeat: said.Repeat,
		Faulty: func(f *fault.Fault) *tasks.JobError { return faulty(f, x.Request) },
		Read: func(take func(line int, job tasks.Job, size int) error) error {
			return a.readBatch(ctx, x.Tenant, io.TeeReader(body, sum), said.Each, x.Request, take)
		},
		Staged: func(n int) { memory.Give(int64(n)) },
	}
	if said.Dedup {
		in.Digest = digest
	}
	h, err := a.c.Desk.SubmitBatch(ctx, x, in)
	if err != nil {
		return err
	}
	if h.Replayed {
		c.Response().Header().Set("Idempotency-Replayed", "true")
	}
	a.answer(c, &h.Batch)
	if ctx.Err() == nil {
		h.Sent(ctx)
	}
	return nil
}

// readBatch calls take with the job of each request.
func (a *API) readBatch(ctx context.Context, tenant string, body io.Reader, each tasks.Job, request string, take func(line int, job tasks.Job, size int) error) error {
	list := wire.List{Members: []string{"requests"}, Longest: a.c.MaxBody, Most: a.c.MaxBatchLines}
	err := list.Read(body, func(line int, raw []byte) error {
		done, err := a.c.Desk.Reading(ctx, tenant, len(raw))
		if err != nil {
			return err
		}
		job, err := decodeRequest(raw, each, request)
		done()
		if err == nil {
			err = take(line, job, len(raw))
		}
		var f *fault.Fault
		if errors.As(err, &f) && f.Line == 0 {
			return f.OnLine(line)
		}
		return err
	})
	var broken *wire.ReadError
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &broken):
		return wire.Fault(broken.Err, a.c.MaxBatchBody)
	}
	return err
}

// faulty is the error of a request of a batch that is not sent to the provider: what its
// line of the results says, under the id of the request that brought it.
func faulty(f *fault.Fault, request string) *tasks.JobError {
	kind := "invalid_request_error"
	if f.Code == fault.ModelNotFound {
		kind = "not_found_error"
	}
	return &tasks.JobError{
		Code: tasks.UpstreamRejected, Message: "It was not sent to the provider: " + f.Detail,
		Body: string(bytes.TrimSpace(envelope(kind, f.Detail, request))),
	}
}

// CancelBatch is POST /anthropic/v1/messages/batches/{id}/cancel. It answers with the
// batch as it is at the moment of the asking, canceling, also where nothing of it is left
// to be waited for; a repeat, with the batch as it is.
func (a *API) CancelBatch(c echo.Context) error {
	g, err := a.named(c)
	if err != nil {
		return err
	}
	g, err = a.c.Batches.CancelBatch(c.Request().Context(), g.Tenant, g.ID)
	if errors.Is(err, tasks.ErrFinal) {
		if g, err = a.named(c); err == nil && g.CancelingAt.IsZero() {
			return fault.Fail(fault.InvalidRequest, "The batch has ended: there is nothing to cancel.")
		}
		if err != nil {
			return err
		}
		a.answer(c, &g)
		return nil
	}
	if err != nil {
		return err
	}
	g.Status = tasks.BatchCanceling
	a.answer(c, &g)
	return nil
}

// DeleteBatch is DELETE /anthropic/v1/messages/batches/{id}.
func (a *API) DeleteBatch(c echo.Context) error {
	g, err := a.named(c)
	if err != nil {
		return err
	}
	err = a.c.Batches.DeleteBatch(c.Request().Context(), g.Tenant, g.ID)
	if errors.Is(err, tasks.ErrConflict) {
		return fault.Fail(fault.InvalidRequest, "The batch has not ended: cancel it, or wait for its end, before you delete it.")
	}
	if err != nil {
		return err
	}
	var o jsonwrite.Object
	o.Str("id", theirs(g.ID))
	o.Str("type", "message_batch_deleted")
	a.write(c, append(o.End(), '\n'))
	return nil
}

// GetBatch is GET /anthropic/v1/messages/batches/{id}.
func (a *API) GetBatch(c echo.Context) error {
	g, err := a.named(c)
	if err != nil {
		return err
	}
	a.answer(c, &g)
	return nil
}

// ListBatches is GET /anthropic/v1/messages/batches: those all of whose requests went to
// providers of this form, in whichever they were made.
func (a *API) ListBatches(c echo.Context) error {
	limit, after, before, err := page(c)
	if err != nil {
		return err
	}
	f := tasks.BatchFilter{Tenant: a.c.Caller(c).Tenant, Dialect: a.form.Dialect, Limit: limit}
	if f.After, err = cursor(after); err != nil {
		return err
	}
	if f.Before, err = cursor(before); err != nil {
		return err
	}
	found, err := a.c.Batches.Batches(c.Request().Context(), f)
	if err != nil {
		return err
	}
	var o jsonwrite.Object
	o.List("data", len(found.Batches), func(b []byte, i int) []byte { return a.view(b, &found.Batches[i]) })
	o.Bool("has_more", found.HasMore)
	first, last := "", ""
	if n := len(found.Batches); n > 0 {
		first, last = theirs(found.Batches[0].ID), theirs(found.Batches[n-1].ID)
	}
	o.Optional("first_id", first)
	o.Optional("last_id", last)
	a.write(c, append(o.End(), '\n'))
	return nil
}

// cursor is our id of a batch that a page begins behind; "" for none.
func cursor(id string) (string, error) {
	if id == "" {
		return "", nil
	}
	found, ok := ours(id)
	if !ok {
		return "", fault.Fail(fault.InvalidRequest, "after_id and before_id must be ids of batches, as in last_id and first_id of a page.")
	}
	return found, nil
}

// answer writes a batch.
func (a *API) answer(c echo.Context, g *tasks.Batch) {
	if counts, err := json.Marshal(g.Counts); err == nil {
		c.Response().Header()["Sluice-Batch-Counts"] = []string{string(counts)}
	}
	a.write(c, append(a.view(nil, g), '\n'))
}

func (a *API) write(c echo.Context, body []byte) {
	c.Response().Header()[a.form.RequestID] = []string{a.c.Caller(c).Request}
	wire.JSON(c.Response(), http.StatusOK, body)
}

// view appends a batch in Anthropic's form. Until it has ended, all of its requests count
// as processing, as they do there.
func (a *API) view(b []byte, g *tasks.Batch) []byte {
	n := tasks.Counts{Queued: g.Counts.Total}
	ended, results := time.Time{}, ""
	if g.Status == tasks.BatchEnded {
		n, ended = g.Counts, g.EndedAt
		results = a.c.PublicURL + "/anthropic" + batchesPath + "/" + theirs(g.ID) + "/results"
	}
	o := jsonwrite.Object{B: b}
	o.Str("id", theirs(g.ID))
	o.Str("type", "message_batch")
	o.Str("processing_status", string(g.Status))
	o.Within("request_counts", func(o *jsonwrite.Object) {
		o.Num("processing", n.Queued+n.Running)
		o.Num("succeeded", n.Succeeded)
		o.Num("errored", n.Failed)
		o.Num("canceled", n.Canceled)
		o.Num("expired", n.Expired)
	})
	o.Time("created_at", g.CreatedAt)
	o.Time("expires_at", g.CreatedAt.Add(batchLasts))
	o.Time("ended_at", ended)
	o.Time("cancel_initiated_at", g.CancelingAt)
	o.Null("archived_at") // a batch whose results are gone is gone as well
	o.Optional("results_url", results)
	return o.End()
}

// BatchResults is GET /anthropic/v1/messages/batches/{id}/results: a line for each
// request, in their order. An answer that cannot be finished is broken off, so that it
// does not look whole.
func (a *API) BatchResults(c echo.Context) error {
	x := a.c.Caller(c)
	g, err := a.named(c)
	if err != nil {
		return err
	}
	ctx, w := c.Request().Context(), c.Response()
	if g.Status != tasks.BatchEnded {
		return fault.Fail(fault.InvalidRequest, "The batch has not ended: its results are here once its processing_status is ended.")
	}
	w.Header()[a.form.RequestID] = []string{x.Request}
	out := wire.NewOutflow(w, c.Request(), "application/x-jsonl", x.Request, a.c.Log)
	var b []byte
	for next, more := 0, true; more; more = more && next > 0 {
		var jobs []tasks.Job
		if jobs, next, err = a.c.Batches.BatchResults(ctx, x.Tenant, g.ID, next); err != nil {
			return out.Fail(err)
		}
		b = b[:0]
		for i := range jobs {
			b = result(b, &jobs[i])
		}
		more = out.Write(b)
	}
	return nil
}

// result appends the line of a job that has ended.
func result(b []byte, j *tasks.Job) []byte {
	o := jsonwrite.Object{B: b}
	o.Str("custom_id", j.CustomID)
	o.Within("result", func(o *jsonwrite.Object) {
		switch j.Status {
		case tasks.StatusSucceeded:
			o.Str("type", "succeeded")
			o.Name("message")
			o.B = append(o.B, oneLine(j.Result)...)
		case tasks.StatusCanceled, tasks.StatusExpired:
			o.Str("type", string(j.Status))
		default:
			o.Str("type", "errored")
			o.Name("error")
			o.B = append(o.B, errored(j)...)
		}
	})
	return append(o.End(), '\n')
}

// errored is the envelope of a failed job: the provider's own where there is one in this
// form.
func errored(j *tasks.Job) []byte {
	request := ""
	if n := len(j.Log); n > 0 {
		request = j.Log[n-1].RequestID
	}
	if e := j.Error; e != nil && e.Body != "" && ownEnvelope(e.Body) {
		return oneLine([]byte(e.Body))
	}
	told := *j
	if told.Error != nil {
		bare := *told.Error
		bare.Body, told.Error = "", &bare
	}
	_, body := failed(&told, request)
	return bytes.TrimSpace(body)
}

// ownEnvelope reports whether a body is an error in this form.
func ownEnvelope(body string) bool {
	var e struct {
		Type  string          `json:"type"`
		Error json.RawMessage `json:"error"`
	}
	return json.Unmarshal([]byte(body), &e) == nil && e.Type == "error" && len(e.Error) > 0 && e.Error[0] == '{'
}

// oneLine returns a JSON value without line breaks between its tokens. Strings and
// numbers stay as they are written.
func oneLine(v []byte) []byte {
	if bytes.IndexByte(v, '\n') < 0 && bytes.IndexByte(v, '\r') < 0 {
		return v
	}
	c := jsontext.Value(bytes.Clone(v))
	if err := c.Compact(); err != nil {
		return []byte("null")
	}
	return c
}

var isCustomID = regexp.MustCompile("^[a-zA-Z0-9_-]{1,64}$").MatchString

// decodeRequest reads one request of a batch. What is wrong with its form refuses the
// batch; what is wrong in its params becomes the error of its own line.
func decodeRequest(raw []byte, each tasks.Job, request string) (job tasks.Job, err error) {
	job = each
	job.Bytes = int64(len(raw))
	r, err := jsonread.New(raw)
	if err != nil {
		return job, wire.Told(err)
	}
	var params []byte
	err = r.Object(func(name string) (err error) {
		switch name {
		case "custom_id":
			job.CustomID, err = r.Text(name)
		case "params":
			params, err = r.Raw()
		default:
			err = jsonread.Unknown(name)
		}
		return err
	})
	switch {
	case err != nil:
		return job, wire.Told(err)
	case !isCustomID(job.CustomID):
		return job, fault.Fail(fault.InvalidRequest, `The member "custom_id" must be 1 to 64 letters, digits, dashes and underscores.`)
	case params == nil:
		return job, fault.Fail(fault.InvalidRequest, `The member "params" is missing.`)
	}
	job.Request.Body = bytes.Clone(params)
	var f *fault.Fault
	if err := readParams(&job); errors.As(err, &f) {
		job.Error = faulty(f, request)
	} else if err != nil {
		return job, err
	}
	return job, nil
}
