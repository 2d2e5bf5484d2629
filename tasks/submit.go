package tasks

import (
	"slices"
	"time"
)

// Submission is one job on its way into the store.
type Submission struct {
	Job Job
	// Named says that the caller gave the job's id: one that has it already is this
	// submit, sent before.
	Named bool
	// Key is the caller's Idempotency-Key, scoped by the store to the tenant;
	// "" for none. Fingerprint is a digest of what the key stands for.
	Key         string
	Fingerprint string
	Limits      Limits
	// Caller is who waits for the job on its own connection: noted in the move that makes
	// the job, under the job's id. nil: nobody, or who was noted before.
	Caller *Call
}

// Limits are what a tenant may have, 0 being no limit. Whatever queues a job
// takes them, and the store holds them in the move that queues it: past one of
// them it is refused with a QuotaError and nothing is changed.
type Limits struct {
	QueuedJobs   int64 // waiting at once
	QueuedBytes  int64 // of the bodies (Job.Bytes) of jobs that have not ended, and of batches on their way in
	TokensPerDay int64 // used and set aside (Job.Reserved), from midnight to midnight UTC
	CostPerDay   Money // that calls cost, and may have cost, and set aside (Job.AtMost) for jobs with tokens set aside, likewise
	// User are those of the user whose alone the work is; zero where it is no single user's.
	User UserLimits
}

// Reserves is how many tokens are set aside for a request under these limits.
func (l Limits) Reserves(r *Request) int64 {
	if l.TokensPerDay <= 0 && l.CostPerDay <= 0 && l.User.TokensPerDay <= 0 && l.User.CostPerDay <= 0 {
		return 0
	}
	return r.Tokens()
}

// DayTokens is how a tenant's tokens of the present UTC day stand. They are
// counted for the jobs that have tokens set aside.
type DayTokens struct {
	Used     int64 // by jobs that are final, and by attempts that are over
	Reserved int64 // set aside for jobs that are not
	ResetsIn time.Duration
	// Of these what is one user's own, where the tokens of one were asked for.
	UserUsed, UserReserved int64
}

// Accepted is what became of a Submission.
type Accepted struct {
	Job Job
	// Replayed is true when the key was used before with the same fingerprint, or
	// the job of that id was there;
	// Job is then the first one as it stands now, and Answer what was answered
	// then, or nil when the first answer was never recorded.
	Replayed bool
	Answer   []byte
	// Waiting is what a new job waits for; nil when that was not asked yet.
	Waiting *Waiting
}

// Filter selects a tenant's jobs, newest first; they come without prompts and
// results. Empty members select all.
type Filter struct {
	Tenant string
	Status Status
	Model  string // as submitted
	Pool   string // that it is in now
	Batch  string
	// Since and Until bound when a job was accepted: from the one on, and before the other.
	Since, Until time.Time
	Metadata     map[string]string // pairs that it has, among others
	Limit        int               // 1 to 100
	After        string            // the id of the last job of the page before
	// Patience is how long is looked for what a page has. Then it is given as it is, even with none: Next goes on behind what was
	// looked at. 0: until there is a job, or nothing is left.
	Patience time.Duration
}

// Page is one page of jobs. Next is the Filter.After of the next page. With
// HasMore there is at least one job, but for Filter.Patience.
type Page struct {
	Jobs    []Job
	HasMore bool
	Next    string
}

// MostMoved is how many jobs one bulk retry or cancellation moves.
const MostMoved = 10_000

// Selection says which of a tenant's jobs a bulk retry or cancellation is for: those of
// IDs, or those that the other members let through. Empty members let all through.
type Selection struct {
	Tenant   string
	IDs      []string
	Statuses []Status // one of these
	// As in Filter.
	Model, Pool, Batch string
	Since, Until       time.Time
	Metadata           map[string]string
	// May reports whether the caller may have a job run again; nil: any.
	May  func(*Job) bool
	Most int // jobs that are moved; 0: MostMoved
}

// Moved is what became of a Selection.
type Moved struct {
	Jobs     int  // that were queued again, or canceled
	More     bool // there are others that match, or some were not looked at
	TooLarge int  // that no quota of the tenant can ever hold, and that were passed over
}

// BatchStatus is where a batch stands.
type BatchStatus string

// The statuses of a batch.
const (
	BatchInProgress BatchStatus = "in_progress"
	BatchCanceling  BatchStatus = "canceling"
	BatchEnded      BatchStatus = "ended"
)

// BatchStatuses lists every status of a batch, in the order of its life.
var BatchStatuses = []BatchStatus{BatchInProgress, BatchCanceling, BatchEnded}

// Valid reports whether s is a status of a batch.
func (s BatchStatus) Valid() bool { return slices.Contains(BatchStatuses, s) }

// Owner is whose the batch is.
func (b *Batch) Owner() string { return Owner(b.Tenant, b.User) }

// BatchFilter selects a tenant's batches, newest first. Empty members select all.
type BatchFilter struct {
	Tenant       string
	Status       BatchStatus
	Dialect      string        // as in Batch
	Since, Until time.Time     // as in Filter
	Limit        int           // 1 to 1000
	After        string        // the id of the last batch of the page before
	Before       string        // or that of the first of the page behind it: the page is of what is newer
	Patience     time.Duration // as in Filter
}

// BatchPage is one page of batches; see Page.
type BatchPage struct {
	Batches []Batch
	HasMore bool
	Next    string
}

// Batch is many jobs submitted at once. Its counts are live.
type Batch struct {
	ID        string // "batch_" and a ULID
	Tenant    string
	User      string // as of a Job
	Status    BatchStatus
	Counts    Counts
	CreatedAt time.Time
	EndedAt   time.Time
	ExpiresAt time.Time
	// CancelingAt is when its cancellation was asked for; zero: it was not.
	CancelingAt time.Time
	// Dialect is that of all the pools that its jobs went to: in the form of that
	// provider it can be read. "": they are of several.
	Dialect string
}

