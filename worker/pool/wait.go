package pool

import (
	"cmp"
	"context"
	"math"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
)

// view is one pool at one moment.
type view struct {
	at      time.Time // by the clock of the record
	load    tasks.Load
	gate    limit.State
	pause   pause.State
	alone   bool // nobody takes what is handed out
	passing passing
	learned [tasks.Classes]tasks.Correction
	past    tasks.Past
	pastAt  time.Time // when past was read
}

// pastFresh is how old a view's past may be: what was noted of the seconds since is known
// of the pool itself.
const pastFresh = 3 * time.Second

// look returns a pool as it was at most fresh ago.
func (s *Set) look(ctx context.Context, pool string, fresh time.Duration) (view, error) {
	s.mu.Lock()
	v, ok := s.views[pool]
	if age := s.now().Sub(v.at); ok && age >= 0 && (age < fresh || age < 4*fresh && s.looking[pool]) {
		s.mu.Unlock()
		return v, nil // while one looks, the others take what there is
	}
	s.looking[pool] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.looking, pool)
		s.mu.Unlock()
	}()
	m, err := s.named(pool)
	if err != nil {
		return v, err
	}
	before := v
	v = view{at: s.now(), past: v.past, pastAt: v.pastAt}
	if v.load, err = s.record.Load(ctx, pool); err != nil {
		return v, err
	}
	if v.gate, err = m.Gate.State(ctx); err != nil {
		return v, tasks.NotNow(err)
	}
	if v.pause, err = m.Breaker.State(ctx); err != nil {
		return v, tasks.NotNow(err)
	}
	if v.at.Sub(v.pastAt) > pastFresh {
		pasts, err := s.record.Past(ctx, pool)
		if err != nil {
			return v, err
		}
		v.past, v.pastAt = pasts[pool], v.at
	}
	v.alone = v.unattended(v.at)
	v.passing = before.passing.next(&before, &v)
	v.learned = s.learn(ctx, pool, before.learned)
	s.mu.Lock()
	s.views[pool] = v
	s.mu.Unlock()
	return v, nil
}

// workerGone is how long a pool's workers may say nothing until there are none.
const workerGone = 5 * time.Second

// unattended reports whether nobody takes what is handed out: there is no worker. A release
// before this one says that there is at the gate alone.
func (v view) unattended(now time.Time) bool {
	return now.Sub(v.load.WorkedAt) > workerGone && !v.gate.Served && v.load.Calls() == 0
}

// degraded reports whether the pool does not run as it should, or is not attended.
func (v view) degraded() bool {
	return v.alone || v.status("").State != tasks.PoolOpen
}

// passing is what has been served of late, in all and of the tenants with a backlog that could
// be seen: sums that fade in two minutes. The rest is had by tenants whose jobs come and go;
// whoever has a backlog can expect that to go on.
type passing struct{ all, seen float64 }

const passingFor = 120 // s

// next adds what was served between two views of a pool, where they are near each other.
func (p passing) next(from, to *view) passing {
	took := to.at.Sub(from.at).Seconds()
	if took <= 0 || took > 10 || len(from.load.Turns) == 0 || len(to.load.Turns) == 0 || to.gate.CallsPerSecond <= 0 || to.gate.HeldFor > 0 || to.pause.Paused {
		return p
	}
	fade := math.Exp(-took / passingFor)
	p.all, p.seen = p.all*fade+took*to.gate.CallsPerSecond, p.seen*fade
	type flow struct {
		tenant string
		lane   tasks.Priority
	}
	at := map[flow]float64{}
	for _, t := range from.load.Turns {
		at[flow{t.Tenant, t.Lane}] = t.At
	}
	for _, t := range to.load.Turns {
		if was, ok := at[flow{t.Tenant, t.Lane}]; ok {
			p.seen += max(0, t.At-was) * t.Weight / cmp.Or(to.load.Mean, 1)
		}
	}
	return p
}

// share is the part of what is served that passes by so.
func (p passing) share() float64 {
	if p.all < passingFew {
		return 0
	}
	return min(max(1-p.seen/p.all, 0), passingMost)
}

const (
	passingFew  = 20 // calls have to be served before that tells anything
	passingMost = 0.9
)

// forecast is when a job starts, from now.
type forecast struct {
	predicted, told, late time.Duration
	known                 bool // false: nobody can tell; the rest is what it would be if the pool opened now
	degraded              bool
}

