package v1

import (
	"context"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// Tenants knows the tenants, and sets what they may use while Sluice runs.
type Tenants interface {
	// KnownTenants lists those that are configured, that have or had jobs, or of which something
	// was set, behind a name, with their limits and how these stand.
	KnownTenants(ctx context.Context, after string, limit int) (tasks.TenantPage, error)
	// SetTenant replaces what was set of a tenant, and notes it in the audit with what stood there before.
	SetTenant(ctx context.Context, name string, set tasks.TenantSettings, act tasks.Act) (tasks.Tenant, error)
	// DeleteTenant deletes all that a tenant has, and notes it. When ctx ends earlier, others go on.
	DeleteTenant(ctx context.Context, name string, act tasks.Act) (tasks.Departure, error)
}

const (
	maxTenantBody = 16 << 10
	mostSetting   = 1_000_000_000_000_000 // of a limit, which scripts count exactly
	mostWeight    = 1_000_000
	actSetTenant  = "set_tenant"
	actDelete     = "delete_tenant"
	deleteWithin  = 20 * time.Second // what is left then is deleted behind the answer
)

// ListTenants is GET /v1/tenants.
func (a *API) ListTenants(c echo.Context) error {
	if a.c.Tenants == nil {
		return tasks.ErrNotFound
	}
	q := c.QueryParams()
	after := q.Get("after")
	if after != "" && !auth.ValidTenant(after) {
		return fault.Fail(fault.InvalidRequest, `The query parameter "after" must be the "next" of the page before.`)
	}
	limit, err := queryInt(q, "limit", 20, 1, 100)
	if err != nil {
		return err
	}
	page, err := a.c.Tenants.KnownTenants(c.Request().Context(), after, limit)
	if err != nil {
		return err
	}
	return answerPage(c, len(page.Tenants), page.Next, func(b []byte, i int) []byte { return appendTenant(b, &page.Tenants[i]) })
}

// SetTenant is PUT /v1/tenants/{name}: what it names stands from now on, and what it does not
// is as the configuration has it.
func (a *API) SetTenant(c echo.Context) error {
	name := c.Param("name")
	switch {
	case a.c.Tenants == nil:
		return tasks.ErrNotFound
	case !auth.ValidTenant(name):
		return fault.Fail(fault.InvalidRequest, `A tenant's name is a letter or digit, then up to 63 letters, digits, "_" or "-".`)
	case name == "default":
		return fault.Fail(fault.InvalidRequest, "default is for every tenant that nobody named, and only the configuration sets it: name a tenant.")
	}
	body, err := wire.Read(c.Response(), c.Request(), maxTenantBody, jsonType)
	if err != nil {
		return err
	}
	set, err := decodeSettings(body)
	if err != nil {
		return err
	}
	act := a.act(c, actSetTenant, name, "")
	t, err := a.c.Tenants.SetTenant(c.Request().Context(), name, set, act)
	if err != nil {
		act.Reason = set.String()
		return a.refused(c, act, err)
	}
	wire.JSON(c.Response(), http.StatusOK, append(appendTenant(nil, &t), '\n'))
	return nil
}

// DeleteTenant is DELETE /v1/tenants/{name}: all that the tenant has goes. What takes longer
// than a request may goes on behind the answer.
func (a *API) DeleteTenant(c echo.Context) error {
	name, reason := c.Param("name"), c.QueryParam("reason")
	switch {
	case a.c.Tenants == nil:
		return tasks.ErrNotFound
	case !auth.ValidTenant(name):
		return fault.Fail(fault.InvalidRequest, `A tenant's name is a letter or digit, then up to 63 letters, digits, "_" or "-".`)
	case !utf8.ValidString(reason) || utf8.RuneCountInString(reason) > tasks.MaxReason:
		return fault.Fail(fault.InvalidRequest, `The query parameter "reason" must be at most %d characters long.`, tasks.MaxReason)
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), deleteWithin)
	defer cancel()
	act := a.act(c, actDelete, name, reason)
	d, err := a.c.Tenants.DeleteTenant(ctx, name, act)
	if err != nil && d.Tenant == "" {
		return a.refused(c, act, err) // it has not begun
	}
	status := http.StatusOK
	if !d.Done {
		status = http.StatusAccepted
		c.Response().Header().Set("Retry-After", "5")
	}
	o := jsonwrite.Object{}
	o.Str("object", "tenant.deletion")
	o.Str("name", name)
	o.Bool("deleted", d.Done)
	o.Num("jobs", d.Jobs)
	o.Num("batches", d.Batches)
	o.Num("files", d.Documents)
	o.Num("webhook_endpoints", d.Endpoints)
	o.Num("deliveries", d.Deliveries)
	o.Num("tokens", d.Tokens)
	wire.JSON(c.Response(), status, append(o.End(), '\n'))
	return nil
}

// settingNames are the members of a tenant's settings that are whole numbers.
func settingNames(s *tasks.TenantSettings) map[string]**int64 {
	return map[string]**int64{
		"weight": &s.Weight, "submits_per_minute": &s.SubmitsPerMinute, "resends_per_minute": &s.ResendsPerMinute, "queued_jobs": &s.QueuedJobs,
		"queued_bytes": &s.QueuedBytes, "running_jobs": &s.RunningJobs, "tokens_per_day": &s.TokensPerDay,
	}
}

