package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

// Mishaps returns what went wrong in pools in the hour before now. Where another type stands, nothing was counted.
func (s *Store) Mishaps(ctx context.Context, now time.Time, pools ...string) (map[string]tasks.Mishaps, error) {
	counts := make([]*redis.MapStringStringCmd, len(pools))
	_, _ = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, pool := range pools {
			counts[i] = p.HGetAll(ctx, s.keys.mishaps(pool))
		}
		return nil
	})
	out := make(map[string]tasks.Mishaps, len(pools))
	for i, pool := range pools {
		if err := counts[i].Err(); err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
			return nil, fmt.Errorf("read what went wrong in %q: %w", pool, redisError(err))
		}
		out[pool] = mishapsOf(counts[i].Val(), now)
	}
	return out, nil
}

// mishapsOf adds up what mishap in account.lua has counted.
func mishapsOf(counts map[string]string, now time.Time) (m tasks.Mishaps) {
	kinds := map[byte]*[]tasks.Mishap{'c': &m.Calls, 'j': &m.Jobs, 'd': &m.Diverted}
	newest := map[string]int64{} // by kind and cause
	for field, value := range counts {
		words, cause, ok := strings.Cut(field, " ")
		said := strings.SplitN(value, " ", 3)
		if !ok || len(words) < 2 || len(said) != 3 || kinds[words[0]] == nil {
			continue // of a release after this one
		}
		at := atoi(said[0])
		if now.Sub(fromMilli(at)) >= time.Hour {
			continue
		}
		list := kinds[words[0]]
		i := slices.IndexFunc(*list, func(m tasks.Mishap) bool { return m.Cause == cause })
		if i < 0 {
			i = len(*list)
			*list = append(*list, tasks.Mishap{Cause: cause})
		}
		of := &(*list)[i]
		of.Count += atoi(said[1])
		if name := words[:1] + cause; at >= newest[name] {
			of.Last, newest[name] = said[2], at
		}
	}
	for _, list := range kinds {
		slices.SortFunc(*list, func(a, b tasks.Mishap) int {
			return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Cause, b.Cause))
		})
	}
	return m
}
