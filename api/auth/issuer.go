package auth

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// Issuer is a foreign issuer whose tokens are taken as it makes them: typ and jti are
// not asked for, so that its tokens cannot be revoked one by one, and what they say is
// found under names of the issuer's own. All else is as strict as for our own tokens.
type Issuer struct {
	// Issuer is what iss must be, to the letter. Required.
	Issuer string
	// Audiences are those of which the token must name one. At least one.
	Audiences []string

	// Where the public keys are; one of the three. Discovery asks the issuer's
	// /.well-known/openid-configuration (OpenID Connect Discovery 1.0), whose issuer
	// must be Issuer.
	Discovery bool
	JWKSURL   string
	JWKSFile  string
	// CAFile holds the certificates (PEM) that vouch for these addresses in place of
	// the system's; read at each fetch. Empty: the system's.
	CAFile string
	// TokenFile holds a bearer token that is sent with each fetch, and is read then;
	// Kubernetes asks for one. Empty: none is sent.
	TokenFile string
	// AllowHTTP also takes addresses without TLS that are not on this machine: whoever
	// can change what they answer can sign tokens.
	AllowHTTP bool

	// Claims says where things stand in the token.
	Claims ClaimNames
	// Tenant is whose all tokens are, in place of a claim. Empty: the claim says.
	Tenant string
	// Tenants gives the claim's values tenants; a value that is not listed is refused.
	// Nil: the value is the tenant.
	Tenants map[string]string
	// Scope is what every token may do, in place of a claim, separated by spaces.
	// Empty: the claim says.
	Scope string
	// Scopes says what the claim's values mean here, scopes separated by spaces; a value
	// that is not listed means nothing. Nil: our own names mean themselves.
	Scopes map[string]string
	// Require lists, for claims by name, the values of which a token must have one.
	Require map[string][]string

	// MaxLifetime bounds exp - iat. Zero means [Config.MaxLifetime].
	MaxLifetime time.Duration
	// Leeway is how far this clock and the issuer's may differ. Zero means 30 s; at
	// most 5 minutes.
	Leeway time.Duration
}

// ClaimNames are the names of claims. A name may have dots and be an address; where a
// token has no claim of the whole name, its dots lead into objects, as in
// kubernetes.io.namespace. A claim may be text, a whole number or a list of texts.
type ClaimNames struct {
	Tenant string // whose jobs the token opens: one value. Empty means tenant
	// Scope is what the token may do; several names, separated by spaces, count
	// together. Empty means scope.
	Scope string
	Sub   string // who the caller is: one value. Empty means sub
	Aud   string // whom the token is meant for. Empty means aud
	// Pools has globs of the pools that the token may use, a list or one text with spaces
	// between them; a token without it is refused. Empty: a token may use all of them.
	Pools string
}

// everybody are issuers from which anybody can have a token for any audience.
func everybody() []string {
	return []string{"https://accounts.google.com", "https://token.actions.githubusercontent.com"}
}

// Check calls bad for each fault: the setting's name, relative to the issuer, and what
// is wrong with it in words that follow that name.
func (i *Issuer) Check(bad func(key, text string)) {
	if strings.TrimSpace(i.Issuer) == "" {
		bad("issuer", "must not be empty")
	}
	if len(i.Audiences) == 0 {
		bad("audiences", "needed: the audiences that tokens are meant for")
	}
	for n, a := range i.Audiences {
		if strings.TrimSpace(a) == "" {
			bad(fmt.Sprintf("audiences[%d]", n), "must not be empty")
		}
	}
	i.checkKeys(bad)
	i.checkTenants(bad)
	i.checkScopes(bad)
	for _, name := range slices.Sorted(maps.Keys(i.Require)) {
		if name == "" || len(i.Require[name]) == 0 || slices.Contains(i.Require[name], "") {
			bad("require."+name, "needs at least one value, and none may be empty")
		}
	}
	if slices.Contains(everybody(), strings.TrimSuffix(i.Issuer, "/")) && len(i.Require) == 0 && len(i.Tenants) == 0 {
		bad("require", "needed, or tenants: anybody can have a token of this issuer for any audience")
	}
	if i.MaxLifetime < 0 {
		bad("max_lifetime", "must not be negative")
	}
	if i.Leeway < 0 || i.Leeway > maxLeeway {
		bad("leeway", fmt.Sprintf("must be between 0 and %s", maxLeeway))
	}
}

func (i *Issuer) checkKeys(bad func(key, text string)) {
	given := 0
	for _, is := range []bool{i.Discovery, i.JWKSURL != "", i.JWKSFile != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		bad("discovery", "has to be true, or jwks_url or jwks_file given, and no two of them")
	}
	if i.Discovery && strings.TrimSpace(i.Issuer) != "" {
		if err := checkAddress(i.Issuer, i.AllowHTTP); err != nil {
			bad("issuer", err.Error()+"; its keys are to be discovered there")
		}
	}
	if i.JWKSURL != "" {
		if err := checkAddress(i.JWKSURL, i.AllowHTTP); err != nil {
			bad("jwks_url", err.Error())
		}
	}
	if _, err := certificates(i.CAFile); err != nil {
		bad("ca_file", err.Error())
	}
	if i.TokenFile != "" {
		if _, err := os.Stat(i.TokenFile); err != nil {
			bad("token_file", err.Error())
		}
	}
}

func (i *Issuer) checkTenants(bad func(key, text string)) {
	if i.Tenant != "" {
		if !ValidTenant(i.Tenant) {
			bad("tenant", "is not a tenant's name: letters, digits, _ and -, at most 64")
		}
		if i.Claims.Tenant != "" || i.Tenants != nil {
			bad("tenant", "is every token's, so neither claims.tenant nor tenants can be given")
		}
	}
	for _, value := range slices.Sorted(maps.Keys(i.Tenants)) {
		if !ValidTenant(i.Tenants[value]) {
			bad("tenants."+value, "is not a tenant's name: letters, digits, _ and -, at most 64")
		}
	}
}

func (i *Issuer) checkScopes(bad func(key, text string)) {
	known := func(key, list string) {
		names := strings.Fields(list)
		if len(names) == 0 {
			bad(key, "names no scope; there are "+strings.Join(Scopes(), ", "))
		}
		for _, s := range names {
			if !slices.Contains(Scopes(), s) {
				bad(key, fmt.Sprintf("%q is not a scope; there are %s", s, strings.Join(Scopes(), ", ")))
			}
		}
	}
	if i.Scope != "" {
		known("scope", i.Scope)
		if i.Claims.Scope != "" || i.Scopes != nil {
			bad("scope", "is every token's, so neither claims.scope nor scopes can be given")
		}
	}
	for _, value := range slices.Sorted(maps.Keys(i.Scopes)) {
		known("scopes."+value, i.Scopes[value])
	}
}

// checkAddress says what is wrong with an address that keys come from.
func checkAddress(address string, allowHTTP bool) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return errors.New("must be an absolute https address without user and fragment")
	}
	host := u.Hostname()
	ip := net.ParseIP(host)
	loopback := host == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback && !allowHTTP) {
		return errors.New("has to be https, or http on a loopback address: whoever can change it in transit can sign tokens")
	}
	return nil
}

// certificates returns those of a file, nil when there is none.
func certificates(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in the form of PEM", file)
	}
	return pool, nil
}
