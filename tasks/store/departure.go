package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

var (
	tenantCloseScript      = script("tenant_close")
	tenantJobsScript       = script("tenant_jobs")
	tenantBatchesScript    = script("tenant_batches")
	tenantDeliveriesScript = script("tenant_deliveries")
	tenantNamesScript      = script("tenant_names")
	tenantOpenScript       = script("tenant_open")
)

// What one script deletes of a tenant, and when another process goes on whose deletion has
// made no step for so long.
const (
	leavingJobs     = 10
	leavingLines    = 2000 // of the list of a batch, which are ids
	leavingKeys     = 500  // that are looked at
	leavingPatience = 10 * time.Second
	leavingEvery    = 3 * time.Second // is looked for deletions that were cut off
)

// DeleteTenant deletes all that a tenant has, and notes who wanted that. First nothing of the
// tenant is taken in any more, by any process: a submit under way is refused, or deleted with
// the rest. Then its tokens are revoked, what waits and runs ends, and all of it goes, some at
// a time; its receivers are told nothing. At the end the name is anybody's, and has nothing of
// before. When ctx ends earlier, or this process does, another goes on: see [Store.TendDepartures].
// A repeat goes on, too. With an error, the deletion has begun and goes on where the departure
// has the tenant's name, and what was counted is gone; else nothing was done, or that is not
// known (*tasks.UnknownError).
func (s *Store) DeleteTenant(ctx context.Context, tenant string, act tasks.Act) (tasks.Departure, error) {
	if err := s.CloseTenant(ctx, tenant, act); err != nil {
		return tasks.Departure{}, fmt.Errorf("delete tenant %s: %w", tenant, err)
	}
	err := s.depart(ctx, tenant)
	d, _, unread := s.Departure(context.WithoutCancel(ctx), tenant)
	switch {
	case unread != nil:
		return tasks.Departure{}, &tasks.UnknownError{ID: tenant, Err: errors.Join(err, unread)}
	case err != nil:
		return d, fmt.Errorf("delete tenant %s: %w", tenant, err)
	}
	return d, s.reopen(ctx, tenant, act)
}

// CloseTenant begins the deletion of a tenant: nothing of it is taken in any more. Who tends
// departures goes on with it, unless [Store.DeleteTenant] is called.
func (s *Store) CloseTenant(ctx context.Context, tenant string, act tasks.Act) error {
	a := args{
		"tenant": tenant, "patience": leavingPatience.Milliseconds(), "settle": s.settles().Milliseconds(),
		"act": actLine(act), "acts": maxActs, "old": oldestAct(act),
	}
	return Sure(ctx, tenant, func(ctx context.Context) error { return s.run(ctx, tenantCloseScript, a).Err() })
}

// settles is how long a tenant's name is taken in by nobody after all of it is gone: until
// no process has its key at hand any more.
func (s *Store) settles() time.Duration {
	if s.vault.ring == nil {
		return 0
	}
	return keyFreshFor + keyWithin
}

// Departure is how far the deletion of a tenant has come, and who wants it; nothing when nobody
// does, or it was over some time ago.
func (s *Store) Departure(ctx context.Context, tenant string) (d tasks.Departure, by tasks.Act, err error) {
	h, err := s.rdb.HGetAll(ctx, s.keys.departure(tenant)).Result()
	if err != nil {
		return d, by, fmt.Errorf("read the deletion of tenant %s: %w", tenant, redisError(err))
	}
	d = tasks.Departure{
		Tenant: tenant, Done: h["at"] == "" || h["over"] != "", Jobs: atoi(h["jobs"]), Batches: atoi(h["bat"]), Documents: atoi(h["doc"]), Endpoints: atoi(h["hook"]),
		Deliveries: atoi(h["dlv"]), Tokens: atoi(h["tok"]),
	}
	if _, text, ok := strings.Cut(h["act"], " "); ok {
		by, err = unpackAct("", text)
	}
	return d, by, err
}

