package store_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

// asking is a call of a model with a price.
var asking = tasks.Asked{Account: `an "account"`, Model: "m", AtMost: 1_000_000_000_000_000, Priced: true}

// What a call cost stands in the job's log, and where nobody saw its end, what it may
// have cost, whoever notes that.
func TestACallsCostIsInItsLog(t *testing.T) {
	t.Parallel()
	unseen := tasks.Cost{Maybe: asking.AtMost}
	usage := &tasks.Usage{InputTokens: 3, CacheReadInputTokens: 2}
	for name, c := range map[string]struct {
		asks  tasks.Asked
		end   func(t *testing.T, s *store.Store, rdb *redis.Client, k tasks.Ticket)
		entry tasks.Attempt
	}{
		"answered": {asking, func(t *testing.T, s *store.Store, _ *redis.Client, k tasks.Ticket) {
			e := won
			e.Attempt.Account, e.Attempt.Usage, e.Attempt.Cost = asking.Account, usage, &tasks.Cost{Amount: 7}
			_, err := s.End(t.Context(), k, e)
			must(t, err)
		}, tasks.Attempt{Outcome: tasks.Succeeded, Status: 200, RequestID: "req_1", Account: asking.Account, Usage: usage, Cost: &tasks.Cost{Amount: 7}}},
		"canceled": {asking, func(t *testing.T, s *store.Store, _ *redis.Client, k tasks.Ticket) {
			_, err := s.Cancel(t.Context(), "acme", k.ID)
			must(t, err)
		}, tasks.Attempt{Outcome: tasks.CallCanceled, MaybeBilled: true, Account: asking.Account, Cost: &unseen}},
		"lost": {asking, lose, tasks.Attempt{Outcome: tasks.WorkerLost, MaybeBilled: true, Account: asking.Account, Cost: &unseen}},
		"lost, without a price": {tasks.Asked{Account: "fake", Model: "m"}, lose,
			tasks.Attempt{Outcome: tasks.WorkerLost, MaybeBilled: true, Account: "fake"}},
		"lost, begun by a release before this one": {tasks.Asked{}, lose, tasks.Attempt{Outcome: tasks.WorkerLost, MaybeBilled: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, rdb := open(t, 1)
			j, tickets := create(t, s, job("acme"))
			k := tickets[0]
			k.Asks = c.asks
			take(t, s, k)
			start(t, s, k)
			c.end(t, s, rdb, k)
			got := read(t, s, j.ID)
			if len(got.Log) != 1 {
				t.Fatalf("the log is %+v", got.Log)
			}
			entry := got.Log[0]
			entry.N, entry.StartedAt, entry.EndedAt, entry.LostAt, entry.Told = 0, time.Time{}, time.Time{}, time.Time{}, false
			if !reflect.DeepEqual(entry, c.entry) {
				t.Errorf("the log has %+v, want %+v", entry, c.entry)
			}
			if left := rdb.HExists(t.Context(), "sluice:{s}:j:"+j.ID, "ask").Val(); left {
				t.Error("the record still says what was asked")
			}
		})
	}
}

// lose has the worker of a ticket's call die.
func lose(t *testing.T, s *store.Store, rdb *redis.Client, k tasks.Ticket) {
	t.Helper()
	must(t, rdb.ZAdd(t.Context(), "sluice:{s}:run:"+pool, redis.Z{Score: 1, Member: k.ID}).Err())
	_, err := s.Sweep(t.Context())
	must(t, err)
}
