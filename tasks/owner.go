package tasks

import "strings"

// An owner is whose jobs, batches, files, endpoints and deliveries somebody may see and move:
// a tenant's name, or, where the users of tenants are kept apart, the tenant's, "/" and the
// user's. A tenant's name has no "/", so that nothing else is read as one. What takes a tenant
// to say whose a thing must be takes an owner.

// Owner is the owner of what a user of a tenant has made; of user "" the tenant is.
func Owner(tenant, user string) string {
	if user == "" {
		return tenant
	}
	return tenant + "/" + user
}

// SplitOwner is the tenant of an owner, and its user; "": it is the tenant itself.
func SplitOwner(owner string) (tenant, user string) {
	tenant, user, _ = strings.Cut(owner, "/")
	return tenant, user
}

// TenantOf is the tenant of an owner.
func TenantOf(owner string) string {
	tenant, _ := SplitOwner(owner)
	return tenant
}

// Owns reports whether what a user of a tenant has made is an owner's. What was made while
// users were not kept apart has user "": it is no single user's, and the tenant's alone.
func Owns(owner, tenant, user string) bool {
	of, only := SplitOwner(owner)
	return of == tenant && (only == "" || only == user)
}
