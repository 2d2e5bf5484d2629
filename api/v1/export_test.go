package v1

import (
	"bufio"
	"io"
	"time"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/wire"
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

// ReadLines reads a batch of lines.
var ReadLines = wire.Lines

// ReadDocument reads a batch that is one document, with the id that it begins with.
func ReadDocument(body io.Reader, longest int64, most int, each func(line int, raw []byte) error) error {
	start := bufio.NewReader(body)
	head, _ := start.Peek(formBytes)
	_, id := firstMember(head)
	return readDocument(id)(start, longest, most, each)
}

// StatusOf returns the status that an error is answered with.
func StatusOf(err error) int {
	k, _ := fault.Classify(err)
	return k.Status
}
