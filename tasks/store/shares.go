package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

const (
	sharesSome = 1000 // tenants, or jobs, that one command reads: about a third of a ms of Redis's time
	sharesJobs = 4000 // jobs of each line whose tenants are asked for; those behind are not counted
	sinceUnit  = 1e13 // ms that are one in the order of the ring, see enroll in backlog.lua
)

// spans are over what is told, and how long the pieces are by which the record keeps it.
var spans = [...]struct{ whole, piece time.Duration }{{time.Minute, 10 * time.Second}, {time.Hour, 10 * time.Minute}}

// Shares is how the allowance of a pool is shared among tenants at now. It reads some at a time
// while others write, so one tenant may be a moment older than the next.
func (s *Store) Shares(ctx context.Context, pool string, now time.Time) (tasks.Shares, error) {
	r := sharing{s: s, pool: pool, now: now, of: map[string]*tasks.TenantShare{}, backlog: map[string]bool{}}
	for _, read := range []func(context.Context) error{r.served, r.since, r.turns, r.out} {
		if err := read(ctx); err != nil {
			return tasks.Shares{}, fmt.Errorf("read how tenants share pool %s: %w", pool, redisError(err))
		}
	}
	out, err := r.total(ctx)
	if err != nil {
		return tasks.Shares{}, fmt.Errorf("read how tenants share pool %s: %w", pool, redisError(err))
	}
	return out, nil
}

// sharing is what has been read of a pool.
type sharing struct {
	s       *Store
	pool    string
	now     time.Time
	weights map[string]string
	of      map[string]*tasks.TenantShare
	backlog map[string]bool // tenants with one
}

// tenant is what is known of a tenant so far.
func (r *sharing) tenant(name string) *tasks.TenantShare {
	if r.of[name] == nil {
		r.of[name] = &tasks.TenantShare{Tenant: name, Weight: max(1, atoi(r.weights[name]))}
	}
	return r.of[name]
}

// served reads the weights, and what tenants were served.
func (r *sharing) served(ctx context.Context) (err error) {
	if r.weights, err = r.s.rdb.HGetAll(ctx, r.s.keys.weights()).Result(); err != nil {
		return err
	}
	for cursor := uint64(0); ; {
		var fields []string
		if fields, cursor, err = r.s.rdb.HScan(ctx, r.s.keys.load(r.pool), cursor, "\t*", sharesSome).Result(); err != nil {
			return err
		}
		for i := 0; i+1 < len(fields); i += 2 {
			minute, hour, _ := strings.Cut(fields[i+1], " ")
			had := [...]float64{servedIn(minute, r.now, 0), servedIn(hour, r.now, 1)}
			if had[1] > 0 {
				t := r.tenant(fields[i][1:])
				t.Minute, t.Hour = had[0], max(had[0], had[1])
			}
		}
		if cursor == 0 {
			return nil
		}
	}
}

// servedIn adds up what was served in the last of spans: seconds. Of the piece in which that
// began it takes its part.
func servedIn(pieces string, now time.Time, span int) (sum float64) {
	whole, piece := spans[span].whole.Milliseconds(), spans[span].piece.Milliseconds()
	from := now.UnixMilli() - whole
	for one := range strings.SplitSeq(pieces, ",") {
		at, had, _ := strings.Cut(one, ":")
		begun := atoi(at) * piece
		switch part := float64(begun+piece-from) / float64(piece); {
		case part >= 1:
			sum += float64(atoi(had)) / 1e6
		case part > 0:
			sum += part * float64(atoi(had)) / 1e6
		}
	}
	return sum
}

// since reads who has a backlog, and since when.
func (r *sharing) since(ctx context.Context) error {
	turn, err := r.s.rdb.Get(ctx, r.s.keys.turn(r.pool)).Float64()
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	return r.through(ctx, r.s.keys.ring(r.pool), func(all []redis.Z) {
		for _, z := range all {
			name := str(z.Member)
			r.backlog[name] = true
			// Release 0.1.0 moves its turns by much more than a time of ours.
			at := time.UnixMilli(int64((z.Score - turn) * sinceUnit)).UTC()
			if t := r.tenant(name); at.After(r.now.Add(-365*24*time.Hour)) && !at.After(r.now.Add(time.Minute)) {
				t.Since = at
			}
		}
	})
}

