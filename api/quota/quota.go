// Package quota decides whether a tenant may submit more: a token bucket of
// submits a minute and an allowance of model tokens a UTC day, kept in Redis
// and counted by Redis's own clock, so that every API process shares them.
//
// A refusal takes nothing. The package never reads a job, never names a tenant
// in an error, and does not count waiting jobs: that limit is only passed on,
// because the store enforces it where it accepts the job.
package quota

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/gather"
)

// The names of the quotas, as they stand in tasks.QuotaError and in the
// RateLimit fields.
const (
	SubmitsPerMinute = "submits_per_minute"
	QueuedJobs       = "queued_jobs"
	TokensPerDay     = "tokens_per_day"
)

const day = 24 * time.Hour

//go:embed admit.lua
var admitLua string

// Limits are one tenant's allowances; 0 means no limit.
type Limits struct {
	SubmitsPerMinute int64 // requests that submit, a batch counts as one; as many may come at once
	QueuedJobs       int64 // jobs waiting at once; enforced by the store
	TokensPerDay     int64 // model tokens in and out, from midnight to midnight UTC
}

// Config says what a Quota works with.
type Config struct {
	// Redis keeps the accounts. Required.
	Redis redis.UniversalClient
	// Limits returns a tenant's allowances; it is called for each submit and
	// must not block. nil means no limits for anybody.
	Limits func(tenant string) Limits
	// Prefix begins every key; "" means "sluice:quota:".
	Prefix string
}

// Quota is the door through which submits pass. Its methods may be called at
// once from anywhere.
type Quota struct {
	rdb    redis.UniversalClient
	limits func(tenant string) Limits
	prefix string
	admit  *redis.Script
	group  *gather.Group[admission, accounted]
}

// New returns a Quota, or an error when Config lacks something.
func New(c Config) (*Quota, error) {
	if c.Redis == nil {
		return nil, errors.New("quota: Config.Redis is missing")
	}
	q := &Quota{rdb: c.Redis, limits: c.Limits, prefix: c.Prefix, admit: redis.NewScript(admitLua)}
	q.group = gather.New(admitTogether, admitFlights, q.admitAll)
	if q.limits == nil {
		q.limits = func(string) Limits { return Limits{} }
	}
	if q.prefix == "" {
		q.prefix = "sluice:quota:"
	}
	return q, nil
}

// Cost is what a submit takes from its tenant's allowances.
type Cost struct {
	Submits int64
	Tokens  int64 // an estimate; Settle replaces it
}

// Grant is what an admitted tenant is told.
type Grant struct {
	Windows   []Window // the limited allowances, as they stand now
	MaxQueued int64    // the most jobs that may wait; 0 means no limit
}

// Window is one allowance and what is left of it.
type Window struct {
	Name      string
	Limit     int64
	Remaining int64
	Span      time.Duration // the time in which Limit may be used
	Reset     time.Duration // until the whole of Limit is there again
}

// Admit takes c from the tenant's allowances, all of it or nothing. It returns
// a *tasks.QuotaError when one of them does not suffice, and an error that
// wraps tasks.ErrUnavailable or ErrFull when Redis does not answer.
func (q *Quota) Admit(ctx context.Context, tenant string, c Cost) (Grant, error) {
	limits := q.limits(tenant)
	grant := Grant{MaxQueued: limits.QueuedJobs}
	account, err := q.account(ctx, tenant, limits, c)
	if err != nil {
		return Grant{}, err
	}
	if limits.SubmitsPerMinute > 0 {
		grant.Windows = append(grant.Windows, Window{
			Name: SubmitsPerMinute, Limit: limits.SubmitsPerMinute, Remaining: account.submits,
			Span: time.Minute, Reset: account.full,
		})
	}
	if limits.TokensPerDay > 0 {
		grant.Windows = append(grant.Windows, Window{
			Name: TokensPerDay, Limit: limits.TokensPerDay, Remaining: account.tokens,
			Span: day, Reset: account.midnight,
		})
	}
	switch account.refusedBy {
	case 1:
		return grant, &tasks.QuotaError{
			Quota: SubmitsPerMinute, Limit: limits.SubmitsPerMinute, Remaining: account.submits,
			Window: time.Minute, RetryAfter: account.wait,
		}
	case 2:
		return grant, &tasks.QuotaError{
			Quota: TokensPerDay, Limit: limits.TokensPerDay, Remaining: account.tokens,
			Window: day, RetryAfter: account.midnight,
		}
	}
	return grant, nil
}

