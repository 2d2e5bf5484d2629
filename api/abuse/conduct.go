package abuse

import (
	"math"
	"time"
)

// Act is one submit as it is judged: no content, only keyed hashes and sizes.
type Act struct {
	At     time.Time
	Jobs   float64 // 1; of a batch, its lines
	Tokens float64 // estimated, in and out
	Cost   float64 // at most, in millionths of money; 0: not known
	// Print is of the prompt; nil: none is looked at, as of a batch's lines, for which it is
	// usual to be alike.
	Print *Print
	// Keyed hashes; 0: not known.
	User, Address, Credential, Model uint64
}

// kind is a thing of which a tenant has few or many.
type kind int

const (
	addresses kind = iota
	users
	credentials
	models
	kinds
)

// floors are how many of a kind in an hour are never too many.
var floors = [kinds]float64{addresses: 5, users: 10, credentials: 5, models: 6}

// Volumes of a tenant against its own past.
const (
	rate = iota
	tokens
	cost
	volumes
)

const (
	halfLife   = 30 * time.Minute // of counts of content
	ringSize   = 12               // prompts that a new one is compared with
	leastAlike = 15               // of that many alike something is said
	leastShare = 0.25             // of the tenant's submits of late
	unlearned  = 24               // hours for which something alike is new; then it is a habit
	keptFlags  = 6
)

// justFade is what a window leaves of counts of what comes just now, and justPart what these are of counts of
// late at least, where what is counted comes evenly.
const (
	justFade = 0.7071 // by half in two windows: what is over is soon told no more
	justPart = 0.04
)

// Conduct is how a tenant behaves: its habits, the windows under way, and what was found. It is
// of one size, whatever the tenant does, and holds nothing that can be read. Its methods are
// deterministic, so that acts may be replayed onto a newer Conduct.
type Conduct struct {
	Since  int64 // Unix seconds of the first act; 0: none yet
	Window int64 // the number of the window under way: Unix seconds by its length
	Now    [volumes]float64
	Volume [volumes]series

	Submits  float32 // of late
	Alike    float32 // of these, nearly the same as one before, of a template that is new
	Habit    float32 // the share of those in an hour, usually
	Hour     hourly  // under way
	Same     float32 // the most that one prompt came of late, on other days
	Exact    top
	Template top
	Ring     [ringSize]Shape
	RingAt   uint8
	Usual    [ringSize]Shape // what prompts look like on other days
	UsualAt  uint8
	Known    [2]known // habits, and those of the weeks before
	Strange  uint16   // hours in a row with something new and alike

	Seen [kinds]distinct // in the hour under way
	Most [kinds]float32  // in an hour

	Fresh top     // submits of late from addresses that are no habit
	Novel float32 // the most of these on other days

	Just    [families]float32 // submits just now with something new of what the rules of a family look at
	Sent    float32           // submits just now
	Refused uint32            // submits in the window under way
	Score   float32           // of the last window that had acts, by the model
	Flags   [keptFlags]Flag
	FlagAt  uint8
	Muted   [rules]int64 // Unix seconds until which a rule says nothing, for an admin has said that it is wrong
	Ladder  ladder
	Version uint8
}

// hourly is what an hour has had: prompts looked at and those like another; at most of late, of one
// prompt and from addresses that are no habit.
type hourly struct{ Looked, Alike, Same, Fresh float32 }

// conductVersion is of the form above.
const conductVersion = 3

// Rules is what a Conduct is judged by.
type Rules struct {
	Window  time.Duration // of volumes: abuse.window
	Learn   time.Duration // before which a tenant has no past
	Model   *Trees        // scores windows; nil: none does
	Enforce bool          // tenants climb the ladder; else they stay where nothing is done
}

// NewModel is the model that windows are scored by.
func NewModel(seed uint64) *Trees { return NewTrees(seed, 25, 8, 250, numberOfFeatures) }

// Take takes an act in, after the windows before it.
func (c *Conduct) Take(w *Rules, a *Act) {
	if c.Since == 0 {
		c.Since, c.Window, c.Version = a.At.Unix(), number(a.At, w.Window), conductVersion
	}
	c.Close(w, a.At)
	c.Now[rate] += max(0, a.Jobs)
	c.Now[tokens] += max(0, a.Tokens)
	c.Now[cost] += max(0, a.Cost)
	c.Submits++
	c.Sent++
	for k, h := range [kinds]uint64{addresses: a.Address, users: a.User, credentials: a.Credential, models: a.Model} {
		if h != 0 && c.Seen[k].add(h) {
			c.Just[(Addresses+Rule(k)).family()]++
		}
	}
	if a.Address != 0 && !c.knows(a.Address) {
		c.Fresh.add(a.Address)
		c.Just[origin]++
	}
	if a.Print != nil {
		c.look(a.Print)
	}
}

