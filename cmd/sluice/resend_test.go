package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// One tenant's tests and redeliveries have a quota, whichever way they are asked for,
// and a range of time is sent in parts by it. What could not be sent costs nothing.
func TestTestsAndRedeliveriesHaveAQuota(t *testing.T) {
	t.Parallel()
	k := newTalker(t, "hello", nil)
	r := outage(t, claude(k.URL)+"webhooks: {allow_http: true, allow_private: true}\ntenants: {default: {resends_per_minute: 12}, other: {resends_per_minute: 3}}\n")
	well := newRepeater(t, 200)
	var e struct{ ID string }
	if res := r.call("POST", "/v1/webhook-endpoints", `{"url":"`+well.URL+`","events":["job.canceled"]}`, &e); res.StatusCode != 201 {
		t.Fatalf("endpoint: %s", res.Status)
	}
	path := "/v1/webhook-endpoints/" + e.ID
	if status, _ := r.status("POST", "/v1/deliveries/dlv_0/redeliver", ""); status != 404 {
		t.Fatalf("redeliver nothing: %d", status)
	}
	var took, refused atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				switch status, code := r.status("POST", path+"/test", ""); {
				case status == 202:
					took.Add(1)
				case status == 429 && code == "quota_exceeded":
					refused.Add(1)
				default:
					t.Errorf("test: %d %s", status, code)
				}
			}
		})
	}
	wg.Wait()
	if n := took.Load(); n != 12 || n+refused.Load() != 20 {
		t.Errorf("20 tests at once with a quota of 12: %d taken, %d refused", n, refused.Load())
	}
	var problem struct{ Code, Detail string }
	res := r.call("POST", path+"/test", "", &problem)
	if res.StatusCode != 429 || res.Header.Get("Retry-After") == "" || problem.Detail != "The quota resends_per_minute of 12 is used up." {
		t.Errorf("one more: %s, Retry-After %q, %+v", res.Status, res.Header.Get("Retry-After"), problem)
	}
	r.until("they have arrived", func() bool { return int64(len(well.seen())) == took.Load() })

	// Another tenant's are its own: of five events three go, then the rest.
	r.token = r.mint("other")
	if res := r.call("POST", "/v1/webhook-endpoints", `{"url":"`+well.URL+`","events":["job.canceled"]}`, &e); res.StatusCode != 201 {
		t.Fatalf("endpoint: %s", res.Status)
	}
	path = "/v1/webhook-endpoints/" + e.ID
	for range 5 {
		var j jobView
		r.call("POST", "/v1/jobs", `{"model":"claude-x","prompt":"hi","not_before":"2099-01-01T00:00:00Z"}`, &j)
		r.call("POST", "/v1/jobs/"+j.ID+"/cancel", "", &j)
	}
	var list struct{ Data []struct{ ID string } }
	r.until("five are delivered", func() bool {
		r.call("GET", path+"/deliveries?status=delivered", "", &list)
		return len(list.Data) == 5
	})
	var part struct {
		Deliveries int
		Next       string
	}
	again := func(more string) *http.Response {
		part.Next = ""
		return r.call("POST", path+"/redeliver", `{"since":"2020-01-01T00:00:00Z","include_delivered":true`+more+`}`, &part)
	}
	res = again("")
	if third := list.Data[2].ID; res.StatusCode != 202 || part.Deliveries != 3 || part.Next != third || res.Header.Get("Retry-After") == "" {
		t.Errorf("a range of five with a quota of three: %s %+v, Retry-After %q; want three, up to %s", res.Status, part, res.Header.Get("Retry-After"), third)
	}
	next := part.Next
	if res := again(fmt.Sprintf(`,"after":%q`, next)); res.StatusCode != 429 {
		t.Errorf("the rest at once: %s", res.Status)
	}
	if status, code := r.status("POST", "/v1/deliveries/"+list.Data[0].ID+"/redeliver", ""); status != 429 {
		t.Errorf("one of them: %d %s", status, code)
	}
	if n, err := r.s.rdb.Del(t.Context(), "sluice:quota:{resend:other}", "sluice:quota:{resend:other}:log").Result(); n != 2 || err != nil { // a minute goes by
		t.Fatal(n, err)
	}
	if res := again(fmt.Sprintf(`,"after":%q`, next)); res.StatusCode != 202 || part.Deliveries != 2 || part.Next != "" {
		t.Errorf("the rest: %s %+v", res.Status, part)
	}
	if res := again(`,"after":"` + strings.Repeat("x", 5) + `"`); res.StatusCode != 400 {
		t.Errorf("after what is no delivery: %s", res.Status)
	}
}

