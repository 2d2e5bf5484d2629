package kill

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"

	"github.com/sluicehq/sluice/worker/webhook"
)

// event is what a webhook said.
type event struct{ kind, job string }

// inbox is a receiver of webhooks that answers 200 and keeps what came.
type inbox struct {
	server *httptest.Server

	mu   sync.Mutex
	seen map[string]map[event]int // webhook-id -> what it said -> how often
	told map[event]bool
}

func newInbox() *inbox {
	in := &inbox{seen: map[string]map[event]int{}, told: map[event]bool{}}
	in.server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var it struct {
			Type string
			Data struct{ ID string }
		}
		if json.NewDecoder(r.Body).Decode(&it) != nil {
			return
		}
		e := event{it.Type, it.Data.ID}
		in.mu.Lock()
		defer in.mu.Unlock()
		id := r.Header.Get(webhook.HeaderID)
		if in.seen[id] == nil {
			in.seen[id] = map[event]int{}
		}
		in.seen[id][e]++
		in.told[e] = true
	}))
	return in
}

// has reports whether that was told.
func (in *inbox) has(e event) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.told[e]
}

// events are what the single jobs' ends have to be told as.
func (e *evidence) events() (all []event) {
	for _, j := range e.jobs {
		if j.hook {
			all = append(all, event{"job." + j.wanted(), j.id})
		}
	}
	return all
}

// judgeEvents says whether each end was told, and nothing else, each event under one
// id of its own.
func (e *evidence) judgeEvents(r *report) {
	if e.inbox == nil {
		return
	}
	missing, several, untrue := 0, 0, 0
	want := map[event]bool{}
	for _, ev := range e.events() {
		want[ev] = true
		if !e.inbox.has(ev) {
			missing++
			r.breach("event", "%s of job %s was not told", ev.kind, ev.job)
		}
	}
	e.inbox.mu.Lock()
	defer e.inbox.mu.Unlock()
	arrivals := 0
	ids := map[event]string{}
	for id, said := range e.inbox.seen {
		if len(said) > 1 {
			several++
			r.breach("webhook-id", "%s came with several contents: %v", id, said)
		}
		for ev, n := range said {
			arrivals += n
			if other := ids[ev]; other != "" {
				several++
				r.breach("webhook-id", "%v came as %s and as %s", ev, other, id)
			}
			ids[ev] = id
			if !want[ev] {
				untrue++
				r.breach("event", "%v was told, and is not so", ev)
			}
		}
	}
	r.row(missing == 0, "ends that no webhook told", "0", "%d of %d", missing, len(want))
	r.none("webhooks that told what is not so", untrue)
	r.none("events without one webhook-id of their own", several)
	r.row(true, "webhooks that came", "-", "%d", arrivals)
}
