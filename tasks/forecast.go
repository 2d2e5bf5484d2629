package tasks

import "time"

// Forecast is one that was told to somebody: when a job that waits would start.
type Forecast struct {
	Job  string
	Pool string
	At   time.Time // when it was told
	// Predicted is the time from At until the start as it was worked out; Told and Late are what
	// was told of it: the start that is expected, and by when nine of ten such jobs start.
	Predicted, Told, Late time.Duration
	Class                 Class
}

// Class is a kind of forecasts that are off in the same way: so far ahead, of a pool that runs
// as it should or does not.
type Class int

// Classes is how many there are.
const Classes = 8

// ClassOf is the class of a forecast.
func ClassOf(ahead time.Duration, degraded bool) Class {
	c := Class(0)
	for _, limit := range []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute} {
		if ahead >= limit {
			c++
		}
	}
	if degraded {
		c += Classes / 2
	}
	return c
}

// Correction is what is known of how far the forecasts of a class are off: actual over
// predicted, as logarithms.
type Correction struct {
	Samples int64
	Median  float64
	Late    float64 // nine of ten are at most this
}

// Score is how right the forecasts of a pool were that were told in the last hour, for starts
// that were 1 s ahead or more: actual over told.
type Score struct {
	Samples       int64
	P10, P50, P90 float64
	Coverage      float64 // the share that started by when nine of ten were said to
	Censored      int64   // not among Samples: their jobs ended without a start
}
