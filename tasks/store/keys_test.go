package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// named is one key or channel as lua/keys.lua names it.
type named struct {
	words  string   // q:<pool>:<tenant>
	kind   string   // what Redis calls it, or "channel", or "never" for a key that is never there
	fields []string // of a hash, where they are not names
}

var (
	fieldLine = regexp.MustCompile(`^-- (\w+) +\S`)
	luaLine   = regexp.MustCompile(`^function keys\.(\w+)\([^)]*\) return (P \.\. .+) end -- (hash|zset|list|string|channel|never)\b(: .+ -> )?`)
	goLine    = regexp.MustCompile(`^func \(k keys\) (\w+)\([^)]*\) string +\{ return (string\(k\) \+ .+) \}$`)
)

// words is a key's pattern, of the expression that builds it.
func words(expr string) string {
	var out strings.Builder
	for _, part := range regexp.MustCompile(` ?(?:\.\.|\+) ?`).Split(expr, -1)[1:] {
		if text, ok := strings.CutPrefix(strings.ReplaceAll(part, `"`, "'"), "'"); ok {
			out.WriteString(strings.TrimSuffix(text, "'"))
		} else {
			out.WriteString("<" + part + ">")
		}
	}
	return out.String()
}

func readLines(t *testing.T, file string) []string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// table reads lua/keys.lua.
func table(t *testing.T) map[string]named {
	t.Helper()
	out := map[string]named{}
	var fields []string
	for _, line := range readLines(t, "lua/keys.lua") {
		if m := luaLine.FindStringSubmatch(line); m != nil {
			if (m[3] == "hash") != (len(fields) > 0 || m[4] != "") {
				t.Errorf("%s: only a hash has fields, and says which", m[1])
			}
			out[m[1]] = named{words(m[2]), m[3], fields}
			fields = nil
		} else if m := fieldLine.FindStringSubmatch(line); m != nil {
			fields = append(fields, m[1])
		} else if fields = nil; strings.HasPrefix(line, "function") {
			t.Errorf("lua/keys.lua has a line that does not say what is at a key: %s", line)
		}
	}
	return out
}

func TestEveryKeyIsNamedOnceAndAlikeInGoAndLua(t *testing.T) {
	t.Parallel()
	all := table(t)
	if len(all) < 50 {
		t.Fatalf("%d keys in lua/keys.lua", len(all))
	}
	seen := map[string]string{}
	for name, k := range all {
		first, _, _ := strings.Cut(k.words, ":")
		if other := seen[first]; other != "" {
			t.Errorf("%s and %s both begin with %s", name, other, first)
		}
		seen[first] = name
	}
	inGo := 0
	for _, line := range readLines(t, "keys.go") {
		if m := goLine.FindStringSubmatch(line); m != nil {
			inGo++
			if got, want := words(m[2]), all[m[1]].words; got != want {
				t.Errorf("keys.go has %s as %q, lua/keys.lua as %q", m[1], got, want)
			}
		} else if strings.HasPrefix(line, "func (k keys)") {
			t.Errorf("keys.go has a line that this test cannot read: %s", line)
		}
	}
	if inGo < 20 {
		t.Fatalf("%d keys in keys.go", inGo)
	}
	files, err := filepath.Glob("*.go")
	scripts, err2 := filepath.Glob("lua/*.lua")
	if err != nil || err2 != nil || len(scripts) < 30 {
		t.Fatal(files, scripts, err, err2)
	}
	used := map[string]bool{}
	byHand := regexp.MustCompile(`\bP \.\.|KEYS\[1\] ?\.\.|string\((s|n)\.keys\) ?\+|\{s\}:`)
	for _, file := range append(files, scripts...) {
		if strings.HasSuffix(file, "_test.go") || file == "keys.go" || file == "lua/keys.lua" {
			continue
		}
		for i, line := range readLines(t, file) {
			if byHand.MatchString(line) {
				t.Errorf("%s:%d builds a key by hand: %s", file, i+1, strings.TrimSpace(line))
			}
			for _, m := range regexp.MustCompile(`\bkeys\.(\w+)\(`).FindAllStringSubmatch(line, -1) {
				used[m[1]] = true
				if _, ok := all[m[1]]; !ok {
					t.Errorf("%s:%d uses the key %s, which lua/keys.lua does not name", file, i+1, m[1])
				}
			}
		}
	}
	for name := range all {
		if !used[name] {
			t.Errorf("nobody uses the key %s", name)
		}
	}
}

