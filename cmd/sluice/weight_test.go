package main

import (
	"log/slog"
	"testing"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// What the configuration calls a tenant's weight is its share of the turns.
func TestATenantsConfiguredWeightIsItsShareOfTheTurns(t *testing.T) {
	cfg := configured(t, redistest.Start(t, redistest.Options{}).URL(), claude("http://127.0.0.1:1")+"tenants:\n  zoe: {weight: 9}\n")
	pool := &cfg.Pools[0]
	pool.Limits = config.Limits{RequestsPerMinute: 3000} // 50 may be handed out at once
	s, err := newService(t.Context(), cfg, roles{api: true}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	if err := s.store.SetPaused(t.Context(), pool.Name, true); err != nil {
		t.Fatal(err)
	}
	whose := map[string]string{}
	for _, tenant := range []string{"acme", "zoe"} {
		for range 60 {
			j := tasks.Job{ID: store.NewID("job"), Tenant: tenant, Pool: pool.Name, Model: "m", Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"x"`)}}
			if made, _, err := s.store.Create(t.Context(), tasks.Submission{Job: j}); err != nil || made[0].Err != nil {
				t.Fatal(err, made)
			}
			whose[j.ID] = tenant
		}
	}
	if err := s.store.SetPaused(t.Context(), pool.Name, false); err != nil {
		t.Fatal(err)
	}
	swept, err := s.store.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, k := range swept.Hand {
		got[whose[k.ID]]++
	}
	if got["acme"] != 5 || got["zoe"] != 45 {
		t.Errorf("the first 50 starts of two backlogs, weights 1 and 9: %v, want 5 and 45", got)
	}
}
