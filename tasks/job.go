// Package tasks is the vocabulary that the API and the workers share: the job,
// its statuses and legal moves, what a caller asked for and what came of it,
// and the errors that both sides know by name.
//
// It holds no behaviour that needs a network, a clock or Redis; those live in
// its children: store keeps the record, queue carries it through Asynq. It
// imports the standard library only.
package tasks

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Job is one prompt on its way from a caller to a provider and back. The
// record in Redis is the truth; Asynq only carries the job's id.
//
// A zero time means "not set". Times have millisecond resolution and come from
// Redis, never from a process clock, except CreatedAt, NotBefore and Deadline
// as a caller stated them.
type Job struct {
	ID       string // "job_" and a ULID
	Tenant   string
	User     string // of the tenant, whose it alone is; "": its users are not kept apart
	Model    string
	Pool     string
	Priority Priority

	Batch    string // the batch's id; empty for a job submitted alone
	CustomID string // the caller's own id of a batch line
	Line     int    // 1-based line in its batch; 0 for a job submitted alone

	Status  Status
	Fence   int64 // grows each time the job is handed out; a holder of an older one has lost it
	Version int64 // grows at each change; the ETag

	Attempts int // attempts used up; waiting, hand-backs and crashes are not counted

	CreatedAt  time.Time
	NotBefore  time.Time
	Deadline   time.Time
	DueAt      time.Time // when a scheduled or retrying job may run
	StartedAt  time.Time
	FinishedAt time.Time
	ExpiresAt  time.Time // when the record is deleted

	Request    Request
	Bytes      int64 // of its body as its caller sent it, decompressed; 0: not known
	Reserved   int64 // tokens of its tenant's day that are set aside for it until it is final; 0: its tenant has no such limit
	AtMost     Money // about the most that one call for it may cost; 0: its model had no price when it was accepted
	Metadata   map[string]string
	WebhookURL string
	Fallback   []string  // models that may answer in place of Model, in order
	Passed     int       // how many of Fallback the job has gone to or passed over
	Spent      int       // of Attempts, those used up before it went to the last of them
	Followed   string    // digest of the request whose answer it waits for, or has waited for; "": none
	Bundle     string    // that it is in, or was; "": it has been in none
	Losses     int       // calls lost with their worker, see AloneFrom; known to who takes it
	Since      time.Time // when something else than an attempt last had it wait anew; zero: nothing has
	Trace      string    // see [Job.Traced]; "": it is not traced
	// Lay is how long ago it was handed out when a worker took it; below 0: not known. Only
	// who takes it is told.
	Lay time.Duration

	Provider string          // who answered or was asked last
	Result   json.RawMessage // the provider's body, unchanged
	Finish   Finish          // how the answer ended; "": there is none, or a release before this one recorded it
	Error    *JobError       // why there is no result; of a job that waits, what its last attempt met
	Usage    *Usage
	Log      []Attempt // one entry an upstream call, counted or not, oldest first
}

// Owner is whose the job is.
func (j *Job) Owner() string { return Owner(j.Tenant, j.User) }

// Born is the time in an id, to the millisecond; zero for what is no prefix,
// underscore and ULID (github.com/ulid/spec).
func Born(id string) time.Time {
	const digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	_, text, _ := strings.Cut(id, "_")
	if len(text) != 26 || text[0] > '7' {
		return time.Time{}
	}
	ms := int64(0)
	for i := range len(text) {
		d := strings.IndexByte(digits, text[i])
		if d < 0 {
			return time.Time{}
		}
		if i < 10 {
			ms = ms<<5 | int64(d)
		}
	}
	return time.UnixMilli(ms).UTC()
}

// Asks returns the model that is asked for the job now: its own, or the
// fallback that it has gone to.
func (j *Job) Asks() string {
	if j.Passed > 0 && j.Passed <= len(j.Fallback) {
		return j.Fallback[j.Passed-1]
	}
	return j.Model
}

// EndedAttrs are the attributes of the log line "job ended", for a job that ends
// with a status and, unless it succeeds, a code. The model is left out where it
// is not known, and the trace where there is none. Whoever logs the line may append others.
func EndedAttrs(j *Job, status Status, code ErrorCode) []any {
	attrs := []any{"job", j.ID, "tenant", j.Tenant, "pool", j.Pool}
	if model := j.Asks(); model != "" {
		attrs = append(attrs, "model", model)
	}
	attrs = append(attrs, "status", string(status), "attempts", j.Attempts)
	if code != "" {
		attrs = append(attrs, "code", string(code))
	}
	if id := j.TraceID(); id != "" {
		attrs = append(attrs, "trace_id", id)
	}
	return attrs
}

// Priority is the lane that a job waits in: while all three of a pool have work, each has
// its share of the allowance. None is ever strict, and one without work leaves its share to the others.
type Priority string

// The priorities a caller may ask for. A low job is overtaken by high ones
// for at most two days: the order is by submission time, shifted by a day each way.
const (
	High   Priority = "high"
	Normal Priority = "normal"
	Low    Priority = "low"
)

