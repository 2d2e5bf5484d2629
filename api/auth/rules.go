package auth

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// rules are by what a token of one issuer is judged.
type rules struct {
	claimRules
	issuer    string
	maxBytes  int
	audiences []string
	leeway    time.Duration

	secret []byte    // of HS256; empty: none
	keys   keySource // nil: none
	parser *jwt.Parser
}

// rulesOf makes an issuer's rules; its keys and its parser are still missing.
func rulesOf(i Issuer, maxLifetime time.Duration) *rules {
	or := func(s, otherwise string) string {
		if s == "" {
			return otherwise
		}
		return s
	}
	r := &rules{issuer: i.Issuer, maxBytes: maxForeignBytes, audiences: slices.Clone(i.Audiences), leeway: defaultLeeway, claimRules: claimRules{
		maxLifetime: maxLifetime,
		tenantIs:    i.Tenant, tenant: or(i.Claims.Tenant, "tenant"), tenants: maps.Clone(i.Tenants),
		scope: strings.Fields(or(i.Claims.Scope, "scope")), sub: or(i.Claims.Sub, "sub"), aud: or(i.Claims.Aud, "aud"), pools: i.Claims.Pools,
	}}
	if i.MaxLifetime > 0 {
		r.maxLifetime = i.MaxLifetime
	}
	if i.Leeway > 0 {
		r.leeway = i.Leeway
	}
	if i.Scope != "" {
		r.scopeIs = strings.Fields(i.Scope)
	}
	if i.Scopes != nil {
		r.scopes = map[string][]string{}
		for value, means := range i.Scopes {
			r.scopes[value] = strings.Fields(means)
		}
	}
	paths := []string{r.sub, r.aud}
	if r.tenantIs == "" {
		paths = append(paths, r.tenant)
	}
	if r.scopeIs == nil {
		paths = append(paths, r.scope...)
	}
	if r.pools != "" {
		paths = append(paths, r.pools)
	}
	for _, name := range slices.Sorted(maps.Keys(i.Require)) {
		r.require = append(r.require, requirement{name, slices.Clone(i.Require[name])})
		paths = append(paths, name)
	}
	r.roots = rootsOf(paths)
	return r
}

// rootsOf are the names of the outermost members that paths can lead through.
func rootsOf(paths []string) (names []string) {
	for _, path := range paths {
		names = append(names, path)
		for i := range len(path) {
			if path[i] == '.' && i > 0 && i < len(path)-1 {
				names = append(names, path[:i])
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
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
