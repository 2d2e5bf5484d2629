package config

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// load reads a configuration from text.
func load(t *testing.T, file string, environ ...string) (*Config, Faults) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path, append([]string{"HOME=/home/op"}, environ...))
}

func mustLoad(t *testing.T, file string, environ ...string) *Config {
	t.Helper()
	c, faults := load(t, file, environ...)
	if len(faults) > 0 {
		t.Fatalf("faults: %v", faults)
	}
	return c
}

const contractFile = `
listen: 127.0.0.1:8080
ops_listen: 127.0.0.1:9090
public_url: http://127.0.0.1:8080/
trusted_proxies: ["10.0.0.0/8"]
ops_hosts: [sluice-api]
caps: {connections: 10000, requests: 10000, streams: 10000, uploads: 256, body_bytes: 100663296, failed_tokens: 120, tenant: {requests: 1500, streams: 1000, uploads: 32}}
max_wait: 50s
drain_delay: 5s
cors: {allow_origins: []}
redis:
  url: redis://127.0.0.1:6379/0
  prefix: sluice
  allow_eviction: false
  password_file: ""
  ca_file: ""
  cert_file: ""
  key_file: ""
  max_connections: 200
  max_memory: 0
auth:
  issuer: sluice
  audience: sluice
  max_lifetime: 24h
  users: shared
  hmac_secret: 0123456789abcdef0123456789abcdef
  issuers:
    - issuer: https://login.example/
      audiences: [sluice]
      discovery: true
      claims: {tenant: org_id, scope: permissions, sub: sub}
      scopes: {"prompts.write": "jobs:write jobs:read"}
      leeway: 60s
providers:
  anthropic: {dialect: anthropic, base_url: https://api.anthropic.com, api_key: sk-1, stream: true, stream_options: true, token_limit: max_tokens, ca_file: "", forward_headers: [], egress: [direct, "http://proxy-1:3128", "socks5://proxy-2:1080"], trace_context: false, user_hash: false}
pools:
  claude:
    provider: anthropic
    accounts: []
    models: ["claude-*"]
    limits: {requests_per_minute: 1000, input_tokens_per_minute: 2000000, output_tokens_per_minute: 400000, request_burst: 10, concurrency: 64}
    timeout: 10m
    max_attempts: 5
    breaker: {window: 10s, min_calls: 20, failure_ratio: 0.5, probe_interval: 5s}
    lanes: {high: 60, normal: 30, low: 10}
    fallback_models: [claude-haiku-4-5]
    cache: {ttl: 0s}
    share_in_flight: true
    native_batch: true
    batches: {min_room: 1h, max_jobs: 2000, max_bytes: 33554432, max_age: 1m, poll_interval: 1m, spill_before: 30m}
tenants:
  default: {weight: 1, submits_per_minute: 600, resends_per_minute: 600, queued_jobs: 100000, queued_bytes: 0, running_jobs: 0, tokens_per_day: 0, cost_per_day: 0, high_priority: true, users: {submits_per_minute: 0, queued_jobs: 0, running_jobs: 0, tokens_per_day: 0, cost_per_day: 0}}
abuse: {mode: shadow, window: 60s, learn: 168h}
results: {ttl: 168h, max_bytes: 8388608}
prices: {"claude-sonnet-4.5*": {input: 3.00, output: 15, cache_read: 0.30, cache_write: 3.75, cache_write_1h: 6, batch: 0.5, flex: 0.5, priority: 1.25, from: 2026-10-01, until: 2027-01-01}}
bodies: {url: "s3://prompts/sluice?region=eu-central-1", above: 16384, access_key: AKIA, secret_key: hunter2-the-third, session_token: hunter2-the-fourth}
seal: {off: false, keys: {"2026-10": "MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE=", "2026-11": "MjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjI="}}
data_dir: /var/lib/sluice
webhooks: {allow_http: false, allow_private: false, allow_hosts: [], ca_file: "", headers: {X-Team: hunter2-the-second}, deny_networks: []}
`

func TestFileWithEveryKey(t *testing.T) {
	c := mustLoad(t, contractFile)
	if c.PublicURL != "http://127.0.0.1:8080" || c.DataDir != "/var/lib/sluice" || c.Redis.URL != "redis://127.0.0.1:6379/0" {
		t.Errorf("got %+v", c)
	}
	want := Pool{
		Name: "claude", Provider: "anthropic", Models: []string{"claude-*"}, Timeout: 10 * time.Minute, MaxAttempts: 5,
		Limits:  Limits{1000, 2_000_000, 400_000, 10, 64},
		Breaker: Breaker{10 * time.Second, 20, 0.5, 5 * time.Second},
		Lanes:   Lanes{60, 30, 10},
	}
	got := c.Pools[0]
	if !slices.Equal(got.Models, want.Models) || got.Limits != want.Limits || got.Breaker != want.Breaker || got.Lanes != want.Lanes ||
		got.Name != want.Name || got.Provider != want.Provider || got.Timeout != want.Timeout || got.MaxAttempts != want.MaxAttempts || got.FollowProvider || !got.ShareInFlight {
		t.Errorf("pool: got %+v, want %+v", got, want)
	}
}

