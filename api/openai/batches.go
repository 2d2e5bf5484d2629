package openai

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

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
	// BatchResults returns the next final jobs of the batch with their results, from
	// the position from on, and the position to go on from, 0 at the end.
	BatchResults(ctx context.Context, tenant, id string, from int) (jobs []tasks.Job, next int, err error)
	// CancelBatch is tasks.ErrFinal for one that has ended.
	CancelBatch(ctx context.Context, tenant, id string) (tasks.Batch, error)
}

const (
	batchWord = "batch_"
	// window is how long the jobs of a batch have.
	window = 24 * time.Hour
	// batchKept is how long is kept what a batch has beside our own.
	batchKept = 30 * 24 * time.Hour
)

// extra is what a batch has beside our own.
type extra struct {
	Endpoint string          `json:"endpoint"`
	Input    string          `json:"input"`
	Created  int64           `json:"created"` // unix seconds
	Canceled int64           `json:"canceled,omitempty"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
	Outputs  int64           `json:"outputs,omitempty"` // seconds that its files of results last; 0: as long as they are kept
	Faults   faults          `json:"faults,omitempty"`  // for which it has failed
}

// batch is a batch as the form shows it.
type batch struct {
	extra
	tasks.Batch
}

// has reports whether a batch that has ended has a file of results, or of failures.
func (b *batch) has(failed bool) bool {
	n := b.Counts.Succeeded
	if failed {
		n = b.Counts.Failed + b.Counts.Expired + b.Counts.Canceled
	}
	return b.Status == tasks.BatchEnded && n > 0
}

// outputsEnd is when the files of a batch's results end.
func (b *batch) outputsEnd() time.Time {
	if end := b.EndedAt.Add(time.Duration(b.Outputs) * time.Second); b.Outputs > 0 && end.Before(b.ExpiresAt) {
		return end
	}
	return b.ExpiresAt
}

// serves reports whether a batch's file of results, or of failures, can be read.
func (a *API) serves(b *batch, failed bool) bool {
	return b.has(failed) && (b.Outputs == 0 || a.c.Now().Before(b.outputsEnd()))
}

// virtual is a file that a batch's results are read from.
type virtual struct {
	batch  string
	failed bool // it has the lines without a result
}

const (
	outputWord = "file-out-"
	errorWord  = "file-err-"
)

func virtualFile(id string) (virtual, bool) {
	if rest, ok := strings.CutPrefix(id, outputWord); ok {
		return virtual{batchWord + rest, false}, true
	}
	rest, ok := strings.CutPrefix(id, errorWord)
	return virtual{batchWord + rest, true}, ok
}

// describe is the file; how many bytes it has is not known before it is read.
func (v virtual) describe(b *batch) *file {
	name := "_output.jsonl"
	if v.failed {
		name = "_error.jsonl"
	}
	return &file{Name: b.ID + name, Purpose: "batch_output", Created: b.EndedAt.Unix(), Expires: b.outputsEnd().Unix()}
}

// CreateBatch is POST /openai/v1/batches. A faulty file makes a batch that has failed.
func (a *API) CreateBatch(c echo.Context) error {
	r, x := c.Request(), a.c.Caller(c)
	said, e, sum, err := a.readBatch(c)
	if err != nil {
		return err
	}
	_, f, err := a.uploaded(r.Context(), x.Tenant, e.Input)
	if err != nil {
		return err
	}
	b := batch{extra: e}
	var h desk.HandedBatch
	if b.Faults = f.Faults; len(b.Faults) == 0 {
		h, err = a.submit(r.Context(), x, said, sum, &b.extra, f.Bytes)
		if err != nil && len(b.Faults) == 0 {
			return err
		}
		if b.Batch = h.Batch; h.Replayed {
			first, err := a.batch(r.Context(), x.Tenant, h.Batch.ID)
			if err != nil {
				return err
			}
			if first.Input != "" {
				defer h.Sent(r.Context())
				return a.write(c, first.show(nil))
			}
		}
	}
	if len(b.Faults) > 0 {
		b.Batch = tasks.Batch{ID: a.c.NewID("batch")}
	}
	if err := a.keepBatch(r.Context(), x.Tenant, &b); err != nil {
		return err
	}
	defer h.Sent(r.Context())
	return a.write(c, b.show(nil))
}

// readBatch reads what is asked for, and what every job of it is to have.
func (a *API) readBatch(c echo.Context) (said relay.Said, e extra, sum string, err error) {
	r := c.Request()
	body, err := wire.Read(c.Response(), r, 1<<20, "application/json")
	if err != nil {
		return said, e, sum, err
	}
	if said, err = relay.ReadBatch(r.Header); err != nil {
		return said, e, sum, err
	}
	if err := a.c.Desk.InTime(said.Each.Deadline, said.Key, said.Repeat); err != nil {
		return said, e, sum, err
	}
	digest := relay.Digest(r, a.form.Dialect+"/batches")
	_, _ = digest.Write(body)
	sum = hex.EncodeToString(digest.Sum(nil))
	var in asked
	if err := in.read(body); err != nil {
		return said, e, sum, err
	}
	e = extra{Endpoint: in.Endpoint, Input: in.Input, Created: a.c.Now().Unix(), Outputs: in.Outputs.Seconds}
	if in.Metadata != nil {
		if e.Metadata, err = json.Marshal(in.Metadata); err != nil {
			return said, e, sum, err
		}
	}
	return said, e, sum, nil
}

// asked is the body of a request that makes a batch.
type asked struct {
	Input    string            `json:"input_file_id"`
	Endpoint string            `json:"endpoint"`
	Window   string            `json:"completion_window"`
	Metadata map[string]string `json:"metadata"`
	Outputs  expiry            `json:"output_expires_after"`
}

// expiry is how long files of results are to last; nothing is as long as they are kept.
type expiry struct {
	Anchor  string `json:"anchor"`
	Seconds int64  `json:"seconds"`
}

func (x expiry) valid() bool {
	return x == expiry{} || x.Anchor == "created_at" && x.Seconds >= 3600 && x.Seconds <= int64(batchKept.Seconds())
}

// read fails with a *fault.Fault.
func (in *asked) read(body []byte) error {
	if err := batchMembers(body); err != nil {
		return wire.Told(err)
	}
	if json.Unmarshal(body, in) != nil {
		return fault.Fail(fault.InvalidRequest, `The body must be an object with "input_file_id", "endpoint" and "completion_window", and perhaps "metadata" with at most 16 strings and "output_expires_after" with "anchor" and "seconds".`)
	}
	_, known := endpoints[in.Endpoint]
	switch {
	case in.Input == "":
		return fault.Fail(fault.InvalidRequest, `The member "input_file_id" is missing.`)
	case !known:
		return fault.Fail(fault.InvalidRequest, `The member "endpoint" must be "/v1/chat/completions", "/v1/responses" or "/v1/embeddings".`)
	case in.Window != "24h":
		return fault.Fail(fault.InvalidRequest, `The member "completion_window" must be "24h".`)
	case len(in.Metadata) > 16 || slices.ContainsFunc(slices.Collect(maps.Keys(in.Metadata)), func(key string) bool {
		return key == "" || utf8.RuneCountInString(key) > 64 || utf8.RuneCountInString(in.Metadata[key]) > 512
	}):
		return fault.Fail(fault.InvalidRequest, `The member "metadata" may have at most 16 pairs, keys of at most 64 characters and values of at most 512.`)
	case !in.Outputs.valid():
		return fault.Fail(fault.InvalidRequest, `The member "output_expires_after" must have the "anchor" "created_at" and "seconds" from 3600 to 2592000.`)
	}
	return nil
}

// batchMembers refuses what is no JSON, and a member that no batch has.
func batchMembers(body []byte) error {
	r, err := jsonread.New(body)
	if err != nil || r.Kind() != '{' {
		return err
	}
	return r.Object(func(name string) error {
		switch name {
		case "input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after":
			return r.Skip()
		}
		return jsonread.Unknown(name)
	})
}

// errFaulty ends the reading of a file in which something is wrong.
var errFaulty = errors.New("the file is faulty")

// submit hands the lines of the batch's file of size bytes in. Of a file that is faulty it sets the
// faults, beside an error.
func (a *API) submit(ctx context.Context, x desk.Caller, said relay.Said, sum string, e *extra, size int64) (desk.HandedBatch, error) {
	common := said.Each
	if common.Deadline.IsZero() {
		common.Deadline = a.c.Now().Add(window)
	}
	read := func(take func(line int, job tasks.Job, size int) error) error {
		file := &content{next: a.chunks(ctx, e.Input, size)}
		err := wire.AllLines(file, a.c.MaxBody, func(line int, raw []byte, _ bool) error {
			done, err := a.c.Desk.Reading(ctx, x.Tenant, len(raw))
			if err != nil {
				return err
			}
			job, url, wrong := readLine(line, bytes.Clone(raw))
			done()
			if wrong == nil && url != e.Endpoint {
				wrong = &lineFault{Code: "mismatched_url", Line: line, Param: "url", Message: "The 'url' must be the batch's 'endpoint'."}
			}
			if wrong != nil {
				e.Faults.add(wrong)
				return nil
			}
			job.Deadline, job.Priority, job.Metadata, job.Fallback = common.Deadline, common.Priority, common.Metadata, common.Fallback
			job.Request.OpenAI = common.Request.OpenAI
			err = take(line, job, len(raw))
			var f *fault.Fault
			if errors.As(err, &f) && (f.Code == fault.ModelNotFound || f.Code == fault.InvalidRequest) {
				e.Faults.add(&lineFault{Code: f.Code, Line: line, Message: f.Detail})
				return nil
			}
			return err
		})
		if err == nil && len(e.Faults) > 0 {
			err = errFaulty
		}
		return err
	}
	digest := func() string { return sum }
	in := desk.Incoming{Dialect: a.form.Dialect, Read: read, Key: said.Key, Fingerprint: digest, Repeat: said.Repeat}
	if said.Dedup {
		in.Digest = digest
	}
	return a.c.Desk.SubmitBatch(ctx, x, in)
}

// keepBatch keeps what a batch has beside our own.
func (a *API) keepBatch(ctx context.Context, tenant string, b *batch) error {
	body, err := json.Marshal(b.extra)
	if err != nil {
		return err
	}
	return a.c.Documents.PutDocument(ctx, tasks.Document{ID: b.ID, Tenant: tenant, Kind: tasks.BatchDocument, Body: body, Expires: batchKept})
}

// batch returns a batch. One that was made in another form has what this one would say.
func (a *API) batch(ctx context.Context, tenant, id string) (batch, error) {
	d, err := a.c.Documents.Document(ctx, tenant, id)
	if errors.Is(err, tasks.ErrNotFound) {
		d, err = tasks.Document{ID: id, Tenant: tenant, Kind: tasks.BatchDocument}, nil
	}
	if err != nil {
		return batch{}, err
	}
	return a.behind(ctx, &d)
}

// behind returns the batch that a document is about.
func (a *API) behind(ctx context.Context, d *tasks.Document) (b batch, err error) {
	gone := fault.Fail(fault.NotFound, "There is no batch of this id.")
	if d.Kind != tasks.BatchDocument {
		return b, gone
	}
	if d.Body != nil {
		if err := json.Unmarshal(d.Body, &b.extra); err != nil {
			return b, err
		}
	}
	if b.ID = d.ID; len(b.Faults) > 0 {
		return b, nil
	}
	b.Batch, err = a.c.Batches.Batch(ctx, tasks.Owner(d.Tenant, d.User), d.ID)
	if errors.Is(err, tasks.ErrNotFound) || err == nil && b.Dialect != a.form.Dialect {
		return b, gone
	}
	if d.Body == nil {
		b.Endpoint, b.Created = "/v1/chat/completions", b.CreatedAt.Unix()
	}
	return b, err
}

// GetBatch is GET /openai/v1/batches/{id}.
func (a *API) GetBatch(c echo.Context) error {
	b, err := a.batch(c.Request().Context(), a.c.Caller(c).Tenant, c.Param("id"))
	if err != nil {
		return err
	}
	return a.write(c, b.show(nil))
}

// ListBatches is GET /openai/v1/batches: those all of whose requests went to providers of
// this form, in whichever they were made, and those that have failed here.
func (a *API) ListBatches(c echo.Context) error {
	limit, err := limitOf(c, 20, 100)
	if err != nil {
		return err
	}
	after, err := afterOf(c, batchWord)
	if err != nil {
		return err
	}
	ctx, tenant := c.Request().Context(), a.c.Caller(c).Tenant
	var p page
	for more := true; more && p.first == ""; after = p.last {
		var ids []string
		if ids, more, err = a.someBatches(ctx, tenant, after, limit); err != nil {
			return err
		}
		for _, id := range ids {
			b, err := a.batch(ctx, tenant, id)
			var f *fault.Fault
			switch p.last = id; {
			case errors.As(err, &f) && f.Code == fault.NotFound: // its results have outlived their time
			case err != nil:
				return err
			default:
				p.add(id, b.show(nil))
			}
		}
		p.more = more
	}
	return a.write(c, p.end())
}

// someBatches returns the ids of the next batches after one, newest first, and whether
// there are more: those that are, and those of which there is a document alone.
func (a *API) someBatches(ctx context.Context, tenant, after string, limit int) (ids []string, more bool, err error) {
	are, err := a.c.Batches.Batches(ctx, tasks.BatchFilter{Tenant: tenant, Dialect: a.form.Dialect, After: after, Limit: limit})
	if err != nil {
		return nil, false, err
	}
	for i := range are.Batches {
		ids = append(ids, are.Batches[i].ID)
	}
	documents, more, err := a.c.Documents.Documents(ctx, tasks.DocumentFilter{Tenant: tenant, Kind: tasks.BatchDocument, After: after, Limit: limit})
	if err != nil {
		return nil, false, err
	}
	for i := range documents {
		ids = append(ids, documents[i].ID)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	slices.Reverse(ids)
	if len(ids) > limit {
		ids, more = ids[:limit], true
	}
	return ids, more || are.HasMore, nil
}

// CancelBatch is POST /openai/v1/batches/{id}/cancel. A repeat answers the same.
func (a *API) CancelBatch(c echo.Context) error {
	ctx, tenant := c.Request().Context(), a.c.Caller(c).Tenant
	b, err := a.batch(ctx, tenant, c.Param("id"))
	if err != nil {
		return err
	}
	if b.Canceled == 0 && (b.Status == tasks.BatchEnded || len(b.Faults) > 0) {
		return fault.Fail(fault.Conflict, "The batch has ended already.")
	}
	if b.Canceled == 0 {
		b.Canceled = a.c.Now().Unix()
		if err := a.keepBatch(ctx, tenant, &b); err != nil {
			return err
		}
	}
	if b.Status != tasks.BatchEnded {
		after, err := a.c.Batches.CancelBatch(ctx, tenant, b.ID)
		if errors.Is(err, tasks.ErrFinal) {
			after, err = a.c.Batches.Batch(ctx, tenant, b.ID)
		}
		if err != nil {
			return err
		}
		b.Batch = after
	}
	return a.write(c, b.show(nil))
}

// stands is the batch's status in OpenAI's words, and the member with the time of its end.
func (b *batch) stands() (status, end string) {
	switch {
	case len(b.Faults) > 0:
		return "failed", "failed_at"
	case b.Status == tasks.BatchEnded && b.Canceled > 0 && b.Counts.Canceled > 0:
		return "cancelled", "cancelled_at"
	case b.Status == tasks.BatchEnded && b.Counts.Expired > 0:
		return "expired", "expired_at"
	case b.Status == tasks.BatchEnded:
		return "completed", "completed_at"
	case b.Canceled > 0, b.Status == tasks.BatchCanceling:
		return "cancelling", ""
	}
	return "in_progress", ""
}

// show appends the batch as OpenAI does.
func (b *batch) show(out []byte) []byte {
	status, end := b.stands()
	o := jsonwrite.Object{B: out}
	o.Str("id", b.ID)
	o.Str("object", "batch")
	o.Str("endpoint", b.Endpoint)
	if len(b.Faults) == 0 {
		o.Null("errors")
	} else {
		o.Within("errors", func(o *jsonwrite.Object) {
			o.Str("object", "list")
			o.List("data", len(b.Faults), func(out []byte, i int) []byte { return b.Faults[i].show(out) })
		})
	}
	o.Str("input_file_id", b.Input)
	o.Str("completion_window", "24h")
	o.Str("status", status)
	suffix := strings.TrimPrefix(b.ID, batchWord)
	for _, f := range []struct {
		member, word string
		failed       bool
	}{{"output_file_id", outputWord, false}, {"error_file_id", errorWord, true}} {
		if b.has(f.failed) {
			o.Str(f.member, f.word+suffix)
		} else {
			o.Null(f.member)
		}
	}
	o.Num("created_at", b.Created)
	ended := b.EndedAt.Unix()
	if status == "failed" {
		ended = b.Created
		o.Null("in_progress_at")
	} else {
		o.Num("in_progress_at", b.Created)
	}
	o.Num("expires_at", b.Created+int64(window.Seconds()))
	o.Null("finalizing_at")
	for _, member := range []string{"completed_at", "failed_at", "expired_at", "cancelled_at"} {
		if member == end {
			o.Num(member, ended)
		} else {
			o.Null(member)
		}
	}
	o.OptionalNum("cancelling_at", b.Canceled)
	o.Within("request_counts", func(o *jsonwrite.Object) {
		o.Num("total", b.Counts.Total)
		o.Num("completed", b.Counts.Succeeded)
		o.Num("failed", b.Counts.Failed+b.Counts.Expired)
	})
	if b.Metadata == nil {
		o.Null("metadata")
	} else {
		o.Name("metadata")
		o.B = append(o.B, b.Metadata...)
	}
	return o.End()
}

func (f *lineFault) show(out []byte) []byte {
	o := jsonwrite.Object{B: out}
	o.Str("code", f.Code)
	o.OptionalNum("line", int64(f.Line))
	o.Str("message", f.Message)
	o.Optional("param", f.Param)
	return o.End()
}

// resultLines are the lines of a file of results, or of failures, for some jobs.
func resultLines(jobs []tasks.Job, failures bool) (out []byte) {
	for i := range jobs {
		if job := &jobs[i]; (job.Status != tasks.StatusSucceeded) == failures {
			out = append(resultLine(out, job), '\n')
		}
	}
	return out
}

func resultLine(out []byte, job *tasks.Job) []byte {
	o := jsonwrite.Object{B: out}
	o.Str("id", "batch_req_"+strings.TrimPrefix(job.ID, jobWord))
	o.Str("custom_id", job.CustomID)
	status, body := http.StatusOK, []byte(job.Result)
	switch {
	case job.Status == tasks.StatusSucceeded && job.Request.Endpoint == tasks.Responses:
		body = ownResult(job)
	case job.Status == tasks.StatusSucceeded:
	case job.Error != nil && job.Error.UpstreamStatus >= 400:
		status, body = failed(job, "")
	default:
		status = 0
	}
	if status == 0 {
		o.Null("response")
		o.Within("error", func(o *jsonwrite.Object) {
			code, message := "server_error", failure(job)
			switch job.Status {
			case tasks.StatusExpired:
				code, message = "batch_expired", "This request could not be executed before the completion window expired."
			case tasks.StatusCanceled:
				code, message = "batch_cancelled", "This request was canceled before it was executed."
			}
			o.Str("code", code)
			o.Str("message", message)
		})
		return o.End()
	}
	request := ""
	if n := len(job.Log); n > 0 {
		request = job.Log[n-1].RequestID
	}
	o.Within("response", func(o *jsonwrite.Object) {
		o.Num("status_code", int64(status))
		o.Str("request_id", request)
		o.Name("body")
		o.B = append(o.B, oneLine(body)...)
	})
	o.Null("error")
	return o.End()
}

// oneLine is JSON without line breaks, which only stand between values.
func oneLine(body []byte) []byte {
	body = bytes.TrimSpace(body)
	if !bytes.ContainsAny(body, "\r\n") {
		return body
	}
	return bytes.ReplaceAll(bytes.ReplaceAll(body, []byte("\n"), []byte(" ")), []byte("\r"), []byte(" "))
}
