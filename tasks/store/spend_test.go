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
		"lost, and its answer recorded late": {asking, func(t *testing.T, s *store.Store, rdb *redis.Client, k tasks.Ticket) {
			lose(t, s, rdb, k)
			e := won
			e.Kept, e.Attempt.Account, e.Attempt.Cost = 1, asking.Account, &tasks.Cost{Amount: 7}
			_, err := s.End(t.Context(), k, e)
			must(t, err)
		}, tasks.Attempt{Outcome: tasks.Succeeded, Status: 200, RequestID: "req_1", Account: asking.Account, Cost: &tasks.Cost{Amount: 7}}},
		"given back without a call": {asking, func(t *testing.T, s *store.Store, _ *redis.Client, k tasks.Ticket) {
			_, err := s.End(t.Context(), k, tasks.Ending{Status: tasks.StatusRetrying, Attempt: tasks.Attempt{Outcome: tasks.HandedBack}})
			must(t, err)
		}, tasks.Attempt{Outcome: tasks.HandedBack}},
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
			inLedger(t, s, &entry, c.asks)
		})
	}
}

// inLedger checks that the ledger has one call of acme's, and what the log says of it.
func inLedger(t *testing.T, s *store.Store, entry *tasks.Attempt, asks tasks.Asked) {
	t.Helper()
	now := time.Now()
	lines, err := s.Ledger(t.Context(), tasks.LedgerFilter{Since: now.Add(-24 * time.Hour), Until: now.Add(24 * time.Hour)})
	must(t, err)
	if asks.Account == "" || entry.Outcome == tasks.HandedBack {
		if len(lines) > 0 {
			t.Errorf("the ledger has %+v of no call", lines)
		}
		return
	}
	want := tasks.Spent{Requests: 1}
	if entry.Usage != nil {
		want.Usage = *entry.Usage
	}
	if entry.Cost != nil {
		want.Cost = *entry.Cost
	}
	if len(lines) != 1 || lines[0].Spent != want || lines[0].Tenant != "acme" || lines[0].Account != asks.Account || lines[0].Model != asks.Model {
		t.Errorf("the ledger has %+v, want one line of %+v", lines, want)
	}
}

// lose has the worker of a ticket's call die.
func lose(t *testing.T, s *store.Store, rdb *redis.Client, k tasks.Ticket) {
	t.Helper()
	must(t, rdb.ZAdd(t.Context(), "sluice:{s}:run:"+pool, redis.Z{Score: 1, Member: k.ID}).Err())
	_, err := s.Sweep(t.Context())
	must(t, err)
}
