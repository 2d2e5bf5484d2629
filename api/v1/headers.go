package v1

import (
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/quota"
)

const maxAskedWait = 60 // seconds of ?wait=N

// preferredWait returns the time of "Prefer: wait=N" (RFC 7240), 0 for none.
// A preference that makes no sense is ignored, as the RFC has it.
func preferredWait(h http.Header) time.Duration {
	for _, field := range h["Prefer"] {
		for preference := range strings.SplitSeq(field, ",") {
			preference, _, _ = strings.Cut(preference, ";")
			name, value, _ := strings.Cut(preference, "=")
			if !strings.EqualFold(strings.TrimSpace(name), "wait") {
				continue
			}
			// The first one counts.
			n, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`))
			if err != nil || n <= 0 {
				return 0
			}
			return time.Duration(min(n, 3600)) * time.Second
		}
	}
	return 0
}

// queryWait returns the time of ?wait=N.
func queryWait(q url.Values) (time.Duration, error) {
	n, err := queryInt(q, "wait", 0, 0, maxAskedWait)
	return time.Duration(n) * time.Second, err
}

func queryInt(q url.Values, name string, absent, least, most int) (int, error) {
	if !q.Has(name) {
		return absent, nil
	}
	n, err := strconv.Atoi(q.Get(name))
	if err != nil || n < least || n > most {
		return 0, fault.Fail(fault.InvalidRequest, "The query parameter %q must be a whole number from %d to %d.", name, least, most)
	}
	return n, nil
}

// queryTimes returns the times of ?since= and ?until=, zero for none.
func queryTimes(q url.Values) (since, until time.Time, err error) {
	for name, to := range map[string]*time.Time{"since": &since, "until": &until} {
		text := q.Get(name)
		if text == "" {
			continue
		}
		var ok bool
		if *to, ok = jsonread.Time(text); !ok {
			return since, until, fault.Fail(fault.InvalidRequest, "The query parameter %q must be a time in the form of RFC 3339, such as 2030-01-31T12:00:00Z.", name)
		}
	}
	return since, until, nil
}

// queryMetadata returns the pairs of ?metadata.KEY=VALUE.
func queryMetadata(q url.Values) (pairs map[string]string, err error) {
	for name := range q {
		key, ours := strings.CutPrefix(name, "metadata.")
		if !ours {
			continue
		}
		if n := utf8.RuneCountInString(key); n == 0 || n > maxMetadataKey || utf8.RuneCountInString(q.Get(name)) > maxMetadataValue {
			return nil, fault.Fail(fault.InvalidRequest, "The query parameter %s must name a key of at most %d characters and a value of at most %d.", jsonread.Clip(name), maxMetadataKey, maxMetadataValue)
		}
		if pairs == nil {
			pairs = map[string]string{}
		}
		pairs[key] = q.Get(name)
	}
	if len(pairs) > maxMetadata {
		return nil, fault.Fail(fault.InvalidRequest, `There are more than %d query parameters "metadata.KEY".`, maxMetadata)
	}
	return pairs, nil
}

// setRateLimit tells what is left of the tenant's allowances
// (draft-ietf-httpapi-ratelimit-headers).
func setRateLimit(h http.Header, g quota.Grant) {
	if len(g.Windows) == 0 {
		return
	}
	var policies, limits []string
	for _, w := range g.Windows {
		policies = append(policies, policyField(w.Name, w.Limit, w.Span))
		limits = append(limits, limitField(w.Name, w.Remaining, w.Reset))
	}
	h.Set("RateLimit-Policy", strings.Join(policies, ", "))
	h.Set("RateLimit", strings.Join(limits, ", "))
}

func policyField(name string, limit int64, window time.Duration) string {
	s := `"` + name + `";q=` + strconv.FormatInt(limit, 10)
	if window > 0 {
		s += ";w=" + strconv.FormatInt(int64(window/time.Second), 10)
	}
	return s
}

func limitField(name string, remaining int64, reset time.Duration) string {
	return `"` + name + `";r=` + strconv.FormatInt(max(remaining, 0), 10) + ";t=" + strconv.FormatInt(int64(math.Ceil(max(reset, 0).Seconds())), 10)
}
