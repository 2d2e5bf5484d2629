package tasks

import "time"

// MaxReason is how many characters an operator's reason may have, at every door.
const MaxReason = 500

// Load is how much of a pool's work stands where.
type Load struct {
	Queued         int64 // all that wait, scheduled and retrying ones too
	Running        int64
	Handed         int64              // of the queued, those already handed to Asynq or held by a worker
	Tenants        int64              // tenants with a backlog
	Shares         float64            // their weights, added up
	Weights        map[string]float64 // of tenants, where that is not 1, with a backlog or without
	OldestQueuedAt time.Time          // of those that may run now; zero when all are for later
	WorkedAt       time.Time          // when a worker of the pool last said that it is there; zero: none has of late
}

// Model is a model that is served.
type Model struct {
	ID   string
	Body []byte // as its provider describes it, JSON; nil: only its name is known
}