// keys are the paths of all settings; <name> stands for a name that the operator
// chooses.
func keys(t reflect.Type, prefix string) (all []string) {
	for _, key := range childKeys(t) {
		f, _ := field(t, key)
		switch {
		case f.Type.Kind() == reflect.Struct:
			all = append(all, keys(f.Type, prefix+key+".")...)
		case named(f.Type):
			all = append(all, keys(f.Type.Elem(), prefix+key+".<name>.")...)
		default:
			all = append(all, prefix+key)
		}
	}
	return all
}

// The contract's page and the program have the same keys.
func TestContractFileNamesEveryKey(t *testing.T) {
	r := &reader{}
	root := r.parse("contract", []byte(contractFile))
	for _, key := range keys(reflect.TypeFor[Config](), "") {
		if key == "auth.jwks_url" || key == "auth.jwks_file" { // in place of hmac_secret
			continue
		}
		n := root
		for name := range strings.SplitSeq(key, ".") {
			if name == "<name>" {
				n = n.entries[0].node
			} else {
				n = n.child(name)
			}
			if n == nil {
				t.Errorf("the page does not show %s", key)
				break
			}
		}
	}
}

func TestNothingAtAllIsAConfiguration(t *testing.T) {
	t.Chdir(t.TempDir())
	c, faults := Load("", []string{"HOME=/home/op"})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if !c.UsesFake() || c.Redis.URL != "" || c.DataDir != "/home/op/.local/share/sluice" || c.PublicURL != "http://127.0.0.1:8080" || c.File != "" {
		t.Errorf("got %+v", c)
	}
	if p, ok := c.Pool("anything/at-all"); !ok || p != "fake" {
		t.Errorf("Pool: got %q, %v; want fake", p, ok)
	}
	if got := c.Tenant("somebody"); got != (Tenant{Name: "somebody", Weight: 1, SubmitsPerMinute: 600, ResendsPerMinute: 600, QueuedJobs: 100_000, HighPriority: true}) {
		t.Errorf("tenant: got %+v", got)
	}
	if c.Results != (Results{168 * time.Hour, 8388608}) || c.Auth.MaxLifetime != 24*time.Hour {
		t.Errorf("got %+v %+v", c.Results, c.Auth)
	}
}

func TestKeysOfTheProvidersMakeTheDefaultPools(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("sk-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		environ []string
		pools   string // names
		models  map[string]string
	}{
		"anthropic":                   {[]string{"ANTHROPIC_API_KEY=sk-1"}, "claude", map[string]string{"claude-sonnet-4-5": "claude", "gpt-5": ""}},
		"openai":                      {[]string{"OPENAI_API_KEY=sk-1"}, "gpt", map[string]string{"claude-x": "", "gpt-5": "gpt", "o3": "gpt"}},
		"both":                        {[]string{"OPENAI_API_KEY=sk-1", "ANTHROPIC_API_KEY_FILE=" + key}, "claude gpt", map[string]string{"claude-x": "claude", "o4-mini": "gpt"}},
		"local":                       {[]string{"OPENAI_BASE_URL=http://localhost:8000/v1"}, "gpt", nil},
		"address for another program": {[]string{"OPENAI_BASE_URL=https://gateway.example/v1"}, "fake fake-openai", map[string]string{"gpt-5": "fake"}},
		"empty":                       {[]string{"OPENAI_API_KEY=", "SLUICE_REDIS__URL="}, "fake fake-openai", nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := mustLoad(t, "", c.environ...)
			var names []string
			for _, p := range cfg.Pools {
				names = append(names, p.Name)
				if !p.FollowProvider || p.Limits.RequestsPerMinute < 500 {
					t.Errorf("pool %+v; want entry-tier limits that follow the provider's", p)
				}
			}
			if got := strings.Join(names, " "); got != c.pools {
				t.Errorf("pools %q; want %q", got, c.pools)
			}
			for model, want := range c.models {
				if got, _ := cfg.Pool(model); got != want {
					t.Errorf("Pool(%q) = %q; want %q", model, got, want)
				}
			}
		})
	}
	c := mustLoad(t, "", "OPENAI_BASE_URL=http://127.0.0.1:1/v1", "ANTHROPIC_API_KEY_FILE="+key)
	if c.Providers[0].APIKey != "sk-file" || c.Providers[1].BaseURL != "http://127.0.0.1:1/v1" {
		t.Errorf("got %+v", c.Providers)
	}
}

