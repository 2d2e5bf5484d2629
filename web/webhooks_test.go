package web

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

// endpoint makes a tenant's endpoint with a delivery, which has arrived, and returns both.
func (s *jobsSite) endpoint(tenant string) (endpoint, delivery string) {
	s.t.Helper()
	return s.endpointThat(tenant, tasks.Settled{
		Status: tasks.DeliveryDelivered, Counted: true,
		Attempt: tasks.DeliveryAttempt{At: time.Now(), Outcome: "delivered", Status: 204, Latency: 15 * time.Millisecond, Answer: "answer-canary" + hostile},
	})
}

// endpointThat makes one whose delivery ends so.
func (s *jobsSite) endpointThat(tenant string, ends tasks.Settled) (endpoint, delivery string) {
	s.t.Helper()
	ctx := s.t.Context()
	e, err := s.store.CreateEndpoint(ctx, tasks.Endpoint{
		ID: store.NewID("whe"), Tenant: tenant, URL: "https://in." + tenant + ".example/path-canary", Events: []string{"job.failed"}, Signature: "v1",
		Keys: tasks.SigningKeys{Secret: "whsec_canary"},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.job(tenant, "claude-x", "fail")
	page, err := s.store.Deliveries(ctx, tasks.DeliveryFilter{Tenant: tenant, Limit: 10})
	if err != nil || len(page.Deliveries) != 1 {
		s.t.Fatalf("%+v: %v", page, err)
	}
	swept, err := s.store.SweepDeliveries(ctx)
	var open []tasks.Sending
	if err == nil {
		open, err = s.store.OpenDeliveries(ctx, swept.Hand)
	}
	if err != nil || len(open) != 1 {
		s.t.Fatalf("%+v: %v", open, err)
	}
	ends.Ticket = tasks.DeliveryTicket{ID: open[0].Delivery.ID, Fence: open[0].Delivery.Fence}
	if _, err = s.store.SettleDeliveries(ctx, []tasks.Settled{ends}); err != nil {
		s.t.Fatal(err)
	}
	return e.ID, page.Deliveries[0].ID
}

// Webhooks are listed with how they stand; their addresses and what receivers answered are
// for who may change them.
func TestWebhooksAreShown(t *testing.T) {
	s := newJobsSite(t)
	endpoint, delivery := s.endpoint("acme")
	_, other := s.endpoint("globex")
	for _, row := range []struct {
		token      string
		list, send int
		whole      bool
	}{
		{"hooks", 200, 303, true},
		{"own", 200, 403, false},
		{"reader", 200, 403, false},
		{"writer", 403, 403, false},
		{"look", 200, 403, false},
		{"reads-all", 200, 403, false},
		{"change", 200, 303, true},
	} {
		a, d := s.as(row.token, "GET", "/webhooks?tenant=acme"), s.as(row.token, "GET", "/webhooks/"+delivery+"?tenant=acme")
		if a.StatusCode != row.list || d.StatusCode != row.list {
			t.Errorf("%s: %d, %d; want %d", row.token, a.StatusCode, d.StatusCode, row.list)
		}
		if row.list == 200 {
			s.want(a, 200, endpoint, delivery, "https://in.acme.example/", "arrived", "job.failed")
			s.want(d, 200, "delivered 204", "0.01 s", "job_")
		}
		for _, all := range []string{a.body, d.body} {
			if strings.Contains(all, "whsec_") || strings.Contains(all, other) || strings.Contains(all, "<img src=x") {
				t.Errorf("%s is shown a secret, another tenant's delivery, or markup:\n%s", row.token, all)
			}
		}
		if strings.Contains(a.body, "path-canary") != row.whole || strings.Contains(d.body, "answer-canary") != row.whole {
			t.Errorf("%s: the whole address and the answers are shown: want %t", row.token, row.whole)
		}
		if row.send != 303 {
			s.want(s.as(row.token, "POST", "/webhooks/"+delivery+"/redeliver?tenant=acme"), row.send)
		}
		s.want(s.as(row.token, "POST", "/webhooks/"+endpoint+"/test?tenant=acme"), row.send)
	}
	s.want(s.as("change", "POST", "/webhooks/"+delivery+"/redeliver?tenant=acme"), 303)
	s.want(s.as("hooks", "GET", "/webhooks?tenant=acme&status=pending"), 200, delivery, "is on its way")
	if want := "ada test " + endpoint + "; ada redeliver " + delivery; s.audit() != want {
		t.Errorf("noted %q, want %q", s.audit(), want)
	}
	for _, path := range []string{"/webhooks/" + other, "/console/webhooks/" + other + "?tenant=globex", "/webhooks/dlv_0", "/webhooks/x?tenant=" + strings.Repeat("x", 200)} {
		s.want(s.as("hooks", "GET", path), 404)
	}
	s.want(s.as("hooks", "POST", "/webhooks/"+other+"/redeliver?tenant=globex"), 404)
	s.want(s.as("hooks", "GET", "/webhooks?tenant=globex"), 403, "its own tenant")
	s.want(s.as("hooks", "GET", "/webhooks?status=gone"), 400, "no such status")
	s.want(s.as("hooks", "GET", "/webhooks?status=exhausted"), 200, "No deliveries here")
	s.want(s.as("hooks", "GET", "/webhooks?endpoint=whe_none"), 404, "no such endpoint")
	s.want(s.as("hooks", "GET", "/console/webhooks?endpoint="+endpoint), 200, delivery)
	s.redis.Close()
	s.want(s.as("hooks", "GET", "/webhooks"), 503, "cannot be read")
	s.want(s.as("hooks", "GET", "/webhooks/"+delivery), 503, "Nothing is lost")
}

// The audit is shown page by page, the newest first, to admins.
func TestTheAuditIsShown(t *testing.T) {
	s := newJobsSite(t)
	s.want(s.as("change", "GET", "/audit"), 200, "Nobody has changed anything")
	begun := time.Now()
	for i := range jobsOnAPage + 1 { // a millisecond each: in one, acts stand in any order
		act := tasks.Act{At: begun.Add(time.Duration(i) * time.Millisecond), By: "ada", Tenant: "ops", Via: "console", Action: "cancel", Target: "job_" + strconv.Itoa(i), Reason: hostile}
		if err := s.store.Note(t.Context(), act); err != nil {
			t.Fatal(err)
		}
	}
	a := s.as("change", "GET", "/audit")
	s.want(a, 200, `href="/jobs/job_50"`, "cancel", "ada", "&lt;script&gt;", `id="next"`)
	if strings.Contains(a.body, "<script>alert") || strings.Contains(a.body, "job_0<") {
		t.Errorf("markup, or more than a page:\n%s", a.body)
	}
	_, next, _ := strings.Cut(a.body, `href="/audit?after=`)
	next, _, _ = strings.Cut(next, `"`)
	s.want(s.as("change", "GET", "/console/audit?after="+next), 200, "job_0<")
	for _, token := range []string{"own", "look", "reads-all"} {
		if a := s.as(token, "GET", "/audit"); a.StatusCode != 403 || strings.Contains(a.body, "job_1") {
			t.Errorf("%s: %d", token, a.StatusCode)
		}
		if strings.Contains(s.as(token, "GET", "/").body, `href="/audit"`) {
			t.Errorf("%s is offered the audit", token)
		}
	}
	s.redis.Close()
	s.want(s.as("change", "GET", "/audit"), 503, "cannot be read")
}
