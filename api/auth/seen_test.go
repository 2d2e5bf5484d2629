package auth

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A token that was good a moment ago is known again, and all the same no good any more once
// its time, its key or a letter of it is another.
func TestATokenThatWasGoodIsJudgedAgain(t *testing.T) {
	k, other := newKeyPairs(t), newKeyPairs(t)
	for _, alg := range []string{"HS256", "ES256", "EdDSA"} {
		kid := map[string]string{"HS256": "s1", "ES256": "e1", "EdDSA": "d1"}[alg]
		head := fmt.Sprintf(`{"alg":%q,"typ":"JWT","kid":%q}`, alg, kid)
		raw := hs256(head, goodClaims)
		if alg != "HS256" {
			raw = k.sign(t, head, goodClaims)
		}
		now := clock()
		path := filepath.Join(t.TempDir(), "jwks.json")
		writeJSON(t, path, k.jwks(t))
		v, err := New(Config{Issuer: testIssuer, Audience: testAudience, HMACSecret: testSecret(), JWKSFile: path, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		check := func(when, token, want string) {
			t.Helper()
			if _, err := v.Verify(t.Context(), token); (err == nil) != (want == "") || reasonOf(err) != want {
				t.Errorf("%s, %s: got %v (%s), want %q", alg, when, err, reasonOf(err), want)
			}
		}
		for range 2 {
			check("at first", raw, "")
		}
		at := strings.LastIndex(raw, ".") + 1
		changed := raw[:at] + string('A'+(raw[at]-'A'+1)%26) + raw[at+1:]
		check("with another signature", changed, reasonSignature)
		now = clock().Add(time.Hour + 29*time.Second)
		check("within the leeway", raw, "")
		now = clock().Add(time.Hour + 31*time.Second)
		check("expired", raw, reasonExpired)
		now = clock().Add(-31 * time.Second)
		check("by a clock that was set back", raw, reasonNotYet)
		now = clock().Add(time.Minute)
		check("in time again", raw, "")
		if alg == "HS256" {
			continue
		}
		writeJSON(t, path, other.jwks(t))
		now = now.Add(time.Second)
		check("by another key of this name", raw, reasonSignature)
	}
}

// Who sends a token again and again has its signature checked once, and many tokens take
// no more room than some.
func TestTokensAreKnownAgain(t *testing.T) {
	v := newVerifier(t, newKeyPairs(t))
	raw := hs256(goodHead, goodClaims)
	verify := func(raw string) {
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Error(err)
		}
	}
	if n := testing.AllocsPerRun(50, func() { verify(raw) }); n > 8 {
		t.Errorf("the same token takes %.0f allocations each time, at most 8", n)
	}
	for i := range mostSeen + 8 {
		verify(hs256(goodHead, with(t, `"t-1"`, fmt.Sprintf(`"n-%d"`, i))))
	}
	if n := len(v.seen.of); n != mostSeen {
		t.Errorf("%d tokens are remembered, want %d", n, mostSeen)
	}
}