func TestEnvironmentOverridesTheFile(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("s", 40)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := `
providers:
  main: {dialect: anthropic, api_key: sk-1}
pools:
  big-models: {provider: main, models: ["claude-opus-*"]}
  claude: {provider: main, models: ["claude-*"]}
tenants:
  Acme: {weight: 3, high_priority: false}
`
	c := mustLoad(t, file,
		"SLUICE_LISTEN=:9000",
		"SLUICE_REDIS__URL=rediss://u:p@r.example:6380/2",
		"SLUICE_AUTH__HMAC_SECRET_FILE="+secret,
		"SLUICE_AUTH__MAX_LIFETIME=1h",
		"SLUICE_PROVIDERS__MAIN__API_KEY=12345",
		"SLUICE_POOLS__BIG_MODELS__LIMITS__REQUESTS_PER_MINUTE=7",
		"SLUICE_POOLS__CLAUDE__MODELS=claude-*, sonnet-*",
		"SLUICE_POOLS__CLAUDE__BREAKER={min_calls: 3}",
		"SLUICE_POOLS__CLAUDE__BREAKER__FAILURE_RATIO=0.25",
		"SLUICE_POOLS__LOCAL={\"provider\":\"box\",\"models\":[\"llama-*\"]}",
		"SLUICE_PROVIDERS__BOX__DIALECT=openai",
		"SLUICE_PROVIDERS__BOX__BASE_URL=http://127.0.0.1:8000",
		"SLUICE_TENANTS__ACME__QUEUED_JOBS=5",
		"SLUICE_TENANTS__DEFAULT__SUBMITS_PER_MINUTE=60",
		"SLUICE_WEBHOOKS__ALLOW_HTTP=true",
		"SLUICE_RESULTS__MAX_BYTES=1_000_000",
		// No settings, and not refused.
		"SLUICE_URL=http://x", "SLUICE_TOKEN=t", "SLUICE_LOG_LEVEL=debug",
		"SLUICE_PORT=tcp://10.0.0.1:8080", "SLUICE_API_SERVICE_HOST=10.0.0.1", "SLUICE_API_PORT_8080_TCP_ADDR=10.0.0.1",
	)
	var names []string
	for _, p := range c.Pools {
		names = append(names, p.Name)
	}
	if got := strings.Join(names, " "); got != "big-models claude local" {
		t.Errorf("pools in the order %q", got)
	}
	if got, _ := c.Pool("claude-opus-4"); got != "big-models" {
		t.Errorf("the first match is %q; want big-models", got)
	}
	if l := c.Pools[0].Limits; l.RequestsPerMinute != 7 || l.InputTokensPerMinute != 2_000_000 || c.Pools[0].FollowProvider {
		t.Errorf("limits %+v, follow %v; want 7 a minute, the rest by default, not above", l, c.Pools[0].FollowProvider)
	}
	if p := c.Pools[1]; !slices.Equal(p.Models, []string{"claude-*", "sonnet-*"}) || p.Breaker != (Breaker{10 * time.Second, 3, 0.25, 5 * time.Second}) {
		t.Errorf("got %+v", p)
	}
	if pr, ok := c.ProviderOf("local"); !ok || pr.Dialect != "openai" || pr.BaseURL != "http://127.0.0.1:8000" {
		t.Errorf("got %+v", pr)
	}
	if c.Providers[0].APIKey != "12345" || c.Auth.HMACSecret != strings.Repeat("s", 40) || c.Auth.MaxLifetime != time.Hour {
		t.Errorf("got %+v %+v", c.Providers, c.Auth)
	}
	if got := c.Tenant("Acme"); got != (Tenant{Name: "Acme", Weight: 3, SubmitsPerMinute: 60, ResendsPerMinute: 600, QueuedJobs: 5}) {
		t.Errorf("tenant: got %+v; want its own settings over default's", got)
	}
	if c.Listen != ":9000" || c.PublicURL != "http://127.0.0.1:9000" || !c.Webhooks.AllowHTTP || c.Results.MaxBytes != 1_000_000 {
		t.Errorf("got %+v", c)
	}
}

