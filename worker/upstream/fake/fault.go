package fake

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault is a misbehaviour of the provider, of one of the [Kinds].
type Fault struct {
	Kind string
	// Probability that a call is struck; 0 means every call.
	Probability float64
	// Count is how many calls are struck before the fault is spent; 0 means any number.
	Count int
	// Duration is how long the fault is in force; 0 means until a reset.
	Duration time.Duration
	// RetryAfter is the wait that a refusal states, where it states one; 0 means a second.
	RetryAfter time.Duration
	// Delay is the pause of "slow" (0: 50 ms) or the length of "hang" (0: for ever).
	Delay time.Duration
	// Model is a glob of the models that are struck; empty means all.
	Model string
}

// Kinds lists the kinds of faults, by name.
func Kinds() []Kind {
	var out []Kind
	for name, e := range refusals {
		out = append(out, Kind{name, e.says(), true})
	}
	for _, s := range strikes() {
		out = append(out, Kind{s.kind, s.says, false})
	}
	slices.SortFunc(out, func(a, b Kind) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func (f Fault) check() error {
	_, refuses := refusals[f.Kind]
	if !refuses && !slices.ContainsFunc(strikes(), func(s strike) bool { return s.kind == f.Kind }) {
		names := make([]string, 0, len(refusals))
		for _, k := range Kinds() {
			names = append(names, k.Name)
		}
		return fmt.Errorf("there is no fault %q, only %s", f.Kind, strings.Join(names, ", "))
	}
	if f.Probability < 0 || f.Probability > 1 || f.Count < 0 || f.Duration < 0 || f.RetryAfter < 0 || f.Delay < 0 {
		return fmt.Errorf("fault %q: a number is out of range", f.Kind)
	}
	if _, err := path.Match(f.Model, ""); err != nil {
		return fmt.Errorf("fault %q: model %q: %w", f.Kind, f.Model, err)
	}
	return nil
}

// rule is a Fault in force.
type rule struct {
	Fault
	left  int       // calls; meaningful when Count > 0
	until time.Time // meaningful when Duration > 0
}

func newRule(f Fault, now time.Time) *rule {
	return &rule{Fault: f, left: f.Count, until: now.Add(f.Duration)}
}

func (r *rule) spent(now time.Time) bool {
	return r.Count > 0 && r.left == 0 || r.Duration > 0 && !now.Before(r.until)
}

// directed returns the fault that a prompt or a header asks for, as "529" or as
// "529:2" for the first two calls, or nil. seen is how often the prompt has
// arrived, this call included.
func directed(asked string, seen int) *Fault {
	kind, times, limited := strings.Cut(asked, ":")
	fault := &Fault{Kind: kind}
	if fault.check() != nil {
		return nil
	}
	if n, err := strconv.Atoi(times); limited && (err != nil || seen > n) {
		return nil
	}
	return fault
}

// rules are the faults in force. Their owner locks.
type rules []*rule

// strike returns the fault that strikes a call of the model, or nil. Faults are
// tried in the order in which they came.
func (rs *rules) strike(model string, now time.Time, dice *rand.Rand) *Fault {
	*rs = slices.DeleteFunc(*rs, func(r *rule) bool { return r.spent(now) })
	for _, r := range *rs {
		if r.Model != "" {
			if ok, err := path.Match(r.Model, model); !ok || err != nil {
				continue
			}
		}
		if r.Probability > 0 && dice.Float64() >= r.Probability {
			continue
		}
		if r.Count > 0 {
			r.left--
		}
		return &r.Fault
	}
	return nil
}

// forms lists the faults in force, each with what is left of it.
func (rs rules) forms(now time.Time) []faultForm {
	forms := []faultForm{}
	for _, r := range rs {
		if r.spent(now) {
			continue
		}
		form := faultForm{Kind: r.Kind, Probability: r.Probability, Count: r.left, RetryAfter: span(r.RetryAfter),
			Delay: span(r.Delay), Model: r.Model}
		if r.Duration > 0 {
			form.Duration = span(r.until.Sub(now))
		}
		forms = append(forms, form)
	}
	return forms
}

// faultForm is a Fault in JSON. Times are Go durations or seconds.
type faultForm struct {
	Kind        string  `json:"kind"`
	Probability float64 `json:"probability,omitzero"`
	Count       int     `json:"count,omitzero"`
	Duration    span    `json:"duration,omitzero"`
	RetryAfter  span    `json:"retry_after,omitzero"`
	Delay       span    `json:"delay,omitzero"`
	Model       string  `json:"model,omitzero"`
}

// span is a time.Duration that JSON states as "1m30s" or as 90.
type span time.Duration

func (s *span) UnmarshalJSON(b []byte) error {
	v := strings.Trim(string(b), `"`)
	if seconds, err := strconv.ParseFloat(v, 64); err == nil && seconds >= 0 && seconds < 1e9 {
		*s = span(seconds * float64(time.Second))
		return nil
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return errors.New("neither a duration nor seconds")
	}
	*s = span(d)
	return nil
}

func (s span) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(s).String()) }

