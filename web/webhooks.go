package web

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const (
	webhooksRoot = "/webhooks"
	idMost       = 64 // bytes of an id or a tenant's name in an address
)

// Webhooks is what the pages of webhooks ask. What a tenant does not have is
// tasks.ErrNotFound, what may not be sent now tasks.ErrConflict, and what it may not have
// more of a *tasks.QuotaError.
type Webhooks interface {
	Endpoints(ctx context.Context, tenant string) ([]tasks.Endpoint, error)
	// FailingEndpoints lists endpoints of every tenant to which the last attempt failed, or that are disabled for that.
	FailingEndpoints(ctx context.Context, most int) ([]tasks.Endpoint, error)
	// Deliveries lists a tenant's deliveries, newest first.
	Deliveries(ctx context.Context, f tasks.DeliveryFilter) (tasks.DeliveryPage, error)
	Delivery(ctx context.Context, tenant, id string) (tasks.Delivery, error)
	// TestEndpoint sends an event of no meaning.
	TestEndpoint(ctx context.Context, tenant, id string) (tasks.Delivery, error)
	// Redeliver sends a delivery again.
	Redeliver(ctx context.Context, tenant, id string) (tasks.Delivery, error)
}

// webhooksPage lists a tenant's endpoints, and what was sent to them.
type webhooksPage struct {
	frame
	Tenant, Endpoint, Status string
	Tenants                  []string
	Statuses                 []tasks.DeliveryStatus
	Refresh                  string
	Live                     webhooksList
}

// webhooksList is the part of the page that is renewed.
type webhooksList struct {
	Title     string
	At        string
	Fault     string
	Endpoints []endpointRow
	Failing   []endpointRow // of every tenant
	Rows      []deliveryView
	Next      string
}

type endpointRow struct {
	ID, URL, State string
	Tenant         string
	Events         []string
	Bad            bool
	Deliveries     string // where its deliveries are listed
	Test           string // where one is sent; "": the viewer may not
}

// deliveryPage is one delivery.
type deliveryPage struct {
	frame
	Refresh string
	Live    deliveryView
}

// deliveryView is one delivery, with its attempts where it is shown alone.
type deliveryView struct {
	Title, At        string
	ID, Path, Tenant string
	Type             string
	Object, Of       string // what it is about, and where that is shown
	Endpoint         string
	Status, Words    string
	Made             moment
	Redeliver        string // where it is sent again; "": the viewer may not, or it is on its way
	Attempts         []step
	Withheld         bool // what receivers answered is not shown
}

var deliveryStatuses = []tasks.DeliveryStatus{tasks.DeliveryPending, tasks.DeliveryDelivered, tasks.DeliveryExhausted}

func (w *Web) webhooksPage(rw http.ResponseWriter, r *http.Request, v viewer) {
	ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
	defer cancel()
	q := r.URL.Query()
	page := webhooksPage{
		frame: w.frame(v, "webhooks"), Tenant: tenantOf(r, v), Endpoint: q.Get("endpoint"), Status: q.Get("status"),
		Statuses: deliveryStatuses, Refresh: w.base + "/console/webhooks?" + q.Encode(),
	}
	if v.Operates() {
		page.Tenants = w.tenants(ctx, page.Tenant)
	}
	var status int
	page.Live, status = w.webhooksList(ctx, r, v)
	w.page(rw, status, "webhooks.html", page)
}