// forecast says when a job of that place in its tenant's own backlog starts, or one that is
// handed out with so many before it.
func (v view) forecast(now time.Time, tenant string, p tasks.Place) forecast {
	mean := cmp.Or(v.load.Mean, 1)
	lane := cmp.Or(p.Lane, tasks.Normal)
	turns := v.turns(lane)
	f := facts{
		own: float64(p.Own - 1), weight: cmp.Or(v.load.Weights[tenant], 1), turn: turnIn(turns, v.load.Lanes[lane].Tenants, tenant), mean: mean,
		unseen: max(0, v.load.Lanes[lane].Tenants-int64(len(turns))), lanes: v.beside(lane), handed: p.Own <= 0, stage: float64(v.load.Handed),
		gate: v.gate, pace: v.gate.Pace,
	}
	f.passes = v.passing.share()
	for _, t := range turns {
		if t.Tenant != tenant {
			f.others = append(f.others, t)
		} else {
			mean = cmp.Or(t.Mean, mean)
		}
	}
	f.own *= mean
	if f.handed && p.Ahead >= 0 {
		f.stage = float64(p.Ahead)
	}
	// What has its place at the gate is in the gate's level already.
	f.stage = max(0, f.stage-float64(max(0, int64(v.gate.InFlight)-v.load.Calls())))
	out := forecast{known: !v.alone && (f.handed || !v.load.Reviewed[tenant]), degraded: v.degraded()}
	if f.shut = v.pause.Paused; f.shut {
		out.known = out.known && !v.pause.ExpectedResumeAt.IsZero()
		f.open = max(v.pause.ExpectedResumeAt.Sub(now), time.Second)
		f.late = max(v.pause.ResumeBy.Sub(now), f.open)
		f.pace = resumePace
	}
	out.predicted = f.wait()
	out.told, out.late = corrected(out.predicted, out.predicted+max(0, f.late-f.open), out.degraded, v.learned[tasks.ClassOf(out.predicted, out.degraded)])
	return out
}

// resumePace is the share of the pace at which a pool goes on after a pause; see package pause.
const resumePace = 0.2

// shares are the weights of the tenants with a backlog, added up; who was not looked at weighs 1.
func (v view) shares() float64 {
	seen := map[string]float64{}
	for _, t := range v.load.Turns {
		seen[t.Tenant] = t.Weight
	}
	sum := float64(max(0, v.load.Tenants-int64(len(seen))))
	for _, weight := range seen {
		sum += weight
	}
	return sum
}

// turns are those of a lane.
func (v view) turns(lane tasks.Priority) (of []tasks.Turn) {
	for _, t := range v.load.Turns {
		if cmp.Or(t.Lane, tasks.Normal) == lane {
			of = append(of, t)
		}
	}
	return of
}

// beside are the other lanes with work. Of the tenants that nobody has looked at each has as
// much as the mean of the others.
func (v view) beside(lane tasks.Priority) (list []beside) {
	own := v.load.Lanes[lane].Share
	for name, l := range v.load.Lanes {
		seen, work := v.turns(name), 0.0
		for _, t := range seen {
			work += t.Backlog
		}
		if name != lane && work > 0 && own > 0 {
			list = append(list, beside{work * float64(max(l.Tenants, 1)) / float64(len(seen)), l.Share / own})
		}
	}
	return list
}

// turnIn is a tenant's turn in a lane of so many tenants: where its backlog is not among those that were
// seen, it came since, or its turn is behind theirs.
func turnIn(turns []tasks.Turn, tenants int64, tenant string) float64 {
	for _, t := range turns {
		if t.Tenant == tenant {
			return t.At
		}
	}
	switch {
	case len(turns) == 0:
		return 0
	case tenants > int64(len(turns)):
		return turns[len(turns)-1].At
	}
	return turns[0].At
}

// Waiting says what a job waits for; nothing once it runs or has ended.
func (s *Set) Waiting(ctx context.Context, j tasks.Job) (tasks.Waiting, error) {
	if j.Status.Final() || j.Status == tasks.StatusRunning {
		return tasks.Waiting{}, nil
	}
	p, err := s.record.Position(ctx, j)
	if err != nil {
		return tasks.Waiting{}, err
	}
	return s.waiting(ctx, j, p)
}

// WaitingAt is [Set.Waiting] for somebody who knows the job's place in its tenant's backlog already.
func (s *Set) WaitingAt(ctx context.Context, j tasks.Job, place, tenants int64) (tasks.Waiting, error) {
	return s.waiting(ctx, j, tasks.Place{Lane: j.Priority, Own: place, Ahead: -1, Tenants: tenants})
}

