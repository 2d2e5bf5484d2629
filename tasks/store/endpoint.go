package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

const (
	maxEndpoints = 50             // of a tenant
	oldKeysKept  = 24 * time.Hour // after a rotation both sign
)

var testEventScript = script("endpoint_test")

var (
	endpointSaveScript   = script("endpoint_save")
	endpointDeleteScript = script("endpoint_delete")
	keysRotateScript     = script("keys_rotate")
)

// CreateEndpoint keeps a new endpoint with its keys. A tenant with 50 gets a QuotaError.
func (s *Store) CreateEndpoint(ctx context.Context, e tasks.Endpoint) (tasks.Endpoint, error) {
	fields := append(headerFields(e.Headers),
		"u", e.URL, "ev", joinEvents(e.Events), "ir", flag(e.IncludeResult), "mx", e.MaxPerSecond, "sg", e.Signature, "fm", flag(e.OpenAI), "ca", string(e.CA), "k", e.Keys.Secret, "a", e.Keys.Private)
	return s.saveEndpoint(ctx, e.Tenant, e.ID, true, "", false, fields...)
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
	fields := headerFields(c.Headers)
	if c.URL != nil {
		fields = append(fields, "u", *c.URL)
	}
	if c.Events != nil {
		fields = append(fields, "ev", joinEvents(c.Events))
	}
	if c.CA != nil {
		fields = append(fields, "ca", string(*c.CA))
	}
	if c.IncludeResult != nil {
		fields = append(fields, "ir", flag(*c.IncludeResult))
	}
	if c.MaxPerSecond != nil {
		fields = append(fields, "mx", *c.MaxPerSecond)
	}
	return s.saveEndpoint(ctx, tenant, id, false, disabled, c.Headers != nil, fields...)
}

// ownHeader begins the field of an endpoint's own header; its name follows.
const ownHeader = "h:"

// headerFields are the fields of an endpoint's own headers, one each, with their values.
func headerFields(h tasks.Headers) (fields []any) {
	for name, value := range h {
		fields = append(fields, ownHeader+name, value)
	}
	return fields
}

// saveEndpoint makes or changes an endpoint, disables it ("1"), enables it ("0") or
// neither (""), without the headers that it had if bare is set, and returns it as it is then.
func (s *Store) saveEndpoint(ctx context.Context, tenant, id string, create bool, disabled string, bare bool, fields ...any) (e tasks.Endpoint, err error) {
	err = operate(ctx, id, func(ctx context.Context, op string) error {
		word, err := s.run(ctx, endpointSaveScript, args{
			"op": op, "tenant": tenant, "endpoint": id, "make": create, "most": maxEndpoints, "disabled": disabled, "bare": bare,
		}, fields...).Text()
		if err != nil {
			return fmt.Errorf("save endpoint %s: %w", id, err)
		}
		if word == "full" {
			return &tasks.QuotaError{Quota: "webhook_endpoints", Limit: maxEndpoints, RetryAfter: time.Minute}
		}
		if err := moveError(word); err != nil {
			return err
		}
		e, err = s.Endpoint(ctx, tenant, id)
		return err
	})
	return e, err
}

// DeleteEndpoint forgets an endpoint and what it was sent; what was not
// delivered yet is listed as exhausted. It may be called again after an error.
func (s *Store) DeleteEndpoint(ctx context.Context, tenant, id string) error {
	return operate(ctx, id, func(ctx context.Context, op string) error {
		for {
			word, err := s.run(ctx, endpointDeleteScript, args{"op": op, "tenant": tenant, "endpoint": id, "most": hooksMost}).Text()
			if err != nil {
				return fmt.Errorf("delete endpoint %s: %w", id, err)
			}
			if word != "more" {
				return moveError(word)
			}
		}
	})
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
	records, err := s.ask(ctx, s.keys.endpoint, ids)
	if err != nil {
		return nil, fmt.Errorf("list endpoints: %w", err)
	}
	var out []tasks.Endpoint
	for i, h := range records {
		if h["t"] == tenant {
			out = append(out, unpackEndpoint(ids[i], h))
		}
	}
	return out, nil
}

