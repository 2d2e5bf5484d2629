package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

const above = 1000

// Words that are in every large prompt, and in every large result.
const asks, answers = "a-large-prompt", "a-large-answer"

func large(word string) []byte {
	return []byte(`"` + strings.Repeat(word+" ", above/10) + `"`)
}

// shelf is a store of records with one of bodies.
type shelf struct {
	*testing.T
	*store.Store
	bodies *bodies.Bodies
	rdb    *redis.Client
	config store.Config
	dir    string // of a folder
}

// names is a record that knows nothing and removes nothing.
type names struct {
	*store.Store
	all []string
}

func (n *names) Orphans(_ context.Context, some []string) ([]string, error) {
	n.all = append(n.all, some...)
	return nil, nil
}

// list is what lies there.
func (h *shelf) list() []string {
	h.Helper()
	var n names
	if err := h.bodies.Sweep(h.Context(), &n); err != nil {
		h.Error(err)
	}
	return n.all
}

// lose removes what is listed first, without the record's knowledge.
func (h *shelf) lose() {
	h.Helper()
	name := h.list()[0]
	r, err := bodies.Parse(name + " 1 " + strings.Repeat("A", 43))
	if err == nil {
		err = h.bodies.Delete(h.Context(), r)
	}
	if err != nil {
		h.Fatal(err)
	}
}

func onFolder(t *testing.T) *shelf {
	dir := filepath.Join(t.TempDir(), "bodies")
	h := &shelf{T: t, dir: dir}
	return h.open("file://" + dir)
}