// TendDepartures goes on with deletions of tenants that were cut off, until ctx ends.
func (s *Store) TendDepartures(ctx context.Context, failed func(error)) error {
	every := time.NewTicker(leavingEvery)
	defer every.Stop()
	for {
		if err := s.GoOnDeleting(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
	}
}

// GoOnDeleting goes on with the deletions of tenants that nobody has at hand.
func (s *Store) GoOnDeleting(ctx context.Context) error {
	names, err := s.rdb.ZRangeByScore(ctx, s.keys.leaving(), &redis.ZRangeBy{Min: "-inf", Max: fmt.Sprint(s.clock().UnixMilli()), Count: sweepMost}).Result()
	if err != nil {
		return fmt.Errorf("look for tenants that are being deleted: %w", redisError(err))
	}
	var errs []error
	for _, tenant := range names {
		d, by, err := s.Departure(ctx, tenant)
		if err == nil && !d.Done {
			err = s.depart(ctx, tenant)
		}
		if err == nil {
			by.At = s.clock()
			err = s.reopen(ctx, tenant, by)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("delete tenant %s: %w", tenant, err))
		}
	}
	return errors.Join(errs...)
}

// errOver ends the part of a process in a deletion that another one has ended: the name may be
// somebody's again.
var errOver = errors.New("the deletion is over")

// depart deletes what a tenant has whose intake is closed, until nothing is left of it.
func (s *Store) depart(ctx context.Context, tenant string) error {
	at, err := s.rdb.HGet(ctx, s.keys.departure(tenant), "at").Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("read the deletion of tenant %s: %w", tenant, redisError(err))
	}
	if err = s.departAll(ctx, leaver{tenant, at}); errors.Is(err, errOver) {
		return nil
	}
	return err
}

// leaver is a tenant in one deletion of it, which is known by when it began (ms).
type leaver struct{ tenant, at string }

// still fails with errOver when the deletion is over.
func (s *Store) still(ctx context.Context, l leaver) error {
	h, err := s.rdb.HMGet(ctx, s.keys.departure(l.tenant), "at", "over").Result()
	if err != nil {
		return fmt.Errorf("read the deletion of tenant %s: %w", l.tenant, redisError(err))
	}
	if l.at == "" || h[0] != l.at || h[1] != nil {
		return errOver
	}
	return nil
}

func (s *Store) departAll(ctx context.Context, l leaver) error {
	for {
		for _, step := range []func(context.Context, leaver) error{
			s.still, s.revokeAll, s.endpointsLeave, s.stagedLeave, s.unfoldAll, s.jobsLeave, s.batchesLeave, s.deliveriesLeave, s.documentsLeave, s.contentsLeave, s.namesLeave,
			// Last of all its key: nothing that it has sealed is left, and nothing is taken in before
			// every process has forgotten it too.
			s.keyLeaves,
		} {
			if err := step(ctx, l); err != nil {
				return err
			}
		}
		d, by, err := s.Departure(ctx, l.tenant)
		if err != nil {
			return err
		}
		by.At, by.Action, by.Reason = s.clock(), "tenant_deleted", d.String()
		if word, err := s.open(ctx, l.tenant, by); err != nil || word != "more" {
			return err
		}
	}
}

// open ends the deletion of a tenant, where nothing is left of it.
func (s *Store) open(ctx context.Context, tenant string, by tasks.Act) (string, error) {
	pools := slices.AppendSeq(make([]string, 0, len(s.depth)), maps.Keys(s.depth))
	return s.run(ctx, tenantOpenScript, args{
		"tenant": tenant, "settle": s.settles().Milliseconds(), "pools": pools,
		"act": actLine(by), "acts": maxActs, "old": oldestAct(by),
	}).Text()
}

// reopen forgets that a tenant was deleted, once its name is anybody's.
func (s *Store) reopen(ctx context.Context, tenant string, by tasks.Act) error {
	_, err := s.open(ctx, tenant, by)
	return err
}

// leaves notes what was deleted.
func (s *Store) leaves(ctx context.Context, tenant, what string, n int) error {
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HIncrBy(ctx, s.keys.departure(tenant), what, int64(n))
		p.ZAddXX(ctx, s.keys.leaving(), redis.Z{Member: tenant, Score: float64(s.clock().Add(leavingPatience).UnixMilli())})
		return nil
	})
	return redisError(err)
}