func TestEveryFaultAtOnceByItsKey(t *testing.T) {
	_, faults := load(t, `
listen: nowhere
ops_listen: 127.0.0.1:99999
public_url: ftp://x
color: red
redis: {url: "mysql://root:hunter2@db/0", pool: 3, prefix: "a:{b}"}
auth: {issuer: "", max_lifetime: 5, hmac_secret: short, jwks_url: http://keys.example, jwks_file: /k}
providers:
  anthropic: {dialect: anthropic}
  other: {dialect: french, base_url: "https://x.example/?q=1", api_key: "a b"}
  Big: {dialect: openai, api_key: 12}
pools:
  claude:
    provider: anthropc
    models: ["claude-[", ""]
    limits: {requests_per_minute: 0, input_tokens_per_minute: many, concurrency: -1}
    timeout: 10
    max_attempts: 0
    breaker: {window: 0s, failure_ratio: 1.5, failure_ratio: 0.5}
tenants:
  "a b": {weight: 0, resends_per_minute: -1}
results: {ttl: soon}
webhooks: {allow_http: maybe, allow_hosts: ["http://x"], deny_networks: ["10.0.0.0"], ca_file: /nosuch.pem, headers: {Host: hunter2, X-A: 3}}
`, "SLUICE_COLOR=blue", "SLUICE_RESULTS__MAX_BYTES=big", "SLUICE_DATA_DIR_FILE=/x")
	want := []string{
		"listen", "ops_listen", "public_url", "color", "redis.url", "redis.pool", "redis.prefix",
		"auth.issuer", "auth.max_lifetime", "auth.hmac_secret", "auth.jwks_url", "auth.jwks_file",
		"providers.anthropic.api_key", "providers.other.dialect", "providers.other.base_url", "providers.Big", "providers.Big.api_key",
		"pools.claude.provider", "pools.claude.models[0]", "pools.claude.models[1]",
		"pools.claude.limits.requests_per_minute", "pools.claude.limits.input_tokens_per_minute", "pools.claude.limits.concurrency",
		"pools.claude.timeout", "pools.claude.max_attempts",
		"pools.claude.breaker.window", "pools.claude.breaker.failure_ratio", "pools.claude.breaker.failure_ratio",
		"tenants.a b", "tenants.a b.weight", "tenants.a b.resends_per_minute", "results.ttl", "results.max_bytes",
		"webhooks.allow_http", "webhooks.allow_hosts[0]", "webhooks.deny_networks[0]", "webhooks.ca_file", "webhooks.headers.X-A", "webhooks.headers.Host", "SLUICE_COLOR", "SLUICE_DATA_DIR_FILE",
	}
	var got []string
	all := faults.Error()
	for _, f := range faults {
		got = append(got, f.Key)
		if f.Where == "" {
			t.Errorf("%s: does not say where", f)
		}
	}
	missing := slices.DeleteFunc(slices.Clone(want), func(k string) bool { return slices.Contains(got, k) })
	extra := slices.DeleteFunc(slices.Clone(got), func(k string) bool { return slices.Contains(want, k) })
	if len(missing) > 0 {
		t.Errorf("not named: %q\n%s", missing, all)
	}
	if len(extra) > 0 {
		t.Errorf("named without a fault: %q\n%s", extra, all)
	}
	for _, secret := range []string{"hunter2", ": short", "\"a b\" "} {
		if strings.Contains(all, secret) {
			t.Errorf("a secret, %q, is quoted:\n%s", secret, all)
		}
	}
}

func TestNoFaultQuotesASecret(t *testing.T) {
	for name, file := range map[string]string{
		"a block's header":         "auth:\n  hmac_secret: |hunter2\n   a\n",
		"a folded block's header":  "auth:\n  hmac_secret: >hunter2\n   a\n",
		"a tag":                    "auth:\n  hmac_secret: !!hunter2 x\n",
		"an alias":                 "auth:\n  hmac_secret: *hunter2\n",
		"quotes left open":         "auth:\n  hmac_secret: \"hunter2\n",
		"quotes closed too early":  "auth:\n  hmac_secret: \"a\"hunter2\n",
		"an escape":                "auth:\n  hmac_secret: \"\\hunter2\"\n",
		"a reserved character":     "auth:\n  hmac_secret: @hunter2\n",
		"a colon":                  "auth:\n  hmac_secret: hunter2: x\n",
		"a list left open":         "auth:\n  hmac_secret: [hunter2\n",
		"given twice":              "auth:\n  hmac_secret: hunter2\n  hmac_secret: hunter2\n",
		"a version":                "%YAML hunter2\n---\nauth: {}\n",
		"Redis, no scheme":         "redis: {url: \"hunter2@h\"}\n",
		"Redis, password in front": "redis: {url: \"u:hunter2@redis://h\"}\n",
		"Redis, password as host":  "redis: {url: \"redis://hunter2:x\"}\n",
		"Redis, password as query": "redis: {url: \"redis+cluster://h?tls=hunter2\"}\n",
	} {
		_, faults := load(t, file)
		if len(faults) == 0 {
			t.Errorf("%s: no fault", name)
		}
		if all := faults.Error(); strings.Contains(all, "hunter2") {
			t.Errorf("%s: a secret is quoted: %s", name, all)
		}
	}
}

