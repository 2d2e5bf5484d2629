package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/seal"
	"github.com/sluicehq/sluice/tasks/store"
)

// ringOf is a ring of master keys, each of 32 times the first letter of its name.
func ringOf(t *testing.T, names ...string) *seal.Ring {
	t.Helper()
	var keys []seal.Master
	for _, name := range names {
		keys = append(keys, seal.Master{Name: name, Key: bytes.Repeat([]byte(name[:1]), 32)})
	}
	r, err := seal.New(keys)
	must(t, err)
	return r
}

// sealing is a store that seals with master keys of these names.
func sealing(t *testing.T, rdb *redis.Client, names ...string) *store.Store {
	t.Helper()
	return store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 8}, Seal: ringOf(t, names...), NewSecret: func() string { return trace("own secret") }})
}

// trace is what no disk may hold of one kind of content.
func trace(kind string) string { return "canary-" + strings.ReplaceAll(kind, " ", "-") + "-7d1f" }

// canaries are the kinds of content that lives puts through every door.
var canaries = strings.Split("prompt,long prompt,metadata,custom id,own url,key,line,fault,text,event,answer,long answer,first answer,error,refusal,endpoint url,header,secret,private,own secret,delivery,receiver,document,claim,file,spill", ",")

// lives puts each canary through its door, reads it back, and leaves it where it lies.
func lives(t *testing.T, s *store.Store, dir string) {
	t.Helper()
	ctx := t.Context()
	_, err := s.CreateEndpoint(ctx, tasks.Endpoint{
		ID: "whe_1", Tenant: "acme", URL: "https://e.example/" + trace("endpoint url"), Events: []string{"job.succeeded"}, IncludeResult: true,
		Headers: tasks.Headers{"X-Own": trace("header")}, Keys: tasks.SigningKeys{Secret: trace("secret"), Private: trace("private")},
	})
	must(t, err)
	_, err = s.RotateKeys(ctx, "acme", "whe_1", tasks.SigningKeys{Secret: "whsec_next"})
	must(t, err)
	if k, err := s.TenantKeys(ctx, "acme"); err != nil || k.Secret != trace("own secret") {
		t.Errorf("the tenant's own keys: %v, %v", k, err)
	}

	j := job("acme")
	j.Request.Body, j.CustomID, j.WebhookURL = []byte(`"`+trace("prompt")+`"`), trace("custom id"), "https://r.example/"+trace("own url")
	j.Metadata = map[string]string{"k": trace("metadata")}
	sub := tasks.Submission{Job: j, Key: trace("key"), Fingerprint: "print"}
	_, tickets, err := s.Create(ctx, sub)
	must(t, err)
	must(t, s.SaveAnswer(ctx, "acme", sub.Key, j.ID, []byte(trace("first answer"))))
	again := sub
	again.Job.ID = store.NewID("job")
	if c, _, err := s.Create(ctx, again); err != nil || c[0].Job.ID != j.ID || string(c[0].Answer) != trace("first answer") {
		t.Errorf("the same key again: %+v, %v", c, err)
	}
	again.Fingerprint = "other"
	if c, _, err := s.Create(ctx, again); err != nil || !errors.Is(c[0].Err, tasks.ErrKeyReused) {
		t.Errorf("the same key for another body: %+v, %v", c, err)
	}
	k := tickets[0]
	held, err := s.Take(ctx, k)
	if err != nil || string(held.Request.Body) != string(j.Request.Body) || held.CustomID != j.CustomID || held.WebhookURL != j.WebhookURL || held.Metadata["k"] != trace("metadata") {
		t.Fatalf("taken: %+v, %v", held, err)
	}
	k.Tenant = held.Tenant
	must(t, s.Listen(ctx, j.ID))
	call := start(t, s, k).Call
	for at, piece := range []string{trace("text"), " and more"} {
		if ok, err := s.Append(ctx, k, call, at*len(trace("text")), piece); err != nil || !ok {
			t.Fatalf("text: %v, %v", ok, err)
		}
	}
	if p, err := s.Partial(ctx, j.ID, call, 6); err != nil || p.Text != (trace("text") + " and more")[6:] {
		t.Errorf("partial text: %+v, %v", p, err)
	}
	streams(t, s, k, call)
	answer := []byte(`{"content":"` + trace("answer") + `"}`)
	ended := won
	ended.Result = answer
	_, err = s.End(ctx, k, ended)
	must(t, err)
	digest, err := s.Named(ctx, "acme", "digest")
	must(t, err)
	must(t, s.KeepAnswer(ctx, "acme", digest, j.ID, answer, time.Minute))
	if b, err := s.Answer(ctx, "acme", digest); err != nil || !bytes.Equal(b, answer) {
		t.Errorf("a kept answer: %s, %v", b, err)
	}
	if got, err := s.Job(ctx, "acme", j.ID); err != nil || string(got.Result) != string(answer) {
		t.Errorf("the result: %s, %v", got.Result, err)
	}
	for value, want := range map[string]int{trace("metadata"): 1, "another": 0} {
		page, err := s.Jobs(ctx, tasks.Filter{Tenant: "acme", Limit: 10, Metadata: map[string]string{"k": value}})
		if err != nil || len(page.Jobs) != want {
			t.Errorf("found by metadata: %d jobs, %v", len(page.Jobs), err)
		}
	}
	sends(t, s, j)
	lengthy(t, s)
	fails(t, s)
	batch(t, s)
	keeps(t, s, dir)
}

