package v1

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// Webhooks is what the webhook routes ask of the store. Another tenant's object
// is tasks.ErrNotFound.
type Webhooks interface {
	// CreateEndpoint gives the endpoint keys of its own.
	CreateEndpoint(ctx context.Context, e tasks.Endpoint) (tasks.Endpoint, error)
	Endpoint(ctx context.Context, tenant, id string) (tasks.Endpoint, error)
	Endpoints(ctx context.Context, tenant string) ([]tasks.Endpoint, error)
	ChangeEndpoint(ctx context.Context, tenant, id string, c tasks.EndpointChange) (tasks.Endpoint, error)
	DeleteEndpoint(ctx context.Context, tenant, id string) error
	// RotateEndpoint replaces its keys; the old ones sign too for a while.
	RotateEndpoint(ctx context.Context, tenant, id string) (tasks.Endpoint, error)
	// TestEndpoint sends an event of no meaning; tasks.ErrConflict when it is disabled.
	// A tenant may have so many tests and redeliveries a minute: then *tasks.QuotaError.
	TestEndpoint(ctx context.Context, tenant, id string) (tasks.Delivery, error)
	// PublicKey is the public half of the private key, "" when there is none.
	PublicKey(k tasks.SigningKeys) string

	// TenantKeys sign for the webhook_url of jobs; the first call makes them.
	TenantKeys(ctx context.Context, tenant string) (tasks.SigningKeys, error)
	RotateTenantKeys(ctx context.Context, tenant string) (tasks.SigningKeys, error)

	Delivery(ctx context.Context, tenant, id string) (tasks.Delivery, error)
	Deliveries(ctx context.Context, f tasks.DeliveryFilter) (tasks.DeliveryPage, error)
	// Redeliver sends it again; tasks.ErrConflict when its endpoint is disabled or
	// gone, tasks.ErrDeleted when its job was deleted.
	Redeliver(ctx context.Context, tenant, id string) (tasks.Delivery, error)
	// RedeliverRange sends as many of an endpoint's again as the tenant may.
	RedeliverRange(ctx context.Context, f tasks.Resend) (tasks.Resent, error)
}

const (
	maxEndpointBody = 64 << 10 // its certificates too, however they are escaped
	maxEventsNamed  = 16
	maxPerSecond    = 1000
)

// The forms of an endpoint's bodies.
const (
	formatSluice = "sluice"
	formatOpenAI = "openai"
)

// allEvents are the events of an endpoint that names none.
func allEvents() (out []string) {
	for _, t := range tasks.EventTypes() {
		out = append(out, string(t))
	}
	return out
}

// endpointBody is the body of POST and PATCH /v1/webhook-endpoints.
type endpointBody struct {
	URL           *string  `json:"url"`
	Events        []string `json:"events"`
	IncludeResult *bool    `json:"include_result"`
	MaxPerSecond  *int     `json:"max_per_second"`
	Signature     *string  `json:"signature"`
	Format        *string  `json:"format"`
	Disabled      *bool    `json:"disabled"`

	Fields  map[string]string `json:"headers"`
	headers tasks.Headers     // of Fields; nil: absent

	CA *string   `json:"ca"`
	ca *tasks.CA // of CA
}

// decodeObject reads a JSON object with the members of v and no others.
func decodeObject(c echo.Context, v any) error {
	body, err := wire.Read(c.Response(), c.Request(), maxEndpointBody, jsonType)
	if err != nil {
		return err
	}
	if err := jsonread.Depth(body); err != nil {
		return wire.Told(err)
	}
	var bad *jsontext.SyntacticError
	switch err := json.Unmarshal(body, v, json.RejectUnknownMembers(true)); {
	case errors.As(err, &bad):
		return fault.Fail(fault.InvalidJSON, "The body is not one JSON object with distinct members.")
	case err != nil:
		// The library's words may quote a value.
		return fault.Fail(fault.InvalidRequest, "A member of the body is unknown or of the wrong type.")
	}
	return nil
}

