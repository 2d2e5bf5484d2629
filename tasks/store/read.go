package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/seal"
)

// ask reads some fields of hashes, or with none named all of them, in one round
// trip. What is not there is left out of a map.
func (s *Store) ask(ctx context.Context, key func(id string) string, ids []string, fields ...string) ([]map[string]string, error) {
	cmds, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, id := range ids {
			if fields == nil {
				p.HGetAll(ctx, key(id))
			} else {
				p.HMGet(ctx, key(id), fields...)
			}
		}
		return nil
	})
	if err != nil {
		return nil, redisError(err)
	}
	out := make([]map[string]string, len(ids))
	for i, c := range cmds {
		switch c := c.(type) {
		case *redis.MapStringStringCmd:
			out[i] = c.Val()
		case *redis.SliceCmd:
			out[i] = make(map[string]string, len(fields))
			for n, v := range c.Val() {
				if v != nil {
					out[i][fields[n]] = str(v)
				}
			}
		}
	}
	return out, nil
}

// owns reports whether what a record of some fields is about is an owner's.
func owns(owner string, h map[string]string) bool { return tasks.Owns(owner, h["t"], h["us"]) }

// Job returns a tenant's job, without its prompt. Another tenant's, or one that
// has outlived its time, is ErrNotFound.
func (s *Store) Job(ctx context.Context, tenant, id string) (tasks.Job, error) {
	records, err := s.ask(ctx, s.keys.job, []string{id}, withResult...)
	if err != nil {
		return tasks.Job{}, fmt.Errorf("read job %s: %w", id, err)
	}
	if !owns(tenant, records[0]) {
		return tasks.Job{}, tasks.ErrNotFound
	}
	j, err := s.unpack(ctx, id, records[0])
	if err == nil {
		err = s.whole(ctx, &j, records[0]["rr"], 0)
	}
	return j, err
}

// Prompt returns a tenant's job as [Store.Job] does, with its prompt and without its
// result. A job that no longer has its prompt has a Request without a body.
func (s *Store) Prompt(ctx context.Context, tenant, id string) (tasks.Job, error) {
	records, err := s.ask(ctx, s.keys.job, []string{id}, append([]string{"b", "br"}, shown...)...)
	if err != nil {
		return tasks.Job{}, fmt.Errorf("read the prompt of job %s: %w", id, err)
	}
	if !owns(tenant, records[0]) {
		return tasks.Job{}, tasks.ErrNotFound
	}
	j, err := s.unpack(ctx, id, records[0])
	if err == nil {
		j.Request.Body, err = whole(j.Request.Body)
	}
	if lies := records[0]["br"]; err == nil && lies != "" {
		j.Request.Body, err = s.fetch(ctx, j.Tenant, j.ID, bodies.Prompt, lies, 0)
	}
	if err != nil {
		return tasks.Job{}, fmt.Errorf("read the prompt of job %s: %w", id, err)
	}
	return j, nil
}

// Holder names the owner of a job; else tasks.ErrNotFound.
func (s *Store) Holder(ctx context.Context, id string) (string, error) {
	return s.holder(ctx, s.keys.job(id))
}

func (s *Store) holder(ctx context.Context, key string) (string, error) {
	of, err := s.rdb.HMGet(ctx, key, "t", "us").Result()
	if err != nil {
		return "", fmt.Errorf("read whose %s is: %w", key, redisError(err))
	}
	tenant, user := str(of[0]), str(of[1])
	if tenant == "" {
		return "", tasks.ErrNotFound
	}
	return tasks.Owner(tenant, user), nil
}

// Tenants names the tenants of which jobs wait or have waited, in no order.
func (s *Store) Tenants(ctx context.Context) ([]string, error) {
	names, err := s.rdb.HKeys(ctx, s.keys.waiting()).Result()
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", redisError(err))
	}
	return names, nil
}

