package auth

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	maxSetBytes = 1 << 20
	maxKeys     = 100
	minRSABits  = 2048 // RFC 7518 section 3.3
	maxRSABits  = 8192 // verification time grows with the square
)

// keyName is by what a token names its key: RFC 7517 section 4.5 lets keys of different
// kinds share a kid, and each key is for one algorithm alone.
type keyName struct{ kid, alg string }

// keySet is the public keys of an issuer.
type keySet struct {
	keys    map[keyName]any
	skipped []string // which keys are not used although they are to verify with, and why
}

// find returns a key, or says that there is none.
func (s *keySet) find(name keyName) (any, error) {
	if key, ok := s.keys[name]; ok {
		return key, nil
	}
	for other := range s.keys {
		if other.kid == name.kid {
			return nil, reason{reasonKey, "the key is for another algorithm"}
		}
	}
	return nil, reason{reasonKey, "no such key"}
}

// has reports whether a kid is in the set, for whatever algorithm.
func (s *keySet) has(kid string) bool {
	for name := range s.keys {
		if name.kid == kid {
			return true
		}
	}
	return false
}

// jwk is a member of a key set (RFC 7517, RFC 7518 section 6, RFC 8037).
type jwk struct {
	Kty    string   `json:"kty"`
	Kid    string   `json:"kid"`
	Use    string   `json:"use"`
	KeyOps []string `json:"key_ops"`
	Alg    string   `json:"alg"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	Crv    string   `json:"crv"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
}

// secretMembers give a key away (RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1, and the
// priv of keys of the type AKP).
func secretMembers() []string {
	return []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}
}

// parseKeys reads a key set. Keys of other kinds and for other uses are passed
// over, as RFC 7517 section 5 asks. A key that is at fault is left out and named: it
// is no reason to refuse the tokens of the others. One that gives a secret away spoils
// the set: whoever has read it can sign tokens.
func parseKeys(text []byte) (*keySet, error) {
	list, err := keysOf(text)
	if err != nil {
		return nil, err
	}
	set := &keySet{keys: map[keyName]any{}}
	spoilt := map[keyName]bool{}
	for i, raw := range list {
		if err := noSecret(raw); err != nil {
			return nil, tell("keys[%d]: %v", i, err)
		}
		var k jwk
		if err := json.Unmarshal(raw, &k); err != nil {
			set.skipped = append(set.skipped, fmt.Sprintf("keys[%d]: not a JSON Web Key, or a member is named twice", i))
		} else if err := set.take(k, spoilt); err != nil {
			set.skipped = append(set.skipped, fmt.Sprintf("keys[%d]%s: %v", i, called(k.Kid), err))
		}
	}
	if len(set.keys) == 0 {
		return nil, tell("no key for %s%s", strings.Join(publicAlgs(), ", "), because(set.skipped))
	}
	return set, nil
}

// take adds a key unless it is of another kind or use; an error says why one is left
// out. spoilt are the names that stand for several keys, and so for none.
func (s *keySet) take(k jwk, spoilt map[keyName]bool) error {
	if k.Use != "" && k.Use != "sig" || len(k.KeyOps) > 0 && !slices.Contains(k.KeyOps, "verify") {
		return nil
	}
	alg, key, err := k.publicKey()
	if err != nil || key == nil {
		return err
	}
	if !validKid(k.Kid) {
		return errors.New("kid must be 1 to 128 visible ASCII characters")
	}
	name := keyName{k.Kid, alg}
	if first, twice := s.keys[name]; twice && !reflect.DeepEqual(first, key) || spoilt[name] {
		delete(s.keys, name)
		spoilt[name] = true
		return errors.New("its kid names another key too, so neither is used")
	}
	s.keys[name] = key
	return nil
}

// called is the name of a key, for a message.
func called(kid string) string {
	if !validKid(kid) {
		return ""
	}
	return fmt.Sprintf(" (kid %q)", kid)
}

func because(skipped []string) string {
	if len(skipped) == 0 {
		return ""
	}
	return "; " + strings.Join(skipped, "; ")
}