func onBucket(t *testing.T) *shelf {
	backend := s3mem.New()
	if err := backend.CreateBucket("jobs"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	h := &shelf{T: t}
	return h.open("s3://jobs/x?endpoint=" + server.URL)
}

func (h *shelf) open(url string) *shelf {
	h.Helper()
	var err error
	if h.rdb == nil {
		h.rdb = redistest.New(h.T)
	}
	if h.bodies, err = bodies.Open(bodies.Config{URL: url, Pieces: store.NewPieces(h.rdb, ""), AccessKey: "a", SecretKey: "s", Keep: time.Nanosecond}); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(h.bodies.Close)
	h.config = store.Config{Redis: h.rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 4}, Bodies: h.bodies, Above: above}
	h.Store = store.New(h.config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func(record *store.Store) { done <- h.bodies.Run(ctx, record) }(h.Store)
	h.Cleanup(func() { cancel(); <-done })
	return h
}

func inPieces(t *testing.T) *shelf { return (&shelf{T: t}).open("redis:") }

// eachShelf runs a test on a folder, on a bucket and on pieces in Redis.
func eachShelf(t *testing.T, test func(h *shelf)) {
	t.Run("folder", func(t *testing.T) { t.Parallel(); test(onFolder(t)) })
	t.Run("bucket", func(t *testing.T) { t.Parallel(); test(onBucket(t)) })
	t.Run("pieces", func(t *testing.T) { t.Parallel(); test(inPieces(t)) })
}

// lie checks how many bodies there are, soon, and that Redis has nothing of any elsewhere.
func (h *shelf) lie(want int, when string) {
	h.Helper()
	redistest.Until(h.T, fmt.Sprintf("%s: %d bodies", when, want), func() bool { return len(h.list()) == want })
	for _, word := range []string{asks, answers} {
		keys := slices.DeleteFunc(redistest.Holding(h.T, h.rdb, word), func(key string) bool { return strings.HasPrefix(key, "sluice:{s}:body:") })
		if len(keys) > 0 {
			h.Errorf("%s: Redis has %q at %v", when, word, keys)
		}
	}
}

func (h *shelf) submit() tasks.Ticket {
	h.Helper()
	j := job("acme")
	j.Request.Body = large(asks)
	made, next := create(h.T, h.Store, j)
	if len(next) != 1 || next[0].ID != made.ID {
		h.Fatalf("tickets: %v", next)
	}
	return next[0]
}

func (h *shelf) win(k tasks.Ticket) {
	h.Helper()
	take(h.T, h.Store, k)
	start(h.T, h.Store, k)
	if _, err := h.End(h.Context(), k, largeWin); err != nil {
		h.Fatal(err)
	}
}

var largeWin = func() tasks.Ending {
	e := won
	e.Result = large(answers)
	return e
}()

var largeFailure = tasks.Ending{
	Status: tasks.StatusFailed, Error: &tasks.JobError{Code: tasks.UpstreamRejected}, Attempt: tasks.Attempt{Outcome: tasks.Rejected, Status: 400},
}

func TestALargeJobLiesOutsideOfRedisAllItsLife(t *testing.T) {
	t.Parallel()
	eachShelf(t, func(h *shelf) {
		k := h.submit()
		h.lie(1, "submitted")
		if n := h.rdb.MemoryUsage(h.Context(), "sluice:{s}:j:"+k.ID).Val(); n == 0 || n > 1024 {
			h.Errorf("its record takes %d bytes", n)
		}
		held, err := h.Take(h.Context(), k)
		if err != nil || !bytes.Equal(held.Request.Body, large(asks)) {
			h.Fatalf("taken: %d bytes, %v", len(held.Request.Body), err)
		}
		start(h.T, h.Store, k)
		if _, err := h.End(h.Context(), k, largeFailure); err != nil {
			h.Fatal(err)
		}
		h.lie(1, "failed")
		_, next, err := h.Requeue(h.Context(), "acme", k.ID, tasks.Limits{})
		if err != nil || len(next) != 1 {
			h.Fatal(next, err)
		}
		h.win(next[0])
		h.lie(1, "its prompt has served")
		if j := read(h.T, h.Store, k.ID); !bytes.Equal(j.Result, large(answers)) || j.Status != tasks.StatusSucceeded || j.Error != nil {
			h.Errorf("read: %d bytes, %s, %v", len(j.Result), j.Status, j.Error)
		}
		if err := h.KeepAnswer(h.Context(), "acme", "digest", k.ID, large(answers), time.Minute); err != nil {
			h.Error(err)
		}
		if b, err := h.Answer(h.Context(), "acme", "digest"); err != nil || !bytes.Equal(b, large(answers)) {
			h.Errorf("kept answer: %d bytes, %v", len(b), err)
		}
		if err := h.SaveAnswer(h.Context(), "acme", "key", k.ID, large(answers)); err != nil {
			h.Error(err)
		}
		h.lie(1, "kept")
		if err := h.Delete(h.Context(), "acme", k.ID); err != nil {
			h.Error(err)
		}
		if left := h.list(); len(left) > 0 {
			h.Errorf("after the deletion was answered: %v", left)
		}
		if b, err := h.Answer(h.Context(), "acme", "digest"); err != nil || b != nil {
			h.Errorf("kept answer of a deleted job: %d bytes, %v", len(b), err)
		}
	})
}

func TestABatchOfLargeLines(t *testing.T) {
	t.Parallel()
	eachShelf(t, func(h *shelf) {
		lines := func(batch string) (jobs []tasks.Job) {
			for i := range 20 {
				j := job("acme")
				j.Batch, j.Line = batch, i+1
				if i%2 == 0 {
					j.Request.Body = large(asks)
				}
				jobs = append(jobs, j)
			}
			return jobs
		}
		stage := func() string {
			b, _, err := h.OpenBatch(h.Context(), store.NewID("batch"), "acme", "")
			if err == nil {
				err = h.StageBatch(h.Context(), b.ID, lines(b.ID), tasks.Limits{})
			}
			if err != nil {
				h.Fatal(err)
			}
			h.lie(10, "staged")
			return b.ID
		}
		if err := h.AbortBatch(h.Context(), stage()); err != nil {
			h.Fatal(err)
		}
		h.lie(0, "aborted")
		id := stage()
		if _, err := h.CommitBatch(h.Context(), id, tasks.BatchCommit{Lines: 20}); err != nil {
			h.Fatal(err)
		}
		_, next, err := h.Unfold(h.Context(), id)
		if err != nil || len(next) == 0 {
			h.Fatal(next, err)
		}
		for len(next) > 0 {
			var more []tasks.Ticket
			for _, k := range next {
				take(h.T, h.Store, k)
				_, begun, err := h.Start(h.Context(), k)
				if err != nil {
					h.Fatal(err)
				}
				room, err := h.End(h.Context(), k, largeWin)
				if err != nil {
					h.Fatal(err)
				}
				more = append(append(more, begun...), room...)
			}
			next = more
		}
		h.lie(20, "answered")
		jobs, more, err := h.BatchResults(h.Context(), "acme", id, 0)
		if err != nil || len(jobs) != 20 || more != 0 || slices.ContainsFunc(jobs, func(j tasks.Job) bool { return !bytes.Equal(j.Result, large(answers)) }) {
			h.Errorf("%d results, %d, %v", len(jobs), more, err)
		}
		if h.dir == "" {
			return
		}
		h.lose()
		jobs, _, err = h.BatchResults(h.Context(), "acme", id, 0)
		lost := slices.DeleteFunc(jobs, func(j tasks.Job) bool { return len(j.Result) > 0 })
		if err != nil || len(lost) != 1 || lost[0].Error == nil || lost[0].Error.Code != tasks.BodyUnavailable {
			h.Errorf("a result is missing: %+v, %v", lost, err)
		}
	})
}

func TestWhatIsNotTakenInLeavesNoBody(t *testing.T) {
	t.Parallel()
	h := onFolder(t)
	one := func(limits tasks.Limits) store.Created {
		j := job("acme")
		j.Request.Body = large(asks)
		made, _, err := h.Create(t.Context(), tasks.Submission{Job: j, Key: "key", Fingerprint: "f", Limits: limits})
		if err != nil {
			t.Fatal(err)
		}
		return made[0]
	}
	if c := one(tasks.Limits{}); c.Err != nil || c.Replayed {
		t.Fatal(c)
	}
	if c := one(tasks.Limits{}); !c.Replayed {
		t.Error(c)
	}
	h.lie(1, "repeated")
	j := job("acme")
	j.Request.Body = large(asks)
	if made, _, err := h.Create(t.Context(), tasks.Submission{Job: j, Limits: tasks.Limits{QueuedJobs: 1}}); err != nil || made[0].Err == nil {
		t.Error(made, err)
	}
	h.lie(1, "over its quota")
}

// down has a folder fail, and up work again.
func (h *shelf) down() (up func()) {
	h.Helper()
	away := h.dir + ".away"
	must := func(err error) {
		if err != nil {
			h.Fatal(err)
		}
	}
	must(os.Mkdir(away, 0o700))
	entries, err := os.ReadDir(h.dir)
	must(err)
	for _, e := range entries {
		must(os.Rename(filepath.Join(h.dir, e.Name()), filepath.Join(away, e.Name())))
		must(os.WriteFile(filepath.Join(h.dir, e.Name()), nil, 0o600))
	}
	return func() {
		for _, e := range entries {
			must(os.Remove(filepath.Join(h.dir, e.Name())))
			must(os.Rename(filepath.Join(away, e.Name()), filepath.Join(h.dir, e.Name())))
		}
		must(os.Remove(away))
	}
}

func TestAStoreOfBodiesThatIsDownStopsNothingForGood(t *testing.T) {
	t.Parallel()
	h := onFolder(t)
	away := func(what string, err error) {
		t.Helper()
		var of *tasks.BodiesError
		if !errors.Is(err, tasks.ErrUnavailable) || !errors.As(err, &of) || of.Missing || !tasks.Away(err) {
			t.Errorf("%s while it is down: %v", what, err)
		}
	}
	k := h.submit()
	up := h.down()
	j := job("acme")
	j.Request.Body = large(asks)
	_, _, err := h.Create(t.Context(), tasks.Submission{Job: j})
	away("submit", err)
	if _, err := h.Job(t.Context(), "acme", j.ID); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("a job that was not taken in: %v", err)
	}
	small, next := create(t, h.Store, job("acme"))
	if len(next) != 1 || next[0].ID != small.ID {
		t.Fatalf("small jobs go on: %v", next)
	}
	if _, err := h.Take(t.Context(), k); !tasks.Void(err) {
		t.Errorf("take while it is down: %v", err)
	}
	waits := read(t, h.Store, k.ID)
	if waits.Status != tasks.StatusQueued || waits.Attempts != 0 || waits.DueAt.IsZero() || waits.Error == nil || waits.Error.Code != tasks.BodyUnavailable {
		t.Errorf("the job that waits: %+v", waits)
	}
	if load, err := h.Load(t.Context(), pool); err != nil || load.Handed != 1 {
		t.Errorf("places: %+v, %v", load, err)
	}
	take(t, h.Store, next[0])
	start(t, h.Store, next[0])
	_, err = h.End(t.Context(), next[0], largeWin)
	away("end", err)
	if j := read(t, h.Store, small.ID); j.Status != tasks.StatusRunning {
		t.Errorf("its answer is not given up: %s", j.Status)
	}
	up()
	if _, err := h.End(t.Context(), next[0], largeWin); err != nil {
		t.Errorf("end again: %v", err)
	}
	up = h.down()
	_, err = h.Job(t.Context(), "acme", small.ID)
	away("read", err)
	_, _, err = h.BatchResults(t.Context(), "acme", "batch_none", 0)
	if !errors.Is(err, tasks.ErrNotFound) {
		t.Error(err)
	}
	if err := h.Delete(t.Context(), "acme", small.ID); err != nil {
		t.Errorf("delete while it is down: %v", err)
	}
	up()
	if err := h.bodies.Sweep(t.Context(), h.Store); err != nil {
		t.Error(err)
	}
	h.lie(1, "the orphans went")
	var swept tasks.Swept
	if at := h.rdb.ZScore(t.Context(), "sluice:{s}:due", k.ID).Val(); at == 0 {
		t.Error("the job is not to be woken")
	}
	h.rdb.ZAdd(t.Context(), "sluice:{s}:due", redis.Z{Score: 1, Member: k.ID})
	if swept, err = h.Sweep(t.Context()); err != nil || len(swept.Hand) != 1 {
		t.Fatalf("woken: %+v, %v", swept, err)
	}
	h.win(swept.Hand[0])
	if j := read(t, h.Store, k.ID); j.Status != tasks.StatusSucceeded || j.Attempts != 1 {
		t.Errorf("in the end: %+v", j)
	}
}

