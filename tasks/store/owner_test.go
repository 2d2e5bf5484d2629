package store_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/seal"
	"github.com/sluicehq/sluice/tasks/store"
)

// flat is a tenant in which each of two users has one of everything.
type flat struct {
	*testing.T
	*store.Store
}

const (
	ada  = "acme/ada"
	bob  = "acme/bob|b/2" // what an issuer calls its users may hold anything
	acme = "acme"
)

// flats has a test try a flat in plain and one that is sealed.
func flats(t *testing.T, try func(t *testing.T, h *flat)) {
	t.Parallel()
	for name, ring := range map[string]*seal.Ring{"plain": nil, "sealed": ringOf(t, "a")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			try(t, newFlat(t, redistest.New(t), ring))
		})
	}
}

func newFlat(t *testing.T, rdb *redis.Client, ring *seal.Ring) *flat {
	h := &flat{t, store.New(store.Config{Redis: rdb, Seal: ring, ResultTTL: time.Hour, Depth: map[string]int{pool: 20}, Rates: oneRate, NewSecret: func() string { return "whsec_1" }})}
	for _, owner := range []string{ada, bob} {
		h.fill(owner)
	}
	return h
}

func (h *flat) submission(owner, id string) tasks.Submission {
	j := job("")
	j.ID, j.WebhookURL = id, "https://own.example/in"
	j.Tenant, j.User = tasks.SplitOwner(owner)
	return tasks.Submission{Job: j, Key: "key", Fingerprint: "f"}
}

// id is that of an owner's only thing of a kind.
func id(kind, owner string) string {
	return kind + map[string]string{ada: "a", bob: "b"}[owner]
}

func (h *flat) fill(owner string) {
	h.Helper()
	ctx := h.Context()
	_, err := h.CreateEndpoint(ctx, tasks.Endpoint{ID: id("whe_", owner), Tenant: owner, URL: "https://a.example/", Events: []string{"job.succeeded", "batch.completed"}})
	must(h.T, err)
	must(h.T, h.PutDocument(ctx, tasks.Document{ID: id("file-", owner), Tenant: owner, Kind: tasks.FileDocument, Body: []byte(`{}`), Expires: time.Hour}))
	made, next, err := h.Create(ctx, h.submission(owner, id("job_ran", owner)))
	must(h.T, errors.Join(err, made[0].Err))
	k := next[0]
	k.Asks = tasks.Asked{Account: "a", Model: "m", AtMost: 1000, Priced: true}
	_, err = h.Take(ctx, k)
	must(h.T, err)
	_, _, err = h.Start(ctx, k)
	must(h.T, err)
	spent := tasks.Money(7)
	if owner == ada {
		spent = 3
	}
	_, err = h.End(ctx, k, tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`{}`), Usage: &tasks.Usage{InputTokens: 3}, Attempt: tasks.Attempt{Outcome: tasks.Succeeded, Cost: &tasks.Cost{Amount: spent}}})
	must(h.T, err)
	waits := h.submission(owner, id("job_waits", owner))
	waits.Key = ""
	made, _, err = h.Create(ctx, waits)
	must(h.T, errors.Join(err, made[0].Err))
	g := id("batch_", owner)
	_, _, err = h.OpenBatch(ctx, g, owner, "key of a batch")
	must(h.T, err)
	line := h.submission(owner, id("job_line", owner)).Job
	line.Batch, line.Line = g, 1
	must(h.T, h.StageBatch(ctx, g, []tasks.Job{line}, tasks.Limits{}))
	_, err = h.CommitBatch(ctx, g, tasks.BatchCommit{Fingerprint: "f", Digest: "the same", Repeat: true})
	must(h.T, err)
	_, _, err = h.Unfold(ctx, g)
	must(h.T, err)
}

// Each door of the record, asked for what is ada's.
func TestAUserSeesAndMovesOnlyItsOwn(t *testing.T) { flats(t, userSees) }

