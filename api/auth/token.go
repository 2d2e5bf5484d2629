package auth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	algHS256 = "HS256"
	algRS256 = "RS256"
	algPS256 = "PS256"
	algES256 = "ES256"
	algES384 = "ES384"
	algEdDSA = "EdDSA"
)

// publicAlgs are the algorithms that have a public key.
func publicAlgs() []string { return []string{algRS256, algPS256, algES256, algES384, algEdDSA} }

// part returns the text of one of the three parts of a token, 0 or 1. It looks at the
// token before any other reader does: its size, its alphabet (the base64 decoder
// would skip line breaks) and its three parts.
func part(raw string, i int) ([]byte, error) {
	if len(raw) > maxForeignBytes {
		return nil, malformed("too long")
	}
	for i := range len(raw) {
		if b := raw[i]; b != '.' && !base64URL(b) {
			return nil, malformed("not a compact JWS")
		}
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || slices.Contains(parts, "") {
		return nil, malformed("not a compact JWS")
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(parts[i])
	if err != nil {
		return nil, malformed("a part is not base64url")
	}
	return text, nil
}

// readHeader reads the first part of a token, strictly.
func readHeader(raw string) (header, error) {
	if why, ok := providerKey(raw); ok {
		return header{}, why
	}
	text, err := part(raw, 0)
	if err != nil {
		return header{}, err
	}
	var h header
	err = members(text, func(name string, value *jsontext.Decoder) error {
		switch name {
		case "alg":
			return readString(value, &h.alg)
		case "typ":
			h.typed = true
			return readString(value, &h.typ)
		case "kid":
			if err := readString(value, &h.kid); err != nil {
				return err
			}
			if !validKid(h.kid) {
				return malformed("the kid is malformed")
			}
			return nil
		}
		for _, refused := range []string{
			"crit", "b64", "zip", "jku", "jwk", "x5u", "x5c", // RFC 7515, RFC 7797, RFC 7516
			"cty", "enc", "epk", "p2c", "p2s", // signs of a nested or encrypted token
			"alg", "typ", "kid", // in another case
		} {
			if strings.EqualFold(name, refused) {
				return malformed("the header has a member that is not allowed")
			}
		}
		return value.SkipValue()
	})
	if err != nil {
		return header{}, err
	}
	if h.alg != algHS256 && !slices.Contains(publicAlgs(), h.alg) {
		return header{}, reason{reasonAlgorithm, "the algorithm is not taken: HS256, RS256, PS256, ES256, ES384 and EdDSA are"}
	}
	return h, nil
}

// issuerOf reads only the iss of a token, to know whose rules to judge it by. Nothing
// is proven by it: whoever names an issuer is held to that issuer's keys.
func issuerOf(raw string) (string, error) {
	text, err := part(raw, 1)
	if err != nil {
		return "", err
	}
	var iss string
	found := false
	err = members(text, func(name string, value *jsontext.Decoder) error {
		if name != "iss" {
			return value.SkipValue()
		}
		found = true
		return readString(value, &iss)
	})
	if err == nil && !found {
		err = reason{reasonClaim, "a required claim is missing: iss"}
	}
	return iss, err
}

// validKid reports whether a key may have this name: 1 to 128 visible ASCII characters.
func validKid(kid string) bool {
	if len(kid) == 0 || len(kid) > 128 {
		return false
	}
	for i := range len(kid) {
		if kid[i] <= ' ' || kid[i] > '~' {
			return false
		}
	}
	return true
}

// members calls read for each member of the one JSON object that text must be.
// The decoder refuses duplicate names and invalid UTF-8, at any depth.
func members(text []byte, read func(name string, value *jsontext.Decoder) error) error {
	dec := jsontext.NewDecoder(bytes.NewReader(text))
	bad := malformed("the JSON is malformed, not one object, or names a member twice")
	open, err := dec.ReadToken()
	if err != nil || open.Kind() != '{' {
		return bad
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return bad
		}
		if err := read(name.String(), dec); err != nil {
			var r reason
			if errors.As(err, &r) {
				return r
			}
			return bad
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return bad
	}
	if len(bytes.TrimLeft(text[dec.InputOffset():], " \t\r\n")) != 0 {
		return bad
	}
	return nil
}

func readString(dec *jsontext.Decoder, to *string) error {
	tok, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if tok.Kind() != '"' {
		return malformed("a member that must be a string is not")
	}
	*to = tok.String()
	return nil
}