// through reads a set by score, some at a time.
func (r *sharing) through(ctx context.Context, key string, take func([]redis.Z)) error {
	for from := int64(0); ; from += sharesSome {
		some, err := r.s.rdb.ZRangeWithScores(ctx, key, from, from+sharesSome-1).Result()
		if err != nil {
			return err
		}
		take(some)
		if len(some) < sharesSome {
			return nil
		}
	}
}

// turns reads who is ahead in each lane, and who behind.
func (r *sharing) turns(ctx context.Context) error {
	for _, lane := range lanes {
		var all []redis.Z
		if err := r.through(ctx, r.s.keys.turns(r.pool, string(lane)), func(some []redis.Z) { all = append(all, some...) }); err != nil {
			return err
		}
		sum, mean := 0.0, 0.0
		for _, z := range all {
			weight := float64(r.tenant(str(z.Member)).Weight)
			sum, mean = sum+weight, mean+weight*z.Score
		}
		for _, z := range all {
			t := r.tenant(str(z.Member))
			t.Lag += float64(t.Weight) * (mean/sum - z.Score)
		}
	}
	return nil
}

// out counts the jobs that have left the backlogs.
func (r *sharing) out(ctx context.Context) error {
	for _, line := range []string{r.s.keys.handed(r.pool), r.s.keys.held(r.pool), r.s.keys.running(r.pool)} {
		ids, err := r.s.rdb.ZRange(ctx, line, 0, sharesJobs-1).Result()
		if err != nil {
			return err
		}
		for some := range slices.Chunk(ids, sharesSome) {
			records, err := r.s.ask(ctx, r.s.keys.job, some, "t")
			if err != nil {
				return err
			}
			for _, h := range records {
				switch {
				case h["t"] == "": // gone since
				case line == r.s.keys.running(r.pool):
					r.tenant(h["t"]).Running++
				default:
					r.tenant(h["t"]).Queued++
				}
			}
		}
	}
	return nil
}

// total is what all of it comes to.
func (r *sharing) total(ctx context.Context) (out tasks.Shares, err error) {
	sum := 0.0
	var all []tasks.TenantShare
	for _, t := range r.of {
		sum += t.Hour
		all = append(all, *t)
	}
	out.Minute = r.jain(time.Minute, func(t *tasks.TenantShare) float64 { return t.Minute })
	out.Hour = r.jain(time.Hour, func(t *tasks.TenantShare) float64 { return t.Hour })
	slices.SortFunc(all, func(a, b tasks.TenantShare) int {
		return cmp.Or(cmp.Compare(b.Hour, a.Hour), cmp.Compare(b.Lag, a.Lag), cmp.Compare(a.Tenant, b.Tenant))
	})
	for i := range all {
		all[i].Share = all[i].Hour / max(sum, 1e-9)
		if i >= tasks.MostShares {
			out.Others++
			out.OthersMinute, out.OthersHour = out.OthersMinute+all[i].Minute, out.OthersHour+all[i].Hour
		}
	}
	out.Tenants = all[:min(len(all), tasks.MostShares)]
	sizes := map[int]*redis.IntCmd{}
	_, err = r.s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, t := range out.Tenants {
			if r.backlog[t.Tenant] {
				sizes[i] = p.ZCard(ctx, r.s.keys.backlog(r.pool, t.Tenant))
			}
		}
		return nil
	})
	for i, n := range sizes {
		out.Tenants[i].Queued += n.Val()
	}
	return out, err
}

// jain is Jain's index over those with a backlog throughout the last while.
func (r *sharing) jain(while time.Duration, served func(*tasks.TenantShare) float64) float64 {
	n, sum, squares := 0.0, 0.0, 0.0
	for _, t := range r.of {
		if !t.Since.IsZero() && !t.Since.After(r.now.Add(-while)) {
			x := served(t) / float64(t.Weight)
			n, sum, squares = n+1, sum+x, squares+x*x
		}
	}
	if n < 2 || squares == 0 {
		return 0
	}
	return sum * sum / (n * squares)
}