// Every door at once, with bodies in the record, in a folder and in pieces in Redis. Without a
// ring each canary is found, so the test looks where they lie; with one, none is.
func TestNothingOfATenantsIsReadableAtRest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, bodies string
		seals        bool
	}{{"plain", "", false}, {"plain, with a folder", "file", false}, {"sealed", "", true}, {"sealed, with a folder", "file", true}, {"sealed, in pieces", "redis:", true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{AOF: "always", Args: []string{"--rdbcompression", "no", "--aof-use-rdb-preamble", "no"}})
			rdb, dir := server.Client(), t.TempDir()
			cfg := store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 8}, NewSecret: func() string { return trace("own secret") }}
			if c.bodies != "" {
				at := c.bodies
				if at == "file" {
					at = "file://" + dir
				}
				b, err := bodies.Open(bodies.Config{URL: at, Pieces: store.NewPieces(rdb, "")})
				must(t, err)
				t.Cleanup(b.Close)
				cfg.Bodies, cfg.Above = b, 1024
			}
			if c.seals {
				cfg.Seal = ringOf(t, "a")
			}
			lives(t, store.New(cfg), dir)
			must(t, rdb.Save(t.Context()).Err())
			got, want := append(found(t, filepath.Dir(server.Socket())), found(t, dir)...), canaries
			if c.seals {
				want = nil
			}
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
				t.Errorf("found %v, want %v", got, want)
			}
		})
	}
}

// streams writes events and reads them as a caller does, from where those before ended.
func streams(t *testing.T, s *store.Store, k tasks.Ticket, call int) {
	t.Helper()
	ctx, at, want := t.Context(), 0, ""
	for _, part := range []string{"data: " + trace("event") + "\n\n", "data: " + strings.Repeat("y", 100<<10) + "\n\n", "data: end\n\n"} {
		for range 2 { // sent again after a lost answer
			if _, taken, err := s.AppendEvents(ctx, k, call, at, []byte(part), tasks.StreamOpen); err != nil || !taken {
				t.Fatalf("events at %d: %v, %v", at, taken, err)
			}
		}
		size, _, err := s.AppendEvents(ctx, k, call, at, []byte(part), tasks.StreamOpen)
		must(t, err)
		at, want = at+size, want+part
	}
	_, _, err := s.AppendEvents(ctx, k, call, at, nil, tasks.StreamWhole)
	must(t, err)
	var got []byte
	for from := 0; ; {
		e, err := s.Events(ctx, k.ID, from)
		must(t, err)
		got, from = append(got, e.Raw...), from+e.Size
		if !e.More {
			break
		}
	}
	if string(got) != want {
		t.Errorf("read %d bytes of events, want %d", len(got), len(want))
	}
}

