package abuse

import (
	"bufio"
	"bytes"
	_ "embed"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/api/abuse"
)

//go:embed testdata/arrivals.csv
var arrivalsCSV []byte

// arrival is one request of a trace: the gap before it, as a part of the trace's mean, and its tokens.
type arrival struct{ gap, tokens float64 }

// traces are the real arrivals, by trace.
func traces() ([][]arrival, error) {
	var all [][]arrival
	last := ""
	for lines := bufio.NewScanner(bytes.NewReader(arrivalsCSV)); lines.Scan(); {
		f := strings.Split(lines.Text(), ",")
		if len(f) != 4 {
			return nil, fmt.Errorf("a line of the traces has %d fields", len(f))
		}
		var n [3]float64
		for i := range n {
			var err error
			if n[i], err = strconv.ParseFloat(f[i+1], 64); err != nil {
				return nil, fmt.Errorf("read the traces: %w", err)
			}
		}
		if f[0] != last {
			all, last = append(all, nil), f[0]
		}
		all[len(all)-1] = append(all[len(all)-1], arrival{n[0], n[1] + n[2]})
	}
	for _, t := range all {
		sum := 0.0
		for i := range t {
			sum += t[i].gap
		}
		for i := range t {
			t[i].gap *= float64(len(t)) / sum
		}
	}
	return all, nil
}

// benign is a way of work that looks like abuse and is none.
type benign int

const (
	nightly benign = iota
	storm
	sampler
	suite
	heavy
	launch
	benigns
)

var benignNames = [benigns]string{"nightly batch", "retry storm after an outage", "one prompt many times at temperature 1", "evaluation suite", "steady heavy user", "launch day growth"}

// home is where a tenant's submits come from.
type home int

const (
	fixed home = iota // two addresses
	daily             // two others each day, as behind a provider's gate
	cloud             // any of 300, as of functions that come and go
	moves             // two, and two others each time that the application is put up anew
)

// attack is abuse.
type attack int

const (
	burst attack = iota
	alike
	sweep
	drip
	shared
	exhaust
	bypass
	twoCities
	attacks
	insider = attacks // is none of those that the bar is about
)

var attackNames = [attacks + 1]string{"identical burst", "near-duplicates, a fifth of the words changed", "templated sweep", "slow drip", "many addresses on one key", "max-token exhaustion", "policy-bypass search", "key shared by two cities", "insider, who drifts slowly (beside the bar)"}

// tenant is one tenant of the world, with what it does.
type tenant struct {
	r       *rand.Rand
	key     abuse.Key
	conduct abuse.Conduct
	perMin  float64
	trace   []arrival
	at      int     // in the trace
	due     float64 // until the next arrival, in mean gaps
	shift   float64 // of the time of day, in hours
	lines   [][]string
	chat    bool // each prompt goes on with the one before
	talk    []string
	home    home
	benign  benign
	recent  [][]byte

	attack     attack
	begin, end int // minutes; 0: nobody attacks it
	seed       []string
	b          []byte
	suite      []string
	sample     []byte
	caught     [ways]int // minute in which it was told during the attack; 0: not
	told       [ways]int // minute in which it was told last and counted as false
	falses     [ways]int
	after      int // of the false alarms: those soon after an attack
}

// The ways in which something is told: an alarm of two signals, each rule, the model.
const (
	alarm = 0
	rule  = 1
	model = rule + 11
	ways  = model + 1
)

const (
	day     = 24 * 60
	week    = 7 * day
	minutes = 2 * week
)

var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC) // a Sunday

// vocabulary is what words are drawn from, each as often as it is frequent.
var vocabulary = sync.OnceValue(func() []string {
	list := make([]string, 4096)
	const letters = "etaoinshrdlucmfwypvbgk"
	for i := range list {
		b := make([]byte, 0, 6)
		for n := 23 + int(math.Pow(3000, float64(i)/float64(len(list)))); n > 0; n /= len(letters) {
			b = append(b, letters[n%len(letters)])
		}
		list[i] = string(b)
	}
	return list
})

func words(r *rand.Rand, n int) []string {
	list, all := make([]string, n), vocabulary()
	for i := range list {
		list[i] = all[r.IntN(len(all))]
	}
	return list
}

