// Package quota decides whether a tenant may submit now: a token bucket of
// submits a minute, kept in Redis and counted by Redis's own clock, so that
// every API process shares it.
//
// A refusal takes nothing. The package never reads a job, never names a tenant
// in an error, and does not count waiting jobs and model tokens: those limits
// are only passed on, because the store holds them in the move that queues a job.
package quota

import (
	"context"
	"crypto/rand"
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

//go:embed admit.lua
var admitLua string

// Limits are one tenant's allowances; 0 means no limit.
type Limits struct {
	SubmitsPerMinute int64 // requests that submit, a batch counts as one; as many may come at once
	QueuedJobs       int64 // jobs waiting at once; held by the store
	TokensPerDay     int64 // model tokens in and out, from midnight to midnight UTC; held by the store
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
	askers chan *asker // those that are free
}

// asker asks one thing at a time, so that its last question is known again when the
// client library sends it a second time: nothing is taken twice.
type asker struct {
	name string
	n    int64
}

// New returns a Quota, or an error when Config lacks something.
func New(c Config) (*Quota, error) {
	if c.Redis == nil {
		return nil, errors.New("quota: Config.Redis is missing")
	}
	q := &Quota{rdb: c.Redis, limits: c.Limits, prefix: c.Prefix, admit: redis.NewScript(admitLua)}
	q.group = gather.New(admitTogether, admitFlights, q.admitAll)
	q.askers = make(chan *asker, admitFlights)
	for range admitFlights {
		q.askers <- &asker{name: "by:" + rand.Text()[:8]}
	}
	if q.limits == nil {
		q.limits = func(string) Limits { return Limits{} }
	}
	if q.prefix == "" {
		q.prefix = "sluice:quota:"
	}
	return q, nil
}

// Grant is what an admitted tenant is told.
type Grant struct {
	Windows []Window     // the limited allowances, as they stand now
	Limits  tasks.Limits // what the store holds
}

// Window is one allowance and what is left of it.
type Window struct {
	Name      string
	Limit     int64
	Remaining int64
	Span      time.Duration // the time in which Limit may be used
	Reset     time.Duration // until the whole of Limit is there again
}

// Admit takes submits from the tenant's allowance, all of them or none. It
// returns a *tasks.QuotaError when it does not suffice, and an error that wraps
// tasks.ErrUnavailable or ErrFull when Redis does not answer.
func (q *Quota) Admit(ctx context.Context, tenant string, submits int64) (Grant, error) {
	limits := q.limits(tenant)
	grant := Grant{Limits: tasks.Limits{QueuedJobs: limits.QueuedJobs, TokensPerDay: limits.TokensPerDay}}
	account, err := q.account(ctx, tenant, limits.SubmitsPerMinute, submits)
	if err != nil {
		return Grant{}, err
	}
	if limits.SubmitsPerMinute > 0 {
		grant.Windows = append(grant.Windows, Window{
			Name: SubmitsPerMinute, Limit: limits.SubmitsPerMinute, Remaining: account.submits,
			Span: time.Minute, Reset: account.full,
		})
	}
	if account.refused {
		return grant, &tasks.QuotaError{
			Quota: SubmitsPerMinute, Limit: limits.SubmitsPerMinute, Remaining: account.submits,
			Window: time.Minute, RetryAfter: account.wait,
		}
	}
	return grant, nil
}

// Refund gives submits back: they were not accepted after all, or were repeats
// of some that were.
func (q *Quota) Refund(ctx context.Context, tenant string, submits int64) error {
	_, err := q.account(ctx, tenant, q.limits(tenant).SubmitsPerMinute, -submits)
	return err
}

// account is what the script reports.
type account struct {
	refused bool
	submits int64         // left
	wait    time.Duration // until the refused submits would pass
	full    time.Duration // until the bucket is full
}

func (q *Quota) account(ctx context.Context, tenant string, perMinute, submits int64) (account, error) {
	if perMinute <= 0 || submits == 0 {
		return account{}, nil
	}
	got, err := q.group.Do(ctx, admission{tenant, perMinute, submits})
	if err == nil {
		err = got.err
	}
	return got.account, err
}

// admission is one call of Admit or Refund, and accounted its answer.
type admission struct {
	tenant    string
	perMinute int64
	submits   int64
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
	by := <-q.askers
	defer func() { q.askers <- by }()
	of := map[string][]int{}
	for i, a := range asked {
		of[a.tenant] = append(of[a.tenant], i)
	}
	out := make([]accounted, len(asked))
	for _, some := range of {
		sum := asked[some[0]]
		for _, i := range some[1:] {
			sum.submits += asked[i].submits
		}
		got, err := q.ask(ctx, by, sum)
		for _, i := range some {
			if err == nil && got.refused && len(some) > 1 {
				out[i].account, out[i].err = q.ask(ctx, by, asked[i])
				continue
			}
			out[i] = accounted{got, err}
		}
	}
	return out, nil
}

func (q *Quota) ask(ctx context.Context, by *asker, a admission) (account, error) {
	by.n++
	// Escaped, so that a tenant's name can neither hold braces, which Redis
	// Cluster reads, nor meet another tenant's key.
	key := q.prefix + url.QueryEscape(a.tenant)
	got, err := q.admit.Run(ctx, q.rdb, []string{key}, "",
		fmt.Sprintf(`{"by":%q,"n":%d,"submits":%d,"per_minute":%d}`, by.name, by.n, a.submits, a.perMinute)).Int64Slice()
	if err != nil {
		return account{}, fmt.Errorf("ask a quota: %w", tasks.NotNow(err))
	}
	if len(got) != 4 {
		return account{}, fmt.Errorf("ask a quota: %d values in the answer", len(got))
	}
	return account{
		refused: got[0] != 0, submits: got[1], wait: time.Duration(got[2]) * time.Millisecond, full: time.Duration(got[3]) * time.Millisecond,
	}, nil
}
