package store_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

// sent is how many bytes Redis sends while do runs.
func sent(t *testing.T, rdb *redis.Client, do func()) int64 {
	t.Helper()
	total := func() int64 {
		info, err := rdb.Info(t.Context(), "stats").Result()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(info) {
			if n, ok := strings.CutPrefix(strings.TrimSpace(line), "total_net_output_bytes:"); ok {
				v, err := strconv.ParseInt(n, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
		t.Fatal("Redis does not say how much it has sent")
		return 0
	}
	before := total()
	do()
	return total() - before
}

// submits stores jobs, 50 in one call, and returns the tickets that came of them.
func submits(t *testing.T, s *store.Store, jobs ...tasks.Job) (out []tasks.Ticket) {
	t.Helper()
	for some := range slices.Chunk(jobs, 50) {
		var subs []tasks.Submission
		for _, j := range some {
			subs = append(subs, tasks.Submission{Job: j})
		}
		_, tickets, err := s.Create(t.Context(), subs...)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, tickets...)
	}
	return out
}

// Whatever is read of many records at once is what is shown of them: a list
// sends what it shows, however large the prompts, the results and the bodies of
// webhooks are that lie beside it.
func TestNoListReadsBodies(t *testing.T) {
	t.Parallel()
	const n, size, most = 40, 512 << 10, 64 << 10
	s, rdb := open(t, n)
	ctx := t.Context()
	large := strings.Repeat("x", size)
	heavy := func() tasks.Job {
		j := job("acme")
		j.Request.Body = []byte(`"` + large + `"`)
		return j
	}
	var waiting, ended []tasks.Job
	for range n {
		waiting, ended = append(waiting, heavy()), append(ended, job("acme"))
	}
	endpoint := hook(t, s)
	for _, k := range submits(t, s, ended...) {
		take(t, s, k)
		start(t, s, k)
		how := won
		how.Result = []byte(`{"content":"` + large + `"}`)
		if _, err := s.End(ctx, k, how); err != nil {
			t.Fatal(err)
		}
	}
	submits(t, s, waiting...)
	b, _, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "")
	if err != nil {
		t.Fatal(err)
	}
	var lines []tasks.Job
	for i := range n {
		j := heavy()
		j.Batch, j.Line = b.ID, i+1
		lines = append(lines, j)
	}
	if err := s.StageBatch(ctx, b.ID, lines, tasks.Limits{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitBatch(ctx, b.ID, tasks.BatchCommit{}); err != nil {
		t.Fatal(err)
	}
	for left := int64(1); left > 0; {
		if left, _, err = s.Unfold(ctx, b.ID); err != nil {
			t.Fatal(err)
		}
	}
	ids := func(list []tasks.Job) (out []string) {
		for _, j := range list {
			out = append(out, j.ID)
		}
		return out
	}
	// A receiver that fails: what it was sent is kept for the next attempt.
	swept, err := s.SweepDeliveries(ctx)
	if err != nil || len(swept.Hand) == 0 {
		t.Fatalf("deliveries handed out: %v, %v", swept, err)
	}
	for _, k := range swept.Hand {
		_, err := s.SettleDeliveries(ctx, []tasks.Settled{{
			Ticket: k, Status: tasks.DeliveryPending, Counted: true, Delay: time.Hour, Reason: "http_5xx", Body: []byte(large),
			Attempt: tasks.DeliveryAttempt{At: time.Now(), Outcome: "http_5xx"},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}

	jobs := func(f tasks.Filter) func(context.Context) (int, error) {
		f.Tenant = "acme"
		return func(ctx context.Context) (int, error) { p, err := s.Jobs(ctx, f); return len(p.Jobs), err }
	}
	deliveries := func(f tasks.DeliveryFilter) func(context.Context) (int, error) {
		f.Tenant = "acme"
		return func(ctx context.Context) (int, error) {
			p, err := s.Deliveries(ctx, f)
			return len(p.Deliveries), err
		}
	}
	one := func(do func(context.Context) error) func(context.Context) (int, error) {
		return func(ctx context.Context) (int, error) { return 1, do(ctx) }
	}
	for _, c := range []struct {
		what string
		rows int
		do   func(context.Context) (int, error)
	}{
		{"one job", 1, jobs(tasks.Filter{Limit: 1})},
		{"jobs", 100, jobs(tasks.Filter{Limit: 100})},
		{"jobs after one", 20, jobs(tasks.Filter{Limit: 20, After: waiting[n-1].ID})},
		{"queued jobs", 80, jobs(tasks.Filter{Limit: 100, Status: tasks.StatusQueued})},
		{"succeeded jobs", 40, jobs(tasks.Filter{Limit: 100, Status: tasks.StatusSucceeded})},
		{"failed jobs", 0, jobs(tasks.Filter{Limit: 1, Status: tasks.StatusFailed})},
		{"jobs of a model", 100, jobs(tasks.Filter{Limit: 100, Model: "m"})},
		{"jobs of no model", 0, jobs(tasks.Filter{Limit: 1, Model: "nosuch"})},
		{"a batch's jobs", 40, jobs(tasks.Filter{Limit: 100, Batch: b.ID})},
		{"a batch's succeeded jobs", 0, jobs(tasks.Filter{Limit: 100, Batch: b.ID, Status: tasks.StatusSucceeded})},
		{"a batch's lines", 40, func(ctx context.Context) (int, error) {
			l, _, err := s.BatchJobs(ctx, "acme", b.ID, 0, 500)
			return len(l), err
		}},
		{"a batch's results, when there are none", 0, func(ctx context.Context) (int, error) {
			l, _, err := s.BatchResults(ctx, "acme", b.ID, 0)
			return len(l), err
		}},
		{"those that have ended", 40, func(ctx context.Context) (int, error) {
			l, err := s.Ended(ctx, append(ids(ended), ids(waiting)...))
			return len(l), err
		}},
		{"deliveries", 40, deliveries(tasks.DeliveryFilter{Limit: 100})},
		{"an endpoint's deliveries", 40, deliveries(tasks.DeliveryFilter{Limit: 100, Endpoint: endpoint.ID})},
		{"pending deliveries", 40, deliveries(tasks.DeliveryFilter{Limit: 100, Status: tasks.DeliveryPending})},
		{"exhausted deliveries", 0, deliveries(tasks.DeliveryFilter{Limit: 100, Status: tasks.DeliveryExhausted})},
		{"a delivery", 1, one(func(ctx context.Context) error { _, err := s.Delivery(ctx, "acme", swept.Hand[0].ID); return err })},
		{"deliveries that are sent again", n, func(ctx context.Context) (int, error) {
			r, err := s.RedeliverRange(ctx, tasks.Resend{Tenant: "acme", Endpoint: endpoint.ID, Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour), Delivered: true}, nil)
			return r.Sent, err
		}},
		{"endpoints", 1, func(ctx context.Context) (int, error) { l, err := s.Endpoints(ctx, "acme"); return len(l), err }},
		{"a waiting job", 1, one(func(ctx context.Context) error { _, err := s.Job(ctx, "acme", waiting[0].ID); return err })},
		{"a place in the backlog", 1, one(func(ctx context.Context) error { _, err := s.Position(ctx, waiting[0]); return err })},
		{"a pool's load", 1, one(func(ctx context.Context) error { _, err := s.Load(ctx, pool); return err })},
		{"those with a model to go to", 0, func(ctx context.Context) (int, error) {
			l, err := s.Divertible(ctx, pool, 0, 100)
			return len(l), err
		}},
		{"a sweep", 1, one(func(ctx context.Context) error { _, err := s.Sweep(ctx); return err })},
		{"a sweep of deliveries", 1, one(func(ctx context.Context) error { _, err := s.SweepDeliveries(ctx); return err })},
		{"a job that is canceled", 1, one(func(ctx context.Context) error { _, err := s.Cancel(ctx, "acme", waiting[0].ID); return err })},
		{"a job that is queued again", 1, one(func(ctx context.Context) error {
			_, _, err := s.Requeue(ctx, "acme", waiting[0].ID, tasks.Limits{})
			return err
		})},
		{"a batch that is canceled", 1, one(func(ctx context.Context) error { _, err := s.CancelBatch(ctx, "acme", b.ID); return err })},
		{"a job that is deleted", 1, one(func(ctx context.Context) error { return s.Delete(ctx, "acme", ended[0].ID) })},
	} {
		var rows int
		var err error
		if got := sent(t, rdb, func() { rows, err = c.do(ctx) }); err != nil || got > most || rows != c.rows {
			t.Errorf("%s: Redis sends %d bytes for %d rows, %v; want at most %d for %d", c.what, got, rows, err, most, c.rows)
		}
	}
}

// A row of a list is the job as it is read, but for the result; and what a
// worker takes is that with the prompt.
func TestARowIsTheJobWithoutItsBodies(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 4)
	ctx := t.Context()
	full := job("acme")
	full.Priority, full.WebhookURL, full.Fallback = tasks.High, "https://example.com", []string{"m2", "m3"}
	full.Deadline = time.Now().Add(time.Hour)
	full.Reserved = full.Request.Tokens()
	_, tickets := create(t, s, full)
	taken, err := s.Take(ctx, tickets[0])
	if err != nil || string(taken.Request.Body) != string(full.Request.Body) {
		t.Fatalf("taken: %+v, %v", taken, err)
	}
	same := func(when string) {
		t.Helper()
		read := read(t, s, full.ID)
		page, err := s.Jobs(ctx, tasks.Filter{Tenant: "acme", Limit: 2})
		if err != nil || len(page.Jobs) != 1 || page.HasMore {
			t.Fatalf("%s: %+v, %v", when, page, err)
		}
		read.Result = nil
		if !reflect.DeepEqual(page.Jobs[0], read) {
			t.Errorf("%s: the row is\n%+v\nthe job\n%+v", when, page.Jobs[0], read)
		}
	}
	taken.Request.Body, taken.Lay = []byte{}, 0 // the time is for who takes it
	if got := read(t, s, full.ID); !reflect.DeepEqual(got, taken) {
		t.Errorf("read\n%+v\ntaken\n%+v", got, taken)
	}
	same("queued")
	start(t, s, tickets[0])
	same("running")
	next, err := s.End(ctx, tickets[0], tasks.Ending{
		Status: tasks.StatusRetrying, Counted: true, Detour: &tasks.Detour{Pool: pool, Passed: 1, Left: 1},
		Error: &tasks.JobError{Code: tasks.UpstreamUnavailable}, Attempt: tasks.Attempt{Outcome: tasks.Overloaded, Status: 529},
	})
	if err != nil || len(next) != 1 {
		t.Fatalf("end: %v, %v", next, err)
	}
	same("retrying")
	take(t, s, next[0])
	start(t, s, next[0])
	if _, err := s.End(ctx, next[0], won); err != nil {
		t.Fatal(err)
	}
	same("succeeded")
}

// Results come in line order, all of them once, a few megabytes at a time.
func TestABatchsResultsComeInPieces(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 400)
	ctx := t.Context()
	b := stage(t, s, 250)
	if _, err := s.CommitBatch(ctx, b.ID, tasks.BatchCommit{}); err != nil {
		t.Fatal(err)
	}
	var tickets []tasks.Ticket
	for left := int64(1); left > 0; {
		var more []tasks.Ticket
		var err error
		if left, more, err = s.Unfold(ctx, b.ID); err != nil {
			t.Fatal(err)
		}
		tickets = append(tickets, more...)
	}
	large := strings.Repeat("x", 3<<20)
	var want []string
	for i, k := range tickets {
		take(t, s, k)
		start(t, s, k)
		how := won
		switch {
		case i%10 == 3: // it goes on running
			continue
		case i == 5, i == 6, i == 120:
			how.Result = []byte(`"` + large + `"`)
		}
		if _, err := s.End(ctx, k, how); err != nil {
			t.Fatal(err)
		}
		want = append(want, k.ID)
	}
	if err := s.Delete(ctx, "acme", want[0]); err != nil {
		t.Fatal(err)
	}
	want = want[1:]
	var got []string
	for from, pieces := 0, 1; ; pieces++ {
		jobs, next, err := s.BatchResults(ctx, "acme", b.ID, from)
		if err != nil || pieces > 20 {
			t.Fatalf("piece %d: %v", pieces, err)
		}
		size := 0
		for _, j := range jobs {
			got = append(got, j.ID)
			size += len(j.Result)
		}
		if size > 4<<20 {
			t.Errorf("piece %d is of %d bytes", pieces, size)
		}
		if next == 0 {
			break
		}
		from = next
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d results, want %d in the order of the lines", len(got), len(want))
	}
	if _, _, err := s.BatchResults(ctx, "zoe", b.ID, 0); err != tasks.ErrNotFound {
		t.Errorf("another tenant's: %v, want ErrNotFound", err)
	}
}

// A caller who stops at an empty page is not told "none" of what there is.
func TestAPageIsEmptyOnlyWhenNothingIsLeft(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 1)
	ctx := t.Context()
	const n = 6000
	var list []tasks.Job
	for range n {
		list = append(list, job("acme"))
	}
	list[0].Model = "rare"
	submits(t, s, list...)
	if _, err := s.Cancel(ctx, "acme", list[0].ID); err != nil {
		t.Fatal(err)
	}
	// Those whose record is gone, and whose place in the list is not yet.
	for _, j := range list[n-300:] {
		rdb.Del(ctx, "sluice:{s}:j:"+j.ID)
	}
	for what, f := range map[string]tasks.Filter{
		"by status": {Status: tasks.StatusCanceled}, "by model": {Model: "rare"}, "by both": {Status: tasks.StatusCanceled, Model: "rare"},
	} {
		f.Tenant, f.Limit = "acme", 5
		page, err := s.Jobs(ctx, f)
		if err != nil || len(page.Jobs) != 1 || page.HasMore || page.Jobs[0].ID != list[0].ID {
			t.Errorf("%s: %d jobs, more %v, %v; want the one and no more", what, len(page.Jobs), page.HasMore, err)
		}
	}
	page, err := s.Jobs(ctx, tasks.Filter{Tenant: "acme", Limit: 7})
	if err != nil || len(page.Jobs) != 7 || !page.HasMore || page.Jobs[0].ID != list[n-301].ID {
		t.Errorf("the newest 7: %d jobs, more %v, %v", len(page.Jobs), page.HasMore, err)
	}
	// Pages of any size hold every job once.
	for _, f := range []tasks.Filter{{Limit: 100}, {Limit: 37, Status: tasks.StatusQueued}, {Limit: 99, Model: "m"}} {
		f.Tenant = "acme"
		seen := map[string]int{}
		for {
			page, err := s.Jobs(ctx, f)
			if err != nil || len(page.Jobs) > f.Limit || page.HasMore && len(page.Jobs) == 0 {
				t.Fatalf("limit %d: a page of %d, more %v, %v", f.Limit, len(page.Jobs), page.HasMore, err)
			}
			for _, j := range page.Jobs {
				seen[j.ID]++
			}
			if !page.HasMore {
				break
			}
			f.After = page.Next
		}
		want := n - 300
		if f.Status != "" || f.Model != "" {
			want--
		}
		for id, times := range seen {
			if times != 1 {
				t.Errorf("limit %d: %s came %d times", f.Limit, id, times)
			}
		}
		if len(seen) != want {
			t.Errorf("limit %d: %d jobs in all, want %d", f.Limit, len(seen), want)
		}
	}
}

// The same of deliveries, whose most are of one status.
func TestAPageOfDeliveriesIsEmptyOnlyWhenNothingIsLeft(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 1)
	ctx := t.Context()
	const n = 6000
	_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range n {
			id, status := fmt.Sprintf("dlv_%019d", i), tasks.DeliveryDelivered
			if i == 0 {
				status = tasks.DeliveryExhausted
			}
			p.HSet(ctx, "sluice:{s}:d:"+id, "t", "acme", "y", "job.failed", "o", "job_1", "s", string(status), "ct", 1)
			p.ZAdd(ctx, "sluice:{s}:wt:acme", redis.Z{Member: id})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	page, err := s.Deliveries(ctx, tasks.DeliveryFilter{Tenant: "acme", Limit: 5, Status: tasks.DeliveryExhausted})
	if err != nil || len(page.Deliveries) != 1 || page.HasMore {
		t.Errorf("the exhausted one: %d deliveries, more %v, %v; want one and no more", len(page.Deliveries), page.HasMore, err)
	}
	page, err = s.Deliveries(ctx, tasks.DeliveryFilter{Tenant: "acme", Limit: 5, Status: tasks.DeliveryDelivered})
	if err != nil || len(page.Deliveries) != 5 || !page.HasMore || page.Next != page.Deliveries[4].ID {
		t.Errorf("the delivered ones: %d deliveries, more %v, %v; want 5 and more", len(page.Deliveries), page.HasMore, err)
	}
}

// A sender that has many deliveries in hand holds of each result what an event
// can carry.
func TestSendersReadNoMoreOfAResultThanAnEventCarries(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	hook(t, s)
	k := claimed(t, s)
	take(t, s, k)
	start(t, s, k)
	how := won
	how.Result = []byte(`"` + strings.Repeat("x", 5<<20) + `"`)
	if _, err := s.End(ctx, k, how); err != nil {
		t.Fatal(err)
	}
	swept, err := s.SweepDeliveries(ctx)
	if err != nil || len(swept.Hand) != 1 {
		t.Fatalf("handed out: %v, %v", swept.Hand, err)
	}
	var open []tasks.Sending
	got := sent(t, rdb, func() { open, err = s.OpenDeliveries(ctx, swept.Hand) })
	if err != nil || len(open) != 1 || len(open[0].Job.Result) != 256<<10+1 || got > 300<<10 {
		t.Errorf("Redis sends %d bytes for a result of 5 MiB, %v", got, err)
	}
}

// A page that may not be looked for any longer is given as it is, with where to go on, and page by page all is found.
func TestAPageIsGivenWhenPatienceEnds(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 1)
	var jobs []tasks.Job
	for range 40 {
		jobs = append(jobs, job("acme"))
	}
	submits(t, s, jobs...)
	oldest := jobs[0].ID
	_, err := s.Cancel(t.Context(), "acme", oldest)
	must(t, err)
	f := tasks.Filter{Tenant: "acme", Status: tasks.StatusCanceled, Limit: 2, Patience: 1}
	var found []string
	pages := 0
	for more := true; more; pages++ {
		page, err := s.Jobs(t.Context(), f)
		must(t, err)
		if more = page.HasMore; more && (page.Next == "" || page.Next == f.After) {
			t.Fatalf("page %d goes on behind %q", pages, page.Next)
		}
		for _, j := range page.Jobs {
			found = append(found, j.ID)
		}
		f.After = page.Next
	}
	if pages < 10 || !slices.Equal(found, []string{oldest}) {
		t.Errorf("%d pages have %v, want some, and %s", pages, found, oldest)
	}
	f.After, f.Patience = "", 0
	if page, err := s.Jobs(t.Context(), f); err != nil || len(page.Jobs) != 1 || page.HasMore {
		t.Errorf("with patience: %+v, %v", page, err)
	}
	if page, err := s.Batches(t.Context(), tasks.BatchFilter{Tenant: "acme", Limit: 2, Patience: 1}); err != nil || page.HasMore {
		t.Errorf("of no batches: %+v, %v", page, err)
	}
}
