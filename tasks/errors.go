package tasks

import (
	"errors"
	"time"
)

// The errors that the API, the store and the workers know by name. The API's
// problem table alone knows which HTTP status each one is.
var (
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("the job's state does not allow this")
	ErrFinal       = errors.New("the job is already final")
	ErrLost        = errors.New("the job was handed to somebody else") // a stale fence
	ErrBacklogFull = errors.New("the tenant's backlog is full")
	ErrKeyReused   = errors.New("the Idempotency-Key was used for another body")
	ErrKeyBusy     = errors.New("the first request with this Idempotency-Key is still being accepted")
	ErrUnavailable = errors.New("the store cannot be reached") // Redis gone or loading
	ErrFull        = errors.New("the store is full")           // Redis at maxmemory
)

// QuotaError says that a tenant has used up an allowance of its own.
type QuotaError struct {
	Quota      string        // "submits_per_minute", "queued_jobs" or "tokens_per_day"
	Limit      int64         // the allowance
	Remaining  int64         // what is left of it
	Window     time.Duration // the span of the allowance; 0 for a backlog
	RetryAfter time.Duration // when it is worth trying again
}

// Error names the quota, never the tenant.
func (e *QuotaError) Error() string { return "quota exceeded: " + e.Quota }
