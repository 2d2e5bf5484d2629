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

	"github.com/redis/go-redis/v9"
)

// Client returns rdb for use within [Join] and with [Try]; outside of them, it
// behaves like rdb.
func Client(rdb redis.UniversalClient) redis.UniversalClient {
	if c, ok := rdb.(client); ok {
		return c
	}
	return client{rdb}
}

// Join runs steps concurrently and returns when all have returned. Whenever each
// of them has either returned or asked for a script of a [Client], these scripts go
// out together, in the order of the steps, followed by the commands that after
// adds, if it is not nil. A step sees nothing of this but its answer. The first
// pipeline is sent with the ctx of the call that completes it.
func Join(ctx context.Context, after func(redis.Pipeliner), steps ...func(context.Context)) {
	g := &group{after: after, live: len(steps)}
	run := func(i int) {
		defer g.leave()
		steps[i](context.WithValue(ctx, key{}, place{g, i}))
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

type key struct{}

// place is where a step stands in its group; the zero place is outside of any.
type place struct {
	group *group
	step  int
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
	call func(evaler) *redis.Cmd
	cmd  *redis.Cmd
	done chan struct{} // closed when cmd is answered
}

type client struct{ redis.UniversalClient }

// evaler runs a script: a client or a pipeline.
type evaler interface {
	redis.Scripter
	processor
}

// EvalSha runs a script by its digest.
func (c client) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	if t, _ := ctx.Value(trialKey{}).(*Trial); t != nil {
		return c.try(ctx, t, "evalsha", sha, keys, args)
	}
	return c.ask(ctx, func(ctx context.Context, s evaler) *redis.Cmd { return s.EvalSha(ctx, sha, keys, args...) })
}

// Eval runs a script by its text.
func (c client) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	if t, _ := ctx.Value(trialKey{}).(*Trial); t != nil {
		return c.try(ctx, t, "eval", script, keys, args)
	}
	return c.ask(ctx, func(ctx context.Context, s evaler) *redis.Cmd { return s.Eval(ctx, script, keys, args...) })
}

func (c client) try(ctx context.Context, t *Trial, name, text string, keys []string, args []any) *redis.Cmd {
	var sent *written
	cmd := c.ask(ctx, func(ctx context.Context, s evaler) (cmd *redis.Cmd) {
		cmd, sent = t.eval(ctx, s, name, text, keys, args)
		return cmd
	})
	t.judge(cmd, sent)
	return cmd
}

func (c client) ask(ctx context.Context, call func(context.Context, evaler) *redis.Cmd) *redis.Cmd {
	at, _ := ctx.Value(key{}).(place)
	if at.group == nil {
		return call(ctx, c.UniversalClient)
	}
	ctx = context.WithValue(ctx, key{}, place{})
	a := &asked{
		ctx: ctx, step: at.step, rdb: c.UniversalClient, done: make(chan struct{}),
		call: func(s evaler) *redis.Cmd { return call(ctx, s) },
	}
	at.group.park(a)
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
		if len(own) == 1 && g.after == nil {
			own[0].cmd = own[0].call(rdb)
		} else {
			p := rdb.Pipeline()
			for _, a := range own {
				a.cmd = a.call(p)
			}
			if g.after != nil {
				g.after(p)
			}
			_, err := p.Exec(own[len(own)-1].ctx)
			// Each command has its own answer or error, but for a connection that
			// Redis refuses while it is made: then the round trip alone has one.
			for _, a := range own {
				if a.cmd.Err() == nil && a.cmd.Val() == nil {
					a.cmd.SetErr(err)
				}
			}
		}
		for _, a := range own {
			close(a.done)
		}
		ready = others
	}
}