// each reads fields of jobs in one round trip; those that are gone are left out. Of one that
// cannot be opened there is what lies in plain, and an Error that says so.
func (s *Store) each(ctx context.Context, ids, fields []string) ([]tasks.Job, error) {
	records, err := s.ask(ctx, s.keys.job, ids, fields...)
	if err != nil {
		return nil, fmt.Errorf("read %d jobs: %w", len(ids), err)
	}
	jobs := make([]tasks.Job, 0, len(ids))
	for i, h := range records {
		if h["e"] == "" {
			continue
		}
		j, err := s.unpack(ctx, ids[i], h)
		if sealed := (*tasks.SealError)(nil); errors.As(err, &sealed) {
			j, err = s.unpackShut(ctx, ids[i], h)
		}
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// unpackShut reads of a record that cannot be opened what lies in plain.
func (s *Store) unpackShut(ctx context.Context, id string, h map[string]string) (tasks.Job, error) {
	var e envelope
	if err := json.Unmarshal([]byte(h["e"]), &e); err != nil {
		return tasks.Job{}, fmt.Errorf("read job %s: %w", id, err)
	}
	e.Metadata, e.Webhook = nil, ""
	h["e"] = encode(e)
	for _, f := range sealedFields {
		if seal.Sealed(h[f.field]) {
			delete(h, f.field)
		}
	}
	j, err := s.unpack(ctx, id, h)
	j.Error = &tasks.JobError{Code: tasks.BodyUnavailable, Message: "what this job holds is sealed, and the key that opens it is not there"}
	return j, err
}

// Ended returns those of ids whose job is final or gone.
func (s *Store) Ended(ctx context.Context, ids []string) ([]string, error) {
	var ended []string
	for len(ids) > 0 {
		n := min(1000, len(ids))
		cmds, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, id := range ids[:n] {
				p.HGet(ctx, s.keys.job(id), "s")
			}
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("look at %d jobs: %w", n, redisError(err))
		}
		for i, c := range cmds {
			status, err := c.(*redis.StringCmd).Result()
			if errors.Is(err, redis.Nil) || err == nil && tasks.Status(status).Final() {
				ended = append(ended, ids[i])
			}
		}
		ids = ids[n:]
	}
	return ended, nil
}

// Of a list, what decides whether a row is on the page is read scanMost rows at
// a time. A page that has a row, but is not full after scanPatience, is given as
// it is; one that has none is looked for as long as there is anything to look at.
const (
	scanMost     = 500
	scanPatience = 2 * time.Second
)

// look looks at the next n rows of a list: it returns those that a filter lets
// through, how many there were, and the last of them.
type look func(ctx context.Context, n int) (found []string, looked int, last string, err error)

// scan collects ids for a page, as long as patience lasts where that is above 0. more is the page's last or the
// last that was looked at, where the next page goes on, "" when nothing is left.
func scan(ctx context.Context, limit int, patience time.Duration, next look) (ids []string, more string, err error) {
	begun := time.Now()
	for n := limit + 1; ; n = min(2*n, scanMost) {
		found, looked, last, err := next(ctx, n)
		if err != nil {
			return nil, "", err
		}
		ids = append(ids, found...)
		switch {
		case len(ids) > limit:
			return ids[:limit], ids[limit-1], nil
		case looked < n:
			return ids, "", nil
		case len(ids) > 0 && time.Since(begun) > scanPatience, patience > 0 && time.Since(begun) >= patience:
			return ids, last, nil
		}
	}
}

// Jobs returns one page of a tenant's jobs, newest first.
func (s *Store) Jobs(ctx context.Context, f tasks.Filter) (tasks.Page, error) {
	var statuses []tasks.Status
	if f.Status != "" {
		statuses = append(statuses, f.Status)
	}
	next, err := s.find(ctx, f, statuses)
	if err != nil {
		return tasks.Page{}, err
	}
	ids, more, err := scan(ctx, f.Limit, f.Patience, next)
	if err != nil {
		return tasks.Page{}, err
	}
	page := tasks.Page{HasMore: more != "", Next: more}
	if page.Jobs, err = s.each(ctx, ids, shown); err != nil {
		return tasks.Page{}, err
	}
	if page.HasMore && len(ids) > 0 && len(page.Jobs) == 0 { // all of it was deleted just now
		f.After = more
		return s.Jobs(ctx, f)
	}
	return page, nil
}

var findScript = script("find")

// idSpare is how far the time in an id, of the process that made it, may be from
// that of Redis, which counts.
const idSpare = 10 * time.Minute

// find looks through the jobs that a filter chooses from: the tenant's of the times
// asked for, or those of a batch. They have one of some statuses, none being any.
func (s *Store) find(ctx context.Context, f tasks.Filter, statuses []tasks.Status) (look, error) {
	some := map[tasks.Status]bool{}
	for _, status := range statuses {
		some[status] = true
	}
	from, low := bounds("job_", f.After, f.Since, f.Until)
	line, till := 0, int64(0)
	if !f.Until.IsZero() {
		till = max(1, milli(f.Until))
	}
	if f.Metadata == nil {
		f.Metadata = map[string]string{} // a script's {}
	}
	sealed, err := s.sealedPairs(ctx, &f)
	if err != nil {
		return nil, err
	}
	if f.Batch != "" {
		if _, err := s.Batch(ctx, f.Tenant, f.Batch); err != nil {
			return nil, err
		}
		if line, err = s.lastLine(ctx, f.Batch, f.After); err != nil {
			return nil, err
		}
	}
	edge, err := s.edge(ctx, &f)
	if err != nil {
		return nil, err
	}
	rest := f.Batch == "" && edge != "" && low < "["+edge
	return (&search{s: s, f: f, statuses: some, till: till, pairs: sealed, edge: edge, rest: rest, from: from, low: low, line: line}).next, nil
}

// sealedPairs is what stands for each pair of metadata that a filter asks, where it is sealed.
func (s *Store) sealedPairs(ctx context.Context, f *tasks.Filter) (map[string]string, error) {
	sealed := map[string]string{}
	for name, value := range f.Metadata {
		pair, err := s.vault.pair(ctx, f.Tenant, name, value)
		if err != nil {
			return nil, fmt.Errorf("look for metadata: %w", err)
		}
		sealed[name] = pair
	}
	return sealed, nil
}

// search is a look through a list, as far as it has come.
type search struct {
	s         *Store
	f         tasks.Filter
	statuses  map[tasks.Status]bool
	till      int64             // ms; 0: no end
	pairs     map[string]string // what stands for the metadata that is asked for, where it is sealed
	edge      string            // the job that the index of metadata begins with; "": it is not looked into
	rest      bool              // what is older is to be looked through without it
	from, low string
	line      int
}

// next is a look.
func (l *search) next(ctx context.Context, n int) ([]string, int, string, error) {
	index, low := l.edge != "" && (l.from == "+" || l.from[1:] > l.edge), l.low
	if index && l.rest {
		low = "[" + l.edge
	}
	f := &l.f
	reply, err := l.s.run(ctx, findScript, args{
		"n": n, "tenant": f.Tenant, "from": l.from, "low": low, "batch": f.Batch, "line": l.line, "index": index, "statuses": l.statuses, "model": f.Model, "pool": f.Pool,
		"since": max(0, milli(f.Since)), "till": l.till, "metadata": f.Metadata, "pairs": l.pairs,
	}).Slice()
	if err != nil {
		return nil, 0, "", fmt.Errorf("look through %d jobs: %w", n, err)
	}
	looked, last := int(num(reply[0])), str(reply[1])
	found := make([]string, len(reply)-2)
	for i, id := range reply[2:] {
		found[i] = str(id)
	}
	if l.from, l.line = "("+last, l.line-looked; index && l.rest && looked < n {
		l.from, looked, last = "("+l.edge, n, l.edge
	}
	return found, looked, last, nil
}

// edge is the id from which on the index of metadata has all jobs that a filter asks for;
// "": it is of no use. Of a batch it has all or none.
func (s *Store) edge(ctx context.Context, f *tasks.Filter) (string, error) {
	if len(f.Metadata) == 0 {
		return "", nil
	}
	var since *redis.StringCmd
	var batch *redis.SliceCmd
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		since, batch = p.Get(ctx, s.keys.indexed()), p.HMGet(ctx, s.keys.batch(f.Batch), "at", "ct")
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("look for metadata: %w", redisError(err))
	}
	from, created := atoi(since.Val()), batch.Val()
	switch {
	case from == 0:
		return "", nil
	case f.Batch == "":
		return firstID("job_", fromMilli(from).Add(idSpare)), nil
	case created[0] != nil || atoi(str(created[1])) < from: // its lines are still on their way there
		return "", nil
	}
	return "job_", nil
}