// sends makes an attempt at each delivery of a job, which fails.
func sends(t *testing.T, s *store.Store, j tasks.Job) {
	t.Helper()
	ctx := t.Context()
	swept, err := s.SweepDeliveries(ctx)
	must(t, err)
	open, err := s.OpenDeliveries(ctx, swept.Hand)
	if err != nil || len(open) != 2 {
		t.Fatalf("%d deliveries, %v", len(open), err)
	}
	for _, o := range open {
		if o.Job == nil || o.Endpoint == nil && o.Delivery.URL != j.WebhookURL || o.Endpoint != nil && (o.Endpoint.Keys.OldSecret != trace("secret") || string(o.Job.Result) == "") {
			t.Errorf("opened %+v", o)
		}
		_, err := s.SettleDeliveries(ctx, []tasks.Settled{{
			Ticket: tasks.DeliveryTicket{ID: o.Delivery.ID, Fence: o.Delivery.Fence}, Tenant: "acme", Status: tasks.DeliveryExhausted, Counted: true, Reason: "x",
			Attempt: tasks.DeliveryAttempt{Outcome: "http_error", Status: 500, Answer: trace("receiver")}, Body: []byte(trace("delivery")),
		}})
		must(t, err)
		if d, err := s.Delivery(ctx, "acme", o.Delivery.ID); err != nil || d.Log[0].Answer != trace("receiver") {
			t.Errorf("the delivery: %+v, %v", d, err)
		}
	}
}

// lengthy has a prompt and a result that lie elsewhere, where there is a store of bodies.
func lengthy(t *testing.T, s *store.Store) {
	t.Helper()
	ctx := t.Context()
	j := job("acme")
	j.Request.Body = []byte(`"` + strings.Repeat(trace("long prompt")+" ", 500) + `"`)
	want := string(j.Request.Body)
	k := submits(t, s, j)[0]
	held, err := s.Take(ctx, k)
	if err != nil || string(held.Request.Body) != want {
		t.Fatalf("a long prompt: %d bytes, %v", len(held.Request.Body), err)
	}
	start(t, s, k)
	ended := won
	ended.Result = []byte(`"` + strings.Repeat(trace("long answer")+" ", 500) + `"`)
	_, err = s.End(ctx, k, ended)
	must(t, err)
	if got, err := s.Job(ctx, "acme", j.ID); err != nil || string(got.Result) != string(ended.Result) {
		t.Errorf("a long result: %d bytes, %v", len(got.Result), err)
	}
}

// fails has a job end with what a provider said.
func fails(t *testing.T, s *store.Store) {
	t.Helper()
	j := job("acme")
	k := submits(t, s, j)[0]
	take(t, s, k)
	start(t, s, k)
	_, err := s.End(t.Context(), k, tasks.Ending{Status: tasks.StatusFailed, Error: &tasks.JobError{Code: "rejected", Message: trace("error"), Body: trace("refusal")}, Attempt: tasks.Attempt{Outcome: "rejected"}})
	must(t, err)
	if got, err := s.Job(t.Context(), "acme", j.ID); err != nil || got.Error == nil || got.Error.Message != trace("error") || got.Error.Body != trace("refusal") {
		t.Errorf("the error: %+v, %v", got.Error, err)
	}
}

func batch(t *testing.T, s *store.Store) {
	t.Helper()
	ctx := t.Context()
	b, _, err := s.OpenBatch(ctx, "batch_1", "acme", trace("key")+"2")
	must(t, err)
	good, bad := job("acme"), job("acme")
	good.Batch, bad.Batch, good.Request.Body = b.ID, b.ID, []byte(`"`+trace("line")+`"`)
	bad.Error = &tasks.JobError{Code: "invalid_request", Message: trace("fault")}
	must(t, s.StageBatch(ctx, b.ID, []tasks.Job{good, bad}, tasks.Limits{}))
	_, err = s.CommitBatch(ctx, b.ID, tasks.BatchCommit{Lines: 2, Fingerprint: "print", Digest: "digest"})
	must(t, err)
	must(t, s.SaveAnswer(ctx, "acme", trace("key")+"2", b.ID, []byte(trace("first answer"))))
	if _, prior, err := s.OpenBatch(ctx, "batch_2", "acme", trace("key")+"2"); err != nil || prior == nil || prior.Fingerprint != "print" || prior.ID != b.ID || string(prior.Answer) != trace("first answer") {
		t.Errorf("the same batch again: %+v, %v", prior, err)
	}
	_, tickets, err := s.Unfold(ctx, b.ID)
	must(t, err)
	held, err := s.Take(ctx, tickets[0])
	if err != nil || string(held.Request.Body) != string(good.Request.Body) {
		t.Errorf("a line: %s, %v", held.Request.Body, err)
	}
	if got, err := s.Job(ctx, "acme", bad.ID); err != nil || got.Error == nil || got.Error.Message != trace("fault") {
		t.Errorf("a faulty line: %+v, %v", got.Error, err)
	}
}

