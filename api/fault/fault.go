// Package fault knows every way in which a request can fail, whatever form it
// came in: the one table from failures, and from the sentinels of tasks and
// auth, to a stable code, a status and what to tell.
//
// It promises that an error that nobody foresaw is a bare Internal, of which
// nothing is told outside, and that a detail names members and limits, never
// values. It writes no answer: each form of the API renders a fault its own way.
package fault

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/tasks"
)

// Kind is one class of failure as callers see it.
type Kind struct {
	Code   string // stable
	Status int    // of HTTP
	Title  string
	cause  error // the sentinel that means this kind; nil: only the API makes it
}

// The codes of the kinds that the API makes itself.
const (
	InvalidRequest      = "invalid_request"
	InvalidJSON         = "invalid_json"
	Unauthorized        = "unauthorized"
	Forbidden           = "forbidden"
	PriorityNotAllowed  = "priority_not_allowed"
	TenantLeaving       = "tenant_being_deleted"
	NotFound            = "not_found"
	RouteNotFound       = "route_not_found"
	ModelNotFound       = "model_not_found"
	MethodNotAllowed    = "method_not_allowed"
	BodyTooLarge        = "body_too_large"
	UnsupportedMedia    = "unsupported_media_type"
	ImpossibleTime      = "impossible_time"
	ImpossibleSize      = "impossible_size"
	ImpossibleSetting   = "impossible_setting"
	WebhookURLRefused   = "webhook_url_refused"
	TooManyStreams      = "too_many_streams"
	TooManyRequests     = "too_many_requests"
	TooManyFailures     = "too_many_failures"
	Overloaded          = "overloaded"
	QuotaExceeded       = "quota_exceeded"
	BudgetExhausted     = "budget_exhausted"
	AbnormalUsage       = "abnormal_usage"
	Unavailable         = "unavailable"
	OutcomeUnknown      = "outcome_unknown"
	DeadlineUnreachable = "deadline_unreachable"
	Internal            = "internal"
	RequestTimeout      = "request_timeout"
	Conflict            = "conflict"
	KeyBusy             = "idempotency_key_busy"
	KeyReused           = "idempotency_key_reused"
	KeysUnavailable     = "keys_unavailable"
	StoreFull           = "store_full"
	StillWaiting        = "still_waiting"
	SpendLimited        = "provider_spend_limited"
	KeyRefused          = "provider_key_refused"
)

// DefaultRetryAfter is when to come again after a failure of the store or of the issuer.
const DefaultRetryAfter = 5 * time.Second

// Kinds returns the table. The first that matches an error wins; the last is for
// errors that nobody foresaw.
func Kinds() []Kind {
	return []Kind{
		{InvalidRequest, 400, "The request is not valid", nil},
		{InvalidJSON, 400, "The body is not valid JSON", nil},
		{Unauthorized, 401, "A valid bearer token is needed", nil},
		{KeyRefused, 401, "The provider refuses the key that is configured for it", nil},
		{Forbidden, 403, "The token does not allow this", nil},
		{PriorityNotAllowed, 403, "The tenant may not use this priority", nil},
		{TenantLeaving, 403, "The tenant is being deleted, and nothing of it is taken in", tasks.ErrLeaving},
		{NotFound, 404, "No such object", tasks.ErrNotFound},
		{RouteNotFound, 404, "No such route", nil},
		{ModelNotFound, 404, "No pool serves this model", nil},
		{MethodNotAllowed, 405, "The route does not take this method", nil},
		{RequestTimeout, 408, "The body did not arrive in time", nil},
		{StillWaiting, 408, "The answer is not there yet; the same request waits on for it", nil},
		{"already_final", 409, "The job or batch has already ended", tasks.ErrFinal},
		{Conflict, 409, "The state of the job does not allow this", tasks.ErrConflict},
		{KeyBusy, 409, "The first request with this Idempotency-Key is still being accepted", tasks.ErrKeyBusy},
		{"id_taken", 409, "The id is that of something else; leave it out, or send what it was given for", tasks.ErrIDTaken},
		{BodyTooLarge, 413, "The body is too large", nil},
		{UnsupportedMedia, 415, "The body's media type or encoding is not supported", nil},
		{ImpossibleTime, 422, "The times asked for are impossible", nil},
		{ImpossibleSize, 422, "No allowance can ever hold the request", nil},
		{ImpossibleSetting, 422, "No tenant can have such a setting", nil},
		{WebhookURLRefused, 422, "The webhook address is refused", nil},
		{KeyReused, 422, "The Idempotency-Key was used for another request", tasks.ErrKeyReused},
		{QuotaExceeded, 429, "A quota of the tenant is used up", tasks.ErrBacklogFull},
		{BudgetExhausted, 429, "The tenant's budget of the day is used up", nil},
		{AbnormalUsage, 429, "The tenant's usage is out of the ordinary", nil},
		{SpendLimited, 429, "The provider's spending limit is reached", nil},
		{TooManyStreams, 429, "Too many open event streams", nil},
		{TooManyRequests, 429, "Too many requests at once", nil},
		{TooManyFailures, 429, "Too many tokens of this address were not valid", nil},
		{Overloaded, 503, "This process has too much to do", nil},
		{OutcomeUnknown, 503, "Whether this was done is not known", tasks.ErrUnknown},
		{Unavailable, 503, "The store cannot be reached", tasks.ErrUnavailable},
		{KeysUnavailable, 503, "The issuer's keys cannot be fetched", auth.ErrUnavailable},
		{StoreFull, 503, "The store is full, or the results of what waits will fill it", tasks.ErrFull},
		{"unsafe_redis", 503, "Redis evicts keys and could lose the job: an operator has to set maxmemory-policy noeviction", tasks.ErrUnsafe},
		{DeadlineUnreachable, 503, "The job would wait past its deadline", nil},
		{Internal, 500, "Internal error", nil},
	}
}