// watch collects what Redis is asked for until the returned function is called.
func watch(t *testing.T, server *redistest.Server, rdb *redis.Client) func() []string {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", server.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := fmt.Fprint(c, "MONITOR\r\n"); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+OK") {
		t.Fatal(line, err)
	}
	const end = "that was all"
	lines := make(chan []string, 1)
	go func() {
		var out []string
		for {
			line, err := in.ReadString('\n')
			if err != nil || strings.Contains(line, end) {
				lines <- out
				return
			}
			out = append(out, line)
		}
	}()
	return func() []string {
		if err := rdb.Echo(context.WithoutCancel(t.Context()), end).Err(); err != nil {
			t.Fatal(err)
		}
		return <-lines
	}
}

// What lua/keys.lua names is what Redis sees over the whole life of jobs, batches,
// deliveries and a pause: every key and channel, of the kind and with the fields
// that stand there, and no other.
func TestRedisSeesTheKeysThatAreNamedAndNoOther(t *testing.T) {
	t.Parallel()
	all := table(t)
	server := redistest.Start(t, redistest.Options{})
	rdb := server.Client()
	said := watch(t, server, rdb)
	elsewhere, err := bodies.Open(bodies.Config{URL: "file://" + t.TempDir()})
	must(t, err)
	t.Cleanup(elsewhere.Close)
	l := &life{T: t, rdb: rdb, all: all, fields: map[string]map[string]bool{}, s: store.New(store.Config{
		Bodies: elsewhere, Above: above, Process: "0.2.0 one",
		Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 8, "q": 8}, Rates: oneRate,
		Weight: func(string) int64 { return 2 }, Places: places, NewSecret: func() string { return "whsec_1" }, Lanes: map[string]store.Shares{pool: {High: 3, Normal: 2, Low: 1}},
	})}
	l.live()

	seen := map[string]bool{}
	for key := range keysIn(said()) {
		name := l.nameOf(key)
		if name == "" {
			t.Errorf("Redis sees the key %s, which lua/keys.lua does not name", key)
		}
		seen[name] = true
	}
	for name, k := range all {
		if !seen[name] {
			t.Errorf("lua/keys.lua names %s, %s, which Redis never sees", name, k.words)
		}
		if got := slices.Sorted(maps.Keys(l.fields[name])); k.fields != nil && !slices.Equal(got, slices.Sorted(slices.Values(k.fields))) {
			t.Errorf("%s has the fields\n%v; lua/keys.lua names\n%v", name, got, slices.Sorted(slices.Values(k.fields)))
		}
	}
}

// keysIn are the keys and channels, without their prefix, that stand as arguments in
// the lines of MONITOR.
func keysIn(lines []string) map[string]bool {
	keys := map[string]bool{}
	for _, line := range lines {
		for _, part := range strings.Split(line, `"sluice:{s}:`)[1:] {
			end := 0
			for end < len(part) && part[end] != '"' {
				if part[end] == '\\' {
					end++ // what it escapes does not end the argument
				}
				end++
			}
			keys[part[:min(end, len(part))]] = true
		}
	}
	delete(keys, "")
	return keys
}

// life is a store and what was found in its Redis.
type life struct {
	*testing.T
	s      *store.Store
	rdb    *redis.Client
	all    map[string]named
	fields map[string]map[string]bool // by a hash's name: those that it had
}

func (l *life) nameOf(key string) string {
	for name, k := range l.all {
		if first, rest, more := strings.Cut(k.words, ":"); !more && key == first || more && strings.HasPrefix(key, first+":") && strings.Count(key, ":") >= strings.Count(rest, ":") {
			return name
		}
	}
	return ""
}

