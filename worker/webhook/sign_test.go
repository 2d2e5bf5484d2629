package webhook_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	official "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/sluicehq/sluice/worker/webhook"
)

// The published vectors: the first in the tests of the official Go library, the
// second in those of Svix's server.
const (
	vectorID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorBody      = `{"test": 2432232314}`
	vectorSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorV1        = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	vectorPrivate   = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
	vectorPublic    = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
	vectorV1a       = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
	vectorTimestamp = 1614265330
)

func vectorTime() time.Time { return time.Unix(vectorTimestamp, 0) }

func secret(t testing.TB, s string) webhook.Secret {
	t.Helper()
	k, err := webhook.ParseSecret(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func privateKey(t testing.TB, s string) webhook.PrivateKey {
	t.Helper()
	k, err := webhook.ParsePrivateKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func publicKey(t testing.TB, s string) webhook.PublicKey {
	t.Helper()
	k, err := webhook.ParsePublicKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func headers(id, timestamp, signature string) http.Header {
	h := http.Header{}
	h.Set(webhook.HeaderID, id)
	h.Set(webhook.HeaderTimestamp, timestamp)
	h.Set(webhook.HeaderSignature, signature)
	return h
}

func TestPublishedVectors(t *testing.T) {
	for _, c := range []struct {
		name string
		key  webhook.Key
		want string
		with webhook.VerifyKey
	}{
		{"v1", secret(t, vectorSecret), vectorV1, secret(t, vectorSecret)},
		{"v1a", privateKey(t, vectorPrivate), vectorV1a, publicKey(t, vectorPublic)},
	} {
		got := webhook.Sign(vectorID, vectorTime(), []byte(vectorBody), c.key)
		if got != c.want {
			t.Errorf("%s: Sign = %q, want %q", c.name, got, c.want)
		}
		h := headers(vectorID, strconv.Itoa(vectorTimestamp), c.want)
		if err := webhook.Verify(h, []byte(vectorBody), vectorTime(), c.with); err != nil {
			t.Errorf("%s: Verify = %v, want nil", c.name, err)
		}
	}
	if got := privateKey(t, vectorPrivate).Public().String(); got != vectorPublic {
		t.Errorf("public key = %s, want %s", got, vectorPublic)
	}
}

func TestSignOrder(t *testing.T) {
	current, old := webhook.NewSecret(), secret(t, vectorSecret)
	signature := webhook.Sign(vectorID, vectorTime(), []byte(vectorBody),
		privateKey(t, vectorPrivate), current, old, webhook.Secret{}, webhook.PrivateKey{}, nil)
	entries := strings.Split(signature, " ")
	if len(entries) != 3 {
		t.Fatalf("Sign with three usable keys and three zero ones = %d entries, want 3", len(entries))
	}
	if want := webhook.Sign(vectorID, vectorTime(), []byte(vectorBody), current); entries[0] != want {
		t.Errorf("the first entry is not the current secret's: %s", entries[0])
	}
	if entries[1] != vectorV1 || entries[2] != vectorV1a {
		t.Errorf("entries 2 and 3 = %q, want the old secret's and then the v1a one", entries[1:])
	}
	if got := webhook.Sign(vectorID, vectorTime(), nil, webhook.Secret{}); got != "" {
		t.Errorf("Sign with the zero secret = %q, want nothing", got)
	}
}

func TestParseKeys(t *testing.T) {
	b64 := func(n int) string {
		return strings.TrimPrefix(mustSecretOf(t, n), "whsec_")
	}
	for _, c := range []struct {
		name, in string
		ok       bool
	}{
		{"24 bytes", "whsec_" + b64(24), true},
		{"64 bytes", "whsec_" + b64(64), true},
		{"23 bytes", "whsec_" + b64(23), false},
		{"65 bytes", "whsec_" + b64(65), false},
		{"one byte", "whsec_AA==", false},
		{"empty", "", false},
		{"prefix alone", "whsec_", false},
		{"no prefix", b64(24), false},
		{"another prefix", "whsk_" + b64(24), false},
		{"no padding", "whsec_" + strings.TrimRight(b64(25), "="), false},
		{"loose trailing bits", "whsec_" + strings.Repeat("A", 34) + "B=", false},
		{"line break", "whsec_" + b64(24)[:16] + "\n" + b64(24)[16:], false},
		{"leading space", " whsec_" + b64(24), false},
		{"url alphabet", "whsec_" + strings.Repeat("-_", 16), false},
	} {
		s, err := webhook.ParseSecret(c.in)
		if (err == nil) != c.ok {
			t.Errorf("%s: ParseSecret = %v, want ok %v", c.name, err, c.ok)
		}
		if err == nil && s.Reveal() != c.in {
			t.Errorf("%s: Reveal is not what was parsed", c.name)
		}
		if err != nil && len(c.in) > 12 && strings.Contains(err.Error(), c.in[6:]) {
			t.Errorf("%s: the error quotes the secret: %v", c.name, err)
		}
	}

	seedOnly := "whsk_" + strings.TrimPrefix(mustSecretOf(t, 32), "whsec_")
	if _, err := webhook.ParsePrivateKey(seedOnly); err == nil {
		t.Error("a private key of 32 bytes was taken")
	}
	// The public half of another key: signing with the pair would reveal the seed.
	other := webhook.NewPrivateKey().Reveal()
	mixed := vectorPrivate[:len("whsk_")+40] + other[len("whsk_")+40:]
	if _, err := webhook.ParsePrivateKey(mixed); err == nil {
		t.Error("a private key with another key's public half was taken")
	}
	fresh := webhook.NewPrivateKey()
	if got := privateKey(t, fresh.Reveal()); got.Public().String() != fresh.Public().String() {
		t.Error("a fresh private key does not survive Reveal and ParsePrivateKey")
	}
	if _, err := webhook.ParsePublicKey("whpk_AAAA"); err == nil {
		t.Error("a public key of 3 bytes was taken")
	}
	if a, b := webhook.NewSecret().Reveal(), webhook.NewSecret().Reveal(); a == b {
		t.Error("two new secrets are the same")
	}
}

// mustSecretOf returns n bytes in whsec_ form, whether or not they make a secret.
func mustSecretOf(t testing.TB, n int) string {
	t.Helper()
	b, err := json.Marshal(bytes.Repeat([]byte{7}, n))
	if err != nil {
		t.Fatal(err)
	}
	return "whsec_" + strings.Trim(string(b), `"`)
}

func TestSecretsDoNotShow(t *testing.T) {
	s, k := secret(t, vectorSecret), privateKey(t, vectorPrivate)
	holder := struct {
		S webhook.Secret
		P *webhook.Secret
		K webhook.PrivateKey
	}{s, &s, k}
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%08b", "%c"} {
		for _, v := range []any{s, &s, k, holder, []webhook.Secret{s}, map[string]webhook.PrivateKey{"k": k}} {
			fmt.Fprintf(&b, verb+"\n", v)
		}
	}
	fmt.Fprintln(&b, errors.New(fmt.Sprint(s)), s.String(), k.String())
	for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(h).Info("x", "s", s, "k", k, "holder", holder, "group", slog.GroupValue(slog.Any("s", s)))
	}
	// The first bytes of either key, as the verbs above would write them.
	raw := []byte{0x31, 0xf2, 0x90}
	seed := []byte{0xe9, 0x76, 0xff}
	for _, part := range [][]byte{raw, seed} {
		for _, verb := range []string{"%d", "%x", "%X", "%#v", "%v"} {
			if leak := strings.Trim(fmt.Sprintf(verb, part), "[]{}"); strings.Contains(b.String(), leak) {
				t.Errorf("output holds the key's bytes as %q", leak)
			}
		}
	}
	for _, text := range []string{vectorSecret[6:14], vectorPrivate[5:13]} {
		if strings.Contains(b.String(), text) {
			t.Error("output holds the key's text")
		}
	}
	if _, err := json.Marshal(holder); err == nil {
		t.Error("a secret was marshalled")
	}
}

func TestVerify(t *testing.T) {
	key := secret(t, vectorSecret)
	stamp := strconv.Itoa(vectorTimestamp)
	good := func() http.Header { return headers(vectorID, stamp, vectorV1) }
	body := []byte(vectorBody)
	now := vectorTime()
	other := webhook.Sign(vectorID, now, body, webhook.NewSecret())

	for _, c := range []struct {
		name string
		h    http.Header
		body []byte
		now  time.Time
		keys []webhook.VerifyKey
		want error
	}{
		{"good", good(), body, now, nil, nil},
		{"second of two", headers(vectorID, stamp, other+" "+vectorV1), body, now, nil, nil},
		{"after an unknown version", headers(vectorID, stamp, "v9,AAAA "+vectorV1), body, now, nil, nil},
		{"second key", good(), body, now, []webhook.VerifyKey{webhook.NewSecret(), key}, nil},
		{"at the end of tolerance", good(), body, now.Add(webhook.Tolerance), nil, nil},
		{"at the start of tolerance", good(), body, now.Add(-webhook.Tolerance), nil, nil},
		{"too old", good(), body, now.Add(webhook.Tolerance + time.Second), nil, webhook.ErrTooOld},
		{"too new", good(), body, now.Add(-webhook.Tolerance - time.Second), nil, webhook.ErrTooNew},
		{"another body", good(), []byte(`{"test":2432232314}`), now, nil, webhook.ErrSignature},
		{"another id", headers("msg_x", stamp, vectorV1), body, now, nil, webhook.ErrSignature},
		{"another time", headers(vectorID, strconv.Itoa(vectorTimestamp+1), vectorV1), body, now, nil, webhook.ErrSignature},
		{"another key", good(), body, now, []webhook.VerifyKey{webhook.NewSecret()}, webhook.ErrSignature},
		{"no key", good(), body, now, []webhook.VerifyKey{}, webhook.ErrSignature},
		{"zero keys", good(), body, now, []webhook.VerifyKey{webhook.Secret{}, webhook.PublicKey{}, nil}, webhook.ErrSignature},
		{"another version", headers(vectorID, stamp, "v1a"+vectorV1[2:]), body, now, nil, webhook.ErrSignature},
		{"no version", headers(vectorID, stamp, vectorV1[3:]), body, now, nil, webhook.ErrSignature},
		{"empty signature", headers(vectorID, stamp, "v1,"), body, now, nil, webhook.ErrSignature},
		{"cut signature", headers(vectorID, stamp, vectorV1[:len(vectorV1)-4]), body, now, nil, webhook.ErrSignature},
		{"line break in the signature", headers(vectorID, stamp, vectorV1[:9]+"\n"+vectorV1[9:]), body, now, nil, webhook.ErrSignature},
		{"17 signatures", headers(vectorID, stamp, strings.Repeat("v1,AAAA ", 16)+vectorV1), body, now, nil, webhook.ErrHeaders},
		{"no headers", http.Header{}, body, now, nil, webhook.ErrHeaders},
		{"two signature lines", withValue(good(), webhook.HeaderSignature, other), body, now, nil, webhook.ErrHeaders},
		{"two ids", withValue(good(), webhook.HeaderID, "msg_2"), body, now, nil, webhook.ErrHeaders},
		{"two times", withValue(good(), webhook.HeaderTimestamp, stamp), body, now, nil, webhook.ErrHeaders},
		{"signed time", headers(vectorID, "+"+stamp, vectorV1), body, now, nil, webhook.ErrHeaders},
		{"padded time", headers(vectorID, "0"+stamp, vectorV1), body, now, nil, webhook.ErrHeaders},
		{"time with a tail", headers(vectorID, stamp+"abc", vectorV1), body, now, nil, webhook.ErrHeaders},
		{"time with a fraction", headers(vectorID, stamp+".0", vectorV1), body, now, nil, webhook.ErrHeaders},
		{"time past any clock", headers(vectorID, strings.Repeat("9", 19), vectorV1), body, now, nil, webhook.ErrHeaders},
		{"id with a full stop", headers(vectorID+".1", stamp, vectorV1), body, now, nil, webhook.ErrHeaders},
	} {
		keys := c.keys
		if keys == nil {
			keys = []webhook.VerifyKey{key}
		}
		if err := webhook.Verify(c.h, c.body, c.now, keys...); err != c.want {
			t.Errorf("%s: Verify = %v, want %v", c.name, err, c.want)
		}
	}
}

func withValue(h http.Header, name, value string) http.Header {
	h.Add(name, value)
	return h
}

// An empty key signs what anybody can sign; at least one verifier takes it.
func TestForgeryWithEmptyKey(t *testing.T) {
	forger, err := official.NewWebhookRaw([]byte{})
	if err != nil {
		t.Fatal(err)
	}
	signature, err := forger.Sign(vectorID, vectorTime(), []byte(vectorBody))
	if err != nil {
		t.Fatal(err)
	}
	h := headers(vectorID, strconv.Itoa(vectorTimestamp), signature)
	if err := webhook.Verify(h, []byte(vectorBody), vectorTime(), webhook.Secret{}); err != webhook.ErrSignature {
		t.Errorf("Verify of a message signed with the empty key = %v, want %v", err, webhook.ErrSignature)
	}
}

// The id "a.1700000000" with body "x" is signed as the id "a" with body
// "1700000000.x" at the same time is, so neither may be an id of ours.
func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"msg_01J": true, "a-b_C9": true, strings.Repeat("a", 128): true,
		"": false, "a.1700000000": false, "a b": false, "a\n": false, "ä": false, strings.Repeat("a", 129): false,
	} {
		if got := webhook.ValidID(id); got != want {
			t.Errorf("ValidID(%q) = %v, want %v", id, got, want)
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add(vectorID, strconv.Itoa(vectorTimestamp), vectorV1, []byte(vectorBody))
	f.Add(vectorID, strconv.Itoa(vectorTimestamp), vectorV1a+" "+vectorV1, []byte(vectorBody))
	f.Add("a.1", "0", "v1,,v1 ,", []byte{0xff})
	s, k := secret(f, vectorSecret), privateKey(f, vectorPrivate)
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte) {
		h := headers(id, timestamp, signature)
		err := webhook.Verify(h, body, vectorTime(), s, k.Public())
		var reason webhook.VerifyError
		if err != nil && !errors.As(err, &reason) {
			t.Fatalf("error of another type: %v", err)
		}
		if err == nil {
			// Whatever verifies was signed by us: Sign must make the same entry.
			unix, perr := strconv.ParseInt(timestamp, 10, 64)
			if perr != nil || strconv.FormatInt(unix, 10) != timestamp || !webhook.ValidID(id) {
				t.Fatalf("verified id %q at %q", id, timestamp)
			}
			found := false
			for _, key := range []webhook.Key{s, k} {
				for entry := range strings.SplitSeq(signature, " ") {
					found = found || entry == webhook.Sign(id, time.Unix(unix, 0), body, key)
				}
			}
			if !found {
				t.Fatalf("verified %q, which Sign does not make", signature)
			}
		}
		if webhook.ValidID(id) {
			// And what we sign verifies, whatever the body.
			ours := headers(id, strconv.Itoa(vectorTimestamp), webhook.Sign(id, vectorTime(), body, k, s))
			if err := webhook.Verify(ours, body, vectorTime(), s); err != nil {
				t.Fatalf("our own signature: %v", err)
			}
		}
	})
}

func BenchmarkSign(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 2048)
	for _, c := range []struct {
		name string
		key  webhook.Key
	}{{"v1", webhook.NewSecret()}, {"v1a", webhook.NewPrivateKey()}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				webhook.Sign(vectorID, vectorTime(), body, c.key)
			}
		})
	}
}
