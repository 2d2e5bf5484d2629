package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/tasks"
)

const (
	ndjsonType   = "application/x-ndjson"
	stageJobs    = 200     // jobs in one chunk at most
	stageBytes   = 4 << 20 // and bytes of their requests, about
	formBytes    = 1 << 10 // looked at to tell the form of a batch, where its type is not given
	abortTimeout = 5 * time.Second
)

// submitBatch is POST /v1/batches. The body is read, checked and staged line by
// line; nothing of it exists for anybody until the commit.
func (a *API) submitBatch(c echo.Context) error {
	r, x := c.Request(), exchangeOf(c)
	ctx, tenant := r.Context(), x.caller.Tenant
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return err
	}
	var common tasks.Request
	if err := providerHeaders(r.Header, &common); err != nil {
		return err
	}
	r.Body = &steady{ReadCloser: r.Body, control: http.NewResponseController(c.Response())}
	body, media, err := openBody(c.Response(), r, a.MaxBatchBody,
		ndjsonType, "application/ndjson", "application/jsonl", "application/x-jsonlines", jsonType)
	if err != nil {
		return err
	}
	if media == "" {
		peeked := bufio.NewReaderSize(body, formBytes)
		body, media = peeked, batchForm(peeked)
	}
	grant, err := a.admit(ctx, tenant)
	if err != nil {
		return err
	}
	h := c.Response().Header()
	setRateLimit(h, grant)

	g, prior, err := a.Batches.OpenBatch(ctx, tenant, key)
	if err != nil {
		a.refund(ctx, tenant)
		return err
	}
	in := &intake{
		api: a, tenant: tenant, batch: g.ID, common: common, limits: grant.Limits, seen: map[string]int{}, staging: prior == nil,
		sum: newFingerprint(r, "/v1/batches"), keyed: key != "", pools: map[string]int{}, hooks: map[string]error{},
	}
	if prior != nil {
		a.refund(ctx, tenant)
		return a.replayBatch(c, in, body, media, prior)
	}
	committed := false
	defer func() {
		if !committed {
			a.refund(ctx, tenant)
			a.abort(ctx, x.id, in.batch)
		}
	}()
	if err := in.read(ctx, body, media); err != nil {
		return err
	}
	// What a batch costs is known only at its end.
	g, err = a.Batches.CommitBatch(ctx, in.batch, tasks.BatchCommit{Fingerprint: in.fingerprint(), Limits: grant.Limits})
	if err != nil {
		// An abort takes nothing back that was committed, should a store that
		// fell silent have done so.
		return err
	}
	committed = true
	a.tellQuotas(ctx, h, tenant, grant)
	for pool, n := range in.pools {
		a.metrics.taken(pool, n)
	}
	ans := a.acceptedBatch(ctx, &g, in.pools)
	if key != "" {
		a.saveAnswer(ctx, tenant, key, g.ID, ans)
	}
	return ans.write(c)
}

// batchForm tells the two forms of a batch apart by how it begins: no submit
// body has a member "jobs".
func batchForm(body *bufio.Reader) string {
	start, _ := body.Peek(formBytes) // what is wrong comes again when the body is read
	start, isObject := bytes.CutPrefix(bytes.TrimLeft(start, " \t\r\n"), []byte("{"))
	if isObject && bytes.HasPrefix(bytes.TrimLeft(start, " \t\r\n"), []byte(`"jobs"`)) {
		return jsonType
	}
	return ndjsonType
}

// acceptedBatch is the answer to an accepted batch. The first result is
// expected when the quickest of its pools gives one.
func (a *API) acceptedBatch(ctx context.Context, g *tasks.Batch, pools map[string]int) answer {
	ans := answer{Status: http.StatusAccepted, Location: a.batchURL(g.ID), RetryAfter: 1}
	quickest := time.Duration(-1)
	for pool := range pools {
		if estimate, err := a.Pools.Estimate(ctx, pool, g.Tenant); err == nil && (quickest < 0 || estimate < quickest) {
			quickest = estimate
		}
	}
	ans.RetryAfter = seconds(quickest)
	ans.Body = append(a.batch(nil, g), '\n')
	return ans
}

