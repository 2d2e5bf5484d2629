package wire_test

import (
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/api/header"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// A small request takes little more memory than it has bytes: most are small, and what each
// takes has to be collected again.
func TestASmallRequestTakesLittle(t *testing.T) {
	const times = 200
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range times {
		r := httptest.NewRequest("POST", "/", strings.NewReader(`{"a":1}`))
		r.Header.Set("Content-Type", "application/json")
		if _, err := wire.Read(httptest.NewRecorder(), r, 1<<20, "application/json"); err != nil {
			t.Fatal(err)
		}
		if err := header.Provider(r.Header, &tasks.Request{}); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	// httptest's reader has 4 KiB of its own.
	if each := (after.TotalAlloc - before.TotalAlloc) / times; each > 9<<10 {
		t.Errorf("a request of seven bytes takes %d bytes", each)
	}
}
