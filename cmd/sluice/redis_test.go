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
