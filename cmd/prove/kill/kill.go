package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream"
)

// plan is what a proof does.
type plan struct {
	jobs                              int
	rate                              float64 // calls a second
	latency                           time.Duration
	workerKills, apiKills, redisKills int
	freezes                           int           // of a worker
	redisDown                         time.Duration // of Redis, at most and at the last kill
	seed                              uint64
	bin                               string // of the program; "" builds it
}

const (
	workers   = 3
	apis      = 2
	maxTokens = 64
	batchSize = 50
	callers   = 24 // at once, for submits and for waiting
)

// kill is one kill -9, or one stop of a worker for longer than its lease.
type kill struct {
	freeze bool
	name   string
	worker string    // digest of a killed worker's provider key; "" for others
	redis  bool      // Redis was killed
	at     time.Time // just before the signal
	gone   time.Time // the process has ended, or goes on
	back   time.Time // for Redis: it answers again
}

// call is one call that the provider has seen.
type call struct {
	upstream.Call
	end time.Time
}

// accepted is one job that got a 202, and how its caller saw it end.
type accepted struct {
	prompt string
	id     string
	first  rig.Job // when its end was first seen
	last   rig.Job // read again after everything
}

// evidence is all that a proof has seen.
type evidence struct {
	plan
	jobs    []accepted
	listed  []rig.Job // all jobs that the API knows of
	batches []rig.Batch
	calls   []call
	kills   []kill
	want    map[string]string // the text that a prompt has to be answered with
	retries int64
	took    time.Duration
}

// prove does what the plan says and judges what came of it. The error is for a
// proof that could not be finished, which shows nothing.
func prove(ctx context.Context, p plan, dir string, progress io.Writer) (report, error) {
	if p.bin == "" {
		var err error
		if p.bin, err = rig.Build(ctx, dir); err != nil {
			return report{}, err
		}
	}
	e := &evidence{plan: p}
	var mu sync.Mutex
	fake := upstream.FakeConfig{MeanLatency: p.latency, LatencySigma: 0.5, MeanOutputTokens: 24, OutputSigma: 0.5}
	seeing := fake
	seeing.OnCall = func(c upstream.Call) {
		mu.Lock()
		defer mu.Unlock()
		e.calls = append(e.calls, call{c, time.Now()})
	}
	s, err := rig.Open(ctx, rig.Config{
		Bin: p.bin, Dir: filepath.Join(dir, "stage"), APIs: apis, Workers: workers, Fake: seeing,
		Pool: fmt.Sprintf("limits: {requests_per_minute: %.0f, request_burst: 10, concurrency: 64}, timeout: 30s", p.rate*60),
	})
	if err != nil {
		return report{}, err
	}
	err = e.run(ctx, s, progress)
	// The provider has told of every call once it is closed.
	if err := errors.Join(err, s.Close()); err != nil {
		return report{}, err
	}
	if e.want, err = answers(ctx, fake, e.jobs); err != nil {
		return report{}, err
	}
	return e.judge(), nil
}