func userSees(t *testing.T, h *flat) {
	ctx := t.Context()
	hold := map[string]string{}
	page, err := h.Deliveries(ctx, tasks.DeliveryFilter{Tenant: ada, Limit: 9})
	must(t, err)
	for _, d := range page.Deliveries {
		hold[d.Endpoint] = d.ID
	}
	if len(hold) != 2 {
		t.Fatalf("ada has the deliveries %+v, want one of its endpoint and one of its job's URL", page.Deliveries)
	}
	doors := map[string]func(owner string) error{
		"job":     func(o string) error { return errOf(h.Job(ctx, o, id("job_waits", ada))) },
		"history": func(o string) error { return errOf(h.History(ctx, o, id("job_waits", ada))) },
		"edit": func(o string) error {
			return errOf(h.Edit(ctx, o, id("job_waits", ada), func(*tasks.Job) error { return nil }))
		},
		"batch":   func(o string) error { return errOf(h.Batch(ctx, o, id("batch_", ada))) },
		"results": func(o string) error { _, _, err := h.BatchResults(ctx, o, id("batch_", ada), 0); return err },
		"jobs of batch": func(o string) error {
			return errOf(h.Jobs(ctx, tasks.Filter{Tenant: o, Batch: id("batch_", ada), Limit: 9}))
		},
		"endpoint": func(o string) error { return errOf(h.Endpoint(ctx, o, id("whe_", ada))) },
		"change":   func(o string) error { return errOf(h.ChangeEndpoint(ctx, o, id("whe_", ada), tasks.EndpointChange{})) },
		"rotate": func(o string) error {
			return errOf(h.RotateKeys(ctx, o, id("whe_", ada), tasks.SigningKeys{Secret: "whsec_2"}))
		},
		"test":      func(o string) error { return errOf(h.TestEndpoint(ctx, o, id("whe_", ada))) },
		"delivery":  func(o string) error { return errOf(h.Delivery(ctx, o, hold[""])) },
		"redeliver": func(o string) error { return errOf(h.Redeliver(ctx, o, hold[id("whe_", ada)])) },
		"redeliver many": func(o string) error {
			return errOf(h.RedeliverRange(ctx, tasks.Resend{Tenant: o, Endpoint: id("whe_", ada)}, nil))
		},
		"deliveries of": func(o string) error {
			return errOf(h.Deliveries(ctx, tasks.DeliveryFilter{Tenant: o, Endpoint: id("whe_", ada), Limit: 9}))
		},
		"document": func(o string) error { return errOf(h.Document(ctx, o, id("file-", ada))) },
	}
	last := []struct {
		name string
		do   func(owner string) error
	}{ // these change what the others ask for
		{"cancel", func(o string) error { return errOf(h.Cancel(ctx, o, id("job_waits", ada))) }},
		{"retry", func(o string) error { _, _, err := h.Requeue(ctx, o, id("job_waits", ada), tasks.Limits{}); return err }},
		{"cancel batch", func(o string) error { return errOf(h.CancelBatch(ctx, o, id("batch_", ada))) }},
		{"delete batch", func(o string) error { return h.DeleteBatch(ctx, o, id("batch_", ada)) }},
		{"delete", func(o string) error { return h.Delete(ctx, o, id("job_ran", ada)) }},
		{"delete endpoint", func(o string) error { return h.DeleteEndpoint(ctx, o, id("whe_", ada)) }},
	}
	ask := func(name string, do func(owner string) error, owners ...string) {
		t.Helper()
		for _, stranger := range []string{bob, "acme/ad", "acme/ada/", "acme/acme", "other", "other/ada"} {
			if err := do(stranger); !errors.Is(err, tasks.ErrNotFound) {
				t.Errorf("%s by %s: %v, want ErrNotFound", name, stranger, err)
			}
		}
		for _, owner := range owners {
			if err := do(owner); err != nil {
				t.Errorf("%s by %s: %v", name, owner, err)
			}
		}
	}
	for name, do := range doors {
		ask(name, do, ada, acme)
	}
	for _, door := range last {
		ask(door.name, door.do, ada)
	}
	if j, err := h.Job(ctx, bob, id("job_waits", bob)); err != nil || j.User != "bob|b/2" || j.Tenant != acme {
		t.Errorf("bob's job is %+v, %v", j, err)
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestAUserListsAndMovesManyOfItsOwn(t *testing.T) { flats(t, userLists) }

func userLists(t *testing.T, h *flat) {
	ctx := t.Context()
	for owner, want := range map[string]int{ada: 1, bob: 1, acme: 2, "acme/eve": 0, "other": 0} {
		jobs, err := h.Jobs(ctx, tasks.Filter{Tenant: owner, Limit: 9})
		must(t, err)
		found, err := h.Jobs(ctx, tasks.Filter{Tenant: owner, Metadata: map[string]string{"k": "v"}, Limit: 9})
		must(t, err)
		batches, err := h.Batches(ctx, tasks.BatchFilter{Tenant: owner, Limit: 9})
		must(t, err)
		endpoints, err := h.Endpoints(ctx, owner)
		must(t, err)
		deliveries, err := h.Deliveries(ctx, tasks.DeliveryFilter{Tenant: owner, Limit: 9})
		must(t, err)
		files, more, err := h.Documents(ctx, tasks.DocumentFilter{Tenant: owner, Kind: tasks.FileDocument, Limit: 9})
		must(t, err)
		day := time.Now()
		ledger, err := h.Ledger(ctx, tasks.LedgerFilter{Tenant: owner, Since: day.Add(-25 * time.Hour), Until: day.Add(25 * time.Hour)})
		must(t, err)
		got := []int{len(jobs.Jobs) / 3, len(found.Jobs) / 3, len(batches.Batches), len(endpoints), len(deliveries.Deliveries) / 2, len(files)}
		if more || slices.ContainsFunc(got, func(n int) bool { return n != want }) {
			t.Errorf("%s lists threes of jobs, those by metadata, batches, endpoints, pairs of deliveries and files %v, want %d each", owner, got, want)
		}
		var cost tasks.Money
		for _, l := range ledger {
			cost += l.Cost.Amount
		}
		if paid := map[string]tasks.Money{ada: 3, bob: 7, acme: 10}[owner]; cost != paid {
			t.Errorf("%s has paid %d by the ledger, want %d: %+v", owner, cost, paid, ledger)
		}
	}
	m, err := h.CancelAll(ctx, tasks.Selection{Tenant: bob, IDs: []string{id("job_waits", ada), id("job_waits", bob)}})
	if err != nil || m.Jobs != 1 {
		t.Errorf("bob cancels %+v of two, %v; want its own", m, err)
	}
	m, err = h.CancelAll(ctx, tasks.Selection{Tenant: bob})
	must(t, err)
	if j, err := h.Job(ctx, ada, id("job_waits", ada)); err != nil || j.Status.Final() {
		t.Errorf("bob canceled %d, and ada's job is %s, %v", m.Jobs, j.Status, err)
	}
	must(t, errOf(h.Cancel(ctx, ada, id("job_waits", ada))))
	m, err = h.RequeueAll(ctx, tasks.Selection{Tenant: bob, IDs: []string{id("job_waits", ada), id("job_waits", bob)}}, tasks.Limits{}, func([]tasks.Ticket) {})
	if err != nil || m.Jobs != 1 {
		t.Errorf("bob queues %+v of two again, %v; want its own", m, err)
	}
}

// What one user names stands for nothing of another's: a key, the id of a job or batch, what a
// call asks.
func TestAUserRepeatsNothingOfAnothers(t *testing.T) { flats(t, userRepeats) }

func userRepeats(t *testing.T, h *flat) {
	ctx := t.Context()
	again := func(owner string, change func(*tasks.Submission)) store.Created {
		t.Helper()
		s := h.submission(owner, store.NewID("job"))
		if change != nil {
			change(&s)
		}
		made, _, err := h.Create(ctx, s)
		must(t, err)
		return made[0]
	}
	if c := again(bob, nil); !c.Replayed || c.Job.ID != id("job_ran", bob) {
		t.Errorf("bob's key is for %s, replayed %v, %v; want bob's first job", c.Job.ID, c.Replayed, c.Err)
	}
	if c := again("acme/eve", nil); c.Replayed || c.Err != nil {
		t.Errorf("eve's key, which others have used, is for %s, %v", c.Job.ID, c.Err)
	}
	named := func(s *tasks.Submission) { s.Key, s.Named, s.Job.ID = "", true, id("job_waits", ada) }
	if c := again(bob, named); !errors.Is(c.Err, tasks.ErrIDTaken) {
		t.Errorf("bob submits under the id of ada's job: %+v, want ErrIDTaken", c)
	}
	if c := again(ada, named); !c.Replayed || c.Err != nil {
		t.Errorf("ada submits under the id of its job: replayed %v, %v", c.Replayed, c.Err)
	}
	if _, _, err := h.OpenBatch(ctx, id("batch_", ada), bob, ""); !errors.Is(err, tasks.ErrIDTaken) {
		t.Errorf("bob opens a batch under the id of ada's: %v, want ErrIDTaken", err)
	}
	if _, prior, err := h.OpenBatch(ctx, store.NewID("batch"), bob, "key of a batch"); err != nil || prior == nil || prior.ID != id("batch_", bob) {
		t.Errorf("bob's key of a batch is for %+v, %v; want bob's", prior, err)
	}
	for _, owner := range []string{ada, bob} {
		c := tasks.Call{Tenant: owner, ID: id("job_call", owner), Digest: "d", Repeat: true}
		if j, err := h.OpenCall(ctx, c); err != nil || j.Prior || j.ID != c.ID {
			t.Errorf("the call of %s finds %+v, %v; want none", owner, j, err)
		}
	}
	if answer, err := h.ReserveKey(ctx, bob, "key of a retry", "f", "bulk_1"); err != nil || answer != nil {
		t.Errorf("reserve: %s, %v", answer, err)
	}
	must(t, h.SaveAnswer(ctx, bob, "key of a retry", "bulk_1", []byte("bob's")))
	if answer, err := h.ReserveKey(ctx, ada, "key of a retry", "g", "bulk_2"); err != nil || answer != nil {
		t.Errorf("ada's key is answered with %s, %v", answer, err)
	}
}

// A tenant's users share its key: with that all is lost that any of them has sealed.
func TestTheKeyOfUsersIsTheirTenants(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	h := newFlat(t, rdb, ringOf(t, "a"))
	ctx := t.Context()
	names, err := rdb.Keys(ctx, "*:sk:*").Result()
	must(t, err)
	if len(names) != 1 || !strings.HasSuffix(names[0], ":sk:"+acme) {
		t.Errorf("there are the keys %q, want that of the tenant alone", names)
	}
	for _, owner := range []string{ada, bob} {
		for _, o := range []string{owner, acme} {
			must(t, errOf(h.Job(ctx, o, id("job_ran", owner))))
		}
	}
	must(t, h.ForgetKey(ctx, acme))
	for _, owner := range []string{ada, bob} {
		var sealed *tasks.SealError
		if _, err := h.Job(ctx, owner, id("job_ran", owner)); !errors.As(err, &sealed) {
			t.Errorf("without the key of its tenant the job of %s is read: %v", owner, err)
		}
	}
}

func TestADeletedTenantLeavesNothingOfItsUsers(t *testing.T) {
	t.Parallel()
	e := newEstate(t)
	for _, owner := range []string{ada, bob} {
		(&flat{t, e.Store}).fill(owner)
	}
	_, err := e.DeleteTenant(t.Context(), acme, byAda)
	must(t, err)
	for _, key := range e.has(acme) {
		t.Errorf("left: %.200s", key)
	}
}

// An endpoint made while users were not kept apart is the tenant's, and takes what is everybody's.
func TestATenantsEndpointTakesItsUsersEvents(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	h := &flat{t, store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 20}, Rates: oneRate})}
	_, err := h.CreateEndpoint(t.Context(), tasks.Endpoint{ID: "whe_all", Tenant: acme, URL: "https://a.example/", Events: []string{"job.succeeded"}})
	must(t, err)
	h.fill(ada)
	h.fill(bob)
	for owner, want := range map[string]int{acme: 2, ada: 0} {
		page, err := h.Deliveries(t.Context(), tasks.DeliveryFilter{Tenant: owner, Limit: 9})
		must(t, err)
		n := 0
		for _, d := range page.Deliveries {
			if d.Endpoint == "whe_all" {
				n++
			}
		}
		if n != want {
			t.Errorf("%s sees %d deliveries to the tenant's endpoint, want %d", owner, n, want)
		}
	}
}

