package webhook_test

import (
	"io"
	"log"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quiet is a server's log that nobody reads.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// absent skips a test for want of something, and fails it in CI, where everything
// has to be.
func absent(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}
