// Package caps bounds what callers hold of one process at once: connections,
// requests, streams, uploads and the bytes of bodies, each in total and for one
// owner, and how often an address may fail to show a valid token.
//
// It promises that no owner can take the last places: whoever holds none finds
// some free, however much the others want. It keeps nothing in Redis, so each
// process has its own caps, and knows neither a form of the API nor a job.
package caps

import (
	"context"
	"sync"
	"time"
)

// Places are a number of places that owners share. An owner takes no more than
// each, and no more than are free, so that one that wants all gets half
// and n that want all leave the same share to the next (Choudhury and Hahne,
// Dynamic Queue Length Thresholds, 1998). Its methods may be called at once
// from anywhere.
type Places struct {
	most, each int64

	mu    sync.Mutex
	taken int64
	held  map[string]int64 // by owner
	given chan struct{}    // nil: nobody waits for places
}

// NewPlaces returns places for most in all, of which one owner takes each at most.
func NewPlaces(most, each int64) *Places {
	return &Places{most: most, each: each, held: map[string]int64{}}
}

// Take takes n places for an owner, all of them or none.
func (p *Places) Take(owner string, n int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if held := p.held[owner] + n; held > p.each || held > p.most-p.taken {
		return false
	}
	p.taken += n
	p.held[owner] += n
	return true
}

// Give gives n places back.
func (p *Places) Give(owner string, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken -= n
	if p.held[owner] -= n; p.held[owner] <= 0 {
		delete(p.held, owner)
	}
	if p.given != nil {
		close(p.given)
		p.given = nil
	}
}

// holds reports whether an owner has any place.
func (p *Places) holds(owner string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[owner] > 0
}

// takeWithin is [Places.Take] that waits for others to give places back.
func (p *Places) takeWithin(ctx context.Context, wait time.Duration, owner string, n int64) bool {
	if p.Take(owner, n) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		given := p.giving()
		if p.Take(owner, n) {
			return true
		}
		select {
		case <-given:
		case <-ctx.Done():
			return false
		}
	}
}

// giving is closed when places are given back next.
func (p *Places) giving() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.given == nil {
		p.given = make(chan struct{})
	}
	return p.given
}
