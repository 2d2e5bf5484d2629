package web

import (
	"context"
	"net/http"
	"net/url"

	"github.com/sluicehq/sluice/tasks"
)

const auditRoot = "/audit"

// auditPage says who changed what, and why.
type auditPage struct {
	frame
	Refresh string
	Live    auditList
}

// auditList is the part of the page that is renewed.
type auditList struct {
	Title string
	At    string
	Fault string
	Rows  []auditRow
	Next  string
}

type auditRow struct {
	At                                moment
	By, Tenant, Via, Action, Of, Path string // Path is where what it is of is shown; "": nowhere
	Reason                            string
	Outcome                           string // how it was refused
}

func (w *Web) auditPage(rw http.ResponseWriter, r *http.Request, v viewer) {
	ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
	defer cancel()
	list, status := w.auditList(ctx, r, v)
	w.page(rw, status, "audit.html", auditPage{w.frame(v, "audit"), w.base + "/console/audit?" + r.URL.Query().Encode(), list})
}

func (w *Web) auditList(ctx context.Context, r *http.Request, v viewer) (auditList, int) {
	now, after := w.cfg.Now(), r.URL.Query().Get("after")
	list := auditList{Title: "Audit – Sluice", At: now.UTC().Format("15:04:05 UTC")}
	switch {
	case !v.Admin():
		list.Fault = "Who changed what is shown to the scope admin."
		return list, http.StatusForbidden
	case len(after) > idMost:
		list.Fault = "What stands in the address is too long."
		return list, http.StatusBadRequest
	}
	page, err := w.cfg.Audit(ctx, after, jobsOnAPage)
	if err != nil {
		w.cfg.Log.Error("list the audit for the console", "error", err)
		list.Fault = "The audit cannot be read just now. Nothing is lost by that; the page goes on trying."
		return list, http.StatusServiceUnavailable
	}
	for i := range page.Acts {
		list.Rows = append(list.Rows, w.auditRow(&page.Acts[i], at(page.Acts[i].At, now)))
	}
	if page.Next != "" {
		list.Next = w.base + auditRoot + "?" + url.Values{"after": {page.Next}}.Encode()
	}
	return list, http.StatusOK
}

func (w *Web) auditRow(a *tasks.Act, when moment) auditRow {
	return auditRow{At: when, By: a.By, Tenant: a.Tenant, Via: a.Via, Action: a.Action, Of: a.Target, Path: w.shownAt(a.Target), Reason: a.Reason, Outcome: a.Outcome}
}