// look compares a prompt with those of late.
func (c *Conduct) look(p *Print) {
	if c.Exact.add(p.Exact) {
		if !c.knows(p.Exact) {
			c.Just[content]++
		}
		return // it is counted as the same, not as alike
	}
	strange := !c.knows(p.Template)
	if c.Template.add(p.Template) && strange {
		c.Just[content]++
	}
	c.Hour.Looked++
	if strange && !p.nearAny(&c.Usual) && p.nearAny(&c.Ring) {
		c.Alike++
		c.Hour.Alike++
		c.Just[content]++
	}
	c.Ring[c.RingAt%ringSize] = Shape{p.Min, p.Length}
	c.RingAt++
}

func (p *Print) nearAny(shapes *[ringSize]Shape) bool {
	for i := range shapes {
		if p.Near(&shapes[i]) {
			return true
		}
	}
	return false
}

func (c *Conduct) knows(h uint64) bool { return c.Known[0].has(h) || c.Known[1].has(h) }

func number(t time.Time, window time.Duration) int64 { return t.UnixNano() / int64(window) }

func (w *Rules) start(window int64) time.Time { return time.Unix(0, window*int64(w.Window)).UTC() }

// hourOf is the hour of the week, in UTC, from Sunday midnight.
func hourOf(t time.Time) int { return int(t.Weekday())*24 + t.Hour() }

// Close ends the windows before t. Of a tenant that was away for more than a week, what it had
// before is judged as if it had come a week ago.
func (c *Conduct) Close(w *Rules, t time.Time) {
	last := number(t, w.Window)
	if c.Since == 0 || last <= c.Window {
		return
	}
	c.Window = max(c.Window, last-int64(8*24*time.Hour/w.Window))
	fade := float32(math.Exp2(-float64(w.Window) / float64(halfLife)))
	for ; c.Window < last; c.Window++ {
		at := w.start(c.Window)
		hour := hourOf(at)
		c.Now[rate] += float64(c.Refused)
		c.age()
		for i := range c.Volume {
			if c.Volume[i].close(c.Now[i], hour) {
				c.Just[volume]++
			}
		}
		c.Hour.Same = max(c.Hour.Same, c.strangest(&c.Exact))
		c.Hour.Fresh = max(c.Hour.Fresh, c.fresh())
		c.model(w)
		came := c.Now[rate] > 0
		c.Now, c.Refused = [volumes]float64{}, 0
		c.judge(w, at.Add(w.Window), came)
		c.Submits, c.Alike = c.Submits*fade, c.Alike*fade
		c.Exact.fade(fade)
		c.Template.fade(fade)
		c.Fresh.fade(fade)
		if hourOf(w.start(c.Window+1)) != hour {
			c.closeHour(w, at, hour)
		}
	}
}

// age has what came just now fade. What is refused is taken for more of the same.
func (c *Conduct) age() {
	if c.Refused > 0 {
		return
	}
	for i := range c.Just {
		c.Just[i] *= justFade
	}
	c.Sent *= justFade
}

// goesOn reports whether what a rule tells of comes just now: of prompts and addresses so much that it could
// have come to what is told.
func (c *Conduct) goesOn(r Rule) bool {
	n := c.Just[r.family()]
	switch r.family() {
	case content:
		return n >= leastAlike*justPart && n >= leastShare*c.Sent
	case origin:
		return n >= c.tooFresh()*justPart && n >= leastShare*c.Sent
	default:
		return n >= 0.1
	}
}

// closeHour ends an hour. What was abnormal in it is no habit.
func (c *Conduct) closeHour(w *Rules, at time.Time, hour int) {
	young := at.Sub(time.Unix(c.Since, 0)) < w.Learn
	calm := young || c.Ladder.Quiet >= 60
	for i := range c.Volume {
		c.Volume[i].closeHour(hour, calm)
	}
	strange := false
	for _, f := range c.lately(w, at) {
		strange = strange || f.Rule.family() == content
	}
	if c.Strange++; !strange {
		c.Strange = 0
	}
	if calm && (!strange || young || c.Strange >= unlearned) {
		c.learnContent(young || c.Strange >= unlearned)
	}
	c.closeFresh(young, calm)
	c.closeSame(young, calm)
	c.closeKinds(young, calm)
}

// closeSame learns how often prompts are the same, or nearly.
func (c *Conduct) closeSame(young, calm bool) {
	if n := c.Hour.Same; calm && (young || n < c.tooSame()) {
		c.Same = max(n, c.Same*0.999)
	}
	if c.Hour.Looked >= 5 && calm {
		c.Habit += (c.Hour.Alike/c.Hour.Looked - c.Habit) / 10
	}
	c.Hour = hourly{}
}

