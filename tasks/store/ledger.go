package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

var standingScript = script("standing")

// Standing reports how an owner's quotas stand that the store holds.
func (s *Store) Standing(ctx context.Context, tenant string) (tasks.Standing, error) {
	reply, err := s.run(ctx, standingScript, args{"tenant": tenant}).Slice()
	if err != nil {
		return tasks.Standing{}, fmt.Errorf("read how quotas stand: %w", err)
	}
	said := tasks.Standing{
		At: fromMilli(num(reply[0])), QueuedJobs: num(reply[1]), QueuedBytes: num(reply[2]),
		Day:  tasks.DayTokens{Used: num(reply[3]), Reserved: num(reply[4]), ResetsIn: time.Duration(num(reply[5])) * time.Millisecond},
		Paid: tasks.Money(atoi(str(reply[6]))), Pledged: tasks.Money(atoi(str(reply[7]))), RunningJobs: num(reply[8]),
	}
	if own := reply[9:]; len(own) > 0 {
		said.UserQueuedJobs, said.Day.UserUsed, said.Day.UserReserved = atoi(str(own[0])), atoi(str(own[1])), atoi(str(own[2]))
		said.UserRunningJobs = atoi(str(own[5]))
		said.UserPaid, said.UserPledged = tasks.Money(atoi(str(own[3]))), tasks.Money(atoi(str(own[4])))
	}
	return said, nil
}

const (
	day        = 24 * time.Hour
	ledgerRead = 128 // ledgers read in one round trip
)

// Ledger returns what calls took, by tenant, day, account and model. Lines of a release
// that counted nothing are missing. Of a user they are what its own calls took while users
// were kept apart.
func (s *Store) Ledger(ctx context.Context, f tasks.LedgerFilter) (lines []tasks.LedgerLine, err error) {
	since, until := f.Since.UTC().Truncate(day), f.Until.UTC()
	if ends := s.clock().Add(day); until.After(ends) {
		until = ends
	}
	if oldest := until.Truncate(day).Add(-tasks.LedgerDays * day); since.Before(oldest) {
		since = oldest
	}
	tenants := []string{f.Tenant}
	if f.Tenant == "" {
		tenants, err = s.rdb.ZRangeByScore(ctx, s.keys.ledgers(), &redis.ZRangeBy{Min: ledgerDay(since), Max: "+inf"}).Result()
		if err != nil {
			return nil, fmt.Errorf("read who has a ledger: %w", redisError(err))
		}
		slices.Sort(tenants)
	}
	var want []tasks.LedgerLine // day and tenant alone
	for _, tenant := range tenants {
		for at := since; at.Before(until); at = at.Add(day) {
			want = append(want, tasks.LedgerLine{Day: at, Tenant: tenant})
		}
	}
	for some := range slices.Chunk(want, ledgerRead) {
		if lines, err = s.ledgerLines(ctx, some, lines); err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// ledgerDay is a day as keys have it: how many have passed since 1970.
func ledgerDay(at time.Time) string { return strconv.FormatInt(at.Unix()/int64(day/time.Second), 10) }

// ledgerLines appends the lines of some ledgers.
func (s *Store) ledgerLines(ctx context.Context, want, lines []tasks.LedgerLine) ([]tasks.LedgerLine, error) {
	cmds, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range want {
			day := ledgerDay(want[i].Day)
			if tenant, user := tasks.SplitOwner(want[i].Tenant); user != "" {
				p.HGetAll(ctx, s.keys.userLedger(day, tenant))
				continue
			}
			p.HGetAll(ctx, s.keys.ledger(day, want[i].Tenant))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read a ledger: %w", redisError(err))
	}
	for i, cmd := range cmds {
		from := len(lines)
		for name, sums := range cmd.(*redis.MapStringStringCmd).Val() {
			line := want[i]
			if tenant, user := tasks.SplitOwner(line.Tenant); user != "" {
				rest, own := strings.CutPrefix(name, user+"\n")
				if !own {
					continue
				}
				line.Tenant, name = tenant, rest
			}
			line.Account, line.Model, _ = strings.Cut(name, "\n")
			if line.Spent, err = ledgerSums(sums); err != nil {
				return nil, err
			}
			lines = append(lines, line)
		}
		slices.SortFunc(lines[from:], func(a, b tasks.LedgerLine) int {
			return strings.Compare(a.Account+"\n"+a.Model, b.Account+"\n"+b.Model)
		})
	}
	return lines, nil
}

// ledgerSums reads a line as post in account.lua writes it.
func ledgerSums(text string) (s tasks.Spent, err error) {
	var amount, maybe int64
	to := []*int64{&s.Requests, &s.InputTokens, &s.OutputTokens, &s.CacheReadInputTokens, &s.CacheCreationInputTokens, &amount, &maybe}
	words := strings.Fields(text)
	if len(words) < len(to) {
		return s, fmt.Errorf("read a ledger: a line has %d numbers", len(words))
	}
	for i, n := range to {
		if *n, err = strconv.ParseInt(words[i], 10, 64); err != nil {
			return s, fmt.Errorf("read a ledger: %w", err)
		}
	}
	s.Cost = tasks.Cost{Amount: tasks.Money(amount), Maybe: tasks.Money(maybe)}
	return s, nil
}
