package upstream

import (
	"bytes"
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
	// strange is true when what came is of another API, and body is it where it
	// can hold no model's text.
	strange bool
	body    []byte
}

func (e *providerError) Error() string { return "the provider gave something else than an answer" }

// reported returns the error that body holds in the envelope of either dialect.
func reported(body []byte) *providerError {
	e := stated(body, "")
	e.stated = true
	return e
}

// stated returns what a JSON value that is no answer says, and came when it
// says nothing.
func stated(v jsontext.Value, came string) *providerError {
	p, number := readProblem(v)
	status := cmp.Or(number, statusOf(p.code), statusOf(p.kind), http.StatusInternalServerError)
	return &providerError{problem: p, status: status, came: came, stated: p.message != "" || status != http.StatusInternalServerError}
}

// readProblem reads the body of an error, or as much as there is of one, and the
// status that it gives as a number; 0 for none. Anything else than JSON, such as
// a proxy's page, is no problem.
func readProblem(v jsontext.Value) (p problem, status int) {
	var s statement
	s.read(bytes.TrimSpace(v), 0)
	return s.problem, s.status
}

// statusOf is the HTTP status that a word stands for, 0 for any other word: the
// types of Anthropic, the codes of OpenAI, the statuses of Google, the exceptions
// of AWS, and the class names of vLLM, LiteLLM and others, however they are
// spelt. Sources: platform.claude.com/docs/en/api/errors,
// developers.openai.com/api/docs/guides/error-codes, cloud.google.com/apis/design/errors.
func statusOf(word string) int {
	switch plainWord(word) {
	case "invalidrequest", "badrequest", "invalidargument", "failedprecondition", "validation", "contextwindowexceeded", "contextlengthexceeded",
		"contentpolicyviolation", "contentfilter", "unsupportedparameter", "invalidvalue", "outofrange":
		return http.StatusBadRequest
	case "authentication", "invalidapikey", "unauthenticated", "unauthorized", "invalidauthentication":
		return http.StatusUnauthorized
	case "billing", "paymentrequired":
		return http.StatusPaymentRequired
	case "permission", "permissiondenied", "accessdenied", "forbidden":
		return http.StatusForbidden
	case "notfound", "modelnotfound", "resourcenotfound":
		return http.StatusNotFound
	case "requesttoolarge":
		return http.StatusRequestEntityTooLarge
	case "unprocessableentity":
		return http.StatusUnprocessableEntity
	case "ratelimit", "ratelimitexceeded", "ratelimitreached", "ratelimited", "toomanyrequests", "throttling", "throttled", "resourceexhausted",
		"insufficientquota", "exceededcurrentquota", "tokens", "requests":
		return http.StatusTooManyRequests
	case "serviceunavailable", "unavailable", "engineoverloaded", "modelnotready":
		return http.StatusServiceUnavailable
	case "timeout", "modeltimeout", "deadlineexceeded":
		return http.StatusGatewayTimeout
	case "overloaded":
		return 529
	}
	return 0
}

// plainWord is a word without its case, its joints, and what only says that it is
// an error's.
func plainWord(word string) string {
	word = strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(word))
	word = strings.TrimPrefix(word, "litellm.")
	return strings.TrimSuffix(strings.TrimSuffix(word, "error"), "exception")
}

// statement is what a provider says of a failure, in whatever envelope.
type statement struct {
	problem
	status int // a number from 400 to 599 that it gives; 0 for none
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
	case "details":
		s.code = cmp.Or(errorCode(v), s.code)
	case "code", "error_code", "errorCode", "errcode", "status", "statusCode", "status_code":
		code := text(v)
		if v.Kind() == '0' {
			code = string(v)
		}
		n, err := strconv.Atoi(code)
		switch {
		case err == nil && (n == 0 || n >= 200 && n < 300): // the envelope says that all is well
		case err == nil || name != "status" || statusOf(code) != 0:
			s.code = cmp.Or(s.code, code)
		}
		if n >= http.StatusBadRequest && n < 600 {
			s.status = cmp.Or(s.status, n)
		}
	}
}

// errorCode reads Anthropic's error.details.
func errorCode(details jsontext.Value) (code string) {
	_ = eachMember(details, func(name string, v jsontext.Value, _, _ int) error { // what is no object has no code
		if name == "error_code" {
			code = text(v)
		}
		return nil
	})
	return code
}
