package pause

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
)

// Name is where a pool's breaker stands.
type Name string

// The states of a breaker.
const (
	Closed    Name = "closed"     // calls flow at full pace
	Open      Name = "open"       // no calls; the provider is probed, or an operator awaited
	HalfOpen  Name = "half_open"  // a probe succeeded; the queue is still paused, jobs in hand go on at a tenth of the pace
	SlowStart Name = "slow_start" // calls flow again, at less than full pace
)

// Cause is why a breaker opened.
type Cause string

// The causes, from the one that heals by itself to the one that never does.
const (
	Overload     Cause = "overload"     // too many calls failed: overload, 5xx, timeouts, no connection
	Misfit       Cause = "misfit"       // the address has never worked: not the provider's, or not as it is configured
	SpendCap     Cause = "spend"        // the provider's or the customer's spend cap
	BadAuthority Cause = "unauthorized" // the key was refused
)

var causes = []Cause{Overload, Misfit, SpendCap, BadAuthority}

// Who holds a pool.
const (
	ByOperator = "operator"
	ByBreaker  = "breaker"
	ByMemory   = "memory"
)

// State is what is known of a pool. A zero time means unknown or none; times
// are Redis's, to the millisecond.
type State struct {
	Name   Name  // the breaker alone, whatever an operator did
	Cause  Cause // why the breaker is not closed; "" when it is
	Paused bool  // by any
	// PausedBy is [ByOperator] when an operator paused the pool, even if the breaker is open
	// too; else [ByBreaker]; else [ByMemory] while Redis is nearly full, or "".
	PausedBy string
	By       string    // the operator
	Reason   string    // the operator's words, what tripped the breaker, or that Redis is full
	Since    time.Time // when the pause began, or ended
	// ExpectedResumeAt is when calls are expected to flow again: the time that the provider
	// stated, or of an outage a forecast from how long those before it lasted; nine of
	// ten end by ResumeBy; or the end of an operator's pause. Zero while nobody can tell, or
	// only an operator, or Redis.
	ExpectedResumeAt, ResumeBy time.Time
	// NextProbeAt is when the provider is asked next whether it can serve again; zero
	// while it is not to be asked.
	NextProbeAt time.Time
	Tries       int      // failed probes of this outage
	Pace        float64  // of the allowance, as the breaker wants it: 0 to 1
	Detail      string   // of Reason, for operators alone: hosts and targets
	Models      []string // that are held back: they fail while others do not
	// Held: the pause is over, and the gate is not yet let go. A worker does so within a
	// second, whatever else held the gate meanwhile.
	Held bool
	AsOf time.Time
}

// snapshot is the hash in Redis at one moment.
type snapshot struct {
	now int64 // ms, as are all times here
	h   map[string]string
}

// parse reads the answer that every script gives.
func parse(flat []any) (int64, snapshot, error) {
	if len(flat) < 2 || len(flat)%2 != 0 {
		return 0, snapshot{}, fmt.Errorf("script answered %d values", len(flat))
	}
	result, ok := flat[0].(int64)
	if !ok {
		return 0, snapshot{}, fmt.Errorf("script answered %T first", flat[0])
	}
	text := make([]string, 0, len(flat)-1)
	for _, v := range flat[1:] {
		s, ok := v.(string)
		if !ok {
			return 0, snapshot{}, fmt.Errorf("script answered a %T", v)
		}
		text = append(text, s)
	}
	now, err := strconv.ParseInt(text[0], 10, 64)
	if err != nil {
		return 0, snapshot{}, errors.New("script answered no time")
	}
	s := snapshot{now: now, h: make(map[string]string, len(text)/2)}
	for i := 1; i+1 < len(text); i += 2 {
		s.h[text[i]] = text[i+1]
	}
	return result, s, nil
}

