// Package auth answers who calls: it verifies bearer tokens, strictly and in
// one place, and mints the ones that Sluice signs itself.
//
// It promises that a token is accepted only when it is a compact JWS of at most
// 8 KiB, signed by a key of the configuration with the one algorithm that the
// key is for (HS256, RS256, ES256 or EdDSA), meant for this issuer and audience,
// of a bounded lifetime, and complete: iss, aud, sub, exp, iat, jti, tenant and
// scope are all required. Both JSON parts are read with duplicate members,
// invalid UTF-8 and names that differ from a known one only in case refused, so
// that no other reader of the same token can understand it differently.
//
// It never follows a key or an address that a token names (jku, jwk, x5u, x5c),
// never remembers a token, and never puts a part of one into an error or a log.
//
// The rules follow RFC 7515, RFC 7519, RFC 8725 (BCP 225) and, for the type and
// the required claims, RFC 9068.
package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// The scopes of Sluice's own API and console. None implies another, but that
// ScopeAdmin implies ScopeMonitor: who may change what the console shows may
// look at it.
const (
	ScopeJobsRead      = "jobs:read"
	ScopeJobsWrite     = "jobs:write"
	ScopeWebhooksWrite = "webhooks:write"
	ScopeMonitor       = "monitor"
	ScopeAdmin         = "admin"
)

// Scopes returns every scope that Sluice knows.
func Scopes() []string {
	return []string{ScopeJobsRead, ScopeJobsWrite, ScopeWebhooksWrite, ScopeMonitor, ScopeAdmin}
}

var (
	// ErrInvalid is in every error of Verify and Bearer. The text after it is a
	// fixed phrase for the log; a caller is told nothing but that the token is
	// not valid.
	ErrInvalid = errors.New("invalid token")

	// ErrMissing says that a request carries no credentials at all.
	ErrMissing = errors.New("no bearer token")

	// ErrUnavailable is in an error of Verify, beside ErrInvalid, when the token
	// could not be judged because the issuer's keys cannot be fetched.
	ErrUnavailable = errors.New("the signing keys cannot be fetched")
)

const (
	maxTokenBytes = 8 << 10
	minSecret     = 32 // bytes; RFC 7518 section 3.2: at least the size of the hash

	defaultMaxLifetime = 24 * time.Hour
	defaultLeeway      = 30 * time.Second
	maxLeeway          = 5 * time.Minute
)

// Config describes whose tokens are accepted. At least one of HMACSecret,
// JWKSFile and JWKSURL is needed; a secret may stand beside a key set, since
// each algorithm has keys of its own.
type Config struct {
	// Issuer is what iss must be. Required.
	Issuer string
	// Audience is what aud must be or contain. Required.
	Audience string
	// MaxLifetime bounds exp - iat. Zero means 24 hours.
	MaxLifetime time.Duration
	// HMACSecret verifies HS256, and only that. At least 32 bytes; empty means
	// that HS256 is refused.
	HMACSecret []byte
	// JWKSFile names a JSON Web Key Set (RFC 7517) with the public keys for RS256,
	// ES256 and EdDSA. It is read again when it changes; while a changed file is
	// unusable, the keys before it stay in force and the fault is logged. Empty
	// means none.
	JWKSFile string
	// JWKSURL is the address of such a set; https, or http on a loopback address.
	// It is fetched when first needed, at most 15 minutes later again, and for an
	// unknown kid at most every 10 seconds. When it cannot be fetched for 24 hours
	// its keys are dropped. Empty means none.
	JWKSURL string
	// Leeway is how far this clock and the issuer's may differ. Zero means 30 s;
	// at most 5 minutes.
	Leeway time.Duration
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	// HTTPClient fetches JWKSURL. Nil means one that uses no proxy and keeps no
	// connection. Redirects are refused in either case.
	HTTPClient *http.Client
	// Log is told when a key set is loaded or cannot be. Nil means nobody.
	Log *slog.Logger
	// Metrics counts the loads of the key set. Nil means none.
	Metrics prometheus.Registerer
}

// Claims is what a verified token says.
type Claims struct {
	Subject   string
	Tenant    string
	ID        string // jti
	Scopes    []string
	ExpiresAt time.Time
}

// Has reports whether the claims grant a scope. See the constants for the one
// scope that implies another.
func (c Claims) Has(scope string) bool {
	return slices.Contains(c.Scopes, scope) ||
		scope == ScopeMonitor && slices.Contains(c.Scopes, ScopeAdmin)
}

// Verifier judges tokens. It is safe for concurrent use.
type Verifier struct {
	maxLifetime time.Duration
	secret      []byte
	keys        keySource // nil: none
	parser      *jwt.Parser
}

