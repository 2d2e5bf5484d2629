package simulate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// Report is what came of a trace. Times are in seconds.
type Report struct {
	Calls   int     `json:"calls"`
	Refused int     `json:"refused"` // not among Calls: no wait makes them fit
	Seconds float64 `json:"seconds"` // until the last had begun
	// Used is the share of each limit that was used until the last arrival; by its name.
	Used    map[string]float64 `json:"used"`
	Tenants []Tenant           `json:"tenants"`
	Waits   Quantiles          `json:"waits"`
	// Jain is the index of what those tenants had that waited nearly all the time, by weight; null
	// where they are fewer than two.
	Jain      *float64 `json:"jain"`
	Forecasts Score    `json:"forecasts"` // all that were told of starts 1 s ahead or more
	Horizons  []Score  `json:"horizons"`  // of these, by how far ahead: below 10 s, 1 min, 10 min, and beyond
	Paused    Score    `json:"paused"`    // of all, those told while an outage had the pool paused, after five had been seen
	Own       Score    `json:"own"`       // what the program itself tells of the last hour
	Recent    Score    `json:"recent"`    // the same hour, counted here
	// Refusals are the first twenty of what was refused.
	Refusals []Refusal `json:"refusals"`
	Door     *Door     `json:"door"` // null where nothing limits who waits
	// Waiting is of what jobs were said to wait for, and Timelines of the spans of some that have ended;
	// Off is how far the sum of a timeline is off its wall time at most, 1 being all of it.
	Waiting   Causes  `json:"waiting"`
	Timelines Causes  `json:"timelines"`
	Off       float64 `json:"timelines_off"`
}

// Door is what became of those whom a limit of waiting jobs, or their deadline, has refused.
type Door struct {
	Accepted int       `json:"accepted"`
	Refused  int       `json:"refused"`  // at least once
	Returns  int       `json:"returns"`  // times that somebody came when it was told to
	Admitted int       `json:"admitted"` // of these, was taken in
	GaveUp   int       `json:"gave_up"`  // after ten refusals
	Expired  int       `json:"expired"`  // of those accepted
	Told     Quantiles `json:"told"`     // to stay away
	Together int       `json:"together"` // most that were told to come in one second
}

// Refusal is a call of the trace that is not made.
type Refusal struct {
	Line int    `json:"line"` // of the trace; 0: of a summary
	Why  string `json:"why"`
}

// Tenant is what one tenant had.
type Tenant struct {
	Name  string    `json:"name"`
	Calls int       `json:"calls"`
	Share float64   `json:"share"` // of the allowance that was used, by the dimension that binds each call
	Waits Quantiles `json:"waits"`
	busy  float64
}

// Quantiles are of waits, in seconds.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
}

// Score is how right forecasts were: the actual wait over the one that was told.
type Score struct {
	Samples  int     `json:"samples"`
	P10      float64 `json:"ratio_p10"`
	P50      float64 `json:"ratio_p50"`
	P90      float64 `json:"ratio_p90"`
	Coverage float64 `json:"coverage_p90"`
}

func quantile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

func quantiles(waits []float64) Quantiles {
	slices.Sort(waits)
	return Quantiles{quantile(waits, 0.5), quantile(waits, 0.9), quantile(waits, 0.99)}
}

// score is of all forecasts that were told from since on, of starts 1 s ahead or more.
func score(jobs []*job, since time.Time) Score { return scoreIn(jobs, since, time.Second, 1<<62) }

// scoreIn is of those of starts that were that far ahead, from and below.
func scoreIn(jobs []*job, since time.Time, from, below time.Duration) Score {
	return scoreOf(jobs, func(f forecast) bool {
		told := f.start.Sub(f.at)
		return told >= from && told < below && !f.at.Before(since)
	})
}

// scoreOf is of those forecasts that are told of.
func scoreOf(jobs []*job, of func(f forecast) bool) (s Score) {
	var ratios []float64
	covered := 0
	for _, j := range jobs {
		for _, f := range j.told {
			if !of(f) {
				continue
			}
			ratios = append(ratios, float64(j.started.Sub(f.at))/float64(f.start.Sub(f.at)))
			if !j.started.After(f.late) {
				covered++
			}
		}
	}
	slices.Sort(ratios)
	if s.Samples = len(ratios); s.Samples > 0 {
		s.P10, s.P50, s.P90 = quantile(ratios, 0.1), quantile(ratios, 0.5), quantile(ratios, 0.9)
		s.Coverage = float64(covered) / float64(len(ratios))
	}
	return s
}

