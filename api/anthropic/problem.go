package anthropic

import (
	"net/http"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/relay"
	"github.com/sluicehq/sluice/tasks"
)

// types are Anthropic's words for the statuses of errors
// (platform.claude.com/docs/en/api/errors).
var types = map[int]string{
	400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
	404: "not_found_error", 408: "timeout_error", 409: "conflict_error", 413: "request_too_large", 429: "rate_limit_error",
	500: "api_error", 504: "timeout_error", 529: "overloaded_error",
}

// typeOf is the word for a status that Anthropic has, or the nearest.
func typeOf(status int) string {
	switch t := types[status]; {
	case t != "":
		return t
	case status >= 500:
		return "api_error"
	}
	return "invalid_request_error"
}

// Problem sets the header of the answer to a failed request and returns its body.
func Problem(h http.Header, k fault.Kind, f fault.Fault, request string) []byte {
	relay.Retry(h, k, f)
	h.Set("Content-Type", "application/json")
	h["Request-Id"] = []string{request}
	return envelope(typeOf(k.Status), f.Detail, request)
}

// envelope is Anthropic's form of an error.
func envelope(kind, message, request string) []byte {
	var e jsonwrite.Object
	e.Str("type", kind)
	e.Str("message", message)
	var o jsonwrite.Object
	o.Str("type", "error")
	o.Name("error")
	o.B = append(o.B, e.End()...)
	o.Optional("request_id", request)
	return append(o.End(), '\n')
}

// failed is the answer to a call whose job has ended without a result: the provider's
// own refusal where there is one.
func failed(job *tasks.Job, request string) (status int, body []byte) {
	e := job.Error
	switch {
	case job.Status == tasks.StatusExpired:
		return http.StatusGatewayTimeout, envelope("timeout_error", "The job's deadline passed before an answer came.", request)
	case e == nil || job.Status == tasks.StatusCanceled:
		return http.StatusConflict, envelope("conflict_error", "The job of this call was canceled.", request)
	case e.UpstreamStatus >= 400 && e.Body != "":
		return e.UpstreamStatus, []byte(e.Body)
	case e.UpstreamStatus >= 400:
		return e.UpstreamStatus, envelope(typeOf(e.UpstreamStatus), e.Message, request)
	case e.Code == tasks.DeadlineExceeded:
		return http.StatusGatewayTimeout, envelope("timeout_error", e.Message, request)
	case e.Code == tasks.UpstreamRejected || e.Code == tasks.ResultTooLarge:
		return http.StatusBadRequest, envelope("invalid_request_error", e.Message, request)
	}
	return http.StatusBadGateway, envelope("api_error", e.Message, request)
}
