package worker

import (
	"context"
	"sync"
)

// company is the attempts of a process that may make calls beside each other, or
// the one that runs alone: a job that may be what its workers die of.
type company struct {
	mu      sync.Mutex
	inside  int
	cleared chan struct{} // closed while one runs alone, or waits until it does
	left    chan struct{} // told when one leaves
}

func newCompany() *company {
	return &company{cleared: make(chan struct{}), left: make(chan struct{}, 1)}
}

// leaving returns a channel that is closed when who makes no call yet is to leave.
func (c *company) leaving() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cleared
}

// closed reports whether one runs alone, or waits until it does.
func (c *company) closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closedLocked()
}

func (c *company) closedLocked() bool {
	select {
	case <-c.cleared:
		return true
	default:
		return false
	}
}

// enter is for an attempt beside others; false: one runs alone.
func (c *company) enter() (leave func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closedLocked() {
		return nil, false
	}
	c.inside++
	return c.leave, true
}

func (c *company) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inside--
	select {
	case c.left <- struct{}{}:
	default:
	}
}

// alone waits until everybody has left; false: another runs alone, or ctx has ended.
func (c *company) alone(ctx context.Context) (leave func(), ok bool) {
	c.mu.Lock()
	if c.closedLocked() {
		c.mu.Unlock()
		return nil, false
	}
	close(c.cleared)
	c.mu.Unlock()
	for c.count() > 0 {
		select {
		case <-c.left:
		case <-ctx.Done():
			c.open()
			return nil, false
		}
	}
	return c.open, true
}

// open lets others in again.
func (c *company) open() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cleared = make(chan struct{})
}

func (c *company) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inside
}