// replayBatch answers a batch whose key was used before. The body has to be
// read to its end to know whether it is the same.
func (a *API) replayBatch(c echo.Context, in *intake, body io.Reader, media string, prior *tasks.PriorBatch) error {
	ctx := c.Request().Context()
	if err := in.read(ctx, body, media); err != nil {
		return err
	}
	if in.fingerprint() != prior.Fingerprint {
		return tasks.ErrKeyReused
	}
	c.Response().Header().Set("Idempotency-Replayed", "true")
	g, err := a.Batches.Batch(ctx, in.tenant, prior.ID)
	if err != nil {
		if errors.Is(err, tasks.ErrNotFound) {
			return fault.Fail(fault.NotFound, "The batch of this Idempotency-Key has outlived its time; send it with another key to run it again.")
		}
		return err
	}
	ans, ok := loadAnswer(prior.Answer)
	if !ok {
		ans = a.acceptedBatch(ctx, &g, in.pools)
	}
	return ans.write(c)
}

// abort has a batch forgotten that will not be committed. It is done also when
// the caller has gone; what it misses, the store's sweep finds.
func (a *API) abort(ctx context.Context, request, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	if err := a.Batches.AbortBatch(ctx, id); err != nil {
		a.Log.LogAttrs(ctx, slog.LevelWarn, "abort a batch", slog.String("request_id", request), slog.Any("error", err))
	}
}

// intake takes in the lines of one batch.
type intake struct {
	api     *API
	tenant  string
	batch   string
	common  tasks.Request    // the headers that go upstream with every job
	limits  tasks.Limits     // of the tenant
	seen    map[string]int   // custom_id to line
	hooks   map[string]error // webhook addresses already checked
	staging bool             // false: only compare, keep nothing
	keyed   bool             // there is an Idempotency-Key, so the content is digested
	sum     fingerprint

	chunk []tasks.Job
	bytes int
	laid  chan error     // the end of the staging under way; nil: none is
	pools map[string]int // jobs by pool
}

func (in *intake) fingerprint() string {
	if !in.keyed {
		return ""
	}
	return in.sum.String()
}

// read takes in the whole body. Nothing is under way when it returns.
func (in *intake) read(ctx context.Context, body io.Reader, media string) (err error) {
	defer func() {
		if last := in.staged(); err == nil {
			err = last
		}
	}()
	each := func(line int, raw []byte) error { return in.take(ctx, line, raw) }
	if media == jsonType {
		err = readDocument(body, in.api.MaxBody, in.api.MaxBatchLines, each)
	} else {
		err = readLines(body, in.api.MaxBody, in.api.MaxBatchLines, each)
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var read *readError
		if errors.As(err, &read) {
			return bodyError(read.err, in.api.MaxBatchBody)
		}
		return err
	}
	if len(in.seen) == 0 {
		return fault.Fail(fault.InvalidRequest, "The batch has no jobs.")
	}
	return in.stage(ctx)
}

// take checks one job and lays it down for staging. raw is valid for this call only.
func (in *intake) take(ctx context.Context, line int, raw []byte) error {
	raw = bytes.Clone(raw)
	job, err := in.decode(ctx, line, raw)
	if err != nil {
		var p *fault.Fault
		if errors.As(err, &p) {
			return p.OnLine(line)
		}
		return err
	}
	if in.keyed {
		if err := in.sum.add(raw); err != nil {
			return err
		}
	}
	in.pools[job.Pool]++
	if !in.staging {
		return nil
	}
	in.chunk = append(in.chunk, job)
	if in.bytes += len(raw); len(in.chunk) == stageJobs || in.bytes >= stageBytes {
		return in.stage(ctx)
	}
	return nil
}

