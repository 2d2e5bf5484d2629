package drain

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// progress is how far a run has come, and tells of it on standard error.
type progress struct {
	to    io.Writer
	bar   bool // there is a terminal
	shown bool // the bar is on the screen

	begun                      time.Time
	total, skipped             int
	written, succeeded, failed int
	usage                      tasks.Usage
}

// done is how many lines have their results.
func (p *progress) done() int { return p.skipped + p.written }

// count takes in a job whose result was written.
func (p *progress) count(j *tasks.Job) {
	p.written++
	if j.Status == tasks.StatusSucceeded {
		p.succeeded++
	} else {
		p.failed++
	}
	if j.Usage != nil {
		p.usage.InputTokens += j.Usage.InputTokens
		p.usage.OutputTokens += j.Usage.OutputTokens
	}
}

// say writes a message, in place of the bar.
func (p *progress) say(format string, args ...any) {
	p.clear()
	fmt.Fprintf(p.to, format+"\n", args...)
}

const barWidth = 30

// paint draws the progress bar on a terminal.
func (p *progress) paint() {
	if !p.bar {
		return
	}
	full := barWidth * p.done() / p.total
	rate := float64(p.written) / max(0.001, time.Since(p.begun).Seconds())
	left := "?"
	if rate > 0 {
		left = (time.Duration(float64(p.total-p.done())/rate) * time.Second).String()
	}
	fmt.Fprintf(p.to, "\r\033[K[%s%s] %d/%d  %d failed  %.1f/s  %s left",
		strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), p.done(), p.total, p.failed, rate, left)
	p.shown = true
}

func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.to, "\r\033[K")
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
	p.say("%d jobs: %d succeeded, %d failed, %d done before; %d input and %d output tokens in %.1f s; %.1f %% of the allowance used; %d 429s seen",
		p.total, p.succeeded, p.failed, p.skipped, p.usage.InputTokens, p.usage.OutputTokens, seconds, 100*u.share, u.refused)
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
