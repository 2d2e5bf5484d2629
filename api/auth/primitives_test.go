package auth

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
)

// What no key of Ed25519 may be: the eight points of small order with every way to write them
// down, what is on no curve, and what is not below the prime. The keys of anybody else are taken.
func TestEd25519KeysThatAnybodyCanSignFor(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct{ x, want string }{
		"the identity":                      {"0100000000000000000000000000000000000000000000000000000000000000", "small order"},
		"the identity with a sign":          {"0100000000000000000000000000000000000000000000000000000000000080", "not on the curve"},
		"of order 2":                        {"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "small order"},
		"of order 2 with a sign":            {"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "not on the curve"},
		"of order 4":                        {"0000000000000000000000000000000000000000000000000000000000000000", "small order"},
		"the other of order 4":              {"0000000000000000000000000000000000000000000000000000000000000080", "small order"},
		"of order 8":                        {"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "small order"},
		"another of order 8":                {"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85", "small order"},
		"a third of order 8":                {"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", "small order"},
		"a fourth of order 8":               {"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa", "small order"},
		"of order 4, not below the prime":   {"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "not below"},
		"likewise with a sign":              {"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "not below"},
		"the identity, not below the prime": {"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "not below"},
		"likewise, with a sign":             {"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "not below"},
		"the largest":                       {strings.Repeat("ff", 32), "not below"},
		"off the curve":                     {"0200000000000000000000000000000000000000000000000000000000000000", "not on the curve"},
		"31 bytes":                          {strings.Repeat("11", 31), "32 bytes"},
		"33 bytes":                          {strings.Repeat("11", 33), "32 bytes"},
	} {
		b, err := hex.DecodeString(row.x)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (jwk{X: base64.RawURLEncoding.EncodeToString(b)}).edKey(); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", name, err, row.want)
		}
	}
	for range 8 {
		public, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := (jwk{X: base64.RawURLEncoding.EncodeToString(public)}).edKey(); err != nil || !got.Equal(public) {
			t.Errorf("%x: %v", public, err)
		}
	}
}

// Signatures that are none, or that somebody made of another's: of each kind of key, all that is
// known to have been let pass somewhere. One is good by mathematics alone, and listed as such: s and n-s
// are both of one signer and text, and tokens are revoked by their jti, not by their text.
func TestSignaturesThatAreNone(t *testing.T) {
	t.Parallel()
	k := newKeyPairs(t)
	v := newVerifier(t, k)
	for alg, kid := range map[string]string{"ES256": "e1", "EdDSA": "d1", "RS256": "r1"} {
		good := k.signAs(t, alg, fmt.Sprintf(`{"alg":%q,"typ":"JWT","kid":%q}`, alg, kid), goodClaims)
		if _, err := v.Verify(t.Context(), good); err != nil {
			t.Fatalf("%s: the good one: %v", alg, err)
		}
		at := strings.LastIndexByte(good, '.') + 1
		sig, err := base64.RawURLEncoding.DecodeString(good[at:])
		if err != nil {
			t.Fatal(err)
		}
		forged := map[string][]byte{
			"cut": sig[:len(sig)-1], "longer": append(slices.Clone(sig), 0), "with a zero before it": append([]byte{0}, sig...),
			"of zeros": make([]byte, len(sig)), "of ones": slices.Repeat([]byte{0xff}, len(sig)), "twice": append(slices.Clone(sig), sig...), "turned round": reversed(sig),
		}
		switch alg {
		case "ES256":
			n := elliptic.P256().Params().N
			r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
			half := func(x *big.Int) []byte { return x.FillBytes(make([]byte, 32)) }
			zero, one := half(new(big.Int)), half(big.NewInt(1))
			pair := func(r, s []byte) []byte { return append(slices.Clone(r), s...) }
			forged["r = 0"], forged["s = 0"] = pair(zero, sig[32:]), pair(sig[:32], zero)
			forged["r = 1, s = 1"], forged["r = n, s = 1"] = pair(one, one), pair(half(n), one)
			forged["s = n"], forged["r = n"] = pair(sig[:32], half(n)), pair(half(n), sig[32:])
			forged["s and r changed"] = pair(sig[32:], sig[:32])
			forged["-r"] = pair(half(new(big.Int).Sub(n, r)), sig[32:])
			if sum := new(big.Int).Add(r, n); sum.BitLen() <= 256 {
				forged["r + n"] = pair(half(sum), sig[32:])
			}
			if sum := new(big.Int).Add(s, n); sum.BitLen() <= 256 {
				forged["s + n"] = pair(sig[:32], half(sum))
			}
			forged["DER"] = append([]byte{0x30, 0x44, 2, 32}, append(append(slices.Clone(sig[:32]), 2, 32), sig[32:]...)...)
			forged["halves of 48 bytes"] = pair(append(make([]byte, 16), sig[:32]...), append(make([]byte, 16), sig[32:]...))
			other := pair(sig[:32], half(new(big.Int).Sub(n, s)))
			if _, err := v.Verify(t.Context(), good[:at]+base64.RawURLEncoding.EncodeToString(other)); err != nil {
				t.Errorf("n-s, which is listed as good: %v", err)
			}
		case "EdDSA":
			l, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
			s := new(big.Int).SetBytes(reversed(sig[32:]))
			for name, sum := range map[string]*big.Int{"s + l": new(big.Int).Add(s, l), "s = l": l, "s = 0": new(big.Int)} {
				forged[name] = append(slices.Clone(sig[:32]), reversed(sum.FillBytes(make([]byte, 32)))...)
			}
			for name, r := range map[string]string{"R the identity": "01" + strings.Repeat("00", 31), "R of order 2": "ec" + strings.Repeat("ff", 30) + "7f", "R not below the prime": "ee" + strings.Repeat("ff", 30) + "7f"} {
				b, err := hex.DecodeString(r)
				if err != nil {
					t.Fatal(err)
				}
				forged[name], forged[name+", s = 0"] = append(slices.Clone(b), sig[32:]...), append(b, make([]byte, 32)...)
			}
		case "RS256":
			n := k.rsa.PublicKey.N
			s := new(big.Int).SetBytes(sig)
			wide := len(sig)
			forged["1"], forged["n - 1"] = append(make([]byte, wide-1), 1), new(big.Int).Sub(n, big.NewInt(1)).FillBytes(make([]byte, wide))
			forged["n - s"] = new(big.Int).Sub(n, s).FillBytes(make([]byte, wide))
			if sum := new(big.Int).Add(s, n); sum.BitLen() <= 8*wide {
				forged["s + n"] = sum.FillBytes(make([]byte, wide))
			}
		}
		for name, sig := range forged {
			if _, err := v.Verify(t.Context(), good[:at]+base64.RawURLEncoding.EncodeToString(sig)); err == nil {
				t.Errorf("%s: a signature %s is taken", alg, name)
			}
		}
	}
}

func reversed(b []byte) []byte {
	out := slices.Clone(b)
	slices.Reverse(out)
	return out
}
