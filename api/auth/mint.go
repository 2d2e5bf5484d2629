package auth

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// MintConfig describes a token that Sluice signs itself.
type MintConfig struct {
	// Secret signs with HS256. At least 32 bytes.
	Secret []byte
	// Issuer and Audience are the verifier's. Required.
	Issuer, Audience string
	// Subject is who the token is for. Required.
	Subject string
	// Tenant is whose jobs it opens; see ValidTenant. Required.
	Tenant string
	// Scopes are what it allows; each one of Scopes(), at least one.
	Scopes []string
	// Models are globs of the models that it may ask; see [ValidGlobs]. None: all.
	Models []string
	// Pools are globs of the pools that it may use, likewise. None: all.
	Pools []string
	// ID is the token's jti; "" means a random one.
	ID string
	// TTL is how long it is valid, in whole seconds. Zero means 1 hour. The
	// verifier refuses what passes its MaxLifetime.
	TTL time.Duration
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Mint returns a signed token that a Verifier of the same secret, issuer and
// audience accepts, or every fault of the configuration at once.
func Mint(c MintConfig) (string, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(c.Secret) < minSecret {
		fault("secret: %d bytes, at least %d are needed", len(c.Secret), minSecret)
	}
	if strings.TrimSpace(c.Issuer) == "" {
		fault("issuer: must not be empty")
	}
	if strings.TrimSpace(c.Audience) == "" {
		fault("audience: must not be empty")
	}
	if !validName(c.Subject) {
		fault("subject: must be 1 to %d bytes without control characters", maxNameBytes)
	}
	if !ValidTenant(c.Tenant) {
		fault("tenant: must be a letter or digit, then up to 63 letters, digits, '_' or '-'")
	}
	if len(c.Scopes) == 0 {
		fault("scope: at least one is needed, of %s", strings.Join(Scopes(), " "))
	}
	for _, s := range c.Scopes {
		if !slices.Contains(Scopes(), s) {
			fault("scope: %q is not one of %s", s, strings.Join(Scopes(), " "))
		}
	}
	narrowed := func(claim string, globs []string) {
		if !ValidGlobs(globs) {
			fault("%s: at most %d names of %s, in which only * stands for others", claim, maxGlobs, claim)
		}
	}
	narrowed(modelsClaim, c.Models)
	narrowed(poolsClaim, c.Pools)
	if c.TTL == 0 {
		c.TTL = time.Hour
	}
	if c.TTL < time.Second {
		fault("ttl: must be at least 1 s")
	}
	if err := errors.Join(faults...); err != nil {
		return "", err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	iat := c.Now().Unix()
	claims := jwt.MapClaims{
		"iss": c.Issuer, "aud": c.Audience, "sub": c.Subject, "jti": cmp.Or(c.ID, rand.Text()),
		"iat": iat, "exp": iat + int64(c.TTL/time.Second),
		"tenant": c.Tenant, "scope": strings.Join(c.Scopes, " "),
	}
	narrow(claims, modelsClaim, c.Models)
	narrow(claims, poolsClaim, c.Pools)
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, claims)
	token.Header["typ"] = "at+jwt"
	return token.SignedString(c.Secret)
}

// narrow narrows a token by a claim; no globs: it is for all.
func narrow(claims jwt.MapClaims, claim string, globs []string) {
	if len(globs) > 0 {
		claims[claim] = globs
	}
}
