package store_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// told is a store whose clock the test moves.
type told struct {
	*testing.T
	*store.Store
	rdb *redis.Client
	at  time.Time
}

func newTold(t *testing.T) *told {
	t.Helper()
	w := &told{T: t, rdb: redistest.New(t), at: time.UnixMilli(1_800_000_000_000).UTC()}
	w.Store = store.New(store.Config{Redis: w.rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 1, "q": 1}, Now: func() time.Time { return w.at }})
	return w
}

func (w *told) begin(k tasks.Ticket, waited tasks.Waited) tasks.Ticket {
	w.Helper()
	k.Waited = waited
	_, _, err := w.Start(w.Context(), k)
	must(w.T, err)
	return k
}

func (w *told) over(k tasks.Ticket, e tasks.Ending) []tasks.Ticket {
	w.Helper()
	next, err := w.End(w.Context(), k, e)
	must(w.T, err)
	return next
}

func (w *told) history(id string) tasks.History {
	w.Helper()
	h, err := w.History(w.Context(), "acme", id)
	must(w.T, err)
	return h
}

// What a start says of the wait before it stands in the record while the call runs, and
// after it, also when the worker was lost; what nobody could tell later stands beside it.
func TestTheRecordTellsWhatAJobWaitedFor(t *testing.T) {
	t.Parallel()
	w := newTold(t)
	j := withFallbacks("m2")
	made, next := create(t, w.Store, j)
	w.at = w.at.Add(400 * time.Millisecond)
	if got, err := w.Take(t.Context(), next[0]); err != nil || got.Lay != 400*time.Millisecond {
		t.Errorf("it lay %v, %v; want 400 ms", got.Lay, err)
	}
	first := tasks.Waited{Handed: 1200 * time.Millisecond, Granted: 15 * time.Millisecond, For: tasks.WaitOutputTokens}
	k := w.begin(next[0], first)
	if h := w.history(made.ID); len(h.Job.Log) != 1 || !h.Job.Log[0].Told || h.Job.Log[0].Waited != first {
		t.Errorf("running: %+v, want %+v", h.Job.Log, first)
	}
	next = w.over(k, tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Delay: 5 * time.Second, Attempt: tasks.Attempt{Outcome: tasks.Overloaded}})
	if len(next) != 0 {
		t.Fatal(next)
	}
	w.at = w.at.Add(6 * time.Second)
	swept, err := w.Sweep(t.Context())
	must(t, err)
	second := tasks.Waited{Handed: -time.Millisecond}
	w.begin(swept.Hand[0], second)
	w.at = w.at.Add(store.Lease + time.Minute)
	for range 2 { // the first begins a time of grace
		swept, err = w.Sweep(t.Context())
		must(t, err)
		w.at = w.at.Add(time.Second)
		if len(swept.Hand) == 0 {
			for range 11 {
				_, err = w.Sweep(t.Context())
				must(t, err)
				w.at = w.at.Add(time.Second)
			}
		}
	}
	h := w.history(made.ID)
	log := h.Job.Log
	if len(log) != 2 || log[0].Waited != first || log[0].Delay != 5*time.Second || log[1].Waited != second || !log[1].Told || log[1].LostAt.IsZero() || log[1].Outcome != tasks.WorkerLost {
		t.Fatalf("log %+v", log)
	}
	moved, next, err := w.Divert(t.Context(), pool, map[string]tasks.Detour{made.ID: {Pool: "q", Passed: 1}})
	must(t, err)
	if len(moved) != 1 {
		t.Fatal("it did not move")
	}
	left := w.at
	_ = w.over(next[0], tasks.Ending{Status: tasks.StatusRetrying, Delay: time.Second}) // put off without a call
	_, err = w.Cancel(t.Context(), "acme", made.ID)
	must(t, err)
	w.at = w.at.Add(time.Minute)
	_, _, err = w.Requeue(t.Context(), "acme", made.ID, tasks.Limits{})
	must(t, err)
	h = w.history(made.ID)
	want := fmt.Sprint([]tasks.Happening{
		{Kind: tasks.HasDiverted, At: left, Pool: pool}, {Kind: tasks.HasHeld, At: left.Add(time.Second), From: left},
		{Kind: tasks.HasAgain, At: w.at, From: left}, {Kind: tasks.HasDiverted, At: w.at, Pool: "q"},
	})
	if got := fmt.Sprint(h.Happened); got != want || h.Cut || !h.Job.Since.Equal(w.at) {
		t.Errorf("happened, since %v\n%s\nwant\n%s", h.Job.Since, got, want)
	}
	if _, err := w.History(t.Context(), "other", made.ID); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("another tenant is told %v", err)
	}
}

