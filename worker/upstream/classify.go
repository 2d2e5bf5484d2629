package upstream

import (
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicehq/sluice/tasks"
)

// problem is what a provider says about a call that failed.
type problem struct {
	kind    string // error.type
	code    string // Anthropic: error.details.error_code; OpenAI: error.code
	message string
}

// words joins what the provider says into a line for the job's owner.
func (p problem) words() string {
	kind := p.kind
	switch {
	case kind == "":
		kind = p.code
	case p.code != "" && p.code != p.kind:
		kind += " (" + p.code + ")"
	}
	if kind == "" || p.message == "" {
		return kind + p.message
	}
	return kind + ": " + p.message
}

// spendCode knows the codes of an allowance of money that is used up. Waiting a
// minute cures none of them.
func spendCode(code string) bool {
	switch code {
	case "enforced_spend_limit_reached", "contract_spend_limit_reached",
		"linked_organization_spend_limit_reached", "organization_on_hold",
		"insufficient_quota", "billing_hard_limit_reached", "billing_not_active",
		"exceeded_current_quota_error", "insufficient_balance", "insufficient_credits":
		return true
	}
	return false
}

// spendMessage recognises the caps that come as an ordinary 400 and have no
// code: one that the customer set, and a prepaid balance that is used up.
func spendMessage(message string) bool {
	return strings.HasPrefix(message, "You have reached your specified") && strings.Contains(message, "usage limits") ||
		strings.HasPrefix(message, "Your credit balance is too low")
}

// spendWords recognises a cap of money among the refusals for pace, where nothing
// but the words tells them apart. That a wait is not stated says nothing: no
// gateway's 429 states one, and no page does.
func spendWords(message string) bool {
	message = strings.ToLower(message)
	for _, words := range []string{"spend limit", "spending limit", "spending cap", "credit balance", "insufficient balance", "insufficient credit", "out of credits"} {
		if strings.Contains(message, words) {
			return true
		}
	}
	return spendMessage(message)
}

// Doubt is what a refusal leaves open: whether the provider refused one request,
// or the key with everything that is asked under it. The answer alone cannot
// tell: the same status is sent for both.
type Doubt string

// The doubts, by what a provider answered.
const (
	NoDoubt     Doubt = ""
	DoubtKey    Doubt = "key"    // 401
	DoubtCredit Doubt = "credit" // 402: out of money, or for this request alone
	DoubtAccess Doubt = "access" // 403: no permission, a filter, or something in between that blocks
	DoubtSpend  Doubt = "spend"  // code or words name a cap: the account's, or a gateway's for one model or user
	DoubtModel  Doubt = "model"  // no such model, or none that this key may use
)

// doubt returns what a status with this problem leaves open.
func doubt(d Dialect, status int, p problem) Doubt {
	outcome := classify(d, status, p)
	switch {
	case outcome == tasks.SpendLimited && (status != http.StatusPaymentRequired || spendCode(p.code) || spendCode(p.kind)):
		return DoubtSpend
	case outcome == tasks.SpendLimited:
		return DoubtCredit
	case noSuchModel(status, p):
		return DoubtModel
	case status == http.StatusUnauthorized:
		return DoubtKey
	case status == http.StatusForbidden:
		return DoubtAccess
	}
	return NoDoubt
}

// noSuchModel recognises that the model is not there for this key. OpenAI says
// so by its code, under 404 and 403; Anthropic by a message that is nothing but
// "model: " and the name; other servers by a sentence.
func noSuchModel(status int, p problem) bool {
	switch status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound:
	default:
		return false
	}
	switch p.code {
	case "model_not_found", "model_not_available", "unknown_model", "invalid_model":
		return true
	}
	if status == http.StatusForbidden {
		return false
	}
	message := strings.ToLower(p.message)
	if status == http.StatusNotFound && strings.HasPrefix(message, "model: ") {
		return true
	}
	if !strings.Contains(message, "model") {
		return false
	}
	for _, words := range []string{"does not exist", "not found", "no such model", "unknown model", "is not a valid model"} {
		if strings.Contains(message, words) {
			return true
		}
	}
	return false
}

// classify says what an HTTP status with this problem means.
//
// Sources: platform.claude.com/docs/en/api/errors and /rate-limits,
// developers.openai.com/api/docs/guides/error-codes.
func classify(d Dialect, status int, p problem) tasks.Outcome {
	ofRequest := status >= 400 && status < 500
	switch {
	case ofRequest && (spendCode(p.code) || spendCode(p.kind)):
		return tasks.SpendLimited
	case noSuchModel(status, p):
		return tasks.Rejected
	case status == http.StatusBadRequest && spendMessage(p.message):
		return tasks.SpendLimited
	case status == http.StatusTooManyRequests:
		return limited(d, p)
	}
	return meaning(status)
}

// meaning is what a status says by itself, any but 429.
func meaning(status int) tasks.Outcome {
	switch status {
	case http.StatusPaymentRequired:
		return tasks.SpendLimited
	case http.StatusUnauthorized, http.StatusForbidden:
		return tasks.Unauthorized
	case http.StatusRequestTimeout, http.StatusGatewayTimeout, 524:
		return tasks.Timeout
	case http.StatusConflict:
		return tasks.ServerError // a passing clash inside the provider; its own clients try again
	case http.StatusProxyAuthRequired, http.StatusMisdirectedRequest, http.StatusTooEarly, 499:
		return tasks.ServerError // of the connection or of a proxy before the provider: of no request
	case http.StatusServiceUnavailable, 529:
		return tasks.Overloaded
	}
	if status >= 400 && status < 500 {
		return tasks.Rejected
	}
	// 5xx; and a 1xx or 3xx, which no API answers with: something else stands at
	// that address, and the job is not to blame.
	return tasks.ServerError
}

// limited says which limit a 429 means.
func limited(d Dialect, p problem) tasks.Outcome {
	switch {
	case p.code == "ramp_limit_exceeded", strings.Contains(p.message, "usage increase rate"):
		return tasks.RampLimited
	case d == OpenAI && strings.HasPrefix(p.message, "Request too large for"):
		// One request above a whole minute's allowance: no wait makes it fit.
		return tasks.Rejected
	case spendWords(p.message):
		return tasks.SpendLimited
	}
	return tasks.RateLimited
}

// billable reports whether a provider may have charged for a call that it, or
// a gateway before it, answered with that status.
func billable(status int) bool {
	switch status {
	case http.StatusBadGateway, http.StatusGatewayTimeout, 520, 524:
		return true
	}
	return false
}

// resumeAt returns when a spend cap is lifted: the time that the message
// states, or, for a tier's monthly cap, the documented 00:00 UTC on the first
// of the next month.
func resumeAt(p problem, now time.Time) time.Time {
	const gain = "You will regain access on "
	if _, rest, ok := strings.Cut(p.message, gain); ok {
		const form = "2006-01-02 at 15:04 UTC"
		if len(rest) >= len(form) {
			if t, err := time.Parse(form, rest[:len(form)]); err == nil {
				return t
			}
		}
	}
	if p.code == "enforced_spend_limit_reached" {
		y, m, _ := now.UTC().Date()
		return time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Time{}
}

// clip returns s as one line of valid UTF-8 of at most n bytes.
func clip(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
	if len(s) <= n {
		return s
	}
	cut := n - len("…")
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
