package store_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// An answer that lay on a disk while its job was given back ends the job as long as
// nobody has asked again; a record that has moved on wins.
func TestAnAnswerThatComesFromADisk(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, s *store.Store, hand []tasks.Ticket)
		ending tasks.Ending
		want   error
		log    []tasks.Outcome
	}{
		"its job waits for another worker": {func(*testing.T, *store.Store, []tasks.Ticket) {}, answered(1), nil, []tasks.Outcome{tasks.Succeeded}},
		"another worker holds it":          {take1, answered(1), nil, []tasks.Outcome{tasks.Succeeded}},
		"another worker asks": {func(t *testing.T, s *store.Store, hand []tasks.Ticket) {
			take1(t, s, hand)
			start(t, s, hand[0])
		}, answered(1), tasks.ErrLost, []tasks.Outcome{tasks.WorkerLost, tasks.Running}},
		"another worker has asked in vain": {func(t *testing.T, s *store.Store, hand []tasks.Ticket) {
			take1(t, s, hand)
			start(t, s, hand[0])
			if _, err := s.End(t.Context(), hand[0], tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Delay: time.Minute, Attempt: tasks.Attempt{Outcome: tasks.Timeout}}); err != nil {
				t.Fatal(err)
			}
		}, answered(1), tasks.ErrLost, []tasks.Outcome{tasks.WorkerLost, tasks.Timeout}},
		"its caller has canceled it": {func(t *testing.T, s *store.Store, hand []tasks.Ticket) {
			if _, err := s.Cancel(t.Context(), "acme", hand[0].ID); err != nil {
				t.Fatal(err)
			}
		}, answered(1), tasks.ErrFinal, []tasks.Outcome{tasks.WorkerLost}},
		"it did not lie on a disk": {func(*testing.T, *store.Store, []tasks.Ticket) {}, answered(0), tasks.ErrLost, []tasks.Outcome{tasks.WorkerLost}},
		"it is no answer": {func(*testing.T, *store.Store, []tasks.Ticket) {}, tasks.Ending{Status: tasks.StatusRetrying, Kept: 1, Attempt: tasks.Attempt{Outcome: tasks.Timeout}},
			tasks.ErrLost, []tasks.Outcome{tasks.WorkerLost}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := time.Unix(1_800_000_000, 0)
			s := store.New(store.Config{Redis: redistest.New(t), Depth: map[string]int{pool: 4}, Now: func() time.Time { return at }})
			j := job("acme")
			j.Reserved = 100
			created, hand, err := s.Create(t.Context(), tasks.Submission{Job: j, Limits: tasks.Limits{TokensPerDay: 1000}})
			if err != nil || created[0].Err != nil {
				t.Fatal(err, created[0].Err)
			}
			take1(t, s, hand)
			start(t, s, hand[0])
			old := hand[0]
			hand = lapse(t, s, &at)
			c.change(t, s, hand)
			if _, err := s.End(t.Context(), old, c.ending); !errors.Is(err, c.want) {
				t.Fatalf("End: %v; want %v", err, c.want)
			}
			got := read(t, s, j.ID)
			var log []tasks.Outcome
			for _, a := range got.Log {
				log = append(log, a.Outcome)
			}
			if len(log) != len(c.log) {
				t.Fatalf("the log says %v; want %v", log, c.log)
			}
			for i := range log {
				if log[i] != c.log[i] {
					t.Errorf("the log says %v; want %v", log, c.log)
				}
			}
			if c.want != nil {
				return
			}
			day, err := s.Tokens(t.Context(), "acme")
			if err != nil || day.Used != 12 || day.Reserved != 0 {
				t.Errorf("the day's tokens are %+v, %v; want 12 used and none set aside", day, err)
			}
			if got.Status != tasks.StatusSucceeded || string(got.Result) != `{"a":1}` || got.Attempts != 1 {
				t.Errorf("the job is %+v", got)
			}
			swept, err := s.Sweep(t.Context())
			if err != nil || len(swept.Hand) != 0 {
				t.Errorf("handed out again: %+v, %v", swept.Hand, err)
			}
		})
	}
}