// int reads a number that only our scripts write; what is missing is 0.
func (s snapshot) int(field string) int64 {
	n, err := strconv.ParseInt(s.h[field], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (s snapshot) time(field string) time.Time {
	if ms := s.int(field); ms > 0 {
		return time.UnixMilli(ms).UTC()
	}
	return time.Time{}
}

func (s snapshot) operator() bool { return s.h["op"] == "1" }

// lapsed reports whether the time of an operator's pause is over, which has to be ended.
func (s snapshot) lapsed() bool {
	until := s.int("op_until")
	return s.operator() && until > 0 && s.now >= until
}

// crowded reports whether Redis is nearly full.
func (s snapshot) crowded() bool { return s.h["mem"] == "1" }

func (s snapshot) broken() bool {
	return s.h["state"] == string(Open) || s.h["state"] == string(HalfOpen)
}

// paused reports whether the queue is to be paused.
func (s snapshot) paused() bool { return s.operator() || s.crowded() || s.broken() }

// owned reports whether a pause of the queue, if there is one, is ours.
func (s snapshot) owned() bool { return s.h["own"] == "1" }

// held reports whether the gate has still to be let go.
func (s snapshot) held() bool { return s.h["held"] == "1" }

// name is the breaker's state, with the slow start told from the closed one.
func (s snapshot) name() Name {
	if s.broken() {
		return Name(s.h["state"])
	}
	if at := s.int("ramp_at"); !s.paused() && at > 0 && s.now-at < slowStart.Milliseconds() {
		return SlowStart
	}
	return Closed
}

// pace is the share of the allowance at this moment. It depends on the time
// alone, so that whoever applies it, however late, applies the right one.
func (s snapshot) pace() float64 {
	switch {
	case s.operator() || s.crowded() || s.h["state"] == string(Open):
		return 0
	case s.broken():
		return halfOpenPace
	case s.name() != SlowStart:
		return 1
	}
	doublings := float64(s.now-s.int("ramp_at")) / float64(doubling.Milliseconds())
	return min(1, resumePace*math.Exp2(max(0, doublings)))
}

// crowdedReason is told to everybody: what is wrong, and what makes room.
const crowdedReason = "redis is nearly full: the pool goes on when results have expired or were deleted, or maxmemory is raised"

func (s snapshot) state() State {
	st := State{
		Name: s.name(), Paused: s.paused(), Since: s.time("flip_at"),
		Pace: s.pace(), AsOf: time.UnixMilli(s.now).UTC(), Models: slices.Sorted(maps.Keys(s.sick())),
		Held: s.held() && !s.paused(),
	}
	if s.crowded() {
		st.PausedBy, st.Reason = ByMemory, crowdedReason
	}
	if s.broken() {
		st.Cause = Cause(s.h["cause"])
		st.PausedBy = ByBreaker
		st.Reason, st.Detail = s.h["why"], s.h["detail"]
		st.Tries = int(s.int("tries"))
		st.NextProbeAt = s.time("next")
		st.ExpectedResumeAt = s.time("resume_at")
		st.ResumeBy = st.ExpectedResumeAt
		if st.Cause == Overload || st.Cause == Misfit {
			st.ExpectedResumeAt, st.ResumeBy = s.reopens()
		}
	}
	if s.operator() {
		st.PausedBy = ByOperator
		st.By, st.Reason, st.Detail = s.h["op_by"], s.h["op_why"], ""
		st.ExpectedResumeAt, st.NextProbeAt = s.time("op_until"), time.Time{}
		st.ResumeBy = st.ExpectedResumeAt
	}
	if at := s.time("ramp_at"); st.Name == Closed && !st.Paused && !at.IsZero() {
		st.Since = at.Add(slowStart)
	}
	return st
}

// untilProbe returns how long it is until a process with this fingerprint may
// ask for the probe's lease, and false when there is nothing to probe.
func (s snapshot) untilProbe(fingerprint string) (time.Duration, bool) {
	next := s.int("next")
	if !s.broken() || s.operator() || next == 0 {
		return 0, false
	}
	if only := s.h["probe_fp"]; only != "" && only != fingerprint {
		return 0, false
	}
	return time.Duration(max(0, max(next, s.int("lease_until"))-s.now)) * time.Millisecond, true
}

// ill is a model that is held back.
type ill struct {
	Since, Next float64 // ms
	Asked       float64 // ms, since when it is being tried; 0 while it is not
	Tries       int
	Why         string
}

func (s snapshot) sick() map[string]ill {
	var m map[string]ill
	if text := s.h["sick"]; text != "" {
		_ = json.Unmarshal([]byte(text), &m) // only our scripts write it
	}
	return m
}

// buckets are the parts of a window, as lib.lua has them; record.lua counts in them.
const buckets = 10

// success is the share of the calls of the latest window with any that went well, and how many
// calls those are: 0 since the breaker opened or closed, until the next.
func (s snapshot) success() (share float64, calls int64) {
	var newest, well int64
	var seen [buckets][3]int64 // number, well, ill
	for i := range seen {
		var b [3]int64
		if n, _ := fmt.Sscanf(s.h["b"+strconv.Itoa(i)], "%d:%d:%d", &b[0], &b[1], &b[2]); n == len(b) {
			seen[i], newest = b, max(newest, b[0])
		}
	}
	for _, b := range seen {
		if b[0] > newest-buckets {
			well, calls = well+b[1], calls+b[1]+b[2]
		}
	}
	if calls > 0 {
		share = float64(well) / float64(calls)
	}
	return share, calls
}

func (s snapshot) known() []string {
	var sent map[string]float64
	if text := s.h["known"]; text != "" {
		_ = json.Unmarshal([]byte(text), &sent)
	}
	names := make([]string, 0, len(sent))
	for name := range sent {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(sent[b], sent[a]), cmp.Compare(a, b)) })
	return names
}

// same reports whether the suspicion of an earlier moment still stands.
func (s snapshot) same(as snapshot) bool {
	return s.h["sus"] != "" && s.h["sus"] == as.h["sus"] && s.h["sus_at"] == as.h["sus_at"]
}
