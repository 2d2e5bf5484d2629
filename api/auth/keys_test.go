package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestParseKeysRefuses(t *testing.T) {
	k := newKeyPairs(t)
	key := func(i int, edit func(m map[string]any)) string {
		m := k.jwks(t)["keys"].([]any)[i].(map[string]any)
		edit(m)
		text, err := json.Marshal(map[string]any{"keys": []any{m}})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	const rsaAt, ecAt, edAt = 0, 1, 2
	for _, row := range []struct{ name, text string }{
		{"empty", ``},
		{"not JSON", `x`},
		{"no keys", `{"keys":[]}`},
		{"null", `null`},
		{"duplicate member", `{"keys":[],"keys":[]}`},
		{"symmetric", `{"keys":[{"kty":"oct","kid":"a","k":"AAAA"}]}`},
		{"only for encryption", key(rsaAt, func(m map[string]any) { m["use"] = "enc" })},
		{"not to verify", key(rsaAt, func(m map[string]any) { m["key_ops"] = []string{"encrypt"} })},
		{"private", key(edAt, func(m map[string]any) { m["d"] = "AAAA" })},
		{"no kid", key(rsaAt, func(m map[string]any) { delete(m, "kid") })},
		{"kid with a space", key(rsaAt, func(m map[string]any) { m["kid"] = "a b" })},
		{"RS512", key(rsaAt, func(m map[string]any) { m["alg"] = "RS512" })},
		{"nothing but its certificate", key(rsaAt, func(m map[string]any) { delete(m, "n"); delete(m, "e"); m["x5c"] = []string{"AAAA"} })},
		{"a discovery document", `{"issuer":"https://a.example","jwks_uri":"https://a.example/keys"}`},
		{"small RSA", key(rsaAt, func(m map[string]any) { m["n"] = b64(bytes.Repeat([]byte{0xff}, 128)) })},
		{"huge RSA", key(rsaAt, func(m map[string]any) { m["n"] = b64(bytes.Repeat([]byte{0xff}, 2048)) })},
		{"even modulus", key(rsaAt, func(m map[string]any) { m["n"] = b64(bytes.Repeat([]byte{0xfe}, 256)) })},
		{"exponent 1", key(rsaAt, func(m map[string]any) { m["e"] = "AQ" })},
		{"exponent even", key(rsaAt, func(m map[string]any) { m["e"] = "AQAA" })},
		{"no exponent", key(rsaAt, func(m map[string]any) { delete(m, "e") })},
		{"padded modulus", key(rsaAt, func(m map[string]any) { m["n"] = m["n"].(string) + "==" })},
		{"line break in the modulus", key(rsaAt, func(m map[string]any) { m["n"] = "\n" + m["n"].(string) })},
		{"not on the curve", key(ecAt, func(m map[string]any) { m["x"] = m["y"] })},
		{"point at infinity", key(ecAt, func(m map[string]any) { m["x"], m["y"] = b64(make([]byte, 32)), b64(make([]byte, 32)) })},
		{"short coordinate", key(ecAt, func(m map[string]any) { m["x"] = "AAAA" })},
		{"another curve", key(ecAt, func(m map[string]any) { m["crv"] = "P-384" })},
		{"ES256 for Ed25519", key(edAt, func(m map[string]any) { m["alg"] = "ES256" })},
		{"short Ed25519", key(edAt, func(m map[string]any) { m["x"] = "AAAA" })},
		{"too many", `{"keys":[` + strings.Repeat(`{"kty":"x"},`, maxKeys) + `{"kty":"x"}]}`},
	} {
		if set, err := parseKeys([]byte(row.text)); err == nil {
			t.Errorf("%s: got %d keys, want an error", row.name, len(set.keys))
		}
	}
	set, err := parseKeys([]byte(mustJSON(t, k.jwks(t))))
	if err != nil || len(set.keys) != 3 || len(set.skipped) > 0 {
		t.Errorf("got %+v, %v; want the three that are used", set, err)
	}
}

// TestABadKeyIsLeftOutAndNamed puts each kind of key that is not as it should be
// beside a good one.
func TestABadKeyIsLeftOutAndNamed(t *testing.T) {
	t.Parallel()
	k, other := newKeyPairs(t), newKeyPairs(t)
	list := k.jwks(t)["keys"].([]any)
	good := list[2]
	with := func(from any, edit func(m map[string]any)) string {
		m := maps.Clone(from.(map[string]any))
		edit(m)
		return mustJSON(t, m)
	}
	set := func(m map[string]any, name string, v any) { m[name] = v }
	for _, row := range []struct {
		name, key string
		skipped   string // a part of what is said; "": nothing
		fatal     bool
	}{
		{name: "small RSA", key: with(list[0], func(m map[string]any) { set(m, "n", b64(bytes.Repeat([]byte{0xff}, 128))) }), skipped: "1024 bits"},
		{name: "no kid", key: with(list[0], func(m map[string]any) { delete(m, "kid") }), skipped: "kid must be"},
		{name: "kid a number", key: with(list[0], func(m map[string]any) { set(m, "kid", 7) }), skipped: "not a JSON Web Key"},
		{name: "n a number", key: with(list[0], func(m map[string]any) { set(m, "n", 7) }), skipped: "not a JSON Web Key"},
		{name: "only a certificate", key: with(list[0], func(m map[string]any) { delete(m, "n"); set(m, "x5c", []string{"AAAA"}) }), skipped: "n: missing"},
		{name: "padded coordinate", key: with(list[1], func(m map[string]any) { set(m, "x", m["x"].(string)+"=") }), skipped: "x: not base64url"},
		{name: "off the curve", key: with(list[1], func(m map[string]any) { set(m, "x", m["y"]) }), skipped: "not on the curve"},
		{name: "a member twice", key: `{"kty":"RSA","kid":"a","kid":"b"}`, skipped: "named twice"},
		{name: "no object", key: `7`, skipped: "not a JSON Web Key"},
		{name: "another curve", key: with(list[1], func(m map[string]any) { set(m, "crv", "P-521") })},
		{name: "symmetric without its secret", key: `{"kty":"oct","kid":"a"}`},
		{name: "for encryption", key: with(list[0], func(m map[string]any) { set(m, "use", "enc"); set(m, "n", "AA") })},
		{name: "the good one again", key: mustJSON(t, good)},
		{name: "one of its kid and another kind", key: with(list[1], func(m map[string]any) { set(m, "kid", "d1") })},
		{name: "symmetric", key: `{"kty":"oct","kid":"a","k":"AAAA"}`, fatal: true},
		{name: "private Ed25519", key: with(list[2], func(m map[string]any) { set(m, "d", "AAAA") }), fatal: true},
		{name: "private by its primes", key: with(list[0], func(m map[string]any) { set(m, "p", "AAAA") }), fatal: true},
		{name: "private of a kind that is not used", key: `{"kty":"AKP","alg":"ML-DSA-44","kid":"a","priv":"AAAA"}`, fatal: true},
		{name: "private beside a member twice", key: `{"kty":"RSA","kid":"a","kid":"b","d":"AAAA"}`, fatal: true},
	} {
		got, err := parseKeys([]byte(`{"keys":[` + row.key + `,` + mustJSON(t, good) + `]}`))
		if row.fatal {
			if err == nil || !strings.Contains(err.Error(), "keys[0]") || strings.Contains(err.Error(), "AAAA") {
				t.Errorf("%s: got %v, want an error that names the key and not its secret", row.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if _, err := got.find(keyName{"d1", algEdDSA}); err != nil {
			t.Errorf("%s: the good key: %v", row.name, err)
		}
		said := strings.Join(got.skipped, "; ")
		if row.skipped == "" && said != "" || !strings.Contains(said, row.skipped) || row.skipped != "" && !strings.HasPrefix(said, "keys[0]") {
			t.Errorf("%s: said %q, want %q of keys[0]", row.name, said, row.skipped)
		}
	}

	// Two keys of one kid and algorithm: nobody can say which is meant.
	twins := `{"keys":[` + mustJSON(t, good) + `,` + mustJSON(t, other.jwks(t)["keys"].([]any)[2]) + `,` + mustJSON(t, good) + `,` + mustJSON(t, list[1]) + `]}`
	got, err := parseKeys([]byte(twins))
	if err != nil || len(got.keys) != 1 || got.has("d1") || len(got.skipped) != 2 {
		t.Errorf("twins: got %+v, %v; want neither and the third key", got, err)
	}
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func FuzzParseKeys(f *testing.F) {
	f.Add(mustJSON(f, newKeyPairs(f).jwks(f)))
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"AA","y":"AA"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		set, err := parseKeys([]byte(text))
		if (err == nil) != (set != nil) || set != nil && len(set.keys) == 0 {
			t.Fatalf("got %+v, %v", set, err)
		}
	})
}

func TestKeyFileIsReadAgainWhenItChanges(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	path := filepath.Join(t.TempDir(), "jwks.json")
	before, after := newKeyPairs(t), newKeyPairs(t)
	writeJSON(t, path, before.jwks(t))
	var logged bytes.Buffer
	reg := prometheus.NewPedanticRegistry()
	v, err := New(Config{Issuer: testIssuer, Audience: testAudience, JWKSFile: path, Metrics: reg,
		Now: func() time.Time { return time.Unix(0, now.Load()) }, Log: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	iat := time.Unix(0, now.Load()).Unix()
	claims := strings.NewReplacer(fmt.Sprint(start+3600), fmt.Sprint(iat+3600), fmt.Sprint(start), fmt.Sprint(iat)).Replace(goodClaims)
	const head = `{"alg":"EdDSA","typ":"JWT","kid":"d1"}`
	one, two := before.sign(t, head, claims), after.sign(t, head, claims)
	check := func(when string, wantOne, wantTwo bool) {
		t.Helper()
		_, err1 := v.Verify(t.Context(), one)
		_, err2 := v.Verify(t.Context(), two)
		if (err1 == nil) != wantOne || (err2 == nil) != wantTwo {
			t.Fatalf("%s: got %v and %v, want accepted %t and %t", when, err1, err2, wantOne, wantTwo)
		}
	}
	check("at first", true, false)
	writeJSON(t, path, after.jwks(t))
	check("after a new file", false, true)

	// An unusable file is no reason to lock everybody out, and is said once.
	if err := os.WriteFile(path, []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	check("after a broken file", false, true)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check("after the file is gone", false, true)
	if got := strings.Count(logged.String(), "level=ERROR"); got != 2 {
		t.Errorf("%d errors logged, want one for the broken file and one for the missing one:\n%s", got, &logged)
	}
	writeJSON(t, path, before.jwks(t))
	check("after the old file is back", true, false)

	// Written in place within the grain of the file system's clock: same size, same time.
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	text := mustJSON(t, after.jwks(t))
	if int64(len(text)) != info.Size() {
		t.Fatalf("two sets of %d and %d bytes; this test needs equal ones", len(text), info.Size())
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil {
		t.Fatal(err)
	}
	now.Add(int64(150 * time.Millisecond))
	check("after an unseen change", false, true)
	if n, err := testutil.GatherAndCount(reg, "sluice_auth_key_set_loads_total"); err != nil || n != 2 {
		t.Errorf("got %d series, %v; want ok and error", n, err)
	}
}

// issuer is a key server that counts its requests.
type issuer struct {
	*httptest.Server
	mu     sync.Mutex
	answer http.HandlerFunc
	hits   int
}

func newIssuer(t *testing.T, answer http.HandlerFunc) *issuer {
	i := &issuer{answer: answer}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		i.hits++
		answer := i.answer
		i.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) now(answer http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

func (i *issuer) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.hits
}

func serve(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
}

func TestKeysFromAnAddress(t *testing.T) {
	var offset atomic.Int64
	now := func() time.Time { return clock().Add(time.Duration(offset.Load())) }
	advance := func(d time.Duration) { offset.Add(int64(d)) }
	k, next := newKeyPairs(t), newKeyPairs(t)
	set := mustJSON(t, k.jwks(t))
	iss := newIssuer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	v, err := New(Config{Issuer: testIssuer, Audience: testAudience, JWKSURL: iss.URL + "/keys?secret=hidden", Now: now, MaxLifetime: 100 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	claims := with(t, fmt.Sprint(start+3600), fmt.Sprint(start+99*3600))
	good := k.sign(t, `{"alg":"ES256","typ":"JWT","kid":"e1"}`, claims)
	unknown := k.sign(t, `{"alg":"ES256","typ":"JWT","kid":"nobody"}`, claims)
	rotated := next.sign(t, `{"alg":"ES256","typ":"JWT","kid":"e2"}`, claims)
	step := func(name, token string, want error, wantHits int) {
		t.Helper()
		_, err := v.Verify(t.Context(), token)
		if !errors.Is(err, want) || iss.count() != wantHits {
			t.Fatalf("%s: got %v after %d requests, want %v after %d", name, err, iss.count(), want, wantHits)
		}
	}
	if iss.count() != 0 {
		t.Fatal("New asked the issuer")
	}
	step("issuer down", good, ErrUnavailable, 1)
	step("asked again at once", good, ErrUnavailable, 1)
	advance(retryAfter)
	for name, answer := range map[string]http.HandlerFunc{
		"redirect":   func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"too long":   serve(strings.Repeat(" ", maxSetBytes) + set),
		"not a set":  serve("<html>"),
		"no content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
	} {
		iss.now(answer)
		step(name, good, ErrUnavailable, iss.count()+1)
		advance(retryAfter)
	}
	iss.now(serve(set))
	hits := iss.count() + 1
	step("issuer up", good, nil, hits)
	step("no second request", good, nil, hits)
	step("unknown kid just after", unknown, ErrInvalid, hits+1)
	step("unknown kid again", unknown, ErrInvalid, hits+1)
	if _, err := v.Verify(t.Context(), unknown); errors.Is(err, ErrUnavailable) {
		t.Errorf("an unknown kid is called unavailable: %v", err)
	}

	// The issuer rotates just after somebody asked for an unknown kid: the new key is
	// found by its unknown name, at once.
	iss.now(serve(strings.ReplaceAll(mustJSON(t, next.jwks(t)), `"e1"`, `"e2"`)))
	step("rotated", rotated, nil, hits+2)
	step("the old one is gone", good, ErrInvalid, hits+3)

	// A flood of made-up kids: what is left of five fetches, and then one in 10 s.
	madeUp := func(i int) string {
		return b64(fmt.Appendf(nil, `{"alg":"ES256","typ":"JWT","kid":"made-up-%d"}`, i)) + strings.TrimPrefix(rotated, strings.Split(rotated, ".")[0])
	}
	for i := range 1000 {
		step("flood", madeUp(i), ErrInvalid, min(hits+4+i, hits+5))
	}
	hits += 5
	step("after the flood", rotated, nil, hits)
	for i := range 3 {
		advance(retryAfter)
		for range 10 {
			step("later", madeUp(1000+i), ErrInvalid, hits+i+1)
		}
	}
	hits++

	// The issuer is away: keys stay for a day, asked for at most every ten seconds.
	iss.now(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	advance(refreshAfter)
	step("stale", rotated, nil, hits+3)
	step("stale again", rotated, nil, hits+3)
	advance(dropAfter)
	step("too stale", rotated, ErrUnavailable, hits+4)
}

// TestKeysAreFetchedOnce holds the issuer back while many callers need its keys.
func TestKeysAreFetchedOnce(t *testing.T) {
	k := newKeyPairs(t)
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	iss := newIssuer(t, func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		_, _ = w.Write([]byte(mustJSON(t, k.jwks(t))))
	})
	v, err := New(Config{Issuer: testIssuer, Audience: testAudience, JWKSURL: iss.URL, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	token := k.sign(t, `{"alg":"EdDSA","typ":"JWT","kid":"d1"}`, goodClaims)
	// The first caller goes away; those who wait for its fetch are served all the same.
	first, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 20)
	go func() { _, err := v.Verify(first, token); errs <- err }()
	<-arrived
	cancel()
	for range 19 {
		go func() { _, err := v.Verify(t.Context(), token); errs <- err }()
	}
	gone, stop := context.WithCancel(t.Context())
	stop()
	if _, err := v.Verify(gone, token); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a caller that is gone: got %v, want ErrUnavailable at once", err)
	}
	close(release)
	for range 20 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := iss.count(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}
