package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// issuerKey is the one RSA key of the tests' issuer.
var issuerKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// startIssuer is an issuer with discovery and a key set, whatever its path; while away
// is set it answers 503.
func startIssuer(t *testing.T, away *atomic.Bool) (url string, sign func(file, iss string, life time.Duration) string) {
	t.Helper()
	key, err := issuerKey()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		prefix, discovery := strings.CutSuffix(r.URL.Path, "/.well-known/openid-configuration")
		switch {
		case away.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		case discovery:
			iss := "http://" + r.Host + prefix
			if strings.Contains(prefix, "slash") {
				iss += "/"
			}
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"http://%s/keys"}`, iss, r.Host)
		default:
			fmt.Fprintf(w, `{"keys":[{"kty":"RSA","use":"sig","kid":"k","n":%q,"e":%q},{"kty":"RSA","use":"sig","n":"AQAB","e":"AQAB"}]}`,
				b64(key.N.Bytes()), b64(big.NewInt(int64(key.E)).Bytes()))
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, func(file, iss string, life time.Duration) string {
		text := project(t, "api/auth/testdata/tokens/"+file+".json")
		now := time.Now()
		var parts struct{ Header, Claims json.RawMessage }
		if err := json.Unmarshal([]byte(strings.NewReplacer(`"IAT"`, fmt.Sprint(now.Add(-time.Minute).Unix()), `"EXP"`, fmt.Sprint(now.Add(life).Unix()), "ISSUER", iss, "KID", "k").Replace(text)), &parts); err != nil {
			t.Fatal(err)
		}
		signed := b64(parts.Header) + "." + b64(parts.Claims)
		sum := sha256.Sum256([]byte(signed))
		sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return signed + "." + b64(sig)
	}
}

// TestTheIssuersOfTheDocsWork takes each block of docs/issuers.md as it stands, and then
// with the address of an issuer that is really there, and asks sluice auth check about
// that issuer's tokens.
func TestTheIssuersOfTheDocsWork(t *testing.T) {
	t.Parallel()
	blocks := regexp.MustCompile("(?s)<!-- issuer ([a-z0-9 -]+) -->\n```yaml\n(.*?)```").FindAllStringSubmatch(project(t, "docs/issuers.md"), -1)
	if len(blocks) != 8 {
		t.Fatalf("docs/issuers.md has %d blocks, want 8", len(blocks))
	}
	url, sign := startIssuer(t, new(atomic.Bool))
	dir := t.TempDir()
	for _, b := range blocks {
		file := filepath.Join(dir, strings.Fields(b[1])[0]+".yaml")
		if err := os.WriteFile(file, []byte(b[2]), 0o600); err != nil {
			t.Fatal(err)
		}
		c, faults := config.Load(file, []string{"HOME=" + dir})
		if len(faults) > 0 {
			t.Errorf("%s: %v", b[1], faults)
			continue
		}
		iss := url + "/" + strings.Fields(b[1])[0]
		if strings.HasSuffix(c.Auth.Issuers[0].Issuer, "/") {
			iss += "/slash/"
		}
		here := strings.Replace(b[2], c.Auth.Issuers[0].Issuer, iss, 1)
		if err := os.WriteFile(file, []byte(here), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, token := range strings.Fields(b[1]) {
			code, stdout, stderr := invoke(t, sign(token, iss, time.Hour)+"\n", nil, "--config", file, "auth", "check", "-")
			if code != 0 || !strings.Contains(stdout, "\naccepted: tenant ") || strings.Contains(stdout, "FAULT") {
				t.Errorf("%s: code %d\n%s%s", token, code, stdout, stderr)
			}
			if !strings.Contains(stdout, "keys[1]") {
				t.Errorf("%s: nothing says that a key of the set is not used:\n%s", token, stdout)
			}
			code, stdout, stderr = invoke(t, "", nil, "--config", file, "auth", "check", sign(token, iss, -31*time.Second))
			if code != 1 || !strings.Contains(stdout, "FAULT  times") || !strings.Contains(stderr, "refused (expired)") {
				t.Errorf("%s, expired: code %d\n%s%s", token, code, stdout, stderr)
			}
		}
	}
}

// A key set that cannot be had stops nobody who has another issuer's token, and is named;
// while there is no other way to judge a token, the process is not ready.
func TestAKeySetThatCannotBeHadRefusesNobodyElse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		secret, other bool // also configured
		ready         string
	}{
		"alone":                {ready: "discovery: status 503"},
		"beside a secret":      {secret: true, ready: "ok"},
		"beside another set":   {other: true, ready: "ok"},
		"beside a set as well": {secret: true, other: true, ready: "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var away, never atomic.Bool
			away.Store(true)
			url, sign := startIssuer(t, &away)
			issuers := `{"issuer":"` + url + `/a","audiences":["api://sluice"],"discovery":true,"tenant":"acme"}`
			otherURL, otherSign := startIssuer(t, &never)
			if c.other {
				issuers += `,{"issuer":"` + otherURL + `/b","audiences":["api://sluice"],"discovery":true,"tenant":"acme"}`
			}
			env := []string{"HOME=" + t.TempDir(), "SLUICE_REDIS__URL=" + redistest.Start(t, redistest.Options{}).URL(), `SLUICE_AUTH__ISSUERS=[` + issuers + `]`}
			var secret []byte
			if c.secret {
				secret = []byte(strings.Repeat("s", 32))
				env = append(env, "SLUICE_AUTH__HMAC_SECRET="+string(secret))
			}
			cfg, faults := config.Load("", env)
			if len(faults) > 0 {
				t.Fatal(faults)
			}
			s, err := newService(t.Context(), cfg, roles{api: true}, slog.New(slog.NewTextHandler(io.Discard, nil)))
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := s.close(); err != nil {
					t.Error(err)
				}
			}()
			if _, err := s.newAPI("http://127.0.0.1", secret); err != nil {
				t.Fatal(err)
			}
			keys := func() string {
				for _, c := range s.checks() {
					if c.Name == "keys" {
						if err := c.Check(t.Context()); err != nil {
							return err.Error()
						}
						return "ok"
					}
				}
				return "no part"
			}
			notice := func() string { return strings.Join(s.notes(), "; ") }
			if got := notice(); !strings.Contains(got, "auth.issuers[0]: the key set has not been fetched yet") {
				t.Errorf("before: %s", got)
			}
			if _, err := s.verifier.Verify(t.Context(), sign("okta", url+"/a", time.Hour)); err == nil {
				t.Error("a token is accepted without keys")
			}
			if c.other {
				if _, err := s.verifier.Verify(t.Context(), otherSign("okta", otherURL+"/b", time.Hour)); err != nil {
					t.Errorf("a token of the other issuer: %v", err)
				}
			}
			if got := keys(); !strings.Contains(got, c.ready) || strings.Contains(got, "127.0.0.1") {
				t.Errorf("away: %s; want %s", got, c.ready)
			}
			if got := notice(); !strings.Contains(got, "auth.issuers[0]") || !strings.Contains(got, "discovery: status 503") || strings.Contains(got, "127.0.0.1") {
				t.Errorf("away, the notices: %s", got)
			}
			// It comes back, and 10 s later its tokens are good: the judge's clock alone moves.
			var later atomic.Int64
			s.verifier, err = auth.New(auth.Config{Issuer: "sluice", Audience: "sluice", HMACSecret: secret, Issuers: cfg.Auth.Foreign(), Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) }})
			if err != nil {
				t.Fatal(err)
			}
			if c.other {
				if _, err := s.verifier.Verify(t.Context(), otherSign("okta", otherURL+"/b", time.Hour)); err != nil {
					t.Error(err)
				}
			}
			for _, step := range []struct {
				away  bool
				later time.Duration
				ready string
				good  bool
			}{{true, 0, c.ready, false}, {false, 9 * time.Second, c.ready, false}, {false, 10 * time.Second, "ok", true}} {
				away.Store(step.away)
				later.Store(int64(step.later))
				if _, err := s.verifier.Verify(t.Context(), sign("okta", url+"/a", time.Hour)); (err == nil) != step.good {
					t.Errorf("%+v: %v", step, err)
				}
				if got, said := keys(), notice(); !strings.Contains(got, step.ready) || strings.Contains(said, "auth.issuers[0]: the key set") == step.good {
					t.Errorf("%+v: %s; %s", step, got, said)
				}
			}
		})
	}
}