// look compares what is in Redis now with the table.
func (l *life) look() {
	l.Helper()
	ctx := l.Context()
	scanned, err := l.rdb.Keys(ctx, "*").Result()
	must(l.T, err)
	if len(scanned) == 0 {
		return
	}
	kinds := make([]*redis.StatusCmd, len(scanned))
	fields := make([]*redis.StringSliceCmd, len(scanned))
	_, _ = l.rdb.Pipelined(ctx, func(p redis.Pipeliner) error { // what is no hash has no fields; its error says no more
		for i, key := range scanned {
			kinds[i], fields[i] = p.Type(ctx, key), p.HKeys(ctx, key)
		}
		return nil
	})
	for i, key := range scanned {
		name := l.nameOf(strings.TrimPrefix(key, "sluice:{s}:"))
		kind, err := kinds[i].Result()
		must(l.T, err)
		if kind == "none" {
			continue // it has just ended
		}
		if kind != l.all[name].kind {
			l.Errorf("%s is a %s; lua/keys.lua calls %s a %s", key, kind, name, l.all[name].kind)
		}
		if l.all[name].fields == nil {
			continue
		}
		if l.fields[name] == nil {
			l.fields[name] = map[string]bool{}
		}
		for _, f := range fields[i].Val() {
			f, _, _ = strings.Cut(f, ":")
			l.fields[name][f] = true
		}
	}
}

func (l *life) live() {
	must(l.T, l.rdb.ConfigSet(l.Context(), "maxmemory", "1gb").Err()) // else nobody minds how large results are
	_, err := l.s.Beat(l.Context())
	must(l.T, err)
	l.endpoints()
	l.aJob()
	l.losses()
	l.bundles()
	l.documents()
	l.sharing()
	l.detour()
	l.batches()
	l.sweeps()
	l.sendings()
	_, tickets := l.submit(func(s *tasks.Submission) { s.Job.Request.Body = large(asks) })
	l.end(tickets[0], largeWin)
	must(l.T, store.NewPieces(l.rdb, "").Add(l.Context(), "name", []byte("piece"), 0))
	l.look()
	_, err = l.s.BodiesTurn(l.Context(), time.Minute)
	must(l.T, err)
	_, err = l.s.OpenCall(l.Context(), tasks.Call{Tenant: "acme", ID: "job_1", Digest: "digest"})
	must(l.T, err)
	_, _, err = l.s.SaveConducts(l.Context(), []tasks.Conduct{{Tenant: "acme", Data: []byte("a"), Found: true}})
	must(l.T, err)
	l.look()
	l.audits()
	l.tokens()
	l.forecasts()
	l.users()
	l.limits()
	s := sealing(l.T, l.rdb, "a")
	must(l.T, s.TellKeys(l.Context(), "one"))
	must(l.T, s.ForgetKey(l.Context(), "nobody"))
	sealed := job("acme")
	k := submits(l.T, s, sealed)[0]
	take(l.T, s, k)
	must(l.T, s.Listen(l.Context(), sealed.ID))
	_, err = s.Append(l.Context(), k, start(l.T, s, k).Call, 0, "text")
	must(l.T, err)
	_, err = s.End(l.Context(), k, won)
	must(l.T, err)
	_, err = l.s.Beat(l.Context())
	must(l.T, err)
	_, err = l.s.Missing(l.Context())
	must(l.T, err)
	l.look()
}

// forecasts tells more than are kept, one of them of a job that has started.
func (l *life) forecasts() {
	l.Helper()
	j, tickets := l.submit(nil)
	told := make([]tasks.Forecast, 48)
	for n := range 12 {
		for i := range told {
			told[i] = tasks.Forecast{Job: fmt.Sprintf("job_%d_%d", n, i), At: time.Now(), Predicted: time.Hour, Told: time.Hour, Late: time.Hour}
		}
		_, _, err := l.s.Foretold(l.Context(), pool, told)
		must(l.T, err)
	}
	l.end(tickets[0], retried)
	at := time.Now().Add(-time.Hour)
	for n := range 16 { // of which one of two is kept
		_, _, err := l.s.Foretold(l.Context(), pool, []tasks.Forecast{{Job: j.ID, At: at.Add(time.Duration(n) * time.Millisecond), Predicted: time.Minute, Told: time.Minute, Late: time.Minute}})
		must(l.T, err)
	}
	_, err := l.s.Score(l.Context(), pool, time.Now())
	must(l.T, err)
}

