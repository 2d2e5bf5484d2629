package webhook_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/worker/webhook"
)

func TestReceiver(t *testing.T) {
	key := secret(t, vectorSecret)
	now := vectorTime()
	var out bytes.Buffer
	r, err := webhook.NewReceiver(webhook.ReceiverConfig{
		Keys: []webhook.VerifyKey{key}, Out: &out, MaxBytes: 200, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	post := func(id, body string, keys ...webhook.Key) *http.Request {
		req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		req.Header = headers(id, strconv.Itoa(vectorTimestamp), webhook.Sign(id, now, []byte(body), keys...))
		return req
	}
	good := `{"type":"job.succeeded","data":{"id":"job_1","text":"THE ANSWER"}}`
	for _, c := range []struct {
		name string
		req  *http.Request
		want int
		line string
	}{
		{"good", post("msg_1", good, key), 204, "verified msg_1 job.succeeded job_1 66 bytes"},
		{"again", post("msg_1", good, key), 204, "repeated msg_1 job.succeeded job_1 66 bytes"},
		{"another", post("msg_2", good, key), 204, "verified msg_2 job.succeeded job_1 66 bytes"},
		{"another key", post("msg_3", good, webhook.NewSecret()), 401, "refused no signature matches 66 bytes"},
		{"no headers", httptest.NewRequest(http.MethodPost, "/", strings.NewReader(good)), 401,
			"refused the webhook headers are missing, repeated or malformed 66 bytes"},
		{"get", httptest.NewRequest(http.MethodGet, "/", nil), 405, "refused not a POST 0 bytes"},
		{"too large", post("msg_4", strings.Repeat("x", 201), key), 413, "refused too large 200 bytes"},
		{"terminal escapes", post("msg_5", `{"type":"\u001b[2J","data":{"id":"a b"}}`, key), 204, "verified msg_5 - - 40 bytes"},
		{"no JSON", post("msg_6", "x", key), 204, "verified msg_6 - - 1 bytes"},
	} {
		out.Reset()
		w := httptest.NewRecorder()
		r.ServeHTTP(w, c.req)
		if w.Code != c.want {
			t.Errorf("%s: status %d, want %d", c.name, w.Code, c.want)
		}
		if got, want := out.String(), "2021-02-25T15:02:10.000Z "+c.line+"\n"; got != want {
			t.Errorf("%s: printed %q, want %q", c.name, got, want)
		}
	}
	lines, err := webhook.NewReceiver(webhook.ReceiverConfig{Keys: []webhook.VerifyKey{key}, Out: &out, JSON: true, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	out.Reset()
	lines.ServeHTTP(httptest.NewRecorder(), post("msg_1", good, key))
	lines.ServeHTTP(httptest.NewRecorder(), post("msg_2", good, webhook.NewSecret()))
	want := `{"at":"2021-02-25T15:02:10.000Z","verdict":"verified","id":"msg_1","type":"job.succeeded","about":"job_1","bytes":66}` + "\n" +
		`{"at":"2021-02-25T15:02:10.000Z","verdict":"refused","reason":"no signature matches","bytes":66}` + "\n"
	if out.String() != want {
		t.Errorf("as JSON it printed\n%swant\n%s", &out, want)
	}
	if _, err := webhook.NewReceiver(webhook.ReceiverConfig{Keys: []webhook.VerifyKey{webhook.Secret{}, nil}}); err == nil {
		t.Error("a receiver without a usable key")
	}
}

func TestReceiverForgetsOldIDs(t *testing.T) {
	key := secret(t, vectorSecret)
	var out bytes.Buffer
	r, err := webhook.NewReceiver(webhook.ReceiverConfig{Keys: []webhook.VerifyKey{key}, Out: &out, Now: vectorTime})
	if err != nil {
		t.Fatal(err)
	}
	send := func(id string) string {
		out.Reset()
		req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
		req.Header = headers(id, strconv.Itoa(vectorTimestamp), webhook.Sign(id, vectorTime(), []byte("{}"), key))
		r.ServeHTTP(httptest.NewRecorder(), req)
		return strings.Fields(out.String())[1]
	}
	for i := range 1024 {
		if got := send(fmt.Sprintf("msg_%d", i)); got != "verified" {
			t.Fatalf("msg_%d: %s", i, got)
		}
	}
	if got := send("msg_0"); got != "repeated" {
		t.Errorf("the oldest of 1024: %s, want repeated", got)
	}
	send("msg_1024")
	if got := send("msg_0"); got != "verified" {
		t.Errorf("the oldest of 1025: %s, want verified: it was to be forgotten", got)
	}
	if got := send("msg_1024"); got != "repeated" {
		t.Errorf("the newest: %s, want repeated", got)
	}
}

// What Sender sends is what Receiver takes.
func TestSenderToReceiver(t *testing.T) {
	key := webhook.NewSecret()
	r, err := webhook.NewReceiver(webhook.ReceiverConfig{Keys: []webhook.VerifyKey{key}, Status: http.StatusAccepted})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(r)
	t.Cleanup(srv.Close)
	s := loopback(t, webhook.SenderConfig{})
	d := delivery(srv.URL)
	d.Keys = []webhook.Key{webhook.NewSecret(), key}
	if res := s.Send(t.Context(), d); res.Outcome != webhook.Delivered || res.Status != http.StatusAccepted {
		t.Errorf("Send = %+v, want delivered with 202", res)
	}
	d.Keys = d.Keys[:1]
	if res := s.Send(t.Context(), d); res.Outcome != webhook.Status4xx || res.Status != http.StatusUnauthorized {
		t.Errorf("Send with another key = %+v, want http_4xx with 401", res)
	}
}
