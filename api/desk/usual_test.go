package desk

import (
	"slices"
	"testing"

	"github.com/sluicehq/sluice/api/abuse"
	"github.com/sluicehq/sluice/tasks"
)

// heard is whom an Abuse was told of.
type heard struct{ tenants []string }

func (h *heard) Allow(tenant string) error { h.tenants = append(h.tenants, tenant); return nil }
func (h *heard) See(v *abuse.Visit)        { h.tenants = append(h.tenants, v.Tenant) }

// What users of a tenant do counts to the tenant: else many of them would pass as many.
func TestUsersAreWatchedAsTheirTenant(t *testing.T) {
	t.Parallel()
	h := &heard{}
	d := &Desk{c: Config{Abuse: h}}
	for _, owner := range []string{"acme", "acme/ada", "acme/bob/2"} {
		if err := d.usual(owner); err != nil {
			t.Fatal(err)
		}
		c := Caller{Tenant: owner}
		d.saw(&c, &tasks.Job{})
		d.sawMany(&c, 2, 0, 0)
	}
	if got := slices.Compact(h.tenants); len(h.tenants) != 9 || len(got) != 1 || got[0] != "acme" {
		t.Errorf("watched are %q, want acme nine times", h.tenants)
	}
}