// users is one that has one of everything, and that alone.
func (l *life) users() {
	l.Helper()
	(&flat{T: l.T, Store: l.s}).fill(ada)
	l.look()
}

// limits is a tenant that may have one job out, and has two, and a user likewise.
func (l *life) limits() {
	l.Helper()
	for range 2 {
		_, _ = l.submit(func(s *tasks.Submission) { s.Job.Tenant = "few" })
		_, _ = l.submit(func(s *tasks.Submission) { s.Job.Tenant, s.Job.User = "each", "ada" })
	}
	must(l.T, l.s.SetTenant(l.Context(), "few", tasks.TenantSettings{Weight: new(int64)}, 1, tasks.Places{Tenant: 1}, tasks.Act{At: time.Now(), Action: "set_tenant"}))
	l.look()
	_, err := sealing(l.T, l.rdb, "a").DeleteTenant(l.Context(), "few", tasks.Act{At: time.Now(), Action: "delete_tenant"})
	must(l.T, err)
	l.look()
}

func (l *life) submit(change func(*tasks.Submission)) (tasks.Job, []tasks.Ticket) {
	l.Helper()
	sub := tasks.Submission{Job: job("acme"), Limits: tasks.Limits{TokensPerDay: 1e6, QueuedBytes: 1e6}}
	sub.Job.Reserved, sub.Job.Bytes, sub.Job.AtMost = 20, 30, 40
	if change != nil {
		change(&sub)
	}
	made, tickets, err := l.s.Create(l.Context(), sub)
	must(l.T, err)
	must(l.T, made[0].Err)
	l.look()
	return made[0].Job, tickets
}

func (l *life) end(k tasks.Ticket, e tasks.Ending) []tasks.Ticket {
	l.Helper()
	take(l.T, l.s, k)
	start(l.T, l.s, k)
	l.look()
	next, err := l.s.End(l.Context(), k, e)
	must(l.T, err)
	l.look()
	return next
}

var retried = tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Delay: time.Hour, Attempt: tasks.Attempt{Outcome: tasks.ServerError}}

func (l *life) endpoints() {
	ctx := l.Context()
	keys := tasks.SigningKeys{Secret: "whsec_1", Private: "whsk_1"}
	_, err := l.s.TenantKeys(ctx, "acme")
	must(l.T, err)
	_, err = l.s.RotateKeys(ctx, "acme", "", keys)
	must(l.T, err)
	_, err = l.s.RotateKeys(ctx, "acme", "", tasks.SigningKeys{Secret: "whsec_2", Private: "whsk_2"})
	must(l.T, err)
	for _, url := range []string{"https://a.example/", "https://b.example/"} {
		e, err := l.s.CreateEndpoint(ctx, tasks.Endpoint{
			ID: store.NewID("whe"), Tenant: "acme", URL: url, IncludeResult: true, OpenAI: true, MaxPerSecond: 1, Signature: "v1a", Keys: keys, Headers: tasks.Headers{"X-A": "1"},
			Events: []string{"job.succeeded", "pool.paused", "endpoint.disabled", "batch.completed"},
		})
		must(l.T, err)
		_, err = l.s.RotateKeys(ctx, "acme", e.ID, tasks.SigningKeys{Secret: "whsec_2", Private: "whsk_2"})
		must(l.T, err)
	}
	must(l.T, l.s.PoolEvent(ctx, pool, true, []byte("{}")))
	must(l.T, l.s.SetPaused(ctx, pool, true))
	l.look()
	must(l.T, l.s.SetPaused(ctx, pool, false))
	turns, err := l.s.Watch(ctx, true, pool)
	must(l.T, err)
	must(l.T, l.s.Bound(ctx, turns[0], tasks.Bind{For: tasks.WaitPaused, Shares: 1}))
	l.look()
}