// What a release that knows no users has moved is counted right again by an audit.
func TestAUsersCountIsMended(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	at := time.Now().Truncate(time.Second)
	s := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 2}, Now: func() time.Time { return at }})
	const counts = "sluice:{s}:tqu:acme"
	for _, user := range []string{"ada", "ada", "a/b c", "bob"} {
		j := job("acme")
		j.User = user
		_, _, err := s.Create(t.Context(), tasks.Submission{Job: j})
		must(t, err)
	}
	must(t, rdb.HSet(t.Context(), counts, "ada", 7, "gone", 3).Err()) // too many
	must(t, rdb.HDel(t.Context(), counts, "bob").Err())               // too few
	want := map[string]string{"ada": "2", "a/b c": "1", "bob": "1"}
	var got map[string]string
	for range 3 {
		_, err := s.Audit(t.Context())
		must(t, err)
		at = at.Add(6 * time.Second)
		got = rdb.HGetAll(t.Context(), counts).Val()
	}
	if !maps.Equal(got, want) {
		t.Errorf("the counts are %v, want %v", got, want)
	}
	// Of another type, they are mended by nobody, and hold up nothing.
	must(t, rdb.Set(t.Context(), counts, "x", 0).Err())
	must(t, rdb.HSet(t.Context(), "sluice:{s}:tq", "acme", 9).Err())
	for range 3 {
		_, err := s.Audit(t.Context())
		must(t, err)
		at = at.Add(6 * time.Second)
	}
	if n := rdb.HGet(t.Context(), "sluice:{s}:tq", "acme").Val(); n != "4" {
		t.Errorf("the tenant has %s jobs that wait, want 4", n)
	}
}

