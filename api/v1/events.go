package v1

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

const (
	eventStreamType = "text/event-stream"
	reconnectAfter  = time.Second // what a reader is told to wait before it resumes
)

// cursor is how much of a job a reader has seen. As an event's id it is
// "seen-attempt-offset", with "-done" after the last event.
type cursor struct {
	seen    int64 // one more than the version in the last status event; 0: none yet
	attempt int   // whose text was sent last; 0: none yet
	offset  int   // bytes of that text that were sent
	done    bool
}

func (at cursor) String() string {
	id := fmt.Sprintf("%d-%d-%d", at.seen, at.attempt, at.offset)
	if at.done {
		id += "-done"
	}
	return id
}

// parseCursor reads a Last-Event-ID. One that is not ours starts from the
// beginning: the reader then sees too much, never too little.
func parseCursor(id string) (at cursor) {
	id, at.done = strings.CutSuffix(id, "-done")
	parts := strings.Split(id, "-")
	if len(parts) != 3 {
		return cursor{}
	}
	var numbers [3]int64
	for i, part := range parts {
		n, err := strconv.ParseInt(part, 10, 64)
		if err != nil || n < 0 || n > 1<<53 {
			return cursor{}
		}
		numbers[i] = n
	}
	at.seen, at.attempt, at.offset = numbers[0], int(numbers[1]), int(numbers[2])
	return at
}

// JobEvents is GET /v1/jobs/{id}/events: "status" with the job at each change,
// "delta" with text as it is produced, and "done" at the end.
//
// The deltas of one attempt, joined by their offsets, are its text; a delta of
// another attempt begins anew. A reader that comes back with the last event's
// id misses nothing and is told nothing twice; one that has seen "done" gets a
// 204, which stops a browser's reconnecting (HTML, 9.2.3).
func (a *API) JobEvents(c echo.Context) error {
	id, err := objectID(c, "job_")
	if err != nil {
		return err
	}
	return a.Follow(c.Response(), c.Request(), a.c.Caller(c), id)
}

