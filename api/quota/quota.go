// Package quota decides whether a tenant, and a user of it, may submit now, or have webhooks sent that
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
	"cmp"
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

	Users tasks.UserLimits // of each user, where users are kept apart; but for submits held by the store
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

	of   account
	at   int64 // place of what was taken in that account's log
	user bool  // it was taken of the user's allowance too
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

// unlimited is more submits a minute than there can be.
const unlimited = 1_000_000_000_000_000

// askFor is a question about an owner's submits; ok is false where nothing limits them.
func askFor(owner string, l Limits, n int64) (one question, ok bool) {
	tenant, user := tasks.SplitOwner(owner)
	one = question{key: submits.key(tenant), perMinute: cmp.Or(max(0, l.SubmitsPerMinute), unlimited), n: n}
	if user != "" && l.Users.SubmitsPerMinute > 0 {
		one.user, one.userPerMinute = user, l.Users.SubmitsPerMinute
	}
	return one, l.SubmitsPerMinute > 0 || one.user != ""
}

// windows are the limited allowances that a question was about.
func (q question) windows(got answer) (list []Window) {
	if q.perMinute != unlimited {
		list = append(list, Window{Name: SubmitsPerMinute, Limit: q.perMinute, Remaining: got.left, Span: time.Minute, Reset: got.full})
	}
	if q.user != "" {
		list = append(list, Window{Name: tasks.OfUsers + SubmitsPerMinute, Limit: q.userPerMinute, Remaining: got.own.left, Span: time.Minute, Reset: got.own.full})
	}
	return list
}

// Admit takes submits from an owner's allowance, all of them or none: from its tenant's, and where the owner is a
// user, from what each user may have too. It returns a *tasks.QuotaError when it does not suffice, and an error that wraps
// tasks.ErrUnavailable or ErrFull when Redis does not answer.
func (q *Quota) Admit(ctx context.Context, owner string, n int64) (Grant, error) {
	tenant, user := tasks.SplitOwner(owner)
	limits := q.limits(tenant)
	grant := Grant{Limits: tasks.Limits{QueuedJobs: limits.QueuedJobs, QueuedBytes: limits.QueuedBytes, TokensPerDay: limits.TokensPerDay, CostPerDay: limits.CostPerDay}}
	if user != "" {
		grant.Limits.User = limits.Users
	}
	one, limited := askFor(owner, limits, n)
	if !limited {
		return grant, nil
	}
	got, err := q.ask(ctx, one)
	if err != nil {
		return Grant{}, err
	}
	grant.Windows = one.windows(got)
	if wait := max(got.wait, got.own.wait); wait > 0 {
		full := grant.Windows[0]
		if got.own.wait == wait {
			full = grant.Windows[len(grant.Windows)-1]
		}
		return grant, &tasks.QuotaError{Quota: full.Name, Limit: full.Limit, Remaining: full.Remaining, Window: time.Minute, RetryAfter: wait}
	}
	grant.at, grant.Taken, grant.user = got.at, n, one.user != ""
	return grant, nil
}

// Standing is an owner's limits, and how the submits of the last minute stand. It takes
// nothing; its errors are those of Admit.
func (q *Quota) Standing(ctx context.Context, owner string) (Limits, []Window, error) {
	limits := q.limits(tasks.TenantOf(owner))
	one, limited := askFor(owner, limits, 0)
	if !limited {
		return limits, nil, nil
	}
	got, err := q.ask(ctx, one)
	if err != nil {
		return limits, nil, err
	}
	return limits, one.windows(got), nil
}

// Refund gives back what a grant took: it was not accepted after all, or repeated
// what was.
func (q *Quota) Refund(ctx context.Context, owner string, g Grant) error {
	tenant, user := tasks.SplitOwner(owner)
	if g.Taken == 0 {
		return nil
	}
	limits := q.limits(tenant) // that it has none any more gives back too
	one := question{key: g.of.key(tenant), perMinute: cmp.Or(max(0, g.of.limit(limits)), unlimited), n: -g.Taken, at: g.at}
	if g.user {
		one.user, one.userPerMinute = user, cmp.Or(max(0, limits.Users.SubmitsPerMinute), unlimited)
	}
	_, err := q.ask(ctx, one)
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

	user          string // that is asked of besides; "": none
	userPerMinute int64
}

type answer struct {
	standing
	at  int64    // of what was taken
	own standing // of the user
	err error
}