func (a *API) checkEndpoint(b *endpointBody) error {
	if b.URL != nil {
		if err := a.checkEndpointURL(*b.URL); err != nil {
			return err
		}
	}
	if err := b.readHeaders(); err != nil {
		return err
	}
	if err := b.readCA(); err != nil {
		return err
	}
	if b.Events != nil && (len(b.Events) == 0 || len(b.Events) > maxEventsNamed) {
		return fault.Fail(fault.InvalidRequest, `The member "events" must name at least one event.`)
	}
	if slices.ContainsFunc(b.Events, func(e string) bool { return !tasks.EventType(e).Valid() }) {
		return fault.Fail(fault.InvalidRequest, `The member "events" names an event that does not exist.`)
	}
	if b.MaxPerSecond != nil && (*b.MaxPerSecond < 0 || *b.MaxPerSecond > maxPerSecond) {
		return fault.Fail(fault.InvalidRequest, `The member "max_per_second" must be from 0 to 1000.`)
	}
	if !oneOf(b.Signature, "v1", "v1a") {
		return fault.Fail(fault.InvalidRequest, `The member "signature" must be "v1" or "v1a".`)
	}
	if !oneOf(b.Format, formatSluice, formatOpenAI) {
		return fault.Fail(fault.InvalidRequest, `The member "format" must be "sluice" or "openai".`)
	}
	return nil
}

func (b *endpointBody) readHeaders() (err error) {
	if b.Fields == nil {
		return nil
	}
	if b.headers, err = tasks.NewHeaders(b.Fields); err != nil {
		return fault.Fail(fault.InvalidRequest, `The member "headers" is refused: %v.`, err)
	}
	return nil
}

func (b *endpointBody) readCA() error {
	if b.CA == nil {
		return nil
	}
	ca, err := tasks.NewCA(*b.CA)
	if err != nil {
		return fault.Fail(fault.InvalidRequest, `The member "ca" is refused: %v.`, err)
	}
	b.ca = &ca
	return nil
}

// oneOf reports whether a member is left out or one of words.
func oneOf(member *string, words ...string) bool {
	return member == nil || slices.Contains(words, *member)
}

func (a *API) checkEndpointURL(url string) error {
	if len(url) > maxURL {
		return fault.Fail(fault.WebhookURLRefused, `The member "url" is too long.`)
	}
	if err := checkURL("url", url); err != nil {
		return err
	}
	return a.desk.CheckWebhookURL("url", url)
}

// hooks returns the store of webhooks and the caller's tenant. A path's id has to
// begin with one of the prefixes.
func (a *API) hooks(c echo.Context, prefix ...string) (Webhooks, string, error) {
	if a.c.Webhooks == nil {
		return nil, "", tasks.ErrNotFound
	}
	for _, p := range prefix {
		if _, err := objectID(c, p); err != nil {
			return nil, "", err
		}
	}
	// What is answered may hold a secret, and is out of date soon.
	c.Response().Header().Set("Cache-Control", "no-store")
	return a.c.Webhooks, a.c.Caller(c).Tenant, nil
}

// CreateEndpoint is POST /v1/webhook-endpoints.
func (a *API) CreateEndpoint(c echo.Context) error {
	store, tenant, err := a.hooks(c)
	if err != nil {
		return err
	}
	var b endpointBody
	if err := decodeObject(c, &b); err != nil {
		return err
	}
	switch {
	case b.URL == nil:
		return fault.Fail(fault.InvalidRequest, `The member "url" is missing.`)
	case b.Disabled != nil:
		return fault.Fail(fault.InvalidRequest, `The member "disabled" is for a change.`)
	}
	ctx := c.Request().Context()
	if err := a.checkEndpoint(&b); err != nil {
		return err
	}
	e := tasks.Endpoint{ID: a.c.NewID("whe"), Tenant: tenant, URL: *b.URL, Events: b.Events, Signature: "v1", Headers: b.headers}
	if b.ca != nil {
		e.CA = *b.ca
	}
	if e.Events == nil {
		e.Events = allEvents()
	}
	if b.Signature != nil {
		e.Signature = *b.Signature
	}
	e.OpenAI = b.Format != nil && *b.Format == formatOpenAI
	e.IncludeResult = b.IncludeResult != nil && *b.IncludeResult
	if b.MaxPerSecond != nil {
		e.MaxPerSecond = *b.MaxPerSecond
	}
	if e, err = store.CreateEndpoint(ctx, e); err != nil {
		return err
	}
	c.Response().Header().Set("Location", a.endpointURL(e.ID))
	wire.JSON(c.Response(), http.StatusCreated, append(a.endpoint(nil, &e, true), '\n'))
	return nil
}

