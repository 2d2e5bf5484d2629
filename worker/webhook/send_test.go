package webhook_test

import (
	"testing"

	"github.com/sluicehq/sluice/worker/webhook"
)

func newSender(t testing.TB, cfg webhook.SenderConfig) *webhook.Sender {
	t.Helper()
	s, err := webhook.NewSender(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func delivery(url string) webhook.Delivery {
	key, err := webhook.ParseSecret(vectorSecret)
	if err != nil {
		panic(err)
	}
	return webhook.Delivery{ID: "msg_1", URL: url, Body: []byte(`{"type":"job.succeeded"}`), Keys: []webhook.Key{key}}
}
