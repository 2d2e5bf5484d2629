package auth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"
)

const (
	algHS256 = "HS256"
	algRS256 = "RS256"
	algES256 = "ES256"
	algEdDSA = "EdDSA"

	maxNameBytes = 255 // sub and jti
	maxScopes    = 64
)

// reason says why a token is refused. It is always a constant of this package,
// never a part of the token.
type reason string

func (r reason) Error() string { return string(r) }

// refusal turns whatever went wrong into an error that is ErrInvalid and holds
// nothing of the token, which the texts of the JSON and JWT readers might.
func refusal(err error) error {
	var r reason
	switch {
	case errors.As(err, &r):
		return fmt.Errorf("%w: %w", ErrInvalid, r)
	case errors.Is(err, ErrUnavailable):
		return fmt.Errorf("%w: %w", ErrInvalid, ErrUnavailable)
	}
	for _, known := range []error{
		jwt.ErrTokenSignatureInvalid, jwt.ErrTokenExpired, jwt.ErrTokenNotValidYet, jwt.ErrTokenUsedBeforeIssued,
		jwt.ErrTokenInvalidIssuer, jwt.ErrTokenInvalidAudience, jwt.ErrTokenRequiredClaimMissing, jwt.ErrTokenMalformed,
	} {
		if errors.Is(err, known) {
			return fmt.Errorf("%w: %w", ErrInvalid, known)
		}
	}
	return fmt.Errorf("%w: %w", ErrInvalid, reason("refused"))
}

// header is what of a JOSE header matters.
type header struct {
	alg, typ, kid string
}