// ListEndpoints is GET /v1/webhook-endpoints.
func (a *API) ListEndpoints(c echo.Context) error {
	store, tenant, err := a.hooks(c)
	if err != nil {
		return err
	}
	list, err := store.Endpoints(c.Request().Context(), tenant)
	if err != nil {
		return err
	}
	return answerPage(c, len(list), "", func(b []byte, i int) []byte { return a.endpoint(b, &list[i], false) })
}

// GetEndpoint is GET /v1/webhook-endpoints/{id}.
func (a *API) GetEndpoint(c echo.Context) error {
	return a.answerEndpoint(c, false, Webhooks.Endpoint)
}

// ChangeEndpoint is PATCH /v1/webhook-endpoints/{id}.
func (a *API) ChangeEndpoint(c echo.Context) error {
	var b endpointBody
	if err := decodeObject(c, &b); err != nil {
		return err
	}
	if b.Signature != nil {
		return fault.Fail(fault.InvalidRequest, `The member "signature" cannot be changed.`)
	}
	if b.Format != nil {
		return fault.Fail(fault.InvalidRequest, `The member "format" cannot be changed.`)
	}
	if err := a.checkEndpoint(&b); err != nil {
		return err
	}
	return a.answerEndpoint(c, false, func(w Webhooks, ctx context.Context, tenant, id string) (tasks.Endpoint, error) {
		return w.ChangeEndpoint(ctx, tenant, id, tasks.EndpointChange{URL: b.URL, Events: b.Events, IncludeResult: b.IncludeResult, MaxPerSecond: b.MaxPerSecond, Headers: b.headers, CA: b.ca, Disabled: b.Disabled})
	})
}

// RotateEndpoint is POST /v1/webhook-endpoints/{id}/rotate-secret.
func (a *API) RotateEndpoint(c echo.Context) error {
	return a.answerEndpoint(c, true, Webhooks.RotateEndpoint)
}

func (a *API) answerEndpoint(c echo.Context, secret bool, do func(w Webhooks, ctx context.Context, tenant, id string) (tasks.Endpoint, error)) error {
	store, tenant, err := a.hooks(c, "whe_")
	if err != nil {
		return err
	}
	e, err := do(store, c.Request().Context(), tenant, c.Param("id"))
	if err != nil {
		return err
	}
	wire.JSON(c.Response(), http.StatusOK, append(a.endpoint(nil, &e, secret), '\n'))
	return nil
}

// DeleteEndpoint is DELETE /v1/webhook-endpoints/{id}.
func (a *API) DeleteEndpoint(c echo.Context) error {
	store, tenant, err := a.hooks(c, "whe_")
	if err != nil {
		return err
	}
	if err := store.DeleteEndpoint(c.Request().Context(), tenant, c.Param("id")); err != nil {
		return err
	}
	c.Response().WriteHeader(http.StatusNoContent)
	return nil
}

// TestEndpoint is POST /v1/webhook-endpoints/{id}/test.
func (a *API) TestEndpoint(c echo.Context) error {
	return a.answerSent(c, "whe_", Webhooks.TestEndpoint)
}

// Redeliver is POST /v1/deliveries/{id}/redeliver.
func (a *API) Redeliver(c echo.Context) error {
	return a.answerSent(c, "dlv_", Webhooks.Redeliver)
}

func notSentTo(err error) error {
	switch {
	case errors.Is(err, tasks.ErrConflict):
		return fault.Fail(fault.Conflict, "The endpoint is disabled or deleted.")
	case errors.Is(err, tasks.ErrDeleted):
		return fault.Fail(fault.Conflict, "The job of this delivery was deleted, and what was sent of it with it.")
	}
	return err
}

