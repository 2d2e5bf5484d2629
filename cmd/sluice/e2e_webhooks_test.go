package main_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/sluicehq/sluice/api/auth"
)

// arrival is one delivery as a receiver got it.
type arrival struct {
	header http.Header
	body   []byte
}

// A receiver that verifies with the scheme's own library gets what was asked
// for, and nobody sees another tenant's endpoints, secrets or deliveries.
func testWebhooks(t *testing.T, s *system) {
	arrivals := make(chan arrival, 16)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrivals <- arrival{r.Header, body}
	}))
	defer receiver.Close()
	next := func() arrival {
		t.Helper()
		select {
		case a := <-arrivals:
			return a
		case <-time.After(time.Minute):
			t.Fatal("no delivery within a minute")
			return arrival{}
		}
	}
	verified := func(secret string, a arrival) map[string]any {
		t.Helper()
		v, err := webhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Verify(a.body, a.header); err != nil {
			t.Errorf("the official library refuses a delivery: %v", err)
		}
		var body map[string]any
		if err := json.Unmarshal(a.body, &body); err != nil {
			t.Fatal(err)
		}
		return body
	}
	c := s.as(t, "hooks", auth.ScopeJobsRead, auth.ScopeJobsWrite, auth.ScopeWebhooksWrite)

	made := c.do("POST", "/v1/webhook-endpoints", `{"url":"`+receiver.URL+`/all","events":["job.succeeded"],"include_result":true}`).want(t, 201)
	endpoint, secret := made.str("id"), made.str("secret")
	if !strings.HasPrefix(endpoint, "whe_") || !strings.HasPrefix(secret, "whsec_") {
		t.Fatalf("endpoint %q, secret %q", endpoint, secret)
	}
	job := c.submit(prompt("claude-x", "a webhook"))
	a := next()
	body := verified(secret, a)
	if body["type"] != "job.succeeded" || at(body, "data.id") != job || at(body, "data.result") == nil {
		t.Errorf("event %s", a.body)
	}
	id := a.header.Get("Webhook-Id")

	// The log has it, and it can be sent again under the same id.
	var delivery string
	eventually(t, "the delivery in the log", func() bool {
		list, _ := c.do("GET", "/v1/webhook-endpoints/"+endpoint+"/deliveries", "").want(t, 200).get("data").([]any)
		if len(list) == 0 {
			return false
		}
		delivery, _ = at(list[0], "id").(string)
		return at(list[0], "status") == "delivered"
	})
	c.do("POST", "/v1/deliveries/"+delivery+"/redeliver", "")
	if again := next(); again.header.Get("Webhook-Id") != id {
		t.Errorf("redelivered under %q, first %q", again.header.Get("Webhook-Id"), id)
	}

	// A rotated secret and the old one both verify.
	rotated := c.do("POST", "/v1/webhook-endpoints/"+endpoint+"/rotate-secret", "").str("secret")
	c.do("POST", "/v1/webhook-endpoints/"+endpoint+"/test", "")
	probe := next()
	verified(secret, probe)
	verified(rotated, probe)

	// Ed25519 on request: the key that verifies it is handed out by the API.
	signed := c.do("POST", "/v1/webhook-endpoints", `{"url":"`+receiver.URL+`/v1a","events":["job.failed"],"signature":"v1a","max_per_second":50}`).want(t, 201)
	c.do("POST", "/v1/webhook-endpoints/"+signed.str("id")+"/test", "").want(t, 202)
	asymmetric := next()
	verified(signed.str("secret"), asymmetric) // v1 stands beside it, and first
	public, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(c.do("GET", "/v1/webhook-endpoints/"+signed.str("id"), "").want(t, 200).str("public_key"), "whpk_"))
	if err != nil || len(public) != ed25519.PublicKeySize {
		t.Fatalf("public key of %d bytes, %v", len(public), err)
	}
	_, entry, _ := strings.Cut(asymmetric.header.Get("Webhook-Signature"), " v1a,")
	signature, err := base64.StdEncoding.DecodeString(entry)
	message := asymmetric.header.Get("Webhook-Id") + "." + asymmetric.header.Get("Webhook-Timestamp") + "." + string(asymmetric.body)
	if err != nil || !ed25519.Verify(public, []byte(message), signature) {
		t.Errorf("v1a does not verify: %q, %v", asymmetric.header.Get("Webhook-Signature"), err)
	}
	c.do("POST", "/v1/webhook-endpoints", `{"url":"`+receiver.URL+`","max_per_second":-1}`).want(t, 400)

	c.do("DELETE", "/v1/webhook-endpoints/"+endpoint, "").want(t, 204)

	// A receiver made for OpenAI's webhooks gets bodies as it knows them.
	theirs := c.do("POST", "/v1/webhook-endpoints", `{"url":"`+receiver.URL+`/openai","events":["job.succeeded"],"format":"openai","include_result":true}`).want(t, 201)
	if theirs.str("format") != "openai" || signed.str("format") != "sluice" {
		t.Errorf("formats %q and %q", theirs.str("format"), signed.str("format"))
	}
	job = c.submit(prompt("claude-x", "in another form"))
	if body := verified(theirs.str("secret"), next()); body["type"] != "response.completed" || body["object"] != "event" || at(body, "data.id") != job {
		t.Errorf("event in OpenAI's form: %v", body)
	}
	c.do("PATCH", "/v1/webhook-endpoints/"+theirs.str("id"), `{"format":"sluice"}`).want(t, 400)
	c.do("DELETE", "/v1/webhook-endpoints/"+theirs.str("id"), "").want(t, 204)

	// An endpoint's own headers go with each of its deliveries, tests and redeliveries,
	// and their values come back in no answer.
	const canary = "Canary-5e3"
	kept := c.do("POST", "/v1/webhook-endpoints", `{"url":"`+receiver.URL+`/own-headers","events":["job.expired"],"headers":{"authorization":"Bearer `+canary+`","X-Team":"`+canary+`"}}`).want(t, 201)
	hooked := "/v1/webhook-endpoints/" + kept.str("id")
	tested := c.do("POST", hooked+"/test", "").want(t, 202)
	if a := next(); a.header.Get("Authorization") != "Bearer "+canary || a.header.Get("X-Team") != canary {
		t.Errorf("a test came with %v", a.header)
	}
	eventually(t, "the test is delivered", func() bool { return c.do("GET", "/v1/deliveries/"+tested.str("id"), "").str("status") == "delivered" })
	changed := c.do("PATCH", hooked, `{"headers":{"X-Other":"`+canary+`"}}`).want(t, 200)
	c.do("POST", "/v1/deliveries/"+tested.str("id")+"/redeliver", "").want(t, 202)
	if a := next(); a.header.Get("Authorization") != "" || a.header.Get("X-Other") != canary {
		t.Errorf("sent again it came with %v", a.header)
	}
	if kept.get("headers.X-Team") != "********" || kept.get("headers.Authorization") != "********" || changed.get("headers.X-Other") != "********" || changed.get("headers.X-Team") != nil {
		t.Errorf("headers %v, then %v", kept.get("headers"), changed.get("headers"))
	}
	for _, answer := range []reply{kept, changed, c.do("GET", hooked, ""), c.do("GET", "/v1/webhook-endpoints", ""), c.do("GET", "/v1/deliveries", "")} {
		if strings.Contains(string(answer.body), canary) {
			t.Errorf("an answer holds the value: %s", answer.body)
		}
	}
	for _, bad := range []string{`{"Host":"a"}`, `{"X-A":"a\r\nb"}`, `{"X-A":"********"}`, `{"X-A":null}`, `{"X-A":1}`, `["X-A"]`, `{"X-A":""}`, `{"webhook-id":"a"}`, `{"x-a":"` + canary + `","X-A":"b"}`} {
		refused := c.do("PATCH", hooked, `{"headers":`+bad+`}`).want(t, 400)
		if strings.Contains(string(refused.body), canary) {
			t.Errorf("a refusal quotes the value: %s", refused.body)
		}
	}
	c.do("DELETE", hooked, "").want(t, 204)

	// A job's own address is signed with the tenant's secret.
	own := c.do("GET", "/v1/signing-secret", "").want(t, 200).str("secret")
	c.submit(`{"model":"claude-x","prompt":"its own","webhook_url":"` + receiver.URL + `/own"}`)
	if body := verified(own, next()); at(body, "data.result") != nil {
		t.Error("a thin event holds the result")
	}

	// Another tenant sees nothing of it.
	other := s.as(t, "hooks-other", auth.ScopeWebhooksWrite)
	for _, route := range []string{
		"GET /v1/webhook-endpoints/" + endpoint, "DELETE /v1/webhook-endpoints/" + endpoint, "GET /v1/deliveries/" + delivery,
		"POST /v1/deliveries/" + delivery + "/redeliver", "POST /v1/webhook-endpoints/" + endpoint + "/rotate-secret",
	} {
		method, path, _ := strings.Cut(route, " ")
		other.do(method, path, "").want(t, 404)
	}
	if got := other.do("GET", "/v1/signing-secret", "").want(t, 200).str("secret"); got == own {
		t.Error("two tenants share a signing secret")
	}
	// What must not be called is refused when it is saved.
	for _, bad := range []string{"ftp://example.com/", "https://user:pass@example.com/", "http://169.254.169.254/latest", "https://"} {
		r := other.do("POST", "/v1/webhook-endpoints", `{"url":"`+bad+`","events":["job.succeeded"]}`).want(t, 422)
		if detail := r.str("detail"); strings.Contains(bad, "169") && !strings.Contains(detail, "the operator's to allow (webhooks.allow_hosts, webhooks.allow_private)") {
			t.Errorf("%s is refused with %q", bad, detail)
		}
	}
}