// What an operator sets for all webhooks holds for a job's own address too: a receiver
// of an authority of one's own gets the header fields.
func TestTheOperatorsHeadersAndAuthority(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	receiver := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header.Get("X-Team") }))
	t.Cleanup(receiver.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: receiver.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	k := newTalker(t, "hello", nil)
	r := outage(t, claude(k.URL)+fmt.Sprintf("webhooks: {allow_private: true, ca_file: %q, headers: {X-Team: blue}}\n", ca))
	var j jobView
	if res := r.call("POST", "/v1/jobs", `{"model":"claude-x","prompt":"hi","webhook_url":"`+receiver.URL+`/in"}`, &j); res.StatusCode != 202 {
		t.Fatalf("submit: %s", res.Status)
	}
	select {
	case team := <-got:
		if team != "blue" {
			t.Errorf("the receiver got X-Team %q", team)
		}
	case <-time.After(time.Minute):
		t.Error("nothing has arrived within a minute")
	}
}

// An endpoint's own certificates vouch for its receiver until they are taken back, and
// answers show whose they are.
func TestAnEndpointHasAnAuthorityOfItsOwn(t *testing.T) {
	t.Parallel()
	receiver := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	receiver.Config.ErrorLog = log.New(io.Discard, "", 0)
	receiver.StartTLS()
	t.Cleanup(receiver.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: receiver.Certificate().Raw}))
	r := outage(t, claude("http://127.0.0.1:1")+"webhooks: {allow_private: true}\n")
	type endpoint struct {
		ID string
		CA []struct {
			Subject, SHA256 string
			NotAfter        time.Time `json:"not_after"`
		}
	}
	var made, changed endpoint
	if res := r.call("POST", "/v1/webhook-endpoints", fmt.Sprintf(`{"url":%q,"ca":%q}`, receiver.URL+"/in", ca), &made); res.StatusCode != 201 {
		t.Fatalf("create: %s", res.Status)
	}
	sum := sha256.Sum256(receiver.Certificate().Raw)
	if len(made.CA) != 1 || made.CA[0].SHA256 != hex.EncodeToString(sum[:]) || made.CA[0].Subject != "O=Acme Co" || !made.CA[0].NotAfter.Equal(receiver.Certificate().NotAfter) {
		t.Errorf("shown: %+v", made)
	}
	path := "/v1/webhook-endpoints/" + made.ID
	tested := func(want string) {
		t.Helper()
		var d struct {
			ID  string
			Log []struct{ Outcome string }
		}
		r.call("POST", path+"/test", "", &d)
		r.until("the test ends "+want, func() bool {
			r.call("GET", "/v1/deliveries/"+d.ID, "", &d)
			return len(d.Log) > 0 && d.Log[0].Outcome == want
		})
	}
	tested("delivered")
	for _, bad := range []string{`"no certificate"`, `1`, fmt.Sprintf("%q", strings.Replace(ca, "CERTIFICATE", "PRIVATE KEY", 2))} {
		if res := r.call("PATCH", path, `{"ca":`+bad+`}`, &struct{}{}); res.StatusCode != 400 {
			t.Errorf("ca %.40s: %s", bad, res.Status)
		}
	}
	if r.call("PATCH", path, `{"max_per_second":5}`, &changed); len(changed.CA) != 1 {
		t.Errorf("after another change: %+v", changed)
	}
	changed = endpoint{}
	if r.call("PATCH", path, `{"ca":""}`, &changed); changed.CA == nil || len(changed.CA) != 0 {
		t.Errorf("taken back: %+v", changed)
	}
	tested("tls_error")
}