func (in *intake) decode(ctx context.Context, line int, raw []byte) (tasks.Job, error) {
	s, err := decodeSubmit(raw, true, in.api.Now())
	if err != nil {
		return tasks.Job{}, err
	}
	job := s.job
	job.Request.Version, job.Request.Beta = in.common.Version, in.common.Beta
	if job.CustomID = s.customID; job.CustomID == "" {
		job.CustomID = strconv.Itoa(line)
	}
	if first, twice := in.seen[job.CustomID]; twice {
		return job, fault.Fail(fault.InvalidRequest, `The "custom_id" is that of line %d already.`, first)
	}
	in.seen[job.CustomID] = line
	if err := in.api.place(&job); err != nil {
		return job, err
	}
	if job.WebhookURL != "" {
		checked, known := in.hooks[job.WebhookURL]
		if !known {
			checked = in.api.checkWebhookURL(ctx, job.WebhookURL)
			in.hooks[job.WebhookURL] = checked
		}
		if checked != nil {
			return job, checked
		}
	}
	if in.staging {
		job.ID = in.api.NewID("job")
	}
	job.Tenant, job.Batch, job.Line = in.tenant, in.batch, line
	job.Reserved = reserve(&job.Request, in.limits)
	return job, nil
}

// stage hands the jobs laid down to the store, which writes them while the next
// are read; it waits for those before.
func (in *intake) stage(ctx context.Context) error {
	if err := in.staged(); err != nil || len(in.chunk) == 0 {
		return err
	}
	chunk, laid := in.chunk, make(chan error, 1)
	in.chunk, in.bytes, in.laid = make([]tasks.Job, 0, stageJobs), 0, laid
	go func() { laid <- in.api.Batches.StageBatch(ctx, in.batch, chunk) }()
	return nil
}

// staged waits for the staging under way.
func (in *intake) staged() error {
	if in.laid == nil {
		return nil
	}
	err := <-in.laid
	in.laid = nil
	return err
}

// readError is the failure of a body to arrive, as opposed to what is in it.
type readError struct{ err error }

