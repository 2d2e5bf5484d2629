package v1

import (
	"time"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/tasks"
)

// Decode decodes one submit body; status is that of the problem, 0 for none.
func Decode(body []byte, inBatch bool, now time.Time) (job tasks.Job, status int, detail string) {
	job, err := decodeSubmit(body, inBatch, now)
	if err != nil {
		k, p := fault.Classify(err)
		return tasks.Job{}, k.Status, p.Detail
	}
	return job, 0, ""
}

// The readers of the two forms of a batch.
var (
	ReadLines    = readLines
	ReadDocument = readDocument
)

// StatusOf returns the status that an error is answered with.
func StatusOf(err error) int {
	k, _ := fault.Classify(err)
	return k.Status
}
