package store_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// A line that its form found faulty never runs: it fails by itself, is told of, and gives
// back what was set aside for it; the batch ends with the others.
func TestFaultyLinesFailByThemselves(t *testing.T) {
	t.Parallel()
	for name, good := range map[string]int{"all": 0, "some": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, rdb := open(t, 10)
			ctx := t.Context()
			limits := tasks.Limits{QueuedJobs: 100, QueuedBytes: 1e6, TokensPerDay: 1e6}
			b, _, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "")
			if err != nil {
				t.Fatal(err)
			}
			var lines []tasks.Job
			for i := range good + 4 {
				j := job("acme")
				j.Batch, j.Line, j.Bytes, j.Reserved = b.ID, i+1, 10, 5
				if i >= good {
					j.Error = &tasks.JobError{Code: tasks.UpstreamRejected, Message: "no pool serves the model", Body: "{}"}
				}
				lines = append(lines, j)
			}
			if err := s.StageBatch(ctx, b.ID, lines, limits); err != nil {
				t.Fatal(err)
			}
			if _, err := s.CommitBatch(ctx, b.ID, tasks.BatchCommit{Limits: limits}); err != nil {
				t.Fatal(err)
			}
			_, tickets, err := s.Unfold(ctx, b.ID)
			if err != nil || len(tickets) != good {
				t.Fatalf("%d are handed out, %v; want %d", len(tickets), err, good)
			}
			for _, k := range tickets {
				take(t, s, k)
				start(t, s, k)
				if _, err := s.End(ctx, k, won); err != nil {
					t.Fatal(err)
				}
			}
			got, err := s.Batch(ctx, "acme", b.ID)
			if want := (tasks.Counts{Total: int64(good) + 4, Succeeded: int64(good), Failed: 4}); err != nil || got.Status != tasks.BatchEnded || got.Counts != want {
				t.Errorf("it ends as %+v, %v; want %+v", got, err, want)
			}
			j, err := s.Job(ctx, "acme", lines[good].ID)
			if err != nil || j.Status != tasks.StatusFailed || j.Attempts != 0 || j.Error == nil || *j.Error != *lines[good].Error {
				t.Errorf("a faulty line: %+v, %+v, %v", j, j.Error, err)
			}
			if load, err := s.Load(ctx, pool); err != nil || load.Queued != 0 || load.Running != 0 {
				t.Errorf("load: %+v, %v", load, err)
			}
			if day, err := s.Tokens(ctx, "acme"); err != nil || day.Reserved != 0 {
				t.Errorf("the tokens of the day: %+v, %v", day, err)
			}
			if left := rdb.HGet(ctx, "sluice:{s}:tb", "acme").Val(); left != "" {
				t.Errorf("%s bytes are still counted", left)
			}
			if left := rdb.HGet(ctx, "sluice:{s}:tq", "acme").Val(); left != "0" {
				t.Errorf("%s jobs still count as waiting", left)
			}
		})
	}
}

// A repeat finds the batch of the request before, whatever became of that, and no second
// one is made: each row is a life of requests that ask the same, and what its last one gets.
func TestARepeatFindsTheFirstBatch(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	for i, row := range []struct {
		name  string
		steps string // "open ID", "first ID" and "again ID" commit, "sent ID", "over ID", "delete ID", "wait SECONDS"
		joins string // what the last commit joins; "": it makes a batch
		again bool
	}{
		{"none was made", "open b, again b", "", false},
		{"its answer was lost", "open a, first a, open b, again b", "a", false},
		{"its answer was sent", "open a, first a, sent a, open b, again b", "a", true},
		{"its answer was sent twice", "open a, first a, sent a, over a, open b, again b", "", false},
		{"its process died before", "open a, open b, again b", "", false},
		{"the repeat's answer was lost, too", "open a, open b, again b, open c, again c", "b", false},
		{"the same again on purpose", "open a, first a, open b, first b", "", false},
		{"rather one whose answer was lost", "open a, first a, sent a, open c, first c, open b, again b", "c", false},
		{"it is gone", "open a, first a, delete a, open b, again b", "", false},
		{"it is long past", "open a, first a, wait 601, open b, again b", "", false},
		{"its answer was sent long ago", "open a, first a, sent a, wait 601, open b, again b", "", false},
		{"the repeat was quicker", "open a, open b, again b, first a", "b", true},
		{"the repeat was quicker, and is answered", "open a, open b, again b, sent b, first a", "b", true},
		{"the repeat was quicker than one of two", "open a, open c, open b, again b, first a, first c", "", false},
		{"it is another that comes later", "open b, again b, wait 1, open a, first a", "", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			now := time.Now()
			s := store.New(store.Config{Redis: rdb, Prefix: "p" + strconv.Itoa(i), Now: func() time.Time { return now }})
			ctx := t.Context()
			var last error
			for step := range strings.SplitSeq(row.steps, ", ") {
				what, id, _ := strings.Cut(step, " ")
				call := tasks.Call{Tenant: "acme", ID: "batch_" + id, Digest: "d"}
				var err error
				switch what {
				case "wait":
					n, _ := strconv.Atoi(id)
					now = now.Add(time.Duration(n) * time.Second)
				case "open":
					if _, _, err = s.OpenBatch(ctx, call.ID, "acme", ""); err == nil {
						j := job("acme")
						j.Batch, j.Line = call.ID, 1
						err = s.StageBatch(ctx, call.ID, []tasks.Job{j}, tasks.Limits{})
					}
				case "sent":
					err = s.HoldCall(ctx, call, tasks.CallerServed)
				case "over":
					err = s.HoldCall(ctx, call, tasks.CallerDone)
				case "delete":
					if _, err = s.CancelBatch(ctx, "acme", call.ID); err == nil {
						if _, _, err = s.Unfold(ctx, call.ID); err == nil {
							err = s.DeleteBatch(ctx, "acme", call.ID)
						}
					}
				default:
					_, last = s.CommitBatch(ctx, call.ID, tasks.BatchCommit{Lines: 1, Digest: "d", Repeat: what == "again"})
				}
				if err != nil {
					t.Fatalf("%s: %v", step, err)
				}
			}
			var joined *tasks.RepeatError
			if errors.As(last, &joined); row.joins == "" && last != nil || row.joins != "" && (joined == nil || joined.ID != "batch_"+row.joins || joined.Again != row.again) {
				t.Errorf("the last gets %v, %+v; want that of %q, again %t", last, joined, row.joins, row.again)
			}
			if tasks.Away(last) {
				t.Errorf("%v says that the store is away", last)
			}
		})
	}
}

