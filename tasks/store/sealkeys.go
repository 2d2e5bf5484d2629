package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/seal"
)

var (
	sealKnownScript = script("seal_known")
	sealDropScript  = script("seal_drop")
)

const (
	keysLooked = 400 * time.Millisecond // after which it is asked again whether the keys in use are still there
	keysAtOnce = 1000                   // that one command asks for
	keyIdle    = 10 * time.Minute       // after which a key that nobody uses is no longer at hand
	keyNeeded  = 5 * time.Minute        // how long a master key is said to be missing for which nobody asks any more
	keysTold   = 2 * time.Second        // likewise told which master keys this process has
	keysStand  = 10 * time.Second       // how long that stands of a process that says no more
)

// TendKeys keeps the tenants' keys that are at hand true to those in Redis, within a second, and
// tells the others which master keys this process has, as whom, until ctx ends. Without
// master keys there is nothing to do.
func (s *Store) TendKeys(ctx context.Context, whom string) error {
	if s.vault.ring == nil {
		return nil
	}
	tick := time.NewTicker(keysLooked)
	defer tick.Stop()
	var told time.Time
	for {
		within, cancel := context.WithTimeout(ctx, keysTold)
		s.vault.look(within)
		if time.Since(told) > keysTold && s.TellKeys(within, whom) == nil {
			told = time.Now()
		}
		cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look asks whether the keys at hand are still there: one may have been deleted, or Redis may
// have lost it. What it does not answer is asked for again by who needs it.
func (v *vault) look(ctx context.Context) {
	for tenants := range slices.Chunk(v.inUse(), keysAtOnce) {
		at := v.now()
		ids, err := v.s.rdb.HMGet(ctx, v.s.keys.sealKeys(), tenants...).Result()
		if err != nil {
			return
		}
		v.mu.Lock()
		for i, id := range words(ids) {
			switch h := v.held[tenants[i]]; {
			case h == nil:
			case h.key.ID() == id:
				h.asked.Store(max(at, h.asked.Load()))
			case h.asked.Load() < at: // else it is another one by now
				delete(v.held, tenants[i])
			}
		}
		v.mu.Unlock()
	}
}

// inUse are the tenants whose keys are at hand; a key that nobody has used for long is not any more.
func (v *vault) inUse() (tenants []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	since := v.now() - int64(keyIdle)
	for tenant, h := range v.held {
		if h.used.Load() < since {
			delete(v.held, tenant)
		} else {
			tenants = append(tenants, tenant)
		}
	}
	return tenants
}

// TellKeys tells the others once which master keys this process has, as whom.
func (s *Store) TellKeys(ctx context.Context, whom string) error {
	if err := s.run(ctx, sealKnownScript, args{"whom": whom, "known": encode(s.vault.ring.Known()), "keep": keysStand.Milliseconds()}).Err(); err != nil {
		return fmt.Errorf("tell which master keys this process has: %w", err)
	}
	return nil
}

// masters are the master keys of the processes that have told theirs lately.
func (s *Store) masters(ctx context.Context) (map[string][]string, error) {
	var notes *redis.MapStringStringCmd
	var now *redis.TimeCmd
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		notes, now = p.HGetAll(ctx, s.keys.sealKnown()), p.Time(ctx)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask which master keys the processes have: %w", redisError(err))
	}
	of := map[string][]string{}
	for whom, note := range notes.Val() {
		at, text, _ := strings.Cut(note, " ")
		var known []string
		if now.Val().Sub(fromMilli(atoi(at))) > keysStand || json.Unmarshal([]byte(text), &known) != nil {
			continue // it has died, or is of a later release
		}
		of[whom] = known
	}
	return of, nil
}

// everybody asks which master keys all processes have that live, as far as they have said.
func (v *vault) everybody(ctx context.Context) (has func(known string) bool, err error) {
	of, err := v.s.masters(ctx)
	return func(known string) bool {
		for _, list := range of {
			if !slices.Contains(list, known) {
				return false
			}
		}
		return true
	}, err
}

// Unready are the processes that live and have not the master key that seals here, as they call
// themselves; some have another one of its name. What it wraps they could not open.
func (s *Store) Unready(ctx context.Context) (list []string, err error) {
	of, err := s.masters(ctx)
	known := s.vault.ring.Known()
	for whom, has := range of {
		if !slices.Contains(has, known[len(known)-1]) {
			list = append(list, whom)
		}
	}
	slices.Sort(list)
	return list, err
}

// ForgetKey deletes a tenant's key, after which nobody opens what it has sealed: within a second
// also in processes that have it at hand, and in copies of Redis that are older once the master
// key is gone. It is the last step of a tenant's deletion, and may be called again after an
// error. What other processes seal for that tenant within the second is lost as well; who goes
// on afterwards gets another key.
func (s *Store) ForgetKey(ctx context.Context, tenant string) error {
	return s.keyLeaves(ctx, leaver{tenant, ""})
}

// keyLeaves is ForgetKey in a deletion of the tenant, while that is not over; at "" in none.
func (s *Store) keyLeaves(ctx context.Context, l leaver) error {
	gone, err := s.run(ctx, sealDropScript, args{"tenant": l.tenant, "at": l.at}).Int64()
	switch {
	case err != nil:
		return fmt.Errorf("delete the key of a tenant: %w", err)
	case gone < 0:
		return errOver
	}
	s.vault.mu.Lock()
	delete(s.vault.held, l.tenant)
	s.vault.mu.Unlock()
	return nil
}

// rotateMost is how many tenants' keys are wrapped anew in one step, about.
const rotateMost = 100

// Rotate wraps the keys of some tenants with the current master key: those behind a cursor,
// 0 at first, and returns the next cursor, 0 when all were seen. done counts those
// that another one had wrapped; left has, by the master keys that they need, how many could
// not be wrapped anew. A key that is made meanwhile may not be seen, and one may be seen twice.
func (s *Store) Rotate(ctx context.Context, after uint64) (next uint64, done int, left map[string]int, err error) {
	left = map[string]int{}
	named, next, err := s.rdb.HScan(ctx, s.keys.sealKeys(), after, "", rotateMost).Result()
	if err != nil {
		return 0, 0, nil, fmt.Errorf("list the tenants' keys: %w", redisError(err))
	}
	var tenants []string
	for pair := range slices.Chunk(named, 2) {
		tenants = append(tenants, pair[0])
	}
	records, err := s.ask(ctx, s.keys.sealKey, tenants, "id", "m", "w")
	if err != nil {
		return 0, 0, nil, fmt.Errorf("read the keys of %d tenants: %w", len(tenants), err)
	}
	for i, h := range records {
		was := seal.Wrapped{ID: h["id"], Master: h["m"], Key: []byte(h["w"])}
		if was.ID == "" {
			continue // deleted just now
		}
		w, changed, err := s.vault.ring.Rewrap(tenants[i], was)
		switch {
		case err != nil:
			left[was.Master]++
			continue
		case !changed:
			continue
		}
		if err := s.run(ctx, sealWrapScript, args{"tenant": tenants[i], "id": w.ID, "was": was.Master, "master": w.Master}, w.Key).Err(); err != nil {
			return 0, done, left, fmt.Errorf("wrap the key of a tenant anew: %w", err)
		}
		done++
	}
	return next, done, left, nil
}

// MissingKeys are the names of master keys that were needed of late and are not listed.
func (s *Store) MissingKeys() []string {
	v := s.vault
	v.mu.Lock()
	defer v.mu.Unlock()
	var names []string
	for name, needed := range v.missing {
		if slices.Contains(v.ring.Names(), name) || s.clock().Sub(needed) > keyNeeded {
			delete(v.missing, name)
		} else {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
