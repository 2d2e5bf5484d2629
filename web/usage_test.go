package web

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// ledger has one call of each of two tenants.
type ledger struct{ asked *[]string }

func (l ledger) Usage(_ context.Context, f tasks.LedgerFilter, by ...string) ([][]UsageRow, error) {
	*l.asked = append(*l.asked, fmt.Sprintf("%s %s-%s by %v", f.Tenant, f.Since.Format("02 15:04"), f.Until.Format("02 15:04"), by))
	all := make([][]UsageRow, len(by))
	for i := range by {
		all[i] = []UsageRow{{hostile + by[i] + " of " + f.Tenant, tasks.Spent{Requests: 12345, Usage: tasks.Usage{InputTokens: 6}, Cost: tasks.Cost{Amount: 7_000_000, Maybe: 1}}}}
	}
	return all, nil
}

func (ledger) UsageCSV(rows []UsageRow) []byte { return []byte("key," + rows[0].Key) }

// A tenant sees what its own calls took, an operator everybody's, and each table is a file too.
func TestUsageIsShown(t *testing.T) {
	t.Parallel()
	var asked []string
	s := newJobsSite(t, func(c *Config) { c.Usage = ledger{&asked} })
	for _, c := range []struct {
		token, query string
		status       int
		wants, asked string
	}{
		{"own", "", 200, "By model", "acme 01 00:00-21 12:00 by [model day]"},
		{"own", "?tenant=globex", 403, "its own tenant", ""},
		{"own", "?tenant=*", 403, "its own tenant", ""},
		{"writer", "", 403, "jobs:read", ""},
		{"look", "?tenant=*&since=2026-11-02&until=2026-11-03", 200, "By tenant", " 02 00:00-03 23:59 by [model day tenant]"},
		{"look", "", 200, "By tenant", " 01 00:00-21 12:00 by [model day tenant]"},
		{"look", "?tenant=globex&csv=day", 200, "key,", "globex 01 00:00-21 12:00 by [day]"},
		{"own", "?csv=account", 400, "no such table", ""},
		{"own", "?since=then", 400, "Write times", ""},
		{"own", "?since=2026-11-03&until=2026-11-01", 400, "before the last", ""},
	} {
		asked = nil
		a := s.as(c.token, "GET", "/usage"+c.query)
		got := strings.Join(asked, "; ")
		if s.want(a, c.status, c.wants); got != c.asked || strings.Contains(a.body, "<script>alert") && !strings.HasPrefix(a.body, "key,") {
			t.Errorf("%s %s: asked %q, want %q;\n%s", c.token, c.query, got, c.asked, a.body)
		}
	}
	a := s.as("own", "GET", "/usage")
	s.want(a, 200, "12\u202f345", "7 "+tasks.Currency, "csv=model", "Perhaps more", `href="/usage"`)
	if a := s.as("own", "GET", "/usage?csv=model"); a.Header.Get("Content-Disposition") != `attachment; filename="usage-by-model.csv"` {
		t.Error(a.Header)
	}
}