// keysOf returns the members of a key set, each as it is written. A name that is
// twice in a member is that member's fault alone.
func keysOf(text []byte) ([]jsontext.Value, error) {
	// The text of a JSON error could quote the set, and a set may wrongly hold a secret.
	bad := told("not a JSON Web Key Set, or a member is named twice")
	lenient := jsontext.AllowDuplicateNames(true)
	dec := jsontext.NewDecoder(bytes.NewReader(text), lenient)
	set := map[string]jsontext.Value{}
	if open, err := dec.ReadToken(); err != nil || open.Kind() != '{' {
		return nil, bad
	}
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, bad
		}
		key := name.String()
		value, err := dec.ReadValue()
		if _, twice := set[key]; err != nil || twice {
			return nil, bad
		}
		set[key] = value.Clone()
	}
	if _, err := dec.ReadToken(); err != nil || len(bytes.TrimLeft(text[dec.InputOffset():], " \t\r\n")) != 0 {
		return nil, bad
	}
	if set["keys"] == nil && set["jwks_uri"] != nil {
		return nil, told("this is an issuer's discovery document: set discovery: true, or jwks_url to its jwks_uri")
	}
	var list []jsontext.Value
	if err := json.Unmarshal(set["keys"], &list, lenient); err != nil {
		return nil, bad
	}
	if len(list) > maxKeys {
		return nil, tell("%d keys, at most %d are read", len(list), maxKeys)
	}
	return list, nil
}

// noSecret refuses a key that gives its private part away.
func noSecret(raw jsontext.Value) error {
	var all map[string]jsontext.Value
	if err := json.Unmarshal(raw, &all, jsontext.AllowDuplicateNames(true)); err != nil {
		return nil // no object: it has no members
	}
	for _, name := range secretMembers() {
		if v, ok := all[name]; ok && string(v) != `""` && v.Kind() != 'n' {
			return fmt.Errorf("has %s: a private or symmetric key does not belong here, and whoever read it can sign tokens", name)
		}
	}
	return nil
}

// publicKey returns the key and the one algorithm that it is for, or no key when it is
// of a kind that is not used here.
func (k jwk) publicKey() (alg string, key any, err error) {
	meant := func(algs ...string) bool { return k.Alg == "" || slices.Contains(algs, k.Alg) }
	switch {
	case k.Kty == "RSA" && meant(algRS256, algPS256):
		key, err = k.rsaKey()
		return cmp.Or(k.Alg, algRS256), key, err
	case k.Kty == "EC" && k.Crv == "P-256" && meant(algES256):
		key, err = k.ecKey(elliptic.P256(), 32)
		return algES256, key, err
	case k.Kty == "EC" && k.Crv == "P-384" && meant(algES384):
		key, err = k.ecKey(elliptic.P384(), 48)
		return algES384, key, err
	case k.Kty == "OKP" && k.Crv == "Ed25519" && meant(algEdDSA, "Ed25519"): // RFC 9864
		key, err = k.edKey()
		return algEdDSA, key, err
	}
	return "", nil, nil
}

func (k jwk) rsaKey() (*rsa.PublicKey, error) {
	n, errN := octets("n", k.N)
	e, errE := octets("e", k.E)
	if err := cmp.Or(errN, errE); err != nil {
		return nil, err
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	if bits := modulus.BitLen(); bits < minRSABits || bits > maxRSABits {
		return nil, fmt.Errorf("n: %d bits, between %d and %d are accepted", bits, minRSABits, maxRSABits)
	}
	if exponent.BitLen() > 31 || exponent.Int64() < 3 || exponent.Bit(0) == 0 || modulus.Bit(0) == 0 {
		return nil, errors.New("n or e cannot be of an RSA key")
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}, nil
}

func (k jwk) ecKey(curve elliptic.Curve, size int) (*ecdsa.PublicKey, error) {
	x, errX := octets("x", k.X)
	y, errY := octets("y", k.Y)
	if err := cmp.Or(errX, errY); err != nil {
		return nil, err
	}
	if len(x) != size || len(y) != size { // RFC 7518 section 6.2.1.2: full size
		return nil, fmt.Errorf("x and y must be %d bytes", size)
	}
	point := slices.Concat([]byte{4}, x, y) // SEC 1 section 2.3.3: 4 says uncompressed
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, errors.New("x and y are not on the curve")
	}
	return key, nil
}

// octets decodes a member's base64url as RFC 7515 section 2 wants it: no padding,
// no line breaks.
func octets(name, s string) ([]byte, error) {
	for i := range len(s) {
		if !base64URL(s[i]) {
			return nil, fmt.Errorf("%s: not base64url", name)
		}
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) == 0 {
		return nil, fmt.Errorf("%s: missing or not base64url", name)
	}
	return b, nil
}
