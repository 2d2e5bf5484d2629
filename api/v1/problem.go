package v1

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/tasks"
)

// A problem's type (RFC 9457) is this and its code.
const (
	problemTypePrefix  = "urn:sluice:problem:"
	problemContentType = "application/problem+json"
)

// Problem sets the header of the answer to a failed request and returns its body.
func Problem(h http.Header, k fault.Kind, f fault.Fault, request string) []byte {
	if q := f.Quota; q != nil {
		h.Set("RateLimit-Policy", policyField(q.Quota, q.Limit, q.Window)+unit(q.Quota))
		h.Set("RateLimit", limitField(q.Quota, q.Remaining, q.RetryAfter))
	}
	if f.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(seconds(f.RetryAfter), 10))
	}
	h.Set("Content-Type", problemContentType)
	o := jsonwrite.Object{B: make([]byte, 0, 512)}
	o.Str("type", problemTypePrefix+k.Code)
	o.Str("title", k.Title)
	o.Num("status", int64(k.Status))
	o.Str("code", k.Code)
	o.Str("detail", f.Detail)
	if f.ID != "" {
		o.Str("id", f.ID)
	}
	if f.Line > 0 {
		o.Num("line", int64(f.Line))
	}
	o.Str("request_id", request)
	return append(o.End(), '\n')
}

// unit is what a quota counts in, where that is not requests or tokens.
func unit(quota string) string {
	if tasks.OfMoney(quota) {
		return `;qu="millionths of ` + tasks.Currency + `"`
	}
	return ""
}

// seconds rounds up to whole seconds, at least 1, as Retry-After takes them.
func seconds(d time.Duration) int64 {
	return int64(min(max(math.Ceil(d.Seconds()), 1), math.MaxInt32))
}
