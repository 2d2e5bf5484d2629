package config

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api/auth"
)

// TestIssuersAreReadAndPrinted reads a block with every setting, from the file and
// from the environment, and reads again what is printed of it.
func TestIssuersAreReadAndPrinted(t *testing.T) {
	t.Parallel()
	const block = `[{issuer: "https://login.example/", audiences: [sluice, other], discovery: true, allow_http: true,
      claims: {tenant: "https://login.example/org", scope: scp roles, sub: oid, aud: client_id},
      tenants: {"a@b.example": acme, "7": beta}, scopes: {"Prompts.Run": "jobs:write jobs:read"}, require: {token_use: [access], "kubernetes.io.namespace": [a, b]},
      max_lifetime: 720h, leeway: 60s}, {issuer: "https://two.example", audiences: [sluice], jwks_url: "https://two.example/keys?v=1", tenant: acme, scope: "jobs:read"}]`
	want := []auth.Issuer{
		{
			Issuer: "https://login.example/", Audiences: []string{"sluice", "other"}, Discovery: true, AllowHTTP: true,
			Claims:  auth.ClaimNames{Tenant: "https://login.example/org", Scope: "scp roles", Sub: "oid", Aud: "client_id"},
			Tenants: map[string]string{"a@b.example": "acme", "7": "beta"}, Scopes: map[string]string{"Prompts.Run": "jobs:write jobs:read"},
			Require:     map[string][]string{"token_use": {"access"}, "kubernetes.io.namespace": {"a", "b"}},
			MaxLifetime: 720 * time.Hour, Leeway: time.Minute,
		},
		{Issuer: "https://two.example", Audiences: []string{"sluice"}, JWKSURL: "https://two.example/keys?v=1", Tenant: "acme", Scope: "jobs:read"},
	}
	file := mustLoad(t, "auth:\n  issuers:\n    "+block+"\n")
	environ := mustLoad(t, "", "SLUICE_AUTH__ISSUERS="+block)
	var printed strings.Builder
	if err := file.Print(&printed); err != nil {
		t.Fatal(err)
	}
	again := mustLoad(t, strings.ReplaceAll(printed.String(), "hmac_secret: '********'\n", "\n"), "SLUICE_AUTH__HMAC_SECRET="+strings.Repeat("s", 32))
	for name, c := range map[string]*Config{"file": file, "environment": environ, "printed": again} {
		if got := c.Auth.Foreign(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v\n%s", name, got, want, &printed)
		}
	}
}

// TestFaultsOfIssuers names each by its key and its line.
func TestFaultsOfIssuers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{audiences: [a], discovery: true}`:                                                                      "issuer: must not be empty",
		`{issuer: i, discovery: true, audiences: [a]}`:                                                           "issuer: must be an absolute https address",
		`{issuer: "http://idp.example", discovery: true, audiences: [a]}`:                                        "issuer: has to be https",
		`{issuer: "https://i.example", discovery: true}`:                                                         "audiences: needed",
		`{issuer: "https://i.example", discovery: true, audiences: [""]}`:                                        "audiences[0]: must not be empty",
		`{issuer: i, audiences: [a]}`:                                                                            "discovery: has to be true, or jwks_url",
		`{issuer: i, audiences: [a], jwks_url: "http://i.example/k"}`:                                            "jwks_url: has to be https",
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", jwks_file: /k}`:                                    "no two of them",
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", ca_file: /none}`:                                   "ca_file: open /none",
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", token_file: /none}`:                                "token_file: stat /none",
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", tenant: "a b"}`:                                    "tenant: is not a tenant's name",
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", tenant: a, claims: {tenant: b}}`:                   "neither claims.tenant nor tenants",
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", tenants: {x: "a:b"}}`:                              "tenants.x: is not a tenant's name",
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", scope: job:read}`:                                  `scope: "job:read" is not a scope`,
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", scopes: {x: root}}`:                                `scopes.x: "root" is not a scope`,
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", scopes: {x: ""}}`:                                  "scopes.x: names no scope",
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", scope: admin, scopes: {x: admin}}`:                 "neither claims.scope nor scopes",
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", require: {x: []}}`:                                 "require.x: needs at least one value",
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", require: {x: y}}`:                                  "require.x: has to be a list",
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", leeway: 1h}`:                                       "leeway: must be between",
		`{issuer: i, audiences: [a], jwks_url: "https://i/k", colour: red}`:                                      "colour: unknown key",
		`{issuer: sluice, audiences: [a], jwks_url: "https://i/k"}`:                                              "issuer: another issuer, or auth.issuer, is the same",
		`{issuer: "https://accounts.google.com", audiences: [a], discovery: true}`:                               "require: needed, or tenants: anybody",
		`{issuer: "https://token.actions.githubusercontent.com", audiences: [a], discovery: true, tenant: acme}`: "require: needed, or tenants: anybody",
	} {
		_, faults := load(t, "auth:\n  issuers:\n    - {issuer: first, audiences: [a], jwks_url: \"https://f/k\"}\n    - "+text+"\n")
		if len(faults) != 1 || faults[0].Key[:len("auth.issuers[1].")] != "auth.issuers[1]." || !strings.Contains(faults.Error(), want) || !strings.HasSuffix(faults[0].Where, ":4") {
			t.Errorf("%s: got %v, want one of line 4 with %q", text, faults, want)
		}
	}
}

// TestHTTPIsTakenOnlyWhereItIsSaid is about addresses that keys come from.
func TestHTTPIsTakenOnlyWhereItIsSaid(t *testing.T) {
	t.Parallel()
	for text, good := range map[string]bool{
		`issuer: "https://idp.example", discovery: true`:                             true,
		`issuer: "http://127.0.0.1:8080", discovery: true`:                           true,
		`issuer: "http://[::1]:8080", discovery: true`:                               true,
		`issuer: "http://localhost:8080", discovery: true`:                           true,
		`issuer: "http://localhost.evil.example", discovery: true`:                   false,
		`issuer: "http://keycloak:8080/realms/a", discovery: true`:                   false,
		`issuer: "http://keycloak:8080/realms/a", discovery: true, allow_http: true`: true,
		`issuer: i, jwks_url: "http://keycloak:8080/certs"`:                          false,
		`issuer: i, jwks_url: "http://keycloak:8080/certs", allow_http: true`:        true,
		`issuer: i, jwks_url: "ftp://keycloak/certs", allow_http: true`:              false,
		`issuer: i, jwks_url: "https://user:pw@keycloak/certs"`:                      false,
	} {
		_, faults := load(t, "auth: {issuers: [{audiences: [a], "+text+"}]}\n")
		if (len(faults) == 0) != good || strings.Contains(faults.Error(), "pw") {
			t.Errorf("%s: %v, want taken %t", text, faults, good)
		}
	}
}
