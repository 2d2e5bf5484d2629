package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// WatchCmd follows a job.
type WatchCmd struct {
	ID          string `arg:"" help:"The job's id."`
	JSON        bool   `name:"json" help:"Print each event as a line of JSON."`
	ClientFlags `embed:""`
}

// Help says how the text comes.
func (c *WatchCmd) Help() string { return screenHelp }

// The patience of watch with a connection that breaks.
const (
	reconnects     = 10 // in a row, without an event between them
	reconnectDelay = time.Second
)

// Run prints the text as it comes, and what the job waits for on standard error.
func (c *WatchCmd) Run(ctx context.Context, env *Env) error {
	api, err := c.client(env)
	if err != nil {
		return err
	}
	defer api.close()
	w := &watcher{api: api, env: env, id: c.ID, json: c.JSON, delay: reconnectDelay}
	j, err := w.follow(ctx)
	if w.openLine {
		fmt.Fprintln(env.Stdout)
	}
	if err != nil {
		return err
	}
	return j.failure()
}

// watcher follows one job over any number of connections.
type watcher struct {
	api   *client
	env   *Env
	id    string
	json  bool
	delay time.Duration

	last     string // the id of the last event
	opened   bool   // a connection was ever answered
	heard    bool   // an event came over this connection
	job      *job   // as last told
	said     string // what was last said of it
	attempt  int    // whose text is being printed
	offset   int    // bytes of it that are printed
	openLine bool   // the text does not end with a newline
}