func (w *Web) webhooksList(ctx context.Context, r *http.Request, v viewer) (webhooksList, int) {
	now, q := w.cfg.Now(), r.URL.Query()
	list := webhooksList{Title: "Webhooks – Sluice", At: now.UTC().Format("15:04:05 UTC")}
	f := tasks.DeliveryFilter{Tenant: tenantOf(r, v), Endpoint: q.Get("endpoint"), Status: tasks.DeliveryStatus(q.Get("status")), Limit: jobsOnAPage, After: q.Get("after"), Patience: patience}
	switch {
	case !v.sees(f.Tenant):
		list.Fault = "Your token shows the webhooks of its own tenant, " + v.Tenant + "."
		return list, http.StatusForbidden
	case f.Status != "" && !slices.Contains(deliveryStatuses, f.Status):
		list.Fault = "There is no such status."
		return list, http.StatusBadRequest
	case max(len(f.After), len(f.Tenant), len(f.Endpoint)) > idMost:
		list.Fault = "What stands in the address is too long."
		return list, http.StatusBadRequest
	}
	endpoints, err := w.cfg.Webhooks.Endpoints(ctx, f.Tenant)
	var page tasks.DeliveryPage
	if err == nil {
		page, err = w.cfg.Webhooks.Deliveries(ctx, f)
	}
	var failing []tasks.Endpoint
	if err == nil && v.Operates() {
		failing, err = w.cfg.Webhooks.FailingEndpoints(ctx, jobsOnAPage)
	}
	switch {
	case errors.Is(err, tasks.ErrNotFound):
		list.Fault = "There is no such endpoint."
		return list, http.StatusNotFound
	case err != nil:
		w.cfg.Log.Error("list deliveries for the console", "error", err)
		list.Fault = "The webhooks cannot be read just now. Nothing is lost by that; the page goes on trying."
		return list, http.StatusServiceUnavailable
	}
	for i := range failing {
		list.Failing = append(list.Failing, w.endpointRow(&failing[i], v, now))
	}
	for i := range endpoints {
		list.Endpoints = append(list.Endpoints, w.endpointRow(&endpoints[i], v, now))
	}
	for i := range page.Deliveries {
		list.Rows = append(list.Rows, w.deliveryView(&page.Deliveries[i], v, now))
	}
	if page.HasMore {
		q.Set("after", page.Next)
		list.Next = w.base + webhooksRoot + "?" + q.Encode()
	}
	return list, http.StatusOK
}

func (w *Web) endpointRow(e *tasks.Endpoint, v viewer, now time.Time) endpointRow {
	row := endpointRow{
		ID: e.ID, Tenant: e.Owner(), URL: e.URL, State: "sent to", Events: e.Events, Bad: !e.DisabledAt.IsZero() || !e.FailingSince.IsZero(),
		Deliveries: w.base + webhooksRoot + "?" + url.Values{"tenant": {e.Owner()}, "endpoint": {e.ID}}.Encode(),
	}
	switch {
	case !e.DisabledAt.IsZero():
		row.State = "disabled since " + at(e.DisabledAt, now).Clock + ": " + e.DisabledReason
	case !e.FailingSince.IsZero():
		row.State = "failing since " + at(e.FailingSince, now).Clock
	}
	if !v.hooks(e.Owner()) {
		row.URL = hostOf(e.URL)
	} else if e.DisabledAt.IsZero() {
		row.Test = w.hookPath(e.Owner(), e.ID, "/test")
	}
	return row
}

// hostOf is what of an address is shown to whoever may not change it: what stands behind
// the host may be a secret.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "…"
	}
	return u.Scheme + "://" + u.Host + "/…"
}

// hookPath is the address of a delivery or an endpoint of a tenant.
func (w *Web) hookPath(tenant, id, act string) string {
	return w.base + webhooksRoot + "/" + url.PathEscape(id) + act + "?" + url.Values{"tenant": {tenant}}.Encode()
}

