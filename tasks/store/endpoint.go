package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

const (
	maxEndpoints = 50             // of a tenant
	oldKeysKept  = 24 * time.Hour // after a rotation both sign
)

var testEventScript = script("endpoint_test", "webhook")

var (
	endpointSaveScript   = script("endpoint_save", "webhook")
	endpointDeleteScript = script("endpoint_delete", "webhook")
	keysRotateScript     = script("keys_rotate")
)

// CreateEndpoint keeps a new endpoint with its keys. A tenant with 50 gets a QuotaError.
func (s *Store) CreateEndpoint(ctx context.Context, e tasks.Endpoint) (tasks.Endpoint, error) {
	word, err := s.run(ctx, endpointSaveScript, e.Tenant, e.ID, "1", maxEndpoints, "",
		"u", e.URL, "ev", joinEvents(e.Events), "ir", flag(e.IncludeResult), "mx", e.MaxPerSecond, "sg", e.Signature, "fm", flag(e.OpenAI), "k", e.Keys.Secret, "a", e.Keys.Private).Text()
	if err != nil {
		return tasks.Endpoint{}, fmt.Errorf("create endpoint %s: %w", e.ID, err)
	}
	if word == "full" {
		return tasks.Endpoint{}, &tasks.QuotaError{Quota: "webhook_endpoints", Limit: maxEndpoints, RetryAfter: time.Minute}
	}
	if err := moveError(word); err != nil {
		return tasks.Endpoint{}, err
	}
	return s.Endpoint(ctx, e.Tenant, e.ID)
}

// ChangeEndpoint changes a tenant's endpoint. Enabled again, it starts afresh.
func (s *Store) ChangeEndpoint(ctx context.Context, tenant, id string, c tasks.EndpointChange) (tasks.Endpoint, error) {
	disabled := ""
	if c.Disabled != nil {
		disabled = "0"
		if *c.Disabled {
			disabled = "1"
		}
	}
	args := []any{tenant, id, "", maxEndpoints, disabled}
	if c.URL != nil {
		args = append(args, "u", *c.URL)
	}
	if c.Events != nil {
		args = append(args, "ev", joinEvents(c.Events))
	}
	if c.IncludeResult != nil {
		args = append(args, "ir", flag(*c.IncludeResult))
	}
	if c.MaxPerSecond != nil {
		args = append(args, "mx", *c.MaxPerSecond)
	}
	word, err := s.run(ctx, endpointSaveScript, args...).Text()
	if err != nil {
		return tasks.Endpoint{}, fmt.Errorf("change endpoint %s: %w", id, err)
	}
	if err := moveError(word); err != nil {
		return tasks.Endpoint{}, err
	}
	return s.Endpoint(ctx, tenant, id)
}

// DeleteEndpoint forgets an endpoint and what it was sent; what was not
// delivered yet is listed as exhausted. It may be called again after an error.
func (s *Store) DeleteEndpoint(ctx context.Context, tenant, id string) error {
	for {
		word, err := s.run(ctx, endpointDeleteScript, tenant, id, sweepMost).Text()
		if err != nil {
			return fmt.Errorf("delete endpoint %s: %w", id, err)
		}
		if word != "more" {
			return moveError(word)
		}
	}
}

// Endpoint returns a tenant's endpoint; another's is ErrNotFound.
func (s *Store) Endpoint(ctx context.Context, tenant, id string) (tasks.Endpoint, error) {
	h, err := s.rdb.HGetAll(ctx, s.keys.endpoint(id)).Result()
	if err != nil {
		return tasks.Endpoint{}, fmt.Errorf("read endpoint %s: %w", id, redisError(err))
	}
	if h["t"] != tenant {
		return tasks.Endpoint{}, tasks.ErrNotFound
	}
	return unpackEndpoint(id, h), nil
}

