package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/worker/webhook"
)

func TestListenVerifiesAndPrints(t *testing.T) {
	secret := webhook.NewSecret()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, in := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- typeIn(ctx, []string{"listen", "--secret", secret.Reveal(), "--listen", "127.0.0.1:0"}, nil, strings.NewReader(""), in, io.Discard)
		_ = in.Close()
	}()
	lines := bufio.NewReader(out)
	line := func() string {
		s, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("read its output: %v", err)
		}
		return strings.TrimSpace(s)
	}
	url, body := line(), []byte(`{"type":"job.succeeded","data":{"id":"job_1"}}`)
	send := func(signature string, at time.Time) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("webhook-id", "evt_1")
		r.Header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
		r.Header.Set("webhook-signature", signature)
		c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		answer, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return statusOf(t, answer)
	}
	now := time.Now()
	verdicts := make(chan string, 2)
	go func() {
		for range 2 {
			s, _ := lines.ReadString('\n')
			verdicts <- s
		}
	}()
	if got := send(webhook.Sign("evt_1", now, body, secret), now); got != 204 {
		t.Errorf("a signed delivery is answered by %d, want 204", got)
	}
	if s := <-verdicts; !strings.Contains(s, "verified evt_1 job.succeeded job_1") {
		t.Errorf("it printed %q", s)
	}
	if got := send(webhook.Sign("evt_1", now, body, webhook.NewSecret()), now); got != 401 {
		t.Errorf("another secret's delivery is answered by %d, want 401", got)
	}
	if s := <-verdicts; !strings.Contains(s, "refused") {
		t.Errorf("it printed %q", s)
	}
	stop()
	if got := <-code; got != 0 {
		t.Errorf("exit code %d, want 0", got)
	}
}

func statusOf(t *testing.T, r *http.Response) int {
	t.Helper()
	if err := r.Body.Close(); err != nil {
		t.Error(err)
	}
	return r.StatusCode
}
