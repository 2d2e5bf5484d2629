package tasks

import "time"

// Bundle is jobs that go to a provider's own batch API together. Its record names jobs,
// and has nothing of what they ask.
type Bundle struct {
	ID       string // "nb_" and a ULID; the provider is told it where it keeps such a name
	Pool     string
	Account  string // whose batch it is
	Kind     string // what its members have in common
	Model    string // that all of them ask, at this endpoint
	Endpoint Path
	State    BundleState
	Fence    int64 // grows each time a worker takes it up; a holder of an older one has lost it

	GatheredAt time.Time // when it was begun
	SentAt     time.Time // when it was last about to be sent; zero: not yet
	Lines      int       // of the batch that was last about to be made
	// Spill is when what has no answer goes back to the ordinary lane, the nearest of its members'.
	Spill time.Time
	Batch string // the provider's id of the batch; "": none is known
	File  string // the provider's id of the file that was uploaded for it, where there is one
	Sends int    // how often a batch of it was asked for

	Members []Ticket // all that ever joined; which of them are still in it, their own records say
}

// BundleState is how far a bundle has come.
type BundleState string

// The states of a bundle, in their order. In each its record lets any worker go on.
const (
	BundleGathering BundleState = "gathering" // jobs may join
	BundleClosed    BundleState = "closed"    // no batch of it can exist
	BundleSending   BundleState = "sending"   // a batch of it may exist, whose id is not known
	BundleSent      BundleState = "sent"      // the provider has it
	BundleCanceling BundleState = "canceling" // it was canceled there, for its time was over
)

// Joining is what a job needs that is started into a bundle.
type Joining struct {
	Kind                string        // of the bundle
	Account             string        // likewise
	Model               string        // likewise
	Endpoint            Path          // likewise
	Bundle              string        // the id of a new one, should none of the kind be gathered
	Bytes               int64         // of its line
	Spill               time.Time     // when it goes back to the ordinary lane without an answer
	Lease               time.Duration // after which it counts as lost with all workers
	MostJobs, MostBytes int64
	MostAge             time.Duration // how long a bundle is gathered
}

// InBundle is where a job's bundle stands, for its timeline.
type InBundle struct {
	ID    string
	State BundleState
	Batch string
	Spill time.Time
}
