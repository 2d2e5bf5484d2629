package limit

import (
	"container/heap"
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// provider is a strict model of a provider: continuous buckets, full at the
// start, input charged on arrival, output drawn evenly while a call runs. It
// turns a call away when any bucket is short (output: empty), which costs nothing.
type provider struct {
	rate, size [3]float64
	level      [3]float64
	speed      float64 // output drawn a second by all running calls
	t          float64
	atEnd      bool // a call's output is drawn all at once when it ends, just after its headers

	used       [3]float64
	accepted   int
	refused    int
	refusedFor [3]int
}

func newProvider(rpm, itpm, otpm, burst float64) *provider {
	p := &provider{rate: [3]float64{rpm / 60, itpm / 60, otpm / 60}, size: [3]float64{burst, itpm, otpm}}
	p.level = p.size
	return p
}

func (p *provider) advance(t float64) {
	dt := t - p.t
	p.t = t
	for d := range p.level {
		r := p.rate[d]
		if d == 2 {
			r -= p.speed
			p.used[d] += p.speed * dt
		}
		p.level[d] = min(p.size[d], p.level[d]+r*dt)
	}
}

// arrive returns 0 when the call is let in, else the seconds after which to try again.
func (p *provider) arrive(t, in, speed float64) float64 {
	p.advance(t)
	for d, need := range [3]float64{1 - 1e-9, min(in, p.size[1]), 1e-9} {
		if p.rate[d] > 0 && p.level[d] < need {
			p.refused++
			p.refusedFor[d]++
			return (need-p.level[d])/p.rate[d] + 1e-3
		}
	}
	p.accepted++
	p.level[0]--
	p.level[1] -= in
	p.used[0]++
	p.used[1] += in
	if !p.atEnd {
		p.speed += speed
	}
	return 0
}

// end ends a call and returns the headers that its answer ends with.
func (p *provider) end(t, speed, out float64) *Observed {
	p.advance(t)
	if p.atEnd {
		seen := p.headers()
		p.level[2] -= out
		p.used[2] += out
		return seen
	}
	p.speed -= speed
	return p.headers()
}

func (p *provider) headers() *Observed {
	read := func(d int, step float64) Reading {
		return Reading{
			Limit: int64(p.rate[d]*60 + 0.5), HasLimit: true,
			Remaining: int64(math.Round(max(0, math.Floor(p.level[d]))/step) * step), HasRemaining: true,
		}
	}
	return &Observed{Requests: read(0, 1), InputTokens: read(1, 1000), OutputTokens: read(2, 1000)}
}

// load draws calls.
type load struct {
	name     string
	in, out  float64 // means
	sigma    float64 // of the input's lognormal
	steady   bool    // the output is always the mean, and the latency too
	latency  float64 // mean, s; follows the output
	maxTimes float64 // max_tokens as a multiple of the mean output
}

var (
	loadA = load{"requests bind", 120, 24, 0.3, false, 4, 8}
	loadB = load{"output binds", 600, 300, 0.5, false, 4, 8}
	loadC = load{"input binds", 2000, 150, 1.0, false, 4, 8}
	loadD = load{"all near", 160, 32, 0.3, false, 4, 8}
)

type call struct {
	in, out, est, latency float64
}

func lognormal(r *rand.Rand, mean, sigma float64) float64 {
	return mean * math.Exp(sigma*r.NormFloat64()-sigma*sigma/2)
}

func (l load) draw(r *rand.Rand) call {
	out := min(lognormal(r, l.out, 0.5), l.out*l.maxTimes)
	in := lognormal(r, l.in, l.sigma)
	if l.steady {
		return call{in: math.Ceil(in), out: math.Ceil(out), est: math.Ceil(in * max(0.3, 1+0.1*r.NormFloat64())), latency: l.latency}
	}
	return call{
		in: math.Ceil(in), out: math.Ceil(out),
		est:     math.Ceil(in * max(0.3, 1+0.1*r.NormFloat64())),
		latency: max(0.2, l.latency*out/l.out*lognormal(r, 1, 0.2)),
	}
}

type event struct {
	t  float64
	n  int
	do func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].t < e[j].t || e[i].t == e[j].t && e[i].n < e[j].n
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

// sim runs the real scripts on a real Redis in virtual time: processes with an
// endless backlog, each with one pump as Run has it, over a network with delay.
type sim struct {
	tb                    testing.TB
	rdb                   redis.UniversalClient
	rng                   *rand.Rand
	now                   float64
	q                     events
	seq                   int
	p                     *provider
	gates                 []*Gate
	idle                  []int // free slots of a process
	pumping               []bool
	dead                  []bool
	loads                 func(t float64) []load
	headers               string  // "", "end", "start"
	path, late            float64 // means: of the way to the provider, of what passes between an answer and its settlement, s
	jobs                  int     // how many calls are to be sent yet; below 0: no end
	first, last           float64 // when the first and the last call was sent
	acquires, sends       int
	waits                 []float64 // since the pump first asked
	sizes                 []float64
	concurrency, underway int
	mostUnderway          int
}

type simConfig struct {
	limits   Limits
	burst    float64 // the provider's
	loads    func(t float64) []load
	n, slots int
	headers  string
	seed     uint64
	change   func(*Config)

	path, late float64 // path 0: 30 ms
	jobs       int     // 0: no end
	atEnd      bool
}

func newSim(tb testing.TB, c simConfig) *sim {
	s := &sim{
		tb: tb, rdb: redistest.New(tb), rng: rand.New(rand.NewPCG(c.seed, 7)), now: 1_800_000_000,
		loads: c.loads, headers: c.headers, concurrency: c.limits.Concurrency,
	}
	s.p = newProvider(float64(c.limits.RequestsPerMinute), float64(c.limits.InputTokensPerMinute), float64(c.limits.OutputTokensPerMinute), c.burst)
	s.p.t, s.p.atEnd = s.now, c.atEnd
	s.path, s.late, s.jobs = c.path, c.late, c.jobs
	if s.path == 0 {
		s.path = 0.03
	}
	if s.jobs == 0 {
		s.jobs = -1
	}
	for i := range c.n {
		g := newGate(tb, s.rdb, c.limits, func(cfg *Config) {
			cfg.now = func() float64 { return s.now }
			if c.change != nil {
				c.change(cfg)
			}
		})
		s.gates = append(s.gates, g)
		s.idle = append(s.idle, c.slots/c.n)
		s.pumping = append(s.pumping, false)
		s.dead = append(s.dead, false)
		s.at(s.rng.Float64(), func() { s.pump(i) })
		s.at(5+s.rng.Float64(), func() { s.renew(i) })
	}
	return s
}

func (s *sim) at(after float64, do func()) {
	s.seq++
	heap.Push(&s.q, event{s.now + after, s.seq, do})
}

func (s *sim) run(until float64) {
	for len(s.q) > 0 && s.q[0].t <= until {
		e := heap.Pop(&s.q).(event)
		s.now = e.t
		e.do()
	}
	s.now = until
	s.p.advance(until)
}

func (s *sim) check(err error) {
	if err != nil {
		s.tb.Helper()
		s.tb.Fatal(err)
	}
}

func (s *sim) renew(i int) {
	if s.dead[i] {
		return
	}
	s.check(s.gates[i].renew(context.Background(), ""))
	s.at(5, func() { s.renew(i) })
}

// pump lets process i ask for its next call, when it may.
func (s *sim) pump(i int) {
	if s.dead[i] || s.pumping[i] || s.idle[i] == 0 || s.jobs == 0 {
		return
	}
	s.jobs--
	s.pumping[i] = true
	kinds := s.loads(s.now)
	l := kinds[s.rng.IntN(len(kinds))]
	c := l.draw(s.rng)
	g := s.gates[i]
	w := &waiter{need: Need{ID: "j", Class: l.name, InputTokens: int64(c.est), MaxTokens: int64(l.out * l.maxTimes)}}
	w.key = g.newKey(w.need)
	s.try(i, w, c, s.now)
}

func (s *sim) try(i int, w *waiter, c call, since float64) {
	if s.dead[i] {
		return
	}
	answers, err := s.gates[i].ask(context.Background(), []*waiter{w})
	s.check(err)
	s.acquires++
	a := answers[0]
	switch a.status {
	case "full":
		s.at(0.05, func() { s.try(i, w, c, since) })
	case "ok":
		s.at(a.wait.Seconds()+0.0005, func() {
			s.pumping[i] = false
			if s.dead[i] {
				return
			}
			s.waits, s.sizes = append(s.waits, s.now-since), append(s.sizes, c.in)
			s.idle[i]--
			s.send(i, Grant{key: w.key, epoch: a.epoch}, c)
			s.pump(i)
		})
	default:
		s.at(a.wait.Seconds(), func() { s.try(i, w, c, since) })
	}
}

func (s *sim) way() float64 { return lognormal(s.rng, s.path, 0.5) }

func (s *sim) send(i int, grant Grant, c call) {
	s.last = s.now
	if s.sends == 0 {
		s.first = s.now
	}
	s.sends++
	s.underway++
	s.mostUnderway = max(s.mostUnderway, s.underway)
	settle := func(a Actual, free func()) {
		s.underway--
		if s.dead[i] {
			return
		}
		s.check(s.gates[i].Settle(context.Background(), grant, a))
		s.idle[i]++
		free()
		s.pump(i)
	}
	s.at(s.way(), func() {
		speed := c.out / c.latency
		if after := s.p.arrive(s.now, c.in, speed); after > 0 {
			if s.jobs >= 0 {
				s.jobs++ // it comes again
			}
			s.at(s.way(), func() { settle(Actual{Refused: true}, func() { s.react(i, after) }) })
			return
		}
		if s.headers == "start" {
			seen := s.p.headers()
			s.at(s.way(), func() {
				if !s.dead[i] {
					s.check(s.gates[i].SettleInput(context.Background(), grant, int64(c.in), seen))
				}
			})
		}
		s.at(c.latency, func() {
			seen := s.p.end(s.now, speed, c.out)
			a := Actual{InputTokens: int64(c.in), OutputTokens: int64(c.out), Known: true}
			if s.headers == "end" {
				a.Observed = seen
			}
			s.at(s.way(), func() {
				late := 0.0
				if s.late > 0 {
					late = lognormal(s.rng, s.late, 1)
				}
				if a.Observed != nil && s.late > 0 {
					a.Observed.Age = time.Duration(late * 1e9)
				}
				s.at(late, func() { settle(a, func() {}) })
			})
		})
	})
}

// react does what a worker does on a refusal.
func (s *sim) react(i int, after float64) {
	if after <= 1 {
		s.check(s.gates[i].SoftRefusal(context.Background()))
	} else {
		s.check(s.gates[i].Hold(context.Background(), time.Duration(math.Ceil(after))*time.Second, "refused"))
	}
}

// window measures what happens from now for d seconds.
type window struct {
	use      [3]float64
	refused  int
	accepted int
	perCall  float64
}

func (s *sim) measure(d float64) window {
	s.p.advance(s.now)
	used, refused, accepted, acq, sends := s.p.used, s.p.refused, s.p.accepted, s.acquires, s.sends
	s.run(s.now + d)
	w := window{refused: s.p.refused - refused, accepted: s.p.accepted - accepted}
	for i := range w.use {
		w.use[i] = (s.p.used[i] - used[i]) / (s.p.rate[i] * d)
	}
	w.perCall = float64(s.acquires-acq) / float64(max(1, s.sends-sends))
	return w
}

func (w window) best() float64 { return max(w.use[0], w.use[1], w.use[2]) }

func always(l ...load) func(float64) []load { return func(float64) []load { return l } }

func percentile(x []float64, p float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[min(len(x)-1, int(p*float64(len(x))))]
}

// The allowance that the simulated loads share.
var simLimits = Limits{RequestsPerMinute: 600, InputTokensPerMinute: 100_000, OutputTokensPerMinute: 20_000, RequestBurst: 10}

var (
	full  = flag.Bool("full", false, "simulate every load, number of processes and burst for 30 minutes, four seeds each")
	seeds = flag.Uint64("seeds", 1, "simulate a bucket that runs dry and a foreign user with this many seeds each")
)

func TestTheWholeAllowanceIsUsedAndNothingRefused(t *testing.T) {
	t.Parallel()
	type row struct {
		load    load
		n       int
		burst   int
		headers string
		minutes float64
		seed    uint64
	}
	rows := []row{
		{loadA, 16, 10, "end", 1.2, 1},
		{loadB, 4, 10, "end", 12, 1},
		{loadC, 16, 10, "", 12, 1},
		{loadD, 1, 10, "start", 1.2, 1},
	}
	if *full {
		rows = nil
		for _, l := range []load{loadA, loadB, loadC, loadD} {
			for _, n := range []int{1, 4, 16} {
				for _, burst := range []int{10, 600} {
					for seed := range uint64(4) {
						rows = append(rows, row{l, n, burst, []string{"end", "start", ""}[seed%3], 30, seed + 1})
					}
				}
			}
		}
	}
	for _, c := range rows {
		t.Run(fmt.Sprintf("%s/N=%d/B=%d/headers=%s/%d", c.load.name, c.n, c.burst, c.headers, c.seed), func(t *testing.T) {
			t.Parallel()
			limits := simLimits
			limits.RequestBurst = c.burst
			s := newSim(t, simConfig{limits: limits, burst: float64(c.burst), loads: always(c.load), n: c.n, slots: 160, headers: c.headers, seed: c.seed})
			warmUp := min(5, c.minutes/3) * 60
			s.run(s.now + warmUp)
			w := s.measure(c.minutes * 60)
			t.Logf("used %.4f, %d of %d refused (by dimension, with the start: %v), %.3f questions a call", w.use, w.refused, w.accepted, s.p.refusedFor, w.perCall)
			if w.best() < 0.99 {
				t.Errorf("used %.2f %% of the binding dimension, want 99", 100*w.best())
			}
			if w.refused > 1+w.accepted/10_000 {
				t.Errorf("%d of %d calls were refused, want about none", w.refused, w.accepted)
			}
			if w.perCall > 1.1 {
				t.Errorf("%.2f questions a call, want 1.0 to 1.1", w.perCall)
			}
		})
	}
}

// Calls so long that what they are yet to draw fills the whole bucket.
func TestLongCallsOnASmallBucket(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		latency float64
		headers string
	}{{120, "start"}} {
		t.Run(fmt.Sprintf("%v s", c.latency), func(t *testing.T) {
			t.Parallel()
			l := loadB
			l.latency = c.latency
			s := newSim(t, simConfig{limits: simLimits, burst: 10, loads: always(l), n: 4, slots: 320, headers: c.headers, seed: 3})
			s.run(s.now + 300)
			w := s.measure(400)
			t.Logf("used %.4f, %d of %d refused, %v with the start", w.use, w.refused, w.accepted, s.p.refused)
			if w.best() < 0.99 || s.p.refused > 1 {
				t.Errorf("used %.2f %%, %d refused; want 99 and about none", 100*w.best(), s.p.refused)
			}
		})
	}
}