// keeps keeps documents and a file.
func keeps(t *testing.T, s *store.Store, dir string) {
	t.Helper()
	ctx := t.Context()
	file := strings.Replace(store.NewID("file"), "_", "-", 1)
	put := tasks.Document{ID: file, Tenant: "acme", Kind: tasks.FileDocument, Body: []byte(trace("document")), Expires: time.Hour}
	must(t, s.AddContent(ctx, "acme", file, []byte(trace("file")), tasks.Limits{}))
	must(t, s.PutDocument(ctx, put))
	claimed := tasks.Document{ID: "doc-2", Tenant: "acme", Kind: tasks.FileDocument, Body: []byte(trace("claim")), Expires: time.Hour}
	_, err := s.ClaimDocument(ctx, claimed)
	must(t, err)
	if prior, err := s.ClaimDocument(ctx, claimed); err != nil || string(prior) != trace("claim") {
		t.Errorf("claimed again: %s, %v", prior, err)
	}
	if d, err := s.Document(ctx, "acme", file); err != nil || string(d.Body) != trace("document") {
		t.Errorf("the document: %s, %v", d.Body, err)
	}
	if list, _, err := s.Documents(ctx, tasks.DocumentFilter{Tenant: "acme", Kind: tasks.FileDocument, Limit: 10}); err != nil || len(list) != 1 || string(list[0].Body) != trace("document") {
		t.Errorf("the documents: %v, %v", list, err)
	}
	if b, err := s.Content(ctx, file, 0); err != nil || string(b) != trace("file") {
		t.Errorf("the file: %s, %v", b, err)
	}
	b, err := s.Sealed(ctx, "acme", "job_1", []byte(trace("spill")))
	must(t, err)
	if plain, err := s.Opened(ctx, "acme", "job_1", b); err != nil || string(plain) != trace("spill") {
		t.Errorf("what lay on a disk: %s, %v", plain, err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "spill"), b, 0o600))
}

// found are the canaries that lie in a folder, in plain or as base64 would have them.
func found(t *testing.T, dir string) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		for _, name := range canaries {
			if bytes.Contains(b, []byte(trace(name))) {
				names = append(names, name)
			}
		}
		return err
	}))
	slices.Sort(names)
	return slices.Compact(names)
}

// What somebody puts in another record's place is told from what belongs there.
func TestASwappedRecordFailsClosed(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	s := sealing(t, rdb, "a")
	ctx := t.Context()
	one, two, other := job("acme"), job("acme"), job("globex")
	for i, j := range []tasks.Job{one, two, other} {
		k := submits(t, s, j)[0]
		take(t, s, k)
		start(t, s, k)
		ended := won
		ended.Result = fmt.Appendf(nil, "%d", i)
		_, err := s.End(ctx, k, ended)
		must(t, err)
	}
	field := func(id, name string) string { return rdb.HGet(ctx, "sluice:{s}:j:"+id, name).Val() }
	for _, name := range []string{"r", "e"} {
		for _, from := range []tasks.Job{two, other} {
			was := field(one.ID, name)
			must(t, rdb.HSet(ctx, "sluice:{s}:j:"+one.ID, name, field(from.ID, name)).Err())
			var sealed *tasks.SealError
			if j, err := s.Job(ctx, "acme", one.ID); !errors.As(err, &sealed) || !errors.Is(err, tasks.ErrUnavailable) {
				t.Errorf("with %s of a job of %s: %+v, %v", name, from.Tenant, j, err)
			}
			must(t, rdb.HSet(ctx, "sluice:{s}:j:"+one.ID, name, was).Err())
		}
	}
	// Nor does one tenant's key open another's.
	must(t, rdb.Rename(ctx, "sluice:{s}:sk:globex", "sluice:{s}:sk:acme").Err())
	if j, err := sealing(t, rdb, "a").Job(ctx, "acme", one.ID); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("with another tenant's key: %+v, %v", j, err)
	}
	if j, err := s.Job(ctx, "acme", one.ID); err != nil || string(j.Result) != "0" {
		t.Errorf("as it was: %+v, %v", j, err)
	}
}