// Valid reports whether p is one of the three priorities.
func (p Priority) Valid() bool { return p == High || p == Normal || p == Low }

// Kind says which of the three forms of input a caller used.
type Kind string

// The forms of input. Text and Messages are turned into the provider's dialect
// when the call is made; Raw is the provider's own body and is forwarded as it is.
const (
	Text     Kind = "prompt"
	Messages Kind = "messages"
	Raw      Kind = "request"
)

// Path is which of a provider's calls a request is for.
type Path string

// The paths. Chat is the one that both dialects have, a message or a chat
// completion; the others are OpenAI's, and their requests are Raw.
const (
	Chat       Path = ""
	Responses  Path = "responses"
	Embeddings Path = "embeddings"
)

// OpenAIID is the id by which OpenAI's form knows the job: a response has an id of its
// own kind there.
func (j *Job) OpenAIID() string {
	if j.Request.Endpoint == Responses {
		return ResponseID(j.ID)
	}
	return j.ID
}

// ResponseID is the id of the response that a job brings: the job's, after another word.
func ResponseID(job string) string { return "resp_" + strings.TrimPrefix(job, "job_") }

// Valid reports whether p is one of the three paths.
func (p Path) Valid() bool { return p == Chat || p == Responses || p == Embeddings }

// Request is what the caller wants to be asked.
type Request struct {
	Kind     Kind
	Endpoint Path
	// Body is, for Text, a JSON string; for Messages, an object with the members
	// "messages" and perhaps "system", each as the caller wrote it; for Raw, the
	// provider's body, byte for byte.
	Body []byte
	// Lies is where Body lies while it is not here, outside of the record; "": nowhere
	// else. It is package store's alone.
	Lies string
	// MaxTokens is what the worker writes into the body as the limit of one answer's
	// output tokens; 0: nothing, for the body says it itself or nobody does.
	MaxTokens int
	// OutputTokens is how many output tokens all answers to a Raw body may have at
	// most, Open that nothing limits them but the model; 0: MaxTokens.
	OutputTokens int
	Open         bool
	// InputTokens is an estimate, as is OutputTokens: see package estimate. The
	// provider's count replaces both.
	InputTokens int
	// Stream says that the caller is given the answer's events as they come, byte for byte.
	Stream bool
	// Background says of a response that its caller has not waited for it.
	Background bool
	// Version and Beta are the caller's anthropic-version and anthropic-beta headers.
	Version string
	Beta    string
	// Patient says that its caller has time: a deadline is none of its, and a provider's
	// batch may answer it within a day.
	Patient bool
	// OpenAI is what the caller's header has for a provider of OpenAI's dialect.
	OpenAI OpenAIFields
}

// OpenAIFields are header fields for providers of OpenAI's dialect; no other is sent them.
type OpenAIFields struct {
	Beta string `json:"b,omitempty"` // OpenAI-Beta
	// OpenAI-Organization and OpenAI-Project name another allowance than that of the
	// provider's key: they are sent only to a provider whose configuration lists them.
	Organization string `json:"o,omitempty"`
	Project      string `json:"p,omitempty"`
}

// The names of header fields that a provider's configuration may list.
const (
	OpenAIOrganization = "OpenAI-Organization"
	OpenAIProject      = "OpenAI-Project"
)

// Beyond says why no wait makes the request fit a pool that takes so many input
// tokens a minute, 0 being any; "" where it may fit. An input is estimated, so it has
// to be above twice that.
func (r *Request) Beyond(perMinute int64) string {
	if perMinute <= 0 || int64(r.InputTokens) <= 2*perMinute {
		return ""
	}
	return fmt.Sprintf("The request has about %d input tokens, and its pool takes %d a minute: send it in parts.", r.InputTokens, perMinute)
}

// Tokens is how many tokens a call may take, in and out, as far as can be told before.
func (r *Request) Tokens() int64 {
	return int64(r.InputTokens) + int64(cmp.Or(r.OutputTokens, r.MaxTokens))
}

// Cap is how many output tokens a call may take at most; 0: the model alone limits it.
func (r *Request) Cap() int64 {
	switch {
	case r.Endpoint == Embeddings:
		return 1 // it has none, and 0 would be any number
	case r.Open:
		return 0
	}
	return int64(cmp.Or(r.OutputTokens, r.MaxTokens))
}

// Finish is how an answer ended: one of the words here, or the provider's own.
type Finish string

// The ways in which an answer ends. They are part of the public contract.
const (
	FinishComplete Finish = "complete"
	FinishLength   Finish = "length"   // cut off at max_tokens or at the model's context
	FinishRefused  Finish = "refused"  // the model declined
	FinishFiltered Finish = "filtered" // the provider held text back
	FinishToolUse  Finish = "tool_use" // the model asks for a tool
	FinishEmpty    Finish = "empty"    // it ended without text or tool
)

// Finishes lists the words of the contract.
var Finishes = []Finish{FinishComplete, FinishLength, FinishRefused, FinishFiltered, FinishToolUse, FinishEmpty}