// Another dimension binds each minute, so the one that rests fills up meanwhile.
func TestMixedLoad(t *testing.T) {
	t.Parallel()
	began := 1_800_000_000.0
	s := newSim(t, simConfig{limits: simLimits, burst: 10, n: 4, slots: 160, headers: "start", seed: 5, loads: func(t float64) []load {
		if int((t-began)/60)%2 == 0 {
			return []load{loadA}
		}
		return []load{loadB}
	}})
	s.run(s.now + 180)
	t.Logf("%d of %d refused %v", s.p.refused, s.p.accepted, s.p.refusedFor)
	if s.p.refused > 1 {
		t.Errorf("%d of %d calls refused, want about none", s.p.refused, s.p.accepted)
	}
}

// Another user of the same key takes a fifth of the allowance.
func TestForeignUseOfTheKeyIsLearned(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		load    load
		dim     int
		foreign float64 // calls a second
		in, out float64
		refused float64 // share that may be
		seconds float64
	}{
		{loadA, 0, 2, 1, 1, 0.01, 90},
		{loadB, 2, 0.333, 100, 200, 0.005, 400},
	} {
		t.Run(c.load.name, func(t *testing.T) {
			t.Parallel()
			s := newSim(t, simConfig{limits: simLimits, burst: 10, loads: always(c.load), n: 4, slots: 160, headers: "start", seed: 2})
			s.run(s.now + 45)
			own := 0.0
			var foreign func()
			foreign = func() {
				speed := c.out / 2
				if before := s.p.refused; s.p.arrive(s.now, c.in, speed) == 0 {
					own -= []float64{1, c.in, c.out}[c.dim]
					s.at(2, func() { s.p.end(s.now, speed, c.out) })
				} else {
					s.p.refused = before // not ours
				}
				s.at(s.rng.ExpFloat64()/c.foreign, foreign)
			}
			s.at(0, foreign)
			s.run(s.now + 75)
			own = 0
			w := s.measure(c.seconds)
			left := s.p.rate[c.dim]*c.seconds + own
			share := (w.use[c.dim]*s.p.rate[c.dim]*c.seconds + own) / left
			t.Logf("used %.3f of what was left, %d of %d refused; %+v", share, w.refused, w.accepted, state(t, s.gates[0]))
			if got := float64(w.refused) / float64(w.accepted); got > c.refused {
				t.Errorf("%.2f %% refused, want at most %v %%", 100*got, 100*c.refused)
			}
			if share < 0.97 {
				t.Errorf("used %.1f %% of what the other left, want 97", 100*share)
			}
		})
	}
}

