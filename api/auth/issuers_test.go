package auth

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// shape is a token as an issuer makes it, in testdata/tokens, and the configuration
// that takes it.
type shape struct {
	file   string
	path   string // of the issuer on the test's server
	alg    string // "": as the file has it
	config Issuer // issuer and discovery are filled in
	want   Claims // ID and times are the token's
	tenant []string
	scope  string
	sub    string // "": sub
	aud    string // "": aud
}

// shapes are the tokens of the eight kinds of issuers that people have.
func shapes() []shape {
	run := map[string]string{"prompts:run": "jobs:write jobs:read", "Prompts.Run": "jobs:write jobs:read", "prompts.run": "jobs:write jobs:read", "runner": "jobs:write jobs:read"}
	both := []string{"jobs:write", "jobs:read"}
	keycloak := Issuer{Audiences: []string{"sluice"}, Claims: ClaimNames{Tenant: "organization", Scope: "resource_access.sluice.roles"}, Scopes: run, Require: map[string][]string{"typ": {"Bearer"}}}
	alice := Claims{Subject: "b7a1c7c8-8f0b-4b5e-9d0e-2a6f1c6c2a10", Tenant: "acme", Scopes: both}
	return []shape{
		{file: "auth0", path: "/auth0/", config: Issuer{Audiences: []string{"https://sluice.example/"}, Claims: ClaimNames{Tenant: "org_id", Scope: "permissions"}, Scopes: run},
			want: Claims{Subject: "kR3tBqv0XyF2dW9gVs7hLm@clients", Tenant: "org_9ybsU1dN2dKfDkBi", Scopes: both}, tenant: []string{"org_id"}, scope: "permissions"},
		{file: "auth0-rfc9068", path: "/auth0-rfc9068/", config: Issuer{Audiences: []string{"https://old.example", "https://sluice.example/"}, Claims: ClaimNames{Tenant: "https://sluice.example/org"}, Scopes: run},
			want: Claims{Subject: "auth0|5f7c8ec7c33c6c004bbafe82", Tenant: "acme", Scopes: both}, tenant: []string{"https://sluice.example/org"}, scope: "scope"},
		{file: "keycloak", path: "/realms/acme", config: keycloak, want: alice, tenant: []string{"organization"}},
		{file: "keycloak", path: "/realms/ps256", alg: algPS256, config: keycloak, want: alice, tenant: []string{"organization"}},
		{file: "keycloak", path: "/realms/es256", alg: algES256, config: keycloak, want: alice, tenant: []string{"organization"}},
		{file: "keycloak", path: "/realms/es384", alg: algES384, config: keycloak, want: alice, tenant: []string{"organization"}},
		{file: "keycloak", path: "/realms/eddsa", alg: algEdDSA, config: keycloak, want: alice, tenant: []string{"organization"}},
		{file: "entra", path: "/72f988bf/v2.0", config: Issuer{Audiences: []string{"6e74172b-be56-4843-9ff4-e66a39bb12e3"}, Claims: ClaimNames{Tenant: "tid", Scope: "scp roles", Sub: "oid"}, Scopes: run},
			want: Claims{Subject: "690222be-ff1a-4d56-abd1-7e4f7d38e474", Tenant: "72f988bf-86f1-41af-91ab-2d7cd011db47", Scopes: both}, tenant: []string{"tid"}, scope: "scp", sub: "oid"},
		{file: "entra-application", path: "/app/v2.0", config: Issuer{Audiences: []string{"6e74172b-be56-4843-9ff4-e66a39bb12e3"}, Claims: ClaimNames{Tenant: "tid", Scope: "scp roles", Sub: "oid"}, Scopes: run},
			want: Claims{Subject: "0d3f0d9b-5a2e-4a5c-8d8a-0c3f6f4f5a11", Tenant: "72f988bf-86f1-41af-91ab-2d7cd011db47", Scopes: both}, tenant: []string{"tid"}, scope: "roles", sub: "oid"},
		{file: "okta", path: "/oauth2/default", config: Issuer{Audiences: []string{"api://sluice"}, Tenant: "acme", Claims: ClaimNames{Scope: "scp"}, Scopes: run},
			want: Claims{Subject: "alice@acme.example", Tenant: "acme", Scopes: both}, scope: "scp"},
		{file: "cognito", path: "/eu-central-1_Xy1Z2abC3", config: Issuer{Audiences: []string{"3ejurdtqdqvt3l0mbh8p7q9u1f"}, Claims: ClaimNames{Aud: "client_id", Tenant: "client_id"},
			Tenants: map[string]string{"3ejurdtqdqvt3l0mbh8p7q9u1f": "acme"}, Scopes: map[string]string{"sluice/jobs.read": "jobs:read", "sluice/jobs.write": "jobs:write"}, Require: map[string][]string{"token_use": {"access"}}},
			want: Claims{Subject: "3ejurdtqdqvt3l0mbh8p7q9u1f", Tenant: "acme", Scopes: []string{"jobs:read", "jobs:write"}}, tenant: []string{"client_id"}, scope: "scope", aud: "client_id"},
		{file: "google", path: "/google", config: Issuer{Audiences: []string{"https://sluice.example"}, Claims: ClaimNames{Tenant: "email", Sub: "email"},
			Tenants: map[string]string{"importer@acme-prod.iam.gserviceaccount.com": "acme"}, Scope: "jobs:read jobs:write", Require: map[string][]string{"email_verified": {"true"}}},
			want: Claims{Subject: "importer@acme-prod.iam.gserviceaccount.com", Tenant: "acme", Scopes: []string{"jobs:read", "jobs:write"}}, tenant: []string{"email"}, sub: "email"},
		{file: "kubernetes", path: "/cluster", config: Issuer{Audiences: []string{"sluice"}, Claims: ClaimNames{Tenant: "kubernetes.io.namespace"}, Scope: "jobs:read jobs:write"},
			want: Claims{Subject: "system:serviceaccount:acme:importer", Tenant: "acme", Scopes: []string{"jobs:read", "jobs:write"}}, tenant: []string{"kubernetes.io", "namespace"}},
		{file: "github", path: "/github", config: Issuer{Audiences: []string{"sluice"}, Claims: ClaimNames{Tenant: "repository_owner"}, Scope: "jobs:write", Require: map[string][]string{"repository_owner_id": {"7", "65"}}},
			want: Claims{Subject: "repo:acme/reports:ref:refs/heads/main", Tenant: "acme", Scopes: []string{"jobs:write"}}, tenant: []string{"repository_owner"}},
	}
}

