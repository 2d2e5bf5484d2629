package store_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// damaged is a store with jobs in every state, of whose Redis something will be lost.
type damaged struct {
	*testing.T
	s       *store.Store
	rdb     *redis.Client
	at      time.Time
	in      map[string]string // a job of each state, by its name
	all     []string          // jobs
	batches []string
	found   tasks.Audited
}

func newDamaged(t *testing.T) *damaged {
	d := &damaged{T: t, rdb: redistest.New(t), at: time.Now().Truncate(time.Second), in: map[string]string{}}
	d.s = store.New(store.Config{Redis: d.rdb, ResultTTL: 48 * time.Hour, Depth: map[string]int{pool: 2}, Now: func() time.Time { return d.at }})
	add := func(state string, later time.Duration) []tasks.Ticket {
		j := job("acme")
		if later > 0 {
			j.NotBefore = d.at.Add(later)
		}
		_, tickets, err := d.s.Create(t.Context(), tasks.Submission{Job: j})
		must(t, err)
		d.in[state], d.all = j.ID, append(d.all, j.ID)
		return tickets
	}
	done := add("done", 0)
	d.run(done)
	running := add("running", 0)
	take(t, d.s, running[0])
	start(t, d.s, running[0])
	add("handed", 0)
	held := add("held", 0)
	take(t, d.s, held[0])
	_, err := d.s.Renew(t.Context(), held)
	must(t, err)
	add("waiting", 0)
	add("another", 0)
	add("scheduled", time.Hour)
	for _, name := range []string{"line", "folded"} {
		b := stage(t, d.s, 3)
		d.batches = append(d.batches, b.ID)
		_, err := d.s.CommitBatch(t.Context(), b.ID, tasks.BatchCommit{})
		must(t, err)
		if name == "line" {
			_, _, err = d.s.Unfold(t.Context(), b.ID)
			must(t, err)
		}
		ids, err := d.rdb.LRange(t.Context(), "sluice:{s}:gl:"+b.ID, 0, -1).Result()
		must(t, err)
		d.in[name], d.all = ids[1], append(d.all, ids...)
	}
	return d
}

// run makes the calls of these tickets.
func (d *damaged) run(tickets []tasks.Ticket) {
	for len(tickets) > 0 {
		k := tickets[0]
		tickets = tickets[1:]
		if _, err := d.s.Take(d.Context(), k); err != nil {
			continue // its job is gone, or somebody else's
		}
		if _, more, err := d.s.Start(d.Context(), k); err == nil {
			next, err := d.s.End(d.Context(), k, won)
			if tasks.Void(err) {
				continue // its record is an older one
			}
			must(d.T, err)
			tickets = append(append(tickets, more...), next...)
		}
	}
}

// pass lets seconds go by, in which a process does all that it does.
func (d *damaged) pass(seconds int) {
	for range seconds {
		d.at = d.at.Add(time.Second)
		swept, err := d.s.Sweep(d.Context())
		must(d.T, err)
		for _, b := range swept.Unfold {
			for left := int64(1); left > 0; {
				var hand []tasks.Ticket
				left, hand, err = d.s.Unfold(d.Context(), b)
				must(d.T, err)
				d.run(hand)
			}
		}
		d.run(append(swept.Hand, swept.Look...))
		found, err := d.s.Audit(d.Context())
		must(d.T, err)
		d.found.Lost = append(d.found.Lost, found.Lost...)
		d.found.PutBack += found.PutBack
		d.found.Batches = append(d.found.Batches, found.Batches...)
		d.found.LostBatches = append(d.found.LostBatches, found.LostBatches...)
		d.found.Counts = append(d.found.Counts, found.Counts...)
	}
}