// decodeSettings reads what is to be set of a tenant; null is as the configuration has it.
func decodeSettings(body []byte) (set tasks.TenantSettings, err error) {
	r, err := jsonread.New(body)
	if err != nil {
		return set, wire.Told(err)
	}
	whole := settingNames(&set)
	err = r.Object(func(name string) (err error) {
		number := whole[name]
		switch {
		case number == nil && name != "high_priority" && name != tasks.CostPerDay && name != "users":
			return jsonread.Unknown(name)
		case r.Kind() == 'n':
			return r.Skip()
		case name == "users":
			set.Users, err = readUsers(r, name)
		case number != nil:
			*number, err = readSetting(r, name)
		case name == "high_priority":
			if k := r.Kind(); k != 't' && k != 'f' {
				return r.Wrong(k, name, "true or false")
			}
			yes := r.Kind() == 't'
			set.HighPriority, err = &yes, r.Skip()
		default:
			set.CostPerDay, err = readBudget(r, name)
		}
		return err
	})
	if err != nil {
		return set, wire.Told(err)
	}
	return set, nil
}

// readUsers reads what is to be set of each user of a tenant; an empty one sets nothing.
func readUsers(r *jsonread.Reader, name string) (*tasks.UserSettings, error) {
	if k := r.Kind(); k != '{' {
		return nil, r.Wrong(k, name, "an object")
	}
	var u tasks.UserSettings
	whole := map[string]**int64{"submits_per_minute": &u.SubmitsPerMinute, "queued_jobs": &u.QueuedJobs, "running_jobs": &u.RunningJobs, "tokens_per_day": &u.TokensPerDay}
	_, err := r.Members(func(name string) (err error) {
		number := whole[name]
		switch {
		case number == nil && name != tasks.CostPerDay:
			return jsonread.Unknown(name)
		case r.Kind() == 'n':
			return r.Skip()
		case number != nil:
			*number, err = readSetting(r, name)
		default:
			u.CostPerDay, err = readBudget(r, name)
		}
		return err
	})
	if err != nil || u == (tasks.UserSettings{}) {
		return nil, err
	}
	return &u, nil
}

// readSetting reads a whole number, which a tenant may have.
func readSetting(r *jsonread.Reader, name string) (*int64, error) {
	least, most := int64(0), int64(mostSetting)
	if name == "weight" {
		least, most = 1, mostWeight
	}
	if k := r.Kind(); k != '0' {
		return nil, r.Wrong(k, name, "a whole number")
	}
	raw, err := r.Raw()
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	switch {
	case err != nil:
		return nil, fault.Fail(fault.InvalidRequest, "The member %q must be a whole number.", name)
	case n < least || n > most:
		return nil, fault.Fail(fault.ImpossibleSetting, "The member %q must be a whole number from %d to %d; of a limit 0 is none.", name, least, most)
	}
	return &n, nil
}

// readBudget reads an amount of money.
func readBudget(r *jsonread.Reader, name string) (*tasks.Money, error) {
	if k := r.Kind(); k != '0' {
		return nil, r.Wrong(k, name, "a number")
	}
	raw, err := r.Raw()
	if err != nil {
		return nil, err
	}
	m, err := tasks.ParseMoney(string(raw))
	if err != nil {
		return nil, fault.Fail(fault.ImpossibleSetting, "The member %q must be a decimal from 0 to 1000000000 with at most nine digits behind its point.", name)
	}
	return &m, nil
}

func appendTenant(b []byte, t *tasks.Tenant) []byte {
	o := jsonwrite.Object{B: b}
	o.Str("object", "tenant")
	o.Str("name", t.Name)
	writeLimits(&o, &t.Limits)
	o.Raw("set", t.Settings.String())
	o.Within("usage", func(o *jsonwrite.Object) {
		s := &t.Standing
		o.Num("queued_jobs", max(0, s.QueuedJobs))
		o.Num("queued_bytes", max(0, s.QueuedBytes))
		o.Num("running_jobs", s.RunningJobs)
		o.Within("tokens_today", func(o *jsonwrite.Object) {
			o.Num("used", s.Day.Used)
			o.Num("reserved", s.Day.Reserved)
		})
		o.Within("cost_today", func(o *jsonwrite.Object) {
			o.Raw("used", s.Paid.String())
			o.Raw("reserved", s.Pledged.String())
			o.Str("currency", tasks.Currency)
		})
	})
	return o.End()
}

func writeLimits(o *jsonwrite.Object, l *tasks.TenantLimits) {
	o.Num("weight", l.Weight)
	o.Num("submits_per_minute", l.SubmitsPerMinute)
	o.Num("resends_per_minute", l.ResendsPerMinute)
	o.Num("queued_jobs", l.QueuedJobs)
	o.Num("queued_bytes", l.QueuedBytes)
	o.Num("running_jobs", l.RunningJobs)
	o.Num("tokens_per_day", l.TokensPerDay)
	o.Raw("cost_per_day", l.CostPerDay.String())
	o.Bool("high_priority", l.HighPriority)
	o.Within("users", func(o *jsonwrite.Object) {
		o.Num("submits_per_minute", l.Users.SubmitsPerMinute)
		o.Num("queued_jobs", l.Users.QueuedJobs)
		o.Num("running_jobs", l.Users.RunningJobs)
		o.Num("tokens_per_day", l.Users.TokensPerDay)
		o.Raw("cost_per_day", l.Users.CostPerDay.String())
	})
}