// report adds up what happened.
func (w *world) report(ctx context.Context, begun time.Time) (*Report, error) {
	r := &Report{Calls: len(w.ended), Refused: len(w.refused), Refusals: w.refused[:min(len(w.refused), refusalsTold)], Used: map[string]float64{}, Forecasts: score(w.ended, begun)}
	from := time.Second
	for _, below := range []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute, 1 << 62} {
		r.Horizons = append(r.Horizons, scoreIn(w.ended, begun, from, below))
		from = below
	}
	r.Paused = scoreOf(w.ended, func(f forecast) bool { return f.seen >= outagesFew && f.start.Sub(f.at) >= time.Second })
	var waits []float64
	tenants := map[string]*Tenant{}
	each := map[string][]float64{}
	var used [3]float64
	total, end := 0.0, begun
	for _, j := range w.ended {
		wait := j.started.Sub(j.came).Seconds()
		waits, each[j.Tenant] = append(waits, wait), append(each[j.Tenant], wait)
		if j.started.After(end) {
			end = j.started
		}
		of := w.demand(j.Arrival)
		t := tenants[j.Tenant]
		if t == nil {
			t = &Tenant{Name: j.Tenant}
			tenants[j.Tenant] = t
		}
		t.Calls++
		if j.started.After(w.last) {
			continue // there is less to share then
		}
		cost := max(of[0], of[1], of[2])
		t.busy += cost
		total += cost
		for d := range used {
			used[d] += of[d]
		}
	}
	r.Seconds, r.Waits = end.Sub(begun).Seconds(), quantiles(waits)
	for d, name := range []string{"requests", "input_tokens", "output_tokens"} {
		if span := w.last.Sub(begun).Seconds(); used[d] > 0 && span > 0 {
			r.Used[name] = used[d] / span
		}
	}
	always := w.shares(r, tenants, each, total)
	r.Door = w.door()
	slices.SortStableFunc(r.Tenants, func(a, b Tenant) int { return b.Calls - a.Calls })
	r.Jain = jain(always)
	var err error
	if r.Off, err = w.timelines(ctx); err != nil {
		return nil, err
	}
	r.Waiting, r.Timelines = w.judge(w.said), w.judge(w.drawn)
	return r, w.ownScore(ctx, r)
}

// shares adds the tenants to a report, and returns what each that had something waiting
// throughout was served, by its weight.
func (w *world) shares(r *Report, tenants map[string]*Tenant, each map[string][]float64, total float64) []float64 {
	var always []float64
	for _, name := range slices.Sorted(maps.Keys(tenants)) {
		t := tenants[name]
		t.Waits = quantiles(each[name])
		if total > 0 {
			t.Share = t.busy / total
		}
		if w.looks > 0 && float64(w.busy[name]) >= 0.9*float64(w.looks) {
			always = append(always, t.busy/float64(w.weight(name)))
		}
		r.Tenants = append(r.Tenants, *t)
	}
	return always
}

// door is what became of those who were refused; nil where nothing refuses anybody.
func (w *world) door() *Door {
	if w.Queued <= 0 && w.Deadline <= 0 {
		return nil
	}
	d := &Door{Accepted: len(w.jobs), Refused: w.tried, Returns: w.back, Admitted: w.had, GaveUp: w.gaveUp, Expired: w.expired, Told: quantiles(w.told)}
	for _, n := range w.seconds {
		d.Together = max(d.Together, n)
	}
	return d
}

// ownScore adds how the program has scored its forecasts.
func (w *world) ownScore(ctx context.Context, r *Report) error {
	// Who looks at the pool has what is told scored: until all of it is.
	for range 100 {
		w.now = w.now.Add(2 * time.Second)
		if _, err := w.pools.Status(ctx); err != nil {
			return err
		}
	}
	status, err := w.pools.Status(ctx)
	if err != nil {
		return err
	}
	r.Own, r.Recent = own(&status[0].Estimates), score(w.ended, w.now.Add(-time.Hour))
	return nil
}

func own(s *tasks.Score) Score { return Score{int(s.Samples), s.P10, s.P50, s.P90, s.Coverage} }