// closeFresh learns the addresses that came of late, and how much comes from new ones. What was
// told of them alone is a habit soon: an application that is put up anew has others.
func (c *Conduct) closeFresh(young, calm bool) {
	n := c.Hour.Fresh
	c.learnAddresses(calm, young || n < c.tooFresh())
	if calm {
		c.Novel = max(n, c.Novel*0.999)
	}
}

// learnAddresses takes the addresses of late for habit: all of them, or those that came in several
// hours, which are more while there is an alarm.
func (c *Conduct) learnAddresses(calm, all bool) {
	hours := uint8(unlearned)
	if calm {
		hours = 3
	}
	for i := range c.Fresh {
		t := &c.Fresh[i]
		if t.Count == 0 {
			continue
		}
		if t.Hours = min(100, t.Hours+1); all || t.Hours >= hours {
			c.Known[0].add(t.Hash)
			*t = tally{}
		}
	}
}

// fresh is how many submits of late came from addresses that are no habit.
func (c *Conduct) fresh() (n float32) {
	for i := range c.Fresh {
		n += c.Fresh[i].Count
	}
	return n
}

// tooFresh is how many of those are too many.
func (c *Conduct) tooFresh() float32 { return max(leastAlike, 1.5*c.Novel) }

// closeKinds learns how many of each kind an hour has.
func (c *Conduct) closeKinds(young, calm bool) {
	for k := range c.Seen {
		n := float32(c.Seen[k].count())
		if most := c.Most[k] * 0.999; n <= most || young || calm && n < c.tooMany(kind(k)) {
			c.Most[k] = max(n, most)
		} else {
			c.Most[k] = max(most, min(n, c.Most[k]*1.05))
		}
		c.Seen[k] = distinct{}
	}
}

// learnContent takes what is frequent now for habit: all of it, or what was so an hour ago too.
func (c *Conduct) learnContent(all bool) {
	if c.Known[0].full() {
		c.Known[0], c.Known[1] = known{}, c.Known[0]
	}
	for _, t := range [2]*top{&c.Exact, &c.Template} {
		for i := range t {
			if t[i].Count < 2 {
				continue
			}
			t[i].Hours = min(100, t[i].Hours+1)
			if (all || t[i].Hours >= 2) && !c.Known[0].has(t[i].Hash) {
				c.Known[0].add(t[i].Hash)
			}
		}
	}
	for i := range c.Ring {
		if c.Alike >= 2 && !all {
			break
		}
		s := &c.Ring[i]
		p := Print{Min: s.Min, Length: s.Length}
		if s.Length > 0 && !p.nearAny(&c.Usual) {
			c.Usual[c.UsualAt%ringSize] = *s
			c.UsualAt++
		}
	}
}

func (c *Conduct) tooMany(k kind) float32 { return max(float32(floors[k]), 2*c.Most[k]+2) }

// tooSame is how often one prompt is too often.
func (c *Conduct) tooSame() float32 { return max(leastAlike, 1.5*c.Same) }

// alike is the share of near duplicates; enough: there are enough of them to be told.
func (c *Conduct) alike() (share float32, enough bool) {
	if c.Alike < leastAlike {
		return 0, false
	}
	return c.Alike / max(c.Submits, 1), true
}

// strangest is the most frequent hash of t that is no habit.
func (c *Conduct) strangest(t *top) (count float32) {
	for i := range t {
		if t[i].Count > count && !c.knows(t[i].Hash) {
			count = t[i].Count
		}
	}
	return count
}

// features are a window's, each from 0 to 1; false: nobody did anything in it.
func (c *Conduct) features() ([]float64, bool) {
	if c.Now[rate] == 0 {
		return nil, false
	}
	part := func(x, most float64) float64 { return max(0, min(1, x/most)) }
	submits := max(1, float64(c.Submits))
	x := []float64{
		part(c.Volume[rate].over(), 2),
		part(c.Volume[tokens].over(), 2),
		part(math.Log1p(c.Now[tokens]/c.Now[rate]), 14),
		part(float64(c.strangest(&c.Exact)), submits),
		part(float64(c.strangest(&c.Template)), submits),
		part(float64(c.Alike), submits),
	}
	for k := range c.Seen {
		x = append(x, part(c.Seen[k].count(), 2*float64(c.tooMany(kind(k)))))
	}
	return x, true
}

// numberOfFeatures is the length of features.
const numberOfFeatures = 6 + int(kinds)

// model has the streaming model score the window, and learn it.
func (c *Conduct) model(w *Rules) {
	x, ok := c.features()
	if !ok || w.Model == nil {
		return
	}
	c.Score = float32(w.Model.Score(x))
	w.Model.Learn(x)
}