// firstPart looks at a token before any other reader does: its size, its alphabet
// (the base64 decoder would skip line breaks) and its three parts. It returns the
// text of the first.
func firstPart(raw string) ([]byte, error) {
	if len(raw) > maxTokenBytes {
		return nil, reason("too long")
	}
	for i := range len(raw) {
		if b := raw[i]; b != '.' && !base64URL(b) {
			return nil, reason("not a compact JWS")
		}
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || slices.Contains(parts, "") {
		return nil, reason("not a compact JWS")
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(parts[0])
	if err != nil {
		return nil, reason("the header is not base64url")
	}
	return text, nil
}

// readHeader reads the first part of a token, strictly.
func readHeader(raw string) (header, error) {
	text, err := firstPart(raw)
	if err != nil {
		return header{}, err
	}
	var h header
	err = members(text, func(name string, value *jsontext.Decoder) error {
		switch name {
		case "alg":
			return readString(value, &h.alg)
		case "typ":
			return readString(value, &h.typ)
		case "kid":
			if err := readString(value, &h.kid); err != nil {
				return err
			}
			if !validKid(h.kid) {
				return reason("the kid is malformed")
			}
			return nil
		}
		for _, refused := range []string{
			"crit", "b64", "zip", "jku", "jwk", "x5u", "x5c", // RFC 7515, RFC 7797, RFC 7516
			"cty", "enc", "epk", "p2c", "p2s", // signs of a nested or encrypted token
			"alg", "typ", "kid", // in another case
		} {
			if strings.EqualFold(name, refused) {
				return reason("the header has a member that is not allowed")
			}
		}
		return value.SkipValue()
	})
	if err != nil {
		return header{}, err
	}
	switch h.alg {
	case algHS256, algRS256, algES256, algEdDSA:
	default:
		return header{}, reason("the algorithm is not allowed")
	}
	// RFC 7515 section 4.1.9: a media type, so compared without case.
	if !slices.ContainsFunc([]string{"at+jwt", "application/at+jwt", "jwt"}, func(t string) bool { return strings.EqualFold(t, h.typ) }) {
		return header{}, reason("the type is not allowed")
	}
	return h, nil
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

// plainKid is the narrower form that is let pass where no key has a name.
func plainKid(kid string) bool {
	for i := range len(kid) {
		if !base64URL(kid[i]) {
			return false
		}
	}
	return len(kid) <= 64
}

// claimSet is a token's second part. It reads itself strictly, and the parser
// checks what it returns.
type claimSet struct {
	maxLifetime time.Duration

	iss, sub, jti, tenant string
	aud                   jwt.ClaimStrings
	scopes                []string
	exp, iat, nbf         time.Time
	seen                  uint // one bit for each of claimNames
}

// claimNames lists the claims that are read; the first eight are required.
func claimNames() [9]string {
	return [9]string{"iss", "aud", "sub", "exp", "iat", "jti", "tenant", "scope", "nbf"}
}

const requiredClaims = 1<<8 - 1

// UnmarshalJSON reads the claims. Members that are not known are ignored
// (RFC 7519 section 4), unless they differ from a known one only in case.
func (c *claimSet) UnmarshalJSON(text []byte) error {
	names := claimNames()
	return members(text, func(name string, value *jsontext.Decoder) error {
		i := slices.Index(names[:], name)
		if i < 0 {
			for _, known := range names {
				if strings.EqualFold(name, known) {
					return reason("a claim is spelt in another case")
				}
			}
			return value.SkipValue()
		}
		c.seen |= 1 << i
		switch name {
		case "iss":
			return readString(value, &c.iss)
		case "sub":
			return readString(value, &c.sub)
		case "jti":
			return readString(value, &c.jti)
		case "tenant":
			return readString(value, &c.tenant)
		case "aud":
			return readAudience(value, &c.aud)
		case "exp":
			return readTime(value, &c.exp)
		case "iat":
			return readTime(value, &c.iat)
		case "nbf":
			return readTime(value, &c.nbf)
		default: // scope
			var s string
			if err := readString(value, &s); err != nil {
				return err
			}
			return splitScopes(s, &c.scopes)
		}
	})
}

// Validate checks what the parser's own validation leaves open. It runs after
// the signature was found good.
func (c *claimSet) Validate() error {
	switch {
	case c.seen&requiredClaims != requiredClaims: // also when the text was null, which never gets to UnmarshalJSON
		return reason("a required claim is missing")
	case !validName(c.sub):
		return reason("sub is empty, too long or has control characters")
	case !validName(c.jti):
		return reason("jti is empty, too long or has control characters")
	case !ValidTenant(c.tenant):
		return reason("tenant is not a tenant's name")
	case !c.exp.After(c.iat):
		return reason("exp is not after iat")
	case c.exp.Sub(c.iat) > c.maxLifetime:
		return reason("the lifetime is too long")
	}
	return nil
}

// The getters that jwt.Claims asks for.

func (c *claimSet) GetExpirationTime() (*jwt.NumericDate, error) { return date(c.exp), nil }
func (c *claimSet) GetIssuedAt() (*jwt.NumericDate, error)       { return date(c.iat), nil }
func (c *claimSet) GetNotBefore() (*jwt.NumericDate, error)      { return date(c.nbf), nil }
func (c *claimSet) GetIssuer() (string, error)                   { return c.iss, nil }
func (c *claimSet) GetSubject() (string, error)                  { return c.sub, nil }
func (c *claimSet) GetAudience() (jwt.ClaimStrings, error)       { return c.aud, nil }

func date(t time.Time) *jwt.NumericDate {
	if t.IsZero() {
		return nil
	}
	return &jwt.NumericDate{Time: t}
}

// members calls read for each member of the one JSON object that text must be.
// The decoder refuses duplicate names and invalid UTF-8, at any depth.
func members(text []byte, read func(name string, value *jsontext.Decoder) error) error {
	dec := jsontext.NewDecoder(bytes.NewReader(text))
	malformed := reason("the JSON is malformed, not one object, or names a member twice")
	open, err := dec.ReadToken()
	if err != nil || open.Kind() != '{' {
		return malformed
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return malformed
		}
		if err := read(name.String(), dec); err != nil {
			var r reason
			if errors.As(err, &r) {
				return r
			}
			return malformed
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return malformed
	}
	if len(bytes.TrimLeft(text[dec.InputOffset():], " \t\r\n")) != 0 {
		return malformed
	}
	return nil
}

func readString(dec *jsontext.Decoder, to *string) error {
	tok, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if tok.Kind() != '"' {
		return reason("a member that must be a string is not")
	}
	*to = tok.String()
	return nil
}

// readAudience reads a string or a list of strings (RFC 7519 section 4.1.3).
func readAudience(dec *jsontext.Decoder, to *jwt.ClaimStrings) error {
	if dec.PeekKind() != '[' {
		var s string
		if err := readString(dec, &s); err != nil {
			return err
		}
		*to = jwt.ClaimStrings{s}
		return nil
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != ']' {
		var s string
		if err := readString(dec, &s); err != nil {
			return err
		}
		*to = append(*to, s)
	}
	_, err := dec.ReadToken()
	return err
}

// readTime reads a NumericDate: a JSON number of seconds since 1970, perhaps
// with a fraction (RFC 7519 section 2). Years outside 1970 to 9999 are refused.
func readTime(dec *jsontext.Decoder, to *time.Time) error {
	tok, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if tok.Kind() != '0' {
		return reason("a time is not a number")
	}
	const year10000 = 253402300800
	s, err := strconv.ParseFloat(tok.String(), 64)
	if err != nil || s <= 0 || s >= year10000 {
		return reason("a time is out of range")
	}
	whole, fraction := math.Modf(s)
	*to = time.Unix(int64(whole), int64(fraction*1e9)).UTC()
	return nil
}

// splitScopes takes a scope apart: tokens of visible ASCII without '"' and '\',
// one space between two (RFC 6749 section 3.3).
func splitScopes(s string, to *[]string) error {
	scopes := strings.Split(s, " ")
	if len(scopes) > maxScopes {
		return reason("too many scopes")
	}
	for _, scope := range scopes {
		if scope == "" {
			return reason("scope is malformed")
		}
		for i := range len(scope) {
			if b := scope[i]; b <= ' ' || b > '~' || b == '"' || b == '\\' {
				return reason("scope is malformed")
			}
		}
	}
	*to = scopes
	return nil
}

// validName reports whether a subject or token id can be written to a log line
// and a page as it is.
func validName(s string) bool {
	return s != "" && len(s) <= maxNameBytes && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
