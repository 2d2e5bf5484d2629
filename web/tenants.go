package web

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const tenantsRoot = "/tenants"

// Tenants is what the page of the tenants asks.
type Tenants interface {
	// KnownTenants lists tenants behind a name, with their limits and how these stand.
	KnownTenants(ctx context.Context, after string, limit int) (tasks.TenantPage, error)
	// KeptTokens lists the tokens that the server has made after an id, the newest first.
	KeptTokens(ctx context.Context, after string, limit int) (tasks.TokenPage, error)
	// RevokeToken has every process refuse a token within a second, and notes it in the
	// audit. An unknown id is tasks.ErrNotFound.
	RevokeToken(ctx context.Context, id string, act tasks.Act) error
}

// tenantsPage says who may use how much, and uses it; and which tokens there are.
type tenantsPage struct {
	frame
	Refresh string
	Live    tenantsList
}

// tenantsList is the part of the page that is renewed.
type tenantsList struct {
	Title  string
	At     string
	Fault  string
	Rows   []tenantRow
	Next   string
	Tokens []tokenRow
	Older  string // the next page of tokens
	Admin  bool
}

type tenantRow struct {
	Name, Jobs      string // Jobs is where its jobs are listed
	Weight          string
	Flag            *flag // nil: nothing was found of it
	High, Set       bool  // it may use the lane high; somebody has set something of it
	Queued, Running use
	Bytes           use
	Tokens, Cost    use // of today
}

// flag is the mark of a tenant of which something was found.
type flag struct {
	Action, Found string
	Release       string // where it is released; "": the viewer may not
}

// use is what is used of a limit.
type use struct {
	Used  string
	Limit string // "" for none
	Full  bool
}

type tokenRow struct {
	ID, Name, Tenant, Subject, By string
	Scopes, Models, Pools         string
	State                         string
	Revoke                        string // where it is revoked; "": it is, or has ended
}

func (w *Web) tenantsPage(rw http.ResponseWriter, r *http.Request, v viewer) {
	ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
	defer cancel()
	list, status := w.tenantsList(ctx, r, v)
	w.page(rw, status, "tenants.html", tenantsPage{w.frame(v, "tenants"), w.base + "/console/tenants?" + r.URL.Query().Encode(), list})
}

func (w *Web) tenantsList(ctx context.Context, r *http.Request, v viewer) (tenantsList, int) {
	now, q := w.cfg.Now(), r.URL.Query()
	list := tenantsList{Title: "Tenants – Sluice", At: now.UTC().Format("15:04:05 UTC"), Admin: v.Admin()}
	switch {
	case !v.Operates():
		list.Fault = "All tenants are shown to the scopes monitor and admin. What your own uses is told by GET /v1/usage."
		return list, http.StatusForbidden
	case max(len(q.Get("after")), len(q.Get("tokens"))) > idMost:
		list.Fault = "What stands in the address is too long."
		return list, http.StatusBadRequest
	}
	page, err := w.cfg.Tenants.KnownTenants(ctx, q.Get("after"), jobsOnAPage)
	var tokens tasks.TokenPage
	if err == nil && v.Admin() {
		tokens, err = w.cfg.Tenants.KeptTokens(ctx, q.Get("tokens"), jobsOnAPage)
	}
	if err != nil {
		w.cfg.Log.Error("list tenants for the console", "error", err)
		list.Fault = "The tenants cannot be read just now. Nothing is lost by that; the page goes on trying."
		return list, http.StatusServiceUnavailable
	}
	flags := w.flags(ctx)
	for i := range page.Tenants {
		row := w.tenantRow(&page.Tenants[i])
		if f, ok := flags[row.Name]; ok {
			row.Flag = &flag{Action: f.Action, Found: strings.Join(f.Found, ", ")}
			if v.Admin() {
				row.Flag.Release = w.releasePath(row.Name)
			}
		}
		list.Rows = append(list.Rows, row)
	}
	for i := range tokens.Tokens {
		list.Tokens = append(list.Tokens, w.tokenRow(&tokens.Tokens[i], now))
	}
	list.Next, list.Older = w.further(q, "after", page.Next), w.further(q, "tokens", tokens.Next)
	return list, http.StatusOK
}

