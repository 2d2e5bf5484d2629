// Package kill proves that no accepted job is lost and none is paid for twice
// without a reason, whatever is killed.
//
// Two APIs, three workers and a Redis that writes each command to disk do jobs,
// while a random worker, an API and Redis are killed with kill -9 again and
// again. Workers are also stopped (SIGSTOP) for longer than their lease and let
// go on, so that they come back with late results. Then the jobs' records are
// held against what the provider has seen, and what they and the ledger say that their
// calls cost against its bill.
package kill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Command is the plan of a proof.
type Command struct {
	Jobs        int           `default:"2000" help:"Jobs to submit, four in ten of them in batches; at least 10."`
	Rate        float64       `default:"25" help:"Calls a second that the provider allows."`
	Latency     time.Duration `default:"150ms" help:"Mean time of a call."`
	WorkerKills int           `default:"8" help:"How often a worker is killed."`
	APIKills    int           `default:"5" help:"How often an API is killed."`
	RedisKills  int           `default:"5" help:"How often Redis is killed."`
	Freezes     int           `default:"2" help:"How often a worker is stopped for longer than its lease, and let go on."`
	RedisDown   time.Duration `default:"4s" help:"How long Redis stays away at most, and at its last kill."`
	Seed        uint64        `help:"Of the kills; 0 draws one."`
	Timeout     time.Duration `default:"4m" help:"The proof fails when it takes longer."`
}

// Validate refuses a proof of nothing.
func (c *Command) Validate() error {
	if c.Jobs < 10 || c.Rate <= 0 {
		return errors.New("at least 10 jobs are needed, and a rate above 0")
	}
	return nil
}

