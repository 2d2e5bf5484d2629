package dispatch

import (
	"context"
	"maps"
	"sync"
	"time"
)

// While Redis takes a body in, it does nothing else: some 20 ms for one of 20 MiB, and
// several times that where its disk is slow. So bodies larger than largeBody go one at a
// time, beside the small ones, and those of one tenant at largeRate bytes a second.
const (
	largeBody = 256 << 10
	largeRate = 8 << 20
)

// lane lets large things pass one at a time. Of each tenant one waits for the others'
// and the rest behind it, so the tenants take turns. Its methods may be called at once
// from anywhere.
type lane struct {
	rate int // bytes a second of a tenant, which saves a second's worth up
	turn chan struct{}

	mu      sync.Mutex
	senders map[string]*sender
}

// sender is a tenant with something under way, or that has to rest.
type sender struct {
	turn chan struct{}
	n    int       // under way and waiting
	free time.Time // when the next may go
}

func newLane(rate int) *lane {
	return &lane{rate: rate, turn: make(chan struct{}, 1), senders: map[string]*sender{}}
}

// Do lets n bytes of a tenant pass by do, when it is their turn. It returns the error of
// do, or that of ctx when it ends before the turn comes.
func (l *lane) Do(ctx context.Context, tenant string, n int, do func() error) error {
	s := l.enter(tenant)
	defer l.leave(s)
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.turn }()
	rested := time.NewTimer(l.rest(s))
	defer rested.Stop()
	select {
	case <-rested.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-l.turn }()
	defer l.passed(s, n)
	return do()
}

// enter finds a tenant's sender, and forgets those that have rested.
func (l *lane) enter(tenant string) *sender {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(l.senders, func(_ string, s *sender) bool { return s.n == 0 && now.After(s.free.Add(time.Second)) })
	s := l.senders[tenant]
	if s == nil {
		s = &sender{turn: make(chan struct{}, 1)}
		l.senders[tenant] = s
	}
	s.n++
	return s
}

func (l *lane) leave(s *sender) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.n--
}

// rest is how long a sender has to wait before its next.
func (l *lane) rest(s *sender) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(s.free)
}

// passed notes what a sender has to rest for.
func (l *lane) passed(s *sender, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if saved := time.Now().Add(-time.Second); s.free.Before(saved) {
		s.free = saved
	}
	s.free = s.free.Add(time.Duration(n) * time.Second / time.Duration(l.rate))
}
