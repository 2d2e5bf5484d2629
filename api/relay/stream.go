package relay

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

const (
	keepAlive = 8 * time.Second
)

// Teller says what a stream tells in a form's own way. It is for one stream.
type Teller interface {
	// Begin says whose answer it is, before all else.
	Begin(job *tasks.Job)
	// Told is what goes out of bytes that came from the provider. What they end with
	// may go on in the next, unless they are the last.
	Told(raw []byte, last bool) []byte
	// Ended is what goes out of a job that has ended before anything was told.
	Ended(job *tasks.Job, request string) []byte
	// Failed is the event that carries the body of an error.
	Failed(body []byte) []byte
}

// bare tells a stream as the provider has it.
type bare struct {
	form  *Form
	usage bool
}

func (t *bare) Begin(*tasks.Job) {}

func (t *bare) Told(raw []byte, _ bool) []byte { return raw }

func (t *bare) Ended(job *tasks.Job, request string) []byte {
	if job.Status == tasks.StatusSucceeded {
		return t.form.Events(job.Result, t.usage)
	}
	_, body := t.form.Failed(job, request)
	return t.Failed(body)
}

func (t *bare) Failed(body []byte) []byte { return Event(nil, t.form.ErrorEvent, body) }

// Stream answers a call whose caller is given the answer's events as they come. What is
// known at once is an ordinary answer; all else comes as events, for the header leaves
// as soon as the job is durable, and no SDK waits longer for that than it must.
func (f *Form) Stream(c echo.Context, q Asked, t Teller) error {
	ctx, x := c.Request().Context(), f.Caller(c)
	s, err := f.Desk.Stream(ctx, x, q.Asked)
	if err != nil {
		return err
	}
	if s.Job.Status.Final() && s.Job.Status != tasks.StatusSucceeded {
		a := s.Answered
		s.Release()
		f.answer(c, x, a, whole)
		return nil
	}
	f.tell(c, x, s, t)
	return nil
}

// Follow answers somebody who reads the events of a job's answer; resumes says that some
// of them were told before. Who asks for the header alone holds nothing.
func (f *Form) Follow(c echo.Context, job tasks.Job, resumes bool, t Teller) error {
	x := f.Caller(c)
	if c.Request().Method == http.MethodHead {
		f.head(c, x, job.ID)
		return nil
	}
	s, err := f.Desk.Follow(c.Request().Context(), x, job, resumes)
	if err != nil {
		return err
	}
	f.tell(c, x, s, t)
	return nil
}

// tell writes a stream.
func (f *Form) tell(c echo.Context, x desk.Caller, s *desk.Stream, t Teller) {
	ctx := c.Request().Context()
	t.Begin(&s.Job)
	f.head(c, x, s.Job.ID)
	out := &feed{form: f, teller: t, w: c.Response(), control: http.NewResponseController(c.Response()), request: x.Request}
	told := out.write(nil) == nil && out.run(ctx, s)
	s.Release()
	s.Sent(ctx, told)
}

// head writes the header of a stream of a job's answer.
func (f *Form) head(c echo.Context, x desk.Caller, job string) {
	h := c.Response().Header()
	h["Sluice-Job-Id"] = []string{job}
	h[f.RequestID] = []string{x.Request}
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	c.Response().WriteHeader(http.StatusOK)
}

// feed writes a stream.
type feed struct {
	form    *Form
	teller  Teller
	w       http.ResponseWriter
	control *http.ResponseController
	request string
}

// run writes all that a stream brings, and reports whether its caller has the answer, or
// knows that there is none.
func (o *feed) run(ctx context.Context, s *desk.Stream) bool {
	whole := true // what was written ends with an event
	for {
		p, err := s.Next(ctx, cmp.Or(o.form.KeepAlive, keepAlive))
		switch {
		case ctx.Err() != nil && !errors.Is(err, desk.ErrRevoked):
			return false
		case err != nil:
			k, ft := fault.Classify(err)
			return o.fail(o.form.Problem(http.Header{}, k, ft, o.request)) && !errors.Is(err, desk.ErrRevoked)
		case len(p.Raw) > 0 || p.Told == desk.Closed || p.Told == desk.Failed:
			if o.write(o.teller.Told(p.Raw, p.Told != desk.Going)) != nil {
				return false
			}
			whole = !p.More
		case p.Told == desk.Going && whole:
			if o.write([]byte(o.form.Ping)) != nil {
				return false
			}
		}
		if p.Told != desk.Going {
			return o.end(p.Told, &s.Job)
		}
	}
}

// end writes how a stream ended, and reports whether its caller knows all by then.
func (o *feed) end(told desk.Told, job *tasks.Job) bool {
	switch told {
	case desk.Ended:
		return o.write(o.teller.Ended(job, o.request)) == nil
	case desk.Broken:
		o.broken(job)
	}
	return told == desk.Closed // after Failed another attempt may follow, for whoever sends the request again
}

// broken ends a stream whose attempt broke after its first event: what another one
// brings does not go on where this one ended.
func (o *feed) broken(job *tasks.Job) {
	told := *job
	if job.Status != tasks.StatusCanceled && job.Status != tasks.StatusExpired {
		told.Status = tasks.StatusFailed
		told.Error = &tasks.JobError{Code: tasks.UpstreamUnavailable, Message: "The provider's answer broke off after it had begun. Send the request again."}
	}
	_, body := o.form.Failed(&told, o.request)
	o.fail(body)
}

// fail writes an error as an event.
func (o *feed) fail(body []byte) bool { return o.write(o.teller.Failed(body)) == nil }

// write writes whole or partial events and has them leave.
func (o *feed) write(b []byte) error {
	_ = o.control.SetWriteDeadline(time.Now().Add(wire.StreamWrite))
	if len(b) > 0 {
		if _, err := o.w.Write(b); err != nil {
			return err
		}
	}
	return o.control.Flush()
}