// Whatever is gone from Redis, in the end every accepted job has ended or is named as
// lost, every batch has ended, and nothing is counted that is not there.
func TestWhateverIsLostIsNamedAndNothingWaitsForEver(t *testing.T) {
	t.Parallel()
	key := func(state string) func(*damaged) string {
		return func(d *damaged) string { return "sluice:{s}:j:" + d.in[state] }
	}
	named := func(name string) func(*damaged) string {
		return func(*damaged) string { return "sluice:{s}:" + name }
	}
	batch := func(kind string, n int) func(*damaged) string {
		return func(d *damaged) string { return "sluice:{s}:" + kind + d.batches[n] }
	}
	for name, c := range map[string]struct {
		keys []func(*damaged) string
		lost []string // states whose jobs are to be named
	}{
		"nothing":                     {},
		"the record of a waiting job": {[]func(*damaged) string{key("waiting")}, []string{"waiting"}},
		"of one that is handed out":   {[]func(*damaged) string{key("handed")}, []string{"handed"}},
		"of one that is held":         {[]func(*damaged) string{key("held")}, []string{"held"}},
		"of a running one":            {[]func(*damaged) string{key("running")}, []string{"running"}},
		"of one for later":            {[]func(*damaged) string{key("scheduled")}, []string{"scheduled"}},
		"of one that has ended":       {[]func(*damaged) string{key("done")}, []string{"done"}},
		"of a line":                   {[]func(*damaged) string{key("line")}, []string{"line"}},
		"of a line not in line yet":   {[]func(*damaged) string{key("folded")}, nil},
		"a backlog":                   {[]func(*damaged) string{named("q:p:acme")}, nil},
		"the turns":                   {[]func(*damaged) string{named("ring:p")}, nil},
		"those handed out":            {[]func(*damaged) string{named("out:p"), named("hold:p")}, nil},
		"the running":                 {[]func(*damaged) string{named("run:p")}, nil},
		"those for later":             {[]func(*damaged) string{named("due")}, nil},
		"when results end":            {[]func(*damaged) string{named("gone")}, nil},
		"the counts":                  {[]func(*damaged) string{named("n:p"), named("tq")}, nil},
		"a record and the counts":     {[]func(*damaged) string{key("waiting"), named("n:p"), named("tq")}, []string{"waiting"}},
		"the order and records":       {[]func(*damaged) string{named("q:p:acme"), named("due"), key("waiting"), key("line")}, []string{"waiting", "line"}},
		"a batch":                     {[]func(*damaged) string{batch("g:", 0)}, nil},
		"a batch's lines":             {[]func(*damaged) string{batch("gl:", 0), key("line")}, []string{"line"}},
		"the list of a tenant's jobs": {[]func(*damaged) string{named("tn:acme")}, nil},
		"that list and a waiting job": {[]func(*damaged) string{named("tn:acme"), key("waiting")}, []string{"waiting"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDamaged(t)
			for _, k := range c.keys {
				if n, err := d.rdb.Del(t.Context(), k(d)).Result(); err != nil || n == 0 {
					if n, err := d.rdb.Exists(t.Context(), k(d)).Result(); err != nil || n != 0 {
						t.Fatal(k(d), err)
					}
				}
			}
			d.pass(30)
			d.at = d.at.Add(time.Hour)
			d.pass(30)

			var lost []string
			for _, l := range d.found.Lost {
				lost = append(lost, l.ID)
			}
			for _, state := range c.lost {
				if !slices.Contains(lost, d.in[state]) {
					t.Errorf("the %s job is not named; lost are %v", state, d.found.Lost)
				}
			}
			if len(lost) != len(c.lost) {
				t.Errorf("%d jobs are called lost, want %d: %+v", len(lost), len(c.lost), d.found)
			}
			for _, id := range d.all {
				j, err := d.s.Job(t.Context(), "acme", id)
				if !slices.Contains(lost, id) && id != d.in["folded"] && (err != nil || j.Status != tasks.StatusSucceeded) {
					t.Errorf("a job that is not lost: %s, %v", j.Status, err)
				}
				if err == nil && slices.Contains(lost, id) && (j.Status != tasks.StatusFailed || j.Error.Code != tasks.JobLost) {
					t.Errorf("a lost job: %s, %+v", j.Status, j.Error)
				}
			}
			for _, id := range d.batches {
				b, err := d.s.Batch(t.Context(), "acme", id)
				if n := b.Counts; !slices.Contains(d.found.LostBatches, id) && (err != nil || b.Status != tasks.BatchEnded || n.Queued != 0 || n.Running != 0 || n.Total != 3 || n.Succeeded+n.Failed != 3) {
					t.Errorf("batch: %+v, %v", b, err)
				}
			}
			for _, counts := range []string{"n:p", "tq"} {
				for what, n := range d.rdb.HGetAll(t.Context(), "sluice:{s}:"+counts).Val() {
					if n != "0" && what != "begun" { // which is of all time
						t.Errorf("%s: %s %s, want 0", counts, what, n)
					}
				}
			}
			if name == "nothing" && (d.found.PutBack > 0 || len(d.found.Counts)+len(d.found.Batches)+len(d.found.LostBatches) > 0) {
				t.Errorf("where nothing is lost: %+v", d.found)
			}
		})
	}
}

var rollbacks = flag.Int("rollbacks", 6, "random states of a Redis that forgot writes, to be mended")

// rollback brings some keys back to what they were, as a failover does that forgets
// writes, and deletes some.
func (d *damaged) rollback(dice *rand.Rand, before map[string]string) {
	ctx := d.Context()
	keys := d.rdb.Keys(ctx, "*").Val()
	for key := range before {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		was, known := before[key]
		switch n := dice.IntN(10); {
		case n < 6:
		case n < 9 && known:
			must(d.T, d.rdb.RestoreReplace(ctx, key, 0, was).Err())
		default:
			must(d.T, d.rdb.Del(ctx, key).Err())
		}
	}
}

// Whichever keys are those of a moment before, and whichever are gone: in the end no
// job waits, every batch has ended or is named as lost, and nothing is counted that is
// not there.
func TestAnyMixtureOfMomentsIsMended(t *testing.T) {
	t.Parallel()
	for seed := range *rollbacks {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			d, dice := newDamaged(t), rand.New(rand.NewPCG(uint64(seed), 1))
			d.pass(dice.IntN(3))
			before := map[string]string{}
			for _, key := range d.rdb.Keys(t.Context(), "*").Val() {
				before[key] = d.rdb.Dump(t.Context(), key).Val()
			}
			d.pass(1 + dice.IntN(15))
			d.rollback(dice, before)
			d.pass(60)
			d.at = d.at.Add(time.Hour)
			d.pass(60)
			for _, id := range d.all {
				if j, err := d.s.Job(t.Context(), "acme", id); err == nil && !j.Status.Final() {
					t.Errorf("job %s is %s for good", id, j.Status)
				} else if err != nil && !errors.Is(err, tasks.ErrNotFound) {
					t.Errorf("job %s: %v", id, err)
				}
			}
			for _, id := range d.batches {
				b, err := d.s.Batch(t.Context(), "acme", id)
				n := b.Counts
				switch {
				case errors.Is(err, tasks.ErrNotFound):
				case err != nil, b.Status != tasks.BatchEnded, n.Queued != 0, n.Running != 0, min(n.Succeeded, n.Failed, n.Canceled, n.Expired) < 0:
					t.Errorf("batch: %+v, %v", b, err)
				}
			}
			for _, counts := range []string{"n:p", "tq"} {
				for what, n := range d.rdb.HGetAll(t.Context(), "sluice:{s}:"+counts).Val() {
					if n != "0" && what != "begun" { // which is of all time
						t.Errorf("%s: %s %s, want 0", counts, what, n)
					}
				}
			}
		})
	}
}
