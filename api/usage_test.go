package api_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/tasks"
)

var midday = time.Date(2030, 5, 17, 12, 0, 0, 0, time.UTC)

// Ledger has a line of acme's and one of other's, today and the day before.
func (w *world) Ledger(_ context.Context, f tasks.LedgerFilter) (lines []tasks.LedgerLine, err error) {
	for _, l := range []tasks.LedgerLine{
		{Day: midday.Truncate(24 * time.Hour), Tenant: "acme", Account: "anthropic", Model: "=1+1", Spent: tasks.Spent{Requests: 2, Usage: tasks.Usage{InputTokens: 10, OutputTokens: 3}, Cost: tasks.Cost{Amount: 1, Maybe: tasks.Unit}}},
		{Day: midday.Truncate(24*time.Hour).AddDate(0, 0, -1), Tenant: "acme", Account: "anthropic", Model: "m, \"x\"", Spent: tasks.Spent{Requests: 1, Usage: tasks.Usage{InputTokens: 5, CacheReadInputTokens: 7, CacheCreationInputTokens: 8}}},
		{Day: midday.Truncate(24 * time.Hour), Tenant: "other", Account: "eu", Model: "m", Spent: tasks.Spent{Requests: 4}},
	} {
		if (f.Tenant == "" || f.Tenant == l.Tenant) && !l.Day.Before(f.Since.UTC().Truncate(24*time.Hour)) && l.Day.Before(f.Until) {
			lines = append(lines, l)
		}
	}
	return lines, w.fail
}

// Standing is midday, with some of everything in use.
func (w *world) Standing(_ context.Context, owner string) (tasks.Standing, error) {
	now := tasks.Standing{At: midday, QueuedJobs: 3, QueuedBytes: 4, Day: tasks.DayTokens{Used: 5, Reserved: 6, ResetsIn: 12 * time.Hour}}
	if tasks.TenantOf(owner) != owner {
		now.UserQueuedJobs, now.Day.UserUsed, now.Day.UserReserved, now.UserPaid = 1, 2, 3, tasks.Unit/2
		now.UserRunningJobs = 4
	}
	return now, w.fail
}

// submitsOf is a tenant with quotas of all kinds but bytes.
type submitsOf struct{}

func (submitsOf) Standing(_ context.Context, owner string) (quota.Limits, []quota.Window, error) {
	limits := quota.Limits{SubmitsPerMinute: 10, QueuedJobs: 100, TokensPerDay: 1000, Users: tasks.UserLimits{SubmitsPerMinute: 3, QueuedJobs: 50, RunningJobs: 5, TokensPerDay: 500, CostPerDay: tasks.Unit}}
	windows := []quota.Window{{Name: quota.SubmitsPerMinute, Limit: 10, Remaining: 8, Reset: time.Minute}}
	if tasks.TenantOf(owner) != owner {
		windows = append(windows, quota.Window{Name: "users.submits_per_minute", Limit: 3, Remaining: 3})
	}
	return limits, windows, nil
}