// However often a job is tried and moved, what is kept of its waits stays small: with the
// oldest the record loses what it cannot hold, and says so.
func TestWhatIsKeptOfWaitsIsBounded(t *testing.T) {
	t.Parallel()
	w := newTold(t)
	made, next := create(t, w.Store, withFallbacks("m2"))
	for range 60 {
		k := w.begin(next[0], tasks.Waited{Handed: time.Hour, Granted: time.Second, For: tasks.WaitRequests})
		w.over(k, tasks.Ending{Status: tasks.StatusFailed, Counted: true, Attempt: tasks.Attempt{Outcome: tasks.Overloaded, RequestID: strings.Repeat("r", 300)}, Error: &tasks.JobError{}})
		w.at = w.at.Add(time.Hour / 2)
		_, again, err := w.Requeue(t.Context(), "acme", made.ID, tasks.Limits{})
		must(t, err)
		next = again
	}
	h := w.history(made.ID)
	if n := w.rdb.HStrLen(t.Context(), "sluice:{s}:j:"+made.ID, "w").Val(); n > 160 || !h.Cut || len(h.Happened) < 4 {
		t.Errorf("%d bytes, cut %v, %d happened", n, h.Cut, len(h.Happened))
	}
	if n := w.rdb.HStrLen(t.Context(), "sluice:{s}:j:"+made.ID, "log").Val(); n > 16384 || h.Job.Log[0].N == 1 {
		t.Errorf("the log has %d bytes, from call %d on", n, h.Job.Log[0].N)
	}
}

// What is kept of the waits of a job that ran once is no field more, and few bytes.
func TestAPlainLifeKeepsFewBytesOfItsWaits(t *testing.T) {
	t.Parallel()
	w := newTold(t)
	bytes := func(waited tasks.Waited) int64 {
		made, next := create(t, w.Store, job("acme"))
		k := w.begin(next[0], waited)
		w.over(k, tasks.Ending{Status: tasks.StatusSucceeded, Attempt: tasks.Attempt{Outcome: tasks.Succeeded, Status: 200, RequestID: "req_011CSHoEeqs5C35K2UUqR7Fy"}, Result: []byte(`{}`)})
		key := "sluice:{s}:j:" + made.ID
		log := w.rdb.HGet(t.Context(), key, "log").Val()
		plain := log
		if at := strings.Index(log, `"w":"`); at > 0 {
			end := at + strings.Index(log[at:], ",") + 1
			plain = log[:at] + log[end:]
		}
		with := w.rdb.MemoryUsage(t.Context(), key, 0).Val()
		must(t, w.rdb.HSet(t.Context(), key, "log", plain).Err())
		return with - w.rdb.MemoryUsage(t.Context(), key, 0).Val()
	}
	for _, waited := range []tasks.Waited{{}, {Handed: 3 * time.Hour, Granted: 90 * time.Second, For: tasks.WaitInputTokens}} {
		if n := bytes(waited); n > 64 {
			t.Errorf("%+v takes %d bytes, at most 64", waited, n)
		}
	}
}

