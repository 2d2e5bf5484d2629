// Package quota decides whether a tenant may submit now, or have webhooks sent that
// no job asks for: logs of what was taken in the last minute, kept in Redis and timed
// by Redis's own clock, so that every API process shares them.
//
// It promises that no 60 seconds hold more submits than are allowed, that a submit
// is refused only when one more would be too many, within 10 ms, and that one alone
// that comes again when it was told to is admitted. A refusal takes nothing. The
// package never reads a job, never names a tenant in an error, and does not count
// waiting jobs, their bytes and model tokens: those limits are only passed on, because the store
// holds them in the move that queues a job.
package quota

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/gather"
)

// The names of the quotas, as they stand in tasks.QuotaError and in the
// RateLimit fields.
const (
	SubmitsPerMinute = "submits_per_minute"
	ResendsPerMinute = "resends_per_minute"
	QueuedJobs       = "queued_jobs"
	QueuedBytes      = "queued_bytes"
	RunningJobs      = "running_jobs"
	TokensPerDay     = "tokens_per_day"
)

//go:embed admit.lua
var admitLua string

// Limits are one tenant's allowances; 0 means no limit.
type Limits struct {
	SubmitsPerMinute int64       // requests that submit, in any 60 s; a batch counts as one; as many may come at once
	ResendsPerMinute int64       // tests of endpoints and redeliveries, each delivery of a range counts; in any 60 s
	QueuedJobs       int64       // jobs waiting at once; held by the store
	QueuedBytes      int64       // of bodies as they came, of jobs that have not ended and of batches on their way in; held by the store
	RunningJobs      int64       // with workers at once; held by the store
	TokensPerDay     int64       // model tokens in and out, from midnight to midnight UTC; held by the store
	CostPerDay       tasks.Money // likewise
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
	// Now is the clock, for tests; nil: Redis's own.
	Now func() time.Time
}

// Quota is the door through which submits pass. Its methods may be called at
// once from anywhere.
type Quota struct {
	rdb    redis.UniversalClient
	limits func(tenant string) Limits
	prefix string
	now    func() time.Time
	admit  *redis.Script
	group  *gather.Group[question, answer]
	askers chan *asker // those that are free
}

// asker asks one thing at a time, so that its last question is known again when the
// client library sends it a second time: nothing is taken twice.
type asker struct {
	name string
	n    int
}

// New returns a Quota, or an error when Config lacks something.
func New(c Config) (*Quota, error) {
	if c.Redis == nil {
		return nil, errors.New("quota: Config.Redis is missing")
	}
	q := &Quota{rdb: c.Redis, limits: c.Limits, prefix: c.Prefix, now: c.Now, admit: redis.NewScript(admitLua)}
	q.group = gather.New(admitTogether, admitFlights, q.askAll)
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
	Taken   int64        // of what was asked for

	of account
	at int64 // place of what was taken in that account's log
}

// Window is one allowance and what is left of it.
type Window struct {
	Name      string
	Limit     int64
	Remaining int64
	Span      time.Duration // the time in which Limit may be used
	Reset     time.Duration // until the whole of Limit is there again
}

// account is the beginning of what is one's own in an account's key.
type account string

const (
	submits account = ""
	resends account = "resend:"
)

// key is the end of an account's key. Escaped, a tenant's name can neither hold
// braces, which Redis Cluster reads, nor meet the key of another account.
func (a account) key(tenant string) string { return string(a) + url.QueryEscape(tenant) }

func (a account) limit(l Limits) int64 {
	if a == resends {
		return l.ResendsPerMinute
	}
	return l.SubmitsPerMinute
}

// Admit takes submits from the tenant's allowance, all of them or none. It
// returns a *tasks.QuotaError when it does not suffice, and an error that wraps
// tasks.ErrUnavailable or ErrFull when Redis does not answer.
func (q *Quota) Admit(ctx context.Context, tenant string, n int64) (Grant, error) {
	tenant = tasks.TenantOf(tenant)
	limits := q.limits(tenant)
	grant := Grant{Limits: tasks.Limits{QueuedJobs: limits.QueuedJobs, QueuedBytes: limits.QueuedBytes, TokensPerDay: limits.TokensPerDay, CostPerDay: limits.CostPerDay}}
	if limits.SubmitsPerMinute <= 0 {
		return grant, nil
	}
	got, err := q.ask(ctx, question{key: submits.key(tenant), perMinute: limits.SubmitsPerMinute, n: n})
	if err != nil {
		return Grant{}, err
	}
	grant.Windows = append(grant.Windows, Window{
		Name: SubmitsPerMinute, Limit: limits.SubmitsPerMinute, Remaining: got.left, Span: time.Minute, Reset: got.full,
	})
	if got.wait > 0 {
		return grant, &tasks.QuotaError{
			Quota: SubmitsPerMinute, Limit: limits.SubmitsPerMinute, Remaining: got.left, Window: time.Minute, RetryAfter: got.wait,
		}
	}
	grant.at, grant.Taken = got.at, n
	return grant, nil
}