// Counts says how many of a batch's jobs stand where. Queued includes
// scheduled and retrying ones.
type Counts struct {
	Total     int64 `json:"total"`
	Queued    int64 `json:"queued"`
	Running   int64 `json:"running"`
	Succeeded int64 `json:"succeeded"`
	Failed    int64 `json:"failed"`
	Canceled  int64 `json:"canceled"`
	Expired   int64 `json:"expired"`
}

// BatchCommit makes a staged batch visible.
type BatchCommit struct {
	Lines       int64  // that were written; 0: they are not counted
	Fingerprint string // see Submission
	Limits      Limits
	Dialect     string // see Batch
	// Digest is the same for requests that ask the same; "": only a key tells repeats.
	// Repeat says that the caller has sent the request before: then no batch is made
	// beside that of the request before.
	Digest string
	Repeat bool
}

// PriorBatch is what an Idempotency-Key that was used before stands for, or the
// batch that has the id already that the caller gave.
type PriorBatch struct {
	ID          string // the batch's id; empty when the key was used for a job
	Fingerprint string // see Submission; "": it was found by its id
	Lines       int64  // of one that was found by its id
	Answer      []byte // what was answered then; nil when it was never recorded
}

// Waiting says what a job that is not running waits for.
type Waiting struct {
	For            WaitReason
	Position       int64     // among the tenant's own waiting jobs of the pool; 1 is next or already handed out
	EstimatedStart time.Time // expected; zero when nobody can tell
	// EstimatedStart90 is by when nine of ten such jobs start; zero with EstimatedStart.
	EstimatedStart90 time.Time
	AsOf             time.Time // of what the estimate is made of
	Degraded         bool      // the pool does not run as it should: the estimate depends on when it does again
}

// WaitReason is the binding reason why a job does not run yet.
type WaitReason string

// The reasons to wait. They are part of the public contract.
const (
	WaitNotBefore    WaitReason = "not_before"
	WaitRequests     WaitReason = "requests"
	WaitInputTokens  WaitReason = "input_tokens"
	WaitOutputTokens WaitReason = "output_tokens"
	WaitConcurrency  WaitReason = "concurrency"
	WaitTenantShare  WaitReason = "tenant_share"
	WaitRunningJobs  WaitReason = "running_jobs" // its tenant, or its user, has as many out as it may have at once
	WaitPaused       WaitReason = "paused"
	WaitRetry        WaitReason = "retry"
	WaitReview       WaitReason = "review"
	WaitNoWorker     WaitReason = "no_worker" // no process makes calls of its pool
)

// PoolStatus is what a caller is told about a pool.
type PoolStatus struct {
	Name             string
	State            PoolState
	Since            time.Time // when State began; zero when unknown
	Reason           string
	Detail           string    // of the reason, for operators alone: hosts and targets
	PausedBy         string    // "operator", "breaker", "memory" or ""
	ExpectedResumeAt time.Time // a forecast; zero when unknown
	NextProbeAt      time.Time // when the provider is asked again; zero: it is not
	Queued           int64     // waiting, all tenants
	Scheduled        int64     // of those, jobs whose not_before lies ahead; at least so many
	NextScheduledAt  time.Time // when the first of these may run; zero when there is none
	Running          int64
	Bundled          int64      // of the running, about those in batches of the provider, or gathered for one
	WaitsFor         WaitReason // what those wait for that may run now; "" when none waits
	DrainedAt        time.Time  // when the last of those is expected to start; zero when none waits, or nobody can tell
	OldestQueuedAt   time.Time  // of those that may run now; zero when none may
	Allowance        []Allowance
	Estimates        Score
	Mishaps          Mishaps
}

// PoolAccount is how one account of a pool stands.
type PoolAccount struct {
	Name             string
	Provider         string
	State            PoolState
	Reason           string
	Detail           string // of the reason: hosts and targets
	Since            time.Time
	ExpectedResumeAt time.Time // a forecast; zero when unknown
	Weight           int64
	Shared           string        // the allowance that it shares; "": it is its own
	Organization     string        // whose key it has, as its provider says; "": it does not, or made no call yet
	SharedWith       string        // the account of the same organisation whose allowance it has; "": it has what is configured
	Allowance        []Allowance   // of all who share it
	Success          float64       // share of its latest calls that went well
	Calls            int64         // of how many; 0: none were seen
	Wait             time.Duration // until it could send one call more; below 0: nobody can tell
	Egress           string        // the way in use, without credentials; "": none is listed, or this process does not know
}

// PoolAct is something that an operator did to a pool.
type PoolAct struct {
	At     time.Time
	Action string // "pause" or "resume"
	By     string
	Reason string    // as given; may be empty
	Until  time.Time // of a pause that ends by itself; zero: it does not
}

// PoolState is a pool's health.
type PoolState string

// The states of a pool.
const (
	PoolOpen     PoolState = "open"
	PoolDegraded PoolState = "degraded" // held by the provider, or opening again at less than full pace
	PoolPaused   PoolState = "paused"
)

// Allowance is one dimension of a pool's limits and how much of it is in use.
type Allowance struct {
	Dimension WaitReason // WaitRequests, WaitInputTokens, WaitOutputTokens or WaitConcurrency
	Limit     int64      // a minute; for concurrency, at once
	Used      float64    // share in use, 0 to 1
}

// Partial is the text of a running attempt so far, from a byte offset on.
type Partial struct {
	Attempt int // the call's number in the job's log; 0 when none has produced text
	Offset  int // byte offset of Text in the attempt's text
	Text    string
}
