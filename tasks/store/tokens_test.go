package store_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

func dayTokens(t *testing.T, s *store.Store) tasks.DayTokens {
	t.Helper()
	d, err := s.Tokens(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// noMidnight skips a test that midnight would disturb.
func noMidnight(t *testing.T, s *store.Store) {
	t.Helper()
	if dayTokens(t, s).ResetsIn < time.Minute {
		t.Skip("midnight UTC is less than a minute away")
	}
}

// limited is a job that sets tokens aside.
func limited(maxTokens int) tasks.Job {
	j := job("acme")
	j.Request.MaxTokens = maxTokens
	j.Reserved = j.Request.Tokens()
	j.AtMost = 3 * tasks.Money(j.Reserved)
	return j
}

// ledger is what a tenant's account has to say, by another book.
type ledger struct {
	t      *testing.T
	s      *store.Store
	rdb    *redis.Client
	dice   *rand.Rand
	limits tasks.Limits

	jobs    map[string]*entry
	order   []string
	batches []string
	coming  map[string][]tasks.Job // batches that are being sent
	owners  map[string]string      // by batch, its user
	sums    map[string]*sums       // of the tenant, under "", and of its users
	did     string
}

// sums are what a ledger adds up.
type sums struct {
	used   int64       // by what has ended, deleted jobs too
	spent  tasks.Spent // by calls
	queued int64       // as the store counts them
}

// count changes what the tenant has, and the user whose alone the work is.
func (l *ledger) count(user string, change func(*sums)) {
	change(l.sums[""])
	if user != "" {
		change(l.sums[user])
	}
}

func (l *ledger) waits(user string, n int64) { l.count(user, func(s *sums) { s.queued += n }) }
func (l *ledger) uses(user string, n int64)  { l.count(user, func(s *sums) { s.used += n }) }
func (l *ledger) calls(user string, spent tasks.Spent) {
	l.count(user, func(s *sums) { s.spent = s.spent.Plus(spent) })
}

// someone is whose the next work is: a user's, or none's.
func (l *ledger) someone() string { return []string{"", "ada", "bob"}[l.dice.IntN(3)] }

// own are the limits that bind the work of a user.
func (l *ledger) own(user string) tasks.Limits {
	limits := l.limits
	if user == "" {
		limits.User = tasks.UserLimits{}
	}
	return limits
}

type entry struct {
	ticket   tasks.Ticket
	pool     string
	fallback bool // a model is left that it may go to
	estimate int64
	atMost   tasks.Money
	reserved int64
	bytes    int64
	status   tasks.Status
	batch    string
	user     string
}

// reserved is what is set aside for a user; "": for all.
func (l *ledger) reserved(user string) (sum int64) {
	for _, e := range l.jobs {
		if user == "" || user == e.user {
			sum += e.reserved
		}
	}
	return sum
}

// pledged is the money that is set aside for a user; "": for all.
func (l *ledger) pledged(user string) (sum tasks.Money) {
	for _, e := range l.jobs {
		if e.reserved > 0 && (user == "" || user == e.user) {
			sum += e.atMost
		}
	}
	return sum
}

// unseen notes a call whose end nobody saw.
func (l *ledger) unseen(e *entry) {
	l.calls(e.user, tasks.Spent{Requests: 1, Cost: tasks.Cost{Maybe: e.atMost}})
}

// bytes are those of the bodies of what has not ended, and of batches on their way in.
func (l *ledger) bytes() (sum int64) {
	for _, e := range l.jobs {
		if !e.status.Final() {
			sum += e.bytes
		}
	}
	for _, lines := range l.coming {
		for _, j := range lines {
			sum += j.Bytes
		}
	}
	return sum
}

func (l *ledger) hand(list []tasks.Ticket) {
	for _, k := range list {
		l.jobs[k.ID].ticket = k
	}
}

// pick returns a job in one of the statuses, "" when there is none.
func (l *ledger) pick(statuses ...tasks.Status) string {
	var some []string
	for _, id := range l.order {
		for _, s := range statuses {
			if e := l.jobs[id]; e != nil && e.status == s {
				some = append(some, id)
			}
		}
	}
	if len(some) == 0 {
		return ""
	}
	return some[l.dice.IntN(len(some))]
}

// past is the first limit, of the tenant or of a user, that so much work of it goes past.
func (l *ledger) past(user string, jobs, tokens, bytes int64, money tasks.Money) string {
	all, own, u := l.sums[""], l.sums[user], l.own(user).User
	spends := func(s *sums, of string, daily int64, budget tasks.Money) string {
		gone := s.spent.Amount + s.spent.Maybe + l.pledged(of)
		switch {
		case daily > 0 && s.used+l.reserved(of)+tokens > daily:
			return "tokens_per_day"
		case budget > 0 && (gone+money > budget || tokens > 0 && gone >= budget):
			return "cost_per_day"
		}
		return ""
	}
	switch {
	case all.queued+jobs > l.limits.QueuedJobs:
		return "queued_jobs"
	case l.bytes()+bytes > l.limits.QueuedBytes:
		return "queued_bytes"
	case u.QueuedJobs > 0 && own.queued+jobs > u.QueuedJobs:
		return "users.queued_jobs"
	}
	if word := spends(all, "", l.limits.TokensPerDay, l.limits.CostPerDay); word != "" {
		return word
	}
	if word := spends(own, user, u.TokensPerDay, u.CostPerDay); word != "" {
		return "users." + word
	}
	return ""
}

// asked checks that work of so many jobs, tokens and bytes was taken in, or refused, as
// the limits say.
func (l *ledger) asked(user string, err error, jobs, tokens, bytes int64, money tasks.Money) (taken bool) {
	l.t.Helper()
	want := l.past(user, jobs, tokens, bytes, money)
	got := ""
	var refused *tasks.QuotaError
	if errors.As(err, &refused) {
		got = refused.Quota
	} else if err != nil {
		l.t.Fatalf("%s: %v", l.did, err)
	}
	if got != want {
		l.t.Fatalf("%s, of %q: refused by %q, want %q: %+v, its own %+v, %d bytes, %d set aside; %d tokens and %d bytes asked",
			l.did, user, got, want, l.sums[""], l.sums[user], l.bytes(), l.reserved(""), tokens, bytes)
	}
	return err == nil
}

// final notes that a job has ended, having used so many tokens.
func (l *ledger) final(id string, s tasks.Status, used int64) {
	e := l.jobs[id]
	if e.status != tasks.StatusRunning {
		l.waits(e.user, -1)
	}
	e.status, e.reserved = s, 0
	l.uses(e.user, used)
}

func (l *ledger) submit() {
	j := limited(10 + l.dice.IntN(90))
	j.Bytes, j.User = 1+l.dice.Int64N(60), l.someone()
	if l.dice.IntN(2) == 0 {
		j.Fallback = []string{"other"}
	}
	l.did = fmt.Sprintf("submit %s of %d", j.ID, j.Reserved)
	made, tickets, err := l.s.Create(l.t.Context(), tasks.Submission{Job: j, Limits: l.own(j.User)})
	if err != nil {
		l.t.Fatal(err)
	}
	if l.asked(j.User, made[0].Err, 1, j.Reserved, j.Bytes, j.AtMost) {
		l.add(j, "")
		l.hand(tickets)
	}
}

func (l *ledger) add(j tasks.Job, batch string) {
	l.jobs[j.ID] = &entry{
		estimate: j.Request.Tokens(), atMost: j.AtMost, reserved: j.Reserved, bytes: j.Bytes, status: tasks.StatusQueued, batch: batch, user: j.User, pool: pool, fallback: len(j.Fallback) > 0,
	}
	l.order = append(l.order, j.ID)
	l.waits(j.User, 1)
}

// open begins a batch, and comes sends lines of one; its end is accept or abort.
func (l *ledger) open() {
	b, _, err := l.s.OpenBatch(l.t.Context(), store.NewID("batch"), tasks.Owner("acme", l.someone()), "")
	if err != nil {
		l.t.Fatal(err)
	}
	l.owners[b.ID] = b.User
	l.coming[b.ID] = nil
	l.comes()
}

// sent is a batch that is being sent, "" when there is none.
func (l *ledger) sent() string {
	some := slices.Sorted(maps.Keys(l.coming))
	if len(some) == 0 {
		return ""
	}
	return some[l.dice.IntN(len(some))]
}

func (l *ledger) comes() {
	id := l.sent()
	if id == "" {
		return
	}
	var lines []tasks.Job
	bytes := int64(0)
	for range 1 + l.dice.IntN(3) {
		j := limited(10 + l.dice.IntN(40))
		j.Batch, j.Line, j.Bytes, j.User = id, len(l.coming[id])+len(lines)+1, l.dice.Int64N(60), l.owners[id]
		lines = append(lines, j)
		bytes += j.Bytes
	}
	l.did = fmt.Sprintf("%d bytes of %s come", bytes, id)
	if l.asked("", l.s.StageBatch(l.t.Context(), id, lines, l.limits), math.MinInt32, math.MinInt32, bytes, math.MinInt64/2) {
		l.coming[id] = append(l.coming[id], lines...)
	} else {
		l.abort(id)
	}
}

func (l *ledger) abort(id string) {
	if err := l.s.AbortBatch(l.t.Context(), id); err != nil {
		l.t.Fatal(err)
	}
	delete(l.coming, id)
}

// broken is a batch whose sender goes away.
func (l *ledger) broken() {
	if id := l.sent(); id != "" {
		l.did = "abort " + id
		l.abort(id)
	}
}

func (l *ledger) accept() {
	id := l.sent()
	if id == "" {
		return
	}
	lines, sum, money := l.coming[id], int64(0), tasks.Money(0)
	for _, j := range lines {
		sum, money = sum+j.Reserved, money+j.AtMost
	}
	l.did = fmt.Sprintf("batch %s of %d", id, sum)
	_, err := l.s.CommitBatch(l.t.Context(), id, tasks.BatchCommit{Limits: l.own(l.owners[id])})
	if !l.asked(l.owners[id], err, int64(len(lines)), sum, 0, money) {
		l.abort(id)
		return
	}
	delete(l.coming, id)
	for _, j := range lines {
		l.add(j, id)
	}
	l.batches = append(l.batches, id)
	for left := int64(1); left > 0; {
		var tickets []tasks.Ticket
		if left, tickets, err = l.s.Unfold(l.t.Context(), id); err != nil {
			l.t.Fatal(err)
		}
		l.hand(tickets)
	}
}

func (l *ledger) start() {
	id := l.pick(tasks.StatusQueued, tasks.StatusRetrying)
	if id == "" {
		return
	}
	l.did = "start " + id
	e := l.jobs[id]
	e.ticket.Asks = tasks.Asked{Account: "fake", Model: "m", AtMost: e.atMost, Priced: true}
	take(l.t, l.s, e.ticket)
	start(l.t, l.s, e.ticket)
	e.status = tasks.StatusRunning
	l.waits(e.user, -1)
}

// end ends an attempt in one of the ways that a call can end in.
func (l *ledger) end() {
	id := l.pick(tasks.StatusRunning)
	if id == "" {
		return
	}
	e := l.jobs[id]
	usage := &tasks.Usage{InputTokens: int64(l.dice.IntN(20)), OutputTokens: int64(l.dice.IntN(120)), CacheReadInputTokens: 2, CacheCreationInputTokens: 3}
	spent := usage.InputTokens + usage.OutputTokens + 5
	failed := &tasks.JobError{Code: tasks.UpstreamRejected}
	ways := []struct {
		name   string
		ending tasks.Ending
		used   int64
	}{
		{"succeed", tasks.Ending{Status: tasks.StatusSucceeded, Usage: usage, Result: []byte(`{}`), Attempt: tasks.Attempt{Outcome: tasks.Succeeded}}, spent},
		{"succeed uncounted", tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`{}`), Attempt: tasks.Attempt{Outcome: tasks.Succeeded}}, e.estimate},
		{"be answered from memory", tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`{}`), Attempt: tasks.Attempt{Outcome: tasks.Cached}}, 0},
		{"be refused", tasks.Ending{Status: tasks.StatusFailed, Error: failed, Attempt: tasks.Attempt{Outcome: tasks.Rejected}}, 0},
		{"fail, counted", tasks.Ending{Status: tasks.StatusFailed, Usage: usage, Error: failed, Attempt: tasks.Attempt{Outcome: tasks.TooLarge, MaybeBilled: true}}, spent},
		{"fail unseen", tasks.Ending{Status: tasks.StatusFailed, Error: failed, Attempt: tasks.Attempt{Outcome: tasks.CutOff, MaybeBilled: true}}, e.estimate},
		{"be tried again", tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Attempt: tasks.Attempt{Outcome: tasks.Overloaded}}, 0},
		{"be tried again, counted", tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Usage: usage, Attempt: tasks.Attempt{Outcome: tasks.Overloaded}}, spent},
		{"be handed back", tasks.Ending{Status: tasks.StatusRetrying, Attempt: tasks.Attempt{Outcome: tasks.HandedBack, MaybeBilled: true}}, 0},
	}
	way := ways[l.dice.IntN(len(ways))]
	l.did = fmt.Sprintf("%s: %s, used %d", way.name, id, way.used)
	old, took := e.ticket, &way.ending.Attempt
	took.Account, took.Cost = "fake", &tasks.Cost{Amount: tasks.Money(l.dice.IntN(200)), Maybe: tasks.Money(l.dice.IntN(50))}
	if took.Usage = way.ending.Usage; took.Outcome == tasks.Cached {
		took.Cost = &tasks.Cost{}
	} else {
		spent := tasks.Spent{Requests: 1, Cost: *took.Cost}
		if took.Usage != nil {
			spent.Usage = *usage
		}
		l.calls(e.user, spent)
	}
	tickets, err := l.s.End(l.t.Context(), old, way.ending)
	if err != nil {
		l.t.Fatalf("%s: %v", l.did, err)
	}
	if way.ending.Status.Final() {
		l.final(id, way.ending.Status, way.used)
	} else {
		e.status = tasks.StatusRetrying
		l.waits(e.user, 1)
		l.uses(e.user, way.used)
	}
	l.hand(tickets)
	if _, err := l.s.End(l.t.Context(), old, way.ending); err == nil {
		l.t.Fatalf("%s: ended twice", l.did)
	}
}