// Work that is one user's goes past none of its own limits, and leaves nothing where it is refused; others go on.
func TestAUsersLimitsStopNobodyElse(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 100)
	noMidnight(t, s)
	limits := tasks.Limits{QueuedJobs: 100, User: tasks.UserLimits{QueuedJobs: 2, TokensPerDay: 100, CostPerDay: 500_000}}
	submit := func(user string, tokens int, millionths tasks.Money) error {
		t.Helper()
		j := limited(tokens - 4)
		j.User, j.AtMost = user, 1000*millionths
		l := limits
		if user == "" {
			l.User = tasks.UserLimits{}
		}
		made, _, err := s.Create(t.Context(), tasks.Submission{Job: j, Limits: l})
		must(t, err)
		return made[0].Err
	}
	for i, row := range []struct {
		user        string
		tokens      int
		cost        tasks.Money // in millionths, as the refusal has it
		quota       string
		limit, left int64
		others      int64 // jobs that wait
	}{
		{"ada", 60, 400, "", 0, 0, 0},
		{"ada", 60, 10, "users.tokens_per_day", 100, 40, 0},
		{"ada", 10, 101, "users.cost_per_day", 500, 100, 0},
		{"bob", 60, 400, "", 0, 0, 0},
		{"", 600, 4000, "", 0, 0, 0},
		{"ada", 10, 10, "", 0, 0, 0},
		{"ada", 10, 10, "users.queued_jobs", 2, 0, 2},
		{"bob", 10, 10, "", 0, 0, 0},
	} {
		err := submit(row.user, row.tokens, row.cost)
		var refused *tasks.QuotaError
		if row.quota == "" {
			if err != nil {
				t.Errorf("row %d: %v", i, err)
			}
			continue
		}
		if !errors.As(err, &refused) || refused.Quota != row.quota || refused.Limit != row.limit || refused.Remaining != row.left || refused.Others != row.others {
			t.Errorf("row %d: %+v, want a refusal by %s of %d with %d left and %d of others", i, err, row.quota, row.limit, row.left, row.others)
		}
	}
	if now, err := s.Standing(t.Context(), ada); err != nil || now.UserQueuedJobs != 2 || now.QueuedJobs != 5 || now.Day.UserReserved != 70 || now.UserPledged != 410_000 {
		t.Errorf("ada stands at %+v, %v", now, err)
	}
}

// A user's job that a release without users has queued again, and set nothing of the user's aside for, gives the
// user nothing back when it ends.
func TestAUserGetsBackNoMoreThanWasSetAside(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 100)
	noMidnight(t, s)
	j := limited(56)
	j.User = "ada"
	made, _, err := s.Create(t.Context(), tasks.Submission{Job: j})
	must(t, err)
	days := rdb.Keys(t.Context(), "sluice:{s}:dayu:*:acme").Val()
	if len(days) != 1 {
		t.Fatalf("days of users: %q", days)
	}
	must(t, rdb.HSet(t.Context(), days[0], "ada", "7 0 0 0").Err())
	_, err = s.Cancel(t.Context(), ada, made[0].Job.ID)
	must(t, err)
	now, err := s.Standing(t.Context(), ada)
	must(t, err)
	if now.Day.UserUsed != 7 || now.Day.UserReserved != 0 || now.UserPledged != 0 || now.Day.Reserved != 0 {
		t.Errorf("ada stands at %+v", now)
	}
}
