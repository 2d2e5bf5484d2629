package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/pipeline"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/redisd"
	"github.com/sluicehq/sluice/tasks/store"
)

const (
	beatEvery   = time.Second
	beatWithin  = 2 * time.Second // for one beat
	beatFresh   = 5 * time.Second // a success as old as this is none any more
	evictsAgain = time.Minute     // the log says again that keys are being evicted
	factsFresh  = time.Minute     // what Redis says of itself is asked again, and unknown after twice that
	grantsAgain = 5 * time.Second // while something is missing
)

// readiness finds out, again and again, whether this process can do its work: each
// second it writes to Redis as a submit does, and asks in the same round trip how
// Redis stands. A worker's gates are asked by whoever looks at the pools each second.
// What could not be found out is never taken for well.
type readiness struct {
	redis  *redisConn
	rdb    redis.UniversalClient // a pipeline.Client
	store  *store.Store
	clock  *clock
	kept   *atomic.Bool                         // by whom the store's scripts have a replica waited for
	deaf   func() []string                      // what an ACL lacks for channels
	crowd  func(ctx context.Context, full bool) // pauses the pools while Redis is nearly full
	parts  func() []api.Check                   // all of /readyz
	worker bool
	evicts bool // it may: redis.allow_eviction
	log    *slog.Logger

	mu        sync.Mutex
	beat      outcome
	gates     outcome
	facts     redisd.Facts
	room      store.Room // as Redis last said
	known     time.Time  // when Redis last said how it stands
	inspected time.Time  // when it was last asked for all
	silent    error      // why it does not say
	evicted   int64      // keys that it has evicted while this process looked, until its own count is set back
	loud      time.Time  // when the log last said so
	missing   []string   // of what an ACL has to permit
	tried     time.Time
	told      []string        // notices that the log has
	down      map[string]bool // parts that the log has as down
}

// newReadiness returns what a process of these roles asks.
func newReadiness(s *service, r roles) *readiness {
	a := &readiness{
		redis: s.redis, rdb: s.joined, store: s.store, clock: &s.clock, kept: &s.kept, deaf: s.notices.Refused, crowd: s.crowd, parts: s.checks, worker: r.worker, evicts: s.cfg.Redis.AllowEviction, log: s.log,
		down: map[string]bool{},
	}
	s.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sluice_redis_durable", Help: "1 when Redis says that accepted jobs survive a restart; 0 also when it does not say.",
		}, func() float64 {
			if a.durable() {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sluice_redis_evicted_keys", Help: "Keys that Redis has evicted since it started; anything but 0 may be lost jobs.",
		}, func() float64 {
			a.mu.Lock()
			defer a.mu.Unlock()
			return float64(a.facts.Evicted)
		}),
	)
	for name, g := range map[string]struct {
		help string
		of   func(store.Room) int64
	}{
		"used":     {"Bytes of memory that Redis uses, as far as maxmemory counts them.", func(r store.Room) int64 { return r.Used }},
		"promised": {"Bytes that the results of jobs that wait and run are expected to take in Redis.", func(r store.Room) int64 { return r.Promised }},
		"max":      {"The maxmemory of Redis; 0 when nothing limits it, or it does not say.", func(r store.Room) int64 { return r.Most }},
	} {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sluice_redis_" + name + "_bytes", Help: g.help}, func() float64 {
			a.mu.Lock()
			defer a.mu.Unlock()
			return float64(g.of(a.room))
		}))
	}
	return a
}

// memory is how Redis's memory stood at the last beat.
func (r *readiness) memory() (used, promised, most int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.room.Used, r.room.Promised, r.room.Most
}

// outcome is how something that is done each second went.
type outcome struct {
	at  time.Time // of the last success
	err error     // of the last try
}

func (o *outcome) note(err error) {
	if o.err = err; err == nil {
		o.at = time.Now()
	}
}

// stale is why the last success is too old; nil while it is not.
func (o *outcome) stale() error {
	switch {
	case time.Since(o.at) <= beatFresh:
		return nil
	case o.err == nil:
		return api.Down("it has not answered yet", nil)
	}
	return api.Down(redisd.Why(o.err), o.err)
}

// Run asks each second until ctx ends.
func (r *readiness) Run(ctx context.Context) error {
	tick, begun := time.NewTicker(beatEvery), time.Now()
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.ask(ctx)
			r.tellParts(ctx, begun)
		}
	}
}

// tellParts logs each part when it goes down, and when it works again: whoever asks
// /readyz meanwhile, and however often, changes nothing in the log. One that has not
// worked yet is given a start's time for it.
func (r *readiness) tellParts(ctx context.Context, begun time.Time) {
	for _, part := range r.parts() {
		err := part.Check(ctx)
		was, known := r.down[part.Name]
		switch {
		case ctx.Err() != nil:
			return // the process stops
		case err != nil && !known && time.Since(begun) <= beatFresh:
			continue
		case err != nil && !was:
			r.log.Warn("part is down", "part", part.Name, "error", err)
		case err == nil && was:
			r.log.Info("part works again", "part", part.Name)
		}
		r.down[part.Name] = err != nil
	}
}