func (l *ledger) cancel() {
	id := l.pick(tasks.StatusQueued, tasks.StatusRetrying, tasks.StatusRunning)
	if id == "" {
		return
	}
	l.did = fmt.Sprintf("cancel %s, %s", id, l.jobs[id].status)
	if _, err := l.s.Cancel(l.t.Context(), "acme", id); err != nil {
		l.t.Fatal(err)
	}
	l.canceled(id)
}

func (l *ledger) canceled(id string) {
	used := int64(0)
	if e := l.jobs[id]; e.status == tasks.StatusRunning { // its call may be charged
		used = e.estimate
		l.unseen(e)
	}
	l.final(id, tasks.StatusCanceled, used)
}

const fallbackPool = "q"

// divert sends a job that waits to its fallback's pool.
func (l *ledger) divert() {
	id := l.pick(tasks.StatusQueued, tasks.StatusRetrying)
	if id == "" {
		return
	}
	e := l.jobs[id]
	l.did = fmt.Sprintf("divert %s of %s", id, e.pool)
	moved, tickets, err := l.s.Divert(l.t.Context(), e.pool, map[string]tasks.Detour{id: {Pool: fallbackPool, Passed: 1}})
	if err != nil || (len(moved) == 1) != e.fallback {
		l.t.Fatalf("%s: moved %v, %v; it has a fallback: %t", l.did, moved, err, e.fallback)
	}
	if e.fallback {
		e.pool, e.fallback = fallbackPool, false
	}
	l.hand(tickets)
}

