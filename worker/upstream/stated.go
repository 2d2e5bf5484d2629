package upstream

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// providerError is what came with a 2xx status and is no answer of the dialect.
type providerError struct {
	problem problem
	// status is the HTTP status that the problem would have had; 500 when nothing tells.
	status int
	// came says what came instead of an answer, for a problem without words.
	came string
	// stated is true when what came says by itself that it is no answer, and not
	// merely the beginning of one.
	stated bool
}

func (e *providerError) Error() string { return "the provider gave something else than an answer" }

// reported returns the error that body holds in the envelope of either dialect.
func reported(body []byte) *providerError {
	var s statement
	s.read(body, 0)
	p := parseProblem(body)
	p.kind, p.code, p.message = cmp.Or(p.kind, s.kind), cmp.Or(p.code, s.code), cmp.Or(p.message, s.message)
	return &providerError{problem: p, status: inBand(s.status, p), stated: true}
}

// stated returns what a JSON value that is no answer says, and came when it
// says nothing.
func stated(v jsontext.Value, came string) *providerError {
	var s statement
	s.read(v, 0)
	p := problem{kind: s.kind, code: s.code, message: s.message}
	status := inBand(s.status, p)
	return &providerError{problem: p, status: status, came: came, stated: s.message != "" || status != http.StatusInternalServerError}
}

// inBand returns the HTTP status that a problem inside a 2xx would have had:
// its number, or else what its code or its type is known by; 500 when nothing tells.
func inBand(number int, p problem) int {
	return cmp.Or(number, statusOf(p.code), statusOf(p.kind), http.StatusInternalServerError)
}

// statusOf knows the types of Anthropic, the codes of OpenAI, and the class
// names that vLLM, LiteLLM and others give as a type; 0 for any other word.
// Sources: platform.claude.com/docs/en/api/errors,
// developers.openai.com/api/docs/guides/error-codes.
func statusOf(name string) int {
	switch name {
	case "invalid_request_error", "BadRequestError", "ContextWindowExceededError", "context_length_exceeded":
		return http.StatusBadRequest
	case "authentication_error", "AuthenticationError", "invalid_api_key":
		return http.StatusUnauthorized
	case "billing_error":
		return http.StatusPaymentRequired
	case "permission_error", "PermissionDeniedError":
		return http.StatusForbidden
	case "not_found_error", "NotFoundError", "model_not_found":
		return http.StatusNotFound
	case "request_too_large":
		return http.StatusRequestEntityTooLarge
	case "UnprocessableEntityError":
		return http.StatusUnprocessableEntity
	case "rate_limit_error", "RateLimitError", "rate_limit_exceeded", "insufficient_quota", "tokens", "requests":
		return http.StatusTooManyRequests
	case "ServiceUnavailableError":
		return http.StatusServiceUnavailable
	case "timeout_error":
		return http.StatusGatewayTimeout
	case "overloaded_error":
		return 529
	}
	return 0
}

// statement is what a provider says of a failure, in whatever envelope.
type statement struct {
	kind, code, message string
	status              int // a number from 400 to 599 that it gives; 0 for none
}

// maxEnvelopes bounds how deep a statement is looked for.
const maxEnvelopes = 4

// read finds the statement in a string, in the first element of a list that
// has one, or in an object: in an error inside it, and else in its own members,
// under the names that providers and gateways use. It takes no other text,
// since that may be part of an answer.
func (s *statement) read(v jsontext.Value, depth int) {
	if depth > maxEnvelopes || s.message != "" {
		return
	}
	switch v.Kind() {
	case '"':
		switch words := text(v); strings.ToLower(words) {
		case "ok", "success":
		default:
			s.message = words
		}
	case '[':
		// An element that is no JSON would have been noticed by whoever cut v out.
		_ = eachElement(v, func(element jsontext.Value) error { s.read(element, depth+1); return nil })
	case '{':
		inner := [...]string{"error", "errors", "base_resp",
			"message", "msg", "detail", "error_description", "error_message", "errorMessage", "error_msg", "errmsg", "status_msg", "title"}
		const envelopes = 3 // of them hold an error of their own
		var values [len(inner)]jsontext.Value
		var own statement
		_ = eachMember(v, func(name string, value jsontext.Value, _, _ int) error { // as above
			if i := slices.Index(inner[:], name); i >= 0 {
				values[i] = value
			}
			own.label(name, value)
			return nil
		})
		for _, value := range values[:envelopes] {
			s.read(value, depth+1)
		}
		s.kind, s.code, s.status = cmp.Or(s.kind, own.kind), cmp.Or(s.code, own.code), cmp.Or(s.status, own.status)
		for _, value := range values[envelopes:] {
			s.read(value, depth+1)
		}
	}
}

// label takes in a member that names the failure.
func (s *statement) label(name string, v jsontext.Value) {
	switch name {
	case "type":
		switch kind := text(v); kind {
		case "error", "message": // the envelope's
		default:
			s.kind = cmp.Or(s.kind, kind)
		}
	case "code", "error_code", "errorCode", "errcode", "status", "statusCode", "status_code":
		code := text(v)
		if v.Kind() == '0' {
			code = string(v)
		}
		n, err := strconv.Atoi(code)
		switch {
		case err == nil && (n == 0 || n >= 200 && n < 300): // the envelope says that all is well
		case err == nil || name != "status":
			s.code = cmp.Or(s.code, code)
		}
		if n >= http.StatusBadRequest && n < 600 {
			s.status = cmp.Or(s.status, n)
		}
	}
}
