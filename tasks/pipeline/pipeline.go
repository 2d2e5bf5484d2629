// Package pipeline sends the scripts of steps that are written apart to Redis in
// one pipeline: one round trip and, where every write is synced, one wait for the
// disk.
//
// It changes neither scripts nor answers, and promises no atomicity: a script of
// the pipeline may fail alone. Commands that are not scripts go on
// their own.
package pipeline

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// Client returns rdb for use within [Join] and with [Try]; outside of them, it
// behaves like rdb.
func Client(rdb redis.UniversalClient) redis.UniversalClient {
	if c, ok := rdb.(client); ok {
		return c
	}
	return client{UniversalClient: rdb}
}

// Join runs steps concurrently and returns when all have returned. Whenever each
// of them has either returned or asked for a script of a [Client], these scripts go
// out together, in the order of the steps, followed by the commands that after
// adds, if it is not nil. A step sees nothing of this but its answer. The first
// pipeline is sent with the ctx of the call that completes it.
func Join(ctx context.Context, after func(redis.Pipeliner), steps ...func(context.Context)) {
	g := &group{after: after, live: len(steps)}
	run := func(i int) {
		leave := sync.OnceFunc(g.leave)
		defer leave()
		steps[i](context.WithValue(ctx, key{}, place{g, i, leave}))
	}
	var others sync.WaitGroup
	for i := 1; i < len(steps); i++ {
		others.Go(func() { run(i) })
	}
	if len(steps) > 0 {
		run(0)
	}
	others.Wait()
}

// Leave has the other steps wait for this one no longer, as for one that has something
// else to do first, and returns a context outside of the group: the step's scripts go
// on their own.
func Leave(ctx context.Context) context.Context {
	at, _ := ctx.Value(key{}).(place)
	if at.group == nil {
		return ctx
	}
	at.leave()
	return context.WithValue(ctx, key{}, place{})
}

type key struct{}

// place is where a step stands in its group; the zero place is outside of any.
type place struct {
	group *group
	step  int
	leave func() // once
}

// group is the steps of one Join.
type group struct {
	after func(redis.Pipeliner)

	mu     sync.Mutex
	live   int // steps that have not returned
	parked []*asked
}

// asked is a script that waits for the others'.
type asked struct {
	ctx  context.Context
	step int
	rdb  redis.UniversalClient
	kept *receipt // nil: the answer counts as it is
	call func(processor) *redis.Cmd
	cmd  *redis.Cmd
	done chan struct{} // closed when cmd is answered
}

type client struct {
	redis.UniversalClient
	kept *atomic.Bool // nil: answers count as they are
}

// EvalSha runs a script by its digest.
func (c client) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return c.run(ctx, "evalsha", sha, keys, args)
}

// Eval runs a script by its text.
func (c client) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return c.run(ctx, "eval", script, keys, args)
}

func (c client) run(ctx context.Context, name, text string, keys []string, args []any) *redis.Cmd {
	t, _ := ctx.Value(trialKey{}).(*Trial)
	var kept *receipt
	if c.kept != nil && c.kept.Load() && len(keys) > 0 {
		kept = &receipt{key: keys[0]}
	}
	var sent *written
	cmd := c.ask(ctx, kept, func(ctx context.Context, to processor) (cmd *redis.Cmd) {
		cmd, sent = eval(ctx, to, t != nil, name, text, keys, args)
		if kept != nil {
			kept.script = sent
		}
		return cmd
	})
	if t != nil {
		t.judge(cmd, sent)
	}
	return cmd
}

func (c client) ask(ctx context.Context, kept *receipt, call func(context.Context, processor) *redis.Cmd) *redis.Cmd {
	at, _ := ctx.Value(key{}).(place)
	ctx = context.WithValue(ctx, key{}, place{})
	a := &asked{
		ctx: ctx, step: at.step, rdb: c.UniversalClient, kept: kept, done: make(chan struct{}),
		call: func(to processor) *redis.Cmd { return call(ctx, to) },
	}
	if at.group == nil {
		(&group{}).send([]*asked{a})
	} else {
		at.group.park(a)
	}
	<-a.done
	return a.cmd
}

// park lays a question down, and sends all when it is the last that is waited for.
func (g *group) park(a *asked) {
	g.mu.Lock()
	g.parked = append(g.parked, a)
	ready := g.readyLocked()
	g.mu.Unlock()
	g.send(ready)
}

// leave ends a step; the others wait for it no longer.
func (g *group) leave() {
	g.mu.Lock()
	g.live--
	ready := g.readyLocked()
	g.mu.Unlock()
	g.send(ready)
}

func (g *group) readyLocked() []*asked {
	if len(g.parked) == 0 || len(g.parked) < g.live {
		return nil
	}
	ready := g.parked
	g.parked = nil
	slices.SortFunc(ready, func(a, b *asked) int { return cmp.Compare(a.step, b.step) })
	return ready
}

func (g *group) send(ready []*asked) {
	for len(ready) > 0 {
		// Those of the first one's client; more than one client is rare.
		rdb := ready[0].rdb
		var own, others []*asked
		for _, a := range ready {
			if a.rdb == rdb {
				own = append(own, a)
			} else {
				others = append(others, a)
			}
		}
		if len(own) == 1 && own[0].kept == nil && g.after == nil {
			own[0].cmd = own[0].call(rdb)
		} else {
			p := rdb.Pipeline()
			for _, a := range own {
				a.cmd = a.call(p)
			}
			if g.after != nil {
				g.after(p)
			}
			judge := wait(p, own)
			_, err := p.Exec(own[len(own)-1].ctx)
			// Each command has its own answer or error, but for a connection that
			// Redis refuses while it is made: then the round trip alone has one.
			for _, a := range own {
				if a.cmd.Err() == nil && a.cmd.Val() == nil {
					a.cmd.SetErr(err)
				}
			}
			judge()
		}
		for _, a := range own {
			close(a.done)
		}
		ready = others
	}
}