// agrees compares what the store counts for a user, or "" for all, with what its jobs are.
func (l *ledger) agrees(user string, sum *sums) {
	l.t.Helper()
	owner := tasks.Owner("acme", user)
	tokens, err := l.s.Tokens(l.t.Context(), owner)
	if err != nil {
		l.t.Fatal(err)
	}
	now, err := l.s.Standing(l.t.Context(), owner)
	if err != nil {
		l.t.Fatal(err)
	}
	used, reserved, queued, paid, pledged := tokens.Used, tokens.Reserved, now.QueuedJobs, now.Paid, now.Pledged
	if user != "" {
		used, reserved, queued, paid, pledged = tokens.UserUsed, tokens.UserReserved, now.UserQueuedJobs, now.UserPaid, now.UserPledged
	}
	if now.Day.Used != tokens.Used || now.Day.UserUsed != tokens.UserUsed || now.Day.UserReserved != tokens.UserReserved {
		l.t.Fatalf("%s: %q has %+v, and %+v", l.did, user, now.Day, tokens)
	}
	if used != sum.used || reserved != l.reserved(user) || queued != sum.queued {
		l.t.Fatalf("%s: %q has %d used, %d set aside and %d jobs that wait, want %d, %d and %d", l.did, user, used, reserved, queued, sum.used, l.reserved(user), sum.queued)
	}
	if paid != sum.spent.Amount+sum.spent.Maybe || pledged != l.pledged(user) {
		l.t.Fatalf("%s: %q has %s paid and %s pledged; want %s, %s and %s", l.did, user, paid, pledged, sum.spent.Amount, sum.spent.Maybe, l.pledged(user))
	}
	lines, err := l.s.Ledger(l.t.Context(), tasks.LedgerFilter{Tenant: owner, Since: now.At, Until: now.At.Add(time.Second)})
	if err != nil || len(lines) > 1 || len(lines) == 1 && lines[0].Spent != sum.spent {
		l.t.Fatalf("%s: the ledger of %q has %+v, %v; want %+v", l.did, user, lines, err, sum.spent)
	}
}

