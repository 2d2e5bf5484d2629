package queue

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const (
	namedMost   = 100 // lost jobs that one line of the log names
	unknownPool = "unknown"
)

// audit compares records and counts, a step at each pause, until ctx ends.
func (f *Feeder) audit(ctx context.Context) {
	tick := time.NewTicker(f.c.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		found, err := f.c.Backlog.Audit(ctx)
		if err != nil && ctx.Err() == nil {
			f.c.Log.Warn("audit", "error", err)
		}
		f.audited(&found)
	}
}

// audited counts and logs what an audit has found.
func (f *Feeder) audited(found *tasks.Audited) {
	f.name(found.Lost)
	for _, id := range found.Batches {
		f.c.Log.Warn("a batch was ended: none of its lines would end any more", "batch", id)
	}
	for _, id := range found.LostBatches {
		f.c.Log.Error("a batch is lost: its record is gone from Redis; its jobs go on", "batch", id)
	}
	if found.PutBack > 0 {
		f.c.Log.Warn("jobs that stood in no line were put back", "jobs", found.PutBack)
	}
	if len(found.Counts) > 0 {
		f.c.Log.Warn("counts that were off are as the records say", "counts", ofTenants(found.Counts))
	}
	for kind, n := range map[string]int{"put_back": found.PutBack, "batch_ended": len(found.Batches), "batch_lost": len(found.LostBatches), "counts": len(found.Counts)} {
		f.mended.WithLabelValues(kind).Add(float64(n))
	}
}

// ofTenants is counts without their users, whose names are often addresses of people.
func ofTenants(counts []string) []string {
	of := make([]string, len(counts))
	for i, it := range counts {
		if of[i] = it; strings.HasPrefix(it, "user ") {
			of[i], _, _ = strings.Cut(it, "/")
		}
	}
	return slices.Compact(of)
}

// name counts lost jobs and names every one of them in the log.
func (f *Feeder) name(lost []tasks.LostJob) {
	of := func(j tasks.LostJob) tasks.LostJob {
		return tasks.LostJob{Tenant: j.Tenant, Pool: j.Pool, Ended: j.Ended}
	}
	for len(lost) > 0 {
		alike := of(lost[0])
		var ids []string
		for len(ids) < min(namedMost, len(lost)) && of(lost[len(ids)]) == alike {
			ids = append(ids, lost[len(ids)].ID)
		}
		lost = lost[len(ids):]
		f.lost.WithLabelValues(cmp.Or(alike.Pool, unknownPool)).Add(float64(len(ids)))
		f.c.Log.Error("jobs are lost: their records are gone from Redis", "jobs", ids, "tenant", alike.Tenant, "pool", alike.Pool, "had_ended", alike.Ended)
	}
}
