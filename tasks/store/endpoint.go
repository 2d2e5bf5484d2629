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
	secrets := headerFields(e.Headers)
	secrets["u"], secrets["k"], secrets["a"] = e.URL, e.Keys.Secret, e.Keys.Private
	fields, err := s.sealFields(ctx, e.Tenant, e.ID, secrets)
	if err != nil {
		return tasks.Endpoint{}, err
	}
	fields = append(fields, "ev", joinEvents(e.Events), "ir", flag(e.IncludeResult), "mx", e.MaxPerSecond, "sg", e.Signature, "fm", flag(e.OpenAI), "ca", string(e.CA))
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
	secrets := headerFields(c.Headers)
	if c.URL != nil {
		secrets["u"] = *c.URL
	}
	fields, err := s.sealFields(ctx, tenant, id, secrets)
	if err != nil {
		return tasks.Endpoint{}, err
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
func headerFields(h tasks.Headers) map[string]string {
	fields := make(map[string]string, len(h)+3)
	for name, value := range h {
		fields[ownHeader+name] = value
	}
	return fields
}

// sealFields are fields of an endpoint that hold secrets, each and its value in turn.
func (s *Store) sealFields(ctx context.Context, tenant, endpoint string, secrets map[string]string) (fields []any, err error) {
	for field, value := range secrets {
		what := ofEndpoint
		if field == "k" || field == "a" {
			what = ofSecrets
		}
		if value, err = s.vault.sealText(ctx, tenant, value, what, endpoint, field); err != nil {
			return nil, fmt.Errorf("save endpoint %s: %w", endpoint, err)
		}
		fields = append(fields, field, value)
	}
	return fields, nil
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
	if !owns(tenant, h) {
		return tasks.Endpoint{}, tasks.ErrNotFound
	}
	return s.unpackEndpoint(ctx, id, h)
}

// Endpoints returns all of a tenant's endpoints, newest first.
func (s *Store) Endpoints(ctx context.Context, tenant string) ([]tasks.Endpoint, error) {
	ids, err := s.rdb.ZRevRangeByLex(ctx, s.keys.endpoints(tasks.TenantOf(tenant)), &redis.ZRangeBy{Min: "-", Max: "+"}).Result()
	if err != nil {
		return nil, fmt.Errorf("list endpoints: %w", redisError(err))
	}
	records, err := s.ask(ctx, s.keys.endpoint, ids)
	if err != nil {
		return nil, fmt.Errorf("list endpoints: %w", err)
	}
	var out []tasks.Endpoint
	for i, h := range records {
		if owns(tenant, h) {
			e, err := s.unpackEndpoint(ctx, ids[i], h)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
	}
	return out, nil
}

// FailingEndpoints returns the endpoints, whosever they are, to which the last attempt failed, or that are disabled for
// such failures: at most so many of each, those looked at last before others. An address that cannot be opened here is "",
// and what else an endpoint has is left out.
func (s *Store) FailingEndpoints(ctx context.Context, most int) (out []tasks.Endpoint, err error) {
	var lists [2]*redis.StringSliceCmd
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range []string{s.keys.disabledHooks(), s.keys.failing()} {
			lists[i] = p.ZRevRange(ctx, key, 0, int64(most)-1)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list failing endpoints: %w", redisError(err))
	}
	var ids []string
	for _, id := range slices.Concat(lists[0].Val(), lists[1].Val()) {
		if strings.HasPrefix(id, "whe_") && !slices.Contains(ids, id) { // others are the hosts of jobs' own addresses
			ids = append(ids, id)
		}
	}
	records, err := s.ask(ctx, s.keys.endpoint, ids)
	if err != nil {
		return nil, fmt.Errorf("list failing endpoints: %w", err)
	}
	for i, h := range records {
		if h["t"] == "" || h["dis"] == "" && h["bad"] == "" {
			continue // it was deleted, or has healed since
		}
		e := tasks.Endpoint{
			ID: ids[i], Tenant: h["t"], User: h["us"], DisabledAt: fromMilli(atoi(h["dis"])), DisabledReason: h["why"], FailingSince: fromMilli(atoi(h["bad"])),
			Events: strings.Split(strings.Trim(h["ev"], ","), ","),
		}
		if address, err := s.vault.openText(ctx, h["t"], h["u"], ofEndpoint, ids[i], "u"); err == nil {
			e.URL = address
		}
		out = append(out, e)
	}
	return out, nil
}

// RotateKeys replaces an endpoint's keys, or with no endpoint the tenant's own, and
// returns them as they are then. The old ones sign too for 24 h.
func (s *Store) RotateKeys(ctx context.Context, tenant, endpoint string, k tasks.SigningKeys) (tasks.SigningKeys, error) {
	return s.setKeys(ctx, tenant, endpoint, k, false)
}

func (s *Store) setKeys(ctx context.Context, tenant, endpoint string, k tasks.SigningKeys, keep bool) (now tasks.SigningKeys, err error) {
	key := s.keys.secrets(tasks.TenantOf(tenant))
	if endpoint != "" {
		key = s.keys.endpoint(endpoint)
	}
	secret, err := s.vault.sealText(ctx, tenant, k.Secret, ofSecrets, endpoint, "k")
	if err != nil {
		return now, fmt.Errorf("change signing keys: %w", err)
	}
	private, err := s.vault.sealText(ctx, tenant, k.Private, ofSecrets, endpoint, "a")
	if err != nil {
		return now, fmt.Errorf("change signing keys: %w", err)
	}
	err = operate(ctx, endpoint, func(ctx context.Context, op string) error {
		word, err := s.run(ctx, keysRotateScript, args{
			"op": op, "tenant": tenant, "endpoint": endpoint, "secret": secret, "private": private, "keep": oldKeysKept.Milliseconds(), "leave": keep,
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
		now, err = s.keysOf(ctx, tenant, endpoint, h)
		return err
	})
	return now, err
}

// TenantKeys returns the keys that sign for jobs' own URLs; the first call makes them.
func (s *Store) TenantKeys(ctx context.Context, tenant string) (tasks.SigningKeys, error) {
	h, err := s.rdb.HGetAll(ctx, s.keys.secrets(tasks.TenantOf(tenant))).Result()
	switch {
	case err != nil:
		return tasks.SigningKeys{}, fmt.Errorf("read signing keys: %w", redisError(err))
	case len(h) > 0:
		return s.keysOf(ctx, tenant, "", h)
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

// keysOf reads the keys of a tenant, or of an endpoint of it. The scripts move a key to the
// place of the one before, so both are sealed alike.
func (s *Store) keysOf(ctx context.Context, tenant, endpoint string, h map[string]string) (k tasks.SigningKeys, err error) {
	k.OldUntil = fromMilli(atoi(h["x2"]))
	for _, one := range []struct {
		to     *string
		at, as string
	}{{&k.Secret, "k", "k"}, {&k.Private, "a", "a"}, {&k.OldSecret, "k2", "k"}, {&k.OldPrivate, "a2", "a"}} {
		if *one.to, err = s.vault.openText(ctx, tenant, h[one.at], ofSecrets, endpoint, one.as); err != nil {
			return tasks.SigningKeys{}, fmt.Errorf("read signing keys: %w", err)
		}
	}
	return k, nil
}

func (s *Store) unpackEndpoint(ctx context.Context, id string, h map[string]string) (tasks.Endpoint, error) {
	fail := func(err error) (tasks.Endpoint, error) {
		return tasks.Endpoint{}, fmt.Errorf("read endpoint %s: %w", id, err)
	}
	own := tasks.Headers{}
	for field, value := range h {
		if name, is := strings.CutPrefix(field, ownHeader); is {
			plain, err := s.vault.openText(ctx, h["t"], value, ofEndpoint, id, field)
			if err != nil {
				return fail(err)
			}
			own[name] = plain
		}
	}
	address, err := s.vault.openText(ctx, h["t"], h["u"], ofEndpoint, id, "u")
	if err != nil {
		return fail(err)
	}
	keys, err := s.keysOf(ctx, h["t"], id, h)
	if err != nil {
		return fail(err)
	}
	return tasks.Endpoint{
		ID: id, Tenant: h["t"], User: h["us"], URL: address, Events: strings.Split(strings.Trim(h["ev"], ","), ","), IncludeResult: h["ir"] != "", MaxPerSecond: int(atoi(h["mx"])),
		Signature: h["sg"], OpenAI: h["fm"] != "", CreatedAt: fromMilli(atoi(h["ct"])), DisabledAt: fromMilli(atoi(h["dis"])), DisabledReason: h["why"],
		FailingSince: fromMilli(atoi(h["bad"])), Keys: keys, Headers: own, CA: tasks.CA(h["ca"]),
	}, nil
}

// joinEvents is the events as an endpoint's record holds them: each between commas.
func joinEvents(events []string) string {
	e := slices.Clone(events)
	slices.Sort(e)
	return "," + strings.Join(slices.Compact(e), ",") + ","
}