func (s *Set) waiting(ctx context.Context, j tasks.Job, p tasks.Place) (tasks.Waiting, error) {
	v, err := s.look(ctx, j.Pool, viewFresh)
	if err == nil && p.Own > 0 && v.load.Handed == 0 {
		v, err = s.look(ctx, j.Pool, viewFresh/10) // it had to wait, so others came since
	}
	if err != nil {
		return tasks.Waiting{}, err
	}
	now := s.now().UTC()
	w := tasks.Waiting{For: v.reason(j, p, now), Position: max(1, p.Own), AsOf: v.at.UTC().Truncate(time.Millisecond)}
	f := v.forecast(now, j.Tenant, p)
	if w.For == tasks.WaitNotBefore || w.For == tasks.WaitRetry {
		w.Position = 0
		until := j.DueAt.Sub(now)
		f.told, f.late, f.predicted = max(f.told, until), max(f.late, until), 0 // nothing is learned of it
	}
	f.known = f.known && foreseen(w.For)
	w.Degraded = f.degraded
	if !f.known {
		return w, nil
	}
	w.EstimatedStart, w.EstimatedStart90 = now.Add(f.told).Truncate(time.Millisecond), now.Add(f.late).Truncate(time.Millisecond)
	if j.StartedAt.IsZero() && f.predicted > 0 { // of a later start the record does not tell
		s.told(tasks.Forecast{
			Job: j.ID, Pool: j.Pool, At: now, Predicted: f.predicted, Told: f.told, Late: f.late, Class: tasks.ClassOf(f.predicted, f.degraded),
		})
	}
	return w, nil
}

// foreseen reports whether it can be told when a reason to wait ends: of a tenant's own jobs under way, and
// of an admin, nobody can.
func foreseen(why tasks.WaitReason) bool {
	return why != tasks.WaitRunningJobs && why != tasks.WaitReview
}

// reason is what a job waits for.
func (v view) reason(j tasks.Job, p tasks.Place, now time.Time) tasks.WaitReason {
	switch {
	case j.DueAt.After(now) && (j.Status == tasks.StatusRetrying || !j.NotBefore.After(now)):
		return tasks.WaitRetry
	case j.DueAt.After(now):
		return tasks.WaitNotBefore
	}
	why := v.waitsFor(j, p.Own, now)
	if p.Aside && why != tasks.WaitReview && why != tasks.WaitPaused && why != tasks.WaitNoWorker {
		return tasks.WaitRunningJobs // a load does not name every user at its limit
	}
	return why
}

// binds is what the pool's jobs wait for now; "" for nothing. It is the one place that
// says so, for a job, a timeline and the pool's past alike.
func (v view) binds(now time.Time) tasks.WaitReason {
	switch {
	case v.pause.Paused:
		return tasks.WaitPaused
	case v.unattended(now):
		return tasks.WaitNoWorker
	case v.gate.Binds != "":
		return tasks.WaitReason(v.gate.Binds)
	case v.gate.HeldFor > 0:
		return tasks.WaitRequests
	}
	return ""
}

// waitsFor is why a job that could run does not, from its pool and from the order.
func (v view) waitsFor(j tasks.Job, place int64, now time.Time) tasks.WaitReason {
	switch why := v.binds(now); {
	case place > 0 && v.load.Reviewed[j.Tenant]:
		return tasks.WaitReview // of all that the pool waits for nothing ends that
	case why == tasks.WaitPaused:
		return why
	case j.Followed != "" && place == 0:
		return tasks.WaitConcurrency // a call that is under way already
	case why == tasks.WaitNoWorker:
		return why
	case place > 0 && (v.load.AtLimit[j.Tenant] || v.load.AtLimit[j.Owner()]):
		return tasks.WaitRunningJobs
	case place > 0 && v.othersHave(j, place, now):
		return tasks.WaitTenantShare
	case why == "":
		return tasks.WaitRequests // it is free to go, and goes
	default:
		return why
	}
}

// othersHave reports whether a job of the backlog would have started by now, had the
// pool been its tenant's alone: as its timeline has it.
func (v view) othersHave(j tasks.Job, place int64, now time.Time) bool {
	c := course{end: now.Truncate(time.Millisecond), weight: cmp.Or(v.load.Weights[j.Tenant], 1), rest: v.rest(j.Tenant, place)}
	c.Job = tasks.Job{CreatedAt: readySince(j), Pool: j.Pool}
	c.Pools = map[string]tasks.Past{j.Pool: v.known(v.past, c.end)}
	spans := c.spans()
	return len(spans) > 0 && spans[len(spans)-1].For == tasks.WaitTenantShare
}

// readySince is since when a job that waits could run.
func readySince(j tasks.Job) time.Time {
	since := maxTime(maxTime(j.CreatedAt, j.NotBefore), j.Since)
	if n := len(j.Log); n > 0 {
		last := j.Log[n-1]
		since = maxTime(since, maxTime(last.EndedAt, last.LostAt).Add(last.Delay))
	}
	return since
}

