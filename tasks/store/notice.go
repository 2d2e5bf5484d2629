package store

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

// Control is what one process tells the others.
type Control struct {
	Verb string // "kick" a pool, "cancel" a job, "listen" to a job's text
	What string
}

// Notices is one process's ear: a single subscription through which waiting
// readers wake when a job or batch changes, and workers hear of cancellations.
// A notice can be lost with its connection; whoever waits also looks again
// from time to time, and whoever must not miss a cancellation renews a lease.
type Notices struct {
	rdb     redis.UniversalClient
	control func(Control)

	mu     sync.Mutex
	sub    *redis.PubSub // nil while not running
	ready  map[string]chan struct{}
	ears   map[string]map[chan struct{}]struct{}
	closed bool
}

// NewNotices returns the ear of this process. Control, when set, is called for
// each control message, one at a time.
func NewNotices(rdb redis.UniversalClient, control func(Control)) *Notices {
	return &Notices{rdb: rdb, control: control, ready: map[string]chan struct{}{}, ears: map[string]map[chan struct{}]struct{}{}}
}

const (
	noteChannel    = prefix + "note:"
	controlChannel = prefix + "control"
)

// Run listens until ctx ends.
func (n *Notices) Run(ctx context.Context) error {
	sub := n.rdb.Subscribe(ctx, controlChannel)
	n.mu.Lock()
	n.sub = sub
	for id := range n.ears {
		_ = sub.Subscribe(ctx, noteChannel+id) // again on reconnect, by go-redis
	}
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.sub = nil
		n.mu.Unlock()
		_ = sub.Close()
	}()
	messages := sub.ChannelWithSubscriptions(redis.WithChannelSize(1024), redis.WithChannelHealthCheckInterval(3*time.Second))
	for {
		select {
		case <-ctx.Done():
			return nil
		case m, ok := <-messages:
			if !ok {
				return nil
			}
			switch m := m.(type) {
			case *redis.Subscription:
				if m.Kind == "subscribe" {
					n.subscribed(strings.TrimPrefix(m.Channel, noteChannel))
				}
			case *redis.Message:
				if m.Channel == controlChannel {
					verb, what, _ := strings.Cut(m.Payload, " ")
					if n.control != nil {
						n.control(Control{Verb: verb, What: what})
					}
					continue
				}
				n.wake(strings.TrimPrefix(m.Channel, noteChannel))
			}
		}
	}
}

func (n *Notices) subscribed(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ready := n.ready[id]; ready != nil {
		close(ready)
		delete(n.ready, id)
	}
	n.wakeLocked(id) // after a lost connection something may have been missed
}

func (n *Notices) wake(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wakeLocked(id)
}

func (n *Notices) wakeLocked(id string) {
	for ear := range n.ears[id] {
		select {
		case ear <- struct{}{}:
		default: // it has a signal already
		}
	}
}

// Watch signals each change of a job or batch, several as one. It is
// subscribed when it returns; stop ends it.
func (n *Notices) Watch(ctx context.Context, id string) (changed <-chan struct{}, stop func(), err error) {
	ear := make(chan struct{}, 1)
	n.mu.Lock()
	if n.sub == nil {
		n.mu.Unlock()
		return nil, nil, fmt.Errorf("watch %s: not listening: %w", id, tasks.ErrUnavailable)
	}
	ready := n.ready[id]
	if n.ears[id] == nil {
		n.ears[id] = map[chan struct{}]struct{}{}
		ready = make(chan struct{})
		n.ready[id] = ready
		if err := n.sub.Subscribe(ctx, noteChannel+id); err != nil {
			delete(n.ears, id)
			delete(n.ready, id)
			n.mu.Unlock()
			return nil, nil, fmt.Errorf("watch %s: %w", id, known(err))
		}
	}
	n.ears[id][ear] = struct{}{}
	n.mu.Unlock()
	stop = sync.OnceFunc(func() { n.unwatch(id, ear) })
	if ready != nil {
		select {
		case <-ready:
		case <-time.After(5 * time.Second):
			stop()
			return nil, nil, fmt.Errorf("watch %s: %w", id, tasks.ErrUnavailable)
		case <-ctx.Done():
			stop()
			return nil, nil, ctx.Err()
		}
		select { // being subscribed is not a change
		case <-ear:
		default:
		}
	}
	return ear, stop, nil
}

func (n *Notices) unwatch(id string, ear chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.ears[id], ear)
	if len(n.ears[id]) > 0 {
		return
	}
	delete(n.ears, id)
	delete(n.ready, id)
	if n.sub != nil {
		_ = n.sub.Unsubscribe(context.Background(), noteChannel+id)
	}
}

// Tell sends a control message to every process.
func (s *Store) Tell(ctx context.Context, c Control) error {
	if err := s.rdb.Publish(ctx, controlChannel, c.Verb+" "+c.What).Err(); err != nil {
		return fmt.Errorf("tell of %s: %w", c.Verb, known(err))
	}
	return nil
}
