package limit

import (
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// redisCPU is the processor time that Redis has used, in microseconds.
func redisCPU(tb testing.TB, rdb *redis.Client) float64 {
	info, err := rdb.Info(tb.Context(), "cpu").Result()
	if err != nil {
		tb.Fatal(err)
	}
	var sum float64
	for l := range strings.Lines(info) {
		k, v, _ := strings.Cut(strings.TrimSpace(l), ":")
		if k == "used_cpu_user" || k == "used_cpu_sys" {
			f, err := strconv.ParseFloat(v, 64)
			if err != nil {
				tb.Fatal(err)
			}
			sum += f * 1e6
		}
	}
	return sum
}

// What a call costs: one question and one settlement, with nothing to wait for.
func BenchmarkTakeAndSettle(b *testing.B) {
	for _, c := range []struct {
		name   string
		limits Limits
		many   bool
	}{
		{"no limits", Limits{}, false},
		{"no limits, 64 callers", Limits{}, true},
		{"none binds", Limits{RequestsPerMinute: 1e9, InputTokensPerMinute: 1e12, OutputTokensPerMinute: 1e12, RequestBurst: 1e9, Concurrency: 1000}, false},
		{"none binds, 64 callers", Limits{RequestsPerMinute: 1e9, InputTokensPerMinute: 1e12, OutputTokensPerMinute: 1e12, RequestBurst: 1e9, Concurrency: 1000}, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			rdb := redistest.New(b)
			g := newGate(b, rdb, c.limits)
			start(b, g)
			one := func() {
				grant, err := g.Take(b.Context(), Need{ID: "a", Class: "c", InputTokens: 10, MaxTokens: 20})
				if err == nil {
					err = g.Settle(b.Context(), grant, Actual{InputTokens: 3, OutputTokens: 4, Known: true})
				}
				if err != nil {
					b.Error(err)
				}
			}
			for range 100 {
				one()
			}
			before := redisCPU(b, rdb)
			b.ResetTimer()
			if c.many {
				b.SetParallelism(32)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						one()
					}
				})
			} else {
				for range b.N {
					one()
				}
			}
			b.StopTimer()
			b.ReportMetric((redisCPU(b, rdb)-before)/float64(b.N), "redis-µs/op")
		})
	}
}
