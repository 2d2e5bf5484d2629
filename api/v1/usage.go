package v1

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/abuse"
	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// Usage knows what tenants have used.
type Usage interface {
	// Ledger returns what calls took, by tenant, day, account and model.
	Ledger(ctx context.Context, f tasks.LedgerFilter) ([]tasks.LedgerLine, error)
	// Standing reports how a tenant's quotas stand that the store holds.
	Standing(ctx context.Context, tenant string) (tasks.Standing, error)
}

// Quota knows how an owner's submits stand, where they are limited.
type Quota interface {
	Standing(ctx context.Context, owner string) (quota.Limits, []quota.Window, error)
}

const everybody = "*" // as a tenant: all of them

// GetUsage is GET /v1/usage. Whoever names another tenant is an operator.
func (a *API) GetUsage(c echo.Context) error {
	if a.c.Usage == nil {
		return tasks.ErrNotFound
	}
	q := c.QueryParams()
	tenant := a.c.Caller(c).Tenant
	if q.Has("tenant") {
		tenant = q.Get("tenant")
	}
	if q.Has("tenant") && tenant != everybody && !auth.ValidTenant(tenant) {
		return fault.Fail(fault.InvalidRequest, `The query parameter "tenant" must be a tenant's name, or * for all.`)
	}
	if q.Get("group") != "" {
		return a.groupedUsage(c, tenant, q)
	}
	switch {
	case tenant == everybody:
		return fault.Fail(fault.InvalidRequest, `The usage of all tenants is told by group: add "group", such as group=tenant.`)
	case q.Has("since"), q.Has("until"):
		return fault.Fail(fault.InvalidRequest, `"since" and "until" go with "group", such as group=day.`)
	}
	return a.ownUsage(c, tenant)
}