func TestFaultsSayWhere(t *testing.T) {
	_, faults := load(t, "listen: :8080\nresults:\n  ttl: soon\n", "SLUICE_RESULTS__MAX_BYTES=0")
	var got []string
	for _, f := range faults {
		got = append(got, f.Key+" "+filepath.Base(f.Where))
	}
	want := []string{"results.ttl sluice.yaml:3", "results.max_bytes SLUICE_RESULTS__MAX_BYTES"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
}

func TestSingleFaults(t *testing.T) {
	cases := map[string]struct {
		file    string
		environ []string
		want    string
	}{
		"broken YAML":                 {"a: [", nil, "not valid YAML"},
		"no mapping":                  {"- a", nil, "not a mapping"},
		"two documents":               {"listen: :1\n---\nlisten: :2\n", nil, "more than one"},
		"a key twice":                 {"listen: :1\nlisten: :2\n", nil, "listen: given twice"},
		"a section twice":             {"results: {ttl: 1h}\nlisten: :1\nresults: {ttl: 2h}\n", nil, "results: given twice"},
		"unknown alias":               {"listen: *x", nil, "anchor"},
		"same address twice":          {"listen: :1\nops_listen: :1\n", nil, "ops_listen: has to differ"},
		"two pools by default":        {"providers: {a: {dialect: openai, api_key: k}, b: {dialect: openai, api_key: k}}", nil, "pools: needed"},
		"no pools":                    {"pools: {}", nil, "pools: there is no pool"},
		"provider without its key":    {"pools: {c: {provider: anthropic, models: [a]}}", nil, "set ANTHROPIC_API_KEY"},
		"secret twice":                {"", []string{"SLUICE_AUTH__HMAC_SECRET=x", "SLUICE_AUTH__HMAC_SECRET_FILE=/x"}, "given twice"},
		"secret file missing":         {"", []string{"SLUICE_AUTH__HMAC_SECRET_FILE=/does/not/exist"}, "auth.hmac_secret: open /does/not/exist"},
		"key file missing":            {"", []string{"ANTHROPIC_API_KEY_FILE=/does/not/exist"}, "ANTHROPIC_API_KEY_FILE: open"},
		"a file for no secret":        {"", []string{"SLUICE_LISTEN_FILE=/x"}, "SLUICE_LISTEN_FILE: is not a setting"},
		"small letters":               {"", []string{"SLUICE_Listen=:1"}, "SLUICE_Listen: is not a setting"},
		"too deep":                    {"", []string{"SLUICE_LISTEN__PORT=1"}, "is not a setting"},
		"a mapping for a scalar":      {"listen: {port: 1}", nil, "listen: has to be text"},
		"a scalar for a mapping":      {"redis: redis://x", nil, "redis: has to be a mapping"},
		"a port that is a number":     {"listen: 8080", nil, "put it in quotes"},
		"too few connections":         {"redis: {url: redis://h, max_connections: 19}\n", nil, "redis.max_connections"},
		"a wait of no time":           {"max_wait: 0s\n", nil, "max_wait: is 0s"},
		"a wait as long as a proxy's": {"max_wait: 61s\n", nil, "max_wait: is 1m1s"},
		"a wait of half a second":     {"max_wait: 1500ms\n", nil, "max_wait: is 1.5s"},
		"a path of our own":           {"public_url: https://h/v1/x\n", nil, "public_url: its path"},
		"a path with two slashes":     {"public_url: https://h/a//b\n", nil, "public_url: its path"},
		"a path with dots":            {"public_url: https://h/a/../b\n", nil, "public_url: its path"},
		"a path with escapes":         {"public_url: https://h/a%20b\n", nil, "public_url: its path"},
		"a port past the last":        {"public_url: https://h:99999\n", nil, "public_url: has no port"},
		"a base_url of port 0":        {"providers: {a: {dialect: openai, api_key: k, base_url: \"https://h:0\"}}", nil, "providers.a.base_url: has no port"},
		"an origin with a path":       {"cors: {allow_origins: [\"*\", https://h/]}\n", nil, "cors.allow_origins[1]"},
		"an origin with a star":       {"cors: {allow_origins: [\"https://*.h\"]}\n", nil, "cors.allow_origins[0]"},
		"delay below none":            {"drain_delay: -1s\n", nil, "drain_delay: is -1s"},
		"delay without end":           {"drain_delay: 6m\n", nil, "drain_delay: is 6m"},
		"number past its range":       {"results: {max_bytes: 99999999999999999999}", nil, "results.max_bytes"},
		"not a number":                {"providers: {a: {dialect: openai, api_key: k}}\npools: {c: {provider: a, models: [m], breaker: {failure_ratio: .nan}}}", nil, "failure_ratio: has to be a number"},
		"plain http keys":             {"auth: {jwks_url: http://keys.example}", nil, "auth.jwks_url: has to be https"},
		"reserved name of the links":  {"", []string{"SLUICE_PORTAL=1"}, "SLUICE_PORTAL: is not a setting"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, faults := load(t, c.file, c.environ...)
			if len(faults) == 0 || !strings.Contains(faults.Error(), c.want) {
				t.Errorf("got %v; want one with %q", faults, c.want)
			}
		})
	}
	if _, faults := Load(filepath.Join(t.TempDir(), "none.yaml"), nil); len(faults) == 0 {
		t.Error("a named file that is not there is no fault")
	}
	t.Chdir(t.TempDir())
	if _, faults := Load("", nil); len(faults) != 1 || faults[0].Key != "data_dir" {
		t.Errorf("without a home: %v; want a fault of data_dir", faults)
	}
	if _, faults := Load("", []string{"SLUICE_REDIS__URL=redis://r"}); len(faults) > 0 {
		t.Errorf("without a home, with Redis elsewhere: %v", faults)
	}
}

