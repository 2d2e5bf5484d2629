package kill

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sound is the evidence of two jobs, of which the second was called twice: its
// worker was killed during the first call.
func sound() *evidence {
	t0 := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	done := func(id, text string, marks ...bool) rig.Job {
		j := rig.Job{ID: id, Status: "succeeded", Text: text, Result: []byte(`{}`), FinishedAt: "x"}
		for _, m := range marks {
			cost := rig.Cost{Amount: "0.003", Maybe: "0"}
			if m {
				cost = rig.Cost{Amount: "0", Maybe: "0.01"}
			}
			j.Upstream.Attempts = append(j.Upstream.Attempts, rig.Attempt{MaybeBilled: m, Cost: cost})
		}
		return j
	}
	seen := func(prompt, key string, at time.Duration, completed bool) rig.Call {
		return rig.Call{Call: fake.Call{
			Key: key, Prompt: rig.PromptDigest(prompt), At: t0.Add(at), Accepted: true, Completed: completed, InputTokens: 1000,
		}, End: t0.Add(at + 100*time.Millisecond)}
	}
	one, two := done("job_1", "1", false), done("job_2", "2", true, false)
	return &evidence{
		plan:   Command{WorkerKills: 1},
		jobs:   []accepted{{"a", "job_1", one, one, false, false}, {"b", "job_2", two, two, false, false}},
		listed: []rig.Job{one, two},
		calls: []rig.Call{
			seen("a", "w1", 0, true), seen("b", "w2", time.Second, false), seen("b", "w1", 12*time.Second, true),
		},
		kills:  []kill{{name: "worker-2", worker: "w2", at: t0.Add(1050 * time.Millisecond), gone: t0.Add(1060 * time.Millisecond)}},
		want:   map[string]string{"a": "1", "b": "2"},
		ledger: &tasks.Cost{Amount: tasks.Unit * 6 / 1000, Maybe: tasks.Unit / 100},
	}
}

// A worker that was stopped, let go on and killed at once cut its call off once.
func TestTheJudgeCountsACallOnce(t *testing.T) {
	e := sound()
	e.kills = append(e.kills, e.kills[0])
	e.plan.WorkerKills = 2
	if r := e.judge(); len(r.broken) > 0 {
		t.Errorf("one call, two kills: %v", r.broken)
	}
}

func TestTheJudgeSeesEachBreach(t *testing.T) {
	if r := sound().judge(); len(r.broken) > 0 {
		t.Fatalf("sound evidence was called broken: %v", r.broken)
	}
	for want, spoil := range map[string]func(e *evidence){
		"lost":         func(e *evidence) { e.jobs[0].last.Status = "queued" },
		"ids":          func(e *evidence) { e.jobs[1].id, e.jobs[1].last.ID = "job_1", "job_1" },
		"unasked":      func(e *evidence) { e.listed = append(e.listed, rig.Job{ID: "job_3"}) },
		"changed":      func(e *evidence) { e.jobs[0].last.Result = []byte(`{"late":true}`) },
		"failed":       func(e *evidence) { e.jobs[0].last.Status = "failed" },
		"wrong":        func(e *evidence) { e.jobs[0].last.Text = "2" },
		"batch":        func(e *evidence) { e.batches = []rig.Batch{{Status: "ended"}} },
		"repeat":       func(e *evidence) { e.calls[1].Key = "w3" },
		"repeats":      func(e *evidence) { e.kills[0].worker = "w3" },
		"maybe_billed": func(e *evidence) { e.jobs[1].last.Upstream.Attempts[0].MaybeBilled = false },
		"log": func(e *evidence) {
			e.jobs[0].last.Upstream.Attempts = nil
		},
		"uncalled": func(e *evidence) { e.calls = e.calls[1:] },
		"prompts": func(e *evidence) {
			extra := e.calls[0]
			extra.Prompt = "another"
			e.calls = append(e.calls, extra)
		},
		"kills": func(e *evidence) { e.plan.WorkerKills = 2 },
		// The bill is above all that was said, or below what is certain.
		"the provider's bill, by its own count, USD":           func(e *evidence) { e.calls[1].OutputTokens = 1000 },
		"the ledger, and perhaps besides, USD":                 func(e *evidence) { e.ledger.Maybe-- },
		"receipt":                                              func(e *evidence) { e.jobs[0].last.Upstream.Attempts[0].Cost.Amount = "1e3" },
		"of it, bill and receipts apart, nothing being killed": func(e *evidence) { e.kills = nil },
	} {
		e := sound()
		spoil(e)
		found := false
		r := e.judge()
		for _, b := range r.broken {
			found = found || strings.HasPrefix(b, want+": ")
		}
		if !found {
			t.Errorf("%s: the judge says %v", want, r.broken)
		}
	}
}