// losses is a job whose worker is lost, and then one that stops.
func (l *life) losses() {
	ctx := l.Context()
	j, tickets := l.submit(func(*tasks.Submission) {})
	for _, stops := range []bool{false, true} {
		k := tickets[0]
		k.Alone, k.Asks = true, asking
		take(l.T, l.s, k)
		start(l.T, l.s, k)
		if stops {
			must(l.T, l.s.Leave(ctx, []tasks.Ticket{k}))
		}
		l.look()
		must(l.T, l.rdb.ZAdd(ctx, "sluice:{s}:run:"+pool, redis.Z{Score: 1, Member: j.ID}).Err())
		swept, err := l.s.Sweep(ctx)
		must(l.T, err)
		tickets = swept.Hand
		l.look()
	}
}

// bundles is one that is gathered, and one that is sent.
func (l *life) bundles() {
	l.Helper()
	for range 3 {
		_, tickets := l.submit(func(*tasks.Submission) {})
		k := into(tickets[0], "kind", store.NewID("nb"), time.Now().Add(time.Hour))
		take(l.T, l.s, k)
		start(l.T, l.s, k)
		l.look()
	}
	b, _, err := l.s.ClaimBundle(l.Context(), pool, time.Minute)
	must(l.T, err)
	must(l.T, l.s.SaveBundle(l.Context(), b, 0))
	l.look()
}

func (l *life) aJob() {
	ctx := l.Context()
	j, tickets := l.submit(func(s *tasks.Submission) {
		s.Key, s.Fingerprint, s.Job.Deadline, s.Job.WebhookURL = "k", "f", time.Now().Add(time.Hour), "https://c.example/"
	})
	must(l.T, l.s.SaveAnswer(ctx, "acme", "k", j.ID, []byte("answer")))
	k := tickets[0]
	must(l.T, l.s.SaveSession(ctx, "name", []byte("who"), time.Hour))
	must(l.T, l.s.Listen(ctx, j.ID))
	take(l.T, l.s, k)
	_, err := l.s.Renew(ctx, tickets)
	must(l.T, err)
	l.look()
	started := start(l.T, l.s, k)
	_, err = l.s.Append(ctx, k, started.Call, 0, "text")
	must(l.T, err)
	_, _, err = l.s.AppendEvents(ctx, k, started.Call, 0, []byte("data: {}\n\n"), tasks.StreamWhole)
	must(l.T, err)
	l.look()
	_, err = l.s.End(ctx, k, won)
	must(l.T, err)
	must(l.T, l.s.KeepAnswer(ctx, "acme", "digest", j.ID, won.Result, time.Minute))
	l.look()
	later, _ := l.submit(func(s *tasks.Submission) { s.Job.NotBefore = time.Now().Add(time.Hour) })
	_, err = l.s.Cancel(ctx, "acme", later.ID)
	must(l.T, err)
	// Its caller wants it no earlier, also when it is asked for again.
	if j, again, err := l.s.Requeue(ctx, "acme", later.ID, tasks.Limits{TokensPerDay: 1e6}); err != nil || len(again) > 0 || j.Status != tasks.StatusScheduled || !j.DueAt.Equal(later.NotBefore.Truncate(time.Millisecond)) {
		l.Errorf("again: %v, %s for %s, %v", again, j.Status, j.DueAt, err)
	}
	soon, _ := l.submit(func(*tasks.Submission) {})
	_, err = l.s.Cancel(ctx, "acme", soon.ID)
	must(l.T, err)
	_, again, err := l.s.Requeue(ctx, "acme", soon.ID, tasks.Limits{TokensPerDay: 1e6})
	must(l.T, err)
	l.end(again[0], retried)
	_, err = l.s.ReserveKey(ctx, "acme", "bulk", "f", "bulk_1")
	must(l.T, err)
}