// Follow is JobEvents for whoever was let through. It fails before it has written anything.
func (a *API) Follow(w http.ResponseWriter, r *http.Request, x desk.Caller, id string) error {
	ctx := r.Context()
	at := parseCursor(r.Header.Get("Last-Event-ID"))
	job, err := a.c.Jobs.Job(ctx, x.Tenant, id)
	if err != nil {
		return err
	}
	if at.done && job.Status.Final() && at.seen == job.Version+1 {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if at.seen > job.Version+1 {
		at = cursor{} // of another job, or of a record that was lost
	}
	at.done = false
	h := w.Header()
	h.Set("Content-Type", eventStreamType)
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	release, err := a.desk.Hold(x.Tenant)
	if err != nil {
		return err
	}
	defer release()
	watch := a.desk.Watch(ctx, x.Tenant, id)
	defer watch.Stop()

	w.WriteHeader(http.StatusOK)
	s := &stream{api: a, w: w, control: http.NewResponseController(w), at: at, watch: watch}
	s.buf = fmt.Appendf(s.buf, "retry: %d\n\n", reconnectAfter.Milliseconds())
	if err := s.run(ctx, id); err != nil && ctx.Err() == nil {
		a.c.Log.LogAttrs(ctx, slog.LevelWarn, "event stream ended", slog.String("request_id", x.Request), slog.Any("error", err))
	}
	return nil
}

// stream is one open event stream.
type stream struct {
	api     *API
	w       http.ResponseWriter
	control *http.ResponseController
	at      cursor
	watch   *desk.Watch
	buf     []byte
}

// run sends events until the job is final, the reader is gone or the API drains.
func (s *stream) run(ctx context.Context, id string) error {
	heartbeat := time.NewTicker(s.api.c.Heartbeat)
	defer heartbeat.Stop()
	listen := time.NewTicker(s.api.c.ListenEvery)
	defer listen.Stop()
	deltas := time.NewTicker(s.api.c.DeltaEvery)
	defer deltas.Stop()
	reread := time.NewTicker(s.watch.Reread)
	defer reread.Stop()
	changed := s.watch.Changed

	s.listen(ctx, id)
	status, look, now := tasks.Status(""), true, true
	for {
		if look {
			var err error
			if status, err = s.look(ctx, now); err != nil || status.Final() {
				return err
			}
		}
		var tick <-chan time.Time
		if status == tasks.StatusRunning {
			s.partial(ctx, id)
			tick = deltas.C
		}
		if err := s.flush(); err != nil {
			return err
		}
		look = false
		select {
		case _, ok := <-changed:
			if look, now = ok, true; !ok {
				changed = nil
			}
		case <-reread.C:
			look, now = true, false
		case <-tick:
		case <-listen.C:
			s.listen(ctx, id)
		case <-heartbeat.C:
			s.buf = append(s.buf, ": waiting\n\n"...)
		case <-s.api.desk.Draining():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look reads the job and sends what has changed.
func (s *stream) look(ctx context.Context, now bool) (tasks.Status, error) {
	job, err := s.watch.Job(ctx, now)
	if err != nil {
		_ = s.flush()
		return "", err // deleted, or the store is gone: the reader may come back
	}
	return job.Status, s.status(ctx, &job)
}

// status sends the job when it has changed, and all that is left when it is final.
func (s *stream) status(ctx context.Context, job *tasks.Job) error {
	final := job.Status.Final()
	if final && job.Status == tasks.StatusSucceeded {
		s.rest(job)
	}
	if job.Version >= s.at.seen { // a new job's version is 0
		s.at.seen = job.Version + 1
		s.event("status", oneLine(s.api.job(nil, job, s.api.desk.Waiting(ctx, job))))
	}
	if !final {
		return nil
	}
	s.at.done = true
	o := jsonwrite.Object{}
	o.Str("id", job.ID)
	o.Str("status", string(job.Status))
	s.event("done", o.End())
	return s.flush()
}

// rest sends what the reader has not seen of the text that was stored.
func (s *stream) rest(job *tasks.Job) {
	last := 0
	for i := range job.Log {
		last = max(last, job.Log[i].N)
	}
	text := tasks.ResultText(job.Result)
	if s.at.attempt != last {
		s.at.attempt, s.at.offset = last, 0
	}
	if s.at.offset < len(text) && (s.at.offset == 0 || utf8.RuneStart(text[s.at.offset])) {
		s.delta(text[s.at.offset:])
	}
}

// partial sends what a running attempt has produced since.
func (s *stream) partial(ctx context.Context, id string) {
	if s.api.c.Partials == nil {
		return
	}
	p, err := s.api.c.Partials.Partial(ctx, id, s.at.attempt, s.at.offset)
	if err != nil || p.Attempt < s.at.attempt || p.Attempt == 0 {
		return // the text comes with the result at the latest
	}
	if p.Attempt > s.at.attempt {
		if p.Offset != 0 {
			return
		}
		s.at.attempt, s.at.offset = p.Attempt, 0
	}
	if p.Offset != s.at.offset {
		return
	}
	s.delta(wholeRunes(p.Text))
}

// wholeRunes cuts off a character that has not arrived whole.
func wholeRunes(text string) string {
	for i := len(text) - 1; i >= 0 && i >= len(text)-utf8.UTFMax; i-- {
		if utf8.RuneStart(text[i]) {
			if !utf8.FullRuneInString(text[i:]) {
				return text[:i]
			}
			break
		}
	}
	return text
}

func (s *stream) delta(text string) {
	if text == "" {
		return
	}
	o := jsonwrite.Object{}
	o.Num("attempt", int64(s.at.attempt))
	o.Num("offset", int64(s.at.offset))
	o.Str("text", text)
	s.at.offset += len(text)
	s.event("delta", o.End())
}

// event appends one event whose data is a line of JSON.
func (s *stream) event(name string, data []byte) {
	s.buf = fmt.Appendf(s.buf, "id: %s\nevent: %s\ndata: ", s.at, name)
	s.buf = append(append(s.buf, bytes.TrimRight(data, "\n")...), "\n\n"...)
}

// flush sends what is buffered; a reader that takes nothing for wire.StreamWrite is cut off.
func (s *stream) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(wire.StreamWrite))
	_, err := s.w.Write(s.buf)
	if s.buf = s.buf[:0]; err != nil {
		return err
	}
	return s.control.Flush()
}

func (s *stream) listen(ctx context.Context, id string) {
	if s.api.c.Partials != nil {
		// Without it the text comes with the result.
		_ = s.api.c.Partials.Listen(ctx, id)
	}
}