func (a *API) answerSent(c echo.Context, prefix string, send func(w Webhooks, ctx context.Context, tenant, id string) (tasks.Delivery, error)) error {
	store, tenant, err := a.hooks(c, prefix)
	if err != nil {
		return err
	}
	d, err := send(store, c.Request().Context(), tenant, c.Param("id"))
	if err != nil {
		return notSentTo(err)
	}
	wire.JSON(c.Response(), http.StatusAccepted, append(appendDelivery(nil, &d), '\n'))
	return nil
}

// RedeliverRange is POST /v1/webhook-endpoints/{id}/redeliver.
func (a *API) RedeliverRange(c echo.Context) error {
	store, tenant, err := a.hooks(c, "whe_")
	if err != nil {
		return err
	}
	var b struct {
		Since     *time.Time `json:"since"`
		Until     *time.Time `json:"until"`
		After     string     `json:"after"`
		Delivered bool       `json:"include_delivered"`
	}
	if err := decodeObject(c, &b); err != nil {
		return err
	}
	if b.Since == nil {
		return fault.Fail(fault.InvalidRequest, `The member "since" is missing.`)
	}
	until := a.c.Now().Add(time.Minute)
	if b.Until != nil {
		until = *b.Until
	}
	if !until.After(*b.Since) {
		return fault.Fail(fault.InvalidRequest, `The member "until" is not after "since".`)
	}
	if b.After != "" && !isObjectID(b.After, "dlv_") {
		return fault.Fail(fault.InvalidRequest, `The member "after" must be the "next" of the answer before.`)
	}
	sent, err := store.RedeliverRange(c.Request().Context(), tasks.Resend{
		Tenant: tenant, Endpoint: c.Param("id"), Since: *b.Since, Until: until, After: b.After, Delivered: b.Delivered,
	})
	if err != nil {
		return notSentTo(err)
	}
	if sent.RetryAfter > 0 {
		c.Response().Header().Set("Retry-After", strconv.FormatInt(seconds(sent.RetryAfter), 10))
	}
	o := jsonwrite.Object{}
	o.Num("deliveries", int64(sent.Sent))
	o.Optional("next", sent.Next)
	wire.JSON(c.Response(), http.StatusAccepted, append(o.End(), '\n'))
	return nil
}

// ListDeliveries is GET /v1/deliveries and GET /v1/webhook-endpoints/{id}/deliveries.
func (a *API) ListDeliveries(c echo.Context) (err error) {
	q := c.QueryParams()
	f := tasks.DeliveryFilter{Endpoint: c.Param("id"), Status: tasks.DeliveryStatus(q.Get("status")), After: q.Get("after")}
	if f.Limit, err = queryInt(q, "limit", 20, 1, 100); err != nil {
		return err
	}
	switch f.Status {
	case "", tasks.DeliveryPending, tasks.DeliveryDelivered, tasks.DeliveryExhausted:
	default:
		return fault.Fail(fault.InvalidRequest, `The query parameter "status" must be a delivery's status.`)
	}
	if f.After != "" && !isObjectID(f.After, "dlv_") {
		return fault.Fail(fault.InvalidRequest, `The query parameter "after" must be the "next" of the page before.`)
	}
	var prefix []string
	if f.Endpoint != "" {
		prefix = []string{"whe_"}
	}
	store, tenant, err := a.hooks(c, prefix...)
	if err != nil {
		return err
	}
	f.Tenant = tenant
	page, err := store.Deliveries(c.Request().Context(), f)
	if err != nil {
		return err
	}
	return answerPage(c, len(page.Deliveries), page.Next, func(b []byte, i int) []byte { return appendDelivery(b, &page.Deliveries[i]) })
}

// GetDelivery is GET /v1/deliveries/{id}.
func (a *API) GetDelivery(c echo.Context) error {
	store, tenant, err := a.hooks(c, "dlv_")
	if err != nil {
		return err
	}
	d, err := store.Delivery(c.Request().Context(), tenant, c.Param("id"))
	if err != nil {
		return err
	}
	wire.JSON(c.Response(), http.StatusOK, append(appendDelivery(nil, &d), '\n'))
	return nil
}

// GetSigningSecret is GET /v1/signing-secret.
func (a *API) GetSigningSecret(c echo.Context) error {
	return a.answerSecret(c, Webhooks.TenantKeys)
}