// comeAgain is DefaultRetryAfter and up to as much again: who is refused by the same failure does
// not come at the same moment.
func comeAgain() time.Duration { return DefaultRetryAfter + rand.N(DefaultRetryAfter) }

// advice is what to do about failures that nobody says more of.
var advice = map[string]string{
	NotFound:        "The token's tenant has none of this id, or no longer: it may be another tenant's, deleted, or older than results.ttl.",
	"already_final": "Nothing was changed; read it for how it ended.",
	Conflict:        "Nothing was changed; read it, since its status says what can be done.",
	KeyBusy:         "Send it again in a moment; the answer is the first request's.",
	KeyReused:       "Send another key for another request, or the first request's body for its answer.",
	Unavailable:     "Nothing was changed; send it again after Retry-After.",
	KeysUnavailable: "Send it again after Retry-After; an operator sees why in /readyz.",
	StoreFull:       "Nothing was taken in; send it again after Retry-After. Deleting finished jobs makes room.",
}

// Fault is an error with an answer.
type Fault struct {
	Code       string
	Detail     string            // what is wrong and what to do; it may name members and limits, never values
	Line       int               // the 1-based line of a batch; 0: none
	ID         string            // of what may have been made or changed; "": none
	RetryAfter time.Duration     // 0: nobody knows, or never
	Quota      *tasks.QuotaError // the quota that is used up; nil: none is
	// Header are further fields of an answer by HTTP, under their canonical names.
	Header map[string][]string
}

func (f *Fault) Error() string { return f.Code + ": " + f.Detail }

// Fail returns a fault. The detail may name members and limits, never values.
func Fail(code, format string, args ...any) *Fault {
	return &Fault{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// OnLine says on which line of a batch the fault is.
func (f *Fault) OnLine(line int) *Fault {
	on := *f
	on.Line, on.Detail = line, fmt.Sprintf("Line %d: %s", line, f.Detail)
	return &on
}

// ofBodies tells of the store of large bodies, and not where that is.
func ofBodies(err *tasks.BodiesError) *Fault {
	f := Fail(Unavailable, "The store of large bodies cannot be reached.")
	switch {
	case err.Missing:
		f = Fail(Unavailable, "The store of large bodies does not have this body. An operator has to see whether bodies.url was changed.")
	case err.Full:
		f = Fail(StoreFull, "The store of large bodies is full.")
	}
	f.RetryAfter = comeAgain()
	return f
}

// ofContent tells of content that is not there, or whose key is not: which, the log says;
// nil: it is another error.
func ofContent(err error) *Fault {
	var (
		bodies *tasks.BodiesError
		sealed *tasks.SealError
	)
	switch {
	case errors.As(err, &bodies):
		return ofBodies(bodies)
	case errors.As(err, &sealed) && errors.Is(err, tasks.ErrUnavailable):
		f := Fail(Unavailable, "What is sealed cannot be opened with the keys that this process has. An operator has to see which keys are listed.")
		f.RetryAfter = DefaultRetryAfter
		return f
	}
	return nil
}

// made says what the first request with an Idempotency-Key has made; "": nobody knows.
func made(err error) string {
	reused, ok := errors.AsType[*tasks.ReusedError](err)
	switch {
	case !ok || reused.ID == "":
		return ""
	case strings.HasPrefix(reused.ID, tasks.BulkID+"_"): // nobody can read that one
		return ", which queued again or canceled many jobs"
	}
	return ", which made " + reused.ID
}

// Classify returns the kind of an error and what to tell about it.
func Classify(err error) (Kind, Fault) {
	table := Kinds()
	var (
		f       *Fault
		quota   *tasks.QuotaError
		unknown *tasks.UnknownError
	)
	switch {
	case errors.As(err, &f):
	case errors.As(err, &quota):
		f = Fail(QuotaExceeded, "The quota %s of %d is used up.", quota.Quota, quota.Limit)
		if tasks.OfMoney(quota.Quota) {
			whose := ""
			if quota.Quota != tasks.CostPerDay {
				whose = " that each user has"
			}
			f = Fail(BudgetExhausted, "What is left of the budget of %s %s a day%s is less than this may cost. It begins anew at %s.",
				tasks.Money(quota.Limit*1000), tasks.Currency, whose, quota.ResetsAt.UTC().Format(time.RFC3339))
		}
		f.RetryAfter, f.Quota = max(quota.RetryAfter, time.Second), quota
	case errors.As(err, &unknown):
		f = Fail(OutcomeUnknown, "The store's answer was lost: this may have been done. Look at the object of \"id\" to learn it. A submit or batch that is sent again with the same Idempotency-Key, or with this \"id\", is not taken in twice.")
		f.RetryAfter, f.ID = comeAgain(), unknown.ID
	}
	if f == nil {
		f = ofContent(err)
	}
	for _, k := range table {
		if f != nil && k.Code == f.Code {
			return k, *f
		}
		if f == nil && k.cause != nil && errors.Is(err, k.cause) {
			told := Fault{Code: k.Code, Detail: strings.TrimSpace(k.Title + made(err) + ". " + advice[k.Code])}
			if k.Status == 503 || k.Status == 429 {
				told.RetryAfter = comeAgain()
			}
			return k, told
		}
	}
	last := table[len(table)-1]
	return last, Fault{Code: last.Code, Detail: "The cause is in the server's log under this request id."}
}
