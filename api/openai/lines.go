package openai

import (
	"fmt"
	"strconv"

	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/estimate"
)

// The bounds of a batch's input file.
const (
	mostLines  = 100_000
	mostFaults = 1000 // that are kept and told, of more the first and how many
	maxWord    = 512  // characters of a custom_id, a url or a model
)

// endpoints are what the lines of a batch may ask.
var endpoints = map[string]tasks.Path{
	"/v1/chat/completions": tasks.Chat,
	"/v1/responses":        tasks.Responses,
	"/v1/embeddings":       tasks.Embeddings,
}

// lineFault is what is wrong with a line of an input file, or with the file (line 0). It
// repeats no value of it.
type lineFault struct {
	Code    string `json:"code"`
	Line    int    `json:"line,omitempty"`
	Message string `json:"message"`
	Param   string `json:"param,omitempty"`
}

// faults are those of one file; of many the first are kept, and that there are more.
type faults []lineFault

func (f *faults) add(one *lineFault) {
	switch {
	case one == nil || len(*f) > mostFaults:
	case len(*f) == mostFaults:
		*f = append(*f, lineFault{Code: "too_many_faults", Message: "More lines are faulty than the " + strconv.Itoa(mostFaults) + " that are told."})
	default:
		*f = append(*f, *one)
	}
}

// readLine reads a line of an input file: the job that it asks for, and at which
// endpoint. The job keeps pointing into raw.
func readLine(line int, raw []byte) (job tasks.Job, url string, fault *lineFault) {
	wrong := func(code, param, format string, args ...any) (tasks.Job, string, *lineFault) {
		return tasks.Job{}, "", &lineFault{Code: code, Line: line, Param: param, Message: fmt.Sprintf(format, args...)}
	}
	var method string
	var body []byte
	streams := false
	r, err := jsonread.New(raw)
	if err == nil {
		err = r.Object(func(name string) (err error) {
			switch {
			case name == "custom_id":
				job.CustomID, err = r.Word(name, maxWord)
			case name == "method":
				method, err = r.Word(name, maxWord)
			case name == "url":
				url, err = r.Word(name, maxWord)
			case name == "body" && r.Kind() == '{':
				body, job.Model, streams, err = readBody(r)
			default:
				return r.Skip()
			}
			return err
		})
	}
	path, known := endpoints[url]
	switch {
	case err != nil:
		return wrong("invalid_json_line", "", "This line is not a request: %s", err.Error())
	case job.CustomID == "":
		return wrong("missing_required_parameter", "custom_id", "Missing required parameter: 'custom_id'.")
	case method != "POST":
		return wrong("invalid_method", "method", "The 'method' must be 'POST'.")
	case !known:
		return wrong("invalid_url", "url", "The 'url' must be '/v1/chat/completions', '/v1/responses' or '/v1/embeddings'.")
	case body == nil:
		return wrong("missing_required_parameter", "body", "Missing required parameter: 'body'.")
	case job.Model == "":
		return wrong("missing_required_parameter", "body.model", "Missing required parameter: 'body.model'.")
	case streams:
		return wrong("invalid_request", "body.stream", "A request of a batch has no stream: leave 'body.stream' out.")
	}
	job.Line, job.Bytes, job.Priority = line, int64(len(raw)), tasks.Normal
	job.Request = tasks.Request{Kind: tasks.Raw, Endpoint: path, Body: body}
	estimate.Fill(job.Model, &job.Request)
	return job, url, nil
}

// readBody reads what has to be known of the body of a line.
func readBody(r *jsonread.Reader) (body []byte, model string, streams bool, err error) {
	body, err = r.Members(func(name string) (err error) {
		switch name {
		case "model":
			model, err = r.Word(name, maxWord)
			return err
		case "stream":
			streams = r.Kind() == 't'
		}
		return r.Skip()
	})
	return body, model, streams, err
}
