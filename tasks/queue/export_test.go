package queue

import "time"

// StandStill lets a Waker see no time pass on the way to Redis.
func (w *Waker) StandStill() {
	at := time.Now()
	w.now = func() time.Time { return at }
}