func answered(kept int) tasks.Ending {
	return tasks.Ending{
		Status: tasks.StatusSucceeded, Result: []byte(`{"a":1}`), Usage: &tasks.Usage{InputTokens: 5, OutputTokens: 7}, Kept: kept,
		Attempt: tasks.Attempt{Outcome: tasks.Succeeded, Status: 200},
	}
}

func take1(t *testing.T, s *store.Store, hand []tasks.Ticket) { take(t, s, hand[0]) }

// lapse lets a lease go by and returns the job's new ticket.
func lapse(t *testing.T, s *store.Store, at *time.Time) []tasks.Ticket {
	t.Helper()
	for range 12 {
		*at = at.Add(time.Second)
		swept, err := s.Sweep(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if swept.Lost > 0 {
			return swept.Hand
		}
	}
	t.Fatal("the job was not given back")
	return nil
}

// spoil makes a key one of another type, until it is healed.
func spoil(t *testing.T, rdb *redis.Client, key string) (heal func()) {
	t.Helper()
	if err := rdb.Rename(t.Context(), key, key+":aside").Err(); err != nil {
		t.Fatal(err)
	}
	if err := rdb.Set(t.Context(), key, "spoiled", 0).Err(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := rdb.Rename(t.Context(), key+":aside", key).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// One record that cannot be read keeps no other job from its lease, its sweep or its
// turn, and is taken up again once it can.
func TestARecordThatCannotBeReadHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_800_000_000, 0)
	rdb := redistest.New(t)
	s := store.New(store.Config{Redis: rdb, Depth: map[string]int{pool: 2}, Now: func() time.Time { return at }})
	bad, other := job("acme"), job("acme")
	var held []tasks.Ticket
	for _, j := range []tasks.Job{bad, other} {
		_, hand := create(t, s, j)
		take1(t, s, hand)
		start(t, s, hand[0])
		held = append(held, hand[0])
	}
	heal := spoil(t, rdb, "sluice:{s}:j:"+bad.ID)
	for range 15 {
		at = at.Add(time.Second)
		if lost, err := s.Renew(t.Context(), held); err != nil || len(lost) != 0 {
			t.Fatalf("renew: lost %v, %v; want the lease of the other", lost, err)
		}
		if err := s.Leave(t.Context(), held); err != nil {
			t.Fatal(err)
		}
		if swept, err := s.Sweep(t.Context()); err != nil || swept.Lost != 0 {
			t.Fatalf("sweep: %+v, %v; want the other to stay", swept, err)
		}
	}
	third := job("acme")
	if _, hand := create(t, s, third); len(hand) != 1 {
		t.Errorf("%d handed out; want the third at once", len(hand))
	}
	heal()
	for range 70 {
		at = at.Add(time.Second)
		if _, err := s.Renew(t.Context(), held[1:]); err != nil {
			t.Fatal(err)
		}
		swept, err := s.Sweep(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if swept.Lost > 0 {
			return
		}
	}
	t.Error("it was not given back after it could be read again")
}

// The same for deliveries.
func TestADeliveryThatCannotBeReadHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	s := newSending(t)
	s.event("acme", "a.example", 1)
	s.event("other", "b.example", 1)
	hand := s.sweep()
	if len(hand) != 2 {
		t.Fatalf("%d handed out", len(hand))
	}
	heal := spoil(t, s.rdb, "sluice:{s}:d:"+hand[0].ID)
	for range 12 {
		if err := s.RenewDeliveries(t.Context(), hand); err != nil {
			t.Fatal(err)
		}
		if again := s.pass(time.Second); len(again) != 0 {
			t.Fatalf("%v are handed out again", again)
		}
	}
	_, err := s.SettleDeliveries(t.Context(), []tasks.Settled{{Ticket: hand[1], Status: tasks.DeliveryDelivered}})
	must(t, err)
	heal()
	again := s.pass(70 * time.Second)
	if len(again) == 0 || slices.ContainsFunc(again, func(k tasks.DeliveryTicket) bool { return k.ID != hand[0].ID }) {
		t.Errorf("%v are handed out; want the one that can be read again, alone", again)
	}
}
