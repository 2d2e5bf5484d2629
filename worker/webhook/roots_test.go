package webhook_test

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/webhook"
)

// An endpoint's own certificates vouch for its receiver and for no other endpoint's, and
// take nothing from those that vouch for all.
func TestAnEndpointsOwnCertificates(t *testing.T) {
	t.Parallel()
	receiver := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	receiver.Config.ErrorLog = log.New(io.Discard, "", 0)
	receiver.StartTLS()
	t.Cleanup(receiver.Close)
	ca, err := tasks.NewCA(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: receiver.Certificate().Raw})))
	if err != nil {
		t.Fatal(err)
	}
	guard, err := webhook.NewGuard(webhook.GuardConfig{AllowPrivate: true})
	if err != nil {
		t.Fatal(err)
	}
	key, err := webhook.ParseSecret(vectorSecret)
	if err != nil {
		t.Fatal(err)
	}
	common := x509.NewCertPool()
	common.AddCert(receiver.Certificate())
	for name, c := range map[string]struct {
		roots *x509.CertPool
		own   []tasks.CA
		want  []webhook.Outcome
	}{
		"the system's alone":      {nil, []tasks.CA{""}, []webhook.Outcome{webhook.TLSError}},
		"its own":                 {nil, []tasks.CA{ca}, []webhook.Outcome{webhook.Delivered}},
		"another's is no other's": {nil, []tasks.CA{ca, "", ca, ""}, []webhook.Outcome{webhook.Delivered, webhook.TLSError, webhook.Delivered, webhook.TLSError}},
		"the operator's beside":   {common, []tasks.CA{"", ca}, []webhook.Outcome{webhook.Delivered, webhook.Delivered}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := webhook.NewSender(webhook.SenderConfig{Guard: guard, RootCAs: c.roots})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			for i, own := range c.own {
				if got := s.Send(t.Context(), webhook.Delivery{ID: "evt_1", URL: receiver.URL, Body: []byte("{}"), Keys: []webhook.Key{key}, CA: own}).Outcome; got != c.want[i] {
					t.Errorf("attempt %d: %s, want %s", i+1, got, c.want[i])
				}
			}
		})
	}
}