// Endpoints returns all of a tenant's endpoints, newest first.
func (s *Store) Endpoints(ctx context.Context, tenant string) ([]tasks.Endpoint, error) {
	ids, err := s.rdb.ZRevRangeByLex(ctx, s.keys.endpoints(tenant), &redis.ZRangeBy{Min: "-", Max: "+"}).Result()
	if err != nil {
		return nil, fmt.Errorf("list endpoints: %w", redisError(err))
	}
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = s.keys.endpoint(id)
	}
	records, err := s.hashes(ctx, keys)
	if err != nil {
		return nil, fmt.Errorf("list endpoints: %w", redisError(err))
	}
	var out []tasks.Endpoint
	for i, h := range records {
		if h["t"] == tenant {
			out = append(out, unpackEndpoint(ids[i], h))
		}
	}
	return out, nil
}

// RotateKeys replaces an endpoint's keys, or with no endpoint the tenant's own.
// The old ones sign too for 24 h.
func (s *Store) RotateKeys(ctx context.Context, tenant, endpoint string, k tasks.SigningKeys) error {
	return s.setKeys(ctx, tenant, endpoint, k, false)
}

func (s *Store) setKeys(ctx context.Context, tenant, endpoint string, k tasks.SigningKeys, keep bool) error {
	word, err := s.run(ctx, keysRotateScript, tenant, endpoint, k.Secret, k.Private, oldKeysKept.Milliseconds(), flag(keep)).Text()
	if err != nil {
		return fmt.Errorf("change signing keys: %w", err)
	}
	return moveError(word)
}

// TenantKeys returns the keys that sign for jobs' own URLs; the first call makes them.
func (s *Store) TenantKeys(ctx context.Context, tenant string) (tasks.SigningKeys, error) {
	for range 2 {
		h, err := s.rdb.HGetAll(ctx, s.keys.secrets(tenant)).Result()
		if err != nil {
			return tasks.SigningKeys{}, fmt.Errorf("read signing keys: %w", redisError(err))
		}
		if len(h) > 0 {
			return keysOf(h), nil
		}
		if s.newSecret == nil {
			break
		}
		if err := s.setKeys(ctx, tenant, "", tasks.SigningKeys{Secret: s.newSecret()}, true); err != nil {
			return tasks.SigningKeys{}, err
		}
	}
	return tasks.SigningKeys{}, tasks.ErrNotFound
}

// TestEndpoint writes a delivery of an event that only its owner asked for.
// ErrConflict: the endpoint is disabled.
func (s *Store) TestEndpoint(ctx context.Context, tenant, endpoint string) (tasks.Delivery, error) {
	reply, err := s.run(ctx, testEventScript, tenant, endpoint, s.ttl.Milliseconds(), NewID("evt")).StringSlice()
	if err != nil {
		return tasks.Delivery{}, fmt.Errorf("test endpoint %s: %w", endpoint, err)
	}
	if err := moveError(reply[0]); err != nil {
		return tasks.Delivery{}, err
	}
	return s.Delivery(ctx, tenant, reply[1])
}

func keysOf(h map[string]string) tasks.SigningKeys {
	return tasks.SigningKeys{Secret: h["k"], Private: h["a"], OldSecret: h["k2"], OldPrivate: h["a2"], OldUntil: fromMilli(atoi(h["x2"]))}
}

func unpackEndpoint(id string, h map[string]string) tasks.Endpoint {
	return tasks.Endpoint{
		ID: id, Tenant: h["t"], URL: h["u"], Events: strings.Split(strings.Trim(h["ev"], ","), ","), IncludeResult: h["ir"] != "", MaxPerSecond: int(atoi(h["mx"])),
		Signature: h["sg"], OpenAI: h["fm"] != "", CreatedAt: fromMilli(atoi(h["ct"])), DisabledAt: fromMilli(atoi(h["dis"])), DisabledReason: h["why"],
		FailingSince: fromMilli(atoi(h["bad"])), Keys: keysOf(h),
	}
}