// secondRSA signs for every other issuer, so that neighbours have different keys.
var secondRSA = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func (s shape) kid() string { return "k-" + strings.Trim(strings.ReplaceAll(s.path, "/", "-"), "-") }

// public is the shape's public key, and as its issuer publishes it.
func (s shape) public(t testing.TB, k keyPairs) (key any, published map[string]any) {
	t.Helper()
	m := map[string]any{"kid": s.kid(), "use": "sig"}
	if s.alg != "" {
		m["alg"] = s.alg
	}
	ec := func(crv string, key *ecdsa.PublicKey) (any, map[string]any) {
		point, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		n := len(point) / 2
		m["kty"], m["crv"], m["x"], m["y"] = "EC", crv, b64(point[1:n+1]), b64(point[n+1:])
		return key, m
	}
	switch s.alg {
	case algES256:
		return ec("P-256", &k.ec.PublicKey)
	case algES384:
		return ec("P-384", &k.p384.PublicKey)
	case algEdDSA:
		x := k.ed.Public().(ed25519.PublicKey)
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(x)
		return x, m
	}
	m["kty"], m["n"], m["e"] = "RSA", b64(k.rsa.N.Bytes()), b64(big.NewInt(int64(k.rsa.E)).Bytes())
	m["x5t"], m["x5c"] = s.kid(), []string{"MIIC"} // as Entra ID and Keycloak do
	return &k.rsa.PublicKey, m
}

// world is the issuers of all shapes on one server, and a verifier that takes them all
// beside tokens of our own.
type world struct {
	t        *testing.T
	url      string
	shapes   []shape
	keys     []keyPairs // of each shape
	verifier *Verifier
	metrics  *prometheus.Registry
}