func TestYAMLReuse(t *testing.T) {
	c := mustLoad(t, `
providers: {a: {dialect: anthropic, api_key: "k"}}
pools:
  one: &base
    provider: a
    models: ["m1"]
    timeout: 3m
  two:
    <<: *base
    models: ["m2"]
  three: *base
`)
	if p := c.Pools[1]; p.Provider != "a" || p.Timeout != 3*time.Minute || !slices.Equal(p.Models, []string{"m2"}) {
		t.Errorf("merged: %+v", p)
	}
	if p := c.Pools[2]; p.Name != "three" || !slices.Equal(p.Models, []string{"m1"}) {
		t.Errorf("aliased: %+v", p)
	}
}

func TestPoolOfTheFakeBesideARealProvider(t *testing.T) {
	c := mustLoad(t, "pools:\n  real: {provider: anthropic, models: [\"claude-*\"]}\n  try: {provider: fake, models: [\"*\"]}\n", "ANTHROPIC_API_KEY=k")
	if pr, ok := c.ProviderOf("try"); !ok || !pr.Fake || !c.UsesFake() {
		t.Errorf("got %+v", pr)
	}
	if pr, ok := c.ProviderOf("real"); !ok || pr.Fake {
		t.Errorf("got %+v", pr)
	}
}

func TestPrintMasksAndReadsBack(t *testing.T) {
	file := strings.ReplaceAll(contractFile, "redis://127.0.0.1:6379/0", "redis+sentinel://op:hunter2@h:1,h:2/m/3?sentinel_password=hunter2")
	c := mustLoad(t, file)
	var b strings.Builder
	if err := c.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"hunter2", "sk-1", "0123456789abcdef", "MTEx", "1111", "MjIy", "2222"} {
		if strings.Contains(b.String(), secret) {
			t.Errorf("the secret %q is printed:\n%s", secret, b.String())
		}
	}
	// What is printed is a configuration again, but for its secrets.
	longKey := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	again := mustLoad(t, strings.NewReplacer("'********'", longKey, `"********"`, longKey, "********", "p").Replace(b.String()), "HOME=/other")
	var second strings.Builder
	if err := again.Print(&second); err != nil {
		t.Fatal(err)
	}
	if second.String() != b.String() {
		t.Errorf("printed again:\n%s\nwant:\n%s", second.String(), b.String())
	}
	for _, key := range []string{"requests_per_minute: 1000", "timeout: 10m", "ttl: 168h", "allow_hosts: []"} {
		if !strings.Contains(b.String(), key) {
			t.Errorf("%q is not printed:\n%s", key, b.String())
		}
	}
}

func TestEverySettingCanComeFromTheEnvironment(t *testing.T) {
	for _, key := range keys(reflect.TypeFor[Config](), "") {
		words := strings.Split(strings.TrimPrefix(variable(strings.ReplaceAll(key, "<name>", "x")), "SLUICE_"), "__")
		path, got, _ := resolve(&node{kind: mapping}, words)
		if want := strings.ReplaceAll(key, "<name>", "x"); got != want || len(path) == 0 {
			t.Errorf("%s is found as %q", key, got)
		}
	}
}

func TestAPrefixThatCannotStandInAKeyIsAFault(t *testing.T) {
	for prefix, good := range map[string]bool{
		"sluice": true, "a": true, "A-b_9": true, strings.Repeat("p", 32): true,
		"": false, "a:b": false, "a{b}": false, "a b": false, "a*": false, "ä": false, strings.Repeat("p", 33): false, "asynq": false,
	} {
		c, faults := load(t, fmt.Sprintf("redis: {prefix: %q}\n", prefix))
		if good && (len(faults) > 0 || c.Redis.Prefix != prefix) {
			t.Errorf("%q: %v", prefix, faults)
		}
		if !good && (len(faults) != 1 || faults[0].Key != "redis.prefix") {
			t.Errorf("%q: %v, want a fault of redis.prefix", prefix, faults)
		}
	}
}

func FuzzConfigFile(f *testing.F) {
	f.Add(contractFile)
	f.Add("a: &a [*a]\n<<: *a")
	f.Add("pools: {<<: {}, x: }")
	f.Add("? [a]\n: b")
	f.Fuzz(func(t *testing.T, file string) {
		r := &reader{}
		c := r.config(r.parse("f", []byte(file)), Environment{"SLUICE_POOLS__X__TIMEOUT": "1m", "HOME": "/h"})
		if len(r.faults) > 0 {
			return
		}
		if err := c.Print(io.Discard); err != nil {
			t.Errorf("a configuration without a fault cannot be printed: %v", err)
		}
	})
}

func TestSecretIsMadeOnceAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	c := &Config{DataDir: dir}
	if b, err := c.Secret(); b != nil || err != nil {
		t.Errorf("before: %q, %v; want none", b, err)
	}
	var wg sync.WaitGroup
	got := make([]string, 8)
	for i := range got {
		wg.Go(func() {
			b, err := c.EnsureSecret()
			if err != nil {
				t.Error(err)
			}
			got[i] = string(b)
		})
	}
	wg.Wait()
	for _, s := range got {
		if s != got[0] || len(s) < minSecret {
			t.Errorf("secrets %q; want one, of 32 bytes at least", got)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("left in the folder: %v, %v", files, err)
	}
	if info, err := os.Stat(filepath.Join(dir, secretFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	c.Auth.HMACSecret = "configured"
	if b, _ := c.EnsureSecret(); string(b) != "configured" {
		t.Errorf("got %q; want the configured one", b)
	}
	if err := os.WriteFile(filepath.Join(dir, secretFile), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Config{DataDir: dir}).Secret(); err == nil {
		t.Error("a kept secret that is too short is taken")
	}
	if _, err := (&Config{}).EnsureSecret(); err == nil {
		t.Error("a secret without a place to keep it is made")
	}
}

func TestPublicFor(t *testing.T) {
	c := mustLoad(t, "listen: 127.0.0.1:0\nops_listen: 127.0.0.1:0\n")
	addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4242}
	if got := c.PublicFor(addr); got != "http://127.0.0.1:4242" {
		t.Errorf("got %s", got)
	}
	c.PublicURL = "https://jobs.example"
	if got := c.PublicFor(addr); got != "https://jobs.example" {
		t.Errorf("got %s", got)
	}
}

// Browsers name a page's origin in one form alone, and it is compared by the letter.
func TestAddressesAreAsBrowsersWriteThem(t *testing.T) {
	for s, want := range map[string]string{
		"HTTPS://Gate.Example:443/Jobs/": "https://gate.example/Jobs",
		"http://H:80":                    "http://h",
		"http://h:443/a":                 "http://h:443/a",
		"https://[FD00::A]:443":          "https://[fd00::a]",
		"https://[::1]":                  "https://[::1]",
	} {
		if c := mustLoad(t, "public_url: \""+s+"\"\n"); c.PublicURL != want {
			t.Errorf("public_url %s is %s, want %s", s, c.PublicURL, want)
		}
	}
	c := mustLoad(t, "cors: {allow_origins: [\"HTTPS://App.Example:443\", \"http://localhost:3000\", \"*\"]}\n")
	if want := []string{"https://app.example", "http://localhost:3000", "*"}; !slices.Equal(c.CORS.AllowOrigins, want) {
		t.Errorf("cors.allow_origins are %q, want %q", c.CORS.AllowOrigins, want)
	}
}

func TestPrices(t *testing.T) {
	c := mustLoad(t, contractFile)
	const cent = tasks.Unit / 100
	if want := []Price{{"claude-sonnet-4.5*", 300 * cent, 1500 * cent, 30 * cent, 375 * cent, 600 * cent, 50 * cent, 50 * cent, 125 * cent, "2026-10-01", "2027-01-01"}}; !slices.Equal(c.Prices, want) {
		t.Errorf("prices %+v; want %+v", c.Prices, want)
	}
	var out strings.Builder
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	r := &reader{}
	if again := r.parse("printed", []byte(out.String())); len(r.faults) > 0 || again.child("prices").child("claude-sonnet-4.5*") == nil {
		t.Errorf("printed, it is no configuration with that price: %v\n%s", r.faults, &out)
	}
	for text, want := range map[string]string{
		`prices: {m: {input: -1}}`:                                 "prices.m.input",
		`prices: {m: {output: .nan}}`:                              "prices.m.output",
		`prices: {m: {output: "3"}}`:                               "has to be an amount",
		`prices: {m: {output: 0.0000000001}}`:                      "more than nine digits",
		`prices: {"[": {input: 1}}`:                                "is not a pattern of models",
		`prices: {m: {in: 1}}`:                                     "prices.m.in",
		`prices: {m: {batch: 0}}`:                                  "above 0 and at most 100",
		`prices: {m: {priority: 101}}`:                             "prices.m.priority",
		`prices: {m: {from: 1.1.2027}}`:                            "write it as in 2027-01-01",
		`prices: {m: {from: 2027-02-30}}`:                          "prices.m.from",
		`prices: {m: {from: 2027-01-01, until: 2027-01-01}}`:       "is not after 2027-01-01",
		`prices: {m: []}`:                                          "is empty",
		`prices: {m: [{in: 1}]}`:                                   "prices.m[0].in",
		`prices: {"[": [{until: 2027-01-01}, {from: 2027-01-01}]}`: "is not a pattern of models",
		`prices: {m: [{input: 1}, {input: 2, from: 2027-01-01}]}`:  "prices.m[1]: holds beside the one before it",
		`prices: {m: [{until: 2027-01-01}, {input: 2}]}`:           "prices.m[1]: holds beside the one before it",
		`prices: {m: [{until: 2027-01-02}, {from: 2027-01-01}]}`:   "prices.m[1].from: 2027-01-01 is before 2027-01-02",
		`prices: {m: [{until: 2027-01-01}, {from: 2027-01-01, until: 2027-02-01}, {from: 2027-02-03}]}`: "prices.m[2].from: leaves a gap without a price from 2027-02-01 to 2027-02-03",
	} {
		file := filepath.Join(t.TempDir(), "sluice.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, faults := Load(file, []string{"HOME=" + t.TempDir()}); len(faults) != 1 || !strings.Contains(faults.Error(), want) {
			t.Errorf("%s: %v; want one fault with %s", text, faults, want)
		}
	}
}

// A change of price is said beforehand, and holds from its day on.
func TestPricesThatFollowEachOther(t *testing.T) {
	text := "prices: {claude-x: [{input: 3, until: 2027-01-01}, {input: 2, from: 2027-01-01, batch: 0.4}], \"*\": {input: 1}}\n"
	c := mustLoad(t, text)
	for day, want := range map[string]string{"2026-12-31T23:59:59Z": "3 1.5", "2027-01-01T00:00:00Z": "2 0.8"} {
		at, err := time.Parse(time.RFC3339, day)
		if err != nil {
			t.Fatal(err)
		}
		p, _ := c.PriceList().Of("claude-x", at)
		million := tasks.Usage{InputTokens: 1_000_000}
		if got := p.Of(million, tasks.Served{}).String() + " " + p.Of(million, tasks.Served{Tier: tasks.TierBatch}).String(); got != want {
			t.Errorf("on %s a million tokens cost %s, want %s", day, got, want)
		}
	}
	var out strings.Builder
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	if again := mustLoad(t, out.String()); !slices.Equal(again.Prices, c.Prices) {
		t.Errorf("printed, it is other prices: %+v\n%s", again.Prices, &out)
	}
}

// README's example of prices is read as it stands, and costs what README says.
func TestThePricesOfREADME(t *testing.T) {
	page, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "```yaml\nprices:")
	example, words, _ := strings.Cut(rest, "```")
	if !found {
		t.Fatal("README has no example of prices")
	}
	price, ok := mustLoad(t, "prices:"+example).PriceList().Of("gpt-5", time.Now())
	for _, tier := range []tasks.Tier{"default", tasks.TierFlex, tasks.TierBatch, tasks.TierPriority} {
		got := price.Of(tasks.Usage{InputTokens: 1000, OutputTokens: 200}, tasks.Served{Tier: tier}).String()
		if said, _, _ := strings.Cut(words, "\n\n**"); !ok || !strings.Contains(said, got) {
			t.Errorf("at %s that costs %s, which README does not say", tier, got)
		}
	}
}