// A deleted batch is gone with its jobs, and its key is free; one that has not ended stays.
func TestDeletingABatch(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 2)
	ctx := t.Context()
	b := stage(t, s, 700)
	if _, err := s.CommitBatch(ctx, b.ID, tasks.BatchCommit{}); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteBatch(ctx, "acme", b.ID); !errors.Is(err, tasks.ErrConflict) {
		t.Errorf("before its end: %v, want ErrConflict", err)
	}
	begun := time.Now().Truncate(time.Millisecond)
	if got, err := s.CancelBatch(ctx, "acme", b.ID); err != nil || got.CancelingAt.Before(begun) {
		t.Fatalf("canceled at %v, %v", got.CancelingAt, err)
	}
	if err := s.DeleteBatch(ctx, "acme", b.ID); !errors.Is(err, tasks.ErrConflict) {
		t.Errorf("before it is unfolded: %v, want ErrConflict", err)
	}
	for left := int64(1); left > 0; {
		var err error
		if left, _, err = s.Unfold(ctx, b.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DeleteBatch(ctx, "zoe", b.ID); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("by another tenant: %v, want ErrNotFound", err)
	}
	if err := s.DeleteBatch(ctx, "acme", b.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteBatch(ctx, "acme", b.ID); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("again: %v, want ErrNotFound", err)
	}
	left := rdb.Keys(ctx, "*").Val()
	slices.Sort(left)
	for _, key := range left {
		if strings.Contains(key, ":j:") || strings.Contains(key, ":g") || strings.Contains(key, ":tn:") {
			t.Errorf("left behind: %s", key)
		}
	}
	if load, err := s.Load(ctx, pool); err != nil || load.Queued != 0 {
		t.Errorf("load: %+v, %v", load, err)
	}
}

// Pages go both ways, newest first in each, and the last one says that it is.
func TestBatchesArePagedBothWays(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 1)
	var ids []string // newest first
	for i := range 7 {
		ids = append([]string{commitAt(t, s, rdb, time.Now().Add(time.Duration(i-60)*time.Minute))}, ids...)
	}
	for limit := 1; limit <= 8; limit++ {
		for at := range ids {
			for _, way := range []string{"after", "before"} {
				f := tasks.BatchFilter{Tenant: "acme", Limit: limit}
				want, more := ids[at+1:min(at+1+limit, len(ids))], at+1+limit < len(ids)
				if f.After = ids[at]; way == "before" {
					f.After, f.Before = "", ids[at]
					want, more = ids[max(0, at-limit):at], at-limit > 0
				}
				page, err := s.Batches(t.Context(), f)
				var got []string
				for _, b := range page.Batches {
					got = append(got, b.ID)
				}
				if err != nil || !slices.Equal(got, want) || page.HasMore != more {
					t.Errorf("%d %s the %d. are %q, more %t, %v; want %q, %t", limit, way, at+1, got, page.HasMore, err, want, more)
				}
			}
		}
	}
}
