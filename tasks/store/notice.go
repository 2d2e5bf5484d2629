package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

// Control is what one process tells the others.
type Control struct {
	Verb string // "kick" a pool, "cancel" a job, "listen" to a job's text, "deliver" what is due
	What string
	N    int // with "kick": tasks more; 0 when nobody knows
}

// Notices is one process's ear: a single subscription through which waiting
// readers wake when a job or batch changes, and workers hear of cancellations.
// A notice can be lost with its connection; whoever waits also looks again
// from time to time, and whoever must not miss a cancellation renews a lease. So
// a Redis that permits no channels, as it does for a user who was not given them,
// makes waiting slower and breaks nothing.
type Notices struct {
	rdb     redis.UniversalClient
	prefix  string
	keys    keys
	from    *Store
	control func(Control)
	stands  chan struct{} // the subscription does, anew

	mu         sync.Mutex
	sub        *redis.PubSub // nil while not running
	ready      map[string]chan struct{}
	ears       map[string]map[*ear]struct{}
	deaf, mute error // why Redis lets nothing be heard, or said
}

// ear is one watcher: of every change, or of the end alone.
type ear struct {
	changed chan struct{}
	ended   chan *tasks.Job // nil for a watcher of every change
}

// NewNotices returns the ear of this process for what a Store of the same prefix
// says; from is one, which reads the jobs that notices bring. Control, when set, is called for each control message, one at a time.
func NewNotices(rdb redis.UniversalClient, prefix string, from *Store, control func(Control)) *Notices {
	return &Notices{from: from, rdb: rdb, prefix: cmp.Or(prefix, tasks.DefaultPrefix), keys: newKeys(prefix), control: control, stands: make(chan struct{}, 1), ready: map[string]chan struct{}{}, ears: map[string]map[*ear]struct{}{}}
}

const (
	tendEvery  = time.Second            // a connection is tried so often, and what was not permitted
	retryAfter = 100 * time.Millisecond // after an error: a connection may break as soon as it is made
)

// Refused returns the rules of an ACL that permit what notices need and Redis
// refuses; none while nothing is refused.
func (n *Notices) Refused() (grants []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for command, why := range map[string]error{"subscribe": n.deaf, "publish": n.mute} {
		if why == nil {
			continue
		}
		if g := Grant(n.prefix, command, why.Error()); g != "" && !slices.Contains(grants, g) {
			grants = append(grants, g)
		}
	}
	slices.Sort(grants)
	return grants
}

// Run listens until ctx ends.
func (n *Notices) Run(ctx context.Context) error {
	sub := n.rdb.Subscribe(ctx, n.keys.control(), n.keys.note(""))
	n.mu.Lock()
	n.sub = sub
	for id := range n.ears {
		_ = sub.Subscribe(ctx, n.keys.note(id)) // again on reconnect, by go-redis
	}
	n.mu.Unlock()
	var tended sync.WaitGroup
	tended.Go(func() { n.tend(ctx, sub) })
	// A blocked read ends only when its connection does.
	closed := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer func() {
		closed()
		n.mu.Lock()
		n.sub = nil
		n.mu.Unlock()
		_ = sub.Close()
		tended.Wait()
	}()
	for {
		m, err := sub.Receive(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if redis.IsPermissionError(err) {
				n.permit(&n.deaf, err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(retryAfter):
			}
		default:
			n.hear(m)
		}
	}
}

// hear takes what came through the subscription.
func (n *Notices) hear(m any) {
	switch m := m.(type) {
	case *redis.Subscription:
		switch {
		case m.Kind != "subscribe":
		case m.Channel == n.keys.note(""):
			n.permit(&n.deaf, nil)
			select {
			case n.stands <- struct{}{}:
			default:
			}
		default:
			n.subscribed(strings.TrimPrefix(m.Channel, n.keys.note("")))
		}
	case *redis.Message:
		if m.Channel != n.keys.control() {
			n.wake(strings.TrimPrefix(m.Channel, n.keys.note("")), m.Payload)
		} else if n.control != nil {
			n.control(parseControl(m.Payload))
		}
	}
}

// tend keeps the connection in use, finds out whether this process may speak as
// well as hear, and tries again what Redis did not permit, until ctx ends.
func (n *Notices) tend(ctx context.Context, sub *redis.PubSub) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		speak := true
		select {
		case <-ctx.Done():
			return
		case <-n.stands:
		case <-tick.C:
			n.mu.Lock()
			deaf, mute := n.deaf != nil, n.mute != nil
			n.mu.Unlock()
			if deaf {
				_ = sub.Subscribe(ctx, n.keys.control(), n.keys.note(""))
			} else {
				_ = sub.Ping(ctx)
			}
			speak = mute
		}
		if !speak {
			continue
		}
		if err := n.rdb.Publish(ctx, n.keys.note(""), "hello").Err(); err == nil || redis.IsPermissionError(err) {
			n.permit(&n.mute, err)
		}
	}
}

// permit notes whether Redis permits what *why is about. Those that wait for a
// subscription which will not stand are let go.
func (n *Notices) permit(why *error, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if *why = err; err == nil {
		return
	}
	for id, ready := range n.ready {
		close(ready)
		delete(n.ready, id)
	}
}

func parseControl(said string) Control {
	verb, rest, _ := strings.Cut(said, " ")
	what, count, _ := strings.Cut(rest, " ")
	return Control{Verb: verb, What: what, N: int(atoi(count))}
}