func TestAnEndWhoseAnswerWasLostKeepsItsResult(t *testing.T) {
	t.Parallel()
	h := onFolder(t)
	k := h.submit()
	h.win(k)
	for range 3 { // by this process, whose answers have one name, and by others
		if _, err := h.End(t.Context(), k, largeWin); !errors.Is(err, tasks.ErrFinal) {
			t.Errorf("again: %v", err)
		}
		if _, err := store.New(h.config).End(t.Context(), k, largeWin); !errors.Is(err, tasks.ErrFinal) {
			t.Errorf("by another: %v", err)
		}
	}
	h.lie(1, "ended again and again")
	if j := read(t, h.Store, k.ID); !bytes.Equal(j.Result, large(answers)) {
		t.Errorf("%d bytes", len(j.Result))
	}
	if err := h.Delete(t.Context(), "acme", k.ID); err != nil {
		t.Error(err)
	}
	if _, err := h.End(t.Context(), k, largeWin); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("after its deletion: %v", err)
	}
	h.lie(0, "deleted")
}

func TestWhatEndsItsTimeTakesItsBodiesWithIt(t *testing.T) {
	t.Parallel()
	h := onFolder(t)
	h.config.ResultTTL = time.Millisecond
	h.config.Depth = map[string]int{pool: 100}
	h.Store = store.New(h.config)
	won, lost := h.submit(), h.submit()
	h.win(won)
	take(t, h.Store, lost)
	start(t, h.Store, lost)
	if _, err := h.End(t.Context(), lost, largeFailure); err != nil {
		t.Fatal(err)
	}
	redistest.Until(t, "both records end", func() bool {
		if _, err := h.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		return h.rdb.Exists(t.Context(), "sluice:{s}:j:"+won.ID, "sluice:{s}:j:"+lost.ID).Val() == 0
	})
	h.lie(0, "expired")
	// A record that went without a sweep, or never came.
	gone := h.submit()
	h.rdb.Del(t.Context(), "sluice:{s}:j:"+gone.ID)
	j := job("acme")
	j.Request.Body = large(asks)
	if err := h.Unload(t.Context(), &j); err != nil {
		t.Fatal(err)
	}
	kept := h.submit()
	h.lie(3, "two of them orphans")
	if err := h.bodies.Sweep(t.Context(), h.Store); err != nil {
		t.Fatal(err)
	}
	h.lie(1, "swept")
	take(t, h.Store, kept)
	// A record that cannot be read holds up no other.
	h.submit()
	broken, orphan := h.submit(), h.submit()
	h.rdb.Set(t.Context(), "sluice:{s}:j:"+broken.ID, "x", 0)
	h.rdb.Del(t.Context(), "sluice:{s}:j:"+orphan.ID)
	if err := h.bodies.Sweep(t.Context(), h.Store); err != nil {
		t.Error(err)
	}
	h.lie(3, "swept beside a broken record")
	if mine, err := h.BodiesTurn(t.Context(), time.Minute); err != nil || !mine {
		t.Errorf("first turn: %t, %v", mine, err)
	}
	if mine, err := h.BodiesTurn(t.Context(), time.Minute); err != nil || mine {
		t.Errorf("second turn: %t, %v", mine, err)
	}
}

