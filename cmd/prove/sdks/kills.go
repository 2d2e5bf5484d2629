package sdks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// struck is a call of an SDK that something happens to.
type struck struct {
	*trial
	mark, prompt string
	command      command
	arrived      chan struct{} // closed when the provider is sent it

	out json.RawMessage
	err error
}

// strike is a kind of what may happen to calls.
type strike struct {
	name string
	size int // calls of each SDK at once
	// asks is what an SDK is asked to do.
	asks func(ctx context.Context, s *struck) error
	// hit has it happen, while the calls are under way.
	hit func(ctx context.Context, w *world, round int, calls []*struck) error
	// judge finds what is wrong once a call is over.
	judge func(ctx context.Context, s *struck) error
}

var strikes = []strike{
	{"API killed, calls", 5, slowCall("[[latency:400ms]]"), killAPI, one},
	{"API killed, batches", 5, batchCall, killAPI, oneBatch},
	{"connection cut, calls", 25, slowCall("[[latency:400ms]]"), cutAll, one},
	{"connection cut, batches", 25, batchCall, cutAll, oneBatch},
	{"told to come back, calls", 25, timedCall("[[latency:7s]]", 8000, nil), leave, one},
	{"client timed out, calls", 25, timedCall("[[latency:2500ms]]", 2000, map[string]string{"x-stainless-timeout": "600"}), leave, oneUnlessTimedOut},
	{"workers killed, calls", 50, slowCall("[[latency:2s]]"), killWorkers, twoAtMost},
	{"workers killed, streams", 50, slowStream, killWorkers, toldOrTwoAtMost},
	{"stream cut after its headers", 25, slowStream, cutStream, twoAtMost},
}

// kills strikes calls of every SDK, each kind in rounds.
func (c *Command) kills(ctx context.Context, w *world) error {
	for k := range strikes {
		if err := c.strike(ctx, w, &strikes[k]); err != nil {
			return fmt.Errorf("%s: %w", strikes[k].name, err)
		}
	}
	return nil
}

// strike has one kind of it happen to as many calls of each SDK as are wanted.
func (c *Command) strike(ctx context.Context, w *world, k *strike) error {
	began := time.Now()
	wrong := map[string][]string{}
	calls := map[string]map[int32]int{} // upstream, of how many
	told := map[string]int{}            // errors that the SDK told its caller
	rounds := 0
	for done := 0; done < c.Kills; rounds++ {
		all, err := w.round(ctx, k, rounds, min(k.size, c.Kills-done))
		if err != nil {
			return err
		}
		done += k.size
		for _, s := range all {
			if s.err != nil {
				told[s.name]++
			}
			if err := errors.Join(k.judge(ctx, s), errors.Join(s.faults...)); err != nil {
				wrong[s.name] = append(wrong[s.name], err.Error())
			}
			if calls[s.name] == nil {
				calls[s.name] = map[int32]int{}
			}
			if s.command.Do == "batch" {
				continue // it is called later
			}
			calls[s.name][w.loose.Stats(true).Detail[rig.PromptDigest(s.prompt)].Calls]++
		}
	}
	for _, d := range w.drivers {
		how := fmt.Sprintf("%s: %d struck in %d rounds; times called upstream, by how many: %v; errors told: %d", passes, min(c.Kills, rounds*k.size), rounds, calls[d.name], told[d.name])
		if n := len(wrong[d.name]); n > 0 {
			how = fmt.Sprintf("FAILS for %d: %s\n\t%s", n, how, strings.Join(wrong[d.name][:min(n, 3)], "\n\t"))
		}
		w.note(d.sdk, k.name, how)
	}
	fmt.Printf("%s: %d rounds in %.0f s\n", k.name, rounds, time.Since(began).Seconds())
	return nil
}