// A tenant's key that is deleted is gone for what was copied before, also where the tenant
// goes on.
func TestNobodyReadsWhatIsShredded(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	s := sealing(t, rdb, "a")
	ctx := t.Context()
	j := job("acme")
	k := submits(t, s, j)[0]
	copied := rdb.Dump(ctx, "sluice:{s}:j:"+j.ID).Val()
	must(t, s.ForgetKey(ctx, "acme"))
	if names := rdb.HKeys(ctx, "sluice:{s}:sks").Val(); len(names) > 0 {
		t.Errorf("keys of %v are left", names)
	}
	next, _ := create(t, s, job("acme")) // under another key
	must(t, rdb.RestoreReplace(ctx, "sluice:{s}:j:"+j.ID, 0, copied).Err())
	var foreign *seal.ForeignError
	for name, of := range map[string]*store.Store{"this process": s, "another": sealing(t, rdb, "a")} {
		if got, err := of.Job(ctx, "acme", j.ID); !errors.As(err, &foreign) {
			t.Errorf("%s reads %+v, %v", name, got, err)
		}
		if _, err := of.Job(ctx, "acme", next.ID); err != nil {
			t.Errorf("%s does not read what came later: %v", name, err)
		}
	}
	// Its worker loses it, and it holds no place.
	if _, err := s.Take(ctx, k); !errors.Is(err, tasks.ErrLost) {
		t.Errorf("taken: %v", err)
	}
}

func TestMasterKeysRotateWhileEverythingRuns(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	ctx := t.Context()
	ring := ringOf(t, "old")
	s := store.New(store.Config{Redis: rdb, Depth: map[string]int{pool: 8}, Seal: ring})
	var ids []string
	for i := range 20 {
		b, err := s.Sealed(ctx, fmt.Sprint("t", i), "id", []byte("x"))
		must(t, err)
		ids = append(ids, string(b))
	}
	var others []any // whose keys have just been deleted: more than a step
	for i := range 600 {
		others = append(others, fmt.Sprint("other", i), "0011223344556677")
	}
	must(t, rdb.HSet(ctx, "sluice:{s}:sks", others...).Err())
	j := job("acme")
	submits(t, s, j)
	must(t, ring.Set([]seal.Master{{Name: "old", Key: bytes.Repeat([]byte("o"), 32)}, {Name: "new", Key: bytes.Repeat([]byte("n"), 32)}}))
	done, steps := 0, 0
	for next, more := uint64(0), true; more; steps++ {
		var n int
		var left map[string]int
		var err error
		next, n, left, err = s.Rotate(ctx, next)
		must(t, err)
		if len(left) > 0 {
			t.Errorf("left %v", left)
		}
		done, more = done+n, next != 0
	}
	if done != 21 || steps < 2 {
		t.Errorf("%d keys in %d steps", done, steps)
	}
	if got, err := sealing(t, rdb, "new").Job(ctx, "acme", j.ID); err != nil || got.Metadata["k"] != "v" {
		t.Errorf("without the old key: %+v, %v", got, err)
	}
	lost := sealing(t, rdb, "other")
	var sealed *tasks.SealError
	_, err := lost.Job(ctx, "acme", j.ID)
	if !errors.As(err, &sealed) || sealed.Key != "new" || !slices.Equal(lost.MissingKeys(), []string{"new"}) {
		t.Errorf("without either: %v, missing %v", err, lost.MissingKeys())
	}
	wanting := 0
	for next, more := uint64(0), true; more; more = next != 0 {
		var left map[string]int
		next, _, left, err = lost.Rotate(ctx, next)
		must(t, err)
		wanting += left["new"]
	}
	if wanting == 0 {
		t.Error("rotated without the key")
	}
	if b, err := s.Opened(ctx, "t7", "id", []byte(ids[7])); err != nil || string(b) != "x" {
		t.Errorf("what was sealed before: %s, %v", b, err)
	}
}

