package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

var (
	watchScript = script("watch")
	pastScript  = script("past")
)

const (
	// watchEvery is how often a pool is looked at, whoever does.
	watchEvery = 900 * time.Millisecond
	// pastMost entries of a pool's past are kept, of about 30 bytes.
	pastMost = 4096
)

// Watch says that this process is there, and, when it works, that it makes calls of these
// pools. It returns those that nobody has looked at for about a second: [Store.Bound] is to
// be told what their jobs wait for.
func (s *Store) Watch(ctx context.Context, works bool, pools ...string) ([]tasks.WatchTurn, error) {
	reply, err := s.run(ctx, watchScript, args{"works": works, "every": watchEvery.Milliseconds(), "me": s.process}, anys(pools)...).Slice()
	if err != nil {
		return nil, fmt.Errorf("look after %d pools: %w", len(pools), err)
	}
	turns := make([]tasks.WatchTurn, 0, len(reply)/2)
	for i := 0; i+1 < len(reply); i += 2 {
		turns = append(turns, tasks.WatchTurn{Pool: str(reply[i]), Since: time.Duration(num(reply[i+1])) * time.Millisecond})
	}
	return turns, nil
}

// Processes returns who looks after pools, or did so less than a minute ago, by their names.
func (s *Store) Processes(ctx context.Context) ([]tasks.Process, error) {
	list, err := s.rdb.ZRangeWithScores(ctx, s.keys.processes(), 0, -1).Result()
	if err != nil {
		return nil, fmt.Errorf("read which processes are there: %w", redisError(err))
	}
	out := make([]tasks.Process, 0, len(list))
	for _, z := range list {
		if said := strings.SplitN(str(z.Member), " ", 3); len(said) == 3 {
			out = append(out, tasks.Process{Works: said[0] == "1", Version: said[1], Name: said[2], Seen: fromMilli(int64(z.Score))})
		}
	}
	slices.SortFunc(out, func(a, b tasks.Process) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Bound notes what a pool's jobs wait for from a moment on, by Redis's clock; zero is
// now. Nothing is written when that is what they waited for before. What they waited for
// while nobody looked, for longer than
// [tasks.Unwatched], is noted as unknown.
func (s *Store) Bound(ctx context.Context, t tasks.WatchTurn, b tasks.Bind) error {
	gap := int64(0)
	if t.Since > tasks.Unwatched {
		gap = t.Since.Milliseconds()
	}
	err := s.run(ctx, pastScript, args{
		"pool": t.Pool, "cause": waitLetter(b.For), "shares": b.Shares, "begun": b.Begun, "at": max(0, milli(b.At)), "gap": gap, "most": pastMost,
	}).Err()
	if err != nil {
		return fmt.Errorf("note what pool %s waits for: %w", t.Pool, err)
	}
	return nil
}

// Past returns what the jobs of pools have waited for.
func (s *Store) Past(ctx context.Context, pools ...string) (map[string]tasks.Past, error) {
	lists, eyes := make([]*redis.StringSliceCmd, len(pools)), make([]*redis.SliceCmd, len(pools))
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, pool := range pools {
			lists[i], eyes[i] = p.LRange(ctx, s.keys.past(pool), 0, -1), p.HMGet(ctx, s.keys.watched(pool), "at", "wk")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the past of %d pools: %w", len(pools), redisError(err))
	}
	out := map[string]tasks.Past{}
	for i, pool := range pools {
		past := tasks.Past{Seen: fromMilli(num(eyes[i].Val()[0])), Working: fromMilli(num(eyes[i].Val()[1]))}
		for _, entry := range lists[i].Val() {
			f := strings.Fields(entry)
			if len(f) != 3 && len(f) != 4 {
				continue // of a release after this one
			}
			b := tasks.Bind{At: fromMilli(atoi(f[0])), For: waitReason(f[1])}
			b.Shares, _ = strconv.ParseFloat(f[2], 64)
			if len(f) == 4 {
				b.Begun, _ = strconv.ParseFloat(f[3], 64)
			}
			past.Binds = append(past.Binds, b)
		}
		out[pool] = past
	}
	return out, nil
}

// History returns what is known of the time of a tenant's job. Another tenant's, or one
// that has outlived its time, is ErrNotFound.
func (s *Store) History(ctx context.Context, tenant, id string) (tasks.History, error) {
	records, err := s.ask(ctx, s.keys.job, []string{id}, shown...)
	if err != nil {
		return tasks.History{}, fmt.Errorf("read job %s: %w", id, err)
	}
	r := records[0]
	if !owns(tenant, r) {
		return tasks.History{}, tasks.ErrNotFound
	}
	h := tasks.History{}
	if h.Job, err = s.unpack(ctx, id, r); err != nil {
		return h, err
	}
	h.Happened, h.Cut = happened(r["w"], h.Job.CreatedAt), strings.HasPrefix(r["w"], "~ ")
	pools := []string{h.Job.Pool}
	for _, m := range h.Happened {
		if m.Pool != "" {
			pools = append(pools, m.Pool)
		}
	}
	if h.Reviews, err = s.reviews(ctx, h.Job.Tenant); err != nil {
		return h, err
	}
	if h.Pools, err = s.Past(ctx, pools...); err == nil && h.Job.Status == tasks.StatusRunning {
		h.Bundle, err = s.inBundle(ctx, h.Job.Bundle)
	}
	return h, err
}

// reviews are when a tenant's jobs waited for a review.
func (s *Store) reviews(ctx context.Context, tenant string) (list []tasks.Review, err error) {
	var over *redis.StringSliceCmd
	var now *redis.StringCmd
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		over, now = p.LRange(ctx, s.keys.reviews(tenant), 0, -1), p.HGet(ctx, s.keys.weights(), "\t\r"+tenant)
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("read the reviews of %s: %w", tenant, redisError(err))
	}
	for _, entry := range over.Val() {
		list = append(list, reviewOf(entry))
	}
	if now.Val() != "" {
		list = append(list, reviewOf(now.Val()))
	}
	return list, nil
}

// reviewOf reads from when until when, in ms.
func reviewOf(noted string) tasks.Review {
	from, to, _ := strings.Cut(noted, " ")
	return tasks.Review{From: fromMilli(atoi(from)), To: fromMilli(atoi(to))}
}

// happened reads what the scripts have noted of a job: see moment in record.lua.
func happened(noted string, created time.Time) (out []tasks.Happening) {
	at := func(ms string) time.Time { return created.Add(time.Duration(atoi(ms)) * time.Millisecond) }
	for _, item := range strings.Fields(strings.TrimPrefix(noted, "~ ")) {
		ms, more, _ := strings.Cut(item[1:], ",")
		m := tasks.Happening{Kind: tasks.HappeningKind(item[0]), At: at(ms)}
		switch m.Kind {
		case tasks.HasDiverted:
			m.Pool = more
		case tasks.HasHeld, tasks.HasAgain:
			if more != "" {
				m.From = at(more)
			}
		}
		out = append(out, m)
	}
	return out
}
