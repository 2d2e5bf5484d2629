package relay

import (
	"cmp"
	"context"
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

// stream answers a call whose caller is given the answer's events as they come. What is
// known at once is an ordinary answer; all else comes as events, for the header leaves
// as soon as the job is durable, and no SDK waits longer for that than it must.
func (f *Form) stream(c echo.Context, x desk.Caller, q Asked) error {
	ctx := c.Request().Context()
	s, err := f.Desk.Stream(ctx, x, q.Asked)
	if err != nil {
		return err
	}
	if s.Job.Status.Final() && s.Job.Status != tasks.StatusSucceeded {
		s.Close()
		f.answer(c, x, s.Answered, whole)
		return nil
	}
	h := c.Response().Header()
	h["Sluice-Job-Id"] = []string{s.Job.ID}
	h[f.RequestID] = []string{x.Request}
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	c.Response().WriteHeader(http.StatusOK)
	out := &feed{form: f, w: c.Response(), control: http.NewResponseController(c.Response()), request: x.Request, usage: q.usage}
	left := out.write(nil) == nil && out.run(ctx, s)
	s.Close()
	s.Sent(ctx, left)
	return nil
}

// feed writes a stream.
type feed struct {
	form    *Form
	w       http.ResponseWriter
	control *http.ResponseController
	request string
	usage   bool
}

// run writes all that a stream brings, and reports whether its caller has the answer, or
// knows that there is none.
func (o *feed) run(ctx context.Context, s *desk.Stream) bool {
	whole := true // what was written ends with an event
	for {
		p, err := s.Next(ctx, cmp.Or(o.form.KeepAlive, keepAlive))
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil:
			k, ft := fault.Classify(err)
			return o.fail(o.form.Problem(http.Header{}, k, ft, o.request))
		case len(p.Raw) > 0:
			if o.write(p.Raw) != nil {
				return false
			}
			whole = !p.More
		case p.Told == desk.Going && whole:
			if o.write([]byte(o.form.Ping)) != nil {
				return false
			}
		}
		switch p.Told {
		case desk.Closed:
			return true
		case desk.Failed: // another attempt may follow, for whoever sends the request again
			return false
		case desk.Ended:
			if s.Job.Status == tasks.StatusSucceeded {
				return o.write(o.form.Events(s.Job.Result, o.usage)) == nil
			}
			_, body := o.form.Failed(&s.Job, o.request)
			return o.fail(body)
		case desk.Broken:
			o.broken(&s.Job)
			return false
		}
	}
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
func (o *feed) fail(body []byte) bool { return o.write(Event(nil, o.form.ErrorEvent, body)) == nil }

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