// A pool's past has what is news, a change of half as many tenants too, and no cause for a
// time in which nobody looked.
func TestAPoolsPastHasWhatChanges(t *testing.T) {
	t.Parallel()
	w := newTold(t)
	begun := w.at
	look := func(b tasks.Bind) {
		t.Helper()
		turns, err := w.Watch(t.Context(), true, pool)
		must(t, err)
		if again, err := w.Watch(t.Context(), false, pool); err != nil || len(again) != 0 {
			t.Errorf("two look at once: %v, %v", again, err)
		}
		for _, turn := range turns {
			must(t, w.Bound(t.Context(), turn, b))
		}
		w.at = w.at.Add(time.Second)
	}
	for range 3 {
		look(tasks.Bind{For: tasks.WaitRequests, Shares: 10})
	}
	look(tasks.Bind{For: tasks.WaitRequests, Shares: 10.5})                        // about as many
	look(tasks.Bind{For: tasks.WaitRequests, Shares: 20, Begun: 1.5})              // more
	look(tasks.Bind{For: tasks.WaitPaused, At: w.at.Add(-300 * time.Millisecond)}) // of a moment ago
	w.at = w.at.Add(time.Minute)                                                   // nobody looks
	look(tasks.Bind{For: tasks.WaitNoWorker})                                      //
	look(tasks.Bind{For: tasks.WaitReason("of a release to come")})                // has no letter
	past, err := w.Past(t.Context(), pool, "q")
	must(t, err)
	var got []string
	for _, b := range past[pool].Binds {
		got = append(got, fmt.Sprintf("%v %s %v %v", b.At.Sub(begun), b.For, b.Shares, b.Begun))
	}
	want := []string{"0s requests 10 0", "4s requests 20 1.5", "4.7s paused 0 0", "5s unknown 0 0", "1m6s no_worker 0 0", "1m7s unknown 0 0"}
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		t.Errorf("past %q, want %q", got, want)
	}
	if p := past[pool]; !p.Seen.Equal(p.Working) || p.Seen.IsZero() || len(past["q"].Binds) != 0 || !past["q"].Seen.IsZero() {
		t.Errorf("seen %v, a worker %v; of another pool %+v", p.Seen, p.Working, past["q"])
	}
}

// What a pool's calls took is counted when they begin, as it is expected, and corrected when they
// end; a job that is given back took nothing.
func TestWhatAPoolsCallsTookIsCountedAsTheyBegin(t *testing.T) {
	t.Parallel()
	w := newTold(t)
	begun := func(when string, want float64) {
		t.Helper()
		l, err := w.Load(t.Context(), pool)
		must(t, err)
		if math.Abs(l.Begun-want) > 1e-9 {
			t.Errorf("%s: %v s have begun, want %v", when, l.Begun, want)
		}
	}
	_, next := create(t, w.Store, job("acme"))
	begun("one waits", 0)
	k := w.begin(next[0], tasks.Waited{})
	begun("nobody knows what it takes", 1)
	w.over(k, tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`{}`), Draw: 250 * time.Millisecond, Attempt: tasks.Attempt{Outcome: tasks.Succeeded}})
	begun("it took a quarter", 0.25)
	_, next = create(t, w.Store, job("acme"))
	k = next[0]
	w.over(k, tasks.Ending{Status: tasks.StatusRetrying, Delay: time.Second, Draw: tasks.NoDraw})
	begun("one was given back", 0.25)
	w.at = w.at.Add(2 * time.Second)
	swept, err := w.Sweep(t.Context())
	must(t, err)
	k = w.begin(swept.Hand[0], tasks.Waited{})
	begun("it begins", 1.25)
	w.over(k, tasks.Ending{Status: tasks.StatusFailed, Error: &tasks.JobError{Code: tasks.UpstreamRejected}, Draw: tasks.NoDraw, Attempt: tasks.Attempt{Outcome: tasks.ServerError}})
	begun("nothing was charged for it", 0.25)
}
