package store_test

import (
	"slices"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// hold has a tenant's jobs wait for a review for so long; 0: they go on.
func (l *placing) hold(tenant string, held time.Duration) {
	l.Helper()
	is, _, err := l.SaveConducts(l.Context(), []tasks.Conduct{{Tenant: tenant, Version: -1}})
	must(l.T, err)
	newer, _, err := l.SaveConducts(l.Context(), []tasks.Conduct{{Tenant: tenant, Version: is[0].Version, Data: []byte("x"), Held: held}})
	must(l.T, err)
	if newer != nil {
		l.Fatalf("kept by another meanwhile: %+v", newer)
	}
}

// Jobs of a tenant under review are taken in and wait, and those of others go on; they expire, are
// canceled, and go within a second once a release, or time, has ended it.
func TestATenantUnderReviewIsPassedOver(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]func(l *placing){
		"by a release": func(l *placing) { l.hold("acme", 0) },
		"by itself":    func(l *placing) { l.now = l.now.Add(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newPlacing(t, map[string]int64{"few": 1})
			before := l.submit("acme", pool, 1)
			l.take()
			began := l.now
			l.hold("acme", time.Minute)
			l.now = l.now.Add(time.Second)
			l.hold("acme", time.Minute) // from now on
			acme := l.submit("acme", pool, 3)
			l.submit("acme", "q", 1)
			zoe, few := l.submit("zoe", pool, 3), l.submit("few", pool, 2)
			late := job("acme")
			late.Deadline = l.now.Add(2 * time.Second)
			_, next, err := l.Create(t.Context(), tasks.Submission{Job: late})
			must(t, err)
			l.line = append(l.line, next...)
			for range 4 {
				l.take()
				l.second()
			}
			if got := l.out("acme"); !slices.Equal(got, before) {
				t.Errorf("of a tenant under review %v are out, want %v, which were before", got, before)
			}
			if got := l.out("zoe"); len(got) != len(zoe) || len(l.out("few")) != 1 {
				t.Errorf("of others %d and %d are out, want 3, and the 1 that it may", len(got), len(l.out("few")))
			}
			load, err := l.Load(t.Context(), pool)
			must(t, err)
			if !load.Reviewed["acme"] || load.Reviewed["zoe"] || load.Reviewed["few"] || !load.AtLimit["acme"] {
				t.Errorf("under review: %v, at their limit: %v", load.Reviewed, load.AtLimit)
			}
			if j, err := l.Job(t.Context(), "acme", late.ID); err != nil || j.Status != tasks.StatusExpired {
				t.Errorf("past its deadline a job is %s, %v", j.Status, err)
			}
			if j, err := l.Cancel(t.Context(), "acme", acme[0]); err != nil || j.Status != tasks.StatusCanceled {
				t.Errorf("canceled, a job is %s, %v", j.Status, err)
			}
			ends(l)
			over := l.now
			l.second()
			l.take()
			if got := l.out("acme"); len(got) != 4 {
				t.Errorf("a second after its end %v are out, want 4", got)
			}
			h, err := l.History(t.Context(), "acme", acme[1])
			must(t, err)
			if name == "by itself" {
				over = began.Add(time.Second + time.Minute)
			}
			if len(h.Reviews) != 1 || !h.Reviews[0].From.Equal(began) || !h.Reviews[0].To.Equal(over) {
				t.Errorf("reviews %v, want one from %v to %v", h.Reviews, began, over)
			}
			for _, k := range slices.Clone(l.runs) {
				if slices.Contains(few, k.ID) {
					l.end(k, won)
				}
			}
			if l.take(); len(l.out("few")) != 1 {
				t.Error("whose limit lets it go on waits")
			}
		})
	}
}

// What is noted of a review goes with its tenant.
func TestAReviewGoesWithItsTenant(t *testing.T) {
	t.Parallel()
	l := newPlacing(t, nil)
	for _, held := range []time.Duration{time.Hour, 0, time.Hour} {
		l.hold("acme", held)
	}
	_, err := l.DeleteTenant(t.Context(), "acme", tasks.Act{At: l.now, By: "ada"})
	must(t, err)
	if left := l.rdb.Exists(t.Context(), "sluice:{s}:rvw:acme").Val(); left != 0 || l.rdb.HExists(t.Context(), "sluice:{s}:weight", "\t\racme").Val() {
		t.Error("a review of a tenant that was deleted is left")
	}
}

// A review that has ended by itself is over, also where no sweep has come before the next begins.
func TestAReviewBehindAnotherIsItsOwn(t *testing.T) {
	t.Parallel()
	l := newPlacing(t, nil)
	acme := l.submit("acme", pool, 1)
	first := l.now
	l.hold("acme", time.Minute)
	l.now = l.now.Add(time.Hour)
	second := l.now
	l.hold("acme", time.Minute)
	l.now = l.now.Add(time.Second)
	l.hold("acme", 0)
	h, err := l.History(t.Context(), "acme", acme[0])
	must(t, err)
	if len(h.Reviews) != 2 || !h.Reviews[0].From.Equal(first) || !h.Reviews[0].To.Equal(first.Add(time.Minute)) ||
		!h.Reviews[1].From.Equal(second) || !h.Reviews[1].To.Equal(l.now) {
		t.Errorf("reviews %v", h.Reviews)
	}
}