// fault returns what the form says.
func (form faultForm) fault() Fault {
	return Fault{
		Kind: form.Kind, Probability: form.Probability, Count: form.Count, Duration: time.Duration(form.Duration),
		RetryAfter: time.Duration(form.RetryAfter), Delay: time.Duration(form.Delay), Model: form.Model,
	}
}

// refusal is an error as the two providers word it.
type refusal struct {
	name   string
	status int
	waits  bool // states a retry-after
	again  bool // x-should-retry
	html   bool // comes from before the API

	anthropicType string
	errorCode     string // error.details.error_code
	openAIType    string
	openAICode    string
	message       string

	raw    string            // in place of all that, with the status
	header map[string]string // beside it
	words  string            // what is odd about it
}

// says describes the refusal.
func (e refusal) says() string {
	if e.words != "" {
		return e.words
	}
	said := strconv.Itoa(e.status) + " " + cmp.Or(e.anthropicType, "as a page")
	if code := cmp.Or(e.errorCode, e.openAICode); code != "" {
		said += " (" + code + ")"
	}
	return said
}

// refusals is a table, read only.
var refusals = map[string]refusal{
	"400": {name: "400", status: 400, anthropicType: "invalid_request_error", openAIType: "invalid_request_error", message: "The request is not valid."},
	"401": {name: "401", status: 401, anthropicType: "authentication_error", openAIType: "invalid_request_error", openAICode: "invalid_api_key", message: "invalid x-api-key"},
	"402": {name: "402", status: 402, anthropicType: "billing_error", openAIType: "billing_error", openAICode: "billing_not_active", message: "There is a problem with your billing or payment information."},
	"403": {name: "403", status: 403, anthropicType: "permission_error", openAIType: "invalid_request_error", message: "Your API key does not have permission to use the specified resource."},
	"404": {name: "404", status: 404, anthropicType: "not_found_error", openAIType: "invalid_request_error", openAICode: "model_not_found", message: "Not Found"},
	"408": {name: "408", status: 408, again: true, anthropicType: "timeout_error", openAIType: "timeout", message: "The request was not read in time."},
	"422": {name: "422", status: 422, anthropicType: "invalid_request_error", openAIType: "invalid_request_error", message: "The request cannot be processed."},
	"409": {name: "409", status: 409, again: true, anthropicType: "conflict_error", openAIType: "conflict_error", message: "The request clashed with another."},
	"413": {name: "413", status: 413, html: true},
	"429": {name: "429", status: 429, waits: true, again: true, anthropicType: "rate_limit_error", openAIType: "requests", openAICode: "rate_limit_exceeded",
		message: "This request would exceed your organization's rate limit."},
	"ramp": {name: "ramp", status: 429, waits: true, again: true, anthropicType: "rate_limit_error", errorCode: "ramp_limit_exceeded", openAIType: "requests", openAICode: "ramp_limit_exceeded",
		message: "Your organization's usage rose too sharply. Please increase it gradually."},
	"spend": {name: "spend", status: 429, anthropicType: "rate_limit_error", errorCode: "enforced_spend_limit_reached", openAIType: "insufficient_quota", openAICode: "insufficient_quota",
		message: "Your organization has reached its monthly spend limit."},
	"customer_cap": {name: "customer_cap", status: 400, anthropicType: "invalid_request_error", openAIType: "invalid_request_error", openAICode: "billing_hard_limit_reached",
		message: "You have reached your specified API usage limits. You will regain access on 2099-01-01 at 00:00 UTC."},
	"500": {name: "500", status: 500, again: true, anthropicType: "api_error", openAIType: "server_error", message: "Internal server error"},
	"502": {name: "502", status: 502, html: true},
	"503": {name: "503", status: 503, again: true, anthropicType: "overloaded_error", openAIType: "server_error", message: "The engine is currently overloaded, please try again later"},
	"504": {name: "504", status: 504, again: true, anthropicType: "timeout_error", openAIType: "server_error", message: "The request timed out."},
	"429_page": {name: "429_page", status: 429, raw: "<html><head><title>429 Too Many Requests</title></head></html>\n",
		header: map[string]string{"Content-Type": "text/html"}, words: "429 as an edge's page, without a wait"},
	"429_wait": {name: "429_wait", status: 429, raw: `{"error":{"type":"rate_limit_error","message":"Too many requests. Please wait."}}`,
		header: map[string]string{"Content-Type": "application/json", "Retry-After": "7"}, words: "429 that states a wait of 7 s"},
	"429_bare": {name: "429_bare", status: 429, words: "429 and nothing else"},
	"403_page": {name: "403_page", status: 403, raw: "<!DOCTYPE html><title>Attention Required!</title>\n",
		header: map[string]string{"Content-Type": "text/html"}, words: "403 as an edge's page"},
	"404_page": {name: "404_page", status: 404, raw: "404 page not found\n",
		header: map[string]string{"Content-Type": "text/plain"}, words: "404 in words, as of another server"},
	"redirect": {name: "redirect", status: 308, header: map[string]string{"Location": "https://elsewhere.invalid/"}, words: "308 to another address"},
	"detail": {name: "detail", status: 422, raw: `{"detail":[{"loc":["body","max_tokens"],"msg":"Input should be less than 8192","type":"less_than"}]}`,
		header: map[string]string{"Content-Type": "application/json"}, words: "422 with a list of details"},
	"unknown": {name: "unknown", status: 422, raw: `{"why":{"because":"the moon is full"}}`,
		header: map[string]string{"Content-Type": "application/json"}, words: "422 in an envelope that nobody knows"},
	"echo_key": {name: "echo_key", status: 401, raw: `{"error":{"type":"KEY","code":"KEY","message":"the key KEY is refused"},"request_id":"KEY"}`,
		header: map[string]string{"Content-Type": "application/json", "Request-Id": "KEY", "X-Request-Id": "KEY"}, words: "401 that echoes the key in everything"},
	"529": {name: "529", status: 529, again: true, anthropicType: "overloaded_error", openAIType: "server_error", message: "Overloaded"},
}

// body words the error in a dialect.
func (e refusal) body(d Dialect, id, message string) []byte {
	if message == "" {
		message = e.message
	}
	if d == OpenAI {
		b := append(appendString([]byte(`{"error":{"message":`), message), `,"type":`...)
		b = append(appendString(b, e.openAIType), `,"param":null,"code":`...)
		if e.openAICode == "" {
			b = append(b, "null"...)
		} else {
			b = appendString(b, e.openAICode)
		}
		return append(b, "}}"...)
	}
	b := append(appendString([]byte(`{"type":"error","error":{"type":`), e.anthropicType), `,"message":`...)
	b = appendString(b, message)
	if e.errorCode != "" {
		b = append(appendString(append(b, `,"details":{"error_code":`...), e.errorCode), '}')
	}
	return append(appendString(append(b, `},"request_id":`...), id), '}')
}

// appendString writes s as a JSON string.
func appendString(b []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // a string has no error
	return append(b, quoted...)
}
