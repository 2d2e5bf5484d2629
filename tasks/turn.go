package tasks

import (
	"context"
	"time"
)

// mostGiven is the longest pause of GiveWay: where Redis is far, most of a step is the way
// to it.
const mostGiven = 5 * time.Millisecond

// GiveWay waits three times as long as a step of much work has taken, 5 ms at most, or
// until ctx ends. Redis, which does one thing at a time, then has most of its time for
// others: who submits one job does not stand behind 100,000 lines, or behind an audit of
// a million records.
func GiveWay(ctx context.Context, took time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(min(3*took, mostGiven)):
	}
}
