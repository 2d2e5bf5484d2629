package tasks

import "slices"

// Status is where a job stands.
type Status string

// The statuses of a job. The last four are final and never change, but for a
// retry that the caller asks for.
const (
	StatusQueued    Status = "queued"
	StatusScheduled Status = "scheduled" // waits for its not_before
	StatusRunning   Status = "running"
	StatusRetrying  Status = "retrying" // had an attempt, waits for the next
	StatusSucceeded Status = "succeeded"
	StatusFailed    Status = "failed"
	StatusCanceled  Status = "canceled"
	StatusExpired   Status = "expired"
)

// Statuses lists every status, in the order of a job's life.
var Statuses = []Status{
	StatusQueued, StatusScheduled, StatusRunning, StatusRetrying,
	StatusSucceeded, StatusFailed, StatusCanceled, StatusExpired,
}

// Final reports whether s ends a job.
func (s Status) Final() bool {
	switch s {
	case StatusSucceeded, StatusFailed, StatusCanceled, StatusExpired:
		return true
	}
	return false
}

// Valid reports whether s is a status.
func (s Status) Valid() bool {
	return slices.Contains(Statuses, s)
}

// Move is something that happens to a job.
type Move string

// The moves of a job, by who makes them.
const (
	MoveDue      Move = "due"       // the clock: not_before has come
	MoveStart    Move = "start"     // a worker: an attempt begins
	MoveSucceed  Move = "succeed"   // a worker: the provider's answer is stored
	MoveFail     Move = "fail"      // a worker: no further attempt
	MoveRetry    Move = "retry"     // a worker: again later, one attempt used up
	MoveHandBack Move = "hand_back" // a worker: again, nothing used up (pace, pause, shutdown, crash)
	MoveCancel   Move = "cancel"    // the caller
	MoveExpire   Move = "expire"    // the clock: the deadline has passed
	MoveRequeue  Move = "requeue"   // the caller: a finished job once more
)

// Transition is one legal move of the state machine.
type Transition struct {
	From Status
	Move Move
	To   Status
}

// Transitions is the whole state machine: a move that is not listed is refused.
// The scripts of tasks/store are held to this table by a test.
var Transitions = []Transition{
	{StatusScheduled, MoveDue, StatusQueued},
	{StatusScheduled, MoveCancel, StatusCanceled},
	{StatusScheduled, MoveExpire, StatusExpired},

	{StatusQueued, MoveStart, StatusRunning},
	{StatusQueued, MoveHandBack, StatusQueued},
	{StatusQueued, MoveFail, StatusFailed},
	{StatusQueued, MoveCancel, StatusCanceled},
	{StatusQueued, MoveExpire, StatusExpired},

	{StatusRetrying, MoveStart, StatusRunning},
	{StatusRetrying, MoveHandBack, StatusRetrying},
	{StatusRetrying, MoveFail, StatusFailed},
	{StatusRetrying, MoveCancel, StatusCanceled},
	{StatusRetrying, MoveExpire, StatusExpired},

	{StatusRunning, MoveSucceed, StatusSucceeded},
	{StatusRunning, MoveFail, StatusFailed},
	{StatusRunning, MoveRetry, StatusRetrying},
	{StatusRunning, MoveHandBack, StatusRetrying},
	{StatusRunning, MoveCancel, StatusCanceled},
	{StatusRunning, MoveExpire, StatusExpired},

	{StatusFailed, MoveRequeue, StatusQueued},
	{StatusCanceled, MoveRequeue, StatusQueued},
	{StatusExpired, MoveRequeue, StatusQueued},
}