func TestASettingThatChangesLeavesWhatWasStored(t *testing.T) {
	t.Parallel()
	h := onFolder(t)
	off := h.config
	off.Bodies = nil
	without := store.New(off)
	before := job("acme")
	before.Request.Body = large(asks)
	_, next := create(t, without, before)
	held, err := h.Take(t.Context(), next[0])
	if err != nil || !bytes.Equal(held.Request.Body, large(asks)) {
		t.Errorf("a prompt in Redis: %d bytes, %v", len(held.Request.Body), err)
	}
	start(t, h.Store, next[0])
	if _, err := without.End(t.Context(), next[0], largeWin); err != nil {
		t.Fatal(err)
	}
	if j := read(t, h.Store, before.ID); !bytes.Equal(j.Result, large(answers)) {
		t.Errorf("a result in Redis: %d bytes", len(j.Result))
	}
	must(t, h.Delete(t.Context(), "acme", before.ID))
	h.lie(0, "deleted")
}

func TestWithoutItsStoreABodyIsMissed(t *testing.T) {
	t.Parallel()
	h := onFolder(t)
	off, elsewhere := h.config, h.config
	off.Bodies = nil
	var err error
	if elsewhere.Bodies, err = bodies.Open(bodies.Config{URL: "file://" + h.dir + "-other"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(elsewhere.Bodies.Close)
	done := h.submit()
	h.win(done)
	for name, c := range map[string]store.Config{"off": off, "another": elsewhere} {
		s, k := store.New(c), h.submit()
		var missing *tasks.BodiesError
		if _, err := s.Job(t.Context(), "acme", done.ID); !errors.As(err, &missing) || !missing.Missing || !strings.Contains(err.Error(), "bodies.url") {
			t.Errorf("%s: result: %v", name, err)
		}
		if _, err := s.Take(t.Context(), k); !tasks.Void(err) {
			t.Errorf("%s: take: %v", name, err)
		}
		if j := read(t, s, k.ID); j.Error == nil || j.Error.Code != tasks.BodyUnavailable || time.Until(j.DueAt) < 30*time.Second {
			t.Errorf("%s: the job that waits: %+v", name, j)
		}
	}
	if err := store.New(off).Delete(t.Context(), "acme", done.ID); err != nil {
		t.Errorf("delete: %v", err)
	}
}

func TestADeliveryBringsALargeResultAndKeepsNoneOfIt(t *testing.T) {
	t.Parallel()
	h := onFolder(t)
	_, err := h.CreateEndpoint(t.Context(), tasks.Endpoint{
		ID: store.NewID("whe"), Tenant: "acme", URL: "https://receiver.example/", Events: []string{"job.succeeded"}, IncludeResult: true,
	})
	must(t, err)
	h.win(h.submit())
	opened := func(s *store.Store) []tasks.Sending {
		var out []tasks.Sending
		redistest.Until(t, "the delivery is handed out", func() bool {
			swept, err := s.SweepDeliveries(t.Context())
			must(t, err)
			if len(swept.Hand) > 0 {
				out, err = s.OpenDeliveries(t.Context(), swept.Hand)
				must(t, err)
			}
			return len(swept.Hand) > 0
		})
		return out
	}
	list := opened(h.Store)
	if len(list) != 1 || list[0].Job == nil || !bytes.Equal(list[0].Job.Result, large(answers)) {
		t.Fatalf("opened: %+v", list)
	}
	again := func(d tasks.Delivery) {
		_, err := h.SettleDeliveries(t.Context(), []tasks.Settled{{
			Ticket: tasks.DeliveryTicket{ID: d.ID, Fence: d.Fence}, Status: tasks.DeliveryPending, Counted: true, Delay: time.Millisecond,
			Attempt: tasks.DeliveryAttempt{Outcome: "error_status", Status: 500}, Body: large(answers),
		}})
		must(t, err)
	}
	again(list[0].Delivery)
	h.lie(1, "tried in vain")
	if list = opened(h.Store); len(list) != 1 || list[0].Delivery.Body != nil || list[0].Job == nil || !bytes.Equal(list[0].Job.Result, large(answers)) {
		t.Fatalf("opened again: %+v", list)
	}
	again(list[0].Delivery)
	h.lose()
	if list = opened(h.Store); len(list) != 1 || list[0].Job == nil || json.Valid(list[0].Job.Result) {
		t.Fatalf("opened without its result: %+v", list)
	}
}

func TestADeliveryWhoseResultCannotBeReadNowIsHandedOutLater(t *testing.T) {
	t.Parallel()
	h := onFolder(t)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	h.config.Now = func() time.Time { return at }
	h.Store = store.New(h.config)
	_, err := h.CreateEndpoint(t.Context(), tasks.Endpoint{
		ID: store.NewID("whe"), Tenant: "acme", URL: "https://receiver.example/", Events: []string{"job.succeeded"}, IncludeResult: true,
	})
	must(t, err)
	h.win(h.submit())
	up := h.down()
	swept, err := h.SweepDeliveries(t.Context())
	must(t, err)
	list, err := h.OpenDeliveries(t.Context(), swept.Hand)
	if err != nil || len(swept.Hand) != 1 || len(list) != 0 {
		t.Errorf("while it is down: %v, %v, %v", swept.Hand, list, err)
	}
	up()
	for end := at.Add(time.Minute); at.Before(end) && len(list) == 0; {
		at = at.Add(time.Second)
		swept, err := h.SweepDeliveries(t.Context())
		must(t, err)
		list, err = h.OpenDeliveries(t.Context(), swept.Hand)
		must(t, err)
	}
	if len(list) != 1 || !bytes.Equal(list[0].Job.Result, large(answers)) || list[0].Delivery.Attempts != 0 {
		t.Errorf("when it is back: %+v", list)
	}
}

// The commands of a small job's life are the same with a store of bodies.
func TestASmallJobCostsWhatItDid(t *testing.T) {
	t.Parallel()
	h := onFolder(t)
	h.rdb = redistest.Start(t, redistest.Options{}).Client() // whose commands nobody else calls
	h.config.Redis = h.rdb
	h.Store = store.New(h.config)
	off := h.config
	off.Bodies = nil
	calls := func(s *store.Store) map[string]string {
		if err := h.rdb.ConfigResetStat(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		j, next := create(t, s, job("acme"))
		take(t, s, next[0])
		start(t, s, next[0])
		if _, err := s.End(t.Context(), next[0], won); err != nil {
			t.Fatal(err)
		}
		read(t, s, j.ID)
		if err := s.Delete(t.Context(), "acme", j.ID); err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for line := range strings.Lines(h.rdb.Info(t.Context(), "commandstats").Val()) {
			if name, stats, ok := strings.Cut(line, ":calls="); ok && !strings.Contains(name, "config") && !strings.Contains(name, "info") {
				out[name], _, _ = strings.Cut(stats, ",")
			}
		}
		return out
	}
	calls(h.Store) // loads the scripts
	without := calls(store.New(off))
	with := calls(h.Store)
	if a, b := encoded(t, without), encoded(t, with); a != b {
		t.Errorf("commands without a store of bodies\n%s\nwith one\n%s", a, b)
	}
	h.lie(0, "small")
}

func encoded(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
