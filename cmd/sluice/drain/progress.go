package drain

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// progress is how far a run has come, and tells of it on standard error.
type progress struct {
	to    io.Writer
	bar   io.Writer // a terminal; nil: lines instead
	quiet bool      // neither
	shown bool      // the bar is on the screen

	begun, told, moved         time.Time // told: the latest line; moved: the latest answer
	waits                      int       // lines since then that say what everything waits for
	total, skipped             int
	written, succeeded, failed int
	ended                      map[tasks.Finish]int // how answers ended
	failures                   map[string]int       // by what their errors say
	usage                      tasks.Usage
	cost                       tasks.Cost
	priced                     bool // a model that was asked has a price
}

func newProgress(c *Config, o Options, total int) *progress {
	return &progress{to: c.Stderr, bar: c.Bar, quiet: o.NoProgress, total: total, ended: map[tasks.Finish]int{}, failures: map[string]int{}}
}

func (p *progress) start(now time.Time) { p.begun, p.told, p.moved = now, now, now }

// done is how many lines have their results.
func (p *progress) done() int { return p.skipped + p.written }

// spend takes in what a job took, whatever becomes of its answer.
func (p *progress) spend(j *tasks.Job) {
	p.moved, p.waits = time.Now(), 0
	if j.Finish != "" {
		p.ended[j.Finish]++
	}
	if j.Usage != nil {
		p.usage.InputTokens += j.Usage.InputTokens
		p.usage.OutputTokens += j.Usage.OutputTokens
	}
	if cost, ok := j.Cost(); ok {
		p.cost, p.priced = p.cost.Plus(cost), true
	}
}

// count takes in a line whose result is written.
func (p *progress) count(j *tasks.Job, refusal *tasks.JobError) {
	p.written++
	if j.Status == tasks.StatusSucceeded && refusal == nil {
		p.succeeded++
		return
	}
	p.failed++
	if e := cmp.Or(refusal, j.Error); e != nil {
		p.failures[fmt.Sprintf("%s: %q", e.Code, e.Message)]++
	}
}

// say writes a message, in place of the bar.
func (p *progress) say(format string, args ...any) {
	p.clear()
	fmt.Fprintf(p.to, format+"\n", args...)
}

const (
	barWidth  = 30
	lineEvery = 10 * time.Second
)

// paint draws the progress bar on a terminal; without one it writes a line now
// and then.
func (p *progress) paint(now time.Time) {
	switch {
	case p.quiet:
	case p.bar != nil:
		full := barWidth * p.done() / p.total
		// A terminal that is narrower cuts it off, and breaks no line.
		fmt.Fprintf(p.bar, "\r\033[K\033[?7l[%s%s] %d %%  %s\033[?7h", strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), 100*p.done()/p.total, p.far(now))
		p.shown = true
	case now.Sub(p.told) >= lineEvery:
		p.told = now
		p.say("sluice: %s", p.far(now))
	}
}

// far is how far it has come, in words.
func (p *progress) far(now time.Time) string {
	rate := float64(p.written) / max(0.001, now.Sub(p.begun).Seconds())
	left := "?"
	if rate > 0 {
		left = (time.Duration(float64(p.total-p.done())/rate) * time.Second).String()
	}
	return fmt.Sprintf("%d/%d  %d failed  %.1f/s  %s left  %s", p.done(), p.total, p.failed, rate, left, p.spent())
}

// spent is what the run has taken so far.
func (p *progress) spent() string {
	s := fmt.Sprintf("%d input and %d output tokens", p.usage.InputTokens, p.usage.OutputTokens)
	if p.priced {
		s += ", " + money(p.cost.Amount)
		if p.cost.Maybe > 0 {
			s += " and perhaps " + money(p.cost.Maybe) + " more"
		}
	}
	return s
}

// last leaves the bar on the screen as it stands at the end of a run.
func (p *progress) last(now time.Time) {
	if p.quiet || p.bar == nil || p.done() < p.total {
		return
	}
	p.paint(now)
	fmt.Fprintln(p.bar)
	p.shown = false
}

func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.bar, "\r\033[K")
		p.shown = false
	}
}

// sayDone tells what an earlier run has done already.
func (p *progress) sayDone() {
	switch p.skipped {
	case 0:
	case p.total:
		p.say("all %d jobs were done by an earlier run; --fresh asks again", p.total)
	default:
		p.say("%d of %d jobs were done by an earlier run; --fresh asks again", p.skipped, p.total)
	}
}

// summary is the run's one line.
func (p *progress) summary(seconds float64, u use) {
	ends := ""
	for _, f := range slices.Sorted(maps.Keys(p.ended)) {
		ends += fmt.Sprintf(", %d %s", p.ended[f], f)
	}
	if ends != "" {
		ends = "; answers:" + ends[1:]
	}
	p.say("%d jobs: %d succeeded, %d failed, %d done before%s; %s in %.1f s; %.1f %% of the allowance used; %d 429s seen",
		p.total, p.succeeded, p.failed, p.skipped, ends, p.spent(), seconds, 100*u.share, u.refused)
}

const mostFailures = 3 // that are told

// sayFailures tells what most lines failed of.
func (p *progress) sayFailures() {
	all := slices.SortedFunc(maps.Keys(p.failures), func(a, b string) int {
		return cmp.Or(p.failures[b]-p.failures[a], strings.Compare(a, b))
	})
	for i, f := range all {
		if i == mostFailures {
			p.say("sluice: and %d other errors; each is in its line of the results", len(all)-i)
			break
		}
		p.say("sluice: %d failed with %s", p.failures[f], f)
	}
}

// use is what a run took of the pools.
type use struct {
	share   float64 // of the binding allowance, from the run's start to its end
	refused int64   // 429s
}

// useOf is, of each pool, what it was sent over what its bucket held and was
// refilled with; the largest of these binds.
func useOf(pools []Pool, meters map[string]Meter, seconds float64) (u use) {
	for _, p := range pools {
		m := meters[p.Name]
		u.refused += m.Refused()
		of := func(used, perMinute int64, burst float64) {
			if perMinute > 0 && used > 0 {
				u.share = max(u.share, float64(used)/(burst+float64(perMinute)*seconds/60))
			}
		}
		calls, in, out := m.Used()
		of(calls, p.Requests, float64(p.Burst))
		of(in, p.InputTokens, 0)
		of(out, p.OutputTokens, 0)
	}
	u.share = min(1, u.share)
	return u
}
