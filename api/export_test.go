package api

import (
	"regexp"
	"time"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/tasks"
)

// Routes lists the routes as openapi.yaml names them: "METHOD /path/{name}".
func (a *API) Routes() []string {
	var list []string
	for _, r := range a.echo.Routes() {
		list = append(list, r.Method+" "+regexp.MustCompile(`:(\w+)`).ReplaceAllString(r.Path, "{$1}"))
	}
	return list
}

// Codes lists the problem codes.
func Codes() []string {
	var list []string
	for _, k := range fault.Kinds() {
		list = append(list, k.Code)
	}
	return list
}

// Decode decodes one submit body; status is that of the problem, 0 for none.
func Decode(body []byte, inBatch bool, now time.Time) (job tasks.Job, status int, detail string) {
	job, err := decodeSubmit(body, inBatch, now)
	if err != nil {
		k, p := classify(err)
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
	k, _ := classify(err)
	return k.Status
}
