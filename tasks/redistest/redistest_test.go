package redistest_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServerKeepsItsDataOverAKill(t *testing.T) {
	ctx := t.Context()
	s := redistest.Start(t, redistest.Options{AOF: "always"})
	rdb := s.Client()
	if err := rdb.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	s.Start()
	if got, err := rdb.Get(ctx, "k").Result(); err != nil || got != "v" {
		t.Errorf("after a kill: got %q, %v; want v", got, err)
	}
}