func (w *world) weight(tenant string) int64 {
	if w.Weight == nil {
		return 1
	}
	return max(1, w.Weight(tenant))
}

// jain is Jain's index: 1 when all have the same.
func jain(all []float64) *float64 {
	if len(all) < 2 {
		return nil
	}
	sum, squares := 0.0, 0.0
	for _, x := range all {
		sum, squares = sum+x, squares+x*x
	}
	if squares == 0 {
		return nil
	}
	index := sum * sum / (float64(len(all)) * squares)
	return &index
}

// JSON writes a report as an object.
func (r *Report) JSON(to io.Writer) error {
	e := json.NewEncoder(to)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// How many tenants are printed, how many refusals are told, and how many outages have to be seen
// before forecasts of the next are counted.
const (
	outagesFew   = 5
	mostTenants  = 20
	refusalsTold = 20
)

// text writes what became of those who were refused.
func (d *Door) text(p func(format string, a ...any)) {
	part := func(n, of int) float64 { return 100 * float64(n) / float64(max(1, of)) }
	p("accepted\t%d, of which %d expired: %.2f %%\n", d.Accepted, d.Expired, part(d.Expired, d.Accepted))
	p("refused at first\t%d, to come after p50 %.0f s, p90 %.0f s, p99 %.0f s, at most %d in a second\n", d.Refused, d.Told.P50, d.Told.P90, d.Told.P99, d.Together)
	p("came when told\t%d, of which %d were taken in: %.1f %%; %d gave up\n", d.Returns, d.Admitted, part(d.Admitted, d.Returns), d.GaveUp)
}

// Text writes a report for people.
func (r *Report) Text(to io.Writer) error {
	t := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	p := func(format string, a ...any) { _, _ = fmt.Fprintf(t, format, a...) }
	p("calls\t%d in %.0f s\n", r.Calls, r.Seconds)
	if r.Refused > 0 {
		p("refused\t%d, which no wait makes fit\n", r.Refused)
	}
	for _, one := range r.Refusals {
		p("line %d\t%s\n", one.Line, one.Why)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Used)) {
		p("used of %s\t%.1f %%\n", name, 100*r.Used[name])
	}
	p("wait\tp50 %.1f s, p90 %.1f s, p99 %.1f s\n", r.Waits.P50, r.Waits.P90, r.Waits.P99)
	if r.Door != nil {
		r.Door.text(p)
	}
	for _, c := range []struct {
		name string
		of   Causes
	}{{"waiting.for", r.Waiting}, {"timelines", r.Timelines}} {
		p("%s\t%.1f %% of %d as it was", c.name, 100*c.of.Right, c.of.Samples)
		for _, wrong := range slices.Sorted(maps.Keys(c.of.Wrong)) {
			p("; %d %s", c.of.Wrong[wrong], wrong)
		}
		p("\n")
	}
	p("\tsums of timelines within %.2f %% of wall time\n", 100*r.Off)
	if r.Jain != nil {
		p("Jain's index\t%.4f\n", *r.Jain)
	}
	for _, s := range []struct {
		name string
		of   Score
	}{{"forecasts", r.Forecasts}, {"below 10 s", r.Horizons[0]}, {"below 1 min", r.Horizons[1]}, {"below 10 min", r.Horizons[2]}, {"beyond", r.Horizons[3]}, {"in outages", r.Paused}, {"of the last hour", r.Recent}, {"by its own score", r.Own}} {
		if s.of.Samples == 0 && s.name == "in outages" {
			continue
		}
		if s.of.Samples == 0 {
			p("%s\tnone of a start 1 s ahead or more\n", s.name)
			continue
		}
		p("%s\tactual/told p10 %.2f, p50 %.2f, p90 %.2f; %.1f %% by the time told for 90 %%; %d told\n",
			s.name, s.of.P10, s.of.P50, s.of.P90, 100*s.of.Coverage, s.of.Samples)
	}
	p("\ntenant\tcalls\tshare\tp50\tp90\tp99\n")
	for i, one := range r.Tenants {
		if i == mostTenants {
			p("and %d more\n", len(r.Tenants)-i)
			break
		}
		p("%s\t%d\t%.1f %%\t%.1f s\t%.1f s\t%.1f s\n", one.Name, one.Calls, 100*one.Share, one.Waits.P50, one.Waits.P90, one.Waits.P99)
	}
	return t.Flush()
}
