package tasks

import "time"

// MaxReason is how many characters an operator's reason may have, at every door.
const MaxReason = 500

// Load is how much of a pool's work stands where.
type Load struct {
	Queued         int64 // all that wait, scheduled and retrying ones too
	Running        int64
	Handed         int64     // of the queued, those already handed to Asynq or held by a worker
	Tenants        int64     // tenants with a backlog
	OldestQueuedAt time.Time // of those that may run now; zero when all are for later
}
