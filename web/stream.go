package web

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const (
	streamEvery = 2 * time.Second  // how often a page's part is shown anew
	streamWrite = 10 * time.Second // that a reader may take for one
	streamsMost = 1000             // at once, in this process; the pages of others ask every two seconds
	streamsEach = 250              // of them, for the viewers of one tenant
)

// streams are the pages that are renewed by server-sent events. Those who see the same
// of the same part are shown one rendering of it.
type streams struct {
	mu     sync.Mutex
	open   int
	by     map[string]int // by the tenant whose viewers they are
	shows  map[string]*showing
	closed chan struct{}
	once   sync.Once
}

// A part is made anew after so many times what it took: so each takes at most a fiftieth of whom it asks, while that is
// no longer than the second of these.
const (
	costly    = 50
	oldestNew = 10 * time.Second
)

// showing is a part of a page as some viewers see it.
type showing struct {
	made   chan struct{} // closed once it is
	at     time.Time
	good   time.Duration // from then on
	status int
	body   []byte
}

// Drain ends the streams of this process; their pages go on elsewhere. It is meant for the
// begin of a shutdown, and may be called again.
func (w *Web) Drain() { w.streams.once.Do(func() { close(w.streams.closed) }) }

// wantsEvents reports whether a part is asked for as it changes.
func wantsEvents(r *http.Request) bool {
	return r.Method == http.MethodGet && fragment(r) && strings.Contains(r.Header.Get("Accept"), "text/event-stream")
}

// stream sends a part of a page again and again, as events: "page" with the part, "away"
// while nobody can tell who asks, and at the end "over" when it, or the session, is gone. Who
// asks is asked again before each.
func (w *Web) stream(rw http.ResponseWriter, r *http.Request, v viewer, part func(http.ResponseWriter, *http.Request, viewer)) {
	who := tasks.TenantOf(v.Tenant)
	if !w.streams.enter(who) {
		rw.Header().Set("Retry-After", "10")
		problem(rw, http.StatusServiceUnavailable, "too many pages are open at once; ask again")
		return
	}
	defer w.streams.leave(who)
	out := http.NewResponseController(rw)
	send := func(event string, data []byte) bool {
		_ = out.SetWriteDeadline(time.Now().Add(streamWrite)) // not each server has one
		_, err := rw.Write(serverSent(event, data))
		return err == nil && out.Flush() == nil
	}
	rw.Header().Set("Content-Type", "text/event-stream")
	rw.Header().Set("X-Accel-Buffering", "no")
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		s, err := w.shown(r, v, part)
		switch {
		case err != nil:
			return
		case s.status != http.StatusOK && s.status != http.StatusServiceUnavailable:
			send("over", nil)
			return
		case !send("page", s.body):
			return
		}
		for gone := true; gone; {
			select {
			case <-r.Context().Done():
				return
			case <-w.streams.closed:
				return
			case <-tick.C:
			}
			switch now, err := w.who(r); {
			case err == nil:
				v, gone = now, false
			case !unknown(err):
				send("over", nil)
				return
			case !send("away", nil):
				return
			}
		}
	}
}

// serverSent is a server-sent event; each line of its data is a field of its own.
func serverSent(name string, data []byte) []byte {
	var b bytes.Buffer
	b.WriteString("event: " + name + "\n")
	for line := range bytes.Lines(bytes.ReplaceAll(data, []byte("\r"), []byte("\n"))) {
		b.WriteString("data: ")
		b.Write(bytes.TrimSuffix(line, []byte("\n")))
		b.WriteByte('\n')
	}
	if len(data) == 0 {
		b.WriteString("data: \n")
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// enter counts a stream, unless there are as many as there may be.
func (s *streams) enter(who string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= streamsMost || s.by[who] >= streamsEach {
		return false
	}
	s.open++
	s.by[who]++
	return true
}

func (s *streams) leave(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	if s.by[who]--; s.by[who] == 0 {
		delete(s.by, who)
	}
}

// sight is what of a viewer decides what is shown: whose it is, a user's alone where users are
// kept apart, and its scopes.
func (v viewer) sight() string {
	return strconv.Quote(v.Tenant) + "\n" + strings.Join(slices.Sorted(slices.Values(v.Scopes)), " ")
}

// shown is a part as the viewer sees it, made less than the time between two events ago, or than fifty times what that
// took: one makes it, and who sees the same takes it.
func (w *Web) shown(r *http.Request, v viewer, part func(http.ResponseWriter, *http.Request, viewer)) (*showing, error) {
	key, all := r.URL.RequestURI()+"\n"+v.sight(), w.streams
	all.mu.Lock()
	s := all.shows[key]
	if s != nil && (s.at.IsZero() || time.Since(s.at) < s.good) {
		all.mu.Unlock()
		select {
		case <-s.made:
			return s, nil
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	for old, o := range all.shows {
		if !o.at.IsZero() && time.Since(o.at) > o.good { // nobody sees it
			delete(all.shows, old)
		}
	}
	begun := time.Now()
	s = &showing{made: make(chan struct{}), status: http.StatusInternalServerError}
	all.shows[key] = s
	all.mu.Unlock()
	defer func() {
		all.mu.Lock()
		s.at, s.good = time.Now(), w.every
		if s.status == http.StatusOK {
			s.good = max(w.every, min(costly*s.at.Sub(begun), oldestNew))
		}
		all.mu.Unlock()
		close(s.made)
	}()
	// It is not only for whoever asked first, who may leave.
	rec := &recorder{status: http.StatusOK}
	part(rec, r.WithContext(context.WithoutCancel(r.Context())), v)
	s.status, s.body = rec.status, rec.body.Bytes()
	return s, nil
}

// recorder keeps an answer.
type recorder struct {
	buffer
	status int
}

func (b *recorder) WriteHeader(status int) { b.status = status }
