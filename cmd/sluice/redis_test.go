package main

import (
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/cmd/sluice/config"
)

func TestEveryKindOfRedisHasItsClient(t *testing.T) {
	for address, is := range map[string]func(redis.UniversalClient) bool{
		"redis://h": func(c redis.UniversalClient) bool {
			o := c.(*redis.Client).Options()
			return o.Addr == "h:6379" && o.PoolSize == 3
		},
		"unix:///run/s":        func(c redis.UniversalClient) bool { return c.(*redis.Client).Options().Addr == "/run/s" },
		"redis+sentinel://h/m": func(c redis.UniversalClient) bool { return c.(*redis.Client).Options().Addr == "FailoverClient" },
		"redis+cluster://h":    func(c redis.UniversalClient) bool { return c.(*redis.ClusterClient).Options().Addrs[0] == "h:6379" },
	} {
		target, err := config.ParseRedis(address)
		if err != nil {
			t.Fatal(err)
		}
		r := &redisConn{target: target, calls: new(atomic.Int64)}
		if c := r.open(3); !is(c) {
			t.Errorf("%s: the client is %v", address, c)
		}
		if err := r.close(); err != nil {
			t.Errorf("%s: close: %v", address, err)
		}
	}
}

func TestConnectionsAreShared(t *testing.T) {
	t.Parallel()
	for most, want := range map[int64]int{20: 6, 50: 16, 200: 64, 400: 128} {
		target, err := config.ParseRedis("redis://h")
		if err != nil {
			t.Fatal(err)
		}
		r := &redisConn{target: target, most: most, calls: new(atomic.Int64)}
		all := 0
		for i, conns := range []int{64, 32, 32} { // as service opens them
			size := r.open(conns).(*redis.Client).Options().PoolSize
			if all += size; i == 0 && size != want {
				t.Errorf("of %d connections the first client has %d, want %d", most, size, want)
			}
		}
		if int64(all)+5 > most { // as many listen
			t.Errorf("of %d connections the clients have %d", most, all)
		}
		if err := r.close(); err != nil {
			t.Error(err)
		}
	}
}
