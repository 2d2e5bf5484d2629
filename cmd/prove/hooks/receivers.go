package hooks

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"github.com/sluicehq/sluice/worker/webhook"
)

// receivers is how many there are, and receiver 0 and 1 may be the bad ones.
const receivers = 50

// site is the receivers.
type site struct {
	servers []*httptest.Server
	stop    chan struct{}
	mu      sync.Mutex
	seen    map[string]map[string]int // object -> webhook-id -> arrivals
	took    []time.Duration           // of each object, from the event to its first arrival
	bad     bool                      // receiver 0 hangs, receiver 1 answers 500
}

func newSite() *site {
	s := &site{stop: make(chan struct{}), seen: map[string]map[string]int{}}
	for i := range receivers {
		s.servers = append(s.servers, httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.take(w, r, i) })))
	}
	return s
}

// url is where the i-th event goes.
func (s *site) url(i int) string { return s.servers[i%receivers].URL }

func (s *site) take(w http.ResponseWriter, r *http.Request, i int) {
	body, _ := io.ReadAll(r.Body)
	arrived := time.Now()
	s.mu.Lock()
	bad := s.bad
	s.mu.Unlock()
	switch {
	case bad && i == 0:
		select {
		case <-r.Context().Done():
		case <-s.stop:
		}
		return
	case bad && i == 1:
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	var e struct {
		Timestamp time.Time
		Data      struct{ ID string }
	}
	if json.Unmarshal(body, &e) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := s.seen[e.Data.ID]
	if ids == nil {
		ids = map[string]int{}
		s.seen[e.Data.ID] = ids
		s.took = append(s.took, arrived.Sub(e.Timestamp))
	}
	ids[r.Header.Get(webhook.HeaderID)]++
}

func (s *site) reset(bad bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen, s.took, s.bad = map[string]map[string]int{}, nil, bad
}

// count is how many objects were told of.
func (s *site) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

func (s *site) p99() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.took) == 0 {
		return 0
	}
	slices.Sort(s.took)
	return s.took[len(s.took)*99/100]
}

// check counts, of the objects, those that were not told of, and the events
// that have not one id of their own.
func (s *site) check(objects []string) (missing, several, arrivals int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := map[string]bool{}
	for _, id := range objects {
		got := s.seen[id]
		if len(got) == 0 {
			missing++
		}
		if len(got) > 1 {
			several++
		}
		for event, n := range got {
			arrivals += n
			if known[event] {
				several++
			}
			known[event] = true
		}
	}
	return missing, several, arrivals
}

func (s *site) close() {
	close(s.stop)
	for _, srv := range s.servers {
		srv.Close()
	}
}