func TestTheLastListedKeySeals(t *testing.T) {
	one, two := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("1", 32))), base64.StdEncoding.EncodeToString([]byte(strings.Repeat("2", 32)))
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte(`{"b": "`+two+`", "a": "`+one+`"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*Config{
		"the file":              mustLoad(t, "seal: {keys: {b: "+two+", a: "+one+"}}\n"),
		"a file of its own":     mustLoad(t, "", "SLUICE_SEAL__KEYS_FILE="+file),
		"the environment":       mustLoad(t, "seal: {keys: {c: "+two+"}}\n", `SLUICE_SEAL__KEYS={"b": "`+two+`", "a": "`+one+`"}`),
		"switched off in plain": mustLoad(t, "seal: {off: true, keys: {b: "+two+", a: "+one+"}}\n"),
	} {
		m := c.Seal.Masters()
		if len(m) != 2 || m[0].Name != "b" || m[1].Name != "a" || string(m[1].Key) != strings.Repeat("1", 32) {
			t.Errorf("%s: %d keys", name, len(m))
		}
	}
	for _, c := range []*Config{mustLoad(t, "seal: off\n"), mustLoad(t, "seal: false\n"), mustLoad(t, "", "SLUICE_SEAL=off")} {
		if !c.Seal.Off || len(c.Seal.Keys) > 0 {
			t.Errorf("off: %+v", c.Seal)
		}
	}
	for _, bad := range []string{"seal: {keys: {a: hunter2}}\n", "seal: {keys: [hunter2]}\n", "seal: {keys: {a: 7}}\n", "seal: hunter2\n", "seal: {keys: {a: aHVudGVyMg==}}\n"} {
		if _, faults := load(t, bad); len(faults) != 1 || !strings.HasPrefix(faults[0].Key, "seal") || strings.Contains(faults.Error(), "hunter2") || strings.Contains(faults.Error(), "aHVu") {
			t.Errorf("%q: %v", bad, faults)
		}
	}
}