func newTenant(r *rand.Rand, n int, all [][]arrival) *tenant {
	t := &tenant{
		r: r, key: abuse.NewKey([]byte("bench"), strconv.Itoa(n)), trace: all[r.IntN(len(all))], benign: benign(r.IntN(int(benigns))),
		perMin: min(4, 0.3*math.Exp(r.NormFloat64())), shift: r.Float64()*6 - 3, chat: r.IntN(5) == 0,
		suite: words(r, 30),
	}
	if r.IntN(2) == 0 {
		t.home = home(r.IntN(4))
	}
	t.at = r.IntN(len(t.trace))
	if t.benign == heavy {
		t.perMin, t.trace = 6, all[1] // of all the evenest
	}
	for range 3 + r.IntN(6) {
		t.lines = append(t.lines, words(r, 20+r.IntN(30)))
	}
	if n%2 == 0 {
		t.attack = attack(n / 2 % int(attacks))
		t.begin = week + 60 + r.IntN(week-day)
		t.end = t.begin + 30 + r.IntN(60)
		if t.attack == drip || t.attack == twoCities || t.attack == shared {
			t.end = t.begin + 6*60
		}
		t.seed = words(r, 60)
	}
	if n%16 == 15 {
		t.attack, t.begin, t.end = insider, week+day, 2*week-day
		t.seed = words(r, 60)
	}
	return t
}

// intensity is how busy the tenant is in a minute, 1 on average.
func (t *tenant) intensity(minute int) float64 {
	hour := math.Mod(float64(minute%day)/60+t.shift+24, 24)
	x := 0.35 + 1.1*math.Exp(-(hour-14)*(hour-14)/18)
	if d := minute / day % 7; d == 0 || d == 6 {
		x *= 0.5
	}
	if t.benign == heavy {
		x = 1
	}
	if t.benign == launch && minute > week+2*day {
		x *= 1 + 2*math.Exp(-float64(minute-week-2*day)/day)
	}
	return x * 1.3
}

// submit takes one prompt in.
func (t *tenant) submit(r *abuse.Rules, at time.Time, text []byte, tokens float64, stranger string, model uint64) {
	p := t.key.Of(text)
	a := abuse.Act{At: at, Jobs: 1, Tokens: tokens, Cost: tokens * 3, Print: &p,
		User: t.key.Hash("app" + stranger), Address: t.key.Hash(t.address(at) + stranger), Credential: t.key.Hash("token"), Model: t.key.Hash("model") + model}
	t.conduct.Take(r, &a)
}

// address is where one of the tenant's own submits comes from.
func (t *tenant) address(at time.Time) string {
	net, hosts := 0, 2
	switch t.home {
	case daily:
		net = at.YearDay()
	case cloud:
		hosts = 300
	case moves:
		net = at.YearDay() / 4
	default:
	}
	return strconv.Itoa(net) + "." + strconv.Itoa(t.r.IntN(hosts))
}

// text makes a prompt of words, with a slot.
func (t *tenant) text(list []string, slot string) []byte {
	t.b = append(t.b[:0], `{"messages":[{"role":"user","content":"`...)
	for _, w := range list {
		t.b = append(append(t.b, w...), ' ')
	}
	t.b = append(append(t.b, slot...), `"}]}`...)
	return t.b
}

// ordinary is what the tenant asks for on any day.
func (t *tenant) ordinary() []byte {
	if t.chat {
		if len(t.talk) == 0 || len(t.talk) > 300 {
			t.talk = words(t.r, 15)
		} else {
			t.talk = append(t.talk, words(t.r, 30)...)
		}
		return t.text(t.talk, "")
	}
	line := t.lines[int(float64(len(t.lines))*t.r.Float64()*t.r.Float64())]
	own := words(t.r, 10+t.r.IntN(40))
	return t.text(append(line[:len(line):len(line)], own...), "")
}