// agree compares what the store counts with what its jobs are.
func (l *ledger) agree() {
	l.t.Helper()
	for user, sum := range l.sums {
		l.agrees(user, sum)
	}
	if n, _ := l.rdb.HGet(l.t.Context(), "sluice:{s}:tb", "acme").Int64(); n != l.bytes() {
		l.t.Fatalf("%s: %d bytes are counted, want %d", l.did, n, l.bytes())
	}
	jobs := map[string]tasks.Job{}
	for f := (tasks.Filter{Tenant: "acme", Limit: 100}); ; {
		page, err := l.s.Jobs(l.t.Context(), f)
		if err != nil {
			l.t.Fatalf("%s: %v", l.did, err)
		}
		for _, j := range page.Jobs {
			jobs[j.ID] = j
		}
		if f.After = page.Next; !page.HasMore {
			break
		}
	}
	want := map[string]*tasks.Load{pool: {}, fallbackPool: {}}
	for id, e := range l.jobs {
		j := jobs[id]
		if j.Reserved != e.reserved || j.Status != e.status || j.Pool != e.pool {
			l.t.Fatalf("%s: job %s is %s in %s with %d set aside, want %s in %s with %d", l.did, id, j.Status, j.Pool, j.Reserved, e.status, e.pool, e.reserved)
		}
		switch {
		case e.status == tasks.StatusRunning:
			want[e.pool].Running++
		case !e.status.Final():
			want[e.pool].Queued++
		}
	}
	for name, w := range want {
		if got, err := l.s.Load(l.t.Context(), name); err != nil || got.Queued != w.Queued || got.Running != w.Running {
			l.t.Fatalf("%s: %s counts %d queued and %d running, %v; want %d and %d", l.did, name, got.Queued, got.Running, err, w.Queued, w.Running)
		}
	}
}

