package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

var tenantSaveScript = script("tenant_save")

const (
	settingsEvery  = 400 * time.Millisecond // is asked what operators have set
	settingsSettle = 5 * time.Second        // after which every process knows of it, or Redis is away
	versionField   = "\t"                   // of the hash of settings
)

// Settings are what operators have set of tenants, as a process knows them: within a second of
// it. While Redis does not answer they stay as they were read last, and nobody has any before
// the first time.
type Settings struct {
	rdb     redis.UniversalClient
	keys    keys
	mu      sync.RWMutex
	begun   int64 // reads, in their order
	latest  int64 // of those, the one that what stands here is at least as new as
	version string
	of      map[string]tasks.TenantSettings
}

// NewSettings returns settings that [Settings.Run] keeps up to date. prefix is as of Config.
func NewSettings(rdb redis.UniversalClient, prefix string) *Settings {
	return &Settings{rdb: rdb, keys: newKeys(prefix)}
}

// Of is what an operator has set of a tenant.
func (s *Settings) Of(tenant string) tasks.TenantSettings {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.of[tenant]
}

// Run reads them until ctx ends.
func (s *Settings) Run(ctx context.Context) error {
	every := time.NewTicker(settingsEvery)
	defer every.Stop()
	for {
		_ = s.Refresh(ctx) // what was read before stands
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
	}
}

// Refresh reads them now, where they have changed. What was set before it began stands when it returns without an
// error: a slower read that began earlier puts nothing back.
func (s *Settings) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s.mu.Lock()
	s.begun++
	turn := s.begun
	s.mu.Unlock()
	version, err := s.rdb.HGet(ctx, s.keys.settings(), versionField).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("read the settings of tenants: %w", redisError(err))
	}
	s.mu.Lock()
	known := version == s.version
	if known {
		s.latest = max(s.latest, turn)
	}
	s.mu.Unlock()
	if known {
		return nil
	}
	all, err := s.rdb.HGetAll(ctx, s.keys.settings()).Result()
	if err != nil {
		return fmt.Errorf("read the settings of tenants: %w", redisError(err))
	}
	of := make(map[string]tasks.TenantSettings, len(all))
	for name, text := range all {
		if set, err := unpackSettings(text); name != versionField && err == nil {
			of[name] = set
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if turn > s.latest {
		s.latest, s.version, s.of = turn, all[versionField], of
	}
	return nil
}

// unpackSettings reads settings as they are kept. What a later release has set besides is not known.
func unpackSettings(text string) (set tasks.TenantSettings, err error) {
	if text != "" {
		err = json.Unmarshal([]byte(text), &set)
	}
	return set, err
}

// TenantSettings reads what an operator has set of a tenant; ok: something is.
func (s *Store) TenantSettings(ctx context.Context, tenant string) (set tasks.TenantSettings, ok bool, err error) {
	text, err := s.settingsText(ctx, tenant)
	if err == nil {
		set, err = unpackSettings(text)
	}
	return set, text != "", err
}

func (s *Store) settingsText(ctx context.Context, tenant string) (string, error) {
	text, err := s.rdb.HGet(ctx, s.keys.settings(), tenant).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("read the settings of %s: %w", tenant, redisError(err))
	}
	return text, nil
}

// SetTenant replaces what an operator has set of a tenant, and notes it with what stood there
// before: the order of work goes by it from now on, and every process within a second. weight
// and places are those that the tenant has then, the configuration's where they are not set. The act's
// reason is written here.
func (s *Store) SetTenant(ctx context.Context, tenant string, set tasks.TenantSettings, weight int64, places tasks.Places, act tasks.Act) error {
	text := encode(set)
	if text == "{}" {
		text = ""
	}
	for range 8 { // another operator may be faster
		was, err := s.settingsText(ctx, tenant)
		if err != nil {
			return err
		}
		before, err := unpackSettings(was)
		if err != nil {
			return fmt.Errorf("read the settings of %s: %w", tenant, err)
		}
		act.Reason = before.String() + " → " + set.String()
		a := args{
			"tenant": tenant, "was": was, "set": text, "weight": orderSays(weight, places), "settle": settingsSettle.Milliseconds(),
			"act": actLine(act), "acts": maxActs, "old": oldestAct(act),
		}
		var word string
		err = Sure(ctx, tenant, func(ctx context.Context) (err error) {
			word, err = s.run(ctx, tenantSaveScript, a).Text()
			return err
		})
		if err != nil {
			return fmt.Errorf("set tenant %s: %w", tenant, err)
		}
		if word != "changed" {
			return moveError(word)
		}
	}
	return fmt.Errorf("set tenant %s: %w", tenant, tasks.ErrConflict)
}

// KnownTenants returns the tenants that are known, by name: those that have or had jobs, those of
// which an operator has set something, and the names that are given.
func (s *Store) KnownTenants(ctx context.Context, named []string, after string, limit int) (tasks.TenantPage, error) {
	var jobs *redis.StringSliceCmd
	var set *redis.MapStringStringCmd
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		jobs, set = p.HKeys(ctx, s.keys.waiting()), p.HGetAll(ctx, s.keys.settings())
		return nil
	})
	if err != nil {
		return tasks.TenantPage{}, fmt.Errorf("list tenants: %w", redisError(err))
	}
	of := map[string]tasks.TenantSettings{}
	for _, name := range slices.Concat(named, jobs.Val(), slices.Collect(maps.Keys(set.Val()))) {
		if !strings.HasPrefix(name, versionField) {
			of[name], _ = unpackSettings(set.Val()[name]) // of a later release: as far as it is known
		}
	}
	all := make([]tasks.Tenant, 0, len(of))
	for name, settings := range of {
		all = append(all, tasks.Tenant{Name: name, Settings: settings})
	}
	return tasks.PageTenants(all, after, limit), nil
}
