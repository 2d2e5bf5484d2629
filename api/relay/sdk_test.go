package relay

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/tasks"
)

// A caller is told before it gives up: the larger of a tenth of its time and two seconds
// before that, or of the 300 s after which SDKs on Node do.
func TestPatience(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]time.Duration{
		"": 290 * time.Second, "600": 270 * time.Second, "300": 270 * time.Second, "100": 90 * time.Second, "20": 18 * time.Second, "10": 8 * time.Second,
		"4": 2 * time.Second, "4.5": 2500 * time.Millisecond, "2": time.Second, "1": 500 * time.Millisecond, "1e9": 270 * time.Second,
		"0": 290 * time.Second, "-1": 290 * time.Second, "NaN": 290 * time.Second, "Inf": 270 * time.Second, "soon": 290 * time.Second,
	} {
		h := http.Header{}
		if said != "" {
			h.Set("x-stainless-timeout", said)
		}
		if got := Patience(h); got != want {
			t.Errorf("x-stainless-timeout %q leaves %s; want %s", said, got, want)
		}
	}
}

// Our own fields say of a job what a submit body would, and what makes sense for nobody is
// refused by name.
func TestOurOwnFields(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)
	plain := tasks.Job{Priority: tasks.High}
	for name, row := range map[string]struct {
		fields []string
		job    tasks.Job
		sdk    sdk
		wrong  string
	}{
		"nothing":                {nil, plain, sdk{dedup: true, patience: patienceIs}, ""},
		"a key":                  {[]string{"Idempotency-Key", `"k"`}, plain, sdk{key: "k", dedup: true, patience: patienceIs}, ""},
		"sent again":             {[]string{"x-stainless-retry-count", "1"}, plain, sdk{repeat: true, dedup: true, patience: patienceIs}, ""},
		"not sent before":        {[]string{"x-stainless-retry-count", "0"}, plain, sdk{dedup: true, patience: patienceIs}, ""},
		"no number":              {[]string{"x-stainless-retry-count", "often"}, plain, sdk{dedup: true, patience: patienceIs}, ""},
		"a call of its own":      {[]string{"sluice-dedup", "off"}, plain, sdk{patience: patienceIs}, ""},
		"dedup on":               {[]string{"sluice-dedup", "on"}, plain, sdk{dedup: true, patience: patienceIs}, ""},
		"dedup, other":           {[]string{"sluice-dedup", "no"}, plain, sdk{}, "sluice-dedup"},
		"a priority":             {[]string{"sluice-priority", "low"}, tasks.Job{Priority: tasks.Low}, sdk{dedup: true, patience: patienceIs}, ""},
		"a priority, other":      {[]string{"sluice-priority", "Low"}, plain, sdk{}, "sluice-priority"},
		"a deadline":             {[]string{"sluice-deadline", "2030-01-31T12:00:00Z"}, tasks.Job{Priority: tasks.High, Deadline: at}, sdk{dedup: true, patience: patienceIs}, ""},
		"a deadline, other":      {[]string{"sluice-deadline", "tomorrow"}, plain, sdk{}, "sluice-deadline"},
		"fallbacks":              {[]string{"sluice-fallback-models", "a, b"}, tasks.Job{Priority: tasks.High, Fallback: []string{"a", "b"}}, sdk{dedup: true, patience: patienceIs}, ""},
		"fallbacks, none":        {[]string{"sluice-fallback-models", "a,,b"}, plain, sdk{}, "sluice-fallback-models"},
		"fallbacks, too many":    {[]string{"sluice-fallback-models", strings.Repeat("m,", 8) + "m"}, plain, sdk{}, "sluice-fallback-models"},
		"a long fallback":        {[]string{"sluice-fallback-models", strings.Repeat("m", 257)}, plain, sdk{}, "sluice-fallback-models"},
		"metadata":               {[]string{"sluice-metadata-Team", "blue"}, tasks.Job{Priority: tasks.High, Metadata: map[string]string{"team": "blue"}}, sdk{dedup: true, patience: patienceIs}, ""},
		"metadata without a key": {[]string{"sluice-metadata-", "x"}, plain, sdk{}, "sluice-metadata"},
		"metadata, a long key":   {[]string{"sluice-metadata-" + strings.Repeat("k", 65), "x"}, plain, sdk{}, "sluice-metadata"},
		"metadata, a long value": {[]string{"sluice-metadata-k", strings.Repeat("v", 513)}, plain, sdk{}, "sluice-metadata"},
		"metadata, no text":      {[]string{"sluice-metadata-k", "\xff"}, plain, sdk{}, "sluice-metadata"},
		"twice":                  {[]string{"sluice-priority", "low", "sluice-priority", "low"}, plain, sdk{}, "sluice-priority"},
		"a misspelt field":       {[]string{"sluice-prioritiy", "low"}, plain, sdk{}, "sluice-prioritiy"},
	} {
		h := http.Header{}
		for i := 0; i+1 < len(row.fields); i += 2 {
			h.Add(row.fields[i], row.fields[i+1])
		}
		job := plain
		got, err := readSDK(h, &job)
		if row.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), row.wrong) {
				t.Errorf("%s: %v; want a refusal that names %s", name, err, row.wrong)
			}
			continue
		}
		if err != nil || got != row.sdk || !reflect.DeepEqual(job, row.job) {
			t.Errorf("%s: %+v for %+v, %v; want %+v for %+v", name, got, job, err, row.sdk, row.job)
		}
	}
	h := http.Header{}
	for i := range 17 {
		h.Set("sluice-metadata-"+string(rune('a'+i)), "x")
	}
	if _, err := readSDK(h, &tasks.Job{}); err == nil {
		t.Error("17 pairs of metadata are taken")
	}
}

// An SDK comes back by itself where that can help, and soon, and nowhere else.
func TestWhatIsWorthSendingAgain(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{
		fault.StillWaiting: "true", fault.Unavailable: "true", fault.OutcomeUnknown: "true", fault.TooManyRequests: "true", fault.QuotaExceeded: "true",
		fault.InvalidRequest: "false", fault.NotFound: "false", fault.ModelNotFound: "false", fault.SpendLimited: "false", fault.KeyRefused: "false",
		"idempotency_key_reused": "false", fault.Conflict: "false", fault.Unauthorized: "false", fault.Forbidden: "false",
	} {
		for wait, said := range map[time.Duration]string{0: want, time.Minute: want, time.Hour: "false"} {
			if code == fault.StillWaiting {
				said = want
			}
			h := http.Header{}
			Retry(h, fault.Kind{Code: code}, fault.Fault{Code: code, RetryAfter: wait})
			if got := h.Get("x-should-retry"); got != said {
				t.Errorf("%s, in %s: x-should-retry %s; want %s", code, wait, got, said)
			}
			if (h.Get("retry-after-ms") != "") != (code == fault.StillWaiting) || (h.Get("retry-after") != "") != (wait > 0) {
				t.Errorf("%s, in %s: %v", code, wait, h)
			}
		}
	}
}
