package store_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// into is a ticket whose job joins a bundle of a kind.
func into(k tasks.Ticket, kind, id string, spill time.Time) tasks.Ticket {
	k.Asks = asking
	k.Into = &tasks.Joining{Kind: kind, Account: "one", Bundle: id, Bytes: 100, Spill: spill, Lease: time.Hour, MostJobs: 2, MostBytes: 1000, MostAge: time.Minute}
	return k
}

// bundled are jobs of a tenant in a bundle.
func (b *bundling) bundled(tenant, kind, id string, n int) (list []tasks.Ticket) {
	b.Helper()
	for range n {
		j := job(tenant)
		j.Deadline = b.now.Add(10 * time.Hour)
		_, tickets := create(b.T, b.s, j)
		if len(tickets) != 1 {
			b.Fatalf("tickets %v", tickets)
		}
		k := into(tickets[0], kind, id, b.now.Add(5*time.Hour))
		take(b.T, b.s, k)
		start(b.T, b.s, k)
		list = append(list, k)
	}
	return list
}

// claim takes up the bundle that is due.
func (b *bundling) claim(want string) tasks.Bundle {
	b.Helper()
	got, _, err := b.s.ClaimBundle(b.Context(), pool, time.Minute)
	if must(b.T, err); got.ID != want {
		b.Fatalf("took up %q, want %q", got.ID, want)
	}
	return got
}

type bundling struct {
	*testing.T
	s   *store.Store
	now time.Time
}

func newBundling(t *testing.T) *bundling {
	t.Helper()
	b := &bundling{T: t, now: time.Now().Truncate(time.Millisecond)}
	b.s = store.New(store.Config{Redis: redistest.New(t), ResultTTL: 24 * time.Hour, Depth: map[string]int{pool: 8}, Places: places, Now: func() time.Time { return b.now }})
	return b
}

// A bundle is gathered until it is full or old, is taken up by one worker at a time, and ends.
func TestABundleIsGatheredAndTakenUp(t *testing.T) {
	t.Parallel()
	b := newBundling(t)
	b.bundled("acme", "a", "nb_1", 2) // full
	b.bundled("acme", "a", "nb_2", 1)
	b.bundled("few", "b", "nb_3", 1)
	b.now = b.now.Add(time.Second)
	full := b.claim("nb_1")
	if full.State != tasks.BundleClosed || full.Account != "one" || full.Kind != "a" || len(full.Members) != 2 || !full.Spill.Equal(b.now.Add(5*time.Hour-time.Second)) {
		t.Errorf("got %+v", full)
	}
	b.claim("")
	b.now = b.now.Add(time.Minute)
	b.claim("nb_2") // old enough
	last := b.claim("nb_3")
	b.now = b.now.Add(time.Second)
	b.claim("nb_1") // whoever had it is gone
	if err := b.s.SaveBundle(t.Context(), full, time.Minute); !errors.Is(err, tasks.ErrLost) {
		t.Errorf("a bundle that is another's is saved: %v", err)
	}
	b.bundled("acme", "a", "nb_4", 1)
	last.State, last.Batch, last.File, last.SentAt = tasks.BundleSent, "msgbatch_1", "file-1", b.now
	must(t, b.s.SaveBundle(t.Context(), last, time.Second))
	b.now = b.now.Add(time.Second)
	again := b.claim("nb_3")
	if again.Batch != "msgbatch_1" || again.File != "file-1" || again.State != tasks.BundleSent || !again.SentAt.Equal(last.SentAt) || again.Fence != last.Fence+1 {
		t.Errorf("got %+v after %+v", again, last)
	}
	must(t, b.s.DropBundle(t.Context(), again))
	b.now = b.now.Add(2 * time.Minute)
	var ids []string
	for range 3 {
		got, _, err := b.s.ClaimBundle(t.Context(), pool, time.Minute)
		must(t, err)
		ids = append(ids, got.ID)
	}
	if slices.Sort(ids); !slices.Equal(ids, []string{"nb_1", "nb_2", "nb_4"}) {
		t.Errorf("left are %v", ids)
	}
}

