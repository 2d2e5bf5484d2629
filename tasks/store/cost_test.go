package store_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redisd"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

var stat = regexp.MustCompile(`(?m)^cmdstat_([\w|]+):calls=(\d+),usec=(\d+)`)

// spent is what Redis has done of scripts so far: microseconds, and the commands that
// were called, in scripts or out of them.
func spent(b testing.TB, rdb *redis.Client) (usec, calls int) {
	b.Helper()
	info, err := rdb.Info(b.Context(), "commandstats").Result()
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range stat.FindAllStringSubmatch(info, -1) {
		n, _ := strconv.Atoi(m[2])
		took, _ := strconv.Atoi(m[3])
		switch m[1] {
		case "evalsha", "eval":
			usec += took
		case "info":
		default:
			calls += n
		}
	}
	return usec, calls
}

// oneLife is a job's way from its submit to its end, each script of it by stage.
func oneLife(tb testing.TB, s *store.Store, stage func(name string, act func() error)) {
	tb.Helper()
	j := job("acme")
	j.Reserved, j.Metadata = 20, nil // which would cost the create a command
	var next []tasks.Ticket
	stage("create", func() (err error) {
		_, next, err = s.Create(tb.Context(), tasks.Submission{Job: j, Limits: tasks.Limits{QueuedJobs: 100, TokensPerDay: 1e12}})
		return err
	})
	k := next[0]
	k.Tenant = j.Tenant // as a worker has it
	k.Asks = tasks.Asked{Account: "anthropic", Model: "m", AtMost: 1000, Priced: true}
	stage("take", func() error { _, err := s.Take(tb.Context(), k); return err })
	stage("start", func() error { _, _, err := s.Start(tb.Context(), k); return err })
	if err := s.Listen(tb.Context(), k.ID); err != nil {
		tb.Fatal(err)
	}
	stage("append", func() error { _, err := s.Append(tb.Context(), k, 1, 0, "some text"); return err })
	stage("end", func() error {
		_, err := s.End(tb.Context(), k, tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`{"text":"some text that is longer than what a small hash of Redis takes as a value"}`), Usage: &tasks.Usage{InputTokens: 3},
			Attempt: tasks.Attempt{Outcome: tasks.Succeeded, Cost: &tasks.Cost{Amount: 9}}})
		return err
	})
}

// A job that meets an idle pool costs no more commands than these
// in its scripts; another needs a good reason.
func TestALifeCallsFewCommands(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t, redistest.Options{}).Client() // which counts nobody else's
	s := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 1}, Rates: oneRate})
	most := map[string]int{"create": 21, "take": 4, "start": 16, "append": 7, "end": 24} // of an end two are the ledger's
	for round := range 2 {                                                               // the first loads the scripts, and is the day's first
		oneLife(t, s, func(name string, act func() error) {
			_, before := spent(t, rdb)
			must(t, act())
			if _, after := spent(t, rdb); round > 0 && after-before > most[name] {
				t.Errorf("%s called %d commands, at most %d", name, after-before, most[name])
			}
		})
	}
}

// heaviest notes, of all scripts that its client runs, what the one that called most
// commands called.
type heaviest struct {
	tb    testing.TB
	rdb   *redis.Client // of the same Redis, without the hook
	most  int
	which string
}

func (h *heaviest) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *heaviest) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *heaviest) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		_, before := spent(h.tb, h.rdb)
		err := next(ctx, cmd)
		_, after := spent(h.tb, h.rdb)
		calls, which := after-before, fmt.Sprint(cmd.Args())
		if strings.Contains(which, `"compare":`) {
			calls -= 1000
		}
		if calls > h.most {
			h.most, h.which = calls, which
		}
		return err
	}
}

