package webhook_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/webhook"
)

// A receiver verifies the bytes that came, and a sender reads how it went.
func Example() {
	secret := webhook.NewSecret()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = webhook.Verify(r.Header, body, time.Now(), secret)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Println("received", r.Header.Get(webhook.HeaderID))
	}))
	defer receiver.Close()

	// Loopback is refused unless it is allowed, as for this receiver.
	guard, err := webhook.NewGuard(webhook.GuardConfig{AllowHTTP: true, AllowPrivate: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	sender, err := webhook.NewSender(webhook.SenderConfig{Guard: guard})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sender.Close()

	_, body, err := webhook.JobEvent(tasks.Job{ID: "job_1", Status: tasks.StatusSucceeded}, "https://sluice.example.com", false)
	if err != nil {
		fmt.Println(err)
		return
	}
	d := webhook.Delivery{ID: "evt_1", URL: receiver.URL, Body: body, Keys: []webhook.Key{secret}}
	fmt.Println(sender.Send(context.Background(), d).Outcome)

	// Signed with another key, it is refused, and is worth another attempt.
	d.Keys = []webhook.Key{webhook.NewSecret()}
	res := sender.Send(context.Background(), d)
	delay, again := webhook.Next(1, res, 0.5)
	fmt.Println(res.Status, again, delay > 0)
	// Output:
	// received evt_1
	// delivered
	// 400 true true
}

// An address is judged when a webhook is registered, and again when it is dialled.
func ExampleGuard_CheckURL() {
	guard, err := webhook.NewGuard(webhook.GuardConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, url := range []string{"https://example.com/hook", "http://example.com/hook", "https://127.0.0.1/", "https://169.254.169.254/latest/meta-data"} {
		fmt.Println(url, guard.CheckURL(url) == nil)
	}
	// Output:
	// https://example.com/hook true
	// http://example.com/hook false
	// https://127.0.0.1/ false
	// https://169.254.169.254/latest/meta-data false
}