func TestUsage(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const zero = `"cost":{"amount":0,"currency":"USD","maybe":0}`
	const some = `"cost":{"amount":0.000000001,"currency":"USD","maybe":1}`
	const (
		formula = `"requests":2,"input_tokens":10,"output_tokens":3,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,` + some
		cached  = `"requests":1,"input_tokens":5,"output_tokens":0,"cache_read_input_tokens":7,"cache_creation_input_tokens":8,` + zero
		both    = `"requests":3,"input_tokens":15,"output_tokens":3,"cache_read_input_tokens":7,"cache_creation_input_tokens":8,` + some
		none    = `"requests":0,"input_tokens":0,"output_tokens":0,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,` + zero
		others  = `"requests":4,"input_tokens":0,"output_tokens":0,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,` + zero
	)
	for _, c := range []struct{ who, query, accept, want string }{
		{reader, "", "", `{"quotas":[{"name":"submits_per_minute","limit":10,"used":2,"reserved":0,"resets_at":"2030-05-17T12:01:00.000Z"},` +
			`{"name":"queued_jobs","limit":100,"used":3,"reserved":0,"resets_at":null},` +
			`{"name":"tokens_per_day","limit":1000,"used":5,"reserved":6,"resets_at":"2030-05-18T00:00:00.000Z"}],"today":{` + formula + `},"month":{` + both + `},"flags":[]}`},
		{reader, "?group=model&since=2030-05-01T00:00:00Z&until=2030-06-01T00:00:00Z", "", `{"data":[{"key":"=1+1",` + formula + `},{"key":"m, \"x\"",` + cached + `}]}`},
		{reader, "?group=account&since=2030-05-17T23:00:00Z&until=2030-06-01T00:00:00Z", "", `{"data":[{"key":"anthropic",` + formula + `}]}`},
		{reader, "?group=day&since=2030-05-01T00:00:00Z&until=2030-05-17T00:00:00Z", "application/json, text/csv", `{"data":[{"key":"2030-05-16",` + cached + `}]}`},
		{reader, "?group=model&since=2030-05-01T00:00:00Z&until=2030-06-01T00:00:00Z", "text/csv", "key,requests,input_tokens,output_tokens,cache_read_input_tokens,cache_creation_input_tokens,amount,currency,maybe\n" +
			"'=1+1,2,10,3,0,0,0.000000001,USD,1\n\"m, \"\"x\"\"\",1,5,0,7,8,0,USD,0\n"},
		{reader, "?group=day&tenant=acme&since=2030-05-01T00:00:00Z&until=2030-05-17T00:00:00Z", "text/csv;q=0, */*", `{"data":[{"key":"2030-05-16",` + cached + `}]}`},
		{reader, "?group=day&since=2030-05-01T00:00:00Z&until=2030-05-17T00:00:00Z", "text/csv;q=0.5, application/json;q=0.9, text/csv;q=x", `{"data":[{"key":"2030-05-16",` + cached + `}]}`},
		{reader, "?group=day&since=2031-05-01T00:00:00Z&until=2031-06-01T00:00:00Z", "application/json;q=0.1, text/csv;q=0.5", "key,requests,input_tokens,output_tokens,cache_read_input_tokens,cache_creation_input_tokens,amount,currency,maybe\n"},
		{admin, "?group=tenant&tenant=*&since=2030-05-17T00:00:00Z&until=2030-06-01T00:00:00Z", "", `{"data":[{"key":"acme",` + formula + `},{"key":"other",` + others + `}]}`},
		{admin, "?group=tenant&tenant=other&since=2030-05-17T00:00:00Z&until=2030-06-01T00:00:00Z", "", `{"data":[{"key":"other",` + others + `}]}`},
		{other, "?group=tenant&since=2030-05-17T00:00:00Z&until=2030-06-01T00:00:00Z", "", `{"data":[{"key":"other",` + others + `}]}`},
		{other, "?group=model", "", `{"data":[]}`},
		{"acme/ada:jobs:read", "", "", `{"quotas":[{"name":"submits_per_minute","limit":10,"used":2,"reserved":0,"resets_at":"2030-05-17T12:01:00.000Z"},` +
			`{"name":"users.submits_per_minute","limit":3,"used":0,"reserved":0,"resets_at":null},{"name":"queued_jobs","limit":100,"used":3,"reserved":0,"resets_at":null},` +
			`{"name":"tokens_per_day","limit":1000,"used":5,"reserved":6,"resets_at":"2030-05-18T00:00:00.000Z"},` +
			`{"name":"users.queued_jobs","limit":50,"used":1,"reserved":0,"resets_at":null},` +
			`{"name":"users.running_jobs","limit":5,"used":4,"reserved":0,"resets_at":null},` +
			`{"name":"users.cost_per_day","limit":1,"used":0.5,"reserved":0,"resets_at":"2030-05-18T00:00:00.000Z"},` +
			`{"name":"users.tokens_per_day","limit":500,"used":2,"reserved":3,"resets_at":"2030-05-18T00:00:00.000Z"}],"today":{` + none + `},"month":{` + none + `},"flags":[]}`},
	} {
		r := s.call("GET", "/v1/usage"+c.query, c.who, nil, "Accept", c.accept)
		if r.StatusCode != 200 || strings.TrimSpace(string(r.body)) != strings.TrimSpace(c.want) {
			t.Errorf("%s: %d\n%s\nwant\n%s", c.query, r.StatusCode, r.body, c.want)
		}
	}
	for query, status := range map[string]int{
		"?group=": 200, "?group=color": 400, "?since=2030-05-01T00:00:00Z": 400, "?group=day&since=yesterday": 400, "?group=day&until=2030-05-01T00:00:00Z&since=2030-05-02T00:00:00Z": 400,
		"?tenant=other": 403, "?tenant=*&group=day": 403, "?tenant=acme": 200, "?user=x": 400,
	} {
		if r := s.call("GET", "/v1/usage"+query, reader, nil); r.StatusCode != status {
			t.Errorf("%s: %d %s, want %d", query, r.StatusCode, r.body, status)
		}
	}
	s.call("GET", "/v1/usage?tenant=*", admin, nil).want(t, 400)
	if !slices.Contains(s.call("GET", "/v1/usage?tenant=acme", admin, nil).Header["Content-Type"], "application/json") {
		t.Error("an operator is not told another tenant's usage")
	}
}