// firstID is the first id that can be made at a time.
func firstID(prefix string, t time.Time) string {
	var u ulid.ULID
	_ = u.SetTime(min(uint64(max(0, t.UnixMilli())), ulid.MaxTime())) // it cannot be too late
	return prefix + u.String()
}

// bounds are the part of a list of ids, from its end, that is of the times asked for
// and behind after.
func bounds(prefix, after string, since, until time.Time) (from, low string) {
	from, low = "+", "-"
	if !until.IsZero() {
		from = "(" + firstID(prefix, until.Add(idSpare))
	}
	if after != "" && (from == "+" || "("+after < from) {
		from = "(" + after
	}
	if !since.IsZero() {
		low = "[" + firstID(prefix, since.Add(-idSpare))
	}
	return from, low
}

// next looks through an index from after on, the oldest first, for what match lets through.
func (s *Store) next(index, after string, match func(ctx context.Context, ids []string) ([]string, error)) look {
	return func(ctx context.Context, n int) ([]string, int, string, error) {
		ids, err := s.rdb.ZRangeByLex(ctx, index, &redis.ZRangeBy{Min: "(" + after, Max: "+", Count: int64(n)}).Result()
		if err != nil {
			return nil, 0, "", fmt.Errorf("list %s: %w", index, redisError(err))
		}
		if len(ids) == 0 {
			return nil, 0, "", nil
		}
		after = ids[len(ids)-1]
		found, err := match(ctx, ids)
		return found, len(ids), after, err
	}
}

