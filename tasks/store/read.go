package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

// Job returns a tenant's job. Another tenant's, or one that has outlived its
// time, is ErrNotFound.
func (s *Store) Job(ctx context.Context, tenant, id string) (tasks.Job, error) {
	h, err := s.rdb.HGetAll(ctx, prefix+"j:"+id).Result()
	if err != nil {
		return tasks.Job{}, fmt.Errorf("read job %s: %w", id, known(err))
	}
	if len(h) == 0 || h["t"] != tenant {
		return tasks.Job{}, tasks.ErrNotFound
	}
	return unpack(id, h)
}

// each reads jobs in one round trip; those that are gone are left out.
func (s *Store) each(ctx context.Context, ids []string) ([]tasks.Job, error) {
	cmds, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, id := range ids {
			p.HGetAll(ctx, prefix+"j:"+id)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %d jobs: %w", len(ids), known(err))
	}
	jobs := make([]tasks.Job, 0, len(ids))
	for i, c := range cmds {
		h := c.(*redis.MapStringStringCmd).Val()
		if len(h) == 0 {
			continue
		}
		j, err := unpack(ids[i], h)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// Ended returns those of ids whose job is final or gone.
func (s *Store) Ended(ctx context.Context, ids []string) ([]string, error) {
	var ended []string
	for len(ids) > 0 {
		n := min(1000, len(ids))
		cmds, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, id := range ids[:n] {
				p.HGet(ctx, prefix+"j:"+id, "s")
			}
			return nil
		})
		if err != nil && err != redis.Nil {
			return nil, fmt.Errorf("look at %d jobs: %w", n, known(err))
		}
		for i, c := range cmds {
			status, err := c.(*redis.StringCmd).Result()
			if err == redis.Nil || err == nil && tasks.Status(status).Final() {
				ended = append(ended, ids[i])
			}
		}
		ids = ids[n:]
	}
	return ended, nil
}

// A page of a filtered list reads at most so many jobs, so that a rare status
// among a million jobs costs several pages, not one slow answer.
const (
	listChunk = 100
	listReads = 50
)

// Jobs returns one page of a tenant's jobs, newest first.
func (s *Store) Jobs(ctx context.Context, f tasks.Filter) (tasks.Page, error) {
	next := s.newest(f.Tenant, f.After)
	if f.Batch != "" {
		b, err := s.Batch(ctx, f.Tenant, f.Batch)
		if err != nil {
			return tasks.Page{}, err
		}
		if next, err = s.backwards(ctx, b.ID, f.After); err != nil {
			return tasks.Page{}, err
		}
	}
	var page tasks.Page
	var last string
	for range listReads {
		ids, err := next(ctx)
		if err != nil {
			return tasks.Page{}, err
		}
		jobs, err := s.each(ctx, ids)
		if err != nil {
			return tasks.Page{}, err
		}
		for _, j := range jobs {
			if (f.Status != "" && j.Status != f.Status) || (f.Model != "" && j.Model != f.Model) {
				continue
			}
			if len(page.Jobs) == f.Limit {
				page.HasMore, page.Next = true, page.Jobs[f.Limit-1].ID
				return page, nil
			}
			page.Jobs = append(page.Jobs, j)
		}
		if len(ids) < listChunk {
			return page, nil
		}
		last = ids[len(ids)-1]
	}
	page.HasMore, page.Next = true, last
	return page, nil
}

// newest lists a tenant's ids from after on, a chunk a call.
func (s *Store) newest(tenant, after string) func(context.Context) ([]string, error) {
	from := "+"
	if after != "" {
		from = "(" + after
	}
	return func(ctx context.Context) ([]string, error) {
		ids, err := s.rdb.ZRevRangeByLex(ctx, prefix+"tn:"+tenant, &redis.ZRangeBy{Min: "-", Max: from, Count: listChunk}).Result()
		if err != nil {
			return nil, fmt.Errorf("list jobs: %w", known(err))
		}
		if len(ids) > 0 {
			from = "(" + ids[len(ids)-1]
		}
		return ids, nil
	}
}

// backwards lists a batch's ids from its last line, or the one before after.
func (s *Store) backwards(ctx context.Context, batch, after string) (func(context.Context) ([]string, error), error) {
	key := prefix + "gl:" + batch
	end := int64(-1)
	if after != "" {
		at, err := s.rdb.LPos(ctx, key, after, redis.LPosArgs{}).Result()
		if err != nil {
			if err == redis.Nil {
				return nil, tasks.ErrNotFound
			}
			return nil, fmt.Errorf("list batch %s: %w", batch, known(err))
		}
		end = at - 1
	} else {
		n, err := s.rdb.LLen(ctx, key).Result()
		if err != nil {
			return nil, fmt.Errorf("list batch %s: %w", batch, known(err))
		}
		end = n - 1
	}
	return func(ctx context.Context) ([]string, error) {
		if end < 0 {
			return nil, nil
		}
		start := max(0, end-listChunk+1)
		ids, err := s.rdb.LRange(ctx, key, start, end).Result()
		if err != nil {
			return nil, fmt.Errorf("list batch %s: %w", batch, known(err))
		}
		end = start - 1
		for i, k := 0, len(ids)-1; i < k; i, k = i+1, k-1 {
			ids[i], ids[k] = ids[k], ids[i]
		}
		return ids, nil
	}, nil
}

