package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/upstream"
)

// oneSide is the way to a provider that answers so.
func oneSide(t *testing.T, answer http.HandlerFunc, globs ...string) *sides {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	caller, err := upstream.New(upstream.Config{Provider: upstream.Provider{Name: "p", Dialect: upstream.Anthropic, BaseURL: server.URL, APIKey: "key-canary"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(caller.Close)
	gate, err := limit.New(limit.Config{Redis: redistest.New(t), Pool: "p:token_count", FollowProvider: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- gate.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	one := &side{caller: caller, gate: gate, globs: globs}
	return &sides{list: []*side{one}, byPool: map[string][]place{"pool": {{side: one}}}, lead: "count_1"}
}

// A provider that has no list is answered for with the names that are configured.
func TestModelsOfAProviderWithoutAList(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	s := oneSide(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		http.Error(w, "no", http.StatusNotFound)
	}, "claude-a", "claude-*", "claude-b")
	for range 2 {
		list := s.Models(t.Context())
		if len(list) != 2 || list[0].ID != "claude-a" || list[1].ID != "claude-b" || !strings.Contains(string(list[0].Body), `"type":"model"`) {
			t.Errorf("the models are %s", list)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
	if _, err := s.Model(t.Context(), "pool", "claude-c"); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("a model that nobody lists: %v", err)
	}
}

// A count waits for the provider's pace, tells what the provider refuses, and gives up
// with its caller.
func TestACountOfTokensWaits(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	s := oneSide(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		n := asked.Add(1)
		switch {
		case string(body) == `{"bad":1}`:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"type":"error","error":{"type":"invalid_request_error","message":"bad"}}`)
		case string(body) == `{"never":1}`:
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(http.StatusTooManyRequests)
		case n == 1:
			w.Header().Set("Retry-After-Ms", "50")
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			_, _ = io.WriteString(w, `{"input_tokens":7}`)
		}
	})
	ask := func(ctx context.Context, body string) (int, string, error) {
		status, said, err := s.CountTokens(ctx, "pool", tasks.Request{Kind: tasks.Raw, Body: []byte(body)})
		return status, string(said), err
	}
	if status, said, err := ask(t.Context(), `{}`); err != nil || status != 200 || said != `{"input_tokens":7}` || asked.Load() != 2 {
		t.Errorf("after a 429: %d %s, %v, %d calls", status, said, err, asked.Load())
	}
	if status, said, err := ask(t.Context(), `{"bad":1}`); err != nil || status != 400 || !strings.Contains(said, "invalid_request_error") {
		t.Errorf("refused: %d %s, %v", status, said, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := ask(ctx, `{"never":1}`); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beyond its patience: %v", err)
	}
}

// Tokens are counted by an account that takes calls, and by the next one where that is refused.
func TestACountOfTokensGoesToAnAccountThatIsOpen(t *testing.T) {
	t.Parallel()
	var shut atomic.Bool
	var refused atomic.Int64
	first := oneSide(t, func(w http.ResponseWriter, _ *http.Request) {
		refused.Add(1)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}`)
	})
	second := oneSide(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"input_tokens":7}`)
	})
	first.byPool["pool"] = []place{{first.list[0], shut.Load}, {second.list[0], nil}}
	for want := range int64(2) {
		shut.Store(want == 0)
		status, said, err := first.CountTokens(t.Context(), "pool", tasks.Request{Kind: tasks.Raw, Body: []byte(`{}`)})
		if err != nil || status != 200 || string(said) != `{"input_tokens":7}` || refused.Load() != want {
			t.Errorf("%d %s, %v, and the account that is refused was asked %d times, want %d", status, said, err, refused.Load(), want)
		}
	}
}
