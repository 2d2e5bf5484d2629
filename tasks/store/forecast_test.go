package store_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// foretelling is a pool in virtual time, whose jobs' records say no more than when they start.
type foretelling struct {
	*testing.T
	*store.Store
	rdb     *redis.Client
	now     time.Time
	learned [tasks.Classes]tasks.Correction
	jobs    int
}

func foretell(t *testing.T) *foretelling {
	f := &foretelling{T: t, rdb: redistest.New(t), now: time.UnixMilli(1_800_000_000_000)}
	f.Store = store.New(store.Config{Redis: f.rdb, Now: func() time.Time { return f.now }})
	return f
}

// tell tells so many forecasts of one prediction, corrected as is known by now. Of each
// what happens after the prediction times ratio(): a status and, unless it is final, a start.
func (f *foretelling) tell(n int, predicted time.Duration, status tasks.Status, ratio func() float64) {
	f.Helper()
	class := tasks.ClassOf(predicted, false)
	c := f.learned[class]
	var list []tasks.Forecast
	_, err := f.rdb.Pipelined(f.Context(), func(p redis.Pipeliner) error {
		for range n {
			f.jobs++
			id := fmt.Sprintf("job_%06d", f.jobs)
			scaled := func(log float64) time.Duration { return time.Duration(float64(predicted) * math.Exp(log)) }
			list = append(list, tasks.Forecast{Job: id, At: f.now, Predicted: predicted, Told: scaled(c.Median), Late: scaled(c.Late), Class: class})
			p.HSet(f.Context(), "sluice:{s}:j:"+id, "s", string(status))
			if !status.Final() {
				p.HSet(f.Context(), "sluice:{s}:j:"+id, "st", f.now.Add(time.Duration(float64(predicted)*ratio())).UnixMilli())
			}
		}
		return nil
	})
	must(f.T, err)
	for len(list) > 0 {
		n := min(48, len(list))
		f.pass(0, list[:n])
		list = list[n:]
	}
}

func (f *foretelling) pass(d time.Duration, told []tasks.Forecast) (awaited int64) {
	f.Helper()
	f.now = f.now.Add(d)
	var err error
	f.learned, awaited, err = f.Foretold(f.Context(), pool, told)
	must(f.T, err)
	return awaited
}

func (f *foretelling) score() tasks.Score {
	f.Helper()
	s, err := f.Score(f.Context(), pool, f.now)
	must(f.T, err)
	return s
}

// Forecasts that are off by a factor, and by chance, are right in the middle after a few, and
// nine of ten start by when nine of ten are said to: also when the factor changes.
func TestForecastsLearnHowFarTheyAreOff(t *testing.T) {
	t.Parallel()
	f, r := foretell(t), rand.New(rand.NewPCG(1, 2))
	for i, factor := range []float64{1.5, 0.8} {
		for range 25 {
			f.tell(20, 20*time.Second, tasks.StatusRunning, func() float64 { return factor * math.Exp(0.2*r.NormFloat64()) })
			f.pass(time.Minute, nil)
		}
		c := f.learned[tasks.ClassOf(20*time.Second, false)]
		if got := math.Exp(c.Median); math.Abs(got/factor-1) > 0.1 || c.Samples != []int64{500, 600}[i] {
			t.Errorf("off by %v: found to be off by %.2f in %d samples", factor, got, c.Samples)
		}
		f.pass(time.Hour, nil)
		for range 10 {
			f.tell(40, 20*time.Second, tasks.StatusRunning, func() float64 { return factor * math.Exp(0.2*r.NormFloat64()) })
			f.pass(time.Minute, nil)
		}
		s := f.score()
		if s.Samples != 400 || math.Abs(s.P50-1) > 0.1 || s.P10 < 0.7 || s.P90 > 1.4 || s.Coverage < 0.85 || s.Coverage > 0.95 {
			t.Errorf("off by %v: %+v; want the middle near 1, and 0.9 in time", factor, s)
		}
		if other := f.learned[tasks.ClassOf(2*time.Minute, false)]; other.Samples != 0 {
			t.Errorf("another horizon has learned of it: %+v", other)
		}
	}
}

// The sign of the rule: who starts late widens what is said next, who starts in time narrows it.
func TestALateStartWidensTheNextForecast(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		late bool
	}{{"late", true}, {"in time", false}} {
		f := foretell(t)
		class, n := tasks.ClassOf(20*time.Second, false), 0
		spread := func() float64 { n++; return 1 + float64(n%100)/100 }
		f.learned[class].Late = math.Log(1.9)
		f.tell(100, 20*time.Second, tasks.StatusRunning, spread)
		f.pass(time.Minute, nil)
		f.pass(0, nil)
		f.pass(0, nil)
		was := f.learned[class].Late
		if c.late {
			f.learned[class].Late = math.Log(0.5)
		} else {
			f.learned[class].Late = math.Log(9)
		}
		f.tell(40, 20*time.Second, tasks.StatusRunning, spread)
		f.pass(time.Minute, nil)
		if is := f.learned[class].Late; (is > was) != c.late || is == was {
			t.Errorf("all were %s: 'late' went from %.3f to %.3f", c.name, was, is)
		}
	}
}

// What ends without a start says nothing of how right a forecast was, and is counted apart; a
// start less than a second ahead is not counted at all.
func TestCanceledForecastsAreCountedApart(t *testing.T) {
	t.Parallel()
	f := foretell(t)
	right := func() float64 { return 1 }
	f.tell(5, 20*time.Second, tasks.StatusRunning, right)
	f.tell(3, 20*time.Second, tasks.StatusCanceled, nil)
	f.tell(2, 20*time.Second, tasks.StatusExpired, nil)
	f.tell(4, 600*time.Millisecond, tasks.StatusRunning, right)
	must(t, f.rdb.Del(t.Context(), "sluice:{s}:j:job_000005").Err())
	if left := f.pass(time.Minute, nil); left != 0 {
		t.Errorf("%d forecasts are awaited, want none", left)
	}
	if s := f.score(); s.Samples != 4 || s.Censored != 6 || s.P50 != 1 || s.Coverage != 1 {
		t.Errorf("%+v; want 4 samples, 6 censored", s)
	}
	f.pass(time.Hour, nil)
	if s := f.score(); s.Samples != 0 || s.Censored != 0 {
		t.Errorf("an hour later %+v, want nothing", s)
	}
}

// However many are told, the room for them is bounded, and those that are kept stand for
// the others: near ones are not taken for all because they are known first.
func TestManyForecastsTakeBoundedRoom(t *testing.T) {
	t.Parallel()
	f := foretell(t)
	for range 10 {
		f.tell(96, 30*time.Second, tasks.StatusRunning, func() float64 { return 1 })
		f.tell(96, 30*time.Minute, tasks.StatusRunning, func() float64 { return 2 })
		if left := f.pass(0, nil); left > 512 {
			t.Fatalf("%d forecasts are awaited", left)
		}
	}
	f.pass(50*time.Minute, nil)
	for range 20 {
		if f.pass(0, nil) == 0 {
			break
		}
	}
	s := f.score()
	if s.Samples < 1600 || s.Samples > 2240 || s.P10 != 1 || s.P90 != 2 {
		t.Errorf("%+v; want about 1920 samples, half of them at 1 and half at 2", s)
	}
	if bytes := f.rdb.MemoryUsage(t.Context(), "sluice:{s}:fts:"+pool, 0).Val(); bytes > 200_000 {
		t.Errorf("scored forecasts take %d bytes", bytes)
	}
}