func (l *ledger) cancelBatch() {
	if len(l.batches) == 0 {
		return
	}
	b := l.batches[l.dice.IntN(len(l.batches))]
	l.did = "cancel " + b
	if _, err := l.s.CancelBatch(l.t.Context(), "acme", b); err != nil && !errors.Is(err, tasks.ErrFinal) {
		l.t.Fatal(err)
	}
	for id, e := range l.jobs {
		if e.batch == b && !e.status.Final() {
			l.canceled(id)
		}
	}
}

func (l *ledger) retry() {
	id := l.pick(tasks.StatusFailed, tasks.StatusCanceled, tasks.StatusExpired)
	if id == "" {
		return
	}
	e := l.jobs[id]
	l.did = fmt.Sprintf("retry %s of %d", id, e.estimate)
	_, tickets, err := l.s.Requeue(l.t.Context(), tasks.Owner("acme", e.user), id, l.own(e.user))
	if l.asked(e.user, err, 1, e.estimate, e.bytes, e.atMost) {
		if e.pool == fallbackPool { // it begins again with its own model
			e.pool, e.fallback = pool, true
		}
		e.status, e.reserved = tasks.StatusQueued, e.estimate
		l.waits(e.user, 1)
		l.hand(tickets)
	}
	if _, _, err := l.s.Requeue(l.t.Context(), tasks.Owner("acme", e.user), id, l.own(e.user)); err == nil {
		l.t.Fatalf("%s: queued twice", l.did)
	}
}