// rest is how many seconds of the pool's allowance it takes until the job at this place of its tenant's own
// would start, if the pool were its tenant's alone. Where that is not known, or the job has been handed
// out, they are many.
func (v view) rest(tenant string, place int64) float64 {
	const many = 365 * 24 * 3600
	switch {
	case place <= 0 || v.gate.CallsPerSecond <= 0:
		return many
	case v.load.Begun == 0:
		return min(float64(place)/v.gate.CallsPerSecond, many)
	}
	mean := v.load.Mean
	for _, t := range v.load.Turns {
		if t.Tenant == tenant {
			mean = cmp.Or(t.Mean, mean)
		}
	}
	return min(float64(place)*mean, many)
}

// told notes a forecast that somebody is told, to be scored: of many at a time a sample.
func (s *Set) told(f tasks.Forecast) {
	if f.Told < time.Second && f.Predicted < time.Second/2 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.scoring[f.Pool]
	if b == nil {
		b = &scoring{}
		s.scoring[f.Pool] = b
	}
	b.seen++
	if len(b.told) < toldMost {
		b.told = append(b.told, f)
	} else if at := s.random.IntN(b.seen); at < toldMost {
		b.told[at] = f
	}
}

// scoring is what a process has told of a pool's jobs since the record took it in.
type scoring struct {
	at      time.Time // when that was
	told    []tasks.Forecast
	seen    int   // of which told is a sample
	awaited int64 // forecasts that the record keeps until their job starts
}

const (
	toldMost     = 128              // forecasts that are kept at a time
	scoreEvery   = time.Second      // while there are any, or some are awaited
	correctEvery = 10 * time.Second // what others have learned is asked for
)

// learn brings the record what was told of a pool's jobs, and returns what corrects the next
// forecasts. Nothing depends on it: where the record cannot, all stays as it was.
func (s *Set) learn(ctx context.Context, pool string, known [tasks.Classes]tasks.Correction) [tasks.Classes]tasks.Correction {
	now := s.now()
	s.mu.Lock()
	b := s.scoring[pool]
	if b == nil {
		b = &scoring{}
		s.scoring[pool] = b
	}
	every := correctEvery
	if len(b.told) > 0 || b.awaited > 0 {
		every = scoreEvery
	}
	if !b.at.IsZero() && now.Sub(b.at) < every {
		s.mu.Unlock()
		return known
	}
	told := b.told
	b.at, b.told, b.seen = now, nil, 0
	s.mu.Unlock()
	learned, awaited, err := s.record.Foretold(ctx, pool, told)
	if err != nil {
		return known
	}
	s.mu.Lock()
	b.awaited = awaited
	s.mu.Unlock()
	return learned
}

// Estimate is the time until a job submitted now to a lane can be expected to end.
func (s *Set) Estimate(ctx context.Context, pool, tenant string, lane tasks.Priority) (time.Duration, error) {
	o, err := s.Outlook(ctx, pool, tenant, lane)
	if err != nil {
		return 0, err
	}
	start := o.Start(o.Waiting + 1)
	if !start.Known {
		start.Told = max(start.Told, tasks.UnknownWait)
	}
	return start.Told + o.Takes, nil
}

// Outlook is how a tenant's next jobs in a lane of a pool would fare.
func (s *Set) Outlook(ctx context.Context, pool, tenant string, lane tasks.Priority) (tasks.Outlook, error) {
	lane = cmp.Or(lane, tasks.Normal)
	v, err := s.look(ctx, pool, viewFresh)
	if err != nil {
		return tasks.Outlook{}, err
	}
	key := pool + " " + string(lane) + " " + tenant
	s.mu.Lock()
	b, ok := s.backlog[key]
	s.mu.Unlock()
	if age := s.now().Sub(b.at); !ok || age < 0 || age > viewFresh {
		b = backlog{at: s.now()}
		if b.jobs, b.tenants, err = s.record.Waiting(ctx, pool, tenant, lane); err != nil {
			return tasks.Outlook{}, err
		}
		s.mu.Lock()
		if len(s.backlog) > 10_000 { // tenants come and go
			clear(s.backlog)
		}
		s.backlog[key] = b
		s.mu.Unlock()
	}
	now := s.now()
	return tasks.Outlook{Waiting: b.jobs, Takes: max(time.Second, v.gate.Latency), Start: func(place int64) tasks.Start {
		f := v.forecast(now, tenant, tasks.Place{Lane: lane, Own: max(1, place), Ahead: -1, Tenants: b.tenants})
		return tasks.Start{Told: f.told, Late: f.late, Known: f.known}
	}}, nil
}
