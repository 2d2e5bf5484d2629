package store_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

func TestTheMarkOfIntakeIsOne(t *testing.T) {
	t.Parallel()
	if text := strings.Join(readLines(t, "lua/room.lua"), "\n"); !strings.Contains(text, fmt.Sprintf("local intake = %v ", store.Intake)) {
		t.Errorf("lua/room.lua does not take in up to %v", store.Intake)
	}
}

// What is promised to jobs that have not ended is given back with their end, whatever
// that is, and moves with them; how large results were decides how large they will be.
func TestRoomIsPromisedUntilAJobHasEnded(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, redistest.Options{Args: []string{"--maxmemory", "64mb"}})
	rdb := srv.Client()
	s := store.New(store.Config{Redis: rdb, Depth: map[string]int{pool: 100, "q": 100}})
	ctx := t.Context()
	bounds := func() string {
		return fmt.Sprint(rdb.HMGet(ctx, "sluice:{s}:room", "b:"+pool, "n:"+pool, "b:q", "n:q").Val())
	}
	want := func(what, bound string) {
		t.Helper()
		if got := bounds(); got != bound {
			t.Errorf("%s: promised %s, want %s", what, got, bound)
		}
	}
	j := job("acme")
	j.Request.MaxTokens, j.Fallback = 1000, []string{"other"} // 8,000 bytes, 11,024 in memory
	made, _, err := s.Create(ctx, tasks.Submission{Job: j})
	must(t, err)
	must(t, made[0].Err)
	want("submitted", "[11024 1 <nil> <nil>]")
	if p, err := s.Beat(ctx); err != nil || p.Room.Promised != 32768 || p.Room.Most != 64<<20 || p.Room.Used < 1<<19 || p.Room.Full {
		t.Errorf("room: %+v, %v; want the least where nothing has come", p.Room, err)
	}
	_, _, err = s.Divert(ctx, pool, map[string]tasks.Detour{j.ID: {Pool: "q", Passed: 1}})
	must(t, err)
	want("diverted", "[0 0 11024 1]")
	_, err = s.Cancel(ctx, "acme", j.ID)
	must(t, err)
	want("canceled", "[0 0 0 0]")
	_, tickets, err := s.Requeue(ctx, "acme", j.ID, tasks.Limits{})
	must(t, err)
	want("retried", "[11024 1 0 0]")
	k := tickets[0]
	take(t, s, k)
	start(t, s, k)
	how := won
	how.Result = []byte(`"` + strings.Repeat("x", 4000) + `"`)
	_, err = s.End(ctx, k, how)
	must(t, err)
	want("ended", "[0 0 0 0]")
	for range 9 {
		next := job("acme")
		next.Request.MaxTokens = 1000
		_, tickets, err := s.Create(ctx, tasks.Submission{Job: next})
		must(t, err)
		take(t, s, tickets[0])
		start(t, s, tickets[0])
		_, err = s.End(ctx, tickets[0], how)
		must(t, err)
	}
	b := stage(t, s, 3)
	want("a batch on its way", "[3552 3 0 0]")
	// Results were 6,026 bytes in memory, of 11,024 that they might have been.
	if p, err := s.Beat(ctx); err != nil || p.Room.Promised < 1900 || p.Room.Promised > 1980 {
		t.Errorf("room: %+v, %v", p.Room, err)
	}
	must(t, s.AbortBatch(ctx, b.ID))
	want("aborted", "[0 0 0 0]")
	// What another release has ended without a word is found when nothing is there.
	must(t, rdb.HSet(ctx, "sluice:{s}:room", "b:"+pool, 1<<30, "n:"+pool, 7).Err())
	if p, err := s.Beat(ctx); err != nil || p.Room.Promised != 0 {
		t.Errorf("room: %+v, %v", p.Room, err)
	}
}