// expire lets a deadline pass, of one that waits or of one whose worker is dead.
func (l *ledger) expire() {
	id := l.pick(tasks.StatusQueued, tasks.StatusRetrying, tasks.StatusRunning)
	if id == "" {
		return
	}
	ctx, e := l.t.Context(), l.jobs[id]
	l.did = fmt.Sprintf("expire %s, %s", id, e.status)
	used := int64(0)
	if e.status == tasks.StatusRunning {
		l.rdb.HSet(ctx, "sluice:{s}:j:"+id, "dl", 1)
		l.silent(id)
		used = e.estimate
		l.unseen(e)
	} else {
		l.rdb.ZAdd(ctx, "sluice:{s}:dl", redis.Z{Score: 1, Member: id})
	}
	l.sweep()
	l.final(id, tasks.StatusExpired, used)
}

// silent lets the lease of a running job end. That this machine stood still for seconds, in
// which no sweep came, spares it nothing.
func (l *ledger) silent(id string) {
	l.rdb.Del(l.t.Context(), "sluice:{s}:swept", "sluice:{s}:grace")
	l.rdb.ZAdd(l.t.Context(), "sluice:{s}:run:"+l.jobs[id].pool, redis.Z{Score: 1, Member: id})
}

func (l *ledger) lose() {
	id := l.pick(tasks.StatusRunning)
	if id == "" {
		return
	}
	l.did = "lose the worker of " + id
	l.silent(id)
	// A machine that stood still for seconds since the last sweep excuses nobody here.
	l.rdb.Del(l.t.Context(), "sluice:{s}:swept", "sluice:{s}:grace")
	l.sweep()
	l.unseen(l.jobs[id])
	l.jobs[id].status = tasks.StatusRetrying
	l.waits(l.jobs[id].user, 1)
}

func (l *ledger) sweep() {
	swept, err := l.s.Sweep(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	l.hand(swept.Hand)
}

func (l *ledger) remove() {
	id := l.pick(tasks.StatusSucceeded, tasks.StatusFailed, tasks.StatusCanceled, tasks.StatusExpired)
	if id == "" {
		return
	}
	l.did = "delete " + id
	if err := l.s.Delete(l.t.Context(), "acme", id); err != nil {
		l.t.Fatal(err)
	}
	delete(l.jobs, id)
}

// losing loses the answer to every third script that a caller's operation sends,
// having sent it: the operation is then asked again.
type losing struct {
	twice
	n *atomic.Int64
}

func (l losing) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.NoRetry() && err == nil && l.n.Add(1)%3 == 0 {
			err = io.EOF
			cmd.SetErr(err)
		}
		return err
	}
}

var seeds = flag.Uint64("seeds", 3, "move jobs about with this many seeds")