// Usage is the provider's count of one answer's tokens.
type Usage struct {
	InputTokens              int64 `json:"input_tokens"`
	OutputTokens             int64 `json:"output_tokens"`
	CacheReadInputTokens     int64 `json:"cache_read_input_tokens"`
	CacheCreationInputTokens int64 `json:"cache_creation_input_tokens"`
}

// Tokens is how many tokens the answer took, in and out.
func (u *Usage) Tokens() int64 {
	return u.InputTokens + u.CacheReadInputTokens + u.CacheCreationInputTokens + u.OutputTokens
}

// JobError says why a job has no result, or none yet.
type JobError struct {
	Code           ErrorCode `json:"code"`
	Message        string    `json:"message"`
	UpstreamStatus int       `json:"upstream_status,omitempty"`
	// MaybeBilled is true when a call may have been charged although no answer arrived.
	MaybeBilled bool `json:"maybe_billed"`
	// Body is the provider's own body of the refusal, as JSON, where it came with
	// UpstreamStatus and is small; "" else.
	Body string `json:"body,omitempty"`
}

// ErrorCode is the stable name of a job's failure.
type ErrorCode string

// The codes of a job's error. They are part of the public contract.
const (
	UpstreamRejected    ErrorCode = "upstream_rejected"    // the provider refused this request for good
	UpstreamUnavailable ErrorCode = "upstream_unavailable" // the last attempt of a job that waits for another brought no answer
	DeadlineExceeded    ErrorCode = "deadline_exceeded"
	CanceledByCaller    ErrorCode = "canceled"
	AttemptsExhausted   ErrorCode = "attempts_exhausted"
	StreamBroken        ErrorCode = "stream_broken"         // the answer broke off after its caller was told its beginning; a repeat of the call has it asked again
	JobLost             ErrorCode = "job_lost"              // Redis no longer has its record; whether it ran is not known
	WorkerLostTooOften  ErrorCode = "worker_lost_too_often" // its worker died during the call, also when it made no other
	ResultTooLarge      ErrorCode = "result_too_large"
	BodyUnavailable     ErrorCode = "body_unavailable" // what lies outside of Redis, the prompt of a job that waits or the result of one that is done, cannot be read
)

// Attempt is one call upstream, as it stands in the job's log.
type Attempt struct {
	N         int       `json:"n"` // counts calls, also those that used up no attempt
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at"` // zero while it runs, or when its worker died
	Outcome   Outcome   `json:"outcome"`
	Status    int       `json:"status"` // HTTP status; 0 when none arrived
	RequestID string    `json:"request_id"`
	Model     string    `json:"model,omitempty"`        // set when another model than the job's was asked
	Account   string    `json:"account,omitempty"`      // who was asked: the provider's name
	Batch     string    `json:"native_batch,omitempty"` // the provider's id of the batch that it was a line of; "": it was a call of its own
	Usage     *Usage    `json:"usage,omitempty"`
	Cost      *Cost     `json:"cost,omitempty"` // nil: its model has no price, or it has not ended
	// MaybeBilled is true when the provider may have charged for a call whose answer never arrived.
	MaybeBilled bool `json:"maybe_billed"`
	// Waited is of the wait before it, and Delay how long the job was put off after it; for
	// its timeline alone. Told says that the first is known.
	Waited Waited        `json:"-"`
	Told   bool          `json:"-"`
	Delay  time.Duration `json:"-"`
	LostAt time.Time     `json:"-"` // when it was found that its worker had died
}

// Outcome is how one upstream call ended. The upstream package classifies
// once; the retry rule and the breaker decide by it.
type Outcome string

// The outcomes of an attempt.
const (
	Running      Outcome = "running"
	Succeeded    Outcome = "succeeded"
	RateLimited  Outcome = "rate_limited"  // 429, ordinary
	RampLimited  Outcome = "ramp_limited"  // 429, usage rose too sharply
	SpendLimited Outcome = "spend_limited" // a spend cap: 429 without retry-after, 402 of the account, or the 400 of a cap the customer set
	Unauthorized Outcome = "unauthorized"  // 401, 403: of the key, as far as is known
	Overloaded   Outcome = "overloaded"    // 529, 503, or the same inside a stream
	ServerError  Outcome = "server_error"  // 5xx
	Timeout      Outcome = "timeout"       // no complete answer within the pool's timeout, 408, 504
	ConnectError Outcome = "connect_error" // the request never reached the provider
	CutOff       Outcome = "cut_off"       // the connection or the stream ended before its closing event
	Rejected     Outcome = "rejected"      // 4xx of the request itself, also a 401, 402 or 403 whose key was found well
	TooLarge     Outcome = "too_large"     // the answer passed results.max_bytes
	CallCanceled Outcome = "canceled"      // cut off because the job was canceled
	Cached       Outcome = "cached"        // no call: the same request of the same tenant was answered before
	Shared       Outcome = "shared"        // no call: the same request of the same tenant was under way, and this is its answer
	HandedBack   Outcome = "handed_back"   // cut off by a shutdown
	Spilled      Outcome = "spilled"       // the batch that it was a line of brought no answer in time; it goes to the ordinary lane
	WorkerLost   Outcome = "worker_lost"   // the worker died during the call
)
