package tasks

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// TenantSettings are what an operator has set of a tenant while Sluice runs. What is nil is
// as the configuration has it. They are kept as JSON under these names.
type TenantSettings struct {
	Weight           *int64 `json:"weight,omitempty"`
	SubmitsPerMinute *int64 `json:"submits_per_minute,omitempty"`
	ResendsPerMinute *int64 `json:"resends_per_minute,omitempty"`
	QueuedJobs       *int64 `json:"queued_jobs,omitempty"`
	QueuedBytes      *int64 `json:"queued_bytes,omitempty"`
	RunningJobs      *int64 `json:"running_jobs,omitempty"`
	TokensPerDay     *int64 `json:"tokens_per_day,omitempty"`
	CostPerDay       *Money `json:"cost_per_day,omitempty"` // in billionths
	HighPriority     *bool  `json:"high_priority,omitempty"`

	Users *UserSettings `json:"users,omitempty"`
}

// UserSettings are what an operator has set of each user of a tenant, as TenantSettings of the tenant.
type UserSettings struct {
	SubmitsPerMinute *int64 `json:"submits_per_minute,omitempty"`
	QueuedJobs       *int64 `json:"queued_jobs,omitempty"`
	RunningJobs      *int64 `json:"running_jobs,omitempty"`
	TokensPerDay     *int64 `json:"tokens_per_day,omitempty"`
	CostPerDay       *Money `json:"cost_per_day,omitempty"` // in billionths
}

// String is the settings as the audit has them: JSON, in which money is a decimal.
func (s TenantSettings) String() string {
	type kept TenantSettings
	type each UserSettings
	type users struct {
		each
		CostPerDay json.Number `json:"cost_per_day,omitempty"`
	}
	said := struct {
		kept
		CostPerDay json.Number `json:"cost_per_day,omitempty"`
		Users      *users      `json:"users,omitempty"`
	}{kept: kept(s), CostPerDay: decimal(s.CostPerDay)}
	if s.Users != nil {
		said.Users = &users{each(*s.Users), decimal(s.Users.CostPerDay)}
	}
	b, err := json.Marshal(said)
	if err != nil {
		panic(err) // numbers alone
	}
	return string(b)
}

func decimal(m *Money) json.Number {
	if m == nil {
		return ""
	}
	return json.Number(m.String())
}

// TenantLimits are what a tenant may use, 0 being no limit.
type TenantLimits struct {
	Weight           int64
	SubmitsPerMinute int64
	ResendsPerMinute int64
	QueuedJobs       int64
	QueuedBytes      int64
	RunningJobs      int64
	TokensPerDay     int64
	CostPerDay       Money
	HighPriority     bool
	Users            UserLimits
}

// UserLimits are what each user of a tenant may use of that, 0 being no limit but the tenant's.
type UserLimits struct {
	SubmitsPerMinute int64
	QueuedJobs       int64
	RunningJobs      int64
	TokensPerDay     int64
	CostPerDay       Money
}

// Places are how many jobs may be out at once, handed out, held or running; 0 is no limit.
type Places struct {
	Tenant int64 // of a tenant, in all
	User   int64 // of each of its users, where users are kept apart
}

// Places are those of a tenant with these limits.
func (l *TenantLimits) Places() Places { return Places{l.RunningJobs, l.Users.RunningJobs} }

// Over are the limits of the configuration with what an operator has set in their place.
func (s TenantSettings) Over(l TenantLimits) TenantLimits {
	var u UserSettings
	if s.Users != nil {
		u = *s.Users
	}
	return TenantLimits{
		Weight: set(s.Weight, l.Weight), SubmitsPerMinute: set(s.SubmitsPerMinute, l.SubmitsPerMinute), ResendsPerMinute: set(s.ResendsPerMinute, l.ResendsPerMinute),
		QueuedJobs: set(s.QueuedJobs, l.QueuedJobs), QueuedBytes: set(s.QueuedBytes, l.QueuedBytes), RunningJobs: set(s.RunningJobs, l.RunningJobs),
		TokensPerDay: set(s.TokensPerDay, l.TokensPerDay), CostPerDay: set(s.CostPerDay, l.CostPerDay), HighPriority: set(s.HighPriority, l.HighPriority),
		Users: UserLimits{
			SubmitsPerMinute: set(u.SubmitsPerMinute, l.Users.SubmitsPerMinute), QueuedJobs: set(u.QueuedJobs, l.Users.QueuedJobs), RunningJobs: set(u.RunningJobs, l.Users.RunningJobs),
			TokensPerDay: set(u.TokensPerDay, l.Users.TokensPerDay), CostPerDay: set(u.CostPerDay, l.Users.CostPerDay),
		},
	}
}

func set[T any](v *T, otherwise T) T {
	if v != nil {
		return *v
	}
	return otherwise
}

// Tenant is a tenant that is known, and what an operator has set of it. Limits and Standing are
// its own only where somebody has asked for them.
type Tenant struct {
	Name     string
	Settings TenantSettings
	Limits   TenantLimits
	Standing Standing
}

// Departure is how far the deletion of a tenant has come: what of it was deleted so far.
type Departure struct {
	Tenant     string
	Done       bool // nothing is left
	Jobs       int64
	Batches    int64
	Documents  int64 // files
	Endpoints  int64 // of webhooks
	Deliveries int64
	Tokens     int64
}

// String is a departure as the audit has it.
func (d Departure) String() string {
	return fmt.Sprintf("deleted %d jobs, %d batches, %d files, %d endpoints, %d deliveries and %d tokens", d.Jobs, d.Batches, d.Documents, d.Endpoints, d.Deliveries, d.Tokens)
}

// TenantPage is a page of tenants, by name.
type TenantPage struct {
	Tenants []Tenant
	Next    string // the name to go on after; "" at the end
}

// PageTenants is the page of these tenants behind a name.
func PageTenants(all []Tenant, after string, limit int) (page TenantPage) {
	slices.SortFunc(all, func(a, b Tenant) int { return cmp.Compare(a.Name, b.Name) })
	at, found := slices.BinarySearchFunc(all, after, func(t Tenant, name string) int { return cmp.Compare(t.Name, name) })
	if found {
		at++
	}
	page.Tenants = all[at:]
	if len(page.Tenants) > limit {
		page.Tenants = page.Tenants[:limit]
		page.Next = page.Tenants[limit-1].Name
	}
	return page
}

// Conduct is how a tenant behaves, as api/abuse writes it: what is in it is its own.
type Conduct struct {
	Tenant  string
	Version int64 // of what is kept; 0: nothing is
	Data    []byte
	Found   bool          // something was found of late
	Held    time.Duration // for which its jobs wait for a review from now on; 0: they do not
}