func (n *Notices) subscribed(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ready := n.ready[id]; ready != nil {
		close(ready) // nobody could miss anything yet: who watches looks now
		delete(n.ready, id)
		return
	}
	for e := range n.ears[id] {
		e.signal(nil) // after a lost connection something may have been missed
	}
}

func (n *Notices) wake(id, said string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	what, record, _ := strings.Cut(said, " ")
	end := what == "ended" || what == "deleted"
	var job *tasks.Job
	for e := range n.ears[id] {
		if e.ended != nil && end && job == nil {
			job = n.from.carried(id, record)
		}
		if e.ended == nil || end {
			e.signal(job)
		}
	}
}

// signal never blocks: several signals are one, and the last has the job.
func (e *ear) signal(job *tasks.Job) {
	if e.ended == nil {
		select {
		case e.changed <- struct{}{}:
		default: // it has a signal already
		}
		return
	}
	select {
	case <-e.ended:
	default:
	}
	e.ended <- job
}

// carried reads the record that a notice of an end carries: each field and
// value with its length before it. Nil: there is none, or it is not whole, or its result
// lies elsewhere, or it is sealed and its key not at hand.
func (s *Store) carried(id, record string) *tasks.Job {
	var parts []any
	for record != "" {
		size, rest, ok := strings.Cut(record, ":")
		n, err := strconv.Atoi(size)
		if !ok || err != nil || n < 0 || n > len(rest) {
			return nil
		}
		parts, record = append(parts, rest[:n]), rest[n:]
	}
	if len(parts) == 0 {
		return nil
	}
	h := pairs(parts)
	j, err := s.unpack(context.WithValue(context.Background(), atHand{}, true), id, h) // under the notices' lock nothing is asked of Redis
	if err != nil || !j.Status.Final() || h["rr"] != "" {
		return nil
	}
	return &j
}

// Watch signals each change of a job or batch, several as one. It is
// subscribed when it returns; stop ends it. An error means that nothing will be
// told: look from time to time.
func (n *Notices) Watch(ctx context.Context, id string) (changed <-chan struct{}, stop func(), err error) {
	e := &ear{changed: make(chan struct{}, 1)}
	stop, err = n.watch(ctx, id, e)
	return e.changed, stop, err
}

// WatchEnd signals that a job or batch may have ended: with the job itself as
// it ended, or with nil, and then it has to be looked for. It is subscribed
// when it returns; stop ends it.
func (n *Notices) WatchEnd(ctx context.Context, id string) (ended <-chan *tasks.Job, stop func(), err error) {
	e := &ear{ended: make(chan *tasks.Job, 1)}
	stop, err = n.watch(ctx, id, e)
	return e.ended, stop, err
}

func (n *Notices) watch(ctx context.Context, id string, e *ear) (stop func(), err error) {
	n.mu.Lock()
	if err := n.unheardLocked(id); err != nil {
		n.mu.Unlock()
		return nil, err
	}
	ready := n.ready[id]
	if n.ears[id] == nil {
		n.ears[id] = map[*ear]struct{}{}
		ready = make(chan struct{})
		n.ready[id] = ready
		if err := n.sub.Subscribe(ctx, n.keys.note(id)); err != nil {
			delete(n.ears, id)
			delete(n.ready, id)
			n.mu.Unlock()
			return nil, fmt.Errorf("watch %s: %w", id, redisError(err))
		}
	}
	n.ears[id][e] = struct{}{}
	n.mu.Unlock()
	stop = sync.OnceFunc(func() { n.unwatch(id, e) })
	if ready != nil {
		select {
		case <-ready:
			n.mu.Lock()
			err := n.unheardLocked(id)
			n.mu.Unlock()
			if err != nil {
				stop()
				return nil, err
			}
		case <-time.After(5 * time.Second):
			stop()
			return nil, fmt.Errorf("watch %s: %w", id, tasks.ErrUnavailable)
		case <-ctx.Done():
			stop()
			return nil, ctx.Err()
		}
	}
	return stop, nil
}

// unheardLocked says why no notice of id would come.
func (n *Notices) unheardLocked(id string) error {
	switch why := cmp.Or(n.deaf, n.mute); {
	case n.sub == nil:
		return fmt.Errorf("watch %s: not listening: %w", id, tasks.ErrUnavailable)
	case why != nil:
		return fmt.Errorf("watch %s: %w", id, redisError(why))
	}
	return nil
}

func (n *Notices) unwatch(id string, e *ear) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.ears[id], e)
	if len(n.ears[id]) > 0 {
		return
	}
	delete(n.ears, id)
	delete(n.ready, id)
	if n.sub != nil {
		_ = n.sub.Unsubscribe(context.Background(), n.keys.note(id))
	}
}

// Kick adds to a pipeline what wakes the workers of a pool, which holds n tasks
// more, in every process.
func (s *Store) Kick(p redis.Pipeliner, pool string, n int) {
	p.Publish(context.Background(), s.keys.control(), "kick "+pool+" "+strconv.Itoa(n))
}

// Tell sends a control message to every process.
func (s *Store) Tell(ctx context.Context, c Control) error {
	if err := s.rdb.Publish(ctx, s.keys.control(), c.Verb+" "+c.What).Err(); err != nil {
		return fmt.Errorf("tell of %s: %w", c.Verb, redisError(err))
	}
	return nil
}
