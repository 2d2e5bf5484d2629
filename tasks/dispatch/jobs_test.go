package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/pipeline"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// A job that comes alone to an idle pool is stored and enqueued in one round
// trip; where the pool turns out not to be idle, the task is void, and the job
// is handed out in its turn.
func TestASubmitToAnIdlePoolIsOneRoundTrip(t *testing.T) {
	rdb := redistest.New(t)
	joined := pipeline.Client(rdb)
	s := store.New(store.Config{Redis: joined, Depth: map[string]int{"p": 8}})
	f := queue.NewFeeder(queue.Config{Redis: rdb, Backlog: s})
	j := NewJobs(Config{Store: s, Feeder: f, Placer: nowhere{}, OneServer: true})
	insp := asynq.NewInspectorFromRedisClient(rdb)
	ctx := t.Context()
	trips := new(atomic.Int64)
	rdb.AddHook(tripCounter{trips})

	submit := func() (id string, took int64) {
		t.Helper()
		id = store.NewID("job")
		before := trips.Load()
		made, err := j.create(ctx, []tasks.Submission{{Job: tasks.Job{
			ID: id, Tenant: "acme", Pool: "p", Model: "m", Priority: tasks.Normal,
			Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"x"`)},
		}}})
		if err != nil || made[0].Err != nil {
			t.Fatal(err, made[0].Err)
		}
		return id, trips.Load() - before
	}
	pending := func(id string) bool {
		info, err := insp.GetTaskInfo("p", id+":1")
		return err == nil && info.State == asynq.TaskStatePending
	}

	first, _ := submit() // scripts are loaded, connections made on the way
	submit()
	for range 2 {
		id, took := submit()
		if took != 1 {
			t.Errorf("%d round trips to an idle pool, want 1", took)
		}
		if !pending(first) || !pending(id) {
			t.Error("a task is not in the queue")
		}
	}

	if err := s.SetPaused(ctx, "p", true); err != nil {
		t.Fatal(err)
	}
	held, _ := submit()
	if _, err := s.Take(ctx, tasks.Ticket{ID: held, Fence: 1, Pool: "p"}); !errors.Is(err, tasks.ErrLost) {
		t.Errorf("a job of a paused pool was taken: %v", err)
	}
	next, _ := submit() // nobody guesses now
	if pending(next) {
		t.Error("a job of a paused pool is in the queue")
	}
	if err := s.SetPaused(ctx, "p", false); err != nil {
		t.Fatal(err)
	}
	swept, err := s.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Hand(ctx, swept.Hand); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{held, next} {
		if !pending(id) {
			t.Errorf("job %s was not handed out after the pause", id)
		}
		if _, err := s.Take(ctx, tasks.Ticket{ID: id, Fence: 1, Pool: "p"}); err != nil {
			t.Errorf("take job %s after the pause: %v", id, err)
		}
	}
}

// A worker logs the end of a job that it ran; the end of one that its caller
// canceled is logged where it was made.
func TestCancelingIsInTheLog(t *testing.T) {
	rdb := redistest.New(t)
	said := new(strings.Builder)
	s := store.New(store.Config{Redis: rdb, Depth: map[string]int{"p": 8}})
	j := NewJobs(Config{
		Store: s, Feeder: queue.NewFeeder(queue.Config{Redis: rdb, Backlog: s}), Placer: nowhere{}, Log: slog.New(slog.NewTextHandler(said, nil)),
	})
	ctx := t.Context()
	job := tasks.Job{
		ID: store.NewID("job"), Tenant: "acme", Pool: "p", Model: "m", Priority: tasks.Normal,
		Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"the prompt"`)},
	}
	if _, err := j.create(ctx, []tasks.Submission{{Job: job}}); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Cancel(ctx, "acme", job.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Cancel(ctx, "acme", job.ID); !errors.Is(err, tasks.ErrFinal) {
		t.Errorf("canceled twice: %v, want ErrFinal", err)
	}
	b, _, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "")
	if err != nil {
		t.Fatal(err)
	}
	lines := []tasks.Job{job, job}
	for i := range lines {
		lines[i].ID, lines[i].Batch, lines[i].Line = store.NewID("job"), b.ID, i+1
	}
	if err := s.StageBatch(ctx, b.ID, lines, tasks.Limits{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitBatch(ctx, b.ID, tasks.BatchCommit{}); err != nil {
		t.Fatal(err)
	}
	if _, err := j.CancelBatch(ctx, "acme", b.ID); err != nil {
		t.Fatal(err)
	}
	if m, err := j.RetryAll(ctx, tasks.Selection{Tenant: "acme", Batch: b.ID}, tasks.Limits{}); err != nil || m.Jobs != 2 {
		t.Fatalf("queued again: %+v, %v", m, err)
	}
	if m, err := j.CancelAll(ctx, tasks.Selection{Tenant: "acme", Batch: b.ID}); err != nil || m.Jobs != 2 {
		t.Fatalf("canceled: %+v, %v", m, err)
	}
	for _, want := range []string{
		"msg=\"jobs canceled\" tenant=acme canceled=2\n",
		`msg="job ended" job=` + job.ID + " tenant=acme pool=p model=m status=canceled attempts=0 code=canceled\n",
		`msg="batch canceled" batch=` + b.ID + " tenant=acme canceled=2\n",
	} {
		if strings.Count(said.String(), want) != 1 {
			t.Errorf("the log says\n%swant once\n%s", said, want)
		}
	}
}

// What is refused leaves no more than a void task.
func TestAGuessBehindARefusalIsVoid(t *testing.T) {
	rdb := redistest.New(t)
	s := store.New(store.Config{Redis: pipeline.Client(rdb), Depth: map[string]int{"p": 8}})
	f := queue.NewFeeder(queue.Config{Redis: rdb, Backlog: s, Tell: func(p redis.Pipeliner, _ string, _ int) { p.Ping(context.Background()) }})
	j := NewJobs(Config{Store: s, Feeder: f, Placer: nowhere{}, OneServer: true})
	j.idle.Store("p", true)
	sub := tasks.Submission{Limits: tasks.Limits{QueuedJobs: 1}, Job: tasks.Job{
		Tenant: "acme", Pool: "p", Model: "m", Priority: tasks.Normal, Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"x"`)},
	}}
	var quota *tasks.QuotaError
	for i, want := range []bool{false, true} {
		sub.Job.ID = store.NewID("job")
		made, err := j.create(t.Context(), []tasks.Submission{sub})
		if err != nil {
			t.Fatal(err)
		}
		if got := errors.As(made[0].Err, &quota); got != want {
			t.Errorf("submit %d refused: %t, want %t", i+1, got, want)
		}
	}
	if _, err := s.Take(t.Context(), tasks.Ticket{ID: sub.Job.ID, Fence: 1, Pool: "p"}); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("a job that was refused: %v", err)
	}
}