// newWorld makes it, of the keys that issuers have; or, cheap, of Ed25519 keys for those
// that would need RSA, which takes ten times as long, but the first.
func newWorld(t *testing.T, cheap bool) *world {
	t.Helper()
	w := &world{t: t, shapes: shapes(), metrics: prometheus.NewPedanticRegistry()}
	for i := range w.shapes {
		if s := &w.shapes[i]; cheap && i > 0 && (s.alg == "" || s.alg == algPS256) {
			s.alg = algEdDSA
		}
	}
	server := httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(server.Close)
	w.url = server.URL
	second, err := secondRSA()
	if err != nil {
		t.Fatal(err)
	}
	var list []Issuer
	for i, s := range w.shapes {
		k := newKeyPairs(t)
		if i%2 == 1 {
			k.rsa = second
		}
		w.keys = append(w.keys, k)
		s.config.Issuer, s.config.Discovery = w.url+s.path, true
		list = append(list, s.config)
	}
	w.verifier, err = New(Config{Issuer: testIssuer, Audience: testAudience, HMACSecret: testSecret(), Issuers: list, Now: clock, Metrics: w.metrics})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// serve answers discovery and key sets as issuers do.
func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	for i, s := range w.shapes {
		switch r.URL.Path {
		case strings.TrimSuffix(s.path, "/") + "/.well-known/openid-configuration":
			_, _ = rw.Write([]byte(mustJSON(w.t, map[string]any{
				"issuer": w.url + s.path, "jwks_uri": w.url + "/keys/" + s.kid(), "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
			})))
			return
		case "/keys/" + s.kid():
			_, published := s.public(w.t, w.keys[i])
			encryption := maps.Clone(published)
			encryption["kid"], encryption["use"], encryption["alg"] = "enc", "enc", "RSA-OAEP"
			_, _ = rw.Write([]byte(mustJSON(w.t, map[string]any{"keys": []any{encryption, published}})))
			return
		}
	}
	http.NotFound(rw, r)
}

// subject is the token of a shape as its issuer makes it.
func (w *world) subject(i int) subject {
	w.t.Helper()
	s := w.shapes[i]
	text, err := os.ReadFile(filepath.Join("testdata", "tokens", s.file+".json"))
	if err != nil {
		w.t.Fatal(err)
	}
	filled := strings.NewReplacer(`"IAT"`, fmt.Sprint(start), `"EXP"`, fmt.Sprint(start+3600), "ISSUER", w.url+s.path, "KID", s.kid()).Replace(string(text))
	var parts struct{ Header, Claims map[string]json.RawMessage }
	if err := json.Unmarshal([]byte(filled), &parts); err != nil {
		w.t.Fatal(err)
	}
	texts := func(m map[string]json.RawMessage) map[string]string {
		out := map[string]string{}
		for k, v := range m {
			out[k] = string(v)
		}
		return out
	}
	sub := subject{head: texts(parts.Header), claims: texts(parts.Claims), foreign: true, tenant: s.tenant, scope: s.scope, sub: cmp.Or(s.sub, "sub"), aud: cmp.Or(s.aud, "aud")}
	alg := cmp.Or(s.alg, algRS256)
	sub.head["alg"] = `"` + alg + `"`
	sub.sign = func(head, claims string) string { return w.keys[i].signAs(w.t, alg, head, claims) }
	sub.public, _ = s.public(w.t, w.keys[i])
	return sub
}

// TestTokensOfEveryIssuerAsTheyAre is what configuration alone has to reach.
func TestTokensOfEveryIssuerAsTheyAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	for i, s := range w.shapes {
		got, err := w.verifier.Verify(t.Context(), w.subject(i).good())
		if err != nil {
			t.Errorf("%s%s: %v", s.file, s.path, err)
			continue
		}
		got.ID, got.ExpiresAt = "", time.Time{}
		if !reflect.DeepEqual(got, s.want) {
			t.Errorf("%s%s: got %+v, want %+v", s.file, s.path, got, s.want)
		}
		findings, _, err := w.verifier.Explain(t.Context(), w.subject(i).good())
		if err != nil || len(findings) < 7 {
			t.Errorf("%s%s: %v, %+v", s.file, s.path, err, findings)
		}
	}
	if _, err := w.verifier.Verify(t.Context(), hs256(goodHead, goodClaims)); err != nil {
		t.Errorf("a token of our own: %v", err)
	}
}