// further is where one of the page's lists goes on, with the other as it is; "" at its end.
func (w *Web) further(q url.Values, list, next string) string {
	if next == "" {
		return ""
	}
	to := url.Values{list: {next}}
	for _, other := range []string{"after", "tokens"} {
		if other != list && q.Get(other) != "" {
			to.Set(other, q.Get(other))
		}
	}
	return w.base + tenantsRoot + "?" + to.Encode()
}

func (w *Web) tenantRow(t *tasks.Tenant) tenantRow {
	s, l := &t.Standing, &t.Limits
	row := tenantRow{
		Name: t.Name, Jobs: w.base + jobsRoot + "?" + url.Values{"tenant": {t.Name}}.Encode(),
		Weight: grouped(l.Weight), High: l.HighPriority, Set: t.Settings != tasks.TenantSettings{},
		Queued: used(s.QueuedJobs, l.QueuedJobs, grouped), Running: used(s.RunningJobs, l.RunningJobs, grouped),
		Bytes:  used(s.QueuedBytes, l.QueuedBytes, mebibytes),
		Tokens: used(s.Day.Used+s.Day.Reserved, l.TokensPerDay, grouped),
	}
	row.Cost = used(int64(s.Paid+s.Pledged), int64(l.CostPerDay), func(n int64) string { return tasks.Money(n).String() })
	if l.RunningJobs == 0 {
		row.Running.Used = "" // is counted only under a limit
	}
	return row
}

// used says how much of a limit is used; 0 is no limit.
func used(n, limit int64, words func(int64) string) use {
	u := use{Used: words(max(0, n))}
	if limit > 0 {
		u.Limit, u.Full = words(limit), n >= limit
	}
	return u
}

func mebibytes(n int64) string { return grouped((n+1<<20-1)>>20) + " MiB" }

func (w *Web) tokenRow(t *tasks.Token, now time.Time) tokenRow {
	row := tokenRow{
		ID: t.ID, Name: t.Name, Tenant: t.Tenant, Subject: t.Subject, By: t.By, Scopes: strings.Join(t.Scopes, " "), Models: strings.Join(t.Models, " "), Pools: strings.Join(t.Pools, " "),
		State: "good until " + t.Expires.UTC().Format("2006-01-02 15:04 UTC"),
	}
	switch {
	case !t.Revoked.IsZero():
		row.State = "revoked " + at(t.Revoked, now).Clock
	case !t.Expires.After(now):
		row.State = "ended " + at(t.Expires, now).Clock
	default:
		row.Revoke = w.base + tenantsRoot + "/tokens/" + url.PathEscape(t.ID) + "/revoke"
	}
	return row
}

// revokeToken takes a token back. Its line of the audit is written with that.
func (w *Web) revokeToken(rw http.ResponseWriter, r *http.Request, v viewer) {
	id := r.PathValue("id")
	if !v.Admin() {
		w.page(rw, http.StatusForbidden, "fault.html", faultPage{w.frame(v, "tenants"), "Your token may not revoke others", "That needs the scope admin."})
		return
	}
	err := tasks.ErrNotFound
	if len(id) <= idMost {
		err = w.cfg.Tenants.RevokeToken(r.Context(), id, v.act(w.cfg.Now(), "revoke_token", id, ""))
	}
	if err != nil {
		w.refuse(rw, v, "token", "revoke", err)
		return
	}
	w.cfg.Log.Info("token revoked by hand", "id", id, "subject", v.Subject, "tenant", v.Tenant)
	http.Redirect(rw, r, w.base+tenantsRoot+"#tokens", http.StatusSeeOther)
}