// newest looks through an index within its bounds for what match lets through.
func (s *Store) newest(index, from, low string, match func(ctx context.Context, ids []string) ([]string, error)) look {
	return func(ctx context.Context, n int) ([]string, int, string, error) {
		ids, err := s.rdb.ZRevRangeByLex(ctx, index, &redis.ZRangeBy{Min: low, Max: from, Count: int64(n)}).Result()
		if err != nil {
			return nil, 0, "", fmt.Errorf("list %s: %w", index, redisError(err))
		}
		if len(ids) == 0 {
			return nil, 0, "", nil
		}
		last := ids[len(ids)-1]
		from = "(" + last
		found, err := match(ctx, ids)
		return found, len(ids), last, err
	}
}

// lastLine is the index of a batch's last line, or of the one before after; -1: none.
func (s *Store) lastLine(ctx context.Context, batch, after string) (int, error) {
	key := s.keys.lines(batch)
	n, err := s.rdb.LLen(ctx, key).Result()
	if err == nil && after != "" {
		n, err = s.rdb.LPos(ctx, key, after, redis.LPosArgs{}).Result()
		if errors.Is(err, redis.Nil) {
			return 0, tasks.ErrNotFound
		}
	}
	if err != nil {
		return 0, fmt.Errorf("list batch %s: %w", batch, redisError(err))
	}
	return int(n) - 1, nil
}