// A foreign token is narrowed to the pools of the claim that its issuer's block names, a list or a
// text with spaces; one without it, or with what names no pool, is none.
func TestAForeignTokenIsNarrowedToPools(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	config := w.shapes[1].config
	config.Issuer, config.Discovery, config.Claims.Pools = w.url+w.shapes[1].path, true, "sluice.pools"
	v, err := New(Config{Issuer: testIssuer, Audience: testAudience, HMACSecret: testSecret(), Issuers: []Issuer{config}, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	for claim, want := range map[string][]string{
		`{"pools":["claude","gpt-*"]}`: {"claude", "gpt-*"}, `{"pools":"claude gpt-*"}`: {"claude", "gpt-*"}, `{"pools":"claude"}`: {"claude"},
		`{"pools":[]}`: nil, `{"pools":""}`: nil, `{"pools":["[a-z]"]}`: nil, `{}`: nil, "": nil,
	} {
		sub := w.subject(1)
		if claim != "" {
			sub.claims["sluice"] = claim
		}
		got, err := v.Verify(t.Context(), sub.good())
		if (err == nil) != (want != nil) || !slices.Equal(got.Pools, want) {
			t.Errorf("%s: narrowed to %q, %v; want %q", claim, got.Pools, err, want)
		}
	}
}

// TestHostileTokensOfEveryIssuer runs the whole corpus against each shape.
func TestHostileTokensOfEveryIssuer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	if err := fetchAll(t, w.verifier); err != nil {
		t.Fatal(err)
	}
	for i, s := range w.shapes {
		if s.alg == algES384 || s.path == "/realms/ps256" || s.path == "/realms/eddsa" {
			continue // the same claims as the others of Keycloak, and keys that TestVerifyRefuses has
		}
		t.Run(s.file+s.path, func(t *testing.T) {
			t.Parallel()
			sub := w.subject(i)
			rows := hostile(t, sub)
			if s.config.Tenants != nil {
				rows = append(rows, hostileRow{"a tenant that is not listed", sub.in(`"beta"`)})
			}
			for name, values := range s.config.Require {
				rows = append(rows,
					hostileRow{"without " + name, sub.cl(name, "")},
					hostileRow{"another " + name, sub.cl(name, `"x`+values[0]+`"`)},
					hostileRow{"null " + name, sub.cl(name, `null`)},
					hostileRow{"an object for " + name, sub.cl(name, `{"`+values[0]+`":1}`)})
			}
			// Each other issuer's key, by its own name and by this issuer's.
			for j, other := range w.shapes {
				if j == i {
					continue
				}
				theirs := w.subject(j)
				rows = append(rows, hostileRow{"the iss of " + other.path, sub.cl("iss", theirs.claims["iss"])},
					hostileRow{"signed by " + other.path, theirs.sign(object(changed(theirs.head, nil)), object(sub.claims))})
				rows = append(rows, hostileRow{"signed by " + other.path + " under this kid", theirs.sign(object(sub.head), object(sub.claims))})
			}
			rows = append(rows,
				hostileRow{"our own iss", sub.cl("iss", `"`+testIssuer+`"`)},
				hostileRow{"signed with our own secret", hs256(object(sub.head), object(sub.claims))},
				hostileRow{"our own token, signed by this issuer", sub.sign(object(sub.head), goodClaims)})
			if refuseAll(t, w.verifier, sub, rows); i == 0 || s.file == "kubernetes" {
				for _, row := range rows {
					explained(t, w.verifier, row.name, row.token)
				}
			}
		})
	}
}

// fetchAll asks for every key set once, as Run does at the start.
func fetchAll(t *testing.T, v *Verifier) error {
	t.Helper()
	for _, r := range v.rules {
		if k, ok := r.keys.(*remoteKeys); ok {
			<-k.turn
			err := k.fetched(t.Context())
			k.turn <- struct{}{}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// FuzzForeignClaims feeds claims that an issuer has signed: whatever is accepted has a
// tenant and a subject, and means the same to a reader that knows none of the rules.
func FuzzForeignClaims(f *testing.F) {
	k := newKeyPairs(f)
	path := filepath.Join(f.TempDir(), "jwks.json")
	writeJSON(f, path, k.jwks(f))
	v, err := New(Config{Issuer: testIssuer, Audience: testAudience, Now: clock, Issuers: []Issuer{{
		Issuer: "i", Audiences: []string{"a"}, JWKSFile: path, Claims: ClaimNames{Tenant: "k.io.ns", Scope: "scp r.s"}, Require: map[string][]string{"use": {"x"}},
	}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(fmt.Sprintf(`{"iss":"i","aud":["a"],"sub":"s","exp":%d,"iat":%d,"k.io":{"ns":"acme"},"use":"x","scp":["jobs:read"],"r":{"s":"admin"}}`, start+60, start))
	f.Add(fmt.Sprintf(`{"iss":"i","aud":"a","sub":7,"exp":%d,"iat":%d,"k":{"io.ns":["acme"]},"use":["x","y"]}`, start+60, start))
	f.Fuzz(func(t *testing.T, claims string) {
		token := k.sign(t, `{"alg":"EdDSA","kid":"d1"}`, claims)
		got, err := v.Verify(t.Context(), token)
		explained(t, v, claims, token)
		if err != nil {
			if !reflect.DeepEqual(got, Claims{}) {
				t.Fatalf("got %+v of a refused token", got)
			}
			return
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(claims), &m); err != nil || m["iss"] != "i" || got.Subject == "" || !ValidTenant(got.Tenant) || !strings.Contains(claims, "k") || m["use"] == nil {
			t.Fatalf("got %+v of %s", got, claims)
		}
	})
}
