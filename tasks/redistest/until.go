package redistest

import (
	"testing"
	"time"
)

// Until looks every two milliseconds until ok holds, and fails the test after
// 20 seconds. It is for what tells nobody when it changes; what has a channel
// or a notice is waited for by that.
func Until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick, late := time.NewTicker(2*time.Millisecond), time.NewTimer(20*time.Second)
	defer tick.Stop()
	defer late.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			tb.Fatalf("not within 20 s: %s", what)
		}
	}
}