// Load reports a pool's load. The oldest job is looked for at the head of the
// backlogs of the first hundred tenants.
func (s *Store) Load(ctx context.Context, pool string) (tasks.Load, error) {
	var counts, eye, order *redis.SliceCmd
	var out, hold, ring, bundled *redis.IntCmd
	var sizes [len(lanes)]*redis.IntCmd
	var tenants [len(lanes)]*redis.ZSliceCmd
	var first, held, full *redis.StringSliceCmd
	var weights *redis.MapStringStringCmd
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		counts, eye = p.HMGet(ctx, s.keys.load(pool), "queued", "running", "cost", "stage", "begun"), p.HMGet(ctx, s.keys.watched(pool), "wk")
		out, hold, ring = p.ZCard(ctx, s.keys.handed(pool)), p.ZCard(ctx, s.keys.held(pool)), p.ZCard(ctx, s.keys.ring(pool))
		// The lease of a call is short, and that of a job in a bundle lasts until shortly before its deadline.
		bundled = p.ZCount(ctx, s.keys.running(pool), strconv.FormatInt(s.clock().Add(4*Lease).UnixMilli(), 10), "+inf")
		weights, order = p.HGetAll(ctx, s.keys.weights()), p.HMGet(ctx, s.keys.order(pool), "shares", "high", "normal", "low")
		for i, lane := range lanes {
			turns := s.keys.turns(pool, string(lane))
			sizes[i], tenants[i] = p.ZCard(ctx, turns), p.ZRangeWithScores(ctx, turns, 0, 99)
		}
		full = p.ZRange(ctx, s.keys.atLimit(), 0, 999)
		first, held = p.ZRange(ctx, s.keys.handed(pool), 0, 0), p.ZRange(ctx, s.keys.held(pool), 0, 0)
		return nil
	})
	if err != nil {
		return tasks.Load{}, fmt.Errorf("read the load of %s: %w", pool, redisError(err))
	}
	l := tasks.Load{
		Queued: max(0, num(counts.Val()[0])), Running: max(0, num(counts.Val()[1])), Bundled: bundled.Val(),
		Handed: out.Val() + hold.Val(), Tenants: ring.Val(), Weights: map[string]float64{}, AtLimit: map[string]bool{}, Reviewed: map[string]bool{}, WorkedAt: fromMilli(num(eye.Val()[0])),
		Mean:  cmp.Or(float64(num(counts.Val()[2]))/1e6, 1),
		Stage: float64(num(counts.Val()[3])) / 1e6,
		Begun: float64(num(counts.Val()[4])) / 1e6,
	}
	for name, w := range weights.Val() {
		switch tenant, review := strings.CutPrefix(name, "\t\r"); {
		case review:
			if reviewOf(w).To.After(s.clock()) {
				l.Reviewed[tenant] = true
			}
		case !strings.HasPrefix(name, "\t"):
			l.Weights[name], _ = strconv.ParseFloat(w, 64)
		}
	}
	for _, name := range full.Val() {
		l.AtLimit[name] = true
	}
	l.Lanes = lanesOf(order.Val())
	for i, name := range lanes {
		lane := l.Lanes[name]
		lane.Tenants = sizes[i].Val()
		l.Lanes[name] = lane
		for _, t := range tenants[i].Val() {
			l.Turns = append(l.Turns, tasks.Turn{Tenant: str(t.Member), Lane: name, At: t.Score, Weight: cmp.Or(l.Weights[str(t.Member)], 1)})
		}
	}
	heads, err := s.turns(ctx, pool, &l)
	if err != nil {
		return tasks.Load{}, fmt.Errorf("read the load of %s: %w", pool, redisError(err))
	}
	for _, id := range slices.Concat(first.Val(), held.Val(), heads) {
		if at := tasks.Born(id); !at.IsZero() && (l.OldestQueuedAt.IsZero() || at.Before(l.OldestQueuedAt)) {
			l.OldestQueuedAt = at
		}
	}
	return l, nil
}

// lanes are all there are, in the order in which a tenant's backlog has them.
var lanes = [...]tasks.Priority{tasks.High, tasks.Normal, tasks.Low}

// within are the scores of a lane in a tenant's backlog.
func within(lane tasks.Priority) *redis.ZRangeBy {
	switch lane {
	case tasks.High:
		return &redis.ZRangeBy{Min: "-inf", Max: "(0", Count: 1}
	case tasks.Low:
		return &redis.ZRangeBy{Min: strconv.Itoa(apart), Max: "(" + strconv.Itoa(2*apart), Count: 1}
	}
	return &redis.ZRangeBy{Min: "0", Max: "(" + strconv.Itoa(apart), Count: 1}
}

// lanesOf reads shares and turns of a pool's lanes.
func lanesOf(h []any) map[tasks.Priority]tasks.Lane {
	shares, sum := [len(lanes)]float64{70, 25, 5}, 0.0
	if f := strings.Fields(str(h[0])); len(f) == len(lanes) {
		for i := range f {
			shares[i] = float64(atoi(f[i]))
		}
	}
	for _, share := range shares {
		sum += share
	}
	of := map[tasks.Priority]tasks.Lane{}
	for i, lane := range lanes {
		at, _ := strconv.ParseFloat(str(h[1+i]), 64) // not there: 0
		of[lane] = tasks.Lane{Share: shares[i] / max(sum, 1), At: at}
	}
	return of
}