// round has each SDK make some calls, strikes, and waits for what comes of them.
func (w *world) round(ctx context.Context, k *strike, round, size int) ([]*struck, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var all []*struck
	for i, d := range w.drivers {
		for j := range size {
			t, err := w.trial(d, fmt.Sprint(k.name, round, "-", j))
			if err != nil {
				return nil, err
			}
			s := &struck{trial: t, mark: fmt.Sprintf("mark-%s-%d-%d-%d-end", plain(k.name), round, i, j), arrived: make(chan struct{})}
			s.prompt = s.mark
			if err := k.asks(ctx, s); err != nil {
				return nil, err
			}
			w.when(s.mark, func() { close(s.arrived) })
			all = append(all, s)
		}
	}
	var running sync.WaitGroup
	for _, s := range all {
		w.door.mark(s.mark, "")
		running.Go(func() { s.out, s.err = s.go1(ctx) })
	}
	err := k.hit(ctx, w, round, all)
	running.Wait()
	w.door.forget()
	return all, err
}

// go1 makes the call as a program does.
func (s *struck) go1(ctx context.Context) (json.RawMessage, error) {
	var out json.RawMessage
	err := s.do(ctx, s.command, &out)
	return out, err
}

func slowCall(how string) func(context.Context, *struck) error {
	return timedCall(how, 0, nil)
}

func timedCall(how string, timeout int64, headers map[string]string) func(context.Context, *struck) error {
	return func(_ context.Context, s *struck) error {
		s.prompt = s.mark + " " + how
		s.command = s.call(s.prompt)
		s.command.Timeout, s.command.Headers = timeout, headers
		return nil
	}
}

// slowStream is a stream that is slow the first time.
func slowStream(_ context.Context, s *struck) error {
	s.prompt = s.mark + " [[fault:slow:1]]"
	s.command = command{Do: "stream", Params: s.asking("claude-x", s.prompt)}
	if s.dialect == "openai" {
		s.command = command{Do: "chat_stream", Params: s.asking("gpt-x", s.prompt)}
	}
	return nil
}

// batchCall is the creation of a batch of one request.
func batchCall(ctx context.Context, s *struck) error {
	s.command = command{Do: "batch", Params: s.batchOf(s.prompt)}
	if s.dialect != "openai" {
		return nil
	}
	const endpoint = "/v1/chat/completions"
	var f fileView
	if err := s.do(ctx, command{Do: "file", Text: lines(endpoint, s.prompt)}, &f); err != nil {
		return err
	}
	s.command.Params = map[string]any{"input_file_id": f.ID, "endpoint": endpoint, "completion_window": "24h", "metadata": map[string]string{"mark": s.mark}}
	return nil
}

// soon is a moment of the strike within some time.
func soon(most time.Duration) time.Duration { return time.Duration(rand.Int64N(int64(most))) }