// An account, of the tenant or of one of its users, says what was used, what is set aside for what has not ended, and what
// waits and runs, whatever happens to the jobs and in whatever order, also where
// answers are lost; and no door takes more work in than the limits allow.
func TestAnAccountIsWhatItsJobsUsedAndWait(t *testing.T) {
	t.Parallel()
	for seed := range *seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{})
			rdb, lossy := server.Client(), server.Client()
			if seed%3 == 1 {
				lossy.AddHook(losing{n: new(atomic.Int64)})
			}
			s := store.New(store.Config{Redis: lossy, ResultTTL: time.Hour, Depth: map[string]int{pool: 1000, fallbackPool: 1000},
				Rates: map[string]tasks.Rates{pool: {Requests: 1e6}, fallbackPool: {Requests: 1e6}}}) // so fast that all is handed out at once
			noMidnight(t, s)
			l := &ledger{
				t: t, s: s, rdb: rdb, dice: rand.New(rand.NewPCG(seed, 1)), jobs: map[string]*entry{}, coming: map[string][]tasks.Job{},
				owners: map[string]string{}, sums: map[string]*sums{"": {}, "ada": {}, "bob": {}},
				limits: tasks.Limits{QueuedJobs: 7, QueuedBytes: 150 + 25*int64(seed), TokensPerDay: 1500 + 500*int64(seed), CostPerDay: 2500 + 1500*tasks.Money(seed),
					User: tasks.UserLimits{QueuedJobs: 3, TokensPerDay: 700 + 200*int64(seed), CostPerDay: 1200 + 500*tasks.Money(seed)}},
			}
			l.sweep()
			moves := []func(){l.submit, l.submit, l.open, l.comes, l.accept, l.broken, l.start, l.start, l.end, l.end, l.cancel, l.cancelBatch, l.retry, l.retry, l.expire, l.lose, l.remove, l.divert, l.divert}
			for range 400 {
				moves[l.dice.IntN(len(moves))]()
				l.agree()
			}
		})
	}
}

// What pools and tenants have is changed by the functions of one chapter alone.
func TestAccountsHaveOneDoor(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("lua/*.lua")
	if err != nil || len(scripts) < 30 {
		t.Fatal(scripts, err)
	}
	account := regexp.MustCompile(`keys\.(load|waiting|userWaiting|bytes|day|userDay|room|ledger|userLedger|ledgers)\(`)
	for _, file := range append(scripts, "move.go", "batch.go", "divert.go") {
		if file == "lua/account.lua" || file == "lua/keys.lua" || file == "lua/fits.lua" || file == "lua/room.lua" { // which only looks
			continue
		}
		for n, line := range readLines(t, file) {
			if account.MatchString(line) {
				t.Errorf("%s:%d reaches past lua/account.lua: %s", file, n+1, line)
			}
		}
	}
}