// While a script runs everybody else waits, so what is done for many is done by several:
// beside 1,000 jobs no script of a batch's life, of a sweep or of an audit calls more than
// some hundred commands; but all counts are compared with up to 1,000 jobs in one look.
func TestNoScriptHoldsRedisForLong(t *testing.T) {
	t.Parallel()
	d := redistest.Start(t, redistest.Options{}) // which counts nobody else's
	hook := &heaviest{tb: t, rdb: d.Client()}
	rdb := d.Client()
	rdb.AddHook(hook)
	s := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 100}, Rates: oneRate})
	ctx := t.Context()
	step := func(name string, act func() error) {
		t.Helper()
		must(t, act())
		if hook.most > 450 {
			t.Errorf("%s: a script called %d commands: %.200s", name, hook.most, hook.which)
		}
		hook.most = 0
	}
	var b, dropped tasks.Batch
	step("stage", func() error { b = stage(t, s, 1000); return nil })
	step("accept", func() error { _, err := s.CommitBatch(ctx, b.ID, tasks.BatchCommit{}); return err })
	step("unfold", func() error { unfold(t, s, b.ID); return nil })
	step("sweep", func() error { _, err := s.Sweep(ctx); return err })
	step("audit", func() error {
		for over := false; !over; {
			audited, err := s.Audit(ctx)
			if over = audited.Round; err != nil {
				return err
			}
		}
		return nil
	})
	step("cancel", func() error { _, err := s.CancelBatch(ctx, "acme", b.ID); return err })
	step("stage another", func() error { dropped = stage(t, s, 300); return nil })
	step("abort", func() error { return s.AbortBatch(ctx, dropped.ID) })
}

// What a job's life costs Redis: of each script the median of its microseconds, and the
// commands that it calls.
func BenchmarkLife(b *testing.B) {
	rdb := redistest.New(b)
	s := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 1}, Rates: oneRate})
	usec, calls := map[string][]int{}, map[string]int{}
	stage := func(name string, act func() error) {
		b.Helper()
		from, before := spent(b, rdb)
		if err := act(); err != nil {
			b.Fatal(err)
		}
		till, after := spent(b, rdb)
		usec[name], calls[name] = append(usec[name], till-from), after-before
	}
	for b.Loop() {
		oneLife(b, s, stage)
	}
	sum := 0
	for name, all := range usec {
		slices.Sort(all)
		sum += all[len(all)/2]
		b.ReportMetric(float64(all[len(all)/2]), "µs/"+name)
		b.ReportMetric(float64(calls[name]), "commands/"+name)
	}
	b.ReportMetric(float64(sum), "µs/life")
}

// A finished job's record has what a caller may see and what a retry needs, and no room for
// more than 16 fields, beyond which Redis doubles its table. Where Redis packs values as
// long as those of the embedded one, it takes little more than what it says.
func TestAFinishedRecordIsSmall(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	s := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 1}, Rates: oneRate})
	oneLife(t, s, func(_ string, act func() error) { must(t, act()) })
	key := rdb.Keys(t.Context(), "sluice:{s}:j:*").Val()[0]
	fields := rdb.HKeys(t.Context(), key).Val()
	slices.Sort(fields)
	if want := strings.Fields("ct e exp f fin log m n o p r s st t v"); !slices.Equal(fields, want) {
		t.Errorf("fields %v, want %v", fields, want)
	}
	if o := rdb.HGet(t.Context(), key, "o").Val(); o != `{"usage":{"input_tokens":3}}` {
		t.Errorf("the outcome is %s", o)
	}
	// Long values make it a table, which is no larger than one that never had more fields.
	must(t, rdb.HSet(t.Context(), key+"2", rdb.HGetAll(t.Context(), key).Val()).Err())
	was, fresh := rdb.MemoryUsage(t.Context(), key, 0).Val(), rdb.MemoryUsage(t.Context(), key+"2", 0).Val() // of all fields, not of some
	if kind := rdb.ObjectEncoding(t.Context(), key).Val(); kind != "hashtable" || was > fresh {
		t.Errorf("a %s of %d bytes; written anew it has %d", kind, was, fresh)
	}
	packed := redistest.Start(t, redistest.Options{Args: []string{"--hash-max-ziplist-value", strconv.Itoa(redisd.PackedValue)}}).Client()
	must(t, packed.HSet(t.Context(), key, rdb.HGetAll(t.Context(), key).Val()).Err())
	said := len(key)
	for name, value := range rdb.HGetAll(t.Context(), key).Val() {
		said += len(name) + len(value)
	}
	if took := packed.MemoryUsage(t.Context(), key).Val(); took > was*2/3 || took > int64(said)*3/2 {
		t.Errorf("packed it has %d bytes, as a table %d; it says %d", took, was, said)
	}
}

