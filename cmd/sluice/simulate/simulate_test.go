package simulate

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/worker/limit"
)

// Each form of trace is read by its columns, in the order of its times.
func TestTracesAreReadByTheirColumns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		want       []Arrival // with no tenant: any
	}{
		{"our own", "tenant,arrival_s,input_tokens,output_tokens\nb,2.5,30,40\na,1,10,20\n", []Arrival{{0, "a", 10, 20, 3}, {1500 * time.Millisecond, "b", 30, 40, 2}}},
		{"our own, with no tenants", "arrival_s,input_tokens,output_tokens\n0,1,2\n", []Arrival{{0, "", 1, 2, 2}}},
		{"Azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n", []Arrival{{0, "", 4808, 10, 2}, {52 * time.Millisecond, "", 3180, 8, 3}}},
		{"Mooncake", "arrival_ms,input_tokens,output_tokens,prefix_seen_before_tokens\n3000,5,6,0\n", []Arrival{{0, "", 5, 6, 2}}},
	} {
		got, err := Read(strings.NewReader(c.text), Reading{Tenants: 3, Seed: 1})
		for i := range got {
			if i < len(c.want) && c.want[i].Tenant == "" && got[i].Tenant != "" {
				got[i].Tenant = ""
			}
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
		}
	}
	for text, want := range map[string]string{
		"":                                       "names of its columns",
		"a,b\n1,2\n":                             "arrival_s,tenant,input_tokens,output_tokens",
		"arrival_s,input_tokens,output_tokens\n": "no calls",
		"arrival_s,input_tokens,output_tokens\n1,x,2\n":   `line 2: input_tokens "x"`,
		"arrival_s,input_tokens,output_tokens\nNaN,1,2\n": `line 2: arrival_s "NaN"`,
		"arrival_s,input_tokens,output_tokens\n1,2\n":     "wrong number of fields",
	} {
		if _, err := Read(strings.NewReader(text), Reading{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// A summary becomes calls of the rate, sizes and gaps that it tells of.
func TestASummaryBecomesCalls(t *testing.T) {
	t.Parallel()
	text := "rank,client_id,requests_per_s,gap_cv,pattern,in_mean,in_p50,in_p99,out_mean,out_p50,out_p99\n1,104,50,2,Gamma,713,600,862,38,34,156\n"
	all, err := Read(strings.NewReader(text), Reading{Span: 5 * time.Minute, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	in, gap, square := 0.0, 0.0, 0.0
	for i := range all {
		in += float64(all[i].Input)
		if i > 0 {
			d := (all[i].At - all[i-1].At).Seconds()
			gap, square = gap+d, square+d*d
		}
	}
	n := float64(len(all))
	cv := math.Sqrt(square/n-gap*gap/n/n) / (gap / n)
	if math.Abs(n/15000-1) > 0.1 || math.Abs(in/n/713-1) > 0.05 || math.Abs(cv-2) > 0.3 || all[0].Tenant != "client-104" {
		t.Errorf("%v calls of %.0f tokens, gaps with a CV of %.2f, of %s; want 15000 of 713, 2", n, in/n, cv, all[0].Tenant)
	}
}

// A light tenant's jobs beside a heavy one's flood: the light one hardly waits, both have what
// is theirs, forecasts are told, and the same seed gives the same report.
func TestAFloodIsReplayed(t *testing.T) {
	t.Parallel()
	var trace []Arrival
	for range 60 {
		trace = append(trace, Arrival{0, "heavy", 100, 10, 0})
	}
	for i := range 12 {
		trace = append(trace, Arrival{time.Duration(i) * time.Second, "light", 100, 10, 0})
	}
	slices.SortStableFunc(trace, func(a, b Arrival) int { return int(a.At - b.At) })
	var reports []string
	for range 2 {
		r, err := Run(t.Context(), Config{Redis: redistest.New(t), Trace: trace, Limits: limit.Limits{RequestsPerMinute: 240}, Depth: 4, Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := r.JSON(&out); err != nil {
			t.Fatal(err)
		}
		reports = append(reports, out.String())
		heavy, light := r.Tenants[0], r.Tenants[1]
		if r.Calls != 72 || heavy.Name != "heavy" || heavy.Calls != 60 || light.Calls != 12 {
			t.Fatalf("%+v", r)
		}
		if light.Waits.P99 > 3 || heavy.Waits.P99 < 14 || r.Used["requests"] < 0.9 {
			t.Errorf("the light one waits %v, the heavy one %v, %v used", light.Waits, heavy.Waits, r.Used)
		}
		if f := r.Forecasts; f.Samples < 40 || f.P50 < 0.8 || f.P50 > 1.5 || r.Own.Samples != r.Recent.Samples {
			t.Errorf("forecasts %+v; by its own score %+v, counted %+v", f, r.Own, r.Recent)
		}
		if r.Waiting.Samples < 10 || r.Waiting.Right < 0.9 || r.Timelines.Samples < 10 || r.Timelines.Right < 0.9 || r.Off > 0.01 {
			t.Errorf("waiting.for %+v; timelines %+v, sums off by %v", r.Waiting, r.Timelines, r.Off)
		}
		var text bytes.Buffer
		if err := r.Text(&text); err != nil || !strings.Contains(text.String(), "actual/told") {
			t.Errorf("%s, %v", text.String(), err)
		}
	}
	if reports[0] != reports[1] {
		t.Errorf("two runs of one seed differ:\n%s\n%s", reports[0], reports[1])
	}
}

// What a submit refuses, since no wait makes it fit, is named by its line and counted; the rest
// is replayed, also where nothing is left.
func TestWhatNoAllowanceHoldsIsRefused(t *testing.T) {
	t.Parallel()
	head := "arrival_s,tenant,input_tokens,output_tokens\n"
	for _, c := range []struct {
		text    string
		calls   int
		refused []int // lines
	}{
		{"0,a,10,10\n1,a,20001,10\n2,a,20000,10\n3,b,1000000000000,10\n4,a,10,10\n", 3, []int{3, 5}},
		{"0,a,1000000000000,10\n", 0, []int{2}},
	} {
		trace, err := Read(strings.NewReader(head+c.text), Reading{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := Run(t.Context(), Config{Redis: redistest.New(t), Trace: trace, Limits: limit.Limits{InputTokensPerMinute: 10_000}, Depth: 4, Seed: 1, Load: 0.9})
		if err != nil {
			t.Fatal(err)
		}
		if r.Calls != c.calls || r.Refused != len(c.refused) || len(r.Refusals) != len(c.refused) {
			t.Fatalf("%q: %d calls, refused %d: %v; want %d, lines %v", c.text, r.Calls, r.Refused, r.Refusals, c.calls, c.refused)
		}
		var text bytes.Buffer
		if err := r.Text(&text); err != nil {
			t.Fatal(err)
		}
		for i, line := range c.refused {
			if one := r.Refusals[i]; one.Line != line || !strings.Contains(one.Why, "takes 10000 a minute") {
				t.Errorf("%q: refused %+v, want line %d", c.text, one, line)
			}
			if want := fmt.Sprintf("line %d ", line); !strings.Contains(text.String(), want) {
				t.Errorf("%q: printed %s, want %q in it", c.text, text.String(), want)
			}
		}
	}
}

// Through outages of the provider every call ends, none while the provider fails, and forecasts
// are told of the reopening.
func TestOutagesAreGoneThrough(t *testing.T) {
	t.Parallel()
	var trace []Arrival
	for i := range 60 {
		trace = append(trace, Arrival{time.Duration(i) * 2 * time.Second, "a", 100, 10, 0})
	}
	r, err := Run(t.Context(), Config{
		Redis: redistest.New(t), Trace: trace, Limits: limit.Limits{RequestsPerMinute: 240}, Depth: 8, Seed: 1,
		Spread: Spread{N: 6, For: 6 * time.Second}, Outages: []Outage{{At: 130 * time.Second, For: 5 * time.Second}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Calls != 60 || r.Waits.P99 < 5 || r.Paused.Samples == 0 {
		t.Errorf("%d calls, waits %+v, forecasts in an outage %+v", r.Calls, r.Waits, r.Paused)
	}
	if r.Waiting.Samples < 10 || r.Waiting.Right < 0.9 || r.Timelines.Samples < 10 || r.Timelines.Right < 0.9 || r.Off > 0.01 {
		t.Errorf("waiting.for %+v; timelines %+v, sums off by %v", r.Waiting, r.Timelines, r.Off)
	}
}

// At one and a half times what a pool allows, who is refused and comes when it was told to is taken in, and what
// is accepted has its answer by its deadline.
func TestWhoIsRefusedComesAgainAndIsTakenIn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Config{
		"a limit of jobs that wait": {Queued: 10},
		"deadlines":                 {Deadline: 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range 90 {
				c.Trace = append(c.Trace, Arrival{time.Duration(i) * time.Second, []string{"a", "b", "a"}[i%3], 100, 10, 0})
			}
			c.Redis, c.Limits, c.Depth, c.Seed, c.Load = redistest.New(t), limit.Limits{RequestsPerMinute: 120}, 4, 1, 1.5
			r, err := Run(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			d := r.Door
			if d.Refused < 8 || float64(d.Admitted) < 0.8*float64(d.Returns) || d.GaveUp > 0 || float64(d.Expired) > 0.01*float64(d.Accepted) || d.Together > 4 {
				t.Errorf("%+v", *d)
			}
			var text bytes.Buffer
			if err := r.Text(&text); err != nil || !strings.Contains(text.String(), "came when told") {
				t.Errorf("%s, %v", text.String(), err)
			}
		})
	}
}
