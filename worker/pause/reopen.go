package pause

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// usual are the lengths of outages where few have been seen: of each kind one, from a
// hiccup to an incident. Each outage that was seen takes the place of one of them.
var usual = []float64{60, 300, 15, 1800, 5} // s

// outages are the lengths of a pool's last outages, in seconds, the newest first.
func (s snapshot) outages() (lengths []float64) {
	for _, word := range strings.Fields(s.h["outages"]) {
		if ms, err := strconv.ParseFloat(word, 64); err == nil && ms >= 0 {
			lengths = append(lengths, ms/1000)
		}
	}
	return lengths
}

// reopens is when the outage under way is expected to be over, with a probability of 0.5 and
// of 0.9; zero times where there is none. A half-open breaker is nearly there.
func (s snapshot) reopens() (expected, late time.Time) {
	opened := s.time("opened_at")
	if !s.broken() || opened.IsZero() {
		return expected, late
	}
	lasts := float64(max(0, s.now-s.int("opened_at"))) / 1000
	half, most := ends(s.outages(), lasts)
	if s.h["state"] == string(HalfOpen) {
		half, most = lasts+1, max(lasts+5, most)
	}
	at := func(length float64) time.Time {
		t := opened.Add(time.Duration(length * float64(time.Second))).Truncate(time.Millisecond)
		if next := s.time("next"); s.h["state"] == string(Open) && t.Before(next) {
			return next // before it nobody looks
		}
		return t
	}
	return at(half), at(most)
}

// ends says how long an outage lasts in all that has lasted so long already, in seconds: the
// median and the 90th percentile of those before that lasted longer. One that has outlasted
// them all goes on for half as long again, or ten times as long.
func ends(before []float64, lasts float64) (half, most float64) {
	all := slices.Clone(before)
	if n := len(usual) - len(before); n > 0 {
		all = append(all, usual[:n]...)
	}
	all = slices.DeleteFunc(all, func(length float64) bool { return length <= lasts })
	if len(all) == 0 {
		return 1.5 * lasts, 10 * lasts
	}
	slices.Sort(all)
	rank := func(p float64) float64 { return all[int(math.Ceil(p*float64(len(all))))-1] }
	return rank(0.5), rank(0.9)
}
