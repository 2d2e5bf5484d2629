package v1

import (
	"io"

	"github.com/sluicehq/sluice/api/wire"
)

// readDocument returns a reader that calls each with every element of a list of jobs, or of "jobs" or
// "requests" in an object of nothing else, and its 1-based position. It never
// holds more than one element. An object may begin with the batch's id, which is known
// by then.
func readDocument(id string) func(body io.Reader, longest int64, most int, each func(line int, raw []byte) error) error {
	return func(body io.Reader, longest int64, most int, each func(line int, raw []byte) error) error {
		return wire.List{Members: []string{"jobs", "requests"}, Bare: true, ID: id, Longest: longest, Most: most}.Read(body, each)
	}
}
