package relay

import (
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/header"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/tasks"
)

// sdk is what the header of a call in a provider's own form says, beside the call.
type sdk struct {
	key string // Idempotency-Key; "" for none
	// repeat says that the caller sends the request again (x-stainless-retry-count).
	repeat bool
	// dedup is false where the caller wants a call of its own whatever it sent before
	// (sluice-dedup: off).
	dedup bool
	// patience is how long the caller waits for an answer, less what it takes to tell
	// it, before it gives up, that there is none yet.
	patience time.Duration
}

// The bounds of a caller's patience. SDKs on Node give up after 301 s, whatever they
// say; those that say nothing are taken for such.
const (
	mostPatience = 300 * time.Second
	patienceIs   = 290 * time.Second // of who says nothing
)

// patience is what x-stainless-timeout, in seconds, leaves for waiting.
func patience(h http.Header) time.Duration {
	n, err := strconv.ParseFloat(h.Get("X-Stainless-Timeout"), 64)
	if err != nil || n <= 0 || n != n {
		return patienceIs
	}
	total := time.Duration(min(n, mostPatience.Seconds()) * float64(time.Second))
	return max(total-max(total/10, 2*time.Second), total/2)
}

// The limits of what our own fields say; they are those of a submit body.
const (
	maxFallbacks = 8
	maxPairs     = 16
	maxPairKey   = 64
	maxPairValue = 512
	maxModel     = 256
)

// readSDK reads the header of a call and sets what our own fields ask for the job:
// sluice-priority, sluice-deadline, sluice-fallback-models and sluice-metadata-KEY.
// The job's priority stays where nothing is said; "" is the highest that its tenant may use.
func readSDK(h http.Header, job *tasks.Job) (sdk, error) {
	out := sdk{dedup: true, patience: patience(h)}
	var err error
	if out.key, err = header.IdempotencyKey(h); err != nil {
		return out, err
	}
	if n, err := strconv.Atoi(h.Get("X-Stainless-Retry-Count")); err == nil {
		out.repeat = n > 0
	}
	for name, values := range h {
		what, ours := strings.CutPrefix(name, "Sluice-")
		if !ours {
			continue
		}
		if len(values) > 1 {
			return out, fault.Fail(fault.InvalidRequest, "There is more than one %s header.", strings.ToLower(name))
		}
		if err := out.own(what, values[0], job); err != nil {
			return out, err
		}
	}
	return out, nil
}

// own reads one of our own fields.
func (s *sdk) own(what, value string, job *tasks.Job) error {
	switch what {
	case "Dedup":
		if s.dedup = value != "off"; s.dedup && value != "on" {
			return fault.Fail(fault.InvalidRequest, `The sluice-dedup header must be "on" or "off".`)
		}
	case "Priority":
		if job.Request.Patient = value == "batch"; job.Request.Patient {
			value = string(tasks.Low)
		}
		if job.Priority = tasks.Priority(value); !job.Priority.Valid() {
			return fault.Fail(fault.InvalidRequest, `The sluice-priority header must be "high", "normal", "low" or "batch".`)
		}
	case "Deadline":
		at, ok := jsonread.Time(value)
		if !ok {
			return fault.Fail(fault.InvalidRequest, "The sluice-deadline header must be a time in the form of RFC 3339, such as 2030-01-31T12:00:00Z.")
		}
		job.Deadline = at
	case "Fallback-Models":
		for model := range strings.SplitSeq(value, ",") {
			if model = strings.TrimSpace(model); model == "" || len(model) > maxModel || len(job.Fallback) == maxFallbacks {
				return fault.Fail(fault.InvalidRequest, "The sluice-fallback-models header must list at most %d models, with commas between them.", maxFallbacks)
			}
			job.Fallback = append(job.Fallback, model)
		}
	default:
		key, pair := strings.CutPrefix(what, "Metadata-")
		if !pair {
			return fault.Fail(fault.InvalidRequest, "The header %s is unknown: there are sluice-priority, sluice-deadline, sluice-fallback-models, sluice-metadata-KEY and sluice-dedup.", jsonread.Clip("sluice-"+strings.ToLower(what)))
		}
		return ownPair(strings.ToLower(key), value, job)
	}
	return nil
}

func ownPair(key, value string, job *tasks.Job) error {
	if job.Metadata == nil {
		job.Metadata = map[string]string{}
	}
	if key == "" || utf8.RuneCountInString(key) > maxPairKey || utf8.RuneCountInString(value) > maxPairValue || !utf8.ValidString(value) || len(job.Metadata) == maxPairs {
		return fault.Fail(fault.InvalidRequest, "There may be at most %d sluice-metadata-KEY headers, a KEY of at most %d characters and a value of at most %d.", maxPairs, maxPairKey, maxPairValue)
	}
	job.Metadata[key] = value
	return nil
}

// digest is that of [Digest] for a body that is in memory.
func digest(r *http.Request, path string, body []byte) string {
	sum := Digest(r, path)
	_, _ = sum.Write(body)
	return hex.EncodeToString(sum.Sum(nil))
}

// mostRetryAfter is the longest wait that is told to an SDK as a reason to come back by
// itself: some sleep for as long as they are told, whatever that is.
const mostRetryAfter = time.Minute

// Retry tells an SDK whether the same request is worth sending again, and when.
func Retry(h http.Header, k fault.Kind, f fault.Fault) {
	again := false
	switch k.Code {
	case fault.StillWaiting:
		h.Set("Retry-After-Ms", "100")
		again = true
	case fault.Unavailable, fault.OutcomeUnknown, fault.Overloaded, fault.TooManyStreams, fault.TooManyRequests, fault.QuotaExceeded,
		fault.StoreFull, fault.KeyBusy, fault.RequestTimeout, fault.KeysUnavailable:
		again = f.RetryAfter <= mostRetryAfter
	}
	if f.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((f.RetryAfter+time.Second-1)/time.Second), 10))
	}
	h.Set("X-Should-Retry", strconv.FormatBool(again))
}
