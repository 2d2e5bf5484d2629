package store_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// A repeat finds the call before, whatever became of that: each row is a life of calls
// that ask the same, and which of them a repeat then joins.
func TestARepeatFindsTheFirstCall(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	for i, row := range []struct {
		name   string
		before []string // "open ID", "gone ID", "sent ID", "over ID", "refused ID", "wait SECONDS"
		joins  string   // "": none
		again  bool
	}{
		{"none was made", nil, "", false},
		{"its caller is gone", []string{"open a", "gone a"}, "a", false},
		{"its process died", []string{"open a", "wait 46"}, "a", false},
		{"it is under way", []string{"open a"}, "a", false},
		{"its answer was sent", []string{"open a", "sent a"}, "a", true},
		{"its answer was sent twice", []string{"open a", "sent a", "over a"}, "", false},
		{"it was refused", []string{"open a", "refused a"}, "", false},
		{"it is long past", []string{"open a", "gone a", "wait 601"}, "", false},
		{"its answer was sent long ago", []string{"open a", "sent a", "wait 601"}, "", false},
		{"the one whose caller is gone", []string{"open a", "open b", "sent a", "open c", "gone b"}, "b", false},
		{"the first of two whose callers are gone", []string{"open b", "open a", "gone b", "wait 1", "gone a"}, "b", false},
		{"rather one under way than one that was served", []string{"open a", "sent a", "open b"}, "b", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			now := time.Now()
			s := store.New(store.Config{Redis: rdb, Prefix: "p" + strconv.Itoa(i), Now: func() time.Time { return now }})
			call := tasks.Call{Tenant: "t", Digest: "d"}
			states := map[string]tasks.CallerState{"gone": tasks.CallerLeft, "sent": tasks.CallerServed, "over": tasks.CallerDone, "refused": tasks.CallerRefused}
			for _, step := range row.before {
				what, id, _ := strings.Cut(step, " ")
				call.ID = "job_" + id
				switch what {
				case "wait":
					n, _ := strconv.Atoi(id)
					now = now.Add(time.Duration(n) * time.Second)
				case "open":
					j := job("t")
					j.ID = call.ID
					if made, _, err := s.Create(t.Context(), tasks.Submission{Job: j, Caller: &call}); err != nil || made[0].Err != nil {
						t.Fatalf("%s: %+v, %v", step, made, err)
					}
				default:
					if err := s.HoldCall(t.Context(), call, states[what]); err != nil {
						t.Fatal(err)
					}
				}
			}
			call.ID, call.Repeat = "job_new", true
			want := tasks.Joined{ID: "job_new"}
			if row.joins != "" {
				want = tasks.Joined{ID: "job_" + row.joins, Prior: true, Again: row.again}
			}
			if got, err := s.OpenCall(t.Context(), call); err != nil || got != want {
				t.Errorf("the repeat joins %+v, %v; want %+v", got, err, want)
			}
			other := call
			other.Tenant += "x"
			if got, err := s.OpenCall(t.Context(), other); err != nil || got.Prior {
				t.Errorf("another tenant's repeat joins %+v, %v", got, err)
			}
		})
	}
}

// A caller who goes away is waited for; then a job that still waits ends, and one that
// runs is finished. A caller who is there keeps both.
func TestACallerWhoDoesNotComeBack(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Millisecond)
	s := store.New(store.Config{Redis: redistest.New(t), Depth: map[string]int{pool: 1}, Now: func() time.Time { return now }})
	call := func(id string) tasks.Call { return tasks.Call{Tenant: "t", ID: id, Digest: id} }
	for _, id := range []string{"job_running", "job_gone", "job_dead", "job_there", "job_back"} {
		j, c := job("t"), call(id)
		j.ID = id
		_, tickets, err := s.Create(t.Context(), tasks.Submission{Job: j, Caller: &c})
		must(t, err)
		if id == "job_running" {
			if _, err := s.Take(t.Context(), tickets[0]); err != nil {
				t.Fatal(err)
			}
			start(t, s, tickets[0])
		}
	}
	hold := func(id string, became tasks.CallerState) {
		t.Helper()
		if err := s.HoldCall(t.Context(), call(id), became); err != nil {
			t.Fatal(err)
		}
	}
	sweep := func(want ...string) {
		t.Helper()
		slices.Sort(want)
		jobs, err := s.SweepCalls(t.Context())
		got := []string{}
		for _, j := range jobs {
			got = append(got, j.ID)
			if j.Tenant != "t" || j.Pool != pool {
				t.Errorf("the job that ends is %+v", j)
			}
		}
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("these end: %q, %v; want %q", got, err, want)
		}
	}
	hold("job_running", tasks.CallerLeft)
	hold("job_gone", tasks.CallerLeft)
	hold("job_back", tasks.CallerLeft)
	now = now.Add(59 * time.Second)
	sweep()
	if j, err := s.OpenCall(t.Context(), tasks.Call{Tenant: "t", ID: "job_other", Digest: "job_back", Repeat: true}); err != nil || j.ID != "job_back" {
		t.Fatalf("the repeat joins %+v, %v", j, err)
	}
	hold("job_there", tasks.CallerWaits)
	now = now.Add(2 * time.Second)
	sweep("job_gone")
	now = now.Add(45 * time.Second) // a process that died said nothing
	sweep("job_dead")
	now = now.Add(59 * time.Second)
	sweep("job_back", "job_there")
	for id, want := range map[string]tasks.Status{"job_running": tasks.StatusRunning, "job_gone": tasks.StatusCanceled, "job_dead": tasks.StatusCanceled} {
		if j, err := s.Job(t.Context(), "t", id); err != nil || j.Status != want {
			t.Errorf("%s is %s, %v; want %s", id, j.Status, err, want)
		}
	}
}