// New returns a verifier, or every fault of the configuration at once, each by
// its key. A key file must be readable; a key address is not asked yet.
func New(c Config) (*Verifier, error) {
	faults := c.faults()
	c.MaxLifetime = cmp.Or(c.MaxLifetime, defaultMaxLifetime)
	c.Leeway = cmp.Or(c.Leeway, defaultLeeway)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	loads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_auth_key_set_loads_total",
		Help: "Loads of the issuer's key set, by result: ok or error.",
	}, []string{"result"})
	keys, err := newKeySource(c, loads)
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	if c.Metrics != nil && keys != nil {
		if err := c.Metrics.Register(loads); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	var methods []string
	if len(c.HMACSecret) > 0 {
		methods = append(methods, algHS256)
	}
	if keys != nil {
		methods = append(methods, algRS256, algES256, algEdDSA)
	}
	return &Verifier{maxLifetime: c.MaxLifetime, secret: slices.Clone(c.HMACSecret), keys: keys, parser: jwt.NewParser(
		jwt.WithValidMethods(methods),
		jwt.WithIssuer(c.Issuer),
		jwt.WithAudience(c.Audience),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(c.Leeway),
		jwt.WithTimeFunc(c.Now),
		jwt.WithStrictDecoding(),
	)}, nil
}

// faults names what is wrong with the configuration as it is written.
func (c *Config) faults() (faults []error) {
	need := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	// An empty issuer or audience would switch the check off, not refuse.
	need(strings.TrimSpace(c.Issuer) != "", "auth.issuer: must not be empty")
	need(strings.TrimSpace(c.Audience) != "", "auth.audience: must not be empty")
	need(c.MaxLifetime >= 0, "auth.max_lifetime: must not be negative")
	need(c.Leeway >= 0 && c.Leeway <= maxLeeway, "auth.leeway: must be between 0 and %s", maxLeeway)
	n := len(c.HMACSecret)
	need(n == 0 || n >= minSecret, "auth.hmac_secret: %d bytes, at least %d are needed", n, minSecret)
	need(n > 0 || c.JWKSFile != "" || c.JWKSURL != "", "auth.hmac_secret, auth.jwks_file or auth.jwks_url: one is needed")
	need(c.JWKSFile == "" || c.JWKSURL == "", "auth.jwks_file and auth.jwks_url: only one may be set")
	return faults
}

// Verify returns what a token says, or an error that is ErrInvalid. The context
// bounds only the wait for a key set that has to be fetched first.
func (v *Verifier) Verify(ctx context.Context, raw string) (Claims, error) {
	h, err := readHeader(raw)
	if err != nil {
		return Claims{}, refusal(err)
	}
	claims := claimSet{maxLifetime: v.maxLifetime}
	// The token that Parse returns is filled even when it is refused, so it is not looked at.
	_, err = v.parser.ParseWithClaims(raw, &claims, func(*jwt.Token) (any, error) { return v.key(ctx, h) })
	if err != nil {
		return Claims{}, refusal(err)
	}
	return Claims{
		Subject: claims.sub, Tenant: claims.tenant, ID: claims.jti,
		Scopes: claims.scopes, ExpiresAt: claims.exp,
	}, nil
}

// key returns the one key that a header may be verified with.
func (v *Verifier) key(ctx context.Context, h header) (any, error) {
	if h.alg == algHS256 {
		// The one secret has no name, so a kid can only be wrong or a remark.
		if len(v.secret) == 0 || h.kid != "" && !plainKid(h.kid) {
			return nil, reason("no such key")
		}
		return v.secret, nil
	}
	if v.keys == nil {
		return nil, reason("no such key")
	}
	if h.kid == "" {
		return nil, reason("no kid")
	}
	k, err := v.keys.find(ctx, h.kid)
	if err != nil {
		return nil, err
	}
	if k.alg != h.alg {
		return nil, reason("the key is for another algorithm")
	}
	return k.public, nil
}

// Bearer returns the token of a request's header (RFC 6750 section 2.1). It
// returns ErrMissing when there is no Authorization field, and ErrInvalid when
// there are several or one of another form: with several, each reader could take
// another.
func Bearer(h http.Header) (string, error) {
	values := h.Values("Authorization")
	switch len(values) {
	case 0:
		return "", ErrMissing
	case 1:
	default:
		return "", refusal(reason("several Authorization fields"))
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", refusal(reason("not a Bearer token"))
	}
	return strings.Trim(token, " "), nil
}

// ValidTenant reports whether a name can be a tenant's: a letter or digit, then
// up to 63 letters, digits, "_" or "-". Names that differ in case are different
// tenants, since issuers hand out identifiers of mixed case.
func ValidTenant(name string) bool {
	if len(name) == 0 || len(name) > 64 || name[0] == '_' || name[0] == '-' {
		return false
	}
	for i := range len(name) {
		if !base64URL(name[i]) {
			return false
		}
	}
	return true
}

// base64URL reports whether b is of the base64url alphabet (RFC 4648 section 5).
func base64URL(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '_' || b == '-'
}
