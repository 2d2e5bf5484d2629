package tasks

import "time"

// Ticket is a claim on one job at one fence: what an Asynq task carries, and
// what a worker shows to move the job.
type Ticket struct {
	ID    string
	Fence int64
	Pool  string
	// Tenant is whose job it is, for those who have taken it; a ticket that was handed
	// out does not say it.
	Tenant string `json:",omitempty"`
	Alone  bool   // its worker runs nothing beside it; shown at the start
	Asks   Asked  // of the call that the worker is about to make; shown at the start
	// Into has the job go into a bundle in place of a call; shown at the start. Nil: a call is made.
	Into *Joining `json:"-"`
	// Waited is what its worker knows of the wait; shown at the start.
	Waited Waited
}

// Asked is what its worker knows of a call before it is made, for an end that the worker
// does not see.
type Asked struct {
	Account string // who is asked: the provider's name
	Model   string
	AtMost  Money // about the most that it may cost; 0: nothing is to be charged, or its model has no price
	Priced  bool  // its model has a price
}

// A job whose call was lost with its worker AloneFrom times runs alone in a worker
// from then on, so that it takes nobody with it. Further losses count only when it ran
// alone, and MostLosses in all end it.
const (
	AloneFrom  = 2
	MostLosses = AloneFrom + 3
)

// Started is what a worker learns when its attempt has begun.
type Started struct {
	Call     int // the number of this call in the job's log
	Attempts int // attempts used, with this one
	At       time.Time
	Wanted   bool // a reader wants the text as it comes
}

// Ending is how a worker's attempt ended.
type Ending struct {
	Status   Status // StatusSucceeded, StatusFailed, or StatusRetrying for another try
	Counted  bool   // for another try: it used up an attempt
	Delay    time.Duration
	Result   []byte    // for StatusSucceeded
	Finish   Finish    // of Result
	Error    *JobError // for another try: told until that ends; nil: the error before stays
	Usage    *Usage
	Provider string
	Detour   *Detour       // for another try: with a fallback model; nil: as before
	Attempt  Attempt       // the call that ended; its times and number are the store's own
	Draw     time.Duration // on the pool's allowance, of the call; 0: nobody knows, NoDraw: there was none
	Leads    string        // the digest of those that wait for the same answer; "": none does
	Kept     int           // the number of the call, of an ending that is recorded late, from a disk; else 0
}

// Detour is a job's way to one of its fallback models.
type Detour struct {
	Pool   string // of the model
	Passed int    // the model's place in the job's list, from 1
	Left   int    // models after it
	// Input and Output are how many tokens the job is expected to use, see [Request.Use].
	Input, Output int64
}

// Swept is what a sweep of the store found to do.
type Swept struct {
	Hand         []Ticket // to be handed to Asynq
	Look         []Ticket // handed over long ago: does Asynq still have them?
	Unfold       []string // batches to go on putting into backlogs
	Stale        []string // batches whose writer is gone
	Lost         int      // jobs that a dead worker gave back
	Expired      []Job    // ended by their deadlines, not by a worker: id, tenant, pool and attempts, nothing else
	LostTooOften []Job    // ended since each worker died during their call; as Expired
	NextDue      time.Duration
}

// Audited is what a comparison of records and counts found and mended.
type Audited struct {
	Lost        []LostJob
	PutBack     int      // jobs that stood in no line
	Batches     []string // that were ended, since none of their lines would end
	LostBatches []string // whose record is gone; their jobs go on
	Counts      []string // that were off: what and whose
	Round       bool     // all was looked through
}

// LostJob is a job that was accepted and whose record is gone.
type LostJob struct {
	ID     string
	Tenant string // "" when nobody knows
	Pool   string // likewise
	Ended  bool   // it had ended, and its result is lost
}
