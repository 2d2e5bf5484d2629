package tasks

import (
	"fmt"
	"time"
)

// Endpoint is an address of a tenant that its events are sent to.
type Endpoint struct {
	ID            string // "whe_" and a ULID
	Tenant        string
	User          string // as of a Job: it takes events of what is that user's
	URL           string
	Events        []string // the events it takes, as in "job.succeeded"
	IncludeResult bool     // job events carry the result when it fits
	MaxPerSecond  int      // attempts; 0: as many as come
	Signature     string   // "v1", or "v1a" for Ed25519 beside it
	OpenAI        bool     // bodies of jobs and batches are in the form of OpenAI's webhooks
	Headers       Headers  // sent with each attempt
	CA            CA       // vouches for the receiver too
	CreatedAt     time.Time
	DisabledAt    time.Time // zero: it is sent to
	// DisabledReason is the outcome that disabled it, or "owner" when its owner did.
	DisabledReason string
	FailingSince   time.Time // the first failure after the last success
	Keys           SigningKeys
}

// EndpointChange is what its owner changes about an endpoint; nil members stay.
type EndpointChange struct {
	URL           *string
	Events        []string
	IncludeResult *bool
	MaxPerSecond  *int
	Headers       Headers // in place of all that it had; empty and not nil: none
	CA            *CA     // in place of what it had; "": none
	Disabled      *bool
}

// SigningKeys sign deliveries. They show themselves to nobody who prints them.
type SigningKeys struct {
	Secret     string // whsec_…
	Private    string // whsk_…; empty: no v1a
	OldSecret  string // signs too until OldUntil
	OldPrivate string
	OldUntil   time.Time
}

// Format writes a placeholder for every verb.
func (SigningKeys) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[signing keys]")) }

// DeliveryStatus is where a delivery stands.
type DeliveryStatus string

// The statuses of a delivery. An exhausted one can be sent again.
const (
	DeliveryPending   DeliveryStatus = "pending"
	DeliveryDelivered DeliveryStatus = "delivered"
	DeliveryExhausted DeliveryStatus = "exhausted"
)

// Delivery is one event on its way to one address.
type Delivery struct {
	ID          string // "dlv_" and a number that grows with time
	Tenant      string
	User        string // as of a Job
	Endpoint    string // empty: the job's own webhook_url
	Event       string // the webhook-id: the same at every attempt and for every endpoint
	Type        string // the event's type
	Object      string // id of the job, batch, pool or endpoint that it is about
	Status      DeliveryStatus
	Attempts    int // in the present round; sent again, a delivery begins a new one
	CreatedAt   time.Time
	DueAt       time.Time // of the next attempt; zero when it waits for nothing
	DeliveredAt time.Time
	Reason      string            // why it is exhausted: the outcome, or what became of its endpoint; "sealed", also while it is pending: its key is not there
	Log         []DeliveryAttempt // oldest first; the oldest go when it gets long

	URL    string // the job's own
	Body   []byte // as it was first sent; nil: to be built
	Detail string // what the event adds, by type
	Fence  int64
}

// DeliveryWorkerLost is the outcome of an attempt whose process died: its receiver
// has perhaps seen it.
const DeliveryWorkerLost = "worker_lost"

// DeliveryAttempt is one attempt at a delivery.
type DeliveryAttempt struct {
	At      time.Time     `json:"at"`
	Outcome string        `json:"outcome"` // as worker/webhook names them, or DeliveryWorkerLost
	Status  int           `json:"status,omitempty"`
	Latency time.Duration `json:"latency"`
	Answer  string        `json:"answer,omitempty"` // its beginning, at most 4 KiB
}

// Resend says which of an endpoint's deliveries are to be sent again.
type Resend struct {
	Tenant    string
	Endpoint  string
	Since     time.Time // made then or later
	Until     time.Time // made before
	After     string    // made after the delivery of that id; empty: from Since on
	Delivered bool      // those too that arrived
}

// Resent is how far that came.
type Resent struct {
	Sent       int
	Next       string        // Resend.After for the rest; empty: there is none
	RetryAfter time.Duration // when the rest may go; 0: now
}

// DeliveryTicket is a claim on one delivery at one fence.
type DeliveryTicket struct {
	ID    string `json:"id"`
	Fence int64  `json:"fence"`
}

// Sending is a delivery with all that an attempt at it needs.
type Sending struct {
	Delivery Delivery
	Endpoint *Endpoint // nil: the job's own webhook_url, or an endpoint that is gone
	Keys     SigningKeys
	Job      *Job   // of a job event, when it still exists
	Batch    *Batch // of a batch event, when it still exists
}

// Settled is how an attempt at a delivery ended.
type Settled struct {
	Ticket  DeliveryTicket
	Tenant  string         // whose it is
	Status  DeliveryStatus // DeliveryPending: again after Delay
	Delay   time.Duration
	Counted bool   // false: nothing was attempted
	Reason  string // the outcome
	Attempt DeliveryAttempt
	Body    []byte // as it was sent; nil when the record has it already
	// Disable says that the endpoint wants no more (410).
	Disable bool
}

// SweptDeliveries is what a sweep of the deliveries found.
type SweptDeliveries struct {
	Hand    []DeliveryTicket // to be handed to Asynq
	NextDue time.Duration    // until the next falls due or may go by its pace; -1: none waits
	Out     int              // handed out
	Lanes   int              // receivers with something ready
	Waiting int              // for another try

	Disabled int // endpoints, by their receivers' failures
}

// DeliveryFilter selects a tenant's deliveries, newest first.
type DeliveryFilter struct {
	Tenant   string
	Endpoint string // empty: all of the tenant's
	Status   DeliveryStatus
	Limit    int
	After    string
	Patience time.Duration // as in Filter
}

// DeliveryPage is one page of deliveries, without their bodies. With HasMore
// there is at least one, but for DeliveryFilter.Patience.
type DeliveryPage struct {
	Deliveries []Delivery
	HasMore    bool
	Next       string
}

// Owner is whose the endpoint is.
func (e *Endpoint) Owner() string { return Owner(e.Tenant, e.User) }

// Owner is whose the delivery is.
func (d *Delivery) Owner() string { return Owner(d.Tenant, d.User) }
