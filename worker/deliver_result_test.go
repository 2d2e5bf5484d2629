package worker_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker/webhook"
)

// The store reads no more of a result than an event can carry; one byte more
// than that has to show.
func TestAnEventSaysThatItsResultIsTooLarge(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	yes := true
	e := d.endpoint(r.URL+"/result", "job.succeeded")
	if _, err := d.ChangeEndpoint(t.Context(), "acme", e.ID, tasks.EndpointChange{IncludeResult: &yes}); err != nil {
		t.Fatal(err)
	}
	for i, row := range []struct {
		size    int
		omitted bool
	}{{100, false}, {webhook.MaxResultBytes - 4096, false}, {webhook.MaxResultBytes + 1, true}, {5 << 20, true}} {
		j := tasks.Job{
			ID: store.NewID("job"), Tenant: "acme", Model: "m", Pool: claude, Priority: tasks.Normal,
			Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"x"`)},
		}
		_, tickets, err := d.Create(t.Context(), tasks.Submission{Job: j})
		if err != nil || len(tickets) != 1 {
			t.Fatalf("create: %v, %v", tickets, err)
		}
		if _, err := d.Take(t.Context(), tickets[0]); err != nil {
			t.Fatal(err)
		}
		if _, _, err := d.Start(t.Context(), tickets[0]); err != nil {
			t.Fatal(err)
		}
		result := `"` + strings.Repeat("x", row.size-2) + `"`
		_, err = d.End(t.Context(), tickets[0], tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(result), Attempt: tasks.Attempt{Outcome: tasks.Succeeded}})
		if err != nil {
			t.Fatal(err)
		}
		until(t, "its end is told", func() bool { return len(r.at("/result")) == i+1 })
		var got struct {
			Data struct {
				Result  json.RawMessage
				Omitted bool `json:"result_omitted"`
			}
		}
		if err := json.Unmarshal(r.at("/result")[i].body, &got); err != nil {
			t.Fatal(err)
		}
		if got.Data.Omitted != row.omitted || !row.omitted && string(got.Data.Result) != result {
			t.Errorf("a result of %d bytes: omitted %t with %d bytes, want %t", row.size, got.Data.Omitted, len(got.Data.Result), row.omitted)
		}
	}
}