// A process is killed each minute with all that it has under way.
func TestKilledProcessesCostLittle(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{limits: simLimits, burst: 10, loads: always(loadB), n: 10, slots: 160, headers: "start", seed: 4})
	for i := range 7 {
		s.at(float64(120+60*i), func() { s.dead[i] = true })
	}
	s.run(s.now + 120)
	w := s.measure(480)
	t.Logf("used %.4f, %d of %d refused", w.use, w.refused, w.accepted)
	if w.best() < 0.985 || w.refused > 2 {
		t.Errorf("used %.2f %%, %d refused; want 98.5 and about none", 100*w.best(), w.refused)
	}
}

// Who asks first goes first: large calls wait no longer than small ones.
func TestLargeCallsWaitNoLonger(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{limits: simLimits, burst: 10, loads: always(loadC), n: 16, slots: 160, headers: "start", seed: 6})
	s.run(s.now + 700)
	limit := percentile(s.sizes, 0.95)
	var large, rest []float64
	for i, w := range s.waits {
		if s.sizes[i] >= limit {
			large = append(large, w)
		} else {
			rest = append(rest, w)
		}
	}
	l, r := percentile(large, 0.99), percentile(rest, 0.99)
	t.Logf("p99 wait at the head of a pump: large %.1f s, rest %.1f s", l, r)
	if l > 1.5*r {
		t.Errorf("p99 of the largest 5 %%: %.1f s, of the rest: %.1f s; want at most 1.5 times", l, r)
	}
}

