package pool

import (
	"cmp"
	"math"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/limit"
)

// facts are all that a forecast is made of: one job at one moment, and what stands
// before it. Work is counted in cost, of which a call like the recent ones has mean.
type facts struct {
	own    float64 // work before it in its tenant's own backlog
	weight float64 // of its tenant
	turn   float64 // of its tenant
	others []tasks.Turn
	unseen int64 // tenants with a backlog that are not among others, whose turns come later
	lanes  []beside
	stage  float64 // calls between the backlog and the provider that go before it
	handed bool    // it is among those itself: no tenant's turn comes before it
	mean   float64 // 0: 1
	passes float64 // share of what is served that tenants have who come and go, with no backlog to see

	gate limit.State
	// While the pool is shut, how long it is expected to be so, and by when nine of ten such
	// are open again; it goes on at a share of its pace.
	shut       bool
	open, late time.Duration
	pace       float64
}

// ahead is how many calls go before the job. Start-time fair queueing in the fluid: the
// job has its turn when its tenant's own work before it has moved the tenant on; by then every
// other tenant has been served up to the same turn, or until its backlog was empty.
func (f facts) ahead() float64 {
	if f.handed {
		return f.stage
	}
	at := f.turn + f.own/f.weight
	mean := cmp.Or(f.mean, 1)
	work, last := f.own, 0.0
	var seen float64
	for _, o := range f.others {
		work += turn(o).before(at, mean)
		seen += o.Backlog
		last = o.At
	}
	if n := float64(len(f.others)); f.unseen > 0 && n > 0 {
		// Of those that nobody has looked at each is like the mean of the others, at the last turn.
		work += float64(f.unseen) * turn{At: last, Weight: 1, Backlog: seen / n}.before(at, mean)
	}
	// Each other lane is served by its share meanwhile, or until it is empty.
	inLane := work
	for _, l := range f.lanes {
		work += min(l.backlog, inLane*l.share)
	}
	return f.stage + work/mean/(1-f.passes)
}

// beside is another lane than the job's: its work, and its share over that of the job's lane.
type beside struct{ backlog, share float64 }

// turn is a tenant's place in the order of work.
type turn tasks.Turn

// before is how much of a tenant's work goes before a job whose turn is at.
func (t turn) before(at, mean float64) float64 {
	lead := (at - t.At) * t.Weight
	if lead < 0 {
		return 0
	}
	mean = cmp.Or(t.Mean, mean)
	// A job whose turn has come goes as a whole; of two with the same turn, either may.
	whole := math.Floor(lead/mean + 1e-9)
	if lead-whole*mean > 1e-9*mean {
		whole++
	} else {
		whole += 0.5
	}
	return min(t.Backlog, whole*mean)
}

// wait is how long until the job starts.
func (f facts) wait() time.Duration {
	n := f.ahead() + 1
	if f.shut {
		return f.gate.WaitAfter(f.open, n, f.pace)
	}
	return f.gate.Wait(n)
}

const (
	// So many times the prediction is what nine of ten wait at most, while too few have been
	// seen to know: of a pool that runs, and of one whose reopening is waited for.
	unknownLate     = 1.4
	unknownShutLate = 3
	// samplesFew is how many have to be seen of a class before they correct the next.
	samplesFew = 20
)

// corrected is what is told of a prediction: the start that is expected, and by when nine of ten
// start, by what is known of those of its class. late is known otherwise; 0: it is not.
func corrected(predicted, late time.Duration, degraded bool, c tasks.Correction) (told, by time.Duration) {
	scaled := func(log float64) time.Duration {
		return time.Duration(float64(predicted) * math.Exp(min(max(log, -2), 4)))
	}
	if c.Samples < samplesFew {
		usual := math.Log(unknownLate)
		if degraded {
			usual = math.Log(unknownShutLate)
		}
		return predicted, max(late, scaled(usual))
	}
	told = scaled(c.Median)
	return told, max(told, scaled(c.Late))
}
