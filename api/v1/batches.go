package v1

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/header"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

const (
	ndjsonType = "application/x-ndjson"
	formBytes  = 1 << 10 // looked at to tell the form of a batch, where its type is not given
)

// SubmitBatch is POST /v1/batches. The body is read, checked and staged line by
// line; nothing of it exists for anybody until the commit.
func (a *API) SubmitBatch(c echo.Context) error {
	r, x := c.Request(), a.c.Caller(c)
	ctx := r.Context()
	key, err := header.IdempotencyKey(r.Header)
	if err != nil {
		return err
	}
	var common tasks.Request
	if err := header.Provider(r.Header, &common); err != nil {
		return err
	}
	leave, err := a.desk.Upload(x.Tenant)
	if err != nil {
		return err
	}
	defer leave()
	body, media, err := wire.Open(c.Response(), r, a.c.MaxBatchBody,
		ndjsonType, "application/ndjson", "application/jsonl", "application/x-jsonlines", jsonType)
	if err != nil {
		return err
	}
	peeked := bufio.NewReaderSize(body, formBytes)
	media, id := batchForm(peeked, media)
	memory := wire.Charged(r)
	in := &intake{api: a, tenant: x.Tenant, memory: memory, common: common, lines: wire.Lines, id: cmp.Or(c.QueryParam("id"), id), keyed: key != "", sum: newFingerprint(r, "/v1/batches")}
	if in.id != "" {
		if err := checkID(in.id, "batch_", a.c.Now()); err != nil {
			return err
		}
	}
	if media == jsonType {
		in.lines = readDocument(in.id)
	}
	handed, err := a.desk.SubmitBatch(ctx, x, desk.Incoming{
		ID: in.id, Key: key, Fingerprint: in.sum.String,
		Read:   func(take takeJob) error { return in.read(ctx, peeked, take) },
		Staged: func(n int) { memory.Give(int64(n)) },
	})
	ans, again := firstAnswer(c.Response().Header(), handed.Grant, handed.Replayed, handed.Answer)
	if err != nil {
		return err
	}
	if again {
		return ans.write(c)
	}
	ans = a.acceptedBatch(ctx, &handed)
	if key != "" && !handed.Replayed {
		a.desk.Keep(ctx, x.Tenant, key, handed.Batch.ID, ans.kept())
	}
	return ans.write(c)
}

// batchForm is the media type of a body, found by how it begins where it is not
// given, and the id that a document begins with.
func batchForm(body *bufio.Reader, media string) (form, id string) {
	start, _ := body.Peek(formBytes) // what is wrong comes again when the body is read
	first, named := firstMember(start)
	if media == "" {
		if media = ndjsonType; first == "jobs" || first == "id" && strings.HasPrefix(named, "batch_") {
			media = jsonType
		}
	}
	if media != jsonType || first != "id" {
		named = ""
	}
	return media, named
}

// firstMember is the name of the first member of a body that begins so, and its value
// where that is a string. It tells the two forms of a batch apart: no line of jobs
// begins with a member "jobs" or a batch's "id".
func firstMember(start []byte) (name, value string) {
	d := jsontext.NewDecoder(wire.Unmarked(bytes.NewReader(start)))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' || d.PeekKind() != '"' {
		return "", ""
	}
	t, err := d.ReadToken()
	if err != nil {
		return "", ""
	}
	if name = t.String(); d.PeekKind() == '"' {
		if t, err := d.ReadToken(); err == nil {
			value = t.String()
		}
	}
	return name, value
}

// acceptedBatch is the answer to an accepted batch. The first result is
// expected when the quickest of its pools gives one.
func (a *API) acceptedBatch(ctx context.Context, h *desk.HandedBatch) answer {
	return answer{
		Status: http.StatusAccepted, Location: a.batchURL(h.Batch.ID),
		RetryAfter: seconds(a.desk.Soonest(ctx, h.Batch.Tenant, h.Pools)),
		Body:       append(a.batch(nil, &h.Batch), '\n'),
	}
}

// takeJob takes in one job of a batch; see [desk.Incoming].
type takeJob = func(line int, job tasks.Job, size int) error

// intake reads the body of one batch.
type intake struct {
	api    *API
	tenant string
	memory wire.Account  // of what was read
	common tasks.Request // the headers that go upstream with every job
	lines  lineReader    // of the body's form
	model  string        // of lines that name none; "": each has to
	id     string        // of the batch, as the caller gave it; "" for none
	keyed  bool          // there is an Idempotency-Key, so the content is digested
	sum    fingerprint
	faulty *FaultyLines // gathers what is wrong with lines; nil: the first ends the reading
}

// lineReader calls each with every job of a body and its line.
type lineReader = func(body io.Reader, longest int64, most int, each func(line int, raw []byte) error) error

// read takes in the whole body.
func (in *intake) read(ctx context.Context, body io.Reader, take takeJob) error {
	err := in.lines(body, in.api.c.MaxBody, in.api.c.MaxBatchLines, func(line int, raw []byte) error {
		if in.faulty != nil && len(in.faulty.Lines) > 0 { // nothing is taken any more
			_, err := in.decode(ctx, bytes.Clone(raw))
			in.memory.Give(int64(len(raw)))
			return in.fault(line, err)
		}
		return in.fault(line, in.job(ctx, line, bytes.Clone(raw), take))
	})
	if in.faulty != nil && len(in.faulty.Lines) > 0 && (err == nil || errors.Is(err, errFaulty)) {
		return in.faulty
	}
	var broken *wire.ReadError
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &broken):
		return wire.Fault(broken.Err, in.api.c.MaxBatchBody)
	}
	return err
}