func (l *life) documents() {
	_, err := l.s.ClaimDocument(l.Context(), tasks.Document{ID: "upload-1", Tenant: "acme", Kind: tasks.UploadDocument, Body: []byte("{}"), Expires: time.Hour})
	must(l.T, err)
	must(l.T, l.s.AddContent(l.Context(), "acme", "file-01JDXXXXXXXXXXXXXXXXXXXXXX", []byte("content"), tasks.Limits{}))
	must(l.T, l.s.PutDocument(l.Context(), tasks.Document{ID: "file-01JDXXXXXXXXXXXXXXXXXXXXXX", Tenant: "acme", Kind: tasks.FileDocument, Body: []byte("{}"), Expires: time.Hour}))
	l.look()
}

func (l *life) sharing() {
	var crew []tasks.Ticket
	for range 2 {
		_, tickets := l.submit(nil)
		join(l.T, l.s, tickets[0])
		crew = append(crew, tickets...)
	}
	start(l.T, l.s, crew[0])
	l.look()
	_, err := l.s.End(l.Context(), crew[0], won)
	must(l.T, err)
}

func (l *life) detour() {
	j, _ := l.submit(func(s *tasks.Submission) { s.Job.Fallback = []string{"a", "b"} })
	_, _, err := l.s.Divert(l.Context(), pool, map[string]tasks.Detour{j.ID: {Pool: "q", Passed: 1, Left: 1}})
	must(l.T, err)
	l.look()
}

// batches has one line of each end, one that runs and one that waits.
func (l *life) batches() {
	ctx := l.Context()
	b, _, err := l.s.OpenBatch(ctx, store.NewID("batch"), "acme", "bk")
	must(l.T, err)
	l.look()
	lines := make([]tasks.Job, 600)
	for i := range lines {
		lines[i] = job("acme")
		lines[i].Batch, lines[i].Line, lines[i].Pool, lines[i].Reserved = b.ID, i+1, "q", 1
		lines[i].AtMost = 2
	}
	lines[4].Deadline = time.Now().Add(-time.Second)
	must(l.T, l.s.StageBatch(ctx, b.ID, lines, tasks.Limits{}))
	l.look()
	_, err = l.s.CommitBatch(ctx, b.ID, tasks.BatchCommit{Fingerprint: "f", Dialect: "openai", Limits: tasks.Limits{TokensPerDay: 1e6}})
	must(l.T, err)
	must(l.T, l.s.SaveAnswer(ctx, "acme", "bk", b.ID, []byte("answer")))
	var tickets []tasks.Ticket
	for left := int64(1); left > 0; {
		var more []tasks.Ticket
		left, more, err = l.s.Unfold(ctx, b.ID)
		must(l.T, err)
		tickets = append(tickets, more...)
		l.look()
	}
	for _, e := range []tasks.Ending{won, {Status: tasks.StatusFailed, Attempt: tasks.Attempt{Outcome: tasks.ServerError}}} {
		l.end(tickets[0], e)
		tickets = tickets[1:]
	}
	take(l.T, l.s, tickets[0])
	start(l.T, l.s, tickets[0])
	l.look()
	_, err = l.s.CancelBatch(ctx, "acme", b.ID)
	must(l.T, err)
	l.look()
	l.calledBatch()
	unwanted, _, err := l.s.OpenBatch(ctx, store.NewID("batch"), "acme", "other")
	must(l.T, err)
	must(l.T, l.s.AbortBatch(ctx, unwanted.ID))
}

// calledBatch is a batch of a call that says it was sent before, whose line is faulty,
// and that is deleted.
func (l *life) calledBatch() {
	ctx := l.Context()
	b, _, err := l.s.OpenBatch(ctx, store.NewID("batch"), "acme", "")
	must(l.T, err)
	j := job("acme")
	j.Batch, j.Line, j.Error = b.ID, 1, &tasks.JobError{Code: tasks.UpstreamRejected}
	must(l.T, l.s.StageBatch(ctx, b.ID, []tasks.Job{j}, tasks.Limits{}))
	_, err = l.s.CommitBatch(ctx, b.ID, tasks.BatchCommit{Digest: "d", Repeat: true})
	must(l.T, err)
	l.look()
	_, _, err = l.s.Unfold(ctx, b.ID)
	must(l.T, err)
	l.look()
	must(l.T, l.s.DeleteBatch(ctx, "acme", b.ID))
}

