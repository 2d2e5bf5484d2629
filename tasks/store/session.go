package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

// SaveSession keeps who is signed in to the console, under a name that tells nobody
// the session's id, and forgets it after ttl.
func (s *Store) SaveSession(ctx context.Context, name string, who []byte, ttl time.Duration) error {
	if err := s.rdb.Set(ctx, s.keys.session(name), who, max(ttl, time.Millisecond)).Err(); err != nil {
		return fmt.Errorf("save a session: %w", redisError(err))
	}
	return nil
}

// Session returns what SaveSession kept; tasks.ErrNotFound when it was never there,
// was ended or is over.
func (s *Store) Session(ctx context.Context, name string) ([]byte, error) {
	who, err := s.rdb.Get(ctx, s.keys.session(name)).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, fmt.Errorf("read a session: %w", tasks.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("read a session: %w", redisError(err))
	}
	return who, nil
}

// EndSession forgets a session, in every process at once. One that is not there has
// ended.
func (s *Store) EndSession(ctx context.Context, name string) error {
	if err := s.rdb.Del(ctx, s.keys.session(name)).Err(); err != nil {
		return fmt.Errorf("end a session: %w", redisError(err))
	}
	return nil
}