// Refund gives c back: the submit was not accepted after all, or was a repeat
// of one that was.
func (q *Quota) Refund(ctx context.Context, tenant string, c Cost) error {
	_, err := q.account(ctx, tenant, q.limits(tenant), Cost{Submits: -c.Submits, Tokens: -c.Tokens})
	return err
}

// Settle replaces the estimate that a job was admitted with by the tokens that
// the provider counted. It is to be called once, when the job is final, with
// the time of its submission: an estimate of a day that has passed is not given
// back to this one. A settled job may bring the tenant over its allowance.
func (q *Quota) Settle(ctx context.Context, tenant string, submitted time.Time, estimate, used int64) error {
	limits := q.limits(tenant)
	if limits.TokensPerDay <= 0 || estimate == used {
		return nil
	}
	keys, args := q.call(tenant, limits, Cost{Tokens: used - estimate})
	if err := q.admit.Run(ctx, q.rdb, keys, append(args, submitted.UnixMilli()/day.Milliseconds())...).Err(); err != nil {
		return fmt.Errorf("settle a quota: %w", tasks.NotNow(err))
	}
	return nil
}

// account is what the script reports.
type account struct {
	refusedBy int64 // 0 nobody, 1 the submits, 2 the tokens
	submits   int64
	wait      time.Duration // until the refused submits would pass
	full      time.Duration // until the bucket is full
	tokens    int64
	midnight  time.Duration
}

func (q *Quota) account(ctx context.Context, tenant string, limits Limits, c Cost) (account, error) {
	if limits.SubmitsPerMinute <= 0 && limits.TokensPerDay <= 0 || c == (Cost{}) {
		return account{}, nil
	}
	got, err := q.group.Do(ctx, admission{tenant: tenant, limits: limits, cost: c})
	if err == nil {
		err = got.err
	}
	return got.account, err
}

// admission is one call of Admit or Refund, and accounted its answer.
type admission struct {
	tenant string
	limits Limits
	cost   Cost
}

type accounted struct {
	account
	err error
}

// Admissions that come at once are asked together: a script takes so many, and
// so many are under way at a time.
const (
	admitTogether = 64
	admitFlights  = 2
	admitTimeout  = 10 * time.Second
)

// admitAll asks for the sum of what each tenant's callers want. Where that does
// not suffice, it asks for each of them, in the order in which they came.
func (q *Quota) admitAll(ctx context.Context, asked []admission) ([]accounted, error) {
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	of := map[string][]int{}
	for i, a := range asked {
		of[a.tenant] = append(of[a.tenant], i)
	}
	out := make([]accounted, len(asked))
	for tenant, some := range of {
		sum := asked[some[0]]
		for _, i := range some[1:] {
			sum.cost.Submits += asked[i].cost.Submits
			sum.cost.Tokens += asked[i].cost.Tokens
		}
		got, err := q.ask(ctx, tenant, sum.limits, sum.cost)
		for _, i := range some {
			if err == nil && got.refusedBy != 0 && len(some) > 1 {
				out[i].account, out[i].err = q.ask(ctx, tenant, asked[i].limits, asked[i].cost)
				continue
			}
			out[i] = accounted{got, err}
		}
	}
	return out, nil
}

func (q *Quota) ask(ctx context.Context, tenant string, limits Limits, c Cost) (account, error) {
	keys, args := q.call(tenant, limits, c)
	got, err := q.admit.Run(ctx, q.rdb, keys, args...).Int64Slice()
	if err != nil {
		return account{}, fmt.Errorf("ask a quota: %w", tasks.NotNow(err))
	}
	if len(got) != 6 {
		return account{}, fmt.Errorf("ask a quota: %d values in the answer", len(got))
	}
	return account{
		refusedBy: got[0], submits: got[1], wait: time.Duration(got[2]) * time.Millisecond,
		full: time.Duration(got[3]) * time.Millisecond, tokens: got[4], midnight: time.Duration(got[5]) * time.Millisecond,
	}, nil
}

func (q *Quota) call(tenant string, limits Limits, c Cost) (keys []string, args []any) {
	// Escaped, so that a tenant's name can neither hold braces, which Redis
	// Cluster reads, nor meet another tenant's key.
	return []string{q.prefix + url.QueryEscape(tenant)},
		[]any{c.Submits, max(limits.SubmitsPerMinute, 0), c.Tokens, max(limits.TokensPerDay, 0)}
}
