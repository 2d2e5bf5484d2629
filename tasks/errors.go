package tasks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The errors that the API, the store and the workers know by name. The API's
// problem table alone knows which HTTP status each one is.
var (
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("the job's state does not allow this")
	ErrFinal       = errors.New("the job is already final")
	ErrDeleted     = errors.New("the job was deleted")
	ErrLost        = errors.New("the job was handed to somebody else") // a stale fence
	ErrBacklogFull = errors.New("the tenant's backlog is full")
	ErrKeyReused   = errors.New("the Idempotency-Key was used for another body")
	ErrIDTaken     = errors.New("the id is that of something else")
	ErrKeyBusy     = errors.New("the first request with this Idempotency-Key is still being accepted")
	ErrUnavailable = errors.New("the store cannot be reached") // Redis gone, or its answer none of ours
	ErrFull        = errors.New("the store is full")           // Redis at maxmemory
	ErrLeaving     = errors.New("the tenant is being deleted")
	ErrUnsafe      = errors.New("the store may drop what it is given: Redis evicts keys")
	// ErrUnknown is an operation whose answer was lost again and again: it may have
	// been carried out. It comes as an [UnknownError].
	ErrUnknown = errors.New("whether this was done is not known")
)

// UnknownError is ErrUnknown with the id of what the operation was about, which may
// be looked at later, and what went wrong at last.
type UnknownError struct {
	ID  string
	Err error
}

// Error names the cause; the id is for the caller.
func (e *UnknownError) Error() string { return ErrUnknown.Error() + ": " + e.Err.Error() }

// Is reports that it is ErrUnknown. It is none of the errors that say that nothing
// was done.
func (*UnknownError) Is(target error) bool { return target == ErrUnknown }

// BulkID begins the ids of calls that move many jobs.
const BulkID = "bulk"

// ReusedError is ErrKeyReused with the id of what the key made: a job, a batch, a file,
// or a call that moved many jobs (see [BulkID]).
type ReusedError struct{ ID string }

// Error is that of ErrKeyReused; the id is for the caller.
func (*ReusedError) Error() string { return ErrKeyReused.Error() }

// Is reports that it is ErrKeyReused.
func (*ReusedError) Is(target error) bool { return target == ErrKeyReused }

// BodiesError is an error of the store of large bodies, beside Redis: an
// ErrUnavailable, or ErrFull where it has no room. It holds nothing of a body.
type BodiesError struct {
	Missing bool // the body is not there, or is not what was put; else the store did not answer
	Full    bool
	Err     error
}

// Error says what is wrong and, of a body that is missing, what may have happened.
func (e *BodiesError) Error() string {
	if e.Missing {
		return "the store of bodies does not have the body; if bodies.url was changed, copy there what lies at the old one (a folder into a folder, a bucket into a bucket): " + e.Err.Error()
	}
	return "the store of bodies cannot be used: " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *BodiesError) Unwrap() error { return e.Err }

// Is reports which of the store's errors it is.
func (e *BodiesError) Is(target error) bool {
	return target == ErrFull && e.Full || target == ErrUnavailable && !e.Full
}

// SealError is content that cannot be sealed or opened: an ErrUnavailable, for as long as
// its keys are as they are. It holds nothing of keys or content.
type SealError struct {
	Key string // the name of the master key that is needed; "": it is not that
	Err error
}

// Error says which key is missing.
func (e *SealError) Error() string { return "what is sealed cannot be used: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *SealError) Unwrap() error { return e.Err }

// Is reports that it is ErrUnavailable, unless the tenant is being deleted.
func (e *SealError) Is(target error) bool {
	return target == ErrUnavailable && !errors.Is(e.Err, ErrLeaving)
}

// Void reports whether the record itself refuses the caller: the job is final,
// another worker's, or gone. Only this is a reason to drop an ending; an unknown
// error is not.
func Void(err error) bool {
	return errors.Is(err, ErrFinal) || errors.Is(err, ErrLost) || errors.Is(err, ErrNotFound)
}

// Away reports whether the store could not answer now. That is every error except
// a refusal by the record itself, and except context.Canceled, where the caller
// went away and the store has said nothing. An unknown error counts: the change
// was not recorded, for whatever reason.
func Away(err error) bool {
	var (
		quota   *QuotaError
		repeats *RepeatError
	)
	switch {
	case err == nil, Void(err):
		return false
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrFull), errors.Is(err, ErrUnknown):
		return true
	case errors.As(err, &repeats), errors.Is(err, ErrConflict), errors.Is(err, ErrLeaving), errors.Is(err, ErrDeleted), errors.Is(err, ErrIDTaken), errors.Is(err, ErrKeyReused), errors.Is(err, ErrKeyBusy), errors.Is(err, ErrBacklogFull), errors.As(err, &quota):
		return false
	}
	return !errors.Is(err, context.Canceled)
}

// NotNow marks an error that Redis, or the way to it, has given in place of an
// answer: ErrFull where it has no room or cannot write its disk, else
// ErrUnavailable, whatever its text. The error of a canceled caller stays as it is.
func NotNow(err error) error {
	if err == nil || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrFull) || errors.Is(err, ErrUnknown) || errors.Is(err, context.Canceled) {
		return err
	}
	for said := err; said != nil; said = errors.Unwrap(said) {
		for _, word := range []string{"OOM command not allowed", "MISCONF "} {
			// Older servers put a script's error behind its name and a dash.
			if text := said.Error(); strings.HasPrefix(text, word) || strings.Contains(text, "-"+word) {
				return fmt.Errorf("%w: %w", ErrFull, err)
			}
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// QuotaError says that a tenant has used up an allowance of its own.
type QuotaError struct {
	Quota      string        // as in "submits_per_minute"; behind OfUsers one of the user alone
	Limit      int64         // the allowance
	Remaining  int64         // what is left of it
	Window     time.Duration // the span of the allowance; 0 for a backlog
	RetryAfter time.Duration // when it is worth trying again
	Others     int64         // of a user's jobs that wait: those of its tenant's that are not its own
	ResetsAt   time.Time     // of CostPerDay: when it begins anew; Limit and Remaining are in millionths of [Currency]
}

// CostPerDay is the name of the quota of money.
const CostPerDay = "cost_per_day"

// OfUsers begins the name of a quota that each user of a tenant has of its own.
const OfUsers = "users."

// OfMoney reports whether a quota is one of money.
func OfMoney(quota string) bool { return strings.TrimPrefix(quota, OfUsers) == CostPerDay }

// Error names the quota, never the tenant.
func (e *QuotaError) Error() string { return "quota exceeded: " + e.Quota }

// RepeatError is a batch that was not taken in: its request repeats another, whose
// batch stands for both.
type RepeatError struct {
	ID    string // of that batch
	Again bool   // an answer was sent for it already
}

// Error says so.
func (e *RepeatError) Error() string { return "it repeats the request that made " + e.ID }
