package openai

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// A response is a job, and its id the job's with another word before it.
const (
	responseWord = "resp_"
	jobWord      = "job_"
	idLength     = 26 // of a ULID
)

// ownID reports whether an id of a response is one that was given here; the
// provider's own are longer.
func ownID(id string) (job string, ours bool) {
	rest, ok := strings.CutPrefix(id, responseWord)
	if !ok || len(rest) != idLength || strings.ToUpper(rest) != rest {
		return "", false
	}
	return jobWord + rest, true
}

func responseID(job string) string { return tasks.ResponseID(job) }

// CreateResponse is POST /openai/v1/responses. Upstream a response is always asked in
// the foreground: with "background" it is our caller who does not wait.
func (a *API) CreateResponse(c echo.Context) error {
	q, err := a.form.Read(c, "/responses", tasks.Responses)
	if err != nil {
		return err
	}
	background, err := a.prepare(c, &q.Job.Request)
	if err != nil {
		return err
	}
	switch stream := q.Job.Request.Stream; {
	case !background && stream:
		return a.form.Stream(c, q, a.telling(-1, false))
	case !background:
		return a.form.Answer(c, q, ownResult)
	}
	q.Job.Request.Background = true
	job, err := a.c.Desk.Begin(c.Request().Context(), a.c.Caller(c), q.Asked)
	switch {
	case err != nil:
		return err
	case q.Job.Request.Stream:
		return a.form.Follow(c, job, false, a.telling(-1, true))
	}
	return a.writeResponse(c, &job)
}

// prepare makes a request ready for the provider: the response before it, if one of ours
// is named, is named as the provider knows it.
func (a *API) prepare(c echo.Context, q *tasks.Request) (background bool, err error) {
	var previous, raw []byte
	end := 0
	r, err := jsonread.New(q.Body)
	if err != nil {
		return false, wire.Told(err)
	}
	err = r.Object(func(name string) error {
		switch {
		case name == "background":
			background = r.Kind() == 't'
		case name == "previous_response_id" && r.Kind() == '"':
			raw, err = r.Raw()
			previous, end = raw, r.Offset()
			return err
		}
		return r.Skip()
	})
	if err != nil || previous == nil {
		return background, wire.Told(err)
	}
	job, ours := ownID(strings.Trim(string(previous), `"`))
	if !ours {
		return background, nil
	}
	before, err := a.response(c, job)
	if errors.Is(err, tasks.ErrNotFound) || err == nil && before.Status != tasks.StatusSucceeded {
		return false, fault.Fail(fault.InvalidRequest, `The response in "previous_response_id" is not found, or has not been completed.`)
	}
	if err != nil {
		return false, err
	}
	theirs, _, _ := member(before.Result, "id")
	if theirs == nil {
		return false, fault.Fail(fault.InvalidRequest, `The provider gave the response in "previous_response_id" no id by which it could go on.`)
	}
	q.Body = splice(q.Body, end-len(raw), end, theirs)
	return background, nil
}

// member finds a member of an object: its value, and where that begins and ends.
func member(object []byte, which string) (value []byte, start, end int) {
	r, err := jsonread.New(object)
	if err != nil {
		return nil, 0, 0
	}
	_ = r.Object(func(name string) error { // what is no object has no members
		if name != which {
			return r.Skip()
		}
		v, err := r.Raw()
		value, end = v, r.Offset()
		start = end - len(v)
		return err
	})
	return value, start, end
}

// splice returns body with other bytes from start to end.
func splice(body []byte, start, end int, with []byte) []byte {
	out := make([]byte, 0, len(body)+len(with))
	out = append(append(out, body[:start]...), with...)
	return append(out, body[end:]...)
}

// ownResult is the provider's response under the id that it has here.
func ownResult(job *tasks.Job) []byte {
	out := replaced(job.Result, "id", jsonwrite.AppendString(nil, responseID(job.ID)))
	if job.Request.Background { // upstream it was asked in the foreground
		out = replaced(out, "background", []byte("true"))
	}
	return out
}

// replaced returns an object with another value of one member, where it has that.
func replaced(object []byte, which string, value []byte) []byte {
	_, start, end := member(object, which)
	if end == 0 {
		return object
	}
	return splice(object, start, end, value)
}

// response returns the job of a response.
func (a *API) response(c echo.Context, id string) (tasks.Job, error) {
	job, err := a.c.Jobs.Job(c.Request().Context(), a.c.Caller(c).Tenant, id)
	if err == nil && job.Request.Endpoint != tasks.Responses {
		err = tasks.ErrNotFound
	}
	return job, err
}

// named returns the job of the response that a path names.
func (a *API) named(c echo.Context) (tasks.Job, error) {
	id, ours := ownID(c.Param("id"))
	if !ours {
		return tasks.Job{}, fault.Fail(fault.NotFound, "There is no response of this id.")
	}
	job, err := a.response(c, id)
	if errors.Is(err, tasks.ErrNotFound) {
		err = fault.Fail(fault.NotFound, "There is no response of this id.")
	}
	return job, err
}