func TestConcurrencyBinds(t *testing.T) {
	t.Parallel()
	limits := simLimits
	limits.Concurrency = 8
	s := newSim(t, simConfig{limits: limits, burst: 10, loads: always(loadA), n: 1, slots: 160, seed: 8})
	s.run(s.now + 120)
	t.Logf("at most %d under way, %d calls", s.mostUnderway, s.p.accepted)
	if s.mostUnderway > 8 || s.p.accepted < 200 {
		t.Errorf("%d under way at most, %d calls in 120 s; want 8 and about 230", s.mostUnderway, s.p.accepted)
	}
}

// A bucket of tokens is full at the start, is emptied by as many calls at once
// as there may be, and runs dry with all of them under way. Output is drawn all
// at once at the end of a call, so a call's time of the refill is always lost.
func TestAFullBucketRunsDry(t *testing.T) {
	t.Parallel()
	const tokens = 240_000
	for _, c := range []struct {
		load   load
		limits Limits
		dim    int
	}{
		{load{"input binds", 200, 16, 0.3, true, 0.2, 4}, Limits{RequestsPerMinute: 60_000, InputTokensPerMinute: tokens}, 1},
		{load{"output binds", 150, 200, 0.3, true, 0.2, 5}, Limits{RequestsPerMinute: 60_000, OutputTokensPerMinute: tokens}, 2},
	} {
		t.Run(c.load.name, func(t *testing.T) {
			t.Parallel()
			c.limits.RequestBurst, c.limits.Concurrency = 1000, 64
			used, refused, accepted := 0.0, 0, 0
			var mu sync.Mutex
			t.Run("seeds", func(t *testing.T) {
				for seed := range *seeds {
					t.Run(fmt.Sprint(seed), func(t *testing.T) {
						t.Parallel()
						s := newSim(t, simConfig{
							limits: c.limits, burst: 1000, loads: always(c.load), n: 4, slots: 64, headers: "end", seed: seed,
							path: 0.001, late: 0.01, jobs: 2400, atEnd: true,
						})
						s.run(s.now + 80)
						// What was used beyond the full bucket, against what flowed in from the
						// first to the last call.
						share := (s.p.used[c.dim] - s.p.size[c.dim]) / (s.p.rate[c.dim] * (s.last - s.first))
						t.Logf("used %.4f, %d of %d refused %v", share, s.p.refused, s.p.accepted, s.p.refusedFor)
						mu.Lock()
						defer mu.Unlock()
						used, refused, accepted = used+share/float64(*seeds), refused+s.p.refused, accepted+s.p.accepted
					})
				}
			})
			if used < 0.99 || refused > accepted/10_000 || accepted != 2400*int(*seeds) {
				t.Errorf("used %.2f %%, %d of %d refused; want 99 and none", 100*used, refused, accepted)
			}
		})
	}
}

