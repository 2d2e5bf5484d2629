package relay

import (
	"crypto/sha256"
	"hash"
	"io"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/api/header"
	"github.com/sluicehq/sluice/tasks"
)

// Said is what the header of a request that makes a batch says.
type Said struct {
	Key    string // Idempotency-Key; "" for none
	Repeat bool   // the caller says that it sent the request before
	Dedup  bool   // a repeat without a key may be told by what it asks
	// Each is what it asks for every job: the fields for the provider, and our own.
	Each tasks.Job
}

// ReadBatch reads the header of a request that makes a batch.
func ReadBatch(h http.Header) (Said, error) {
	said := Said{Each: tasks.Job{Priority: tasks.Normal, Request: tasks.Request{Kind: tasks.Raw}}}
	if err := header.Provider(h, &said.Each.Request); err != nil {
		return said, err
	}
	s, err := readSDK(h, &said.Each)
	said.Key, said.Repeat, said.Dedup = s.key, s.repeat, s.dedup
	return said, err
}

// Digest returns a hash that is to be given the body of a request: the sum is the same
// for requests that ask the same, of one method, path and body, with the same fields for
// the provider. The body's bytes count as they are: an SDK sends the same ones again.
func Digest(r *http.Request, path string) hash.Hash {
	sum := sha256.New()
	for _, part := range append([]string{r.Method, path}, header.Told(r.Header)...) {
		_, _ = io.WriteString(sum, part+"\n")
	}
	return sum
}

// Patience is how long the caller of a request waits for its answer, less what it takes
// to tell it that there is none yet.
func Patience(h http.Header) time.Duration { return patience(h) }
