package main

import (
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/tasks/store"
)

// clock is Redis's clock, as this process knows it: every time that processes share is
// of that one, and a process whose own is an hour off gives the same answers as the
// others. The zero value is the process's own until Redis has said what time it is.
// Its methods may be called at once from anywhere.
type clock struct{ last atomic.Pointer[reading] }

// reading is what Redis's clock showed at a moment of this process.
type reading struct{ shown, at time.Time }

// slowReading is how long an answer may take that corrects an earlier one: Redis's
// clock was read at any moment in between.
const slowReading = 250 * time.Millisecond

// heard takes in a reading of Redis's clock that was asked for and has come at these
// times of the process; a zero one says nothing.
func (c *clock) heard(shown, asked, came time.Time) {
	took := came.Sub(asked)
	if shown.IsZero() || took > slowReading && c.last.Load() != nil {
		return
	}
	c.last.Store(&reading{shown: shown, at: asked.Add(took / 2)})
}

// Now is the time by Redis's clock. Between two readings it goes on by the process's
// monotonic clock, so that nobody who sets the wall's moves it.
func (c *clock) Now() time.Time {
	r := c.last.Load()
	if r == nil {
		return time.Now()
	}
	return r.shown.Add(time.Since(r.at))
}

// newID returns a new id of Redis's time.
func (s *service) newID(prefix string) string { return store.NewIDAt(prefix, s.clock.Now()) }