// Sealing is switched on, off and on again: what was written before is read, and found.
func TestSealingIsSwitchedOnAndOff(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	ctx := t.Context()
	at := func(c store.Config) *store.Store {
		c.Redis, c.Depth = rdb, map[string]int{pool: 8}
		return store.New(c)
	}
	plain, sealed, off := at(store.Config{}), at(store.Config{Seal: ringOf(t, "a")}), at(store.Config{Seal: ringOf(t, "a"), Plain: true})
	made := map[string]string{}
	for key, s := range map[string]*store.Store{"plain": plain, "sealed": sealed, "off": off} {
		j := job("acme")
		j.Metadata = map[string]string{"made": key}
		_, _, err := s.Create(ctx, tasks.Submission{Job: j, Key: key, Fingerprint: "f" + key})
		must(t, err)
		must(t, s.SaveAnswer(ctx, "acme", key, j.ID, []byte(key)))
		made[key] = j.ID
	}
	for name, s := range map[string]*store.Store{"sealed": sealed, "off": off} {
		for key, id := range made {
			if j, err := s.Job(ctx, "acme", id); err != nil || j.Metadata["made"] != key {
				t.Errorf("%s reads the job of %s: %+v, %v", name, key, j.Metadata, err)
			}
			j := job("acme")
			c, _, err := s.Create(ctx, tasks.Submission{Job: j, Key: key, Fingerprint: "f" + key})
			if err != nil || c[0].Job.ID != id || string(c[0].Answer) != key {
				t.Errorf("%s finds under the key of %s: %+v, %v", name, key, c, err)
			}
			page, err := s.Jobs(ctx, tasks.Filter{Tenant: "acme", Limit: 10, Metadata: map[string]string{"made": key}})
			if err != nil || len(page.Jobs) != 1 || page.Jobs[0].ID != id {
				t.Errorf("%s finds by metadata of %s: %d jobs, %v", name, key, len(page.Jobs), err)
			}
			if _, err := s.Edit(ctx, "acme", id, func(j *tasks.Job) error { j.Metadata["more"] = name; return nil }); err != nil {
				t.Errorf("%s edits the job of %s: %v", name, key, err)
			}
		}
	}
	var missing *tasks.SealError
	if _, err := plain.Job(ctx, "acme", made["sealed"]); !errors.As(err, &missing) {
		t.Logf("it was edited while sealing was off: %v", err)
	}
}

// A job that ends where somebody waits for it is read from the notice.
func TestANoticeBringsASealedJob(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	s := sealing(t, rdb, "a")
	n := store.NewNotices(rdb, "", s, nil)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- n.Run(ctx) }()
	defer func() { cancel(); must(t, <-over) }()
	j := job("acme")
	ended, stop := watching(t, n.WatchEnd, j.ID)
	defer stop()
	k := submits(t, s, j)[0]
	take(t, s, k)
	start(t, s, k)
	_, err := s.End(ctx, k, won)
	must(t, err)
	if got := <-ended; got == nil || string(got.Result) != string(won.Result) || got.Metadata["k"] != "v" {
		t.Errorf("the notice brings %+v", got)
	}
}

// What repeats a call finds it, and what it asked is told by no key.
func TestASealedCallIsFoundByItsRepeat(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	s, j := sealing(t, rdb, "a"), job("acme")
	_, _, err := s.Create(t.Context(), tasks.Submission{Job: j, Named: true, Caller: &tasks.Call{Tenant: "acme", ID: j.ID, Digest: "raw-digest"}})
	must(t, err)
	if all, err := rdb.Keys(t.Context(), "*raw-digest*").Result(); err != nil || len(all) > 0 {
		t.Errorf("%v: %v", all, err)
	}
	got, err := s.OpenCall(t.Context(), tasks.Call{Tenant: "acme", ID: "job_repeat", Digest: "raw-digest", Repeat: true})
	if must(t, err); !got.Prior || got.ID != j.ID {
		t.Errorf("the repeat finds %+v, want %s", got, j.ID)
	}
}

// Without keys nothing that a caller or a receiver wrote is taken for sealed.
func TestWithoutKeysNothingIsSealed(t *testing.T) {
	t.Parallel()
	s := store.New(store.Config{Redis: redistest.New(t), ResultTTL: time.Hour})
	e, err := s.CreateEndpoint(t.Context(), tasks.Endpoint{
		ID: store.NewID("whe"), Tenant: "acme", URL: "sealed:_wEA", Events: []string{"job.failed"}, Signature: "v1", Keys: tasks.SigningKeys{Secret: "whsec_1"},
	})
	must(t, err)
	if got, err := s.Endpoint(t.Context(), "acme", e.ID); err != nil || got.URL != "sealed:_wEA" {
		t.Errorf("%+v: %v", got, err)
	}
}