// ownUsage tells how a tenant's quotas stand, and what it used today and this month.
func (a *API) ownUsage(c echo.Context, tenant string) error {
	ctx := c.Request().Context()
	now, err := a.c.Usage.Standing(ctx, tenant)
	if err != nil {
		return err
	}
	month := time.Date(now.At.UTC().Year(), now.At.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
	lines, err := a.c.Usage.Ledger(ctx, tasks.LedgerFilter{Tenant: tenant, Since: month, Until: now.At.Add(time.Millisecond)})
	if err != nil {
		return err
	}
	var limits quota.Limits
	var submits []quota.Window
	if a.c.Quota != nil {
		if limits, submits, err = a.c.Quota.Standing(ctx, tenant); err != nil {
			return err
		}
	}
	var today, all tasks.Spent
	for i := range lines {
		all = all.Plus(lines[i].Spent)
		if !lines[i].Day.Before(now.At.UTC().Truncate(24 * time.Hour)) {
			today = today.Plus(lines[i].Spent)
		}
	}
	flags, err := a.flags(ctx, tenant)
	if err != nil {
		return err
	}
	states := quotas(&now, limits, submits)
	if tasks.TenantOf(tenant) != tenant {
		states = append(states, userQuotas(&now, limits.Users)...)
	}
	o := jsonwrite.Object{}
	o.List("quotas", len(states), func(b []byte, i int) []byte {
		o := jsonwrite.Object{B: b}
		o.Str("name", states[i].name)
		o.Raw("limit", states[i].limit)
		o.Raw("used", states[i].used)
		o.Raw("reserved", states[i].reserved)
		o.Time("resets_at", states[i].resets)
		return o.End()
	})
	o.Within("today", func(o *jsonwrite.Object) { writeSpent(o, &today) })
	o.Within("month", func(o *jsonwrite.Object) { writeSpent(o, &all) })
	o.List("flags", len(flags), func(b []byte, i int) []byte { return appendFinding(b, &finding{Flag: flags[i]}) })
	wire.JSON(c.Response(), http.StatusOK, append(o.End(), '\n'))
	return nil
}

// flags are what was found of a tenant.
func (a *API) flags(ctx context.Context, tenant string) ([]abuse.Flag, error) {
	if a.c.Abuse == nil {
		return nil, nil
	}
	found, err := a.c.Abuse.Of(ctx, tasks.TenantOf(tenant))
	return found.Flags, err
}

// quotaState is how one quota stands; numbers are JSON.
type quotaState struct {
	name, limit, used, reserved string
	resets                      time.Time // zero: it comes back as jobs end
}

// quotas are those of a tenant that have a limit, and those of submits of a user.
func quotas(now *tasks.Standing, l quota.Limits, submits []quota.Window) (list quotaStates) {
	for _, w := range submits {
		used, full := w.Limit-w.Remaining, time.Time{}
		if used > 0 {
			full = now.At.Add(w.Reset)
		}
		list.add(w.Name, w.Limit, used, 0, full)
	}
	midnight := now.At.Add(now.Day.ResetsIn)
	list.add(quota.QueuedJobs, l.QueuedJobs, now.QueuedJobs, 0, time.Time{})
	list.add(quota.QueuedBytes, l.QueuedBytes, now.QueuedBytes, 0, time.Time{})
	list.add(quota.RunningJobs, l.RunningJobs, now.RunningJobs, 0, time.Time{})
	list.money(tasks.CostPerDay, l.CostPerDay, now.Paid, now.Pledged, midnight)
	list.add(quota.TokensPerDay, l.TokensPerDay, now.Day.Used, now.Day.Reserved, midnight)
	return list
}

// userQuotas are the others of a user's own that have a limit.
func userQuotas(now *tasks.Standing, l tasks.UserLimits) (list quotaStates) {
	midnight := now.At.Add(now.Day.ResetsIn)
	list.add(tasks.OfUsers+quota.QueuedJobs, l.QueuedJobs, now.UserQueuedJobs, 0, time.Time{})
	list.add(tasks.OfUsers+quota.RunningJobs, l.RunningJobs, now.UserRunningJobs, 0, time.Time{})
	list.money(tasks.OfUsers+tasks.CostPerDay, l.CostPerDay, now.UserPaid, now.UserPledged, midnight)
	list.add(tasks.OfUsers+quota.TokensPerDay, l.TokensPerDay, now.Day.UserUsed, now.Day.UserReserved, midnight)
	return list
}

// quotaStates are those of quotas with a limit.
type quotaStates []quotaState

func (list *quotaStates) add(name string, limit, used, reserved int64, resets time.Time) {
	if limit > 0 {
		*list = append(*list, quotaState{name, strconv.FormatInt(limit, 10), strconv.FormatInt(used, 10), strconv.FormatInt(reserved, 10), resets})
	}
}

func (list *quotaStates) money(name string, limit, used, reserved tasks.Money, resets time.Time) {
	if limit > 0 {
		*list = append(*list, quotaState{name, limit.String(), used.String(), reserved.String(), resets})
	}
}

func writeSpent(o *jsonwrite.Object, s *tasks.Spent) {
	o.Num("requests", s.Requests)
	o.Num("input_tokens", s.InputTokens)
	o.Num("output_tokens", s.OutputTokens)
	o.Num("cache_read_input_tokens", s.CacheReadInputTokens)
	o.Num("cache_creation_input_tokens", s.CacheCreationInputTokens)
	writeCost(o, &s.Cost)
}

// grouped are the groups of usage, each with the key of a line.
var grouped = map[string]func(*tasks.LedgerLine) string{
	"model":   func(l *tasks.LedgerLine) string { return l.Model },
	"tenant":  func(l *tasks.LedgerLine) string { return l.Tenant },
	"account": func(l *tasks.LedgerLine) string { return l.Account },
	"day":     func(l *tasks.LedgerLine) string { return l.Day.Format(time.DateOnly) },
}

// UsageGroup is what was used of one key: a model, a tenant, an account or a day.
type UsageGroup struct {
	Key string
	tasks.Spent
}

// UsageBy is what was used by model, tenant, account or day, for each of these that is asked
// for, in the order of the keys. Tenant "" is all of them.
func (a *API) UsageBy(ctx context.Context, f tasks.LedgerFilter, by ...string) ([][]UsageGroup, error) {
	lines, err := a.c.Usage.Ledger(ctx, f)
	if err != nil {
		return nil, err
	}
	groups := make([][]UsageGroup, len(by))
	for i, name := range by {
		groups[i] = groupLines(lines, grouped[name])
	}
	return groups, nil
}

// UsageSince is when usage is counted from where nobody says so: this month.
func (a *API) UsageSince() time.Time {
	now := a.c.Now().UTC()
	return time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
}

// groupedUsage tells what was used by model, tenant, account or day.
func (a *API) groupedUsage(c echo.Context, tenant string, q url.Values) error {
	by := q.Get("group")
	if grouped[by] == nil {
		return fault.Fail(fault.InvalidRequest, `The query parameter "group" must be model, tenant, account or day.`)
	}
	since, until, err := queryTimes(q)
	if err != nil {
		return err
	}
	if until.IsZero() {
		until = a.c.Now().Add(24 * time.Hour) // a clock that is off leaves nothing of today out
	}
	if since.IsZero() {
		since = time.Date(until.UTC().Year(), until.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
		if !q.Has("until") {
			since = a.UsageSince()
		}
	}
	if !since.Before(until) {
		return fault.Fail(fault.InvalidRequest, `"since" must be before "until".`)
	}
	f := tasks.LedgerFilter{Tenant: tenant, Since: since, Until: until}
	if tenant == everybody {
		f.Tenant = ""
	}
	all, err := a.UsageBy(c.Request().Context(), f, by)
	if err != nil {
		return err
	}
	groups := all[0]
	if wants(c.Request().Header.Get("Accept"), csvType) {
		return c.Blob(http.StatusOK, csvType+"; charset=utf-8", UsageCSV(groups))
	}
	o := jsonwrite.Object{}
	o.List("data", len(groups), func(b []byte, i int) []byte {
		o := jsonwrite.Object{B: b}
		o.Str("key", groups[i].Key)
		writeSpent(&o, &groups[i].Spent)
		return o.End()
	})
	wire.JSON(c.Response(), http.StatusOK, append(o.End(), '\n'))
	return nil
}

// groupLines adds lines up by their keys, in the keys' order.
func groupLines(lines []tasks.LedgerLine, key func(*tasks.LedgerLine) string) []UsageGroup {
	sums := map[string]tasks.Spent{}
	for i := range lines {
		k := key(&lines[i])
		sums[k] = sums[k].Plus(lines[i].Spent)
	}
	groups := make([]UsageGroup, 0, len(sums))
	for k, s := range sums {
		groups = append(groups, UsageGroup{k, s})
	}
	slices.SortFunc(groups, func(a, b UsageGroup) int { return cmp.Compare(a.Key, b.Key) })
	return groups
}

const csvType = "text/csv"

// wants reports whether a field Accept asks for a media type rather than for JSON: the
// one with the larger weight counts, of equals the first; none with weight 0 (RFC 9110, 12.4.2).
func wants(accept, media string) (asked bool) {
	most := 0.0
	for part := range strings.SplitSeq(accept, ",") {
		kind, params, err := mime.ParseMediaType(part)
		weight := 1.0
		if q, ok := params["q"]; ok && err == nil {
			weight, err = strconv.ParseFloat(q, 64)
		}
		if err == nil && (kind == media || kind == jsonType) && weight > most {
			most, asked = weight, kind == media
		}
	}
	return asked
}

// UsageCSV is usage as a table. A name that a spreadsheet would take for a formula
// gets a quotation mark before it.
func UsageCSV(groups []UsageGroup) []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	_ = w.Write([]string{"key", "requests", "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "amount", "currency", "maybe"})
	for i := range groups {
		g := &groups[i]
		row := []string{plainCell(g.Key)}
		for _, n := range []int64{g.Requests, g.InputTokens, g.OutputTokens, g.CacheReadInputTokens, g.CacheCreationInputTokens} {
			row = append(row, strconv.FormatInt(n, 10))
		}
		_ = w.Write(append(row, g.Amount.String(), tasks.Currency, g.Maybe.String()))
	}
	w.Flush() // to a buffer, which takes all
	return b.Bytes()
}

// plainCell is a text that no spreadsheet reads as a formula.
func plainCell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r\n", rune(s[0])) {
		return "'" + s
	}
	return s
}
