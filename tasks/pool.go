package tasks

import (
	"errors"
	"time"
)

// MaxReason is how many characters an operator's reason may have, at every door.
const MaxReason = 500

// MaxPause is how far ahead a pause may end by itself.
const MaxPause = 366 * 24 * time.Hour

// PauseEnds reports whether a pause may end by itself at until; zero is never.
func PauseEnds(now, until time.Time) error {
	if !until.IsZero() && (!until.After(now) || until.Sub(now) > MaxPause) {
		return errors.New("the end of a pause must lie ahead, by at most a year")
	}
	return nil
}

// PauseReason is what the audit says of a pause: the reason, and when it ends by itself.
func PauseReason(reason string, until time.Time) string {
	if until.IsZero() {
		return reason
	}
	ends := "until " + until.UTC().Format(time.RFC3339)
	if reason == "" {
		return ends
	}
	return reason + " (" + ends + ")"
}

// Load is how much of a pool's work stands where.
type Load struct {
	Queued         int64 // all that wait, scheduled and retrying ones too
	Running        int64
	Bundled        int64              // of the running, about those in batches of the provider, or gathered for one
	Handed         int64              // of the queued, those already handed to Asynq or held by a worker
	Begun          float64            // seconds of the allowance that all calls ever begun took, as far as that is known by now
	Stage          float64            // seconds of the allowance that these are expected to cost; 0: nobody knows
	Tenants        int64              // tenants with a backlog
	Turns          []Turn             // of each lane those whose turn comes first, at most a hundred, in order
	Lanes          map[Priority]Lane  // all three
	Weights        map[string]float64 // of tenants, where that is not 1, with a backlog or without
	AtLimit        map[string]bool    // tenants, and users as owners, that have been passed over: as many of their jobs are out, in all pools, as they may have at once
	Reviewed       map[string]bool    // tenants whose jobs wait for an admin's review
	OldestQueuedAt time.Time          // of those that may run now; zero when all are for later
	Mean           float64            // seconds of the allowance that a call of late has cost; 1 while none has ended
	WorkedAt       time.Time          // when a worker of the pool last said that it is there; zero: none has of late
}

// Calls is how many calls are under way. A job in a bundle is running, and no worker calls for it.
func (l Load) Calls() int64 { return max(0, l.Running-l.Bundled) }

// Lane is how a lane of a pool stands: of those with a backlog the one with the lowest turn goes next, and
// each job moves its lane on by the job's cost over the lane's share.
type Lane struct {
	Share   float64 // of the allowance while all lanes have work, 1 being all of it
	At      float64
	Tenants int64 // with a backlog in it
}

// Turn is a tenant's place in the order of work of a lane: the lowest turn goes next, and each job
// moves its tenant on by the job's cost over the tenant's weight. Costs are seconds of the
// pool's allowance.
type Turn struct {
	Tenant  string
	Lane    Priority // "" is normal
	At      float64
	Weight  float64
	Mean    float64 // cost of one of its jobs; 0: as of the pool's
	Backlog float64 // cost of its jobs that wait for their turn
}

// Shares is how a pool's allowance is shared among tenants. All seconds are of the allowance, in
// the dimension that binds, and count when a call has ended.
type Shares struct {
	// Tenants are those with a job in the pool, or a call that ended in the last hour: the most
	// served first, at most [MostShares].
	Tenants []TenantShare
	// Others is how many more there are, and the rest what these were served.
	Others                   int
	OthersMinute, OthersHour float64
	// Minute and Hour are Jain's index of what those tenants were served by weight that have had
	// a backlog throughout: from 1 over their number to 1, which says that all had the same. 0: there
	// are not two.
	Minute, Hour float64
}

// MostShares is how many tenants are told of a pool.
const MostShares = 1000

// TenantShare is what a tenant has of a pool.
type TenantShare struct {
	Tenant       string
	Weight       int64
	Minute, Hour float64 // seconds that it was served in the last minute, and in the last hour; each by a sixth of that at a time
	Share        float64 // of what the pool gave all tenants in the last hour; 1 is all of it
	Queued       int64   // jobs that could go now: in the backlog, handed out or with a worker that waits for pace
	Running      int64
	// Lag is how many seconds it is behind the mean of those that have a backlog with it, by weight;
	// below 0 it is ahead. It has none without a backlog.
	Lag float64
	// Since is since when it has a backlog without a gap; zero: it has none, or nobody knows.
	Since time.Time
}

// Mishaps is what went wrong in a pool in the last hour, each kind by its cause, the most frequent first. It is counted
// by five minutes: the oldest five are counted whole or not at all.
type Mishaps struct {
	Calls    []Mishap // calls that brought no answer, by their [Outcome]
	Jobs     []Mishap // jobs that failed or expired, by the [ErrorCode]
	Diverted []Mishap // jobs that left for a fallback, by the pool that they went to
}

// Mishap is one cause of them.
type Mishap struct {
	Cause string
	Count int64
	Last  string // the last job that it happened to
}

// Refused is how many calls the provider refused for their pace, by a 429.
func (m *Mishaps) Refused() (n int64) {
	for _, c := range m.Calls {
		if Outcome(c.Cause) == RateLimited || Outcome(c.Cause) == RampLimited {
			n += c.Count
		}
	}
	return n
}

// Process is one of those that serve the API or make calls.
type Process struct {
	Name    string
	Version string
	Works   bool // it makes calls of pools
	Seen    time.Time
}

// Later is how many of a pool's jobs wait for their not_before: at least so many, where
// there are thousands. First is when the first of them may run.
type Later struct {
	Jobs  int64
	First time.Time
}

// Place is where a waiting job stands.
type Place struct {
	Lane Priority // "" is normal
	Own  int64    // among its tenant's own in the backlog of the lane, 1 being next; 0 once it is handed out, or not there yet
	// Ahead is how many of those that are handed out go before it, where it is so itself; -1: nobody knows.
	Ahead   int64
	Aside   bool  // its user is at its limit, and its tenant's others pass it
	Tenants int64 // that share the pool's turns
}

// Outlook is how a tenant's next jobs in a lane of a pool would fare, by one look at it.
type Outlook struct {
	Waiting int64         // of its own in that lane of the backlog
	Takes   time.Duration // a call, about
	// Start forecasts the job of a place in the tenant's backlog, 1 being next, whether there are as many or not.
	Start func(place int64) Start
}

// Start is when a job is expected to start, from now.
type Start struct {
	Told  time.Duration
	Late  time.Duration // by when nine of ten such jobs start
	Known bool          // false: nobody can tell when the pool goes on; the rest is what it would be if it did now
}

// UnknownWait is when it is worth asking again where nobody knows when a pool's jobs go on.
// It is no reason to think that a deadline cannot be met.
const UnknownWait = 15 * time.Second

// Model is a model that is served.
type Model struct {
	ID   string
	Body []byte // as its provider describes it, JSON; nil: only its name is known
}