// ask does all that is done each second, once.
func (r *readiness) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, beatWithin)
	defer cancel()
	seen, beat, err := r.round(ctx)
	if errors.Is(ctx.Err(), context.Canceled) {
		return // the process stops
	}
	r.door(seen, err) // before anybody hears that this process is ready again
	back := r.beaten(beat)
	moved := r.learn(ctx, seen, err)
	if r.redis.embedded == nil && r.doubtful(beat, back || moved) {
		r.try(ctx)
	}
	r.tell()
}

// door notes how full Redis is, by which the door shuts and opens.
func (r *readiness) door(seen redisd.Facts, err error) {
	if err != nil {
		return // nobody knows: it stays as it was
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.facts.Full = seen.Full
}

// beaten notes how a beat went, and reports whether it is the first to succeed again.
func (r *readiness) beaten(err error) (back bool) {
	r.mu.Lock()
	was := r.beat.err
	r.beat.note(err)
	r.mu.Unlock()
	switch {
	case was == nil && err != nil:
		r.log.Warn("this process is not ready: "+redisd.Why(err), "error", err)
	case was != nil && err == nil:
		r.log.Info("redis takes writes again")
		return true
	}
	return false
}

// doubtful reports whether the permissions are to be tried: at another server, after
// a failure, each minute, and more often while something is refused.
func (r *readiness) doubtful(beat error, other bool) bool {
	refused := redisd.Refuses(beat)
	if beat != nil && !refused {
		return false // nothing would be found out
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pause := factsFresh
	if refused || len(r.missing) > 0 {
		pause = grantsAgain
	}
	return other || time.Since(r.tried) >= pause
}

// round is one beat and one question, in one round trip where Redis is one server.
func (r *readiness) round(ctx context.Context) (seen redisd.Facts, beat, facts error) {
	if own := r.redis.embedded; own != nil && !own.Durable() {
		return redisd.Facts{}, r.pulse(ctx), nil // it has no settings
	}
	if r.redis.cluster() {
		beat = r.pulse(ctx)
		seen, facts = redisd.Survey(ctx, r.rdb, true)
		return seen, beat, facts
	}
	var said *redis.StringCmd
	pipeline.Join(ctx, func(p redis.Pipeliner) { said = p.Info(ctx) }, func(ctx context.Context) { beat = r.pulse(ctx) })
	if said == nil {
		return seen, beat, beat
	}
	if facts = said.Err(); facts != nil {
		return seen, beat, facts
	}
	seen, known := redisd.Read(said.Val(), r.redis.several())
	if !known {
		facts = errors.New("redis loads its data, or INFO is empty")
	}
	return seen, beat, facts
}

// pulse is one beat, which also says what time it is.
func (r *readiness) pulse(ctx context.Context) error {
	sent := time.Now()
	p, err := r.store.Beat(ctx)
	r.clock.heard(p.At, sent, time.Now())
	if !p.At.IsZero() {
		r.mu.Lock()
		r.room = p.Room
		r.mu.Unlock()
		r.crowd(ctx, p.Room.Full)
	}
	return err
}

// learn takes in what Redis says of itself, asks for the rest when that has changed
// or is old, and reports whether it did.
func (r *readiness) learn(ctx context.Context, seen redisd.Facts, err error) (moved bool) {
	r.mu.Lock()
	moved = err == nil && (seen.State != r.facts.State || time.Since(r.inspected) >= factsFresh)
	r.mu.Unlock()
	if moved && (r.redis.embedded == nil || r.redis.embedded.Durable()) {
		var all redisd.Facts
		if all, err = redisd.Inspect(ctx, r.redis.plain(), r.redis.several()); err == nil {
			seen = all
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.silent = err; err != nil {
		return moved
	}
	first, before := r.known.IsZero(), r.facts.Evicted
	r.known = time.Now()
	r.kept.Store(seen.Replicated)
	if moved {
		r.facts, r.inspected = seen, r.known
	}
	r.evictedLocked(before, seen.Evicted, first)
	r.facts.Full, r.facts.Evicted = seen.Full, seen.Evicted
	return moved
}

// evictedLocked notes how many keys Redis has evicted. What was evicted before this
// process looked for the first time is a notice; what goes while it looks stays an
// error until an operator sets Redis's count back or restarts Redis or the process:
// the policy may have been changed back meanwhile, and the keys are gone all the same.
func (r *readiness) evictedLocked(before, count int64, first bool) {
	if count == 0 || count < before { // it was set back, or Redis was restarted
		r.evicted, r.loud, before = 0, time.Time{}, 0
	}
	if first || count <= before {
		return
	}
	r.evicted += count - before
	if time.Since(r.loud) < evictsAgain {
		return
	}
	r.loud = time.Now()
	r.log.Error("redis evicts keys: accepted jobs may be among them", "part", "redis", "evicted", r.evicted, "since_redis_started", count)
}

// try finds out what an ACL lacks.
func (r *readiness) try(ctx context.Context) {
	missing, err := r.store.Missing(ctx)
	if err == nil {
		missing = append(missing, queue.Missing(ctx, r.rdb)...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		return // it was not found out: the beat says why
	}
	r.missing, r.tried = missing, time.Now()
}

// grants are the rules of an ACL that are missing.
func (r *readiness) grants() []string {
	r.mu.Lock()
	missing := slices.Clone(r.missing)
	r.mu.Unlock()
	for _, g := range r.deaf() {
		if !slices.Contains(missing, g) {
			missing = append(missing, g)
		}
	}
	return missing
}

// lacking says what an ACL has to permit; "" where it permits all.
func (r *readiness) lacking() string {
	missing := r.grants()
	if len(missing) == 0 {
		return ""
	}
	return "redis does not permit this user what Sluice needs: grant it, as in ACL SETUSER <user> " + strings.Join(missing, " ")
}

// gated notes how a look at the pools' gates went.
func (r *readiness) gated(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gates.note(err)
}

// shut is why nothing is taken in: Redis evicts what it is given, or has of late, or
// is nearly full.
func (r *readiness) shut() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case (r.facts.Evicts != "" || r.evicted > 0) && !r.evicts:
		return tasks.ErrUnsafe
	case r.facts.Full >= store.Intake:
		return tasks.ErrFull
	}
	return nil
}

// durable reports whether Redis says that it keeps what was accepted.
func (r *readiness) durable() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if own := r.redis.embedded; own != nil && !own.Durable() {
		return false
	}
	return r.sureLocked() && len(r.facts.Loses) == 0
}

// sureLocked reports whether Redis has said of late how it stands, and still may.
func (r *readiness) sureLocked() bool {
	return !redisd.Refuses(r.silent) && time.Since(r.known) < 2*factsFresh
}

// notices are what an operator should know of Redis.
func (r *readiness) notices() []string {
	var out []string
	if own := r.redis.embedded; own != nil && own.Notice() != "" {
		out = append(out, own.Notice())
	}
	lacking := r.lacking()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case redisd.Refuses(r.silent):
		out = append(out, "Redis does not say whether it keeps jobs (INFO is refused)")
	case !r.sureLocked():
		out = append(out, "Redis has not said whether it keeps jobs")
	default:
		out = append(append(out, r.facts.Loses...), r.facts.Notices...)
	}
	if r.evicted > 0 {
		out = append(out, fmt.Sprintf("redis has evicted %d keys while this process ran: accepted jobs may be among them", r.evicted))
	}
	out = append(out, crowding(r.facts.Full, r.room)...)
	if lacking != "" {
		out = append(out, lacking)
	}
	return out
}

// crowding says what want of memory stops: the calls, or only what would come in.
func crowding(used float64, room store.Room) []string {
	promised := 0.0
	if room.Most > 0 {
		used, promised = float64(room.Used)/float64(room.Most), float64(room.Promised)/float64(room.Most)
	}
	switch {
	case room.Full:
		return []string{fmt.Sprintf("redis uses %.0f %% of its maxmemory: the pools are paused until results have expired or were deleted, or maxmemory is raised", 100*used)}
	case used+promised >= store.Intake:
		return []string{fmt.Sprintf("redis uses %.0f %% of its maxmemory, and the results of the jobs that wait and run will take about %.0f %%: no job is taken in above %.0f %%, so that these can end",
			100*used, 100*promised, 100*store.Intake)}
	}
	return nil
}

// tell logs each notice when it comes, and when it has gone.
func (r *readiness) tell() {
	now := r.notices()
	kind := func(notice string) string { // numbers in it may change while it lasts
		return strings.Map(func(c rune) rune {
			if c >= '0' && c <= '9' {
				return -1
			}
			return c
		}, notice)
	}
	kinds := make([]string, len(now))
	for i, n := range now {
		kinds[i] = kind(n)
		if !slices.Contains(r.told, kinds[i]) {
			r.log.Warn(n, "part", "redis")
		}
	}
	for _, n := range r.told {
		if !slices.Contains(kinds, n) {
			r.log.Info("no longer: "+n, "part", "redis")
		}
	}
	r.told = kinds
}

// checks are the parts of /readyz that are about Redis.
func (r *readiness) checks() []api.Check {
	list := []api.Check{
		{Name: "redis", Check: func(context.Context) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.beat.stale()
		}},
		{Name: "permissions", Check: func(context.Context) error {
			if lacking := r.lacking(); lacking != "" {
				return api.Down(lacking, nil)
			}
			return nil
		}},
		{Name: "eviction", Check: func(context.Context) error {
			if err := r.shut(); !errors.Is(err, tasks.ErrUnsafe) {
				return nil
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.facts.Evicts == "" {
				return api.Down(fmt.Sprintf("Redis has evicted %d keys while this process ran, so no job is taken in: see what was lost (sluice_jobs_lost_total and the log), "+
					"then CONFIG RESETSTAT at Redis, or restart this process, or redis.allow_eviction if that is meant", r.evicted), nil)
			}
			return api.Down("Redis evicts keys, so no job is taken in: set maxmemory-policy noeviction, or redis.allow_eviction if that is meant", nil)
		}},
	}
	if r.worker {
		list = append(list, api.Check{Name: "gates", Check: func(context.Context) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.gates.stale()
		}})
	}
	return list
}