// RotateKeys replaces an endpoint's keys, or with no endpoint the tenant's own, and
// returns them as they are then. The old ones sign too for 24 h.
func (s *Store) RotateKeys(ctx context.Context, tenant, endpoint string, k tasks.SigningKeys) (tasks.SigningKeys, error) {
	return s.setKeys(ctx, tenant, endpoint, k, false)
}

func (s *Store) setKeys(ctx context.Context, tenant, endpoint string, k tasks.SigningKeys, keep bool) (now tasks.SigningKeys, err error) {
	key := s.keys.secrets(tenant)
	if endpoint != "" {
		key = s.keys.endpoint(endpoint)
	}
	err = operate(ctx, endpoint, func(ctx context.Context, op string) error {
		word, err := s.run(ctx, keysRotateScript, args{
			"op": op, "tenant": tenant, "endpoint": endpoint, "secret": k.Secret, "private": k.Private, "keep": oldKeysKept.Milliseconds(), "leave": keep,
		}).Text()
		if err != nil {
			return fmt.Errorf("change signing keys: %w", err)
		}
		if err := moveError(word); err != nil {
			return err
		}
		h, err := s.rdb.HGetAll(ctx, key).Result()
		if err != nil {
			return fmt.Errorf("read signing keys: %w", redisError(err))
		}
		now = keysOf(h)
		return nil
	})
	return now, err
}

// TenantKeys returns the keys that sign for jobs' own URLs; the first call makes them.
func (s *Store) TenantKeys(ctx context.Context, tenant string) (tasks.SigningKeys, error) {
	h, err := s.rdb.HGetAll(ctx, s.keys.secrets(tenant)).Result()
	switch {
	case err != nil:
		return tasks.SigningKeys{}, fmt.Errorf("read signing keys: %w", redisError(err))
	case len(h) > 0:
		return keysOf(h), nil
	case s.newSecret == nil:
		return tasks.SigningKeys{}, tasks.ErrNotFound
	}
	made, err := s.setKeys(ctx, tenant, "", tasks.SigningKeys{Secret: s.newSecret()}, true)
	return made, unseen(err) // who reads keys has asked for nothing to be done
}

// TestEndpoint writes a delivery of an event that only its owner asked for.
// ErrConflict: the endpoint is disabled.
func (s *Store) TestEndpoint(ctx context.Context, tenant, endpoint string) (d tasks.Delivery, err error) {
	event := NewID("evt")
	err = operate(ctx, endpoint, func(ctx context.Context, op string) error {
		reply, err := s.move(ctx, "test endpoint "+endpoint, testEventScript, args{"op": op, "tenant": tenant, "endpoint": endpoint, "event": event})
		if err != nil {
			return err
		}
		d, err = s.Delivery(ctx, tenant, str(reply[0]))
		return err
	})
	return d, err
}

func keysOf(h map[string]string) tasks.SigningKeys {
	return tasks.SigningKeys{Secret: h["k"], Private: h["a"], OldSecret: h["k2"], OldPrivate: h["a2"], OldUntil: fromMilli(atoi(h["x2"]))}
}

func unpackEndpoint(id string, h map[string]string) tasks.Endpoint {
	own := tasks.Headers{}
	for field, value := range h {
		if name, is := strings.CutPrefix(field, ownHeader); is {
			own[name] = value
		}
	}
	return tasks.Endpoint{
		ID: id, Tenant: h["t"], URL: h["u"], Events: strings.Split(strings.Trim(h["ev"], ","), ","), IncludeResult: h["ir"] != "", MaxPerSecond: int(atoi(h["mx"])),
		Signature: h["sg"], OpenAI: h["fm"] != "", CreatedAt: fromMilli(atoi(h["ct"])), DisabledAt: fromMilli(atoi(h["dis"])), DisabledReason: h["why"],
		FailingSince: fromMilli(atoi(h["bad"])), Keys: keysOf(h), Headers: own, CA: tasks.CA(h["ca"]),
	}
}

// joinEvents is the events as an endpoint's record holds them: each between commas.
func joinEvents(events []string) string {
	e := slices.Clone(events)
	slices.Sort(e)
	return "," + strings.Join(slices.Compact(e), ",") + ","
}