// Another user takes a fifth of a bucket that holds half a second's worth of
// requests, as a fifth of all calls come: whenever they like.
func TestForeignRequestsOnASmallBurst(t *testing.T) {
	t.Parallel()
	for seed := range *seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			const rate = 20.0
			s := newSim(t, simConfig{
				limits: Limits{RequestsPerMinute: 60 * rate, RequestBurst: 10, Concurrency: 64}, burst: 10,
				loads: always(load{"short", 20, 16, 0.3, false, 0.2, 2}), n: 4, slots: 64, headers: "end", seed: seed,
				path: 0.001, late: 0.01, atEnd: true,
			})
			s.run(s.now + 10)
			theirs := 0
			var foreign func()
			foreign = func() {
				if before := s.p.refused; s.p.arrive(s.now, 1, 0) == 0 {
					theirs++
				} else {
					s.p.refused = before // not ours
				}
				s.at(s.rng.ExpFloat64()/(rate/5), foreign)
			}
			s.at(0, foreign)
			for _, minute := range []struct {
				name          string
				refused, used float64
			}{{"while it is learned", 0.015, 0.97}, {"the next minute", 0.01, 0.97}} {
				theirs = 0
				w := s.measure(60)
				ours := float64(w.accepted - theirs)
				refused, used := float64(w.refused)/(ours+float64(w.refused)), ours/(60*rate-float64(theirs))
				t.Logf("%s: %d refused, %.2f %%; used %.2f %% of what was left", minute.name, w.refused, 100*refused, 100*used)
				if refused > minute.refused || used < minute.used {
					t.Errorf("%s: %.2f %% refused, used %.2f %% of what was left; want at most %v and at least %v %%",
						minute.name, 100*refused, 100*used, 100*minute.refused, 100*minute.used)
				}
			}
		})
	}
}
