package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// subject is a token that is accepted, and what can be changed about it.
type subject struct {
	head, claims map[string]string                // members and their JSON
	sign         func(head, claims string) string // with the right key, whatever the header says
	public       any                              // its public key; nil: it is signed with testSecret
	foreign      bool                             // typ and jti are not asked of its issuer
	aud, sub     string                           // the claims' names
	tenant       []string                         // path of the tenant's claim; nil: it has none
	scope        string                           // the name of the scope's claim; "": it has none
}

// object writes members down as they are, in a stable order.
func object(members map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(members)) {
		parts = append(parts, fmt.Sprintf("%q:%s", name, members[name]))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func (s subject) good() string { return s.sign(object(s.head), object(s.claims)) }

// hd is the token with pairs of a header's member and its JSON; "" takes it out.
func (s subject) hd(pairs ...string) string {
	return s.sign(object(changed(s.head, pairs)), object(s.claims))
}

// cl is the token with pairs of a claim and its JSON; "" takes it out.
func (s subject) cl(pairs ...string) string {
	return s.sign(object(s.head), object(changed(s.claims, pairs)))
}

func changed(members map[string]string, pairs []string) map[string]string {
	out := maps.Clone(members)
	for i := 0; i < len(pairs); i += 2 {
		if out[pairs[i]] = pairs[i+1]; pairs[i+1] == "" {
			delete(out, pairs[i])
		}
	}
	return out
}

// also is the token with a member written in front of its claims, whatever is there.
func (s subject) also(name, value string) string {
	return s.sign(object(s.head), fmt.Sprintf("{%q:%s,", name, value)+object(s.claims)[1:])
}

// in is the token with the claim of the tenant changed.
func (s subject) in(value string) string {
	last := len(s.tenant) - 1
	for i := last; i > 0; i-- {
		var inner map[string]json.RawMessage
		if err := json.Unmarshal([]byte(s.claims[s.tenant[0]]), &inner); err != nil || i > 1 {
			panic("a tenant's claim deeper than the test can change")
		}
		texts := map[string]string{}
		for k, v := range inner {
			texts[k] = string(v)
		}
		value = object(changed(texts, []string{s.tenant[i], value}))
	}
	return s.cl(s.tenant[0], value)
}

// hostileRow is a token that nobody may accept.
type hostileRow struct{ name, token string }

// hostile is every way in which a token is forged, broken or meant for others.
func hostile(t testing.TB, s subject) (rows []hostileRow) {
	t.Helper()
	rows = append(rows, hostileForms(s)...)
	rows = append(rows, hostileAlgorithms(t, s)...)
	rows = append(rows, hostileHeaders(s)...)
	rows = append(rows, hostileClaims(s)...)
	rows = append(rows, hostileTimes(s)...)
	rows = append(rows, hostileNames(s)...)
	if !s.foreign {
		rows = append(rows, hostileOwn(s)...)
	}
	return rows
}

// hostileForms are about the compact form and the signature.
func hostileForms(s subject) []hostileRow {
	good := s.good()
	parts := strings.Split(good, ".")
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	spare := strings.IndexByte(alphabet, parts[2][len(parts[2])-1]) // the same bytes, with other spare bits
	return []hostileRow{
		{"empty", ""},
		{"one part", parts[0]},
		{"two parts", parts[0] + "." + parts[1]},
		{"four parts", good + ".AA"},
		{"five parts, as a JWE", good + ".AA.AA"},
		{"no signature", parts[0] + "." + parts[1] + "."},
		{"no header", "." + parts[1] + "." + parts[2]},
		{"no claims", sign256(testSecret(), parts[0]+".")},
		{"only dots", ".."},
		{"megabytes of dots", strings.Repeat(".", 2<<20)},
		{"longer than any", s.cl("x", `"`+strings.Repeat("a", 16<<10)+`"`)},
		{"padded", good + "="},
		{"newline in the signature", good[:len(good)-4] + "\n" + good[len(good)-4:]},
		{"carriage return at the end", good + "\r"},
		{"space before", " " + good},
		{"NUL", good + "\x00"},
		{"standard base64", parts[0] + "." + parts[1] + ".+" + parts[2][1:]},
		{"spare bits in the signature", parts[0] + "." + parts[1] + "." + parts[2][:len(parts[2])-1] + string(alphabet[spare^1])},
		{"JSON serialisation", `{"payload":"` + parts[1] + `","signatures":[]}`},
		{"Bearer twice", "Bearer " + good},
		{"another secret", sign256([]byte("another secret, thirty-two bytes"), parts[0]+"."+parts[1])},
		{"empty secret", sign256(nil, parts[0]+"."+parts[1])},
		{"cut short", good[:len(good)-2]},
		{"a signature of zeros", parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2]))},
		{"of another token", parts[0] + "." + parts[1] + "." + strings.Split(s.cl("x", "1"), ".")[2]},
		{"claims exchanged", parts[0] + "." + strings.Split(s.cl("x", "1"), ".")[1] + "." + parts[2]},
		{"header exchanged", strings.Split(s.hd("x", "1"), ".")[0] + "." + parts[1] + "." + parts[2]},
	}
}

