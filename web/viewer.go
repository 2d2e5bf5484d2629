package web

import (
	"errors"
	"slices"
	"time"

	"github.com/sluicehq/sluice/tasks"
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
	Tenant  string    `json:"tenant"` // or one user of it: see tasks.Owner
	Scopes  []string  `json:"scopes"`
	Models  []string  `json:"models,omitempty"`
	Pools   []string  `json:"pools,omitempty"`
	Token   string    `json:"jti"`
	Expires time.Time `json:"exp"`
}

// admit returns the viewer that an identity is, or errForbidden.
func (w *Web) admit(id Identity) (viewer, error) {
	if w.cfg.SeparateUsers {
		id.Tenant = tasks.Owner(id.Tenant, id.Subject)
	}
	v := viewer{Subject: id.Subject, Tenant: id.Tenant, Scopes: id.Scopes, Models: id.Models, Pools: id.Pools, Token: id.Token, Expires: id.ExpiresAt}
	if !v.is(scopeRead) && !v.Operates() {
		return viewer{}, errForbidden
	}
	return v, nil
}

// via is the viewer as who does something at a place.
func (v viewer) via(place string) Actor { return Actor{v.Subject, v.Tenant, place, v.Models, v.Pools} }

// act is a line of the audit about what the viewer does: of its token's tenant, also where users are kept apart.
func (v viewer) act(at time.Time, action, target, reason string) tasks.Act {
	return tasks.Act{At: at, By: v.Subject, Tenant: tasks.TenantOf(v.Tenant), Via: "console", Action: action, Target: target, Reason: reason}
}

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

// own reports whether what is an owner's is the viewer's own.
func (v viewer) own(owner string) bool {
	tenant, user := tasks.SplitOwner(owner)
	return tasks.Owns(v.Tenant, tenant, user)
}

// home is whose jobs the viewer is shown where an address names nobody.
func (v viewer) home() string {
	if v.Operates() {
		return tasks.TenantOf(v.Tenant)
	}
	return v.Tenant
}

// sees reports whether the viewer is shown the states of an owner's jobs.
func (v viewer) sees(owner string) bool {
	return v.Operates() || v.own(owner) && v.is(scopeRead)
}

// moves reports whether the viewer may cancel, retry and delete an owner's jobs.
func (v viewer) moves(owner string) bool {
	return v.Admin() || v.own(owner) && v.is(scopeWrite) && v.is(scopeRead)
}

// hooks reports whether the viewer may send an owner's webhooks again, and is shown their
// addresses and what receivers answered.
func (v viewer) hooks(owner string) bool {
	return v.own(owner) && v.is(scopeWebhooks) || v.Admin()
}

// reads reports whether the viewer is shown what an owner's jobs hold. Of another's
// each look is noted.
func (v viewer) reads(owner string) bool {
	return v.is(scopeRead) && v.own(owner) || v.is(scopeContent) && v.Operates()
}
