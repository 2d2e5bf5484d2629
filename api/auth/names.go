package auth

import (
	"errors"
	"slices"
	"time"
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
	ScopeContent       = "content" // beside one of the two before: to read what other tenants' jobs hold, in the console
)

// Scopes returns every scope that Sluice knows.
func Scopes() []string {
	return []string{ScopeJobsRead, ScopeJobsWrite, ScopeWebhooksWrite, ScopeMonitor, ScopeAdmin, ScopeContent}
}

var (
	// ErrInvalid is in every error of Verify and Bearer. See [Refusal] for why.
	ErrInvalid = errors.New("invalid token")

	// ErrMissing says that a request carries no credentials at all.
	ErrMissing = errors.New("no bearer token")

	// ErrUnavailable is in an error of Verify, beside ErrInvalid, when the token
	// could not be judged because the issuer's keys cannot be fetched.
	ErrUnavailable = errors.New("the signing keys cannot be fetched")
)

const (
	maxTokenBytes   = 8 << 10
	maxForeignBytes = 16 << 10 // a foreign issuer may list a person's groups
	minSecret       = 32       // bytes; RFC 7518 section 3.2: at least the size of the hash

	defaultMaxLifetime = 24 * time.Hour
	defaultLeeway      = 30 * time.Second
	maxLeeway          = 5 * time.Minute
)

// Claims is what a verified token says.
type Claims struct {
	Subject   string
	Tenant    string
	User      string // the subject, where it sees only what is its own; "": it sees all of its tenant's
	ID        string // jti; a foreign issuer's token may have none
	Scopes    []string
	Models    []string // globs of the models that it may ask; none: all
	Pools     []string // globs of the pools that it may use; none: all
	ExpiresAt time.Time
	// Unsure is set when nobody could say within the last second whether the token was
	// revoked: it is good for reading, and for nothing that changes anything.
	Unsure bool
}

// Has reports whether the claims grant a scope. See the constants for the one
// scope that implies another.
func (c Claims) Has(scope string) bool {
	return slices.Contains(c.Scopes, scope) ||
		scope == ScopeMonitor && slices.Contains(c.Scopes, ScopeAdmin)
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
