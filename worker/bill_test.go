package worker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// What jobs cost is what their provider has charged, as far as it said what that was,
// and what it may have charged besides covers the rest.
func TestTheCostOfJobsIsTheProvidersBill(t *testing.T) {
	t.Parallel()
	price := tasks.Price{Models: "claude-*", Input: 3 * tasks.Unit, Output: 15 * tasks.Unit}
	for name, fault := range map[string]string{"whole answers": "", "faults": "[[fault:%s:1]] "} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := fake.New(fake.Config{MeanOutputTokens: 8, TimePerToken: time.Microsecond})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			s := start(t, newProvider(t, f.ServeHTTP), options{prices: tasks.Prices{price}, max: 1})
			var ids []string
			for i := range 24 {
				ids = append(ids, s.submit(func(j *tasks.Job) {
					text := fmt.Sprintf("question %d, at some length", i)
					if fault != "" {
						text = fmt.Sprintf(fault, []string{"cut", "400", "500", "truncated"}[i%4]) + text
					}
					j.Request.Body, j.Request.InputTokens, j.Request.MaxTokens = fmt.Appendf(nil, "%q", text), len(text), 64
				}))
			}
			var sum tasks.Cost
			maybe := 0
			for _, id := range ids {
				j := s.final(id)
				cost, ok := j.Cost()
				if !ok || fault == "" && j.Status != tasks.StatusSucceeded {
					t.Fatalf("%s, priced: %t: %+v", j.Status, ok, j.Error)
				}
				sum = sum.Plus(cost)
				if cost.Maybe > 0 {
					maybe++
				}
			}
			stats := f.Stats(false)
			bill := price.Of(tasks.Usage{InputTokens: stats.InputTokens, OutputTokens: stats.OutputTokens}, tasks.Served{})
			if bill < sum.Amount || bill > sum.Amount+sum.Maybe || fault == "" && sum.Maybe > 0 || fault != "" && maybe == 0 {
				t.Errorf("the bill is %s, the jobs' sum %s and perhaps %s more, of %d jobs", bill, sum.Amount, sum.Maybe, maybe)
			}
		})
	}
}
