package tasks

import "time"

// Span is a part of a job's time, from its acceptance to its end or to now. The spans of a
// job follow one another without gaps.
type Span struct {
	From, To time.Time
	What     SpanKind
	For      WaitReason // of a wait; "": it was not recorded
	Detail   string     // in words; "": there is no more to say
}

// SpanKind is what a job did in a span of its time.
type SpanKind string

// The kinds of spans. They are part of the public contract.
const (
	SpanWaiting  SpanKind = "waiting"
	SpanHandover SpanKind = "handover" // free to go, and not yet sent
	SpanAttempt  SpanKind = "attempt"  // a call of the provider
)

// Waited is what an attempt's start tells of the wait before it.
type Waited struct {
	Handed  time.Duration // before the start, when the job was handed out; below 0: not known
	Granted time.Duration // before the start, when the gate let it go
	For     WaitReason    // what the gate made it wait for; "": nothing
}

// WaitUnknown is what a pool's jobs wait for while nobody looks after it. No caller sees it.
const WaitUnknown WaitReason = "unknown"

// Bind is what a pool's jobs wait for from a moment on.
type Bind struct {
	At     time.Time
	For    WaitReason // "": nothing
	Shares float64    // weights of the tenants with a backlog, added up
	Begun  float64    // seconds of the allowance that all calls begun by then took, from some time on; 0: not known
}

// Past is what a pool's jobs have waited for, as far back as it is kept.
type Past struct {
	Binds   []Bind    // oldest first
	Seen    time.Time // when somebody last looked after the pool
	Working time.Time // when one of its workers last did
}

// Unwatched is how long what a pool's jobs last waited for stands while nobody looks.
const Unwatched = 5 * time.Second

// WatchTurn is a pool that a process is to look at.
type WatchTurn struct {
	Pool  string
	Since time.Duration // somebody did; below 0: nobody has
}

// Happening is something that happened to a job beside its attempts.
type Happening struct {
	Kind HappeningKind
	At   time.Time
	From time.Time // of HasHeld and HasAgain; zero where it is not known
	Pool string    // of HasDiverted
}

// HappeningKind says what happened to a job, as its record has it.
type HappeningKind byte

// The kinds of happenings.
const (
	HasFollowed HappeningKind = 'f' // from At on it waits for another's answer
	HasParted   HappeningKind = 'b' // from At on it does not
	HasHeld     HappeningKind = 'h' // it was put off, from From until At
	HasDiverted HappeningKind = 'd' // at At it left Pool
	HasAgain    HappeningKind = 'x' // at At its caller queued it again, after it had ended at From
)

// History is what is known of a job's time.
type History struct {
	Job      Job // without its result
	Happened []Happening
	Cut      bool // older moves are not kept any more
	// Pools are the pasts of the pools that the job has been in.
	Pools map[string]Past
	// Reviews are when the tenant's jobs waited for a review, the oldest first; one under way is the last.
	Reviews []Review
	// Bundle is the one that the job is, or was, in while it runs; nil: none.
	Bundle *InBundle
}

// Review is a time in which a tenant's jobs waited for an admin.
type Review struct{ From, To time.Time }