// Standing is a tenant's limits, and how its submits of the last minute stand. It takes
// nothing; its errors are those of Admit.
func (q *Quota) Standing(ctx context.Context, tenant string) (Limits, Window, error) {
	tenant = tasks.TenantOf(tenant)
	limits := q.limits(tenant)
	w := Window{Name: SubmitsPerMinute, Limit: limits.SubmitsPerMinute, Remaining: limits.SubmitsPerMinute, Span: time.Minute}
	if w.Limit <= 0 {
		return limits, w, nil
	}
	got, err := q.ask(ctx, question{key: submits.key(tenant), perMinute: w.Limit})
	if err != nil {
		return limits, w, err
	}
	w.Remaining, w.Reset = got.left, got.full
	return limits, w, nil
}

// Refund gives back what a grant took: it was not accepted after all, or repeated
// what was.
func (q *Quota) Refund(ctx context.Context, tenant string, g Grant) error {
	tenant = tasks.TenantOf(tenant)
	limit := g.of.limit(q.limits(tenant))
	if limit <= 0 || g.Taken == 0 {
		return nil
	}
	_, err := q.ask(ctx, question{key: g.of.key(tenant), perMinute: limit, n: -g.Taken, at: g.at})
	return err
}

// Resend takes up to n resends from the tenant's allowance: one at least, or it
// returns a *tasks.QuotaError, or an error as Admit has.
func (q *Quota) Resend(ctx context.Context, tenant string, n int64) (Grant, error) {
	tenant = tasks.TenantOf(tenant)
	limit := q.limits(tenant).ResendsPerMinute
	if limit <= 0 {
		return Grant{Taken: n}, nil
	}
	for {
		got, err := q.ask(ctx, question{key: resends.key(tenant), perMinute: limit, n: n})
		switch {
		case err != nil:
			return Grant{}, err
		case got.wait == 0:
			return Grant{of: resends, at: got.at, Taken: n}, nil
		case n <= 1:
			return Grant{}, &tasks.QuotaError{Quota: ResendsPerMinute, Limit: limit, Remaining: got.left, Window: time.Minute, RetryAfter: got.wait}
		}
		n = max(min(got.left, n-1), 1)
	}
}

// question is what one call takes of an account or gives back, and answer what
// becomes of it.
type question struct {
	key       string // its end
	perMinute int64
	n         int64 // below 0: given back; 0: looked at
	at        int64 // of what is given back
}

type answer struct {
	at   int64 // of what was taken
	left int64
	full time.Duration // until all are there again
	wait time.Duration // until it would pass; 0: it is admitted
	err  error
}

func (q *Quota) ask(ctx context.Context, one question) (answer, error) {
	got, err := q.group.Do(ctx, one)
	if err == nil {
		err = got.err
	}
	return got, err
}

// Questions that come at once are asked together: a script takes so many, and
// so many are under way at a time.
const (
	admitTogether = 64
	admitFlights  = 2
	admitTimeout  = 10 * time.Second
)

// askAll asks once for each account.
func (q *Quota) askAll(ctx context.Context, asked []question) ([]answer, error) {
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	by := <-q.askers
	defer func() { q.askers <- by }()
	of := map[string][]int{}
	for i, a := range asked {
		of[a.key] = append(of[a.key], i)
	}
	out := make([]answer, len(asked))
	for key, some := range of {
		take, back := []int64{}, map[int64]int64{}
		for _, i := range some {
			if n := asked[i].n; n > 0 {
				take = append(take, n)
			} else if n < 0 {
				back[asked[i].at] -= n
			}
		}
		got, err := q.run(ctx, by, key, asked[some[0]].perMinute, take, back)
		next := 3
		for _, i := range some {
			if out[i].err = err; err != nil || asked[i].n < 0 {
				continue
			}
			if asked[i].n == 0 {
				out[i] = answer{left: got[1], full: milliseconds(got[2])}
				continue
			}
			out[i] = answer{at: got[0], left: got[1], full: milliseconds(got[2]), wait: milliseconds(got[next])}
			next++
		}
	}
	return out, nil
}

// run asks the script, whose answer it returns.
func (q *Quota) run(ctx context.Context, by *asker, key string, perMinute int64, take []int64, back map[int64]int64) ([]int64, error) {
	by.n++
	list := make([][2]int64, 0, len(back))
	for at, n := range back {
		list = append(list, [2]int64{at, n})
	}
	arg, err := json.Marshal(map[string]any{"by": by.name, "n": by.n, "per_minute": perMinute, "take": take, "back": list})
	if err != nil {
		return nil, fmt.Errorf("ask a quota: %w", err)
	}
	now := ""
	if q.now != nil {
		now = strconv.FormatInt(q.now().UnixMilli(), 10)
	}
	key = q.prefix + "{" + key + "}"
	got, err := q.admit.Run(ctx, q.rdb, []string{key, key + ":log"}, now, arg).Int64Slice()
	if err != nil {
		return nil, fmt.Errorf("ask a quota: %w", tasks.NotNow(err))
	}
	if len(got) != 3+len(take) {
		return nil, fmt.Errorf("ask a quota: %d values in the answer", len(got))
	}
	return got, nil
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
