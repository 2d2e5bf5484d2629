package abuse

import (
	"fmt"
	"slices"
	"time"
)

// Rule is what was found by.
type Rule uint8

// The rules, as they are told.
const (
	Identical   Rule = iota // one prompt, again and again, that is no habit
	Near                    // prompts that differ in few words
	Sweep                   // prompts that differ in numbers, addresses and quotations
	Rate                    // jobs against the tenant's own past
	Tokens                  // tokens likewise
	Cost                    // money likewise
	Addresses               // many addresses in an hour
	Users                   // many users
	Credentials             // many tokens of ours
	Models                  // many models probed
	NewAddress              // addresses that the tenant was never seen at
	rules
)

var ruleNames = [rules]string{"identical", "near_duplicates", "sweep", "rate", "tokens", "cost", "addresses", "users", "tokens_used", "models", "new_address"}

func (r Rule) String() string {
	if r < rules {
		return ruleNames[r]
	}
	return "unknown"
}

// family is what rules have in common that look at the same: two of one family are one signal.
type family uint8

const (
	content family = iota
	volume
	origin
	identity
	probing
	families
)

func (r Rule) family() family {
	switch r {
	case Identical, Near, Sweep:
		return content
	case Rate, Tokens, Cost:
		return volume
	case Addresses, NewAddress:
		return origin
	case Users, Credentials:
		return identity
	default:
		return probing
	}
}

// Flag is one finding.
type Flag struct {
	At      int64 // Unix seconds; 0: none
	Window  int32 // in which it was measured, in seconds
	Measure float32
	Score   float32 // of the model, beside it
	Rule    Rule
	Action  Action
}

// String is a finding in a few words: what, how much and in what time.
func (f Flag) String() string {
	return fmt.Sprintf("%s %.4g in %s", f.Rule, f.Measure, time.Duration(f.Window)*time.Second)
}

// Signals are what the rules find now, as far as something of it has come in the last windows.
func (c *Conduct) Signals(w *Rules, now time.Time) []Flag {
	return slices.DeleteFunc(c.lately(w, now), func(f Flag) bool { return !c.goesOn(f.Rule) })
}

// lately is what the rules find in what came of late, be it over or not.
func (c *Conduct) lately(w *Rules, now time.Time) (found []Flag) {
	add := func(r Rule, window time.Duration, measure float64) {
		if now.Unix() >= c.Muted[r] {
			found = append(found, Flag{At: now.Unix(), Rule: r, Window: int32(window.Seconds()), Measure: float32(measure), Score: c.Score})
		}
	}
	submits := max(1, c.Submits)
	if n := c.strangest(&c.Exact); n >= c.tooSame() && n/submits >= leastShare {
		add(Identical, halfLife, float64(n))
	}
	if n := c.strangest(&c.Template); n >= leastAlike && n/submits >= leastShare {
		add(Sweep, halfLife, float64(n))
	}
	if share, enough := c.alike(); enough && share >= max(leastShare, c.Habit+0.25) {
		add(Near, halfLife, float64(share))
	}
	if now.Sub(time.Unix(c.Since, 0)) < w.Learn {
		return found // it has no past yet
	}
	for i := range c.Volume {
		if over := c.Volume[i].over(); over >= 1 {
			add(Rate+Rule(i), w.Window, over)
		}
	}
	for k := range c.Seen {
		if n := c.Seen[k].count(); n >= float64(c.tooMany(kind(k))) {
			add(Addresses+Rule(k), time.Hour, n)
		}
	}
	if n := c.fresh(); n >= c.tooFresh() && n/submits >= leastShare {
		add(NewAddress, halfLife, float64(n))
	}
	return found
}