// Run proves and prints what it counted. It is an error that a guarantee was broken.
func (c *Command) Run(ctx context.Context, lab *rig.Lab) error {
	if c.Seed == 0 {
		c.Seed = uint64(time.Now().UnixNano())
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	fmt.Printf("%d jobs, 2 APIs, 3 workers, appendfsync always; seed %d\n", c.Jobs, c.Seed)
	r, err := prove(ctx, *c, lab, os.Stdout)
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	if len(r.broken) > 0 {
		return errors.New("a guarantee was broken")
	}
	return nil
}

const (
	workers   = 3
	apis      = 2
	maxTokens = 64
	batchSize = 50
	callers   = 24 // at once, for submits and for waiting
)

// accepted is one job that got a 202, and how its caller saw it end.
type accepted struct {
	prompt string
	id     string
	first  rig.Job // when its end was first seen
	last   rig.Job // read again after everything
	cancel bool    // its caller was told that it is canceled
	hook   bool    // its end is told to the inbox
}

// evidence is all that a proof has seen.
type evidence struct {
	plan    Command
	jobs    []accepted
	listed  []rig.Job // all jobs that the API knows of
	batches []rig.Batch
	calls   []rig.Call
	kills   []kill
	inbox   *inbox // nil: nobody is told
	paces   []pace
	ledger  *tasks.Cost       // what it says that all calls cost; nil: nothing has a price
	want    map[string]string // the text that a prompt has to be answered with
	retries int64
	took    time.Duration
}

// prove does what the plan says and judges what came of it. The error is for a
// proof that could not be finished, which shows nothing.
func prove(ctx context.Context, plan Command, lab *rig.Lab, progress io.Writer) (*report, error) {
	e := &evidence{plan: plan}
	asked := fake.Config{MeanLatency: plan.Latency, LatencySigma: 0.5, MeanOutputTokens: 24, OutputSigma: 0.5}
	s, err := lab.Stage(ctx, rig.Config{
		Name: "stage", APIs: apis, Workers: workers, Fake: asked,
		Pool:     fmt.Sprintf("limits: {requests_per_minute: %.0f, request_burst: 10, concurrency: 64}, timeout: 30s", plan.Rate*60),
		Settings: priced(),
	})
	if err != nil {
		return nil, err
	}
	err = e.run(ctx, s, progress)
	if err := errors.Join(err, s.Close()); err != nil {
		return nil, err
	}
	e.calls = s.Provider.Calls(0)
	if e.want, err = answers(ctx, asked, e.jobs); err != nil {
		return nil, err
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
	if err := errors.Join(err, <-killed); err != nil {
		return err
	}
	e.took = time.Since(begin)
	// Whatever a process that lost its jobs could still write would come within
	// a lease and a sweep; and every child runs now.
	if err := rig.Wait(ctx, settle); err != nil {
		return err
	}
	e.retries = c.Retries.Load()
	return errors.Join(e.read(ctx, c), e.readLedger(ctx, c))
}

// settle is how long after the last end the records are read again.
const settle = 3 * time.Second

// read reads every record again.
func (e *evidence) read(ctx context.Context, c *rig.Client) (err error) {
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
	return nil
}

// submit has every job accepted: single ones from many callers at once, and
// batches among them.
func (e *evidence) submit(ctx context.Context, c *rig.Client) error {
	run := fmt.Sprintf("%016x", e.plan.Seed)
	batches := e.plan.Jobs * 4 / 10 / batchSize
	e.jobs = make([]accepted, e.plan.Jobs)
	e.batches = make([]rig.Batch, batches)
	for i := range e.jobs {
		e.jobs[i].prompt = fmt.Sprintf("proof %s job %d", run, i)
	}
	var g errgroup.Group
	g.SetLimit(callers)
	for b := range batches {
		g.Go(func() (err error) {
			e.batches[b].ID, err = submitBatch(ctx, c, fmt.Sprintf("%s-batch-%d", run, b), e.jobs[b*batchSize:(b+1)*batchSize])
			return err
		})
	}
	for i := batches * batchSize; i < e.plan.Jobs; i++ {
		g.Go(func() (err error) {
			e.jobs[i].id, err = c.Submit(ctx, fmt.Sprintf("%s-%d", run, i), e.jobs[i].prompt, maxTokens)
			return err
		})
	}
	return g.Wait()
}

// submitBatch has a batch accepted whose lines are the jobs, and notes their ids.
func submitBatch(ctx context.Context, c *rig.Client, key string, lines []accepted) (string, error) {
	prompts := make([]string, len(lines))
	for i := range lines {
		prompts[i] = lines[i].prompt
	}
	id, err := c.SubmitBatch(ctx, key, prompts, maxTokens)
	if err != nil {
		return "", err
	}
	jobs, err := c.Jobs(ctx, "batch="+id)
	if err != nil {
		return "", err
	}
	for _, j := range jobs {
		var line int
		if _, err := fmt.Sscan(j.CustomID, &line); err != nil || line < 1 || line > len(lines) || lines[line-1].id != "" {
			return "", fmt.Errorf("batch %s lists a job with custom_id %q, or lists it twice", id, j.CustomID)
		}
		lines[line-1].id = j.ID
	}
	return id, nil
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

// answers asks a provider like the proof's, without its latency, for what each
// prompt is answered with: the fake's answers depend on the prompt alone.
func answers(ctx context.Context, c fake.Config, jobs []accepted) (want map[string]string, err error) {
	c.MeanLatency = 0
	p, err := rig.StartProvider(c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	conn, err := rig.Dial(ctx, p.Addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	want = make(map[string]string, len(jobs))
	for i := range jobs {
		a, err := conn.Do(ctx, rig.AskRequest(p.Addr, "another key", rig.Model, jobs[i].prompt, maxTokens))
		if err != nil {
			return nil, err
		}
		var out struct{ Content []struct{ Text string } }
		if err := json.Unmarshal(a.Body, &out); err != nil || len(out.Content) == 0 {
			return nil, fmt.Errorf("the provider answered %d: %s", a.Status, a.Body)
		}
		want[jobs[i].prompt] = out.Content[0].Text
	}
	return want, nil
}
