package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testIssuer   = "sluice"
	testAudience = "sluice-api"
	start        = 1_790_000_000 // the test clock, in seconds
)

func testSecret() []byte { return []byte("0123456789abcdef0123456789abcdef") }

func clock() time.Time { return time.Unix(start, 0) }

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func sign256(secret []byte, signed string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(signed))
	return signed + "." + b64(mac.Sum(nil))
}

// hs256 signs two texts as they are.
func hs256(head, claims string) string {
	return sign256(testSecret(), b64([]byte(head))+"."+b64([]byte(claims)))
}

const goodHead = `{"alg":"HS256","typ":"at+jwt"}`

var goodClaims = fmt.Sprintf(`{"iss":"sluice","aud":"sluice-api","sub":"alice","exp":%d,"iat":%d,"jti":"t-1","tenant":"acme","scope":"jobs:read jobs:write"}`,
	start+3600, start)

// with replaces a part of the good claims.
func with(t testing.TB, old, new string) string {
	t.Helper()
	s := strings.Replace(goodClaims, old, new, 1)
	if s == goodClaims {
		t.Fatalf("%s is not in the claims", old)
	}
	return s
}

// rsaKey is the one RSA key of the tests: to find the primes takes a while.
var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// keyPairs is the issuer's keys and their set. Two differ in all but the RSA key.
type keyPairs struct {
	rsa  *rsa.PrivateKey
	ec   *ecdsa.PrivateKey
	p384 *ecdsa.PrivateKey
	ed   ed25519.PrivateKey
}

func newKeyPairs(t testing.TB) keyPairs {
	t.Helper()
	var k keyPairs
	var err error
	if k.rsa, err = rsaKey(); err != nil {
		t.Fatal(err)
	}
	if k.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if k.p384, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if _, k.ed, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k keyPairs) jwks(t testing.TB) map[string]any {
	t.Helper()
	point, err := k.ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"keys": []any{
		map[string]any{"kty": "RSA", "kid": "r1", "use": "sig", "alg": "RS256", "n": b64(k.rsa.N.Bytes()), "e": b64(big.NewInt(int64(k.rsa.E)).Bytes())},
		map[string]any{"kty": "EC", "kid": "e1", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])},
		map[string]any{"kty": "OKP", "kid": "d1", "crv": "Ed25519", "alg": "EdDSA", "x": b64(k.ed.Public().(ed25519.PublicKey))},
		map[string]any{"kty": "RSA", "kid": "enc", "use": "enc", "n": b64(k.rsa.N.Bytes()), "e": "AQAB"},
		map[string]any{"kty": "AKP", "kid": "new", "pub": "AA"},
	}}
}

// sign signs by the algorithm that the header names.
func (k keyPairs) sign(t testing.TB, head, claims string) string {
	t.Helper()
	for _, alg := range publicAlgs() {
		if strings.Contains(head, alg) {
			return k.signAs(t, alg, head, claims)
		}
	}
	return k.signAs(t, algEdDSA, head, claims)
}

// signAs signs two texts as they are.
func (k keyPairs) signAs(t testing.TB, alg, head, claims string) string {
	t.Helper()
	signed := b64([]byte(head)) + "." + b64([]byte(claims))
	sum := sha256.Sum256([]byte(signed))
	var sig []byte
	var err error
	switch alg {
	case algRS256:
		sig, err = rsa.SignPKCS1v15(rand.Reader, k.rsa, crypto.SHA256, sum[:])
	case algPS256:
		sig, err = rsa.SignPSS(rand.Reader, k.rsa, crypto.SHA256, sum[:], nil)
	case algES256:
		sig, err = signEC(k.ec, sum[:], 32)
	case algES384:
		sum := sha512.Sum384([]byte(signed))
		sig, err = signEC(k.p384, sum[:], 48)
	default:
		sig = ed25519.Sign(k.ed, []byte(signed))
	}
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + b64(sig)
}

func signEC(key *ecdsa.PrivateKey, sum []byte, size int) ([]byte, error) {
	r, s, err := ecdsa.Sign(rand.Reader, key, sum)
	if err != nil {
		return nil, err
	}
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...), nil
}

