// Package auth answers who calls: it verifies bearer tokens, strictly and in
// one place, and mints the ones that Sluice signs itself.
//
// It promises that a token is accepted only when it is a compact JWS of at most
// 8 KiB, signed by a key of the configuration with the one algorithm that the
// key is for (HS256, RS256, PS256, ES256, ES384 or EdDSA), meant for this issuer
// and audience, of a bounded lifetime, and complete: iss, aud, sub, exp, iat, jti,
// tenant and scope are all required. Both JSON parts are read with duplicate members,
// invalid UTF-8 and names that differ from a known one only in case refused, so
// that no other reader of the same token can understand it differently.
//
// Tokens of a foreign [Issuer] may have no typ and no jti, up to 16 KiB, and other
// names for what they say. They are verified with that issuer's keys alone: neither
// the secret nor another issuer's key can make one.
//
// Where a key set is not as it should be, it goes on without the key that is at
// fault and says which; a set that holds a private or symmetric key is not used.
//
// It never follows a key or an address that a token names (jku, jwk, x5u, x5c),
// never remembers a token but by its id or its digest, and never puts a claim of one into an error or a log.
//
// With a [Ledger] a token can be revoked by its jti, whoever made it: it is refused
// everywhere within a second. While that cannot be asked, claims say that they are
// unsure, and after 30 s none is accepted.
//
// The rules follow RFC 7515, RFC 7519, RFC 8725 (BCP 225) and, for the type and
// the required claims, RFC 9068.
package auth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// Config describes whose tokens are accepted. At least one of HMACSecret,
// JWKSFile, JWKSURL and Issuers is needed; a secret may stand beside a key set, since
// each algorithm has keys of its own.
type Config struct {
	// Issuer is what iss must be in a token of our own. Required.
	Issuer string
	// Audience is what aud must be or contain in a token of our own. Required.
	Audience string
	// MaxLifetime bounds exp - iat. Zero means 24 hours.
	MaxLifetime time.Duration
	// HMACSecret verifies HS256 in tokens of our own, and only that. At least 32 bytes;
	// empty means that HS256 is refused.
	HMACSecret []byte
	// JWKSFile names a JSON Web Key Set (RFC 7517) with the public keys of our own
	// tokens. It is read again when it changes; while a changed file is
	// unusable, the keys before it stay in force and the fault is logged. Empty
	// means none.
	JWKSFile string
	// JWKSURL is the address of such a set; https, or http on a loopback address.
	// See [Verifier.Run] for when it is fetched. When it cannot be fetched for 24 hours
	// its keys are dropped. Empty means none.
	JWKSURL string
	// Issuers are foreign ones, no two of the same iss. Empty means none.
	Issuers []Issuer
	// Leeway is how far this clock and that of our own issuer may differ. Zero means
	// 30 s; at most 5 minutes.
	Leeway time.Duration
	// SeparateUsers says that each subject of a tenant is a user of its own: see
	// Claims.User. False: a tenant's callers share what is the tenant's.
	SeparateUsers bool
	// Ledger knows which tokens the server keeps and which were revoked. Nil: none of
	// either; a token whose jti begins with [KeptPrefix] is then refused.
	Ledger Ledger
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	// Log is told when a key set is loaded, is not as it should be, or cannot be had.
	// Nil means nobody.
	Log *slog.Logger
	// Metrics counts refused tokens and the loads of key sets. Nil means none.
	Metrics prometheus.Registerer
}

// Verifier judges tokens. It is safe for concurrent use.
type Verifier struct {
	rules   map[string]*rules // by iss
	ledger  *ledger           // nil: nobody knows more of a token than it says
	names   []string          // of the issuers, in the configuration's order
	refused *prometheus.CounterVec
	now     func() time.Time
	seen    seen

	separate bool
}

// New returns a verifier, or every fault of the configuration at once, each by
// its key. A key file must be readable; an address is not asked yet.
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
	v := &Verifier{rules: map[string]*rules{}, ledger: newLedger(c.Ledger), now: c.Now, separate: c.SeparateUsers, refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_auth_refused_total",
		Help: "Tokens refused, by the issuer whose rules they were judged by (none: no configured issuer's) and why.",
	}, []string{"issuer", "reason"})}
	loads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_auth_key_set_loads_total",
		Help: "Loads of an issuer's key set, by result: ok or error.",
	}, []string{"issuer", "result"})
	for i := range c.Issuers {
		foreign := &c.Issuers[i]
		faults = append(faults, v.add(rulesOf(*foreign, c.MaxLifetime), keyPlace{
			key: fmt.Sprintf("auth.issuers[%d].", i), issuer: foreign.Issuer, discovery: foreign.Discovery, url: foreign.JWKSURL, file: foreign.JWKSFile,
			caFile: foreign.CAFile, tokenFile: foreign.TokenFile, allowHTTP: foreign.AllowHTTP,
		}, c, loads))
	}
	own := rulesOf(Issuer{Issuer: c.Issuer, Audiences: []string{c.Audience}, Leeway: c.Leeway}, c.MaxLifetime)
	own.own, own.secret, own.maxBytes = true, slices.Clone(c.HMACSecret), maxTokenBytes
	own.roots = append(own.roots, modelsClaim, poolsClaim)
	faults = append(faults, v.add(own, keyPlace{key: "auth.", issuer: c.Issuer, url: c.JWKSURL, file: c.JWKSFile}, c, loads))
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if c.Metrics != nil {
		for _, m := range []prometheus.Collector{v.refused, loads} {
			if err := c.Metrics.Register(m); err != nil {
				return nil, fmt.Errorf("register metrics: %w", err)
			}
		}
	}
	return v, nil
}