// GetResponse is GET /openai/v1/responses/{id}, also with its events: those that follow
// the one with the number starting_after, or all.
func (a *API) GetResponse(c echo.Context) error {
	after := int64(-1)
	stream, err := asksStream(c)
	if err != nil {
		return err
	}
	if v := c.QueryParam("starting_after"); v != "" {
		if after, err = strconv.ParseInt(v, 10, 64); err != nil || after < 0 || !stream {
			return fault.Fail(fault.InvalidRequest, `The query parameter "starting_after" must be the sequence_number of an event, and goes with "stream".`)
		}
	}
	job, err := a.named(c)
	switch {
	case err != nil:
		return err
	case !stream:
		return a.writeResponse(c, &job)
	case after >= 0 && begunAnew(&job):
		return fault.Fail(fault.InvalidRequest, `The provider's answer broke off, and another attempt at it has other events: leave "starting_after" out to read those from the first.`)
	}
	return a.form.Follow(c, job, after >= 0, a.telling(after, true))
}

// asksStream reports whether a response's events are asked for, by the query or, as
// OpenAI's SDK for Go has it, by a body of the GET.
func asksStream(c echo.Context) (stream bool, err error) {
	if v := c.QueryParam("stream"); v != "" {
		if stream, err = strconv.ParseBool(v); err != nil {
			return false, fault.Fail(fault.InvalidRequest, `The query parameter "stream" must be true or false.`)
		}
		return stream, nil
	}
	body, err := io.ReadAll(io.LimitReader(c.Request().Body, 1<<10))
	if err != nil || len(body) == 0 {
		return false, err
	}
	r, err := jsonread.New(body)
	if err == nil {
		err = r.Object(func(name string) error {
			stream = stream || name == "stream" && r.Kind() == 't'
			return r.Skip()
		})
	}
	return stream, wire.Told(err)
}

// begunAnew reports whether an attempt may have told events that were not the answer.
func begunAnew(job *tasks.Job) bool {
	return slices.ContainsFunc(job.Log, func(a tasks.Attempt) bool {
		return a.Outcome == tasks.WorkerLost || a.Outcome == tasks.HandedBack || a.Status >= 200 && a.Status < 300 && a.Outcome != tasks.Succeeded
	})
}

// CancelResponse is POST /openai/v1/responses/{id}/cancel. Of one that has ended it
// answers how.
func (a *API) CancelResponse(c echo.Context) error {
	job, err := a.named(c)
	if err != nil {
		return err
	}
	if !job.Status.Final() {
		ctx, tenant := c.Request().Context(), a.c.Caller(c).Tenant
		if job, err = a.c.Jobs.Cancel(ctx, tenant, job.ID); errors.Is(err, tasks.ErrFinal) {
			job, err = a.named(c)
		}
		if err != nil {
			return err
		}
	}
	return a.writeResponse(c, &job)
}

// DeleteResponse is DELETE /openai/v1/responses/{id}.
func (a *API) DeleteResponse(c echo.Context) error {
	job, err := a.named(c)
	if err != nil {
		return err
	}
	if err := a.c.Jobs.Delete(c.Request().Context(), a.c.Caller(c).Tenant, job.ID); err != nil {
		if errors.Is(err, tasks.ErrConflict) {
			return fault.Fail(fault.Conflict, "The response has not ended: cancel it first.")
		}
		return err
	}
	return a.write(c, deleted(responseID(job.ID), "response"))
}

// deleted is OpenAI's answer to a deletion.
func deleted(id, object string) []byte {
	var o jsonwrite.Object
	o.Str("id", id)
	o.Str("object", object)
	o.Bool("deleted", true)
	return o.End()
}

func (a *API) write(c echo.Context, body []byte) error {
	wire.JSON(c.Response(), http.StatusOK, body)
	return nil
}

func (a *API) writeResponse(c echo.Context, job *tasks.Job) error {
	c.Response().Header()["Sluice-Job-Id"] = []string{job.ID}
	return a.write(c, responseOf(job))
}

// responseOf is a job as OpenAI shows a response: the provider's own once there is one.
func responseOf(job *tasks.Job) []byte {
	if job.Status == tasks.StatusSucceeded {
		return ownResult(job)
	}
	status := "queued"
	switch job.Status {
	case tasks.StatusRunning, tasks.StatusRetrying:
		status = "in_progress"
	case tasks.StatusCanceled:
		status = "cancelled"
	case tasks.StatusFailed, tasks.StatusExpired:
		status = "failed"
	}
	var o jsonwrite.Object
	o.Str("id", responseID(job.ID))
	o.Str("object", "response")
	o.Num("created_at", job.CreatedAt.Unix())
	o.Str("status", status)
	o.Bool("background", true)
	if status == "failed" {
		o.Within("error", func(o *jsonwrite.Object) {
			o.Str("code", responseFault(job))
			o.Str("message", failure(job))
		})
	} else {
		o.Null("error")
	}
	o.Null("incomplete_details")
	o.Str("model", job.Model)
	o.List("output", 0, nil)
	o.Null("usage")
	o.Within("metadata", func(*jsonwrite.Object) {})
	return o.End()
}

// responseFault is OpenAI's code for why a response failed.
func responseFault(job *tasks.Job) string {
	e := job.Error
	switch {
	case e != nil && e.UpstreamStatus == http.StatusTooManyRequests:
		return "rate_limit_exceeded"
	case e != nil && e.UpstreamStatus >= 400 && e.UpstreamStatus < 500:
		return "invalid_prompt"
	}
	return "server_error"
}

// failure is why a job failed, in words.
func failure(job *tasks.Job) string {
	switch {
	case job.Status == tasks.StatusExpired:
		return "The job's deadline passed before an answer came."
	case job.Error == nil:
		return "The job failed."
	}
	return job.Error.Message
}
