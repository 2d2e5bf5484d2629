package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

var conductSaveScript = script("conduct_save")

// conductFor is how long the conduct of a tenant is kept that does nothing.
const conductFor = 30 * 24 * time.Hour

// SaveConducts keeps how tenants behave, all in one round trip. Of those that another process
// has kept since, it keeps nothing and returns what is there; a Version of -1 only reads.
func (s *Store) SaveConducts(ctx context.Context, list []tasks.Conduct) (newer []tasks.Conduct, now time.Time, err error) {
	return s.saveConducts(ctx, list, "", "")
}

// ChangeConduct keeps how a tenant behaves together with the act that made it so: neither is there
// without the other. Where another process has kept anything since, nothing is done, and it returns what is there.
func (s *Store) ChangeConduct(ctx context.Context, c tasks.Conduct, act tasks.Act) (newer []tasks.Conduct, err error) {
	line, old := actLine(act), oldestAct(act)
	err = Sure(ctx, act.Target, func(ctx context.Context) (err error) {
		newer, _, err = s.saveConducts(ctx, []tasks.Conduct{c}, line, old)
		return err
	})
	return newer, err
}

// saveConducts is SaveConducts with a line of the audit; "": none.
func (s *Store) saveConducts(ctx context.Context, list []tasks.Conduct, line, old string) (newer []tasks.Conduct, now time.Time, err error) {
	rows := make([]any, 0, 5*len(list))
	for i := range list {
		rows = append(rows, list[i].Tenant, list[i].Version, list[i].Data, flag(list[i].Found), list[i].Held.Milliseconds())
	}
	got, err := s.run(ctx, conductSaveScript, args{"keep": conductFor.Milliseconds(), "act": line, "acts": maxActs, "old": old}, rows...).Slice()
	if err != nil {
		return nil, now, fmt.Errorf("keep how tenants behave: %w", err)
	}
	if len(got) != 1+2*len(list) {
		return nil, now, fmt.Errorf("keep how tenants behave: %d values in the answer", len(got))
	}
	ms, _ := got[0].(int64)
	for i := range list {
		if version, other := got[1+2*i].(int64); other {
			data, _ := got[2+2*i].(string)
			newer = append(newer, tasks.Conduct{Tenant: list[i].Tenant, Version: version, Data: []byte(data)})
		}
	}
	return newer, time.UnixMilli(ms), nil
}

// Conducts are those of tenants of which something was found, the newest first.
func (s *Store) Conducts(ctx context.Context, limit int) ([]tasks.Conduct, error) {
	old := strconv.FormatInt(s.clock().Add(-conductFor).UnixMilli(), 10)
	names, err := s.rdb.ZRevRangeByScore(ctx, s.keys.conducts(), &redis.ZRangeBy{Min: old, Max: "+inf", Count: int64(limit)}).Result()
	if err != nil {
		return nil, fmt.Errorf("read how tenants behave: %w", redisError(err))
	}
	got := make([]*redis.SliceCmd, len(names))
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, name := range names {
			got[i] = p.HMGet(ctx, s.keys.conduct(name), "v", "d")
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("read how tenants behave: %w", redisError(err))
	}
	var list []tasks.Conduct
	for i, name := range names {
		h := got[i].Val()
		if v, ok := h[0].(string); ok {
			data, _ := h[1].(string)
			list = append(list, tasks.Conduct{Tenant: name, Version: atoi(v), Data: []byte(data)})
		}
	}
	return list, nil
}
