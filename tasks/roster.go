package tasks

import "sync"

const (
	// RosterMost is how many tenants a Roster tells apart.
	RosterMost = 100
	// OtherTenants stands for all the others. It is no tenant's name.
	OtherTenants = "(others)"
)

// Roster bounds how many tenants a process's metrics tell apart: the first that come have
// series of their own, the others share one. Its zero value is ready, and its method may be
// called by many goroutines.
type Roster struct {
	mu    sync.RWMutex
	named map[string]bool
}

// Label is what a tenant is called in metrics.
func (r *Roster) Label(tenant string) string {
	r.mu.RLock()
	named, full := r.named[tenant], len(r.named) >= RosterMost
	r.mu.RUnlock()
	if named {
		return tenant
	}
	if full {
		return OtherTenants
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.named[tenant]:
	case len(r.named) >= RosterMost:
		return OtherTenants
	case r.named == nil:
		r.named = map[string]bool{tenant: true}
	default:
		r.named[tenant] = true
	}
	return tenant
}
