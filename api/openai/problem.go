package openai

import (
	"net/http"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/relay"
	"github.com/sluicehq/sluice/tasks"
)

// words are OpenAI's type and code of an error; "" is no code
// (developers.openai.com/api/docs/guides/error-codes).
type words struct{ kind, code string }

// wordsOf are the words for a status.
func wordsOf(status int) words {
	switch {
	case status == http.StatusUnauthorized:
		return words{"invalid_request_error", "invalid_api_key"}
	case status == http.StatusTooManyRequests:
		return words{"rate_limit_error", "rate_limit_exceeded"}
	case status == http.StatusRequestTimeout, status == http.StatusGatewayTimeout:
		return words{"timeout", "timeout"}
	case status >= 500:
		return words{"server_error", ""}
	}
	return words{"invalid_request_error", ""}
}

// Problem sets the header of the answer to a failed request and returns its body.
func Problem(h http.Header, k fault.Kind, f fault.Fault, request string) []byte {
	relay.Retry(h, k, f)
	h.Set("Content-Type", "application/json")
	w := wordsOf(k.Status)
	switch k.Code {
	case fault.ModelNotFound:
		w.code = "model_not_found"
	case fault.SpendLimited:
		w = words{"insufficient_quota", "insufficient_quota"}
	}
	return envelope(w, f.Detail)
}

// envelope is OpenAI's form of an error.
func envelope(w words, message string) []byte {
	var e jsonwrite.Object
	e.Str("message", message)
	e.Str("type", w.kind)
	e.Null("param")
	e.Optional("code", w.code)
	var o jsonwrite.Object
	o.Name("error")
	o.B = append(o.B, e.End()...)
	return append(o.End(), '\n')
}

// failed is the answer to a call whose job has ended without a result: the provider's
// own refusal where there is one.
func failed(job *tasks.Job, _ string) (status int, body []byte) {
	fail := func(status int, message string) (int, []byte) { return status, envelope(wordsOf(status), message) }
	e := job.Error
	switch {
	case job.Status == tasks.StatusExpired:
		return fail(http.StatusGatewayTimeout, "The job's deadline passed before an answer came.")
	case e == nil || job.Status == tasks.StatusCanceled:
		return fail(http.StatusConflict, "The job of this call was canceled.")
	case e.UpstreamStatus >= 400 && e.Body != "":
		return e.UpstreamStatus, []byte(e.Body)
	case e.UpstreamStatus >= 400:
		return fail(e.UpstreamStatus, e.Message)
	case e.Code == tasks.DeadlineExceeded:
		return fail(http.StatusGatewayTimeout, e.Message)
	case e.Code == tasks.UpstreamRejected || e.Code == tasks.ResultTooLarge:
		return fail(http.StatusBadRequest, e.Message)
	}
	return fail(http.StatusBadGateway, e.Message)
}