// turns reads the backlogs of those with a turn in a load, and returns the first job of each.
func (s *Store) turns(ctx context.Context, pool string, l *tasks.Load) (first []string, err error) {
	if len(l.Turns) == 0 {
		return nil, nil
	}
	heads, sizes := make([]*redis.StringSliceCmd, len(l.Turns)), make([]*redis.IntCmd, len(l.Turns))
	names := make([]string, len(l.Turns))
	for i, t := range l.Turns {
		names[i] = t.Tenant
	}
	var paid *redis.SliceCmd
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		paid = p.HMGet(ctx, s.keys.paid(pool), names...)
		for i, t := range l.Turns {
			backlog, some := s.keys.backlog(pool, t.Tenant), within(t.Lane)
			heads[i], sizes[i] = p.ZRangeByScore(ctx, backlog, some), p.ZCount(ctx, backlog, some.Min, some.Max)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range l.Turns {
		t := &l.Turns[i]
		cost, _, _ := strings.Cut(str(paid.Val()[i]), " ")
		t.Mean = cmp.Or(float64(atoi(cost))/1e6, l.Mean)
		t.Backlog = t.Mean * float64(sizes[i].Val())
		first = append(first, heads[i].Val()...)
	}
	return first, nil
}

// Position returns where a waiting job stands: one round trip, and a second for a job that
// a worker holds.
func (s *Store) Position(ctx context.Context, j tasks.Job) (p tasks.Place, err error) {
	var rank, ring, out, hold, high, normal *redis.IntCmd
	var holds, order *redis.FloatCmd
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		backlog := s.keys.backlog(j.Pool, j.Tenant)
		rank, order, ring = p.ZRank(ctx, backlog, j.ID), p.ZScore(ctx, backlog, j.ID), p.ZCard(ctx, s.keys.ring(j.Pool))
		high, normal = p.ZCount(ctx, backlog, "-inf", within(tasks.High).Max), p.ZCount(ctx, backlog, "0", within(tasks.Normal).Max)
		out, holds = p.ZRank(ctx, s.keys.handed(j.Pool), j.ID), p.ZScore(ctx, s.keys.held(j.Pool), j.ID)
		hold = p.ZCard(ctx, s.keys.held(j.Pool))
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return p, fmt.Errorf("find the place of job %s: %w", j.ID, redisError(err))
	}
	p = tasks.Place{Lane: j.Priority, Ahead: -1, Tenants: ring.Val()}
	switch {
	case rank.Err() == nil:
		p.Own = rank.Val() + 1
		switch k := order.Val(); {
		case k < 0:
			p.Lane = tasks.High
		case k < apart:
			p.Lane, p.Own = tasks.Normal, p.Own-high.Val()
		case k >= 2*apart: // behind all of its tenant's that are in line
			p.Aside = true
		default:
			p.Lane, p.Own = tasks.Low, p.Own-high.Val()-normal.Val()
		}
	case out.Err() == nil:
		p.Ahead = hold.Val() + out.Val()
	case holds.Err() == nil:
		// Leases are renewed together, so they tell no order; ids tell that in which jobs came.
		held, err := s.rdb.ZRange(ctx, s.keys.held(j.Pool), 0, -1).Result()
		if err != nil {
			return p, fmt.Errorf("find the place of job %s: %w", j.ID, redisError(err))
		}
		p.Ahead = 0
		for _, id := range held {
			if id < j.ID {
				p.Ahead++
			}
		}
	}
	return p, nil
}

// Waiting returns how many jobs a tenant has in a lane of a pool's backlog, "" being normal, and how many
// tenants share the pool's turns.
func (s *Store) Waiting(ctx context.Context, pool, tenant string, lane tasks.Priority) (jobs, tenants int64, err error) {
	var own, ring *redis.IntCmd
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		some := within(lane)
		own = p.ZCount(ctx, s.keys.backlog(pool, tenant), some.Min, some.Max)
		ring = p.ZCard(ctx, s.keys.ring(pool))
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("count the backlog of %s: %w", pool, redisError(err))
	}
	return own.Val(), ring.Val(), nil
}
