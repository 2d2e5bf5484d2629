package redistest

import (
	"testing"
	"time"
)

// Until looks again and again until ok holds, and fails the test after a minute: what
// passes has cost nothing, and a busy machine is no fault. It is for what tells nobody
// when it changes; what has a channel or a notice is waited for by that.
func Until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	Within(tb, time.Minute, what, ok)
}

// Within is [Until] with another limit. It looks each two milliseconds at first, and
// less often, down to each 25 ms, the longer it has waited.
func Within(tb testing.TB, limit time.Duration, what string, ok func() bool) {
	tb.Helper()
	begun := time.Now()
	look := time.NewTimer(0)
	defer look.Stop()
	for <-look.C; !ok(); <-look.C {
		waited := time.Since(begun)
		if waited > limit {
			tb.Fatalf("not within %v: %s", limit, what)
		}
		look.Reset(min(max(2*time.Millisecond, waited/16), 25*time.Millisecond))
	}
}