// Load is how much of a pool's work stands where.
type Load struct {
	Queued         int64 // all that wait, scheduled and retrying ones too
	Running        int64
	Handed         int64     // of the queued, those already handed to Asynq or held by a worker
	Tenants        int64     // tenants with a backlog
	OldestQueuedAt time.Time // of those that may run now; zero when all are for later
}

// Load reports a pool's load. The oldest job is looked for at the head of the
// backlogs of the first hundred tenants.
func (s *Store) Load(ctx context.Context, pool string) (Load, error) {
	var counts *redis.SliceCmd
	var out, hold, ring *redis.IntCmd
	var tenants, first, held *redis.StringSliceCmd
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		counts = p.HMGet(ctx, prefix+"n:"+pool, "queued", "running")
		out, hold, ring = p.ZCard(ctx, prefix+"out:"+pool), p.ZCard(ctx, prefix+"hold:"+pool), p.ZCard(ctx, prefix+"ring:"+pool)
		tenants = p.ZRange(ctx, prefix+"ring:"+pool, 0, 99)
		first, held = p.ZRange(ctx, prefix+"out:"+pool, 0, 0), p.ZRange(ctx, prefix+"hold:"+pool, 0, 0)
		return nil
	})
	if err != nil {
		return Load{}, fmt.Errorf("read the load of %s: %w", pool, known(err))
	}
	l := Load{
		Queued: max(0, num(counts.Val()[0])), Running: max(0, num(counts.Val()[1])),
		Handed: out.Val() + hold.Val(), Tenants: ring.Val(),
	}
	ids := append(first.Val(), held.Val()...)
	if len(tenants.Val()) > 0 {
		heads, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, t := range tenants.Val() {
				p.ZRange(ctx, prefix+"q:"+pool+":"+t, 0, 0)
			}
			return nil
		})
		if err != nil {
			return Load{}, fmt.Errorf("read the load of %s: %w", pool, known(err))
		}
		for _, c := range heads {
			ids = append(ids, c.(*redis.StringSliceCmd).Val()...)
		}
	}
	for _, id := range ids {
		if at := born(id); !at.IsZero() && (l.OldestQueuedAt.IsZero() || at.Before(l.OldestQueuedAt)) {
			l.OldestQueuedAt = at
		}
	}
	return l, nil
}

// Position returns a waiting job's place among its tenant's own jobs of its
// pool, 1 being next, and how many tenants share the pool's turns. It is 0
// once the job has been handed out.
func (s *Store) Position(ctx context.Context, j tasks.Job) (place, tenants int64, err error) {
	var rank *redis.IntCmd
	var ring *redis.IntCmd
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		rank = p.ZRank(ctx, prefix+"q:"+j.Pool+":"+j.Tenant, j.ID)
		ring = p.ZCard(ctx, prefix+"ring:"+j.Pool)
		return nil
	})
	if err != nil && err != redis.Nil {
		return 0, 0, fmt.Errorf("find the place of job %s: %w", j.ID, known(err))
	}
	if rank.Err() == redis.Nil {
		return 0, ring.Val(), nil
	}
	return rank.Val() + 1, ring.Val(), nil
}

// Waiting returns how many jobs a tenant has in a pool's backlog, and how many
// tenants share the pool's turns.
func (s *Store) Waiting(ctx context.Context, pool, tenant string) (jobs, tenants int64, err error) {
	var own, ring *redis.IntCmd
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		own = p.ZCard(ctx, prefix+"q:"+pool+":"+tenant)
		ring = p.ZCard(ctx, prefix+"ring:"+pool)
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("count the backlog of %s: %w", pool, known(err))
	}
	return own.Val(), ring.Val(), nil
}

// born reads the time out of an id's ULID.
func born(id string) time.Time {
	_, u, _ := strings.Cut(id, "_")
	return ulidTime(u)
}

// SetPaused stops or allows the handing out of a pool's jobs. What is already
// handed out stays where it is.
func (s *Store) SetPaused(ctx context.Context, pool string, paused bool) error {
	var err error
	if paused {
		err = s.rdb.HSet(ctx, prefix+"paused", pool, 1).Err()
	} else {
		err = s.rdb.HDel(ctx, prefix+"paused", pool).Err()
	}
	if err != nil {
		return fmt.Errorf("pause the backlog of %s: %w", pool, known(err))
	}
	return nil
}