// paced takes step again and again while something is left, and between two as long a pause
// as the one before took: others find Redis free half of the time.
func paced(ctx context.Context, step func() (left bool, err error)) error {
	for {
		begun := time.Now()
		if left, err := step(); err != nil || !left {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(time.Since(begun), 100*time.Millisecond)):
		}
	}
}

func (s *Store) revokeAll(ctx context.Context, l leaver) error {
	tenant := l.tenant
	by := tasks.Act{}
	after := ""
	return paced(ctx, func() (bool, error) {
		page, err := s.KeptTokens(ctx, after, 100)
		if err != nil {
			return false, err
		}
		for _, t := range page.Tokens {
			if t.Tenant != tenant {
				continue
			}
			if err := s.still(ctx, l); err != nil {
				return false, err
			}
			if by.Target == "" {
				if _, by, err = s.Departure(ctx, tenant); err != nil {
					return false, err
				}
				by.Target = tenant
			}
			act := tasks.Act{At: s.clock(), By: by.By, Tenant: by.Tenant, Via: by.Via, Action: "revoke_token", Target: t.ID, Reason: "tenant " + tenant + " is deleted"}
			if t.Revoked.IsZero() {
				if err := s.RevokeToken(ctx, t.ID, 0, act); err != nil {
					return false, err
				}
			}
			_, err := s.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
				p.Del(ctx, s.keys.token(t.ID))
				p.ZRem(ctx, s.keys.tokens(), t.ID)
				return nil
			})
			if err == nil {
				err = s.leaves(ctx, tenant, "tok", 1)
			}
			if err != nil {
				return false, redisError(err)
			}
		}
		after = page.Next
		return after != "", nil
	})
}

