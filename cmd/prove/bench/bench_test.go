package bench

import (
	"math"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // unsorted on purpose
	}
	for _, c := range []struct {
		values []float64
		p      float64
		want   float64
	}{
		{nil, 0.5, 0},
		{[]float64{7}, 0.01, 7},
		{[]float64{7}, 1, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 3, 2, 1}, 0.5, 2},
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 0.991, 100},
		{hundred, 1, 100},
	} {
		before := slices.Clone(c.values)
		if got := percentile(c.values, c.p); got != c.want {
			t.Errorf("percentile(%v, %v) = %v, want %v", c.values, c.p, got, c.want)
		}
		if !slices.Equal(before, c.values) {
			t.Errorf("percentile(%v, %v) changed its argument to %v", before, c.p, c.values)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{5}, 5},
		{[]float64{9, 1, 5}, 5},
		{[]float64{9, 1, 5, 6}, 5.5},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
}

func TestAllowance(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(after time.Duration, amount float64) sent { return sent{at: t0.Add(after), amount: amount} }
	var ideal, slow []sent
	for range 10 {
		ideal = append(ideal, at(0, 1))
		slow = append(slow, at(0, 1))
	}
	for i := range 1000 {
		ideal = append(ideal, at(time.Duration(i+1)*10*time.Millisecond, 1))
		slow = append(slow, at(time.Duration(i+1)*20*time.Millisecond, 1))
	}
	slices.Reverse(slow)
	for name, c := range map[string]struct {
		calls       []sent
		burst, rate float64
		want        share
	}{
		"none":         {nil, 10, 100, share{}},
		"one":          {[]sent{at(0, 1)}, 10, 100, share{}},
		"at once":      {[]sent{at(0, 1), at(0, 1)}, 10, 100, share{used: 2}},
		"ideal":        {ideal, 10, 100, share{1, 1, 1010, 10 * time.Second}},
		"half":         {slow, 10, 100, share{0.5, 1010.0 / 2010, 1010, 20 * time.Second}},
		"burst unused": {ideal[9:], 10, 100, share{0.991, 1001.0 / 1010, 1001, 10 * time.Second}},
		"tokens":       {[]sent{at(0, 500), at(time.Second, 250), at(2*time.Second, 250)}, 400, 400, share{0.75, 1000.0 / 1200, 1000, 2 * time.Second}},
	} {
		got := allowance(c.calls, c.burst, c.rate)
		if math.Abs(got.strict-c.want.strict) > 1e-9 || math.Abs(got.whole-c.want.whole) > 1e-9 || got.used != c.want.used || got.span != c.want.span {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
		if got.strict > got.whole+1e-9 {
			t.Errorf("%s: strict %v is above whole %v", name, got.strict, got.whole)
		}
	}
}

func TestSecondHalf(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var calls []sent
	for i := range 101 {
		amount := 1.0
		if i > 50 {
			amount = 0.5
		}
		calls = append(calls, sent{t0.Add(time.Duration(i) * 100 * time.Millisecond), amount})
	}
	slices.Reverse(calls)
	if got := secondHalf(calls, 10); math.Abs(got-0.5) > 1e-9 {
		t.Errorf("got %v of the rate, want 0.5", got)
	}
	for _, few := range [][]sent{nil, calls[:1], {calls[0], calls[0]}} {
		if got := secondHalf(few, 10); got != 0 {
			t.Errorf("of %d calls at once: got %v, want 0", len(few), got)
		}
	}
}

func TestCommandKind(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, ""},
		{[]string{"PING"}, "ping"},
		{[]string{"HGET", "job_01J", "x"}, "hget"},
		{[]string{"evalsha", "0123456789abcdef", "2", "sluice:{p}:job:01KAPQ7Z8Y", "asynq:{p}:pending", "3"}, "evalsha 01234567 sluice:{p}:job:* asynq:{p}:pending"},
	} {
		if got := commandKind(c.args); got != c.want {
			t.Errorf("commandKind(%q) = %q, want %q", c.args, got, c.want)
		}
	}
}