// The client library sends a script again when its answer was lost.
func TestTokensAreCountedOnceHoweverOftenRedisIsTold(t *testing.T) {
	t.Parallel()
	s, _ := openTwice(t)
	noMidnight(t, s)
	ctx := t.Context()
	limits := tasks.Limits{TokensPerDay: 1000}
	want := func(what string, used, reserved int64) {
		t.Helper()
		if d := dayTokens(t, s); d.Used != used || d.Reserved != reserved {
			t.Errorf("%s: %d used and %d set aside, want %d and %d", what, d.Used, d.Reserved, used, reserved)
		}
	}
	made, tickets, err := s.Create(ctx, tasks.Submission{Job: limited(96), Limits: limits})
	if err != nil || made[0].Err != nil || len(tickets) != 1 {
		t.Fatalf("create: %v, %+v", err, made)
	}
	want("submitted", 0, 100)
	take(t, s, tickets[0])
	start(t, s, tickets[0])
	if _, err := s.End(ctx, tickets[0], won); !errors.Is(err, tasks.ErrFinal) {
		t.Fatalf("end: %v; the second answer says that it has ended", err)
	}
	want("ended", 8, 0)
	b, _, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "")
	if err != nil {
		t.Fatal(err)
	}
	lines := []tasks.Job{limited(46), limited(146)}
	for i := range lines {
		lines[i].Batch, lines[i].Line = b.ID, i+1
	}
	if err := s.StageBatch(ctx, b.ID, lines, tasks.Limits{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitBatch(ctx, b.ID, tasks.BatchCommit{Limits: limits}); err != nil {
		t.Fatal(err)
	}
	want("a batch", 8, 200)
	if _, err := s.Cancel(ctx, "acme", lines[1].ID); err != nil {
		t.Fatalf("cancel: %v", err)
	}
	want("a line of it canceled", 8, 50)
	if _, _, err := s.Requeue(ctx, "acme", lines[1].ID, limits); err != nil {
		t.Fatalf("retry: %v", err)
	}
	want("retried", 8, 200)
}

func TestWhatWasSetAsideYesterdayDoesNotComeBackToday(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 10)
	noMidnight(t, s)
	ctx := t.Context()
	limits := tasks.Limits{TokensPerDay: 1000}
	for _, row := range []struct{ used, today int64 }{{60, 0}, {130, 30}} {
		made, tickets, err := s.Create(ctx, tasks.Submission{Job: limited(96), Limits: limits})
		if err != nil || made[0].Err != nil {
			t.Fatalf("create: %v, %+v", err, made)
		}
		before := dayTokens(t, s)
		day := time.Now().UnixMilli() / (24 * time.Hour).Milliseconds()
		if err := rdb.HSet(ctx, "sluice:{s}:j:"+made[0].Job.ID, "q", fmt.Sprint("100 ", day-1)).Err(); err != nil {
			t.Fatal(err)
		}
		take(t, s, tickets[0])
		start(t, s, tickets[0])
		how := won
		how.Usage = &tasks.Usage{OutputTokens: row.used}
		if _, err := s.End(ctx, tickets[0], how); err != nil {
			t.Fatal(err)
		}
		if d := dayTokens(t, s); d.Used-before.Used != row.today || d.Reserved != before.Reserved {
			t.Errorf("%d used of 100 of yesterday: today has %d more used and %d set aside; want %d and %d",
				row.used, d.Used-before.Used, d.Reserved, row.today, before.Reserved)
		}
	}
	// The account ends with its day.
	if ttl := rdb.PTTL(ctx, "sluice:{s}:day:acme").Val(); ttl <= 0 || ttl > 24*time.Hour {
		t.Errorf("the account lives %v, want until midnight", ttl)
	}
	// One of another day says nothing of this one.
	if err := rdb.HSet(ctx, "sluice:{s}:day:acme", "d", 1, "u", 5000).Err(); err != nil {
		t.Fatal(err)
	}
	if d := dayTokens(t, s); d.Used != 0 || d.Reserved != 0 {
		t.Errorf("yesterday's account counts today: %+v", d)
	}
}

func TestTheFirstTokensPastTheDaysAreRefused(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 10)
	noMidnight(t, s)
	for i, row := range []struct {
		tokens int
		left   int64 // -1: taken
	}{{600, -1}, {401, 400}, {400, -1}, {1, 0}} {
		j := limited(row.tokens - 4)
		made, _, err := s.Create(t.Context(), tasks.Submission{Job: j, Limits: tasks.Limits{TokensPerDay: 1000}, Key: fmt.Sprint(i), Fingerprint: "f"})
		if err != nil {
			t.Fatal(err)
		}
		var refused *tasks.QuotaError
		if !errors.As(made[0].Err, &refused) {
			if row.left >= 0 || made[0].Err != nil {
				t.Errorf("%d tokens: %v, want a refusal with %d left", row.tokens, made[0].Err, row.left)
			}
			continue
		}
		if refused.Quota != "tokens_per_day" || refused.Limit != 1000 || refused.Remaining != row.left || refused.Window != 24*time.Hour ||
			refused.RetryAfter <= 0 || refused.RetryAfter > 24*time.Hour {
			t.Errorf("%d tokens: %+v, want a refusal until midnight with %d left", row.tokens, refused, row.left)
		}
		if rdb.Exists(t.Context(), "sluice:{s}:j:"+j.ID, "sluice:{s}:i:acme:"+fmt.Sprint(i)).Val() != 0 {
			t.Errorf("%d tokens: a refused job left something", row.tokens)
		}
	}
	// A tenant without that limit has nothing set aside, and no account.
	free := job("zoe")
	create(t, s, free)
	if rdb.Exists(t.Context(), "sluice:{s}:day:zoe").Val() != 0 || rdb.HExists(t.Context(), "sluice:{s}:j:"+free.ID, "q").Val() {
		t.Error("a tenant without a limit of tokens pays for an account")
	}
}
