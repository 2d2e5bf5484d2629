package api_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api"
)

// follow reads a stream and puts deltas together.
type follow struct {
	t      *testing.T
	next   func() (event, bool)
	text   map[int]string // by attempt
	lastID string
	names  []string
}

func (s *site) follow(t *testing.T, id string, headers ...string) *follow {
	return &follow{t: t, next: s.stream(t.Context(), "/v1/jobs/"+id+"/events", reader, headers...), text: map[int]string{}}
}

// until reads up to the first event that ok accepts.
func (f *follow) until(what string, ok func(e event) bool) event {
	f.t.Helper()
	for {
		e, more := f.next()
		if !more {
			f.t.Fatalf("the stream ended before %s; events so far: %v", what, f.names)
		}
		if e.name == "" {
			continue
		}
		f.names, f.lastID = append(f.names, e.name), e.id
		switch e.name {
		case "delta":
			var d struct {
				Attempt, Offset int
				Text            string
			}
			if err := json.Unmarshal([]byte(e.data), &d); err != nil {
				f.t.Fatal(err)
			}
			if d.Offset != len(f.text[d.Attempt]) {
				f.t.Fatalf("a delta at %d after %d bytes of attempt %d", d.Offset, len(f.text[d.Attempt]), d.Attempt)
			}
			f.text[d.Attempt] += d.Text
		case "status":
			conforms(f.t, "Job", []byte(e.data))
		}
		if ok(e) {
			return e
		}
	}
}

func status(want string) func(event) bool {
	return func(e event) bool {
		return e.name == "status" && strings.Contains(e.data, `"status":"`+want+`"`)
	}
}

func named(name string) func(event) bool { return func(e event) bool { return e.name == name } }

func (f *follow) ended() {
	f.t.Helper()
	if e, more := f.next(); more {
		f.t.Errorf("the stream goes on with %+v", e)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	s := serve(t)
	id := s.submit()
	f := s.follow(t, id)
	f.until("queued", status("queued"))
	s.world.start(id)
	f.until("running", status("running"))
	s.world.produce(id, "Hel")
	f.until("a delta", named("delta"))
	s.world.produce(id, "lo w\xc3") // half a character
	f.until("more", func(e event) bool { return f.text[1] == "Hello w" })
	s.world.produce(id, "\xb6rld")
	f.until("the rest", func(e event) bool { return f.text[1] == "Hello wörld" })
	s.world.again(id)
	f.until("retrying", status("retrying"))
	s.world.start(id)
	s.world.produce(id, "Anew")
	f.until("the second attempt", func(event) bool { return f.text[2] == "Anew" })
	s.world.succeed(id, "Anew, and done")
	e := f.until("done", named("done"))
	if f.text[2] != "Anew, and done" {
		t.Errorf("the deltas make %q", f.text[2])
	}
	if e.data != `{"id":"`+id+`","status":"succeeded"}` {
		t.Errorf("done says %s", e.data)
	}
	f.ended()
	if n := len(f.names); f.names[n-2] != "status" {
		t.Errorf("before done came %v", f.names)
	}
	// A browser that comes back after done is told to stop.
	s.call("GET", "/v1/jobs/"+id+"/events", reader, nil, "Last-Event-ID", f.lastID).want(t, 204)
	if s.world.listened[id] == 0 {
		t.Error("the worker was not asked to publish")
	}
	until(t, "the subscription is gone", func() bool { return s.world.watched(id) == 0 })
}

func TestEventsResumeExactly(t *testing.T) {
	t.Parallel()
	s := serve(t)
	id := s.submit()
	s.world.start(id)
	text := strings.Repeat("Grüße 😀 ", 200)
	s.world.produce(id, text[:300])
	f := s.follow(t, id)
	f.until("some text", func(event) bool { return len(f.text[1]) >= 290 })
	s.world.produce(id, text[300:])
	s.world.succeed(id, text)

	// From the last event seen, whatever it was, the text goes on where it ended.
	g := s.follow(t, id, "Last-Event-ID", f.lastID)
	g.text[1] = f.text[1]
	g.until("done", named("done"))
	if g.text[1] != text {
		t.Errorf("%d bytes came of %d", len(g.text[1]), len(text))
	}
	g.ended()
	// After each event of a stream comes exactly the rest of it.
	h := s.follow(t, id)
	var ids []string
	h.until("done", func(e event) bool { ids = append(ids, e.id); return e.name == "done" })
	for i, from := range ids[:len(ids)-1] {
		k := s.follow(t, id, "Last-Event-ID", from)
		var rest []string
		k.until("done", func(e event) bool { rest = append(rest, e.id); return e.name == "done" })
		if len(rest) != len(ids)-1-i || rest[len(rest)-1] != ids[len(ids)-1] {
			t.Errorf("after %s came %v, want the tail of %v", from, rest, ids)
		}
	}
}

func TestEventsOfAJobThatHasEnded(t *testing.T) {
	t.Parallel()
	s := serve(t)
	id := s.submit()
	s.call("POST", "/v1/jobs/"+id+"/cancel", writer, nil).want(t, 200)
	for _, last := range []string{"", "x", "1-2", "-1-0-0", "999-0-0", "1-1-1-1", "9999999999999999999-0-0", "999-0-0-done"} {
		f := s.follow(t, id, "Last-Event-ID", last)
		f.until("done", named("done"))
		if strings.Join(f.names, " ") != "status done" {
			t.Errorf("with Last-Event-ID %q came %v", last, f.names)
		}
		f.ended()
	}
	// Queued again, it is news to a reader that saw it done.
	f := s.follow(t, id)
	done := f.until("done", named("done")).id
	s.call("POST", "/v1/jobs/"+id+"/retry", writer, nil).want(t, 200)
	s.follow(t, id, "Last-Event-ID", done).until("queued again", status("queued"))
}

func TestEventsEndOnShutdownAndDeletion(t *testing.T) {
	t.Parallel()
	s := serve(t)
	a, b := s.submit(), s.submit()
	f, g := s.follow(t, a), s.follow(t, b)
	f.until("queued", status("queued"))
	g.until("queued", status("queued"))
	s.world.mu.Lock()
	delete(s.world.jobs, a)
	s.world.tell(a)
	s.world.mu.Unlock()
	f.ended()
	s.api.Drain()
	g.ended()
}

func TestEventsBeatWhileNothingHappens(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) { c.Heartbeat, c.ListenEvery = 5*time.Millisecond, 5*time.Millisecond })
	id := s.submit()
	next := s.stream(t.Context(), "/v1/jobs/"+id+"/events", reader)
	for {
		e, more := next()
		if !more {
			t.Fatal("the stream ended")
		}
		if e.comment != "" {
			break
		}
	}
	until(t, "the worker is asked again", func() bool {
		s.world.mu.Lock()
		defer s.world.mu.Unlock()
		return s.world.listened[id] > 2
	})
}

func TestEventsWithoutPartials(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) { c.Partials = nil })
	id := s.submit()
	f := s.follow(t, id)
	f.until("queued", status("queued"))
	s.world.start(id)
	f.until("running", status("running"))
	s.world.succeed(id, "all at once")
	f.until("done", named("done"))
	if f.text[1] != "all at once" {
		t.Errorf("the deltas make %q", f.text[1])
	}
}
