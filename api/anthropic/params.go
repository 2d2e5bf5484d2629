package anthropic

import (
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/estimate"
)

const maxModel = 256 // bytes of a model's name

// readParams reads what has to be known of a request in a batch, and what a batch does
// not take although the provider might (stream, speed, a max_tokens of 0). The rest is
// for the provider to judge. It fails with a *fault.Fault.
func readParams(job *tasks.Job) error {
	body := job.Request.Body
	if len(body) == 0 || body[0] != '{' {
		return fault.Fail(fault.InvalidRequest, "params: it must be an object.")
	}
	r, err := jsonread.New(body)
	if err != nil {
		return wire.Told(err)
	}
	err = r.Object(func(name string) (err error) {
		kind := r.Kind()
		switch {
		case name == "model":
			job.Model, err = r.Word(name, maxModel)
			return err
		case name == "stream" && kind == 't':
			return fault.Fail(fault.InvalidRequest, "params.stream: a request in a batch is not streamed.")
		case name == "speed" && kind != 'n':
			return fault.Fail(fault.InvalidRequest, "params.speed: a request in a batch has none.")
		case name == "max_tokens" && kind == '0':
			return maxTokens(r)
		}
		return r.Skip()
	})
	if err != nil {
		return wire.Told(err)
	}
	if job.Model == "" {
		return fault.Fail(fault.InvalidRequest, "params.model: it is missing.")
	}
	estimate.Fill(job.Model, &job.Request)
	return nil
}

func maxTokens(r *jsonread.Reader) error {
	v, err := r.Raw()
	if err == nil && string(v) == "0" {
		return fault.Fail(fault.InvalidRequest, "params.max_tokens: it must be at least 1 in a batch.")
	}
	return err
}