// live is one minute of a tenant.
func (t *tenant) live(r *abuse.Rules, minute int) {
	now := epoch.Add(time.Duration(minute) * time.Minute)
	outage := t.benign == storm && (minute-week)%(4*day) > 700 && (minute-week)%(4*day) < 720
	if minute%(4*day) == 0 && t.r.IntN(3) == 0 && minute > 0 {
		t.lines[t.r.IntN(len(t.lines))] = words(t.r, 20+t.r.IntN(30)) // a new version of the application
	}
	for t.due -= t.perMin * t.intensity(minute); t.due <= 0; t.due += t.trace[t.at].gap {
		t.at = (t.at + 1) % len(t.trace)
		if t.r.IntN(64) == 0 {
			t.at = t.r.IntN(len(t.trace))
		}
		text := t.ordinary()
		if t.benign == storm {
			t.recent = append(t.recent, bytes.Clone(text))
			if len(t.recent) > 40 {
				t.recent = t.recent[1:]
			}
		}
		if !outage {
			t.submit(r, now, text, t.trace[t.at].tokens, "", 0)
		}
	}
	t.alike(r, minute, now)
	if minute >= t.begin && minute < t.end {
		t.abused(r, minute, now)
	}
	t.conduct.Close(r, now.Add(time.Minute))
}

// alike is what looks like abuse.
func (t *tenant) alike(r *abuse.Rules, minute int, now time.Time) {
	inDay := minute % day
	switch t.benign {
	case nightly:
		if within(inDay-125, 15) {
			for i := range 20 {
				t.submit(r, now, t.text(t.suite, strconv.Itoa(inDay*100+i)), 700, "", 0)
			}
		}
	case storm: // what failed is asked again, and again
		if within((minute-week)%(4*day)-720, 4) {
			for _, text := range t.recent {
				t.submit(r, now, text, 500, "", 0)
			}
		}
	case sampler:
		if at := inDay - 600; within(at, 5) && minute/day%2 == 1 {
			t.sampled(r, at, now)
		}
	case suite:
		if at := inDay - 660 - minute/day*7; within(at, 20) && minute/day%2 == 0 {
			for i := range 10 {
				t.submit(r, now, t.text(t.suite, "case "+strconv.Itoa(at*10+i)), 600, "", 0)
			}
		}
	default:
	}
}

// within reports whether a minute is one of the first so many of something.
func within(at, most int) bool { return at >= 0 && at < most }

// sampled asks one prompt many times, a new one in the first minute.
func (t *tenant) sampled(r *abuse.Rules, at int, now time.Time) {
	if at == 0 {
		t.sample = bytes.Clone(t.text(words(t.r, 60), ""))
	}
	for range 20 {
		t.submit(r, now, t.sample, 800, "", 0)
	}
}

// abused is one minute of an attack with the tenant's key.
func (t *tenant) abused(r *abuse.Rules, minute int, now time.Time) {
	if t.attack == insider {
		t.drift(r, minute, now)
		return
	}
	n := int(max(5, t.perMin*(2+2*t.r.Float64())))
	for i := range n {
		id := strconv.Itoa(minute*100 + i)
		text, tokens, who, model := []byte(nil), 800.0, "x", uint64(0)
		switch t.attack {
		case burst:
			text = t.text(t.seed, "")
		case alike:
			text = t.text(t.changed(0.2), "")
		case sweep:
			text = t.text(t.seed, "record "+id)
		case drip:
			if i > 0 && float64(i) > t.perMin {
				continue
			}
			text = t.text(t.seed, "page "+id)
		case shared:
			text, who = t.text(words(t.r, 60), ""), strconv.Itoa(t.r.IntN(40))
		case exhaust:
			text, tokens = t.text(t.seed[:12], "count to "+id), 64000
		case bypass:
			text, model = t.text(t.changed(0.3), ""), uint64(t.r.IntN(10))
		default:
			if float64(i) > max(2, t.perMin) {
				continue
			}
			text, who = t.text(words(t.r, 40), ""), "other"+strconv.Itoa(t.r.IntN(8))
		}
		t.submit(r, now, text, tokens, who, model)
	}
}

// drift is one minute of somebody who is allowed in, at the usual place and hours: what is asked for beside the
// work is one more template, and grows over five days to as much as the work.
func (t *tenant) drift(r *abuse.Rules, minute int, now time.Time) {
	share := float64(minute-t.begin) / float64(t.end-t.begin)
	if t.r.Float64() < min(1, share*t.perMin*t.intensity(minute)) {
		own := append(t.seed[:20:20], words(t.r, 10+t.r.IntN(30))...)
		t.submit(r, now, t.text(own, ""), 800, "", 0)
	}
}

func (t *tenant) changed(part float64) []string {
	list := append([]string(nil), t.seed...)
	for i := range list {
		if t.r.Float64() < part {
			list[i] = words(t.r, 1)[0]
		}
	}
	return list
}