// add completes an issuer's rules with its keys and its parser.
func (v *Verifier) add(r *rules, at keyPlace, c Config, loads *prometheus.CounterVec) error {
	keys, err := newKeySource(at, c.Now, c.Log, loads)
	if err != nil {
		return err
	}
	var methods []string
	if len(r.secret) > 0 {
		methods = append(methods, algHS256)
	}
	if keys != nil {
		methods = append(methods, publicAlgs()...)
	}
	r.keys = keys
	r.parser = jwt.NewParser(append(r.options(c.Now), jwt.WithValidMethods(methods), jwt.WithStrictDecoding())...)
	if v.rules[r.issuer] != nil {
		return fmt.Errorf("%sissuer: another has the same", at.key)
	}
	v.rules[r.issuer] = r
	v.names = append(v.names, r.issuer)
	return nil
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
	need(n > 0 || c.JWKSFile != "" || c.JWKSURL != "" || len(c.Issuers) > 0, "auth.hmac_secret, auth.jwks_file, auth.jwks_url or auth.issuers: one is needed")
	need(c.JWKSFile == "" || c.JWKSURL == "", "auth.jwks_file and auth.jwks_url: only one may be set")
	if c.JWKSURL != "" {
		if err := checkAddress(c.JWKSURL, false); err != nil {
			faults = append(faults, fmt.Errorf("auth.jwks_url: %w", err))
		}
	}
	for i := range c.Issuers {
		c.Issuers[i].Check(func(key, text string) { need(false, "auth.issuers[%d].%s: %s", i, key, text) })
	}
	return faults
}

// Verify returns what a token says, or a [Refusal]. The context bounds only the wait
// for a key set that has to be fetched first, and for the Ledger where this process has
// not asked it within the last second: half a second for that, or what [Patient] says.
func (v *Verifier) Verify(ctx context.Context, raw string) (Claims, error) {
	c, refused := v.verify(ctx, raw)
	if refused != nil {
		v.refused.WithLabelValues(refused.Issuer, refused.Reason).Inc()
		return Claims{}, refused
	}
	return c, nil
}

func (v *Verifier) verify(ctx context.Context, raw string) (Claims, *Refusal) {
	digest := sha256.Sum256([]byte(raw))
	s := v.seen.find(digest)
	if s == nil || !s.stands(ctx, v.now()) {
		var refused *Refusal
		if s, refused = v.read(ctx, raw); refused != nil {
			return Claims{}, refused
		}
		v.seen.keep(digest, s)
	}
	out := s.claims
	if v.separate {
		out.User = out.Subject
	}
	kept := keptForm(s.rules.own, s.header.alg, out.ID)
	var err error
	switch {
	case v.ledger != nil:
		err = v.ledger.judge(ctx, &out, kept)
	case kept:
		err = reason{reasonRecord, "it is a token that the server keeps: only a running server knows whether it still does"}
	}
	if err != nil {
		refused := refusal(err, s.header, s.rules.issuer)
		refused.Signed = true
		return Claims{}, refused
	}
	return out, nil
}

// read judges a token by all that it says itself.
func (v *Verifier) read(ctx context.Context, raw string) (*signed, *Refusal) {
	h, err := readHeader(raw)
	if err != nil {
		return nil, refusal(err, h, "")
	}
	r, err := v.rulesFor(raw)
	if err != nil {
		return nil, refusal(err, h, "")
	}
	if err := r.fits(raw, h); err != nil {
		return nil, refusal(err, h, r.issuer)
	}
	s := &signed{rules: r, header: h}
	claims := claimSet{by: &r.claimRules, alg: h.alg}
	// The token that Parse returns is filled even when it is refused, so it is not looked at.
	_, err = r.parser.ParseWithClaims(raw, &claims, func(*jwt.Token) (_ any, err error) {
		s.key, err = r.key(ctx, h)
		return s.key, err
	})
	if err != nil {
		return nil, refusal(err, h, r.issuer)
	}
	s.from, s.till = claims.iat, claims.exp
	if claims.nbf.After(s.from) {
		s.from = claims.nbf
	}
	s.claims = Claims{
		Subject: claims.sub, Tenant: claims.tenant, ID: claims.jti,
		Scopes: claims.scopes, Models: claims.models, Pools: claims.pools, ExpiresAt: claims.exp,
	}
	return s, nil
}

// rulesFor returns the rules of the issuer that a token names.
func (v *Verifier) rulesFor(raw string) (*rules, error) {
	iss, err := issuerOf(raw)
	if err != nil {
		return nil, err
	}
	r := v.rules[iss]
	if r == nil {
		return nil, reason{reasonIssuer, "no issuer of the configuration has this iss; every letter counts, a slash at the end too"}
	}
	return r, nil
}

// Run fetches the key sets at once and again about every 10 minutes, or 10 s after a
// failure, until ctx ends, so that no caller waits for one. Without it they are fetched
// when first needed and, by one caller in 15 minutes, again. It also asks the Ledger four
// times a second.
func (v *Verifier) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	if v.ledger != nil {
		wg.Go(func() { v.ledger.keep(ctx) })
	}
	for _, r := range v.rules {
		if k, ok := r.keys.(*remoteKeys); ok {
			wg.Go(func() { k.keep(ctx) })
		}
	}
	wg.Wait()
	<-ctx.Done()
	return nil
}

// KeySets returns how each key set stands, in the configuration's order.
func (v *Verifier) KeySets() (list []KeySet) {
	for _, name := range v.names {
		if r := v.rules[name]; r.keys != nil {
			list = append(list, r.keys.state())
		}
	}
	return list
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
		return "", refusal(malformed("several Authorization fields"), header{}, "")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", refusal(malformed("not a Bearer token"), header{}, "")
	}
	return strings.Trim(token, " "), nil
}
