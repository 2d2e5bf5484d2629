package desk_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/api/caps"
	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/tasks"
)

// ledger is a store of one job that notes what it is asked about callers and jobs.
type ledger struct {
	*store
	status tasks.Status // of the job
	joined tasks.Joined // what a repeat is told
	barred tasks.Outcome
	did    []string
}

func (l *ledger) note(what string) { l.did = append(l.did, what) }

func (l *ledger) Submit(_ context.Context, s tasks.Submission) (tasks.Accepted, error) {
	l.note("submit")
	if s.Caller != nil {
		l.note("waits " + s.Caller.Digest)
	}
	s.Job.Status = l.status
	return tasks.Accepted{Job: s.Job, Replayed: s.Key == "used"}, nil
}

func (l *ledger) Job(_ context.Context, tenant, id string) (tasks.Job, error) {
	return tasks.Job{ID: id, Tenant: tenant, Model: "m", Pool: "pool", Status: l.status}, nil
}

func (l *ledger) OpenCall(context.Context, tasks.Call) (tasks.Joined, error) {
	l.note("open")
	return l.joined, nil
}

func (l *ledger) HoldCall(_ context.Context, c tasks.Call, became tasks.CallerState) error {
	l.note(string(became))
	return nil
}

func (l *ledger) Cancel(_ context.Context, tenant, id string) (tasks.Job, error) {
	l.note("cancel")
	return tasks.Job{ID: id, Tenant: tenant, Status: tasks.StatusCanceled}, nil
}

func (l *ledger) Events(context.Context, string, int) (tasks.Events, error) {
	return tasks.Events{}, tasks.ErrNotFound
}

type shut struct {
	pools
	why *tasks.Outcome
}

func (s shut) Barred(context.Context, string) tasks.Outcome { return *s.why }

