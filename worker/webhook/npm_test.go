package webhook_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/webhook"
)

// The two verifiers of npm that receivers use most are given deliveries as they
// arrived, and others that were changed on the way. Needs "npm ci" in
// testdata/npm; without it the test is skipped, in CI it fails.
func TestVerifiersOfNPM(t *testing.T) {
	if _, err := os.Stat("testdata/npm/node_modules"); err != nil {
		absent(t, "run npm ci in worker/webhook/testdata/npm")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		absent(t, "node is not on PATH")
	}
	type message struct {
		Name    string            `json:"name"`
		Secret  string            `json:"secret"`
		Headers map[string]string `json:"headers"`
		Body    string            `json:"body"`
	}
	arrived := make(chan message, 1)
	srv := server(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		m := message{Headers: map[string]string{}, Body: string(body)}
		for name := range r.Header {
			m.Headers[strings.ToLower(name)] = r.Header.Get(name)
		}
		arrived <- m
	})
	current, old := webhook.NewSecret(), webhook.NewSecret()
	send := func(name, verifyWith string, body []byte, now func() time.Time, keys ...webhook.Key) message {
		t.Helper()
		s := loopback(t, webhook.SenderConfig{Now: now})
		d := webhook.Delivery{ID: "msg_1", URL: srv.URL, Body: body, Keys: keys}
		if res := s.Send(t.Context(), d); res.Outcome != webhook.Delivered {
			t.Fatalf("%s: Send = %s", name, res.Outcome)
		}
		m := <-arrived
		m.Name, m.Secret = name, verifyWith
		return m
	}
	_, job, err := webhook.JobEvent(finished(tasks.StatusSucceeded), base, true)
	if err != nil {
		t.Fatal(err)
	}
	unicode := finished(tasks.StatusSucceeded)
	unicode.Metadata = map[string]string{"name": "Zoë \u2028 \xff 🙂 <b>"}
	_, odd, err := webhook.JobEvent(unicode, base, true)
	if err != nil {
		t.Fatal(err)
	}
	response, err := webhook.OpenAIEvent("evt_1", tasks.EventJobSucceeded, time.Now(), "resp_1")
	if err != nil {
		t.Fatal(err)
	}
	change := func(m message, f func(*message)) message { f(&m); return m }
	plain := send("plain", current.Reveal(), job, nil, current)
	const refused = "refused"
	var in bytes.Buffer
	want := map[string]string{}
	for _, c := range []struct {
		m    message
		want string
	}{
		{plain, "job.succeeded"},
		{send("odd characters", current.Reveal(), odd, nil, current), "job.succeeded"},
		{send("OpenAI's form", current.Reveal(), response, nil, current), "response.completed"},
		{send("rotated, new secret", current.Reveal(), job, nil, current, old), "job.succeeded"},
		{send("rotated, old secret", old.Reveal(), job, nil, current, old), "job.succeeded"},
		{send("with v1a", current.Reveal(), job, nil, webhook.NewPrivateKey(), current), "job.succeeded"},
		{send("v1a alone", current.Reveal(), job, nil, webhook.NewPrivateKey()), refused},
		{send("another secret", webhook.NewSecret().Reveal(), job, nil, current), refused},
		{send("six minutes ago", current.Reveal(), job, func() time.Time { return time.Now().Add(-6 * time.Minute) }, current), refused},
		{change(plain, func(m *message) { m.Name, m.Body = "changed body", m.Body+" " }), refused},
		{change(plain, func(m *message) {
			m.Name, m.Headers = "changed id", map[string]string{"webhook-id": "msg_2",
				"webhook-timestamp": m.Headers["webhook-timestamp"], "webhook-signature": m.Headers["webhook-signature"]}
		}), refused},
	} {
		line, err := json.Marshal(c.m)
		if err != nil {
			t.Fatal(err)
		}
		in.Write(append(line, '\n'))
		want[c.m.Name] = c.want
	}
	cmd := exec.CommandContext(t.Context(), node, "verify.cjs")
	cmd.Dir, cmd.Stdin, cmd.Stderr = "testdata/npm", &in, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node verify.cjs: %v", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d verdicts on %d messages:\n%s", len(lines), len(want), out)
	}
	for _, line := range lines {
		var got struct{ Name, StandardWebhooks, OpenAI string }
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		if got.StandardWebhooks != want[got.Name] || got.OpenAI != want[got.Name] {
			t.Errorf("%s: standardwebhooks says %s and openai %s, want %s", got.Name, got.StandardWebhooks, got.OpenAI, want[got.Name])
		}
	}
}