func writeJSON(t testing.TB, path string, v any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	// By rename, as a careful operator or a mounted secret does it.
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// newVerifier returns one that has a secret and a key set.
func newVerifier(t testing.TB, k keyPairs) *Verifier {
	t.Helper()
	path := filepath.Join(t.TempDir(), "jwks.json")
	writeJSON(t, path, k.jwks(t))
	v, err := New(Config{Issuer: testIssuer, Audience: testAudience, HMACSecret: testSecret(), JWKSFile: path, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVerifyAccepts(t *testing.T) {
	k := newKeyPairs(t)
	v := newVerifier(t, k)
	for _, row := range []struct{ name, token string }{
		{"at+jwt", hs256(goodHead, goodClaims)},
		{"JWT", hs256(`{"alg":"HS256","typ":"JWT"}`, goodClaims)},
		{"jwt in small letters", hs256(`{"alg":"HS256","typ":"jwt"}`, goodClaims)},
		{"full media type", hs256(`{"alg":"HS256","typ":"application/at+jwt"}`, goodClaims)},
		{"HS256 with a plain kid", hs256(`{"alg":"HS256","typ":"JWT","kid":"main_1"}`, goodClaims)},
		{"unknown header member", hs256(`{"alg":"HS256","typ":"JWT","x5t":"abc"}`, goodClaims)},
		{"one of several audiences", hs256(goodHead, with(t, `"sluice-api"`, `["other","sluice-api"]`))},
		{"unknown claims", hs256(goodHead, with(t, `{`, `{"client_id":"x","nested":{"exp":[1,{"a":null}]},`))},
		{"unknown scopes", hs256(goodHead, with(t, `"jobs:read `, `"openid jobs:read `))},
		{"fraction of a second", hs256(goodHead, with(t, fmt.Sprint(start+3600), fmt.Sprint(start+3600)+".5"))},
		{"nbf now", hs256(goodHead, with(t, `{`, fmt.Sprintf(`{"nbf":%d,`, start)))},
		{"nbf within the leeway", hs256(goodHead, with(t, `{`, fmt.Sprintf(`{"nbf":%d,`, start+29)))},
		{"iat within the leeway", hs256(goodHead, with(t, fmt.Sprintf(`"iat":%d`, start), fmt.Sprintf(`"iat":%d`, start+29)))},
		{"expired within the leeway", hs256(goodHead, with(t, fmt.Sprintf(`"exp":%d,"iat":%d`, start+3600, start), fmt.Sprintf(`"exp":%d,"iat":%d`, start-29, start-600)))},
		{"the longest lifetime", hs256(goodHead, with(t, fmt.Sprint(start+3600), fmt.Sprint(start+86400)))},
		{"white space", hs256(" {\n\"alg\": \"HS256\",\t\"typ\":\"JWT\"}\r\n", " "+goodClaims+"\n")},
		{"RS256", k.sign(t, `{"alg":"RS256","typ":"at+jwt","kid":"r1"}`, goodClaims)},
		{"ES256", k.sign(t, `{"alg":"ES256","typ":"at+jwt","kid":"e1"}`, goodClaims)},
		{"EdDSA", k.sign(t, `{"alg":"EdDSA","typ":"at+jwt","kid":"d1"}`, goodClaims)},
	} {
		if _, err := v.Verify(t.Context(), row.token); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	got, err := v.Verify(t.Context(), hs256(goodHead, goodClaims))
	want := Claims{Subject: "alice", Tenant: "acme", ID: "t-1", Scopes: []string{"jobs:read", "jobs:write"}, ExpiresAt: time.Unix(start+3600, 0).UTC()}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

// TestReasons pins that what is refused late is refused for its own reason.
func TestReasons(t *testing.T) {
	v := newVerifier(t, newKeyPairs(t))
	for want, token := range map[string]string{
		"has expired":              hs256(goodHead, with(t, fmt.Sprintf(`"exp":%d,"iat":%d`, start+3600, start), fmt.Sprintf(`"exp":%d,"iat":%d`, start-30, start-600))),
		"has this iss":             hs256(goodHead, with(t, `"iss":"sluice"`, `"iss":"x"`)),
		"another audience":         hs256(goodHead, with(t, `"sluice-api"`, `"x"`)),
		"issued in the future":     hs256(goodHead, with(t, fmt.Sprintf(`"iat":%d`, start), fmt.Sprintf(`"iat":%d`, start+31))),
		"not valid yet":            hs256(goodHead, with(t, `{`, fmt.Sprintf(`{"nbf":%d,`, start+31))),
		"signature is not":         sign256([]byte("another secret, thirty-two bytes"), b64([]byte(goodHead))+"."+b64([]byte(goodClaims))),
		"the lifetime is too long": hs256(goodHead, with(t, fmt.Sprint(start+3600), fmt.Sprint(start+86401))),
		"tenant":                   hs256(goodHead, with(t, "acme", "a c")),
		"names a member twice":     hs256(goodHead, with(t, `{`, `{"sub":"x",`)),
		"another case":             hs256(goodHead, with(t, `{`, `{"SUB":"x",`)),
		"required claim":           hs256(goodHead, with(t, `"jti"`, `"id"`)),
	} {
		_, err := v.Verify(t.Context(), token)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a reason with %q", err, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	good := func() Config {
		return Config{Issuer: "i", Audience: "a", HMACSecret: testSecret()}
	}
	for _, row := range []struct {
		name string
		edit func(*Config)
		want string
	}{
		{"no issuer", func(c *Config) { c.Issuer = "" }, "auth.issuer"},
		{"blank issuer", func(c *Config) { c.Issuer = " " }, "auth.issuer"},
		{"no audience", func(c *Config) { c.Audience = "" }, "auth.audience"},
		{"short secret", func(c *Config) { c.HMACSecret = testSecret()[:31] }, "auth.hmac_secret"},
		{"no key", func(c *Config) { c.HMACSecret = nil }, "auth.jwks_url"},
		{"negative lifetime", func(c *Config) { c.MaxLifetime = -1 }, "auth.max_lifetime"},
		{"negative leeway", func(c *Config) { c.Leeway = -1 }, "auth.leeway"},
		{"long leeway", func(c *Config) { c.Leeway = time.Hour }, "auth.leeway"},
		{"no file", func(c *Config) { c.JWKSFile = filepath.Join(dir, "none") }, "auth.jwks_file"},
		{"file and address", func(c *Config) { c.JWKSFile, c.JWKSURL = dir, "https://a.example/k" }, "only one"},
		{"plain http", func(c *Config) { c.JWKSURL = "http://a.example/k" }, "auth.jwks_url"},
		{"user in the address", func(c *Config) { c.JWKSURL = "https://u:p@a.example/k" }, "auth.jwks_url"},
		{"relative address", func(c *Config) { c.JWKSURL = "/keys" }, "auth.jwks_url"},
		{"other scheme", func(c *Config) { c.JWKSURL = "file:///etc/passwd" }, "auth.jwks_url"},
	} {
		c := good()
		row.edit(&c)
		if v, err := New(c); err == nil || v != nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want an error with %q", row.name, err, row.want)
		} else if strings.Contains(err.Error(), string(testSecret()[:31])) || strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: the error repeats a secret: %v", row.name, err)
		}
	}
	_, err := New(Config{})
	for _, key := range []string{"auth.issuer", "auth.audience", "auth.hmac_secret"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("got %v, want every fault at once, also %s", err, key)
		}
	}
}

func TestScopes(t *testing.T) {
	for _, row := range []struct {
		has, ask string
		want     bool
	}{
		{ScopeJobsRead, ScopeJobsRead, true},
		{ScopeJobsWrite, ScopeJobsRead, false},
		{ScopeJobsRead, ScopeJobsWrite, false},
		{ScopeAdmin, ScopeMonitor, true},
		{ScopeMonitor, ScopeAdmin, false},
		{ScopeAdmin, ScopeJobsRead, false},
		{ScopeAdmin, ScopeWebhooksWrite, false},
		{"jobs:readall", ScopeJobsRead, false},
		{"ADMIN", ScopeAdmin, false},
		{ScopeAdmin, "", false},
	} {
		if got := (Claims{Scopes: []string{"x", row.has}}).Has(row.ask); got != row.want {
			t.Errorf("has %q, asked for %q: got %t, want %t", row.has, row.ask, got, row.want)
		}
	}
}

func TestMint(t *testing.T) {
	c := MintConfig{Secret: testSecret(), Issuer: testIssuer, Audience: testAudience, Subject: "cli", Tenant: "acme",
		Scopes: []string{ScopeJobsRead, ScopeAdmin}, TTL: 2 * time.Hour, Now: clock}
	v := newVerifier(t, newKeyPairs(t))
	one, err := Mint(c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.Verify(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	want := Claims{Subject: "cli", Tenant: "acme", ID: got.ID, Scopes: c.Scopes, ExpiresAt: time.Unix(start+7200, 0).UTC()}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	two, err := Mint(c)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := v.Verify(t.Context(), two); err != nil || other.ID == got.ID || len(got.ID) < 20 {
		t.Errorf("ids %q and %q, %v; want two random ones", got.ID, other.ID, err)
	}
	c.TTL = 0
	if one, err = Mint(c); err != nil {
		t.Fatal(err)
	}
	if got, err = v.Verify(t.Context(), one); err != nil || !got.ExpiresAt.Equal(clock().Add(time.Hour)) {
		t.Errorf("got %v, %v; want an hour", got.ExpiresAt, err)
	}

	for _, row := range []struct {
		name string
		edit func(*MintConfig)
		want string
	}{
		{"short secret", func(c *MintConfig) { c.Secret = c.Secret[:31] }, "secret"},
		{"no issuer", func(c *MintConfig) { c.Issuer = "" }, "issuer"},
		{"no audience", func(c *MintConfig) { c.Audience = "" }, "audience"},
		{"no subject", func(c *MintConfig) { c.Subject = "" }, "subject"},
		{"no tenant", func(c *MintConfig) { c.Tenant = "" }, "tenant"},
		{"no scope", func(c *MintConfig) { c.Scopes = nil }, "scope"},
		{"misspelt scope", func(c *MintConfig) { c.Scopes = []string{"job:read"} }, "scope"},
		{"negative ttl", func(c *MintConfig) { c.TTL = -time.Hour }, "ttl"},
	} {
		bad := c
		row.edit(&bad)
		if tok, err := Mint(bad); err == nil || tok != "" || !strings.HasPrefix(err.Error(), row.want) {
			t.Errorf("%s: got %v, want an error about %s", row.name, err, row.want)
		}
	}
}

func TestBearer(t *testing.T) {
	for _, row := range []struct {
		fields []string
		want   string
		err    error
	}{
		{nil, "", ErrMissing},
		{[]string{"Bearer a.b.c"}, "a.b.c", nil},
		{[]string{"bearer a.b.c"}, "a.b.c", nil},
		{[]string{"Bearer  a.b.c "}, "a.b.c", nil},
		{[]string{"Basic YTpi"}, "", ErrInvalid},
		{[]string{"a.b.c"}, "", ErrInvalid},
		{[]string{"Bearer a.b.c", "Bearer a.b.c"}, "", ErrInvalid},
		{[]string{""}, "", ErrInvalid},
	} {
		got, err := Bearer(http.Header{"Authorization": row.fields})
		if got != row.want || !errors.Is(err, row.err) {
			t.Errorf("%q: got %q, %v; want %q, %v", row.fields, got, err, row.want, row.err)
		}
	}
}

func TestValidTenant(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "7": true, "acme": true, "org_AbC": true, "a-b_c": true, strings.Repeat("a", 64): true,
		"": false, "-a": false, "_a": false, "a.b": false, "a b": false, "a:b": false, "ä": false, strings.Repeat("a", 65): false,
	} {
		if got := ValidTenant(name); got != want {
			t.Errorf("%q: got %t, want %t", name, got, want)
		}
	}
}

func FuzzVerify(f *testing.F) {
	v, err := New(Config{Issuer: testIssuer, Audience: testAudience, HMACSecret: testSecret(), Now: clock})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(goodHead, goodClaims)
	f.Add(`{"alg":"none"}`, goodClaims)
	f.Add(goodHead, `{"exp":1e9,"aud":["a",{}]}`)
	f.Fuzz(func(t *testing.T, head, claims string) {
		got, err := v.Verify(context.Background(), hs256(head, claims))
		if err != nil {
			if !errors.Is(err, ErrInvalid) || !reflect.DeepEqual(got, Claims{}) {
				t.Fatalf("got %+v, %v; want no claims and ErrInvalid", got, err)
			}
			return
		}
		// Whatever is accepted must mean the same to a reader that knows none of the rules.
		var m map[string]any
		if err := json.Unmarshal([]byte(claims), &m); err != nil {
			t.Fatalf("accepted what is not JSON: %v", err)
		}
		if m["sub"] != got.Subject || m["tenant"] != got.Tenant || m["jti"] != got.ID || m["scope"] != strings.Join(got.Scopes, " ") ||
			m["iss"] != testIssuer || !ValidTenant(got.Tenant) || got.Subject == "" || got.ID == "" {
			t.Fatalf("got %+v of %s", got, claims)
		}
		if left := got.ExpiresAt.Sub(clock()); left <= -30*time.Second || left > 24*time.Hour+30*time.Second {
			t.Fatalf("accepted with %s left", left)
		}
	})
}

// FuzzRaw feeds whole tokens: none is accepted unless it is the one that was signed.
func FuzzRaw(f *testing.F) {
	v, err := New(Config{Issuer: testIssuer, Audience: testAudience, HMACSecret: testSecret(), Now: clock})
	if err != nil {
		f.Fatal(err)
	}
	good := hs256(goodHead, goodClaims)
	f.Add(good)
	f.Add(good + "\n")
	f.Add(strings.Repeat(".", 100))
	f.Fuzz(func(t *testing.T, raw string) {
		if _, err := v.Verify(context.Background(), raw); (err == nil) != (raw == good) {
			t.Fatalf("%q: got %v", raw, err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	k := newKeyPairs(b)
	v := newVerifier(b, k)
	for _, row := range []struct{ name, token string }{
		{"HS256", hs256(goodHead, goodClaims)},
		{"RS256", k.sign(b, `{"alg":"RS256","typ":"at+jwt","kid":"r1"}`, goodClaims)},
		{"ES256", k.sign(b, `{"alg":"ES256","typ":"at+jwt","kid":"e1"}`, goodClaims)},
		{"EdDSA", k.sign(b, `{"alg":"EdDSA","typ":"at+jwt","kid":"d1"}`, goodClaims)},
		{"refused", "eyJhbGciOiJub25lIn0.e30.AA"},
	} {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = v.Verify(b.Context(), row.token)
			}
		})
	}
}
