package queue

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Server returns rdb for one Asynq server. Asynq tries every five seconds to
// subscribe to its cancelations, and leaves each subscription that Redis did not
// permit open: with this client there is one at most.
func Server(rdb redis.UniversalClient) redis.UniversalClient { return &server{UniversalClient: rdb} }

type server struct {
	redis.UniversalClient

	mu  sync.Mutex
	ear *redis.PubSub // the latest; a server has but one
}

// Subscribe ends the subscription before.
func (s *server) Subscribe(ctx context.Context, channels ...string) *redis.PubSub {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ear != nil {
		_ = s.ear.Close() // a second time is harmless
	}
	s.ear = s.UniversalClient.Subscribe(ctx, channels...)
	return s.ear
}