// standing is how an allowance stands.
type standing struct {
	left int64
	full time.Duration // until all are there again
	wait time.Duration // until it would pass; 0: by this allowance it is admitted
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
		r := newRound(asked, some)
		got, err := q.run(ctx, by, key, asked[some[0]].perMinute, r)
		for i, one := range r.read(asked, some, got) {
			out[i] = one
			out[i].err = err
		}
	}
	return out, nil
}

// round is what a script is asked about one tenant.
type round struct {
	take  []int64
	back  map[int64]int64
	names []string       // of the users
	at    map[string]int // their places there
	users []*userRound
}

// userRound is the part of it that is asked of a user too.
type userRound struct {
	PerMinute int64      `json:"per_minute"`
	Take      []int      `json:"take"` // places in the round's, from 1
	Back      [][2]int64 `json:"back"`
	back      map[int64]int64
}

func newRound(asked []question, some []int) *round {
	r := &round{take: []int64{}, back: map[int64]int64{}, at: map[string]int{}}
	for _, i := range some {
		one := &asked[i]
		if one.n > 0 {
			r.take = append(r.take, one.n)
		} else if one.n < 0 {
			r.back[one.at] -= one.n
		}
		if one.user == "" {
			continue
		}
		at, known := r.at[one.user]
		if !known {
			at = len(r.users)
			r.at[one.user], r.names = at, append(r.names, one.user)
			r.users = append(r.users, &userRound{Take: []int{}, back: map[int64]int64{}})
		}
		u := r.users[at]
		if u.PerMinute == 0 || one.userPerMinute < u.PerMinute {
			u.PerMinute = one.userPerMinute
		}
		if one.n > 0 {
			u.Take = append(u.Take, len(r.take))
		} else if one.n < 0 {
			u.back[one.at] -= one.n
		}
	}
	for _, u := range r.users {
		u.Back = pairs(u.back)
	}
	return r
}

// pairs are the entries of a map.
func pairs(m map[int64]int64) [][2]int64 {
	list := make([][2]int64, 0, len(m))
	for at, n := range m {
		list = append(list, [2]int64{at, n})
	}
	return list
}

// values is how many numbers the answer has.
func (r *round) values() int {
	n := 3 + len(r.take)
	for _, u := range r.users {
		n += 2 + len(u.Take)
	}
	return n
}

// read is what the script has said to each of the questions; got is nil where there is no answer.
func (r *round) read(asked []question, some []int, got []int64) map[int]answer {
	out := make(map[int]answer, len(some))
	if got == nil {
		for _, i := range some {
			out[i] = answer{}
		}
		return out
	}
	own, next := make([][]int64, len(r.users)), 3+len(r.take) // of each user what is not read yet
	for at, u := range r.users {
		own[at], next = got[next:next+2+len(u.Take)], next+2+len(u.Take)
	}
	take := got[3:]
	for _, i := range some {
		one := answer{at: got[0], standing: standing{left: got[1], full: milliseconds(got[2])}}
		at, known := r.at[asked[i].user]
		if known {
			one.own.left, one.own.full = own[at][0], milliseconds(own[at][1])
		}
		if asked[i].n > 0 {
			one.wait, take = milliseconds(take[0]), take[1:]
			if known {
				one.own.wait = milliseconds(own[at][2])
				own[at] = append(own[at][:2:2], own[at][3:]...)
			}
		}
		out[i] = one
	}
	return out
}

// run asks the script, whose answer it returns.
func (q *Quota) run(ctx context.Context, by *asker, key string, perMinute int64, r *round) ([]int64, error) {
	by.n++
	users := r.users
	if users == nil {
		users = []*userRound{}
	}
	arg, err := json.Marshal(map[string]any{"by": by.name, "n": by.n, "per_minute": perMinute, "take": r.take, "back": pairs(r.back), "users": users})
	if err != nil {
		return nil, fmt.Errorf("ask a quota: %w", err)
	}
	now := ""
	if q.now != nil {
		now = strconv.FormatInt(q.now().UnixMilli(), 10)
	}
	key = q.prefix + "{" + key + "}"
	keys := []string{key, key + ":log"}
	for _, user := range r.names {
		own := key + ":user:" + url.QueryEscape(user)
		keys = append(keys, own, own+":log")
	}
	got, err := q.admit.Run(ctx, q.rdb, keys, now, arg).Int64Slice()
	if err != nil {
		return nil, fmt.Errorf("ask a quota: %w", tasks.NotNow(err))
	}
	if len(got) != r.values() {
		return nil, fmt.Errorf("ask a quota: %d values in the answer", len(got))
	}
	return got, nil
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
