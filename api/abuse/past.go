package abuse

import (
	"math"
	"math/rand/v2"
	"slices"
)

const (
	hoursAWeek = 7 * 24
	blockHours = 3                       // of which the highest sum is kept
	blocks     = hoursAWeek / blockHours // a week of them
	// wantedBlocks is how many blocks are to pass between two false signals of one series: two weeks'.
	// An alarm needs another signal beside it.
	wantedBlocks = 2 * blocks
	mostStep     = 3.0 // nats that one window adds at most: one alone proves nothing
	leastBar     = 5.0 // nats: no history makes an alarm of less
	leastDays    = 3   // before which an hour of the day has no habit
)

// series is one measure of a tenant against its own past: the logarithm of what a window had
// against what this hour of the week usually has, summed up while it is above (CUSUM). Lengths
// are in nats.
type series struct {
	Hour   [hoursAWeek]uint8 // mean of ln(1+x) of the hour's windows, by twelfths, and one; 0: none yet
	High   [hoursAWeek]uint8 // the largest of these, likewise
	Peaks  [blocks]uint16    // highest sum of each of the last blocks, by sixteenths, and one; 0: none yet
	Sum    float32
	Peak   float32 // of the block under way
	Bar    float32 // above which the sum is an alarm; 0: none yet
	Spread float32 // mean deviation of a window
	Slack  float32 // by which releases have raised the bar; 0: as 1
	Mean   hourMean
}

// hourMean is the hour under way.
type hourMean struct {
	Logs  float32
	High  float32 // the largest window
	Usual float32 // up to which a window is no surprise; 0: any is
	N     uint16
}

// usual is what an hour of the week usually has in a window: half what this hour had, half what
// the hour of the day had; known: anything is known of it.
func (s *series) usual(hour int) (float64, bool) {
	sum, n := 0.0, 0
	for h := hour % 24; h < hoursAWeek; h += 24 {
		if v := s.Hour[h]; v > 0 {
			sum, n = sum+float64(v-1)/12, n+1
		}
	}
	if n == 0 {
		return 0, false
	}
	day := sum / float64(n)
	if v := s.Hour[hour]; v > 0 {
		return (day + float64(v-1)/12) / 2, true
	}
	return day, true
}

// days is of how many days this hour is known.
func (s *series) days(hour int) (n int) {
	for h := hour % 24; h < hoursAWeek; h += 24 {
		if s.Hour[h] > 0 {
			n++
		}
	}
	return n
}

// burst is what the largest window of this hour has had on all days but one, such as of a nightly
// batch, and a little: it is no surprise. Below three days nothing is known of it.
func (s *series) burst(hour int) float64 {
	least, second, n := uint8(255), uint8(255), 0
	for h := hour % 24; h < hoursAWeek; h += 24 {
		switch v := s.High[h]; {
		case v == 0:
			continue
		case v < least:
			least, second = v, least
		default:
			second = min(second, v)
		}
		n++
	}
	if n < leastDays {
		return 0
	}
	return float64(second-1)/12 + 0.2
}

// surprise is up to what a window of this hour is no surprise: that of the hour of a nightly batch,
// which stands out among the hours of the day; 0 of all others.
func (s *series) surprise(hour int) float64 {
	var day [24]float64
	for h := range day {
		day[h] = s.burst(h)
	}
	slices.Sort(day[:])
	if b := s.burst(hour); b > day[12]+0.7 {
		return b
	}
	return 0
}

// close takes a window's figure in, and reports whether it was above what is usual.
func (s *series) close(x float64, hour int) (above bool) {
	log := math.Log1p(x)
	s.Mean.Logs, s.Mean.N = s.Mean.Logs+float32(log), s.Mean.N+1
	s.Mean.High = max(s.Mean.High, float32(log))
	usual, ok := s.usual(hour)
	if !ok {
		return false
	}
	d := log - usual
	if log <= float64(s.Mean.Usual) {
		d = min(d, 0.1+float64(s.Spread)) // as on most days at this hour: no step up
	}
	s.Spread += float32((math.Abs(d) - float64(s.Spread)) / 500)
	sum := float64(s.Sum) + min(d, mostStep) - (0.1 + float64(s.Spread))
	most := math.MaxFloat64
	if s.Bar > 0 {
		most = 1.15 * s.bar() // what is over is soon told as over
	}
	s.Sum = float32(max(0, min(sum, most)))
	s.Peak = max(s.Peak, s.Sum)
	return d > 0.1+float64(s.Spread)
}

// closeHour ends an hour; learn says whether it counts as the tenant's habit.
func (s *series) closeHour(hour int, learn bool) {
	if s.Mean.N > 0 && learn {
		m := float64(s.Mean.Logs) / float64(s.Mean.N)
		if v := s.Hour[hour]; v > 0 {
			m = 0.6*float64(v-1)/12 + 0.4*m
		}
		s.High[hour] = uint8(1 + min(254, math.Round(float64(s.Mean.High)*12)))
		s.Hour[hour] = uint8(1 + min(254, math.Round(m*12)))
	}
	s.Mean = hourMean{Usual: float32(s.surprise((hour + 1) % hoursAWeek))}
	if hour%blockHours != blockHours-1 {
		return
	}
	if learn && s.days(hour) > leastDays {
		s.Peaks[hour/blockHours] = uint16(1 + min(65000, math.Round(float64(s.Peak)*16)))
		s.Bar = float32(bootstrap(s.Peaks[:]))
	}
	s.Peak = s.Sum
}

func (s *series) bar() float64 { return float64(s.Bar) * max(1, float64(s.Slack)) }

// over is the sum as a part of its bar, 1 and more being an alarm; 0 while there is no bar.
func (s *series) over() float64 {
	if s.Bar == 0 {
		return 0
	}
	return float64(s.Sum) / s.bar()
}

// bootstrap is the sum that a tenant of this history exceeds once in two weeks. A week's blocks
// are drawn again and again; in each such week the highest sums have a tail as exponential as
// that of a reflected walk is, and the bar is the median of theirs. It returns 0 for a
// history of fewer than two days.
func bootstrap(peaks []uint16) float64 {
	var have []float64
	for _, p := range peaks {
		if p > 0 {
			have = append(have, float64(p-1)/16)
		}
	}
	if len(have) < 2*24/blockHours {
		return 0
	}
	r := rand.New(rand.NewPCG(1, uint64(len(have)))) // no secret: the same history has the same bar
	const draws = 40
	bars := make([]float64, draws)
	week := make([]float64, len(have))
	for i := range bars {
		for j := range week {
			week[j] = have[r.IntN(len(have))]
		}
		slices.Sort(week)
		at := len(week) / 2
		median, tail := week[at], 0.0
		for _, p := range week[at:] {
			tail += p - median
		}
		tail /= float64(len(week) - at)
		bars[i] = median + tail*math.Log(wantedBlocks/2)
	}
	slices.Sort(bars)
	return max(leastBar, bars[draws/2], slices.Max(have))
}
