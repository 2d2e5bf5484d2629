package store

import (
	"context"
	"fmt"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// laterMost is how many jobs are looked at, the next to be woken first.
const laterMost = 2000

// Later is how many jobs wait for their not_before, by pool. Of more than thousands it counts
// those that come first.
func (s *Store) Later(ctx context.Context) (map[string]tasks.Later, error) {
	all, err := s.rdb.ZRangeWithScores(ctx, s.keys.due(), 0, laterMost-1).Result()
	if err != nil {
		return nil, fmt.Errorf("read which jobs are for later: %w", redisError(err))
	}
	ids, out := make([]string, len(all)), map[string]tasks.Later{}
	for i, z := range all {
		ids[i] = str(z.Member)
	}
	for from := 0; from < len(ids); from += sharesSome {
		some := ids[from:min(len(ids), from+sharesSome)]
		records, err := s.ask(ctx, s.keys.job, some, "p", "s")
		if err != nil {
			return nil, fmt.Errorf("read which jobs are for later: %w", err)
		}
		for i, h := range records {
			if tasks.Status(h["s"]) != tasks.StatusScheduled {
				continue // another attempt of it is for later, or it is gone
			}
			l := out[h["p"]]
			if l.Jobs == 0 {
				l.First = time.UnixMilli(int64(all[from+i].Score)).UTC()
			}
			l.Jobs++
			out[h["p"]] = l
		}
	}
	return out, nil
}
