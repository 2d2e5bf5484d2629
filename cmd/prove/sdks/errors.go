package sdks

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// providerErrors has each error of the provider's come to the SDK with its status and type.
func providerErrors(ctx context.Context, t *trial) error {
	kind := func(anthropic, openai string) string {
		if t.dialect == "anthropic" {
			return anthropic
		}
		return openai
	}
	for _, e := range []struct {
		fault, pool string
		status      int
		kind        string
	}{
		{"400", "once", 400, "invalid_request_error"}, {"403", "once", 403, kind("permission_error", "invalid_request_error")},
		{"404", "once", 404, kind("not_found_error", "model_not_found")}, {"408", "once", 408, kind("timeout_error", "timeout")},
		{"409", "once", 409, "conflict_error"}, {"413", "once", 413, kind("request_too_large", "invalid_request_error")},
		{"422", "once", 422, "invalid_request_error"}, {"500", "once", 500, kind("api_error", "server_error")},
		{"502", "once", 502, kind("api_error", "server_error")}, {"503", "once", 503, kind("overloaded_error", "server_error")},
		{"504", "once", 504, kind("timeout_error", "server_error")}, {"529", "once", 529, kind("overloaded_error", "server_error")},
		{"spend", "spend", 429, kind("rate_limit_error", "insufficient_quota")},
		{"401", "401", 401, kind("authentication_error", "invalid_api_key")}, {"402", "402", 402, kind("billing_error", "billing_not_active")},
	} {
		c := t.call("")
		c.Params = t.asking("refused-"+e.pool+"-"+t.dialect, fmt.Sprintf("%s [[fault:%s]]", t.tenant, e.fault))
		t.fails(ctx, e.status, e.kind, c)
	}
	return nil
}

// ownErrors has each error of ours come to the SDK with its status and type.
func ownErrors(ctx context.Context, t *trial) error {
	kind := func(anthropic, openai string) string {
		if t.dialect == "anthropic" {
			return anthropic
		}
		return openai
	}
	with := func(key string) command {
		c := t.call("an error")
		c.Key = key
		return c
	}
	for _, key := range []string{"nonsense", "sk-ant-api03-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "sk-proj-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"} {
		t.fails(ctx, 401, kind("authentication_error", "invalid_api_key"), with(key))
	}
	reader, err := auth.Mint(auth.MintConfig{Secret: []byte(rig.Secret), Issuer: "sluice", Audience: "sluice", Subject: "proof", Tenant: t.tenant, Scopes: []string{auth.ScopeJobsRead}})
	if err != nil {
		return err
	}
	t.fails(ctx, 403, kind("permission_error", "invalid_request_error"), with(reader))
	c := t.call("x")
	c.Params = t.asking("nobody", "x")
	t.fails(ctx, 404, kind("not_found_error", "model_not_found"), c)
	c.Params = t.asking(map[string]string{"anthropic": "gpt-4o", "openai": "claude-x"}[t.dialect], "x")
	t.fails(ctx, 404, kind("not_found_error", "model_not_found"), c)
	c.Params = t.asking("claude-x", strings.Repeat("x", 34<<20))
	t.fails(ctx, 413, kind("request_too_large", "invalid_request_error"), c)
	c = t.call("x")
	c.Headers = map[string]string{"sluice-priority": "urgent"}
	t.fails(ctx, 400, "invalid_request_error", c)
	small, err := rig.TokenOf("small")
	if err != nil {
		return err
	}
	none, first := 0, with(small)
	first.Retries = &none
	_ = t.do(ctx, first, nil) // it may be the one that there is room for
	t.fails(ctx, 429, kind("rate_limit_error", "rate_limit_exceeded"), with(small))
	c = t.call("never in time [[latency:20s]]")
	c.Headers = map[string]string{"sluice-deadline": time.Now().Add(time.Second).UTC().Format(time.RFC3339Nano)}
	t.fails(ctx, 504, kind("timeout_error", "timeout"), c)
	return nil
}

// timeouts has the SDK's patience end before the answer comes: by its own retries it
// has the answer of the first call.
func timeouts(ctx context.Context, t *trial) error {
	var g errgroup.Group
	prompts := make([]string, 3)
	for i := range prompts {
		prompts[i] = fmt.Sprintf("%s %d [[latency:3s]]", t.tenant, i)
		g.Go(func() error {
			c := t.call(prompts[i])
			c.Timeout = 4500
			return t.do(ctx, c, nil)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, p := range prompts {
		t.called(1, p)
	}
	return nil
}
