package tasks

import "time"

// Call is a request whose caller waits for the answer on its own connection, as the
// providers' SDKs do.
type Call struct {
	Tenant string
	ID     string // of the job that is to be made, unless the call joins another
	// Digest is the same for requests that ask the same; "": only a key tells repeats.
	Digest string
	// Repeat says that the caller has sent the request before.
	Repeat bool
}

// How long callers are waited for.
const (
	// CallerLease is how long a caller counts as there after it was last said so.
	CallerLease = 45 * time.Second
	// CallerGone is how long a caller that has gone away is waited for. A job that
	// still waits then is canceled; one that runs is finished.
	CallerGone = time.Minute
	// CallKept is how long a repeat finds the first call.
	CallKept = 10 * time.Minute
)

// Joined says which job a call waits for.
type Joined struct {
	ID string
	// Prior is true when it is another call's, whose repeat this one is.
	Prior bool
	// Again is true when an answer was sent for it already, which the caller has
	// perhaps not seen: it is given once more, and then no more.
	Again bool
}

// CallerState is what became of a caller.
type CallerState string

// What becomes of a caller.
const (
	CallerWaits   CallerState = "waits"
	CallerLeft    CallerState = "gone"    // its connection ended before the answer was sent
	CallerServed  CallerState = "sent"    // its answer was sent
	CallerDone    CallerState = "over"    // as before, and nobody is to find that call again
	CallerRefused CallerState = "refused" // no job was made for it
)

// Events are the events of a call with a stream so far, from a byte offset on, each byte
// as the provider sent it but for our key.
type Events struct {
	Status Status // of the job
	Calls  int    // made for it: the number of the last
	Call   int    // whose events these are; 0: none has brought any
	Raw    []byte // whole events, but for where one ends or begins between two readings
	Size   int    // those behind them begin so many bytes later, as the record counts them
	More   bool   // there are more already
	End    StreamEnd
}

// StreamEnd is how the events of a call have ended.
type StreamEnd string

// The ends of a call's events.
const (
	StreamOpen   StreamEnd = "-" // they have not, as far as is known
	StreamWhole  StreamEnd = "." // they are the whole answer
	StreamFailed StreamEnd = "!" // the last is the provider's own error
)
