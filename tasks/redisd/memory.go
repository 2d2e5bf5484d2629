package redisd

import (
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// memory is the in-process Redis. Its clock for expiries stands still unless
// somebody moves it, so a ticker does, once a second; a key may outlive its
// time by that much. (The library's own running clock costs a sort of all keys
// at each access.)
type memory struct {
	m    *miniredis.Miniredis
	quit chan struct{}
	wg   sync.WaitGroup
}

// startMemory listens on a loopback port, the only kind the library offers,
// behind a password that nobody else knows.
func startMemory(o *redis.Options) (*memory, error) {
	m := miniredis.NewMiniRedis()
	password := rand.Text()
	m.RequireAuth(password)
	if err := m.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("start the in-process redis: %w", err)
	}
	o.Network, o.Addr, o.Password = "tcp", m.Addr(), password
	mem := &memory{m: m, quit: make(chan struct{})}
	mem.wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-mem.quit:
				return
			case <-tick.C:
				now := time.Now()
				m.FastForward(now.Sub(last))
				last = now
			}
		}
	})
	return mem, nil
}

func (mem *memory) stop() {
	close(mem.quit)
	mem.wg.Wait()
	mem.m.Close()
}
