package auth

import (
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// TestKeySetsAreFetchedAtStart runs what keeps them, without any token.
func TestKeySetsAreFetchedAtStart(t *testing.T) {
	t.Parallel()
	k := newKeyPairs(t)
	asked := make(chan struct{}, 10)
	iss := newIssuer(t, func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		_, _ = w.Write([]byte(strings.Replace(mustJSON(t, k.jwks(t)), `{"keys":[`, `{"keys":[{"kty":"RSA","kid":"small","n":"AQAB","e":"AQAB"},`, 1)))
	})
	v, err := New(Config{Issuer: testIssuer, Audience: testAudience, JWKSURL: iss.URL, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	if got := v.KeySets(); len(got) != 1 || got[0].Setting != "auth" || got[0].Down != "auth: the key set has not been fetched yet" {
		t.Errorf("before: %+v", got)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- v.Run(ctx) }()
	<-asked
	redistest.Until(t, "the set serves", func() bool { return v.KeySets()[0].Down == "" })
	if got := v.KeySets()[0].Notices; len(got) != 1 || !strings.Contains(got[0], `keys[0] (kid "small"): n: 17 bits`) {
		t.Errorf("notices %q; want the key that is not used", got)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestAKeyThatMayBeNewIsNotRefusedWhileTheIssuerIsAway says 503 and not 401.
func TestAKeyThatMayBeNewIsNotRefusedWhileTheIssuerIsAway(t *testing.T) {
	t.Parallel()
	k := newKeyPairs(t)
	var now atomic.Int64
	iss := newIssuer(t, serve(mustJSON(t, k.jwks(t))))
	v, err := New(Config{Issuer: testIssuer, Audience: testAudience, JWKSURL: iss.URL, Now: func() time.Time { return clock().Add(time.Duration(now.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	known, other := k.sign(t, `{"alg":"EdDSA","typ":"JWT","kid":"d1"}`, goodClaims), k.sign(t, `{"alg":"EdDSA","typ":"JWT","kid":"d2"}`, goodClaims)
	if _, err := v.Verify(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	iss.now(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	for range 3 {
		if _, err := v.Verify(t.Context(), other); !errors.Is(err, ErrUnavailable) {
			t.Errorf("an unknown key while the issuer is away: %v", err)
		}
	}
	if _, err := v.Verify(t.Context(), known); err != nil {
		t.Errorf("a known one: %v", err)
	}
	if got := v.KeySets()[0]; got.Down != "" || len(got.Notices) != 1 || !strings.Contains(got.Notices[0], "status 502") {
		t.Errorf("the state: %+v", got)
	}
	now.Add(int64(dropAfter))
	if got := v.KeySets()[0]; !strings.Contains(got.Down, "status 502") {
		t.Errorf("after a day: %+v", got)
	}
}

// TestAnIssuerThatComesBackIsUsedAgain has an issuer away at the start and later: it is
// asked every 10 s, and once it answers its tokens are good, without anybody's doing.
func TestAnIssuerThatComesBackIsUsedAgain(t *testing.T) {
	t.Parallel()
	k := newKeyPairs(t)
	away := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	iss, keys := newIssuer(t, away), serve(mustJSON(t, k.jwks(t)))
	token := k.sign(t, `{"alg":"EdDSA","typ":"JWT","kid":"d1"}`, goodClaims)
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		v, err := New(Config{Issuer: testIssuer, Audience: testAudience, JWKSURL: iss.URL, Now: func() time.Time { return clock().Add(time.Since(begun)) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- v.Run(ctx) }()
		asked := 0
		for _, step := range []struct {
			name   string
			after  time.Duration
			answer http.HandlerFunc // from then on
			asked  int              // meanwhile; -1: once or more
			good   bool
			down   string // a part of Down
			notice string // a part of the only one
		}{
			{"at the start", 0, away, 1, false, "status 503", ""},
			{"before it is asked again", retryAfter - time.Second, away, 0, false, "status 503", ""},
			{"asked again", time.Second, keys, 1, false, "status 503", ""},
			{"back, and not asked yet", retryAfter - time.Second, keys, 0, false, "status 503", ""},
			{"asked once more", time.Second, away, 1, true, "", ""},
			{"away again", renewAfter + renewAfter/10, away, -1, true, "", "status 503"},
			{"still away", retryAfter, keys, -1, true, "", "status 503"},
			{"back", retryAfter, keys, -1, true, "", ""},
		} {
			<-time.After(step.after)
			synctest.Wait()
			if n := iss.count() - asked; step.asked >= 0 && n != step.asked || step.asked < 0 && n == 0 {
				t.Errorf("%s: asked %d times, want %d", step.name, n, step.asked)
			}
			asked = iss.count()
			s := v.KeySets()[0]
			if (step.down == "") != (s.Down == "") || !strings.Contains(s.Down, step.down) {
				t.Errorf("%s: down %q, want %q", step.name, s.Down, step.down)
			}
			if (step.notice == "") != (len(s.Notices) == 0) || step.notice != "" && !strings.Contains(s.Notices[0], step.notice) {
				t.Errorf("%s: notices %q, want %q", step.name, s.Notices, step.notice)
			}
			if _, err := v.Verify(ctx, token); (err == nil) != step.good || !step.good && !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s: %v", step.name, err)
			}
			if n := iss.count() - asked; n != 0 {
				t.Errorf("%s: a caller asked %d times beside it", step.name, n)
			}
			iss.now(step.answer)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestWhereKeysComeFrom tries addresses that do not serve as they should.
func TestWhereKeysComeFrom(t *testing.T) {
	t.Parallel()
	k := newKeyPairs(t)
	dir := t.TempDir()
	keys := mustJSON(t, k.jwks(t))
	mux := http.NewServeMux()
	var url string
	doc := func(path, issuer, jwks string) {
		mux.HandleFunc(path+wellKnown, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(mustJSON(t, map[string]string{"issuer": strings.ReplaceAll(issuer, "URL", url), "jwks_uri": strings.ReplaceAll(jwks, "URL", url)})))
		})
	}
	mux.HandleFunc("/keys", serve(keys))
	mux.HandleFunc("/guarded", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer let-me-in" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(keys))
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/keys", http.StatusFound) })
	mux.HandleFunc("/private", serve(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"AAAA","d":"hidden"}]}`))
	mux.HandleFunc("/html", serve("<html>"))
	doc("/good", "URL/good", "URL/keys")
	doc("/mixed", "URL/good", "URL/keys")
	doc("/plain", "URL/plain", "http://keys.example/keys")
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	url = server.URL
	ca, token := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "token")
	if err := errors.Join(
		os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600),
		os.WriteFile(token, []byte("let-me-in\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		at   keyPlace
		want string // a part of what anybody may read; "": the keys are had
	}{
		{"its own authority", keyPlace{url: url + "/keys", caFile: ca}, ""},
		{"discovery", keyPlace{issuer: url + "/good", discovery: true, caFile: ca}, ""},
		{"a token to ask with", keyPlace{url: url + "/guarded", caFile: ca, tokenFile: token}, ""},
		{"no token to ask with", keyPlace{url: url + "/guarded", caFile: ca}, "status 401: it asks for credentials, see token_file"},
		{"an unknown authority", keyPlace{url: url + "/keys"}, "authority that is not known here, see ca_file"},
		{"moved", keyPlace{url: url + "/moved", caFile: ca}, "redirects are not followed"},
		{"a private key", keyPlace{url: url + "/private", caFile: ca}, "keys[0]: has d: a private or symmetric key"},
		{"a discovery document", keyPlace{url: url + "/good" + wellKnown, caFile: ca}, "set discovery: true"},
		{"no set", keyPlace{url: url + "/html", caFile: ca}, "not a JSON Web Key Set"},
		{"nothing there", keyPlace{url: url + "/none", caFile: ca}, "status 404"},
		{"another issuer's document", keyPlace{issuer: url + "/mixed", discovery: true, caFile: ca}, "is of another issuer"},
		{"keys without TLS", keyPlace{issuer: url + "/plain", discovery: true, caFile: ca}, "has to be https"},
		{"refused", keyPlace{url: "http://127.0.0.1:1/keys"}, "it cannot be reached"},
		{"no such name", keyPlace{url: "https://none.invalid/keys"}, "cannot be re"},
	} {
		source := newRemoteKeys(loader{at: row.at})
		set, err := source.fetch(t.Context())
		if row.want == "" {
			if err != nil || len(set.keys) != 3 {
				t.Errorf("%s: %v", row.name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(safeFetch(err), row.want) || strings.Contains(safeFetch(err), "hidden") || strings.Contains(safeFetch(err), "127.0.0.1") {
			t.Errorf("%s: %v, said %q; want %q", row.name, err, safeFetch(err), row.want)
		}
	}
}