// killAPI kills the API that the calls go to: in even rounds once they are all at the
// provider, in the others at any moment. Another takes its place, and it comes back.
func killAPI(ctx context.Context, w *world, round int, calls []*struck) error {
	victim := w.stage.APIs[round%2]
	if round%2 == 0 && calls[0].command.Do != "batch" {
		for _, s := range calls {
			select {
			case <-s.arrived:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	} else if err := errors.Join(w.door.awaits(ctx, calls[0].mark), rig.Wait(ctx, soon(25*time.Millisecond))); err != nil {
		return err
	}
	if err := errors.Join(victim.Kill(), victim.Start()); err != nil {
		return err
	}
	return victim.AwaitReady(ctx)
}

// cutAll cuts the connection of each call: of the even ones once the provider has it, of
// the others at any moment.
func cutAll(ctx context.Context, w *world, _ int, calls []*struck) error {
	var g errgroup.Group
	for i, s := range calls {
		g.Go(func() error {
			if i%2 == 0 && s.command.Do != "batch" {
				select {
				case <-s.arrived:
				case <-ctx.Done():
					return ctx.Err()
				}
			} else if err := errors.Join(w.door.awaits(ctx, s.mark), rig.Wait(ctx, soon(25*time.Millisecond))); err != nil {
				return err
			}
			w.door.cut(s.mark)
			return nil
		})
	}
	return g.Wait()
}

// cutStream cuts the connection of each stream once the first text has passed.
func cutStream(_ context.Context, w *world, _ int, calls []*struck) error {
	for _, s := range calls {
		w.door.mark(s.mark, `"delta"`)
	}
	return nil
}

func leave(context.Context, *world, int, []*struck) error { return nil }

// killWorkers kills all workers while they have the calls, and starts them again.
func killWorkers(ctx context.Context, w *world, _ int, calls []*struck) error {
	for _, s := range calls {
		select {
		case <-s.arrived:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	within := 300 * time.Millisecond
	if strings.Contains(calls[0].command.Do, "stream") {
		within = 3 * time.Second // before its first event, and amid them
	}
	if err := rig.Wait(ctx, soon(within)); err != nil {
		return err
	}
	for _, p := range w.stage.Workers {
		if err := p.Kill(); err != nil {
			return err
		}
	}
	for _, p := range w.stage.Workers {
		if err := p.Start(); err != nil {
			return err
		}
	}
	for _, p := range w.stage.Workers {
		if err := p.AwaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// one wants an answer, and one call upstream.
func one(_ context.Context, s *struck) error {
	if s.err != nil {
		return fmt.Errorf("%s: %w", s.mark, s.err)
	}
	s.called(1, s.prompt)
	return nil
}

// oneUnlessTimedOut is one, of an SDK that asks again when its own time has passed.
func oneUnlessTimedOut(ctx context.Context, s *struck) error {
	if f, ok := errors.AsType[*failure](s.err); ok && !s.returns && f.Class == "Timeout" {
		s.called(1, s.prompt)
		return nil
	}
	return one(ctx, s)
}

// oneBatch wants one batch. An SDK that does not send it again by itself leaves that to
// its caller, who looks first whether it is there.
func oneBatch(ctx context.Context, s *struck) error {
	list := func() (ids []string, err error) {
		err = s.do(ctx, command{Do: "batch_list", Limit: 20}, &ids)
		return ids, err
	}
	ids, err := list()
	if err != nil {
		return err
	}
	if s.err != nil && !s.resends && len(ids) == 0 {
		if _, s.err = s.go1(ctx); s.err == nil {
			ids, err = list()
		}
	}
	switch {
	case err != nil:
		return err
	case s.err != nil && s.resends:
		return fmt.Errorf("%s: %w", s.mark, s.err)
	case len(ids) != 1:
		return fmt.Errorf("%s: there are %d batches", s.mark, len(ids))
	}
	return nil
}

// toldOrTwoAtMost is twoAtMost of a stream that ends with our own word for it, if it has
// no other end.
func toldOrTwoAtMost(ctx context.Context, s *struck) error {
	if f, ok := errors.AsType[*failure](s.err); ok && !strings.Contains(f.Message+string(f.Body), "broke off") {
		return fmt.Errorf("%s: it ends with another error: %w", s.mark, f)
	}
	return twoAtMost(ctx, s)
}

// twoAtMost wants an answer or the dialect's error, and a second call upstream for the
// same job only where the first is marked. A stream that broke off is asked for again by
// its caller, which is another job.
func twoAtMost(ctx context.Context, s *struck) error {
	if f, ok := errors.AsType[*failure](s.err); ok && strings.Contains(s.command.Do, "stream") {
		if s.out, s.err = s.go1(ctx); s.err != nil {
			return fmt.Errorf("%s: after %w: %w", s.mark, f, s.err)
		}
	}
	if s.err != nil {
		return fmt.Errorf("%s: %w", s.mark, s.err)
	}
	c := s.w.stage.ClientOf(s.token)
	defer c.Close()
	jobs, err := c.Jobs(ctx, "")
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if j, err = c.Job(ctx, j.ID, 0); err != nil {
			return err
		}
		if a := j.Upstream.Attempts; len(a) > 2 || len(a) == 2 && !a[0].MaybeBilled {
			return fmt.Errorf("%s: a job has the calls %+v; want two at most, and the first of them marked", s.mark, a)
		}
	}
	return nil
}