// Of jobs that come in by one script each has three commands of its own, and what they
// change of a count or a set is written once.
func TestJobsThatComeTogetherCallFewCommands(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t, redistest.Options{}).Client()
	s := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 1}, Rates: oneRate})
	create := func() int {
		subs := make([]tasks.Submission, 64)
		for i := range subs {
			j := job("acme")
			j.Reserved, j.Metadata = 20, nil
			subs[i] = tasks.Submission{Job: j, Limits: tasks.Limits{QueuedJobs: 1000, TokensPerDay: 1e12}}
		}
		_, before := spent(t, rdb)
		_, _, err := s.Create(t.Context(), subs...)
		must(t, err)
		_, after := spent(t, rdb)
		return after - before
	}
	create() // the pool's first
	if n := create(); n > 3*64+25 {
		t.Errorf("64 jobs called %d commands, at most %d", n, 3*64+25)
	}
}

// What the pick of the next job adds to a start, in a pool that uses one lane.
func TestAPickCallsFewCommands(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t, redistest.Options{}).Client()
	s := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 1}, Rates: oneRate})
	start := func(jobs int) int {
		var line []tasks.Ticket
		for i := range jobs {
			j := job("t" + strconv.Itoa(i%3))
			j.Metadata = nil
			_, next, err := s.Create(t.Context(), tasks.Submission{Job: j, Limits: tasks.Limits{QueuedJobs: 100}})
			must(t, err)
			line = append(line, next...)
		}
		_, before := spent(t, rdb)
		_, _, err := s.Start(t.Context(), line[0])
		must(t, err)
		_, after := spent(t, rdb)
		return after - before
	}
	start(1) // the pool's first
	bare := start(1)
	if more := start(7) - bare; more > 15 {
		t.Errorf("a pick adds %d commands to the %d of a start, at most 15", more, bare)
	}
}

// What a caller who waits on its own connection adds to the move that makes its job: two
// looks and three commands, and no script of its own.
func TestACallCallsFewCommands(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t, redistest.Options{}).Client()
	s := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 1}})
	create := func(c *tasks.Call) int {
		_, before := spent(t, rdb)
		made, _, err := s.Create(t.Context(), tasks.Submission{Job: job("acme"), Limits: tasks.Limits{QueuedJobs: 100}, Caller: c})
		if must(t, err); made[0].Err != nil {
			t.Fatal(made[0].Err)
		}
		_, after := spent(t, rdb)
		return after - before
	}
	create(nil) // the pool's first
	bare := create(nil)
	if more := create(&tasks.Call{Digest: "d"}) - bare; more > 5 {
		t.Errorf("a call adds %d commands to the %d of a submit, at most 5", more, bare)
	}
	if more := create(&tasks.Call{}) - bare; more > 3 {
		t.Errorf("a call with a key adds %d commands, at most 3", more)
	}
}

// A change of a waiting job's lane, or its cancellation, calls as many commands in front of a
// hundred thousand others as alone: each finds its place by itself.
func TestAnEditAndACancelCostTheSameAtAnyDepth(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t, redistest.Options{}).Client() // which counts nobody else's
	s := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 1}, Rates: oneRate})
	must(t, s.SetPaused(t.Context(), pool, true))
	cost := func(act func(id string) error) int {
		t.Helper()
		j, _ := create(t, s, job("acme"))
		_, before := spent(t, rdb)
		must(t, act(j.ID))
		_, after := spent(t, rdb)
		return after - before
	}
	acts := map[string]func(id string) error{
		"edit": func(id string) error {
			_, err := s.Edit(t.Context(), "acme", id, priority(tasks.Low))
			return err
		},
		"cancel": func(id string) error { _, err := s.Cancel(t.Context(), "acme", id); return err },
	}
	alone := map[string]int{}
	for name, act := range acts {
		create(t, s, job("acme")) // a backlog stays
		cost(act)                 // the script is loaded
		alone[name] = cost(act)
	}
	for from := range 20 {
		crowd := make([]redis.Z, 5000)
		for i := range crowd {
			crowd[i] = redis.Z{Score: float64(1e12 + i), Member: "job_" + strconv.Itoa(5000*from+i)}
		}
		must(t, rdb.ZAdd(t.Context(), "sluice:{s}:q:"+pool+":acme", crowd...).Err())
	}
	for name, act := range acts {
		if deep := cost(act); deep != alone[name] {
			t.Errorf("%s calls %d commands among 100,000 jobs, %d alone", name, deep, alone[name])
		}
	}
}