func (s *Store) endpointsLeave(ctx context.Context, l leaver) error {
	tenant := l.tenant
	ids, err := s.rdb.ZRange(ctx, s.keys.endpoints(tenant), 0, -1).Result()
	if err != nil {
		return redisError(err)
	}
	for _, id := range ids {
		if err := s.still(ctx, l); err != nil {
			return err
		}
		err := s.DeleteEndpoint(ctx, tenant, id)
		if errors.Is(err, tasks.ErrNotFound) { // its record is gone
			err = redisError(s.rdb.ZRem(ctx, s.keys.endpoints(tenant), id).Err())
		}
		if err == nil {
			err = s.leaves(ctx, tenant, "hook", 1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stagedLeave forgets the batches that are being written.
func (s *Store) stagedLeave(ctx context.Context, l leaver) error {
	tenant := l.tenant
	ids, err := s.rdb.ZRange(ctx, s.keys.staged(tenant), 0, -1).Result()
	if err != nil {
		return redisError(err)
	}
	for _, id := range ids {
		if err := s.still(ctx, l); err != nil {
			return err
		}
		if err := s.AbortBatch(ctx, id); err != nil {
			return err
		}
		if err := s.rdb.ZRem(ctx, s.keys.staged(tenant), id).Err(); err != nil {
			return redisError(err)
		}
	}
	return nil
}

// unfoldAll has every line of the tenant's batches stand among its jobs. Nothing is handed out
// for it.
func (s *Store) unfoldAll(ctx context.Context, l leaver) error {
	tenant := l.tenant
	ids, err := s.rdb.ZRange(ctx, s.keys.batches(tenant), 0, -1).Result()
	if err != nil {
		return redisError(err)
	}
	for _, id := range ids {
		there, err := s.rdb.HExists(ctx, s.keys.batch(id), "at").Result()
		if err != nil && !strings.HasPrefix(err.Error(), "WRONGTYPE") {
			return redisError(err)
		}
		if !there {
			continue
		}
		err = paced(ctx, func() (bool, error) {
			reply, err := s.run(ctx, batchUnfoldScript, args{"batch": id, "most": unfoldLines, "depths": map[string]int{}}).Slice()
			if err != nil {
				return false, err
			}
			return num(reply[0]) > 0, s.leaves(ctx, tenant, "jobs", 0)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) jobsLeave(ctx context.Context, l leaver) error {
	return paced(ctx, func() (bool, error) {
		reply, err := s.run(ctx, tenantJobsScript, args{"tenant": l.tenant, "at": l.at, "most": leavingJobs, "patience": leavingPatience.Milliseconds()}).Slice()
		if err != nil {
			return false, err
		}
		if num(reply[0]) < 0 {
			return false, errOver
		}
		s.remove(ctx, words(reply[1]))
		return num(reply[0]) > 0, nil
	})
}

func (s *Store) batchesLeave(ctx context.Context, l leaver) error {
	return paced(ctx, func() (bool, error) {
		left, err := s.run(ctx, tenantBatchesScript, args{"tenant": l.tenant, "at": l.at, "most": leavingLines, "patience": leavingPatience.Milliseconds()}).Int64()
		if err == nil && left < 0 {
			err = errOver
		}
		return left > 0, err
	})
}

func (s *Store) deliveriesLeave(ctx context.Context, l leaver) error {
	return paced(ctx, func() (bool, error) {
		left, err := s.run(ctx, tenantDeliveriesScript, args{"tenant": l.tenant, "at": l.at, "most": hooksMost / 2, "patience": leavingPatience.Milliseconds()}).Int64()
		if err == nil && left < 0 {
			err = errOver
		}
		return left > 0, err
	})
}

// documentsLeave forgets the tenant's documents, with their contents.
func (s *Store) documentsLeave(ctx context.Context, l leaver) error {
	tenant := l.tenant
	file, batch := string(tasks.FileDocument), string(tasks.BatchDocument)
	for _, list := range []string{s.keys.documents(file, tenant), s.keys.documents(batch, tenant), s.keys.claims(tenant)} {
		err := paced(ctx, func() (bool, error) {
			ids, err := s.rdb.ZRange(ctx, list, 0, contentsMost-1).Result()
			if err != nil || len(ids) == 0 {
				return false, redisError(err)
			}
			if err := s.still(ctx, l); err != nil {
				return false, err
			}
			if err := s.dropContents(ctx, 0, ids...); err != nil {
				return false, err
			}
			_, err = s.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
				for _, id := range ids {
					p.Del(ctx, s.keys.document(id))
				}
				p.ZRem(ctx, list, anys(ids)...)
				return nil
			})
			if err == nil && list == s.keys.documents(file, tenant) {
				err = s.leaves(ctx, tenant, "doc", len(ids))
			}
			return true, redisError(err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// contentsLeave forgets contents whose documents never came.
func (s *Store) contentsLeave(ctx context.Context, l leaver) error {
	tenant := l.tenant
	from := int64(0)
	return paced(ctx, func() (bool, error) {
		ids, err := s.rdb.ZRange(ctx, s.keys.contents(), from, from+contentsMost-1).Result()
		if err != nil || len(ids) == 0 {
			return false, redisError(err)
		}
		owners := make([]*redis.StringCmd, len(ids))
		_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, id := range ids {
				owners[i] = p.HGet(ctx, s.keys.stock(id), "t")
			}
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return false, redisError(err)
		}
		var mine []string
		for i, id := range ids {
			if owners[i].Val() == tenant {
				mine = append(mine, id)
			}
		}
		from += int64(len(ids) - len(mine))
		if len(mine) > 0 {
			if err := s.still(ctx, l); err != nil {
				return false, err
			}
		}
		return true, s.dropContents(ctx, 0, mine...)
	})
}

// namesLeave forgets what no list has.
func (s *Store) namesLeave(ctx context.Context, l leaver) error {
	cursor := "0"
	return paced(ctx, func() (more bool, err error) {
		cursor, err = s.run(ctx, tenantNamesScript, args{"tenant": l.tenant, "at": l.at, "cursor": cursor, "most": leavingKeys, "patience": leavingPatience.Milliseconds()}).Text()
		if err == nil && cursor == "over" {
			err = errOver
		}
		return cursor != "0", err
	})
}
