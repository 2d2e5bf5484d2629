package queue

import (
	"context"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const (
	namedMost   = 100 // lost jobs that the log names in a minute; of the others it has the number
	unknownPool = "unknown"
)

// audits is what the log has of lost jobs.
type audits struct {
	minute  time.Time // when it began
	named   int       // in it
	unnamed int       // in it
}

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
		f.c.Log.Warn("counts that were off are as the records say", "counts", found.Counts)
	}
	for kind, n := range map[string]int{"put_back": found.PutBack, "batch_ended": len(found.Batches), "batch_lost": len(found.LostBatches), "counts": len(found.Counts)} {
		f.mended.WithLabelValues(kind).Add(float64(n))
	}
}

// name counts lost jobs and names them in the log, so many a minute.
func (f *Feeder) name(lost []tasks.LostJob) {
	a := &f.audits
	if time.Since(a.minute) >= time.Minute {
		if a.unnamed > 0 {
			f.c.Log.Error("more jobs are lost than the log names", "jobs", a.unnamed)
		}
		*a = audits{minute: time.Now()}
	}
	for _, j := range lost {
		pool := j.Pool
		if pool == "" {
			pool = unknownPool
		}
		f.lost.WithLabelValues(pool).Inc()
		if a.named++; a.named > namedMost {
			a.unnamed++
			continue
		}
		f.c.Log.Error("a job is lost: its record is gone from Redis", "job", j.ID, "tenant", j.Tenant, "pool", j.Pool, "had_ended", j.Ended)
	}
}
