package web

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const (
	usageRoot  = "/usage"
	everybody  = "*"  // as a tenant: all of them
	usageShown = 1000 // rows of a table; the CSV has all
)

// Usage is what the page of usage asks.
type Usage interface {
	// Usage is what calls took by "model", "day" or "tenant", for each of these that is asked for. Tenant "" is
	// all of them, and no time to begin with is this month.
	Usage(ctx context.Context, f tasks.LedgerFilter, by ...string) ([][]UsageRow, error)
	// UsageCSV is one of these as a table.
	UsageCSV(rows []UsageRow) []byte
}

// UsageRow is what was used of one key.
type UsageRow struct {
	Key string
	tasks.Spent
}

// usagePage shows what calls took.
type usagePage struct {
	frame
	Tenant, Since, Until string
	Tenants              []string // to choose from; none for who sees one
	Fault                string
	Tables               []usageTable
}

// usageTable is usage by one kind of key.
type usageTable struct {
	ID, Title string
	CSV       string // where the whole is
	Rows      []usageShownRow
	Cut       bool
}

type usageShownRow struct {
	Key, Path                         string // Path is where it is shown apart; "": nowhere
	Calls, In, Out, Cached, Cost, May string
}

// usageTitles are the kinds of keys in the order in which they are shown.
var usageTitles = map[string]string{"model": "By model", "day": "By day", "tenant": "By tenant"}

func (w *Web) usagePage(rw http.ResponseWriter, r *http.Request, v viewer) {
	ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
	defer cancel()
	q := r.URL.Query()
	page := usagePage{frame: w.frame(v, "usage"), Tenant: tenantOf(r, v), Since: strings.TrimSpace(q.Get("since")), Until: strings.TrimSpace(q.Get("until"))}
	if v.Operates() && q.Get("tenant") == "" {
		page.Tenant = everybody
	}
	f, by, status, fault := w.usageFilter(&page, q, v)
	if fault == "" && v.Operates() && w.cfg.Jobs != nil {
		page.Tenants = append([]string{everybody}, w.tenants(ctx, strings.TrimPrefix(page.Tenant, everybody))...)
	}
	var all [][]UsageRow
	if fault == "" {
		var err error
		if all, err = w.cfg.Usage.Usage(ctx, f, by...); err != nil {
			w.cfg.Log.Error("read usage for the console", "error", err)
			status, fault = http.StatusServiceUnavailable, "Usage cannot be read just now. Nothing is lost by that; try again in a moment."
		}
	}
	if fault == "" && q.Get("csv") != "" {
		rw.Header().Set("Content-Type", "text/csv; charset=utf-8")
		rw.Header().Set("Content-Disposition", `attachment; filename="usage-by-`+by[0]+`.csv"`)
		_, _ = rw.Write(w.cfg.Usage.UsageCSV(all[0]))
		return
	}
	page.Fault = fault
	for i := range all {
		page.Tables = append(page.Tables, w.usageTable(&page, by[i], all[i]))
	}
	w.page(rw, status, "usage.html", page)
}

// usageFilter is what an address asks for, or what is wrong with it.
func (w *Web) usageFilter(page *usagePage, q url.Values, v viewer) (f tasks.LedgerFilter, by []string, status int, fault string) {
	f.Tenant = page.Tenant
	if v.Operates() && page.Tenant == everybody {
		f.Tenant = ""
	}
	since, errSince := parseTime(page.Since)
	until, errUntil := parseTime(page.Until)
	f.Since, f.Until = since, until
	switch {
	case until.IsZero():
		f.Until = w.cfg.Now().Add(24 * time.Hour) // a clock that is off leaves nothing of today out
	case len(page.Until) == len(time.DateOnly):
		f.Until = until.Add(24*time.Hour - time.Millisecond) // that day too
	}
	by = []string{"model", "day", "tenant"}
	if f.Tenant != "" {
		by = by[:2]
	}
	if one := q.Get("csv"); one != "" {
		if by = []string{one}; usageTitles[one] == "" {
			return f, by, http.StatusBadRequest, "There is no such table."
		}
	}
	switch {
	case len(page.Tenant) > idMost:
		return f, by, http.StatusBadRequest, "What stands in the address is too long."
	case f.Tenant != "" && !v.sees(f.Tenant):
		return f, by, http.StatusForbidden, "Your token shows the usage of its own tenant, " + v.Tenant + "."
	case errSince != nil || errUntil != nil:
		return f, by, http.StatusBadRequest, "Write times as 2026-11-20, in UTC."
	case !f.Since.IsZero() && !f.Since.Before(f.Until):
		return f, by, http.StatusBadRequest, "The first day must be before the last."
	}
	return f, by, http.StatusOK, ""
}

func (w *Web) usageTable(page *usagePage, by string, rows []UsageRow) usageTable {
	q := url.Values{"csv": {by}, "tenant": {page.Tenant}}
	for name, value := range map[string]string{"since": page.Since, "until": page.Until} {
		if value != "" {
			q.Set(name, value)
		}
	}
	t := usageTable{ID: by, Title: usageTitles[by], CSV: w.base + usageRoot + "?" + q.Encode(), Cut: len(rows) > usageShown}
	for _, r := range rows[:min(len(rows), usageShown)] {
		row := usageShownRow{
			Key: r.Key, Calls: grouped(r.Requests), In: grouped(r.InputTokens), Out: grouped(r.OutputTokens), Cached: grouped(r.CacheReadInputTokens + r.CacheCreationInputTokens),
			Cost: r.Amount.String() + " " + tasks.Currency,
		}
		if r.Maybe > 0 {
			row.May = r.Maybe.String()
		}
		if by == "tenant" {
			row.Path = w.base + usageRoot + "?" + url.Values{"tenant": {r.Key}, "since": {page.Since}, "until": {page.Until}}.Encode()
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}
