package redistest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
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

func TestHoldingLooksIntoEveryType(t *testing.T) {
	ctx := t.Context()
	rdb := redistest.New(t)
	const text = "canary"
	long := strings.Repeat(text, 100) // which a dump would compress
	for key, write := range map[string]func(key string) error{
		"string": func(key string) error { return rdb.Set(ctx, key, long, 0).Err() },
		"field":  func(key string) error { return rdb.HSet(ctx, key, text, 1).Err() },
		"hash":   func(key string) error { return rdb.HSet(ctx, key, "f", long).Err() },
		"list":   func(key string) error { return rdb.RPush(ctx, key, long).Err() },
		"set":    func(key string) error { return rdb.SAdd(ctx, key, long).Err() },
		"zset":   func(key string) error { return rdb.ZAdd(ctx, key, redis.Z{Member: long}).Err() },
		text:     func(key string) error { return rdb.Set(ctx, key, 1, 0).Err() },
		"other":  func(string) error { return rdb.Set(ctx, "other", "sparrow", 0).Err() },
	} {
		if err := write(key); err != nil {
			t.Fatal(err)
		}
	}
	got := redistest.Holding(t, rdb, text)
	slices.Sort(got)
	if want := []string{"canary", "field", "hash", "list", "set", "string", "zset"}; !slices.Equal(got, want) {
		t.Errorf("%q hold it, want %q", got, want)
	}
}