// A member is running until it ends, once; who is canceled or handed back is in it no more.
func TestMembersOfABundleEndOnce(t *testing.T) {
	t.Parallel()
	b := newBundling(t)
	list := b.bundled("acme", "a", "nb_1", 2)
	got := b.claim("nb_1")
	in, err := b.s.InBundle(t.Context(), got.Members)
	if must(t, err); len(in) != 2 {
		t.Fatalf("in it are %v", in)
	}
	j, err := b.s.Bundled(t.Context(), list[0])
	if must(t, err); string(j.Request.Body) != string(job("acme").Request.Body) || j.Bundle != "nb_1" || j.Status != tasks.StatusRunning {
		t.Errorf("got %+v", j)
	}
	h, err := b.s.History(t.Context(), "acme", list[0].ID)
	if must(t, err); h.Bundle == nil || h.Bundle.State != tasks.BundleClosed {
		t.Errorf("its history has %+v", h.Bundle)
	}
	brought := won
	brought.Attempt.Batch, brought.Attempt.Account = "msgbatch_1", "one"
	_, err = b.s.End(t.Context(), list[0], brought)
	must(t, err)
	if _, err = b.s.End(t.Context(), list[0], brought); !errors.Is(err, tasks.ErrFinal) {
		t.Errorf("it ended twice: %v", err)
	}
	if got := read(t, b.s, list[0].ID); len(got.Log) != 1 || got.Log[0].Batch != "msgbatch_1" {
		t.Errorf("the log is %+v", got.Log)
	}
	_, err = b.s.Cancel(t.Context(), "acme", list[1].ID)
	must(t, err)
	if in, err = b.s.InBundle(t.Context(), got.Members); err != nil || len(in) != 0 {
		t.Errorf("in it are %v, %v", in, err)
	}
	if _, err = b.s.Bundled(t.Context(), list[1]); !errors.Is(err, tasks.ErrLost) {
		t.Errorf("a canceled member is read: %v", err)
	}
}

// A bundle takes none of its tenant's places, and a member that no worker ends goes back
// into line when its lease is over.
func TestABundleThatAllHaveLeftGivesItsMembersBack(t *testing.T) {
	t.Parallel()
	b := newBundling(t)
	list := b.bundled("few", "a", "nb_1", 2)
	_, err := b.s.Renew(t.Context(), list) // by the worker that has just started them
	must(t, err)
	now, err := b.s.Standing(t.Context(), "few")
	if must(t, err); now.RunningJobs != 0 {
		t.Errorf("%d places of the tenant are taken", now.RunningJobs)
	}
	load, err := b.s.Load(t.Context(), pool)
	if must(t, err); load.Running != 2 || load.Bundled != 2 || load.Calls() != 0 {
		t.Errorf("the load is %+v", load)
	}
	for range 20 {
		b.now = b.now.Add(time.Second)
		_, err := b.s.Sweep(t.Context())
		must(t, err)
	}
	got, err := b.s.Job(t.Context(), "few", list[0].ID)
	if must(t, err); got.Status != tasks.StatusRunning {
		t.Fatalf("it is %s", got.Status)
	}
	b.now = b.now.Add(time.Hour)
	for range 15 { // leases say nothing at once after a silence
		b.now = b.now.Add(time.Second)
		_, err := b.s.Sweep(t.Context())
		must(t, err)
	}
	got, err = b.s.Job(t.Context(), "few", list[0].ID)
	if must(t, err); got.Status != tasks.StatusRetrying || len(got.Log) != 1 || !got.Log[0].MaybeBilled || got.Attempts != 0 {
		t.Errorf("got %s, log %+v", got.Status, got.Log)
	}
}
