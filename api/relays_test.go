package api_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/tasks"
)

// callers are the callers of a world: nobody repeats anything.
type callers struct{ *world }

func (callers) OpenCall(_ context.Context, c tasks.Call) (tasks.Joined, error) {
	return tasks.Joined{ID: c.ID}, nil
}

func (callers) HoldCall(context.Context, tasks.Call, tasks.CallerState) error { return nil }

func (callers) Events(context.Context, string, int) (tasks.Events, error) {
	return tasks.Events{}, tasks.ErrNotFound
}

// A Message Batch above a limit is refused whole, with Anthropic's own word for it.
func TestMessageBatchesHaveTheirLimits(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) {
		c.Calls, c.MaxBatchLines, c.MaxBody, c.MaxBatchBody = callers{c.Jobs.(*world)}, 2, 400, 700
	})
	one := func(id string, n int) string {
		return `{"custom_id":"` + id + `","params":{"model":"claude-x","x":"` + strings.Repeat("x", n) + `"}}`
	}
	for name, row := range map[string]struct {
		body   string
		status int
	}{
		"all fits":         {one("a", 10) + "," + one("b", 10), 200},
		"many requests":    {one("a", 1) + "," + one("b", 1) + "," + one("c", 1), 413},
		"a long request":   {one("a", 400), 413},
		"a long batch":     {one("a", 300) + "," + one("b", 300) + strings.Repeat(" ", 100), 413},
		"too many and bad": {one("a", 1) + "," + one("a", 1) + "," + one("c", 1), 400},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := s.client.Do(s.request(t.Context(), "POST", "/anthropic/v1/messages/batches", writer, `{"requests":[`+row.body+`]}`))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			said, err := io.ReadAll(res.Body)
			want := map[int]string{200: `"type":"message_batch"`, 400: "invalid_request_error", 413: "request_too_large"}[row.status]
			if err != nil || res.StatusCode != row.status || !strings.Contains(string(said), want) {
				t.Errorf("%d, %v: %s; want %d", res.StatusCode, err, said, row.status)
			}
		})
	}
}
