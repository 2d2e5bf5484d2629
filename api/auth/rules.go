package auth

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// rules are by what a token of one issuer is judged.
type rules struct {
	issuer      string
	own         bool // whose tokens have exactly the claims that Sluice mints
	maxBytes    int
	audiences   []string
	maxLifetime time.Duration
	leeway      time.Duration

	tenantIs string // every token's; "": the claim's
	tenant   string
	tenants  map[string]string
	scopeIs  []string // every token's; nil: the claim's
	scope    []string
	scopes   map[string][]string
	sub, aud string
	require  []requirement
	roots    []string // the members that are looked into

	secret []byte    // of HS256; empty: none
	keys   keySource // nil: none
	parser *jwt.Parser
}

// requirement is a claim and the values of which it must have one.
type requirement struct {
	path   string
	values []string
}

// options are what the JWT library checks of the claims.
func (r *rules) options(now func() time.Time) []jwt.ParserOption {
	return []jwt.ParserOption{
		jwt.WithIssuer(r.issuer),
		jwt.WithAudience(r.audiences...),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(r.leeway),
		jwt.WithTimeFunc(now),
	}
}

// fits checks what the rules ask of a token's form and header.
func (r *rules) fits(raw string, h header) error {
	if len(raw) > r.maxBytes {
		return malformed("too long")
	}
	if (r.own || h.typed) && !accessType(h.typ) {
		return reason{reasonType, "typ says that it is another kind of token, or is missing"}
	}
	return nil
}

// accessType reports whether typ says that the token is for access: RFC 9068 asks for
// at+jwt, and many write JWT, which says nothing. It is a media type, so compared
// without case (RFC 7515 section 4.1.9).
func accessType(typ string) bool {
	return slices.ContainsFunc([]string{"at+jwt", "application/at+jwt", "jwt"}, func(t string) bool { return strings.EqualFold(t, typ) })
}

// key returns the one key that a header may be verified with.
func (r *rules) key(ctx context.Context, h header) (any, error) {
	if h.alg == algHS256 {
		// The one secret has no name, so a kid can only be wrong or a remark.
		if len(r.secret) == 0 || h.kid != "" && !plainKid(h.kid) {
			return nil, reason{reasonKey, "no such key"}
		}
		return r.secret, nil
	}
	if r.keys == nil {
		return nil, reason{reasonKey, "no such key"}
	}
	if h.kid == "" {
		return nil, reason{reasonKey, "no kid"}
	}
	return r.keys.find(ctx, keyName{h.kid, h.alg})
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