func (e *readError) Error() string { return "read the body: " + e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

func tooManyLines(most int) *fault.Fault {
	return fault.Fail(fault.BodyTooLarge, "A batch must not have more than %d jobs.", most)
}

func lineTooLong(line int, most int64) *fault.Fault {
	return fault.Fail(fault.BodyTooLarge, "A job must not be longer than %d bytes.", most).OnLine(line)
}

// readLines calls each with every line of an NDJSON body that is not blank, and
// its 1-based number, blank ones counted. It never holds more than one line.
func readLines(body io.Reader, longest int64, most int, each func(line int, raw []byte) error) error {
	r := bufio.NewReaderSize(body, 64<<10)
	var long []byte // a line that is longer than the reader's buffer
	for line, jobs := 1, 0; ; {
		part, err := r.ReadSlice('\n')
		if int64(len(long)+len(part)) > longest+1 {
			return lineTooLong(line, longest)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, part...)
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return &readError{err}
		}
		raw := part
		if long != nil {
			raw = append(long, part...)
			long = nil
		}
		if raw = bytes.Trim(raw, " \t\r\n"); len(raw) > 0 {
			if jobs++; jobs > most {
				return tooManyLines(most).OnLine(line)
			}
			if err := each(line, raw); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
		line++
	}
}

// readDocument calls each with every element of "jobs" in a body of the form
// {"jobs":[…]}, and its 1-based position. It never holds more than one element.
func readDocument(body io.Reader, longest int64, most int, each func(line int, raw []byte) error) error {
	// The parser reads ahead by its buffer, so an element may be that much
	// longer before the meter stops it; its own length is checked after.
	meter := &meter{r: body, left: 2*longest + 1<<20}
	d := jsontext.NewDecoder(meter)
	line := 0
	broken := func(err error) error {
		if errors.Is(err, errTooLong) && meter.left < 0 {
			return lineTooLong(line+1, longest)
		}
		if meter.err != nil {
			return &readError{meter.err}
		}
		p := fault.Fail(fault.InvalidJSON, "%s", jsonread.Syntax(err).Detail)
		if d.StackDepth() > 1 { // within "jobs"
			return p.OnLine(line + 1)
		}
		return p
	}
	form := fault.Fail(fault.InvalidRequest, `The body must be an object of the form {"jobs":[…]}.`)
	if k := d.PeekKind(); k != '{' && k != 0 {
		return form
	}
	if _, err := d.ReadToken(); err != nil {
		return broken(err)
	}
	for d.PeekKind() == '"' {
		raw, err := d.ReadValue()
		if err != nil {
			return broken(err)
		}
		if name := jsonread.Unquote(raw); name != "jobs" {
			return told(jsonread.Unknown(name))
		}
		if k := d.PeekKind(); k != '[' && k != 0 {
			return form
		}
		if _, err := d.ReadToken(); err != nil {
			return broken(err)
		}
		for d.PeekKind() != ']' {
			meter.left = 2*longest + 1<<20
			raw, err := d.ReadValue()
			if err != nil {
				return broken(err)
			}
			if int64(len(raw)) > longest {
				return lineTooLong(line+1, longest)
			}
			if line++; line > most {
				return tooManyLines(most).OnLine(line)
			}
			if err := each(line, raw); err != nil {
				return err
			}
		}
		if _, err := d.ReadToken(); err != nil {
			return broken(err)
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return broken(err)
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) || meter.err != nil {
		if meter.err != nil {
			return &readError{meter.err}
		}
		return fault.Fail(fault.InvalidJSON, "Something follows the JSON object.")
	}
	return nil
}

// meter stops an element that never ends, and remembers why reading failed.
type meter struct {
	r    io.Reader
	left int64
	err  error
}

func (m *meter) Read(p []byte) (int, error) {
	if m.left < 0 {
		return 0, errTooLong
	}
	n, err := m.r.Read(p)
	m.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		m.err = err
	}
	if err != nil && errors.Is(err, io.ErrUnexpectedEOF) {
		m.err = err
	}
	return n, err
}

// getBatch is GET /v1/batches/{id}.
func (a *API) getBatch(c echo.Context) error {
	var g tasks.Batch
	err := a.poll(c, "batch_", nil, func(ctx context.Context, tenant, id string) (_ bool, err error) {
		g, err = a.Batches.Batch(ctx, tenant, id)
		return g.Status == tasks.BatchEnded, err
	})
	if err != nil {
		return err
	}
	return a.writeBatch(c, &g)
}

func (a *API) writeBatch(c echo.Context, g *tasks.Batch) error {
	body := append(a.batch(nil, g), '\n')
	etag, h := bodyETag(body), c.Response().Header()
	h.Set("ETag", etag)
	h.Set("Cache-Control", "private, no-cache")
	if c.Request().Method == http.MethodGet && matches(c.Request().Header, etag) {
		c.Response().WriteHeader(http.StatusNotModified)
		return nil
	}
	writeJSON(c.Response(), http.StatusOK, body)
	return nil
}

// cancelBatch is POST /v1/batches/{id}/cancel.
func (a *API) cancelBatch(c echo.Context) error {
	id, err := objectID(c, "batch_")
	if err != nil {
		return err
	}
	g, err := a.Batches.CancelBatch(c.Request().Context(), exchangeOf(c).caller.Tenant, id)
	if err != nil {
		return err
	}
	return a.writeBatch(c, &g)
}

// batchResults is GET /v1/batches/{id}/results: a line for each job that is
// final, in the order of the batch's lines. An answer that cannot be finished
// is broken off, so that it does not look whole.
func (a *API) batchResults(c echo.Context) error {
	ctx, tenant := c.Request().Context(), exchangeOf(c).caller.Tenant
	id, err := objectID(c, "batch_")
	if err != nil {
		return err
	}
	if _, err := a.Batches.Batch(ctx, tenant, id); err != nil {
		return err
	}
	control := http.NewResponseController(c.Response())
	var b []byte
	for next, more := 0, true; more; more = next > 0 {
		var jobs []tasks.Job
		jobs, next, err = a.Batches.BatchResults(ctx, tenant, id, next)
		if err != nil {
			if !c.Response().Committed {
				return err
			}
			a.Log.LogAttrs(ctx, slog.LevelError, "results broken off",
				slog.String("request_id", exchangeOf(c).id), slog.Any("error", err))
			panic(http.ErrAbortHandler)
		}
		b = b[:0]
		for i := range jobs {
			b = resultLine(b, &jobs[i], "")
		}
		_ = control.SetWriteDeadline(time.Now().Add(streamWrite))
		if !c.Response().Committed {
			c.Response().Header().Set("Content-Type", ndjsonType)
			c.Response().WriteHeader(http.StatusOK)
		}
		if _, err := c.Response().Write(b); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	return nil
}