func (w *Web) deliveryView(d *tasks.Delivery, v viewer, now time.Time) deliveryView {
	view := deliveryView{
		Title: string(d.Status) + " – " + d.ID, At: now.UTC().Format("15:04:05 UTC"),
		ID: d.ID, Path: w.hookPath(d.Owner(), d.ID, ""), Tenant: d.Owner(), Type: d.Type, Object: d.Object, Of: w.shownAt(d.Object), Endpoint: d.Endpoint,
		Status: string(d.Status), Made: at(d.CreatedAt, now), Withheld: !v.hooks(d.Owner()),
	}
	if view.Endpoint == "" {
		view.Endpoint = "the job's own webhook_url"
	}
	tried := strconv.Itoa(d.Attempts) + " attempts"
	if d.Attempts == 1 {
		tried = "1 attempt"
	}
	switch due := at(d.DueAt, now); {
	case d.Status == tasks.DeliveryDelivered:
		view.Words = "arrived " + at(d.DeliveredAt, now).Clock + ", " + tried
	case d.Status == tasks.DeliveryExhausted:
		view.Words = "given up after " + tried + ": " + d.Reason
	case due.Clock != "" && d.DueAt.After(now):
		view.Words = "is tried again in " + due.Away + ", " + tried + " so far"
	default:
		view.Words = "is on its way, " + tried + " so far"
	}
	if v.hooks(d.Owner()) && d.Status != tasks.DeliveryPending {
		view.Redeliver = w.hookPath(d.Owner(), d.ID, "/redeliver")
	}
	for i := range d.Log {
		a := &d.Log[i]
		s := step{What: a.Outcome, From: at(a.At, now), Seconds: seconds(a.Latency), Bad: a.Outcome != "delivered"}
		if a.Status != 0 {
			s.What += " " + strconv.Itoa(a.Status)
		}
		if !view.Withheld {
			s.Detail = a.Answer
		}
		view.Attempts = append(view.Attempts, s)
	}
	return view
}

// findDelivery returns the delivery of a request, or answers it. What the viewer may not
// see is not there.
func (w *Web) findDelivery(rw http.ResponseWriter, r *http.Request, v viewer) (tasks.Delivery, bool) {
	tenant, id := tenantOf(r, v), r.PathValue("id")
	err := tasks.ErrNotFound
	var d tasks.Delivery
	if v.sees(tenant) && max(len(id), len(tenant)) <= idMost {
		ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
		defer cancel()
		d, err = w.cfg.Webhooks.Delivery(ctx, tenant, id)
	}
	if err != nil {
		w.refuse(rw, v, "delivery", "look at", err)
	}
	return d, err == nil
}

func (w *Web) deliveryPage(rw http.ResponseWriter, r *http.Request, v viewer) {
	if d, ok := w.findDelivery(rw, r, v); ok {
		refresh := w.base + "/console/webhooks/" + url.PathEscape(d.ID) + "?" + url.Values{"tenant": {d.Owner()}}.Encode()
		w.page(rw, http.StatusOK, "delivery.html", deliveryPage{w.frame(v, "webhooks"), refresh, w.deliveryView(&d, v, w.cfg.Now())})
	}
}

func (w *Web) deliveryFragment(rw http.ResponseWriter, r *http.Request, v viewer) {
	if d, ok := w.findDelivery(rw, r, v); ok {
		w.page(rw, http.StatusOK, "delivery", w.deliveryView(&d, v, w.cfg.Now()))
	}
}

// sendHook returns the handler of a button that sends: a test to an endpoint, or a
// delivery again. It leads to what is sent.
func (w *Web) sendHook(thing, action string, send func(ctx context.Context, tenant, id string) (tasks.Delivery, error)) func(http.ResponseWriter, *http.Request, viewer) {
	return func(rw http.ResponseWriter, r *http.Request, v viewer) {
		tenant, id := tenantOf(r, v), r.PathValue("id")
		if !v.sees(tenant) || max(len(id), len(tenant)) > idMost {
			w.refuse(rw, v, thing, action, tasks.ErrNotFound)
			return
		}
		var d tasks.Delivery
		done := w.move(rw, r, v, moving{thing, action, tenant, id, v.hooks(tenant), scopeWebhooks}, func(ctx context.Context, _ Actor, tenant, id string) (err error) {
			d, err = send(ctx, tenant, id)
			return err
		})
		if done {
			http.Redirect(rw, r, w.hookPath(tenant, d.ID, ""), http.StatusSeeOther)
		}
	}
}
