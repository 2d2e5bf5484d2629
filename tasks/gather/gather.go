// Package gather joins concurrent requests into few calls: while one call is
// under way, new requests wait, and the next call takes them together. A single
// request is not delayed.
//
// It starts no goroutine: the first waiting caller makes the next call for all
// waiting ones. It promises nothing about order between calls.
package gather

import (
	"context"
	"fmt"
	"sync"
)

// Group joins calls of one kind. Its methods may be called from anywhere.
type Group[Q, A any] struct {
	do     func(ctx context.Context, asked []Q) ([]A, error)
	most   int // asked in one call
	flight int // calls at once
	heap   int // of sizes asked in one call
	size   func(Q) int

	mu      sync.Mutex
	flying  int
	waiting []*ask[Q, A]
}

type ask[Q, A any] struct {
	q    Q
	done chan struct{} // closed when a and err are set, or lead is
	lead []*ask[Q, A]  // to be asked together by this one, itself among them
	a    A
	err  error
}

// New returns a Group that asks by do, which returns an answer to each question
// in order, or one error for all; at most most in a call and flights calls at once.
func New[Q, A any](most, flights int, do func(ctx context.Context, asked []Q) ([]A, error)) *Group[Q, A] {
	return NewSized(most, flights, 0, func(Q) int { return 0 }, do)
}

// NewSized is [New] for questions that have a size: in a call their sizes come to at
// most heap, unless it is of one question alone.
func NewSized[Q, A any](most, flights, heap int, size func(Q) int, do func(ctx context.Context, asked []Q) ([]A, error)) *Group[Q, A] {
	return &Group[Q, A]{do: do, most: most, flight: flights, heap: heap, size: size}
}

// Do asks q, perhaps together with others. Since it may be asking for them, it
// does not end with ctx: do has to bound itself.
func (g *Group[Q, A]) Do(ctx context.Context, q Q) (A, error) {
	own := &ask[Q, A]{q: q, done: make(chan struct{})}
	g.mu.Lock()
	first := g.flying < g.flight
	if first {
		g.flying++
		own.lead = []*ask[Q, A]{own}
	} else {
		g.waiting = append(g.waiting, own)
	}
	g.mu.Unlock()
	if !first {
		<-own.done
		if own.lead == nil {
			return own.a, own.err
		}
	}
	together := own.lead
	asked := make([]Q, len(together))
	for i, a := range together {
		asked[i] = a.q
	}
	answers, err := g.do(context.WithoutCancel(ctx), asked)
	if err == nil && len(answers) != len(asked) {
		err = fmt.Errorf("gather: %d answers to %d questions", len(answers), len(asked))
	}
	for i, a := range together {
		if a.err = err; err == nil {
			a.a = answers[i]
		}
		if a != own {
			close(a.done)
		}
	}
	g.next()
	return own.a, own.err
}

// next lets the first waiting caller ask for those behind it, as far as they fit into
// one call.
func (g *Group[Q, A]) next() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.flying--
		return
	}
	n, sum := 1, g.size(g.waiting[0].q)
	for n < min(g.most, len(g.waiting)) {
		if sum += g.size(g.waiting[n].q); sum > g.heap {
			break
		}
		n++
	}
	leader := g.waiting[0]
	leader.lead = append([]*ask[Q, A](nil), g.waiting[:n]...)
	g.waiting = append([]*ask[Q, A](nil), g.waiting[n:]...)
	close(leader.done)
}