// hostileAlgorithms are about the algorithm and the key.
func hostileAlgorithms(t testing.TB, s subject) []hostileRow {
	t.Helper()
	claims := b64([]byte(object(s.claims)))
	headed := func(pairs ...string) string { return b64([]byte(object(changed(s.head, pairs)))) + "." + claims }
	rows := []hostileRow{
		{"none", headed("alg", `"none"`) + ".AA"},
		{"none, rightly signed", s.hd("alg", `"none"`)},
		{"None", s.hd("alg", `"None"`)},
		{"no alg", s.hd("alg", "")},
		{"empty alg", s.hd("alg", `""`)},
		{"alg a number", s.hd("alg", `256`)},
		{"alg a list", s.hd("alg", `["HS256","RS256"]`)},
		{"alg null", s.hd("alg", `null`)},
		{"hs256", s.hd("alg", `"hs256"`)},
		{"HS384", s.hd("alg", `"HS384"`)},
		{"HS512", s.hd("alg", `"HS512"`)},
		{"RS1", s.hd("alg", `"RS1"`)},
		{"psychic ES256", headed("alg", `"ES256"`, "kid", `"e1"`) + "." + b64(make([]byte, 64))},
		{"psychic, of its own kid", headed("alg", `"ES256"`) + "." + b64(make([]byte, 64))},
	}
	// Rightly signed, but by the header for another algorithm.
	for _, alg := range append(publicAlgs(), algHS256) {
		if s.head["alg"] != `"`+alg+`"` {
			rows = append(rows, hostileRow{"called " + alg, s.hd("alg", `"`+alg+`"`)})
		}
	}
	if s.public == nil {
		return rows
	}
	// HS256 with what everybody knows for its secret, and with our own secret.
	der, err := x509.MarshalPKIXPublicKey(s.public)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]byte{"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "DER": der, "kid": []byte(strings.Trim(s.head["kid"], `"`))}
	switch k := s.public.(type) {
	case *rsa.PublicKey:
		known["modulus"] = k.N.Bytes()
		known["PKCS 1"] = x509.MarshalPKCS1PublicKey(k)
	case *ecdsa.PublicKey:
		if known["point"], err = k.Bytes(); err != nil {
			t.Fatal(err)
		}
	case ed25519.PublicKey:
		known["key"] = k
	}
	if s.foreign {
		known["own secret"] = testSecret()
	}
	for name, secret := range known {
		rows = append(rows,
			hostileRow{"HS256 keyed by the " + name, sign256(secret, headed("alg", `"HS256"`))},
			hostileRow{"HS256 keyed by the " + name + ", without kid", sign256(secret, headed("alg", `"HS256"`, "kid", ""))},
			hostileRow{"its own algorithm, keyed by the " + name, sign256(secret, headed())})
	}
	return rows
}

// hostileHeaders are about the rest of the header.
func hostileHeaders(s subject) []hostileRow {
	good := object(s.head)
	raw := func(head string) string { return s.sign(head, object(s.claims)) }
	alg := s.head["alg"]
	front := func(member string) string { return raw("{" + member + "," + good[1:]) }
	rows := []hostileRow{
		{"not JSON", raw(`alg`)},
		{"list", raw(`["HS256"]`)},
		{"null header", raw(`null`)},
		{"text after the header", raw(good + `{}`)},
		{"byte order mark", raw("\ufeff" + good)},
		{"duplicate alg", front(`"alg":"none"`)},
		{"duplicate kid", front(`"kid":"a","kid":"b"`)},
		{"duplicate typ", front(`"typ":"JWT","typ":"JWT"`)},
		{"duplicate by escape", front(`"\u0061lg":"none"`)},
		{"duplicate in a nested member", s.hd("x", `{"a":1,"a":2}`)},
		{"ALG too", s.hd("ALG", `"none"`)},
		{"Alg only", s.hd("alg", "", "Alg", alg)},
		{"KID too", s.hd("KID", `"x"`)},
		{"invalid UTF-8 in the header", s.hd("x", "\"\xff\"")},
		{"deep nesting", s.hd("x", strings.Repeat("[", 2000)+strings.Repeat("]", 1999))},
		{"typ of an id token", s.hd("typ", `"id+jwt"`)},
		{"typ of a logout token", s.hd("typ", `"logout+jwt"`)},
		{"typ of a proof", s.hd("typ", `"dpop+jwt"`)},
		{"typ empty", s.hd("typ", `""`)},
		{"typ JWE", s.hd("typ", `"JWE"`)},
		{"typ a list", s.hd("typ", `["JWT"]`)},
		{"typ null", s.hd("typ", `null`)},
		{"kid a path", s.hd("kid", `"../../dev/null"`)},
		{"kid SQL", s.hd("kid", `"x' UNION SELECT 'k"`)},
		{"kid empty", s.hd("kid", `""`)},
		{"kid a number", s.hd("kid", `1`)},
		{"kid null", s.hd("kid", `null`)},
		{"kid long", s.hd("kid", `"`+strings.Repeat("a", 129)+`"`)},
		{"kid with a line break", s.hd("kid", `"a\nb"`)},
	}
	for member, value := range map[string]string{
		"crit": `["x"]`, "Crit": `["x"]`, "b64": `true`, "jku": `"https://evil.example/keys"`, "jwk": `{"kty":"oct","k":"AA"}`,
		"x5u": `"https://evil.example/c"`, "x5c": `["AA"]`, "zip": `"DEF"`, "cty": `"JWT"`, "enc": `"A128GCM"`, "p2c": `2147483647`, "epk": `{}`, "JKU": `"https://evil.example/keys"`,
	} {
		rows = append(rows, hostileRow{member, s.hd(member, value)})
	}
	if s.public != nil {
		rows = append(rows,
			hostileRow{"without kid", s.hd("kid", "")},
			hostileRow{"an unknown kid", s.hd("kid", `"r2"`)},
			hostileRow{"the encryption key", s.hd("kid", `"enc"`)},
			hostileRow{"kid in another case", s.hd("kid", strings.ToUpper(s.head["kid"]))},
			hostileRow{"crit b64", s.hd("crit", `["b64"]`, "b64", `false`)})
	}
	return rows
}

// hostileClaims are about the form of the claims, and about those that are missing.
func hostileClaims(s subject) []hostileRow {
	good := object(s.claims)
	raw := func(claims string) string { return s.sign(object(s.head), claims) }
	rows := []hostileRow{
		{"claims not JSON", raw(`x`)},
		{"claims a list", raw(`[` + good + `]`)},
		{"claims null", raw(`null`)},
		{"claims a string", raw(`"x"`)},
		{"claims empty", raw(`{}`)},
		{"two objects", raw(good + good)},
		{"duplicate exp", s.also("exp", fmt.Sprint(start+7200))},
		{"duplicate iss", s.also("iss", `"evil"`)},
		{"duplicate sub by escape", raw(`{"\u00` + fmt.Sprintf("%x", s.sub[0]) + s.sub[1:] + `":"evil",` + good[1:])},
		{"duplicate unknown claim", raw(`{"x":1,"x":2,` + good[1:])},
		{"duplicate in a nested claim", s.cl("x", `{"y":[{"z":1,"z":2}]}`)},
		{"EXP too", s.cl("EXP", fmt.Sprint(start+7200))},
		{"ISS too", s.cl("ISS", `"evil"`)},
		{"Jti too", s.cl("Jti", `"x"`)},
		{"Sub too", s.cl(strings.ToUpper(s.sub), `"evil"`)},
		{"Aud too", s.cl(strings.ToUpper(s.aud), `"evil"`)},
		{"invalid UTF-8", s.cl("x", "\"ali\xffce\"")},
		{"lone surrogate", s.cl("x", `"ali\ud800ce"`)},
		{"comma at the end", raw(strings.TrimSuffix(good, "}") + ",}")},
		{"no iss", s.cl("iss", "")},
		{"no aud", s.cl(s.aud, "")},
		{"no sub", s.cl(s.sub, "")},
		{"no exp", s.cl("exp", "")},
		{"no iat", s.cl("iat", "")},
		{"jti null", s.cl("jti", `null`)},
		{"jti empty", s.cl("jti", `""`)},
		{"jti a number", s.cl("jti", `7`)},
		{"jti with a line break", s.cl("jti", `"a\nb"`)},
	}
	iss := strings.Trim(s.claims["iss"], `"`)
	for name, value := range map[string]string{
		"another issuer": `"` + iss + `.evil"`, "issuer in another case": `"` + strings.ToUpper(iss) + `"`, "issuer empty": `""`,
		"issuer a list": `["` + iss + `"]`, "issuer null": `null`, "issuer with a slash more": `"` + iss + `/"`, "issuer with a slash less": `"` + strings.TrimSuffix(iss, "/") + `x"`,
	} {
		rows = append(rows, hostileRow{name, s.cl("iss", value)})
	}
	var aud any
	if err := json.Unmarshal([]byte(s.claims[s.aud]), &aud); err != nil {
		panic(err)
	}
	one, _ := aud.(string)
	if list, ok := aud.([]any); ok {
		one = list[0].(string)
	}
	for name, value := range map[string]string{
		"another audience": `"other"`, "audience a prefix": `"` + one + `2"`, "audience empty": `""`, "no audience in the list": `[]`,
		"other audiences": `["a","b"]`, "audience within a list": `[["` + one + `"]]`, "audience an object": `{"` + one + `":1}`,
		"audience null": `null`, "a number among audiences": `["` + one + `",1]`, "audience in another case": `"` + strings.ToUpper(one) + `X"`,
	} {
		rows = append(rows, hostileRow{name, s.cl(s.aud, value)})
	}
	return rows
}

// hostileTimes are about when.
func hostileTimes(s subject) []hostileRow {
	at := func(n int) string { return fmt.Sprint(n) }
	exp, iat := s.claims["exp"], s.claims["iat"]
	rows := []hostileRow{
		{"expired", s.cl("exp", at(start-60), "iat", at(start-600))},
		{"exp and iat in milliseconds", s.cl("exp", exp+"000", "iat", iat+"000")},
		{"lives too long", s.cl("exp", at(start+86401))},
		{"old iat, far exp", s.cl("iat", at(start-86400), "exp", at(start+3600))},
		{"iat zero", s.cl("iat", `0`)},
		{"iat a string", s.cl("iat", `"`+iat+`"`)},
		{"iat null", s.cl("iat", `null`)},
		{"iat in the future", s.cl("iat", at(start+61))},
		{"exp at iat", s.cl("exp", iat)},
		{"exp before iat", s.cl("exp", at(start-1), "iat", at(start))},
		{"nbf in the future", s.cl("nbf", at(start+61))},
		{"nbf a string", s.cl("nbf", `"0"`)},
		{"nbf null", s.cl("nbf", `null`)},
	}
	for name, value := range map[string]string{
		"exp a string": `"` + exp + `"`, "exp in milliseconds": exp + "000", "exp null": `null`, "exp true": `true`, "exp zero": `0`, "exp negative": `-1`,
		"exp huge": `1e300`, "exp beyond any float": `1e999`, "exp just past int64": `9223372036854775808`, "exp NaN": `NaN`, "exp a list": `[` + exp + `]`,
	} {
		rows = append(rows, hostileRow{name, s.cl("exp", value)})
	}
	return rows
}

// hostileNames are about who and whose.
func hostileNames(s subject) (rows []hostileRow) {
	for name, value := range map[string]string{
		"sub empty": `""`, "sub null": `null`, "sub an object": `{"alice":1}`, "sub true": `true`, "sub long": `"` + strings.Repeat("a", 256) + `"`, "sub with a line break": `"al\nice"`,
		"sub with an escape sequence": `"\u001b[2Jalice"`, "sub turned round": `"\u202ealice"`, "two subs": `["alice","bob"]`,
	} {
		rows = append(rows, hostileRow{name, s.cl(s.sub, value)})
	}
	if s.tenant == nil {
		return rows
	}
	for name, value := range map[string]string{
		"tenant empty": `""`, "tenant null": `null`, "tenant with a colon": `"acme:job"`, "tenant with braces": `"{acme}"`, "tenant with a glob": `"*"`,
		"tenant with a slash": `"../acme"`, "tenant with a space": `"acme "`, "tenant with NUL": `"acme\u0000"`, "tenant with a letter that looks alike": "\"\u0430cme\"",
		"tenant long": `"` + strings.Repeat("a", 65) + `"`, "two tenants": `["acme","evil"]`, "no tenant in the list": `[]`, "tenant an object": `{"acme":{}}`, "tenant true": `true`,
		"a list within the tenant's": `[["acme"]]`, "no tenant": "",
	} {
		rows = append(rows, hostileRow{name, s.in(value)})
	}
	whole := strings.Join(s.tenant, ".")
	if len(s.tenant) > 1 {
		rows = append(rows, hostileRow{"a claim of the whole path beside the nested one", s.cl(whole, `"evil"`)})
	}
	return append(rows,
		hostileRow{"duplicate tenant", s.also(s.tenant[0], `"evil"`)},
		hostileRow{"TENANT too", s.cl(strings.ToUpper(s.tenant[0]), `"evil"`)},
		hostileRow{"Tenant only", s.cl(s.tenant[0], "", strings.ToUpper(s.tenant[0]), s.claims[s.tenant[0]])})
}

// hostileOwn are faults in a token of our own alone, whose form we know.
func hostileOwn(s subject) []hostileRow {
	return []hostileRow{
		{"longer than 8 KiB", s.cl("x", `"`+strings.Repeat("a", 8<<10)+`"`)},
		{"no typ", s.hd("typ", "")},
		{"no jti", s.cl("jti", "")},
		{"no scope", s.cl("scope", "")},
		{"long s in sub", s.cl("\u017fub", `"evil"`)},
		{"Scope too", s.cl("Scope", `"admin"`)},
		{"sub a number", s.cl("sub", `7`)},
		{"sub a list", s.cl("sub", `["alice"]`)},
		{"tenant a list", s.cl("tenant", `["acme"]`)},
		{"tenant a number", s.cl("tenant", `7`)},
		{"expired just now", s.cl("exp", fmt.Sprint(start-30), "iat", fmt.Sprint(start-600))},
		{"iat just in the future", s.cl("iat", fmt.Sprint(start+31))},
		{"nbf just in the future", s.cl("nbf", fmt.Sprint(start+31))},
		{"scope a list", s.cl("scope", `["admin"]`)},
		{"scope empty", s.cl("scope", `""`)},
		{"scope with two spaces", s.cl("scope", `"jobs:read  admin"`)},
		{"scope with a tab", s.cl("scope", `"jobs:read\tadmin"`)},
		{"too many scopes", s.cl("scope", `"`+strings.Repeat("s ", 64)+`jobs:read"`)},
	}
}

// refuseAll runs the rows, of which none may be accepted and none may be repeated.
func refuseAll(t *testing.T, v *Verifier, s subject, rows []hostileRow) {
	t.Helper()
	seen := map[string]bool{}
	accepted := 0
	for _, row := range rows {
		if seen[row.name] {
			t.Fatalf("two rows are named %q", row.name)
		}
		seen[row.name] = true
		got, err := v.Verify(t.Context(), row.token)
		var r *Refusal
		if !errors.Is(err, ErrInvalid) || !errors.As(err, &r) || !reflect.DeepEqual(got, Claims{}) {
			t.Errorf("%s: got %+v, %v; want no claims and a refusal", row.name, got, err)
			accepted++
			continue
		}
		if errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: the keys are called unavailable", row.name)
		}
		for _, secret := range []string{"alice", "acme", "evil", "t-1", "jobs:", "admin"} {
			if strings.Contains(fmt.Sprint(err.Error(), r.Text, r.Reason), secret) {
				t.Errorf("%s: the error repeats the token: %v", row.name, err)
			}
		}
	}
	// Most rows are refused for the reason that they are about only when all else is right.
	if _, err := v.Verify(t.Context(), s.good()); err != nil {
		t.Errorf("the token that the rows are made from is refused: %v", err)
	}
	t.Logf("%d hostile tokens, %d accepted", len(rows), accepted)
}

// ownSubject is a token of our own.
func ownSubject(sign func(head, claims string) string, head map[string]string) subject {
	return subject{
		head: head, sign: sign, aud: "aud", sub: "sub", tenant: []string{"tenant"}, scope: "scope",
		claims: map[string]string{
			"iss": `"sluice"`, "aud": `"sluice-api"`, "sub": `"alice"`, "exp": fmt.Sprint(start + 3600), "iat": fmt.Sprint(start),
			"jti": `"t-1"`, "tenant": `"acme"`, "scope": `"jobs:read jobs:write"`,
		},
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	k := newKeyPairs(t)
	v := newVerifier(t, k)
	t.Run("HS256", func(t *testing.T) {
		s := ownSubject(hs256, map[string]string{"alg": `"HS256"`, "typ": `"at+jwt"`})
		rows := hostile(t, s)
		refuseAll(t, v, s, rows)
		for _, row := range rows {
			explained(t, v, row.name, row.token)
		}
	})
	for alg, kid := range map[string]string{"RS256": "r1", "ES256": "e1", "EdDSA": "d1"} {
		t.Run(alg, func(t *testing.T) {
			sign := func(head, claims string) string { return k.signAs(t, alg, head, claims) }
			s := ownSubject(sign, map[string]string{"alg": `"` + alg + `"`, "typ": `"JWT"`, "kid": `"` + kid + `"`})
			s.public = map[string]any{"RS256": &k.rsa.PublicKey, "ES256": &k.ec.PublicKey, "EdDSA": k.ed.Public()}[alg]
			rows := hostile(t, s)
			for _, name := range []string{"e1", "d1", "r1"} {
				if name != kid {
					rows = append(rows, hostileRow{"the name of another key, " + name, s.hd("kid", `"`+name+`"`)})
				}
			}
			if alg == "RS256" {
				rows = append(rows, hostileRow{"PS256 with the RS256 key", k.signAs(t, "PS256", `{"alg":"PS256","typ":"JWT","kid":"r1"}`, object(s.claims))})
			}
			refuseAll(t, v, s, rows)
		})
	}
}

// explained holds Explain to what Verify does.
func explained(t *testing.T, v *Verifier, name, token string) {
	t.Helper()
	findings, _, err := v.Explain(t.Context(), token)
	_, want := v.verify(t.Context(), token)
	bad := slices.ContainsFunc(findings, func(f Finding) bool { return !f.Good })
	if (err == nil) != (want == nil) || bad != (err != nil) {
		t.Errorf("%s: Explain says %v of %+v, Verify %v", name, err, findings, want)
	}
}
