package abuse

import "time"

// Action is what becomes of a tenant's submits.
type Action uint8

// The rungs, in order.
const (
	Observe  Action = iota // nothing
	Throttle               // at the tenant's usual pace
	Refuse                 // they are refused: 429 abnormal_usage
	Review                 // they are taken in, and wait for an admin: waiting.for review
)

var actionNames = [...]string{"observe", "throttle", "refuse", "review"}

func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return "unknown"
}

// How long two signals have to stand for the next rung, and have to be gone for the one before.
const (
	climbAfter   = 5  // windows
	descendAfter = 10 // windows
)

// reviewFor is how long jobs go on waiting for a review once no process is left that knows of it; those that
// do say so again and again.
const reviewFor = 30 * 24 * time.Hour

// ladder is where a tenant stands. From Review an admin's release alone leads down.
type ladder struct {
	Rung   Action
	Alarm  bool   // two independent signals stand
	On     uint16 // windows of them in a row
	Quiet  uint16 // windows without, in a row
	Raised int64  // Unix seconds of the last alarm's beginning
}

// judge notes what is found at the end of a window, and moves the tenant on the ladder: not
// up by a window in which nothing came, whatever stands of those before.
func (c *Conduct) judge(w *Rules, now time.Time, came bool) {
	found := c.Signals(w, now)
	var seen [families]bool
	independent := 0
	for _, f := range found {
		if !seen[f.Rule.family()] {
			seen[f.Rule.family()] = true
			independent++
		}
	}
	c.climb(w, came && independent >= 2, now)
	for _, f := range found {
		f.Action = Observe
		if independent >= 2 {
			f.Action = c.Ladder.Rung
		}
		c.note(f)
	}
}

// climb moves the tenant by what a window has shown.
func (c *Conduct) climb(w *Rules, alarm bool, now time.Time) {
	l := &c.Ladder
	if !w.Enforce {
		l.Rung = Observe
	}
	if alarm {
		if !l.Alarm {
			l.Raised = now.Unix()
		}
		l.Alarm, l.Quiet = true, 0
		if l.On++; w.Enforce && (l.Rung == Observe || l.On >= climbAfter && l.Rung < Review) {
			l.Rung, l.On = l.Rung+1, 0
		}
	} else {
		l.Alarm, l.On = false, 0
		if l.Quiet < 65000 {
			l.Quiet++
		}
		if l.Quiet%descendAfter == 0 && l.Rung > Observe && l.Rung < Review {
			l.Rung--
		}
	}
}

// held is for how long from now on jobs wait for a review; 0: they do not.
func (c *Conduct) held(w *Rules) time.Duration {
	if !w.Enforce || c.Ladder.Rung != Review {
		return 0
	}
	return reviewFor
}

// note keeps a flag: the newest of each rule, in place of the oldest.
func (c *Conduct) note(f Flag) {
	at := 0
	for i := range c.Flags {
		if c.Flags[i].At != 0 && c.Flags[i].Rule == f.Rule {
			at = i
			break
		}
		if c.Flags[i].At < c.Flags[at].At {
			at = i
		}
	}
	c.Flags[at] = f
}

// release is an admin's word that what stands now is no abuse: the tenant is down again, and
// what was found is its habit.
func (c *Conduct) release(w *Rules, now time.Time) {
	for _, f := range c.lately(w, now) {
		c.Muted[f.Rule] = now.Add(24 * time.Hour).Unix()
		switch f.Rule.family() {
		case volume:
			s := &c.Volume[f.Rule-Rate]
			s.Slack = max(1, s.Slack) * 1.5
			s.Sum = 0
		case content:
		case origin:
			c.Novel = max(c.Novel, c.fresh())
			c.Most[addresses] = max(c.Most[addresses], float32(c.Seen[addresses].count()))
		default:
			k := f.Rule - Addresses
			c.Most[k] = max(c.Most[k], float32(c.Seen[k].count()))
		}
	}
	c.learnContent(true)
	c.learnAddresses(true, true)
	c.Ladder = ladder{Quiet: 60}
}