// follow returns the job once it is final.
func (w *watcher) follow(ctx context.Context) (*job, error) {
	failed := 0
	for {
		w.heard = false
		done, err := w.connection(ctx)
		if done {
			if w.job != nil && w.job.final() {
				return w.job, nil
			}
			return w.api.getJob(ctx, w.id, 0, true)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		delay := w.delay
		if p, ok := errors.AsType[*apiError](err); ok {
			if p.Status != http.StatusTooManyRequests && p.Status < 500 {
				return nil, err
			}
			delay = max(delay, p.RetryAfter)
		} else if !w.opened {
			return nil, err
		}
		if failed++; w.heard {
			failed = 0
		}
		if failed > reconnects {
			return nil, fmt.Errorf("the events break off again and again: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(delay):
		}
	}
}

// errBroken is a stream that ended before its last event.
var errBroken = errors.New("the stream ended early")

// connection reads one stream; done says that the job's end was told.
func (w *watcher) connection(ctx context.Context) (done bool, err error) {
	header := http.Header{"Accept": {"text/event-stream"}}
	if w.last != "" {
		header.Set("Last-Event-ID", w.last)
	}
	res, err := w.api.send(ctx, http.MethodGet, "/v1/jobs/"+url.PathEscape(w.id)+"/events", header, nil)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	w.opened = true
	if res.StatusCode == http.StatusNoContent {
		return true, nil
	}
	events := &eventReader{r: bufio.NewReader(io.LimitReader(res.Body, maxAnswer))}
	for {
		e, err := events.next()
		if e.retry > 0 {
			w.delay = e.retry
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errBroken
			}
			return false, err
		}
		w.heard = true
		if e.id != "" {
			w.last = e.id
		}
		if done, err := w.take(ctx, e); done || err != nil {
			return done, err
		}
	}
}

// take prints one event.
func (w *watcher) take(ctx context.Context, e event) (done bool, err error) {
	if w.json {
		var line bytes.Buffer
		if err := json.Compact(&line, e.data); err != nil {
			return false, fmt.Errorf("an event is not JSON: %w", err)
		}
		if _, err := fmt.Fprintf(w.env.Stdout, `{"event":%q,"data":%s}`+"\n", e.name, line.Bytes()); err != nil {
			return false, err
		}
	}
	switch e.name {
	case "status":
		j, err := parseJob(e.data)
		if err != nil {
			return false, err
		}
		w.job = j
		w.say(ctx, j)
	case "delta":
		return false, w.delta(e.data)
	case "done":
		return true, nil
	}
	return false, nil
}

// say tells of a change on standard error.
func (w *watcher) say(ctx context.Context, j *job) {
	s := j.Status
	if j.Waiting != nil && j.Waiting.For != nil {
		s += ", waiting for " + tasks.WaitReason(*j.Waiting.For).Words().For
		if j.Waiting.Position > 0 {
			s += fmt.Sprintf(", position %d", j.Waiting.Position)
		}
	}
	if s == w.said || w.json {
		return
	}
	w.said = s
	if j.Waiting != nil && j.Waiting.For != nil && *j.Waiting.For == string(tasks.WaitPaused) {
		s += w.pause(ctx, j.Pool)
	}
	w.endLine()
	fmt.Fprintf(w.env.Stderr, "%s: %s\n", j.ID, s)
}

// pause says who has paused a pool and why, and when it goes on; "": that cannot be told.
func (w *watcher) pause(ctx context.Context, pool string) string {
	b, err := w.api.call(ctx, http.MethodGet, "/v1/status", nil, nil)
	var status struct{ Pools []poolRow }
	if err != nil || json.Unmarshal(b, &status) != nil {
		return ""
	}
	i := slices.IndexFunc(status.Pools, func(p poolRow) bool { return p.Name == pool && p.State == "paused" })
	if i < 0 {
		return ""
	}
	p := &status.Pools[i]
	s := ": " + clean(pool) + " is paused by " + orDash(p.PausedBy)
	if p.Reason != nil {
		s += " (" + orDash(p.Reason) + ")"
	}
	if next := p.next(time.Now()); next != "-" {
		s += ", " + next
	}
	return s
}

// endLine keeps what is said apart from the text on a screen that shows both.
func (w *watcher) endLine() {
	if w.openLine && terminal(w.env.Stdout) {
		fmt.Fprintln(w.env.Stdout)
		w.openLine = false
	}
}

// delta prints text. Another attempt begins its text anew.
func (w *watcher) delta(data []byte) error {
	var d struct {
		Attempt int    `json:"attempt"`
		Offset  int    `json:"offset"`
		Text    string `json:"text"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return fmt.Errorf("a delta cannot be read: %w", err)
	}
	if w.json {
		return nil
	}
	if d.Attempt != w.attempt {
		if w.offset > 0 {
			if w.openLine {
				fmt.Fprintln(w.env.Stdout)
				w.openLine = false
			}
			fmt.Fprintf(w.env.Stderr, "%s: another attempt; its text begins anew\n", w.id)
		}
		w.attempt, w.offset = d.Attempt, 0
	}
	// After a broken connection the server may send what was printed already.
	if printed := w.offset - d.Offset; printed > 0 {
		if printed >= len(d.Text) {
			return nil
		}
		d.Text = d.Text[printed:]
		d.Offset = w.offset
	}
	if d.Text == "" {
		return nil
	}
	w.offset = d.Offset + len(d.Text)
	w.openLine = !strings.HasSuffix(d.Text, "\n")
	_, err := io.WriteString(w.env.Stdout, d.Text)
	return err
}

// event is one server-sent event (HTML, section 9.2).
type event struct {
	id, name string
	data     []byte
	retry    time.Duration
}

// eventReader reads a stream of events.
type eventReader struct{ r *bufio.Reader }

// next returns the next event that has data. With an error it returns what a
// block without data said, which is the time to wait before coming back.
func (s *eventReader) next() (event, error) {
	var e event
	hasData := false
	for {
		line, err := s.r.ReadBytes('\n')
		if err != nil {
			return event{retry: e.retry}, err
		}
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) == 0 {
			if hasData {
				return e, nil
			}
			e = event{retry: e.retry}
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "event":
			e.name = string(value)
		case "id":
			e.id = string(value)
		case "data":
			if hasData {
				e.data = append(e.data, '\n')
			}
			e.data, hasData = append(e.data, value...), true
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				e.retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
}
