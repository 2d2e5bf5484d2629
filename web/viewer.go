package web

import (
	"errors"
	"slices"
	"time"
)

// The scopes that the console knows: to see one's own tenant's jobs, to change those, to
// see the states of everybody's, to change everything, to read what others' jobs hold, and
// to see and change one's own tenant's webhooks.
const (
	scopeRead     = "jobs:read"
	scopeWrite    = "jobs:write"
	scopeMonitor  = "monitor"
	scopeAdmin    = "admin"
	scopeContent  = "content"
	scopeWebhooks = "webhooks:write"
)

var errForbidden = errors.New("neither jobs:read nor monitor nor admin")

// viewer is who looks at a page, for as long as a session is good.
type viewer struct {
	Subject string    `json:"sub"`
	Tenant  string    `json:"tenant"`
	Scopes  []string  `json:"scopes"`
	Models  []string  `json:"models,omitempty"`
	Token   string    `json:"jti"`
	Expires time.Time `json:"exp"`
}

// admit returns the viewer that an identity is, or errForbidden.
func admit(id Identity) (viewer, error) {
	v := viewer{Subject: id.Subject, Tenant: id.Tenant, Scopes: id.Scopes, Models: id.Models, Token: id.Token, Expires: id.ExpiresAt}
	if !v.is(scopeRead) && !v.Operates() {
		return viewer{}, errForbidden
	}
	return v, nil
}

// via is the viewer as who does something at a place.
func (v viewer) via(place string) Actor { return Actor{v.Subject, v.Tenant, place, v.Models} }

func (v viewer) is(scope string) bool { return slices.Contains(v.Scopes, scope) }

// Admin reports whether the viewer changes pools and everybody's jobs.
func (v viewer) Admin() bool { return v.is(scopeAdmin) }

// Operates reports whether the viewer sees the states of every tenant's jobs.
func (v viewer) Operates() bool { return v.is(scopeAdmin) || v.is(scopeMonitor) }

// Role is what the page calls the viewer.
func (v viewer) Role() string {
	switch {
	case v.Admin():
		return "admin"
	case v.Operates():
		return "monitor"
	}
	return "caller"
}

// sees reports whether the viewer is shown the states of a tenant's jobs.
func (v viewer) sees(tenant string) bool {
	return v.Operates() || tenant == v.Tenant && v.is(scopeRead)
}

// moves reports whether the viewer may cancel, retry and delete a tenant's jobs.
func (v viewer) moves(tenant string) bool {
	return v.Admin() || tenant == v.Tenant && v.is(scopeWrite) && v.is(scopeRead)
}

// hooks reports whether the viewer may send a tenant's webhooks again, and is shown their
// addresses and what receivers answered.
func (v viewer) hooks(tenant string) bool {
	return tenant == v.Tenant && v.is(scopeWebhooks) || v.Admin()
}

// reads reports whether the viewer is shown what a tenant's jobs hold. Of another tenant's
// each look is noted.
func (v viewer) reads(tenant string) bool {
	return v.is(scopeRead) && tenant == v.Tenant || v.is(scopeContent) && v.Operates()
}