// RotateSigningSecret is POST /v1/signing-secret/rotate.
func (a *API) RotateSigningSecret(c echo.Context) error {
	return a.answerSecret(c, Webhooks.RotateTenantKeys)
}

func (a *API) answerSecret(c echo.Context, ask func(Webhooks, context.Context, string) (tasks.SigningKeys, error)) error {
	store, tenant, err := a.hooks(c)
	if err != nil {
		return err
	}
	k, err := ask(store, c.Request().Context(), tenant)
	if err != nil {
		return err
	}
	o := jsonwrite.Object{}
	o.Str("object", "signing_secret")
	o.Str("secret", k.Secret)
	o.Time("previous_valid_until", a.oldUntil(k))
	wire.JSON(c.Response(), http.StatusOK, append(o.End(), '\n'))
	return nil
}

// oldUntil is zero when no older key signs any more.
func (a *API) oldUntil(k tasks.SigningKeys) time.Time {
	if k.OldUntil.After(a.c.Now()) {
		return k.OldUntil
	}
	return time.Time{}
}

func (a *API) endpointURL(id string) string { return a.base + "/v1/webhook-endpoints/" + id }

// endpoint appends an endpoint as its owner sees it; its secret only when it is new.
func (a *API) endpoint(b []byte, e *tasks.Endpoint, secret bool) []byte {
	o := jsonwrite.Object{B: b}
	o.Str("id", e.ID)
	o.Str("object", "webhook_endpoint")
	o.Str("url", e.URL)
	o.Strs("events", e.Events)
	o.Bool("include_result", e.IncludeResult)
	o.Num("max_per_second", int64(e.MaxPerSecond))
	o.Str("signature", e.Signature)
	format := formatSluice
	if e.OpenAI {
		format = formatOpenAI
	}
	o.Str("format", format)
	o.Within("headers", func(o *jsonwrite.Object) {
		for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
			o.Str(name, tasks.SecretMask)
		}
	})
	certificates := e.CA.Certificates()
	o.List("ca", len(certificates), func(b []byte, i int) []byte {
		sum := sha256.Sum256(certificates[i].Raw)
		o := jsonwrite.Object{B: b}
		o.Str("subject", certificates[i].Subject.String())
		o.Str("sha256", hex.EncodeToString(sum[:]))
		o.Time("not_after", certificates[i].NotAfter)
		return o.End()
	})
	if secret {
		o.Str("secret", e.Keys.Secret)
	}
	o.Optional("public_key", a.c.Webhooks.PublicKey(e.Keys))
	o.Time("previous_secret_valid_until", a.oldUntil(e.Keys))
	o.Bool("disabled", !e.DisabledAt.IsZero())
	o.Time("disabled_at", e.DisabledAt)
	o.Optional("disabled_reason", e.DisabledReason)
	o.Time("failing_since", e.FailingSince)
	o.Time("created_at", e.CreatedAt)
	o.Within("links", func(o *jsonwrite.Object) {
		o.Str("self", a.endpointURL(e.ID))
		o.Str("deliveries", a.endpointURL(e.ID)+"/deliveries")
	})
	return o.End()
}

func appendDelivery(b []byte, d *tasks.Delivery) []byte {
	o := jsonwrite.Object{B: b}
	o.Str("id", d.ID)
	o.Str("object", "delivery")
	o.Str("event_id", d.Event)
	o.Str("type", d.Type)
	o.Str("about", d.Object)
	o.Optional("endpoint", d.Endpoint)
	o.Str("status", string(d.Status))
	o.Optional("reason", d.Reason)
	o.Num("attempts", int64(d.Attempts))
	o.Time("created_at", d.CreatedAt)
	o.Time("delivered_at", d.DeliveredAt)
	o.Time("next_attempt_at", d.DueAt)
	o.List("log", len(d.Log), func(b []byte, i int) []byte {
		l, at := jsonwrite.Object{B: b}, &d.Log[i]
		l.Time("at", at.At)
		l.Str("outcome", at.Outcome)
		l.OptionalNum("status", int64(at.Status))
		l.Num("latency_ms", at.Latency.Milliseconds())
		l.Str("answer", at.Answer)
		return l.End()
	})
	return o.End()
}
