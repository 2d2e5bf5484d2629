// Package relay is what the providers' own forms of the API have in common: it reads a
// call as an official SDK sends it, has the desk wait for the job's answer, and writes
// that as the provider gave it, whole or event by event.
//
// It promises that a body leaves for the provider with every member, known or not, and
// that an SDK is told of every failure whether the same request is worth sending again.
// It knows no provider's words: a form gives it those.
package relay

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/header"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/estimate"
)

// Form is what a provider's form says in its own way.
type Form struct {
	Dialect string // its name among pools
	Desk    *desk.Desk
	// Caller returns who sent a request that was let through.
	Caller  func(echo.Context) desk.Caller
	MaxBody int64 // bytes of a call's body
	// RequestID is the canonical name of the field that carries the request's id.
	RequestID string
	// Failed is the answer to a call whose job has ended without a result.
	Failed func(job *tasks.Job, request string) (status int, body []byte)
	// Problem sets the header of the answer to a failed request and returns its body.
	Problem func(h http.Header, k fault.Kind, f fault.Fault, request string) []byte

	// KeepAlive is the longest time between two writes of a stream; 0 means 8 s.
	KeepAlive time.Duration
	// Ping is what is written then.
	Ping string
	// ErrorEvent is the type of the event that carries an error; "" is none.
	ErrorEvent string
	// Events is the stream of an answer to a call that came whole; usage says that the
	// request asks for the count of tokens.
	Events func(result []byte, usage bool) []byte
}

// Asked is a call as it was read.
type Asked struct {
	desk.Asked
	usage bool // a stream's count of tokens is asked for, as OpenAI has it
}

// Call answers a call to one of the provider's endpoints, at a path below the form's.
func (f *Form) Call(c echo.Context, path string, e tasks.Path) error {
	q, err := f.Read(c, path, e)
	if err != nil {
		return err
	}
	if q.Job.Request.Stream {
		return f.Stream(c, q, &bare{f, q.usage})
	}
	return f.Answer(c, q, whole)
}

// whole is the answer as the provider gave it.
func whole(job *tasks.Job) []byte { return job.Result }

// Answer waits for the answer to a call that was read, and writes it whole. result is
// the body of a job that has succeeded.
func (f *Form) Answer(c echo.Context, q Asked, result func(*tasks.Job) []byte) error {
	x := f.Caller(c)
	a, err := f.Desk.Call(c.Request().Context(), x, q.Asked)
	if err != nil {
		return err
	}
	f.answer(c, x, a, result)
	return nil
}

// answer writes the whole answer to a call whose job has ended.
func (f *Form) answer(c echo.Context, x desk.Caller, a *desk.Answered, result func(*tasks.Job) []byte) {
	ctx, h := c.Request().Context(), c.Response().Header()
	h["Sluice-Job-Id"] = []string{a.Job.ID}
	h[f.RequestID] = []string{x.Request}
	status, body := http.StatusOK, []byte(nil)
	if a.Job.Status == tasks.StatusSucceeded {
		body = result(&a.Job)
	} else {
		// None is better when it is sent again, for the job has been.
		h.Set("X-Should-Retry", "false")
		status, body = f.Failed(&a.Job, x.Request)
	}
	wire.JSON(c.Response(), status, body)
	a.Sent(ctx, ctx.Err() == nil)
}

// Read reads a call. Its body is taken as it is: what is wrong in it beside the model is
// for the provider to say.
func (f *Form) Read(c echo.Context, path string, e tasks.Path) (q Asked, err error) {
	r := c.Request()
	body, err := wire.Read(c.Response(), r, f.MaxBody, "application/json")
	if err != nil {
		return q, err
	}
	done, err := f.Desk.Reading(r.Context(), f.Caller(c).Tenant, len(body))
	if err != nil {
		return q, err
	}
	defer done()
	job := tasks.Job{Request: tasks.Request{Kind: tasks.Raw, Endpoint: e, Body: body}}
	if q.usage, err = asks(body, &job); err != nil {
		return q, err
	}
	job.Request.Stream = job.Request.Stream && e != tasks.Embeddings
	if err := header.Provider(r.Header, &job.Request); err != nil {
		return q, err
	}
	said, err := readSDK(r.Header, &job)
	if err != nil {
		return q, err
	}
	estimate.Fill(job.Model, &job.Request)
	sum := digest(r, f.Dialect+path, body)
	q.Asked = desk.Asked{Dialect: f.Dialect, Job: job, Key: said.key, Fingerprint: sum, Repeat: said.repeat, Patience: said.patience, Taken: wire.Charged(r).Spent}
	if said.dedup {
		q.Digest = sum
	}
	return q, nil
}

// asks reads which model a body asks, whether for a stream, and whether that is to have
// the count of tokens.
func asks(body []byte, job *tasks.Job) (usage bool, err error) {
	r, err := jsonread.New(body)
	if err != nil {
		return false, wire.Told(err)
	}
	err = r.Object(func(name string) error {
		switch {
		case name == "model":
			job.Model, err = r.Word(name, maxModel)
			return err
		case name == "stream":
			job.Request.Stream = r.Kind() == 't'
		case name == "stream_options" && r.Kind() == '{':
			_, err := r.Members(func(name string) error {
				usage = usage || name == "include_usage" && r.Kind() == 't'
				return r.Skip()
			})
			return err
		}
		return r.Skip()
	})
	if err != nil {
		return false, wire.Told(err)
	}
	if job.Model == "" {
		return false, fault.Fail(fault.InvalidRequest, `The member "model" is missing.`)
	}
	return usage, nil
}
