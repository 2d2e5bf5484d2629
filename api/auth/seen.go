package auth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"sync"
	"time"
)

// mostSeen is how many tokens are known again.
const mostSeen = 1024

// seen are tokens that were good, by their digests: who sends one again and again has its
// signature checked once. What may end a token is asked each time all the same: whether the
// key is still in force, what time it is, and what the [Ledger] says.
type seen struct {
	mu sync.RWMutex
	of map[[sha256.Size]byte]*signed
}

// signed is what a token says whose signature is good. Nobody changes it.
type signed struct {
	rules      *rules
	header     header
	key        any
	claims     Claims
	from, till time.Time // when it is good, by its issuer's clock
}

func (s *seen) find(digest [sha256.Size]byte) *signed {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.of[digest]
}

// keep has a token known again. Past mostSeen any other is forgotten for it.
func (s *seen) keep(digest [sha256.Size]byte, token *signed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[[sha256.Size]byte]*signed{}
	}
	for other := range s.of {
		if len(s.of) < mostSeen {
			break
		}
		delete(s.of, other)
	}
	s.of[digest] = token
}

// stands reports whether a token is good still. Of one that is not, read says why.
func (s *signed) stands(ctx context.Context, now time.Time) bool {
	if now.Before(s.from.Add(-s.rules.leeway)) || !now.Before(s.till.Add(s.rules.leeway)) {
		return false
	}
	key, err := s.rules.key(ctx, s.header)
	return err == nil && sameKey(key, s.key)
}

func sameKey(a, b any) bool {
	if secret, ok := a.([]byte); ok {
		other, ok := b.([]byte)
		return ok && bytes.Equal(secret, other)
	}
	public, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(b)
}