func (l *life) sweeps() {
	ctx := l.Context()
	l.submit(func(s *tasks.Submission) { s.Job.Deadline = time.Now().Add(-time.Second) })
	_, err := l.s.Sweep(ctx)
	must(l.T, err)
	must(l.T, l.rdb.Set(ctx, "sluice:{s}:swept", time.Now().Add(-30*time.Second).UnixMilli(), 0).Err()) // 30 s pass
	_, err = l.s.Sweep(ctx)
	must(l.T, err)
	l.look()
}

// audits looks for a job whose record was deleted by hand.
func (l *life) audits() {
	ctx := l.Context()
	j, _ := l.submit(func(s *tasks.Submission) { s.Job.Pool = "q" })
	must(l.T, l.rdb.Del(ctx, "sluice:{s}:j:"+j.ID).Err())
	must(l.T, l.rdb.ZAdd(ctx, "sluice:{s}:out:q", redis.Z{Score: 1, Member: j.ID}).Err())
	_, err := l.s.Sweep(ctx)
	must(l.T, err)
	l.look()
	for range 3 {
		_, err := l.s.Audit(ctx)
		must(l.T, err)
		l.look()
	}
}

// tokens are kept and revoked.
func (l *life) tokens() {
	ctx, now := l.Context(), time.Now()
	must(l.T, l.s.SaveToken(ctx, tasks.Token{ID: "tok_1", Tenant: "acme", Pools: []string{"p"}, Expires: now.Add(time.Hour)}, tasks.Act{At: now}))
	must(l.T, l.s.RevokeToken(ctx, "tok_1", time.Hour, tasks.Act{At: now}))
	must(l.T, l.s.Note(ctx, tasks.Act{At: now}))
	l.look()
}

// sendings tries what there is to be told, in vain and not.
func (l *life) sendings() {
	ctx := l.Context()
	status := tasks.DeliveryPending
	for range 4 {
		swept, err := l.s.SweepDeliveries(ctx)
		must(l.T, err)
		_, err = l.s.OpenDeliveries(ctx, swept.Hand)
		must(l.T, err)
		l.look()
		var ended []tasks.Settled
		for _, k := range swept.Hand {
			ended = append(ended, tasks.Settled{
				Ticket: k, Status: status, Delay: time.Hour, Counted: true, Reason: "refused", Body: []byte("body"), Disable: status == tasks.DeliveryExhausted,
				Attempt: tasks.DeliveryAttempt{Outcome: "refused"},
			})
		}
		_, err = l.s.SettleDeliveries(ctx, ended)
		must(l.T, err)
		l.look()
		status = tasks.DeliveryExhausted
		for _, pace := range l.rdb.Keys(ctx, "sluice:{s}:wp:*").Val() { // seconds pass
			must(l.T, l.rdb.Del(ctx, pace).Err())
		}
		for _, lane := range l.rdb.ZRange(ctx, "sluice:{s}:wrest", 0, -1).Val() {
			must(l.T, l.rdb.ZAdd(ctx, "sluice:{s}:wrest", redis.Z{Score: 1, Member: lane}).Err())
		}
		list, err := l.s.Deliveries(ctx, tasks.DeliveryFilter{Tenant: "acme", Status: tasks.DeliveryPending, Limit: 10})
		must(l.T, err)
		for _, d := range list.Deliveries {
			if _, err = l.s.Redeliver(ctx, "acme", d.ID); !errors.Is(err, tasks.ErrConflict) { // its endpoint is disabled
				must(l.T, err)
			}
		}
	}
	page, err := l.s.Jobs(ctx, tasks.Filter{Tenant: "acme", Status: tasks.StatusSucceeded, Limit: 100})
	must(l.T, err)
	for _, j := range page.Jobs {
		must(l.T, l.s.Delete(ctx, "acme", j.ID))
	}
	l.look()
}