// errFaulty ends the reading of a body of which more lines are faulty than are named.
var errFaulty = errors.New("too many lines are faulty")

// fault is the error of a line, or nil where what is wrong with lines is gathered and
// the next is to be read.
func (in *intake) fault(line int, err error) error {
	var f *fault.Fault
	if !errors.As(err, &f) {
		return err
	}
	if in.faulty == nil || f.Code != fault.InvalidRequest && f.Code != fault.InvalidJSON && f.Code != fault.ModelNotFound {
		return f.OnLine(line)
	}
	if in.faulty.More = len(in.faulty.Lines) == mostLineFaults; in.faulty.More {
		return errFaulty
	}
	in.faulty.Lines = append(in.faulty.Lines, LineFault{Line: line, Detail: f.Detail})
	return nil
}

// job takes in one line, which it keeps.
func (in *intake) job(ctx context.Context, line int, raw []byte, take takeJob) error {
	job, err := in.decode(ctx, raw)
	if err != nil {
		return err
	}
	if in.keyed {
		var noted int64
		err := in.sum.add(raw, func(bytes int64) error {
			err := in.memory.Take(ctx, bytes)
			if err == nil {
				noted += bytes
			}
			return err
		})
		if noted > 0 {
			in.memory.Give(noted)
		}
		if err != nil {
			return err
		}
	}
	job.Request.Version, job.Request.Beta, job.Request.OpenAI = in.common.Version, in.common.Beta, in.common.OpenAI
	return take(line, job, len(raw))
}

// decode reads one line.
func (in *intake) decode(ctx context.Context, raw []byte) (tasks.Job, error) {
	done, err := in.api.desk.Reading(ctx, in.tenant, len(raw))
	if err != nil {
		return tasks.Job{}, err
	}
	defer done()
	return decodeLine(raw, in.model, in.api.c.Now())
}

// ListBatches is GET /v1/batches.
func (a *API) ListBatches(c echo.Context) (err error) {
	q := c.QueryParams()
	f := tasks.BatchFilter{Tenant: a.c.Caller(c).Tenant, Status: tasks.BatchStatus(q.Get("status")), After: q.Get("after")}
	switch {
	case f.Status != "" && !f.Status.Valid():
		return fault.Fail(fault.InvalidRequest, `The query parameter "status" must be a batch's status.`)
	case f.After != "" && !isObjectID(f.After, "batch_"):
		return fault.Fail(fault.InvalidRequest, `The query parameter "after" must be the "next" of the page before.`)
	}
	if f.Since, f.Until, err = queryTimes(q); err != nil {
		return err
	}
	if f.Limit, err = queryInt(q, "limit", 20, 1, 100); err != nil {
		return err
	}
	page, err := a.c.Batches.Batches(c.Request().Context(), f)
	if err != nil {
		return err
	}
	return answerPage(c, len(page.Batches), page.Next, func(b []byte, i int) []byte { return a.batch(b, &page.Batches[i]) })
}

// GetBatch is GET /v1/batches/{id}.
func (a *API) GetBatch(c echo.Context) error {
	id, wait, err := a.polled(c, "batch_")
	if err != nil {
		return err
	}
	g, err := a.desk.AwaitBatch(c.Request().Context(), a.c.Caller(c).Tenant, id, wait)
	if err != nil {
		return err
	}
	return a.writeBatch(c, &g)
}

func (a *API) writeBatch(c echo.Context, g *tasks.Batch) error {
	body := a.batch(nil, g)
	return answerTagged(c, wire.ETag(body), func() []byte { return body })
}

// CancelBatch is POST /v1/batches/{id}/cancel.
func (a *API) CancelBatch(c echo.Context) error {
	id, err := objectID(c, "batch_")
	if err != nil {
		return err
	}
	g, err := a.c.Batches.CancelBatch(c.Request().Context(), a.c.Caller(c).Tenant, id)
	if err != nil {
		return err
	}
	return a.writeBatch(c, &g)
}

// BatchResults is GET /v1/batches/{id}/results: a line for each job that is
// final, in the order of the batch's lines. An answer that cannot be finished
// is broken off, so that it does not look whole.
func (a *API) BatchResults(c echo.Context) error {
	ctx, tenant := c.Request().Context(), a.c.Caller(c).Tenant
	id, err := objectID(c, "batch_")
	if err != nil {
		return err
	}
	if _, err := a.c.Batches.Batch(ctx, tenant, id); err != nil {
		return err
	}
	out := wire.NewOutflow(c.Response(), c.Request(), ndjsonType, a.c.Caller(c).Request, a.c.Log)
	var b []byte
	for next, more := 0, true; more; more = more && next > 0 {
		var jobs []tasks.Job
		if jobs, next, err = a.c.Batches.BatchResults(ctx, tenant, id, next); err != nil {
			return out.Fail(err)
		}
		b = b[:0]
		for i := range jobs {
			b = resultLine(b, &jobs[i], "")
		}
		more = out.Write(b)
	}
	return nil
}