// run submits the jobs and waits for their ends while processes are killed.
func (e *evidence) run(ctx context.Context, s *rig.Stage, progress io.Writer) error {
	c := s.Client()
	defer c.Close()
	begin := time.Now()

	killing, stopKilling := context.WithCancel(ctx)
	killed := make(chan error, 1)
	go func() { killed <- e.killAll(killing, s, begin, progress) }()

	err := e.submit(ctx, c)
	if err == nil {
		err = e.await(ctx, c, progress, begin)
	}
	stopKilling()
	err = errors.Join(err, <-killed)
	if err != nil {
		return err
	}
	e.took = time.Since(begin)

	// Whatever a process that lost its jobs could still write would come within
	// a lease and a sweep; and every child runs now.
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settle):
	}
	var g errgroup.Group
	g.SetLimit(callers)
	for i := range e.jobs {
		g.Go(func() (err error) {
			e.jobs[i].last, err = c.Job(ctx, e.jobs[i].id, 0)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if e.listed, err = c.Jobs(ctx, ""); err != nil {
		return err
	}
	for i := range e.batches {
		if e.batches[i], err = c.Batch(ctx, e.batches[i].ID); err != nil {
			return err
		}
	}
	e.retries = c.Retries.Load()
	return nil
}

// settle is how long after the last end the records are read again.
const settle = 3 * time.Second

// submit has every job accepted: single ones from many callers at once, and
// batches among them.
func (e *evidence) submit(ctx context.Context, c *rig.Client) error {
	run := fmt.Sprintf("%016x", e.seed)
	prompt := func(i int) string { return fmt.Sprintf("proof %s job %d", run, i) }
	batches := e.plan.jobs * 4 / 10 / batchSize
	e.jobs = make([]accepted, e.plan.jobs)
	e.batches = make([]rig.Batch, batches)
	for i := range e.jobs {
		e.jobs[i].prompt = prompt(i)
	}
	var g errgroup.Group
	g.SetLimit(callers)
	for b := range batches {
		g.Go(func() error {
			lines := e.jobs[b*batchSize : (b+1)*batchSize]
			prompts := make([]string, len(lines))
			for i := range lines {
				prompts[i] = lines[i].prompt
			}
			id, err := c.SubmitBatch(ctx, fmt.Sprintf("%s-batch-%d", run, b), prompts, maxTokens)
			if err != nil {
				return err
			}
			e.batches[b].ID = id
			jobs, err := c.Jobs(ctx, "batch="+id)
			if err != nil {
				return err
			}
			for _, j := range jobs {
				var line int
				if _, err := fmt.Sscan(j.CustomID, &line); err != nil || line < 1 || line > len(lines) || lines[line-1].id != "" {
					return fmt.Errorf("batch %s lists a job with custom_id %q, or lists it twice", id, j.CustomID)
				}
				lines[line-1].id = j.ID
			}
			return nil
		})
	}
	for i := batches * batchSize; i < e.plan.jobs; i++ {
		g.Go(func() (err error) {
			e.jobs[i].id, err = c.Submit(ctx, fmt.Sprintf("%s-%d", run, i), e.jobs[i].prompt, maxTokens)
			return err
		})
	}
	return g.Wait()
}

// await reads each job as it ends.
func (e *evidence) await(ctx context.Context, c *rig.Client, progress io.Writer, begin time.Time) error {
	var mu sync.Mutex
	ended := 0
	var g errgroup.Group
	g.SetLimit(callers)
	for i := range e.jobs {
		if e.jobs[i].id == "" {
			continue // judged as lost
		}
		g.Go(func() error {
			for !e.jobs[i].first.Final() {
				var err error
				if e.jobs[i].first, err = c.Job(ctx, e.jobs[i].id, 20*time.Second); err != nil {
					return fmt.Errorf("%d jobs ended; job %s is %s: %w", ended, e.jobs[i].id, e.jobs[i].first.Status, err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if ended++; ended%500 == 0 {
				fmt.Fprintf(progress, "%6.1f s  %d jobs have ended\n", time.Since(begin).Seconds(), ended)
			}
			return nil
		})
	}
	return g.Wait()
}

// killAll kills at random moments within the time that the jobs take at the
// pool's pace, and starts again what it killed.
func (e *evidence) killAll(ctx context.Context, s *rig.Stage, begin time.Time, progress io.Writer) error {
	dice := rand.New(rand.NewPCG(e.seed, 1))
	span := time.Duration(float64(e.plan.jobs) / e.rate * 0.9 * float64(time.Second))
	between := func(a, b time.Duration) time.Duration {
		return a + time.Duration(dice.Float64()*float64(b-a))
	}
	type step struct {
		at, down time.Duration
		proc     *rig.Proc
		kill     kill
	}
	// A lane each, so that one may be away while another is killed. In a lane the
	// time is cut into equal parts, with a kill somewhere in each.
	lane := func(n int, pick func() (*rig.Proc, kill), a, b time.Duration) []step {
		var out []step
		for i := range n {
			part := span / time.Duration(n)
			proc, k := pick()
			out = append(out, step{at: time.Duration(i)*part + between(0, part*8/10), down: between(a, b), proc: proc, kill: k})
		}
		return out
	}
	down := max(e.redisDown, 100*time.Millisecond)
	lanes := [][]step{
		lane(e.workerKills, func() (*rig.Proc, kill) {
			i := dice.IntN(len(s.Workers))
			return s.Workers[i], kill{name: s.Workers[i].Name, worker: rig.Digest(rig.Key(i))}
		}, 100*time.Millisecond, 2*time.Second),
		lane(e.apiKills, func() (*rig.Proc, kill) {
			p := s.APIs[dice.IntN(len(s.APIs))]
			return p, kill{name: p.Name}
		}, 100*time.Millisecond, 2*time.Second),
		lane(e.redisKills, func() (*rig.Proc, kill) { return s.Redis, kill{name: s.Redis.Name, redis: true} }, 50*time.Millisecond, down),
		lane(e.freezes, func() (*rig.Proc, kill) {
			i := dice.IntN(len(s.Workers))
			return s.Workers[i], kill{name: s.Workers[i].Name, worker: rig.Digest(rig.Key(i)), freeze: true}
		}, 12*time.Second, 15*time.Second),
	}
	if last := len(lanes[2]) - 1; last >= 0 {
		lanes[2][last].down = down
	}
	busy := make([]sync.Mutex, len(s.Workers)) // one is either killed or stopped
	hold := func(p *rig.Proc) (release func()) {
		if i := slices.Index(s.Workers, p); i >= 0 {
			busy[i].Lock()
			return busy[i].Unlock
		}
		return func() {}
	}
	var mu sync.Mutex
	var g errgroup.Group
	for _, steps := range lanes {
		g.Go(func() error {
			for _, st := range steps {
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(time.Until(begin.Add(st.at))):
				}
				release := hold(st.proc)
				k := st.kill
				k.at = time.Now()
				if err := k.strike(ctx, s, st.proc, st.down); err != nil {
					release()
					return err
				}
				release()
				mu.Lock()
				e.kills = append(e.kills, k)
				fmt.Fprintf(progress, "%6.1f s  %s %s, back after %.1f s\n", k.at.Sub(begin).Seconds(), k.verb(), k.name, k.back.Sub(k.at).Seconds())
				mu.Unlock()
			}
			return nil
		})
	}
	err := g.Wait()
	slices.SortFunc(e.kills, func(a, b kill) int { return a.at.Compare(b.at) })
	return err
}

func (k *kill) verb() string {
	if k.freeze {
		return "kill -STOP"
	}
	return "kill -9"
}

// strike kills or stops the process, and starts it again or lets it go on. It
// does so also when ctx ends: what follows is read from it.
func (k *kill) strike(ctx context.Context, s *rig.Stage, p *rig.Proc, down time.Duration) error {
	begin := p.Kill
	end := p.Start
	if k.freeze {
		begin = func() error { return p.Signal(syscall.SIGSTOP) }
		end = func() error { return p.Signal(syscall.SIGCONT) }
	}
	if err := begin(); err != nil {
		return err
	}
	k.gone = time.Now()
	select {
	case <-ctx.Done():
	case <-time.After(down):
	}
	if err := end(); err != nil {
		return err
	}
	if k.redis {
		if err := s.AwaitRedis(context.WithoutCancel(ctx)); err != nil {
			return err
		}
	}
	k.back = time.Now()
	if k.freeze {
		k.gone = k.back
	}
	return nil
}

// answers asks a provider like the proof's, without its latency, for what each
// prompt is answered with: the fake's answers depend on the prompt alone.
func answers(ctx context.Context, c upstream.FakeConfig, jobs []accepted) (map[string]string, error) {
	c.MeanLatency = 0
	f, err := upstream.NewFake(c)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	want := make(map[string]string, len(jobs))
	for i := range jobs {
		text, err := rig.Ask(ctx, f, jobs[i].prompt, maxTokens)
		if err != nil {
			return nil, err
		}
		want[jobs[i].prompt] = text
	}
	return want, nil
}

func digest(j rig.Job) [32]byte { return sha256.Sum256(j.Result) }