// What becomes of a call, and of its caller: the store is asked for nothing before the
// submit of a call that repeats no other, and for nothing more before its answer.
func TestACallAndItsCaller(t *testing.T) {
	t.Parallel()
	prior := tasks.Joined{ID: "job_first", Prior: true}
	again := tasks.Joined{ID: "job_first", Prior: true, Again: true}
	for name, row := range map[string]struct {
		status tasks.Status
		joined tasks.Joined
		barred tasks.Outcome
		asked  desk.Asked
		left   bool // the answer has left for its caller
		begun  bool // its caller does not wait
		gone   bool // its caller went before the submit
		fault  string
		did    []string
		counts [3]float64 // joined, abandoned, kept
	}{
		"answered":                {status: "succeeded", asked: desk.Asked{Digest: "d"}, left: true, did: []string{"submit", "waits d", "sent"}},
		"its caller has gone":     {status: "succeeded", asked: desk.Asked{Digest: "d"}, did: []string{"submit", "waits d", "gone"}, counts: [3]float64{0, 1, 0}},
		"it went before":          {gone: true, asked: desk.Asked{Digest: "d"}},
		"with a key":              {status: "succeeded", asked: desk.Asked{Key: "new", Digest: "d"}, left: true, did: []string{"submit", "waits ", "sent"}},
		"with dedup switched off": {status: "succeeded", asked: desk.Asked{Repeat: true}, left: true, did: []string{"submit", "waits ", "sent"}},
		"a key's repeat":          {status: "succeeded", asked: desk.Asked{Key: "used"}, left: true, did: []string{"submit", "waits ", "waits", "sent"}, counts: [3]float64{1, 0, 1}},
		"a repeat joins":          {status: "succeeded", joined: prior, asked: desk.Asked{Digest: "d", Repeat: true}, left: true, did: []string{"open", "sent"}, counts: [3]float64{1, 0, 1}},
		"a repeat of an answer that was sent": {status: "succeeded", joined: again, asked: desk.Asked{Digest: "d", Repeat: true}, left: true,
			did: []string{"open", "over"}, counts: [3]float64{1, 0, 1}},
		"a repeat of none":        {status: "succeeded", joined: tasks.Joined{ID: "job_new"}, asked: desk.Asked{Digest: "d", Repeat: true}, left: true, did: []string{"open", "submit", "sent"}},
		"its deadline has passed": {asked: desk.Asked{Digest: "d", Job: tasks.Job{Deadline: time.Unix(1, 0)}}, fault: fault.ImpossibleTime},
		"a repeat's deadline has passed": {status: "succeeded", joined: prior, asked: desk.Asked{Digest: "d", Repeat: true, Job: tasks.Job{Deadline: time.Unix(1, 0)}}, left: true,
			did: []string{"open", "sent"}, counts: [3]float64{1, 0, 1}},
		"a repeat of what was canceled": {status: "canceled", joined: prior, asked: desk.Asked{Digest: "d", Repeat: true}, left: true,
			did: []string{"open", "over", "submit", "waits d", "sent"}},
		"a repeat of what was canceled, begun": {status: "canceled", joined: prior, asked: desk.Asked{Digest: "d", Repeat: true}, begun: true,
			did: []string{"open", "over", "submit", "waits d", "sent"}},
		"its patience ends": {status: "queued", asked: desk.Asked{Digest: "d", Patience: time.Millisecond}, fault: fault.StillWaiting,
			did: []string{"submit", "waits d", "gone"}},
		"a repeat's patience ends": {status: "running", joined: prior, asked: desk.Asked{Digest: "d", Repeat: true, Patience: time.Millisecond}, fault: fault.StillWaiting,
			did: []string{"open", "gone"}, counts: [3]float64{1, 0, 0}},
		"paused for spending": {status: "queued", barred: tasks.SpendLimited, asked: desk.Asked{Digest: "d", Patience: time.Hour}, fault: fault.SpendLimited,
			did: []string{"submit", "waits d", "cancel", "refused"}},
		"a refused key": {status: "queued", barred: tasks.Unauthorized, asked: desk.Asked{Digest: "d", Patience: time.Hour}, fault: fault.KeyRefused,
			did: []string{"submit", "waits d", "cancel", "refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &ledger{store: &store{}, status: row.status, joined: row.joined, barred: row.barred}
			metrics, paid := prometheus.NewRegistry(), purse(0)
			d, err := desk.New(desk.Config{
				Caps: room(t, caps.Config{}), Jobs: l, Calls: l, Batches: l, Notices: silent{}, Pools: shut{why: &l.barred}, Quota: &paid, Registerer: metrics,
				NewID: func(prefix string) string { return prefix + "_new" },
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if row.gone {
				cancel()
			}
			row.asked.Job.Model = "m"
			var a *desk.Answered
			if row.begun {
				var j tasks.Job
				if j, err = d.Begin(ctx, desk.Caller{Tenant: "acme"}, row.asked); j.ID != "job_new" {
					t.Errorf("begun is %q", j.ID)
				}
			} else {
				a, err = d.Call(ctx, desk.Caller{Tenant: "acme"}, row.asked)
			}
			var f *fault.Fault
			switch {
			case row.gone:
				if !errors.Is(err, context.Canceled) || paid != 0 {
					t.Errorf("got %v, and it has paid %d", err, paid)
				}
			case row.fault != "":
				if !errors.As(err, &f) || f.Code != row.fault {
					t.Errorf("got %v; want %s", err, row.fault)
				} else if told := f.Header["Sluice-Job-Id"]; (len(told) == 1 && told[0] != "") != (len(row.did) > 0) {
					t.Errorf("%s has the job %q", f.Code, told)
				}
			case err != nil:
				t.Fatal(err)
			case row.begun:
			default:
				a.Sent(ctx, row.left)
			}
			if !slices.Equal(l.did, row.did) {
				t.Errorf("the store was asked %q; want %q", l.did, row.did)
			}
			if got := countedCalls(t, metrics); got != row.counts {
				t.Errorf("joined, abandoned, kept: %v; want %v", got, row.counts)
			}
		})
	}
}

// countedCalls are those that were joined, abandoned and kept.
func countedCalls(t *testing.T, from prometheus.Gatherer) (n [3]float64) {
	t.Helper()
	all, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for i, what := range []string{"joined", "abandoned", "kept"} {
		for _, m := range all {
			if m.GetName() == fmt.Sprintf("sluice_calls_%s_total", what) {
				n[i] = m.GetMetric()[0].GetCounter().GetValue()
			}
		}
	}
	return n
}
