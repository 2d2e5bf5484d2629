package store_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// A script that meets a key of another type than it should be has moved all that it
// moves elsewhere, or nothing: whichever key it is.
// Every script that writes is among those that are tried.
func TestNoScriptMovesByHalves(t *testing.T) {
	t.Parallel()
	rows := maps.Clone(halves)
	maps.Copy(rows, smallHalves)
	var tried sync.Map
	t.Run("scripts", func(t *testing.T) {
		for name, c := range rows {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				tried.Store(tryHalves(t, c), name)
			})
		}
	})
	all := 0
	tried.Range(func(_, _ any) bool { all++; return true })
	if all == 1 {
		return // -run has chosen one
	}
	for _, file := range redistest.Scripts(t, "lua") {
		name := strings.TrimSuffix(filepath.Base(file), ".lua")
		if _, ok := tried.Load(name); !ok && !readsOnly(name) && !slices.Contains(chapters, name) {
			t.Errorf("no row tries %s.lua", name)
		}
	}
}

// chapters are files that are only parts of scripts.
var chapters = strings.Fields("keys begin fits room account record webhook backlog finish bundle operation")

// readsOnly reports whether a script writes nothing, or nothing that counts: try.lua tries
// commands, and beat.lua notes anew each second how Redis stands.
func readsOnly(name string) bool {
	return slices.Contains(strings.Fields("find tokens standing tokens_revoked audit_batches try beat"), name)
}

// tryHalves tries one row, and returns the name of its script.
func tryHalves(t *testing.T, c func(h *half) func()) string {
	t.Helper()
	rdb := redistest.New(t)
	h := &half{T: t, rdb: rdb, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	watched := redis.NewClient(rdb.Options())
	defer watched.Close()
	seen := redistest.Watch(watched)
	h.watched = watched
	h.Store = store.New(store.Config{
		Redis: watched, Now: func() time.Time { return h.now }, Depth: map[string]int{pool: 2, "q": 2}, Rates: oneRate, ResultTTL: time.Hour,
		Weight: func(string) int64 { return 2 }, Places: places, NewSecret: func() string { return "whsec_1" }, Process: "0.2.0 one",
	})
	act := c(h)
	before := redistest.Read(t, rdb)
	seen.Since()
	act()
	calls := slices.DeleteFunc(seen.Since(), func(call redistest.Move) bool { return !strings.Contains(fmt.Sprint(call...), h.only) })
	if len(calls) != 1 {
		t.Fatalf("%d scripts were called", len(calls))
	}
	// What is new has no key before: its name is made in the script.
	made := func(key string) bool { return strings.HasPrefix(key, "sluice:{s}:d:") }
	redistest.Refuse(t, rdb, before, calls[0], made, func(r redistest.Refused) {
		excused := func(key string) bool {
			return r.Key == "" && turns(key) || passedBy(r.Key) && (!counted(key) || counts(r.State, key) == counts(r.Whole, key)) || limits(r.Key)
		}
		if r.Half() && (r.Err != nil || slices.ContainsFunc(r.Left, func(key string) bool { return !excused(key) })) {
			t.Error(r)
		}
		handedOut, flying := len(pairs(r.State.Holds("sluice:{s}:wout"))), 0
		for _, n := range pairs(r.State.Holds("sluice:{s}:wfly")) {
			n, _ := strconv.Atoi(n)
			flying += n
		}
		if !strings.HasPrefix(r.Key, "sluice:{s}:w") && handedOut != flying {
			t.Errorf("with %s: %d deliveries are handed out, and %d are counted", r.What, handedOut, flying)
		}
	})

	return seen.Script(t, calls[0], "lua")
}

// pairs are the fields of a hash with their values, or the members of a sorted set with
// their scores.
func pairs(held string) map[string]string {
	out := map[string]string{}
	for p := range slices.Chunk(strings.Split(held, "\x00"), 2) {
		if len(p) == 2 {
			out[p[0]] = p[1]
		}
	}
	return out
}

// places limits everybody, and the tenant "few" to one job at a time, and another's users.
func places(tenant string) tasks.Places {
	switch tenant {
	case "few":
		return tasks.Places{Tenant: 1}
	case "each":
		return tasks.Places{User: 1}
	}
	return tasks.Places{Tenant: 100}
}

// passedBy reports whether a script may go on without a key: it is of one job, tenant,
// lane or pool among others, which is looked at again later, or only says whose turn it is.
func passedBy(key string) bool {
	for _, kind := range strings.Fields("j q d n fall ring turn turns order owe paid hooks wq wp wh whp wt we wlanes wplaces wtenants wrest wgone wseq weight wturn") {
		if strings.HasPrefix(key+":", "sluice:{s}:"+kind+":") {
			return true
		}
	}
	return false
}

// limits reports whether a key holds how many jobs a tenant may have out, or has: of another
// type it limits nobody, and what goes then is another job.
func limits(key string) bool {
	return regexp.MustCompile(`:(weight|fulls|full:.*|outs:.*|aside:.*)$`).MatchString(key)
}

// turns reports whether a key only says whose turn it is, or who is there.
func turns(key string) bool {
	return regexp.MustCompile(`:(ring|turn|turns|order|owe|paid|eye):|:procs$`).MatchString(key)
}

// counted reports whether a key holds a count, or the job that the script is for.
func counted(key string) bool {
	return regexp.MustCompile(`:(n:.*|tq|g:.*|day:.*|j:job_line)$`).MatchString(key)
}

// counts is what a key holds of counts: what is on a pool's stage follows whoever was handed out.
func counts(s redistest.State, key string) string {
	return regexp.MustCompile(`stage\x00\d+`).ReplaceAllString(s.Holds(key), "")
}

// half is a store in which something is about to happen.
type half struct {
	*testing.T
	*store.Store
	rdb *redis.Client
	now time.Time
	// watched is the client whose scripts are seen.
	watched *redis.Client
	// only is an argument of the script that is meant, where others are called as well.
	only string
}

// prompt is a job that has all that a job can have.
func (h *half) prompt(id, tenant string) tasks.Job {
	j := job(tenant)
	j.ID, j.WebhookURL, j.Reserved, j.Fallback = id, "https://own.example/in", 10, []string{"m2"}
	j.Deadline = h.now.Add(time.Hour)
	return j
}

// hook makes an endpoint of a tenant.
func (h *half) hook(tenant string) {
	h.Helper()
	_, err := h.CreateEndpoint(h.Context(), tasks.Endpoint{ID: "whe_" + tenant, Tenant: tenant, URL: "https://a.example/", MaxPerSecond: 5,
		Events: []string{"job.succeeded", "job.failed", "job.canceled", "job.expired", "batch.completed", "endpoint.disabled", "pool.paused"}})
	must(h.T, err)
}

// submit stores jobs, with keys, and returns the tickets.
func (h *half) submit(jobs ...tasks.Job) []tasks.Ticket {
	h.Helper()
	var subs []tasks.Submission
	for _, j := range jobs {
		subs = append(subs, tasks.Submission{Job: j, Key: "key " + j.ID, Fingerprint: "f", Limits: tasks.Limits{QueuedJobs: 100, TokensPerDay: 1000}})
	}
	_, next, err := h.Create(h.Context(), subs...)
	must(h.T, err)
	return next
}

// line is the one line of an accepted batch, taken up.
func (h *half) line() []tasks.Ticket {
	h.Helper()
	h.staged()
	_, err := h.CommitBatch(h.Context(), "batch_1", tasks.BatchCommit{Fingerprint: "f"})
	must(h.T, err)
	_, next, err := h.Unfold(h.Context(), "batch_1")
	must(h.T, err)
	return next
}

func (h *half) staged() {
	h.Helper()
	_, _, err := h.OpenBatch(h.Context(), "batch_1", "acme", "key of the batch")
	must(h.T, err)
	j := h.prompt("job_line", "acme")
	j.Batch, j.Line = "batch_1", 1
	must(h.T, h.StageBatch(h.Context(), "batch_1", []tasks.Job{j}, tasks.Limits{}))
}

func (h *half) run(k tasks.Ticket) tasks.Ticket {
	h.Helper()
	_, err := h.Take(h.Context(), k)
	must(h.T, err)
	_, _, err = h.Start(h.Context(), k)
	must(h.T, err)
	return k
}

// busy is a running line of a batch beside whose pool others wait.
func (h *half) busy() tasks.Ticket {
	h.Helper()
	h.hook("acme")
	k := h.run(h.line()[0])
	h.submit(h.prompt("job_2", "acme"), h.prompt("job_3", "acme"), h.prompt("job_4", "other"), h.prompt("job_5", "other"))
	return k
}

// audit is a round of an audit, of which the script is meant that has these arguments.
func (h *half) audit(only string) func() {
	h.only = only
	return func() {
		for range 2 {
			_, err := h.Audit(h.Context())
			must(h.T, err)
		}
	}
}

// spared is until when no lease of a delivery says anything.
func (h *half) spared() time.Time {
	ms, _ := h.rdb.Get(h.Context(), "sluice:{s}:wgrace").Int64() // 0: it is not there
	return time.UnixMilli(ms)
}

// sent is a delivery that was handed out, beside another that waits.
func (h *half) sent() tasks.DeliveryTicket {
	h.Helper()
	k := h.busy()
	_, err := h.End(h.Context(), k, tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`{}`), Usage: &tasks.Usage{}})
	must(h.T, err)
	h.now = h.now.Add(time.Second)
	swept, err := h.SweepDeliveries(h.Context())
	must(h.T, err)
	h.now = h.now.Add(6 * time.Second)
	return swept.Hand[0]
}

var halves = map[string]func(h *half) func(){
	"create": func(h *half) func() {
		h.hook("acme")
		h.submit(h.prompt("job_1", "other"))
		return func() { h.submit(h.prompt("job_2", "acme")) }
	},
	"create, of a call": func(h *half) func() {
		h.submit(h.prompt("job_1", "other"))
		return func() {
			_, _, err := h.Create(h.Context(), tasks.Submission{Job: h.prompt("job_2", "acme"), Caller: &tasks.Call{Digest: "d"}})
			must(h.T, err)
		}
	},
	"take": func(h *half) func() {
		k := h.submit(h.prompt("job_1", "acme"))[0]
		h.now = h.now.Add(6 * time.Second)
		return func() { _, err := h.Take(h.Context(), k); must(h.T, err) }
	},
	"start": func(h *half) func() {
		h.hook("acme")
		k := h.line()[0]
		h.submit(h.prompt("job_2", "acme"), h.prompt("job_4", "other"), h.prompt("job_5", "other"))
		_, err := h.Take(h.Context(), k)
		must(h.T, err)
		return func() { _, _, err := h.Start(h.Context(), k); must(h.T, err) }
	},
	"end, succeeded": func(h *half) func() {
		k := h.busy()
		return func() {
			_, err := h.End(h.Context(), k, tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`{}`), Usage: &tasks.Usage{InputTokens: 3}})
			must(h.T, err)
		}
	},
	"end, failed": func(h *half) func() {
		k := h.busy()
		return func() {
			_, err := h.End(h.Context(), k, tasks.Ending{Status: tasks.StatusFailed, Error: &tasks.JobError{Code: "x"}})
			must(h.T, err)
		}
	},
	"end, again later": func(h *half) func() {
		k := h.busy()
		return func() {
			_, err := h.End(h.Context(), k, tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Delay: time.Second})
			must(h.T, err)
		}
	},
	"end, with a fallback model": func(h *half) func() {
		k := h.busy()
		return func() {
			_, err := h.End(h.Context(), k, tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Detour: &tasks.Detour{Pool: "q", Passed: 1}})
			must(h.T, err)
		}
	},
	"cancel": func(h *half) func() {
		h.busy()
		return func() { _, err := h.Cancel(h.Context(), "acme", "job_line"); must(h.T, err) }
	},
	"edit": func(h *half) func() {
		h.busy()
		return func() {
			_, err := h.Edit(h.Context(), "acme", "job_2", func(j *tasks.Job) error {
				j.Priority, j.Deadline, j.Metadata = tasks.High, h.now.Add(2*time.Hour), map[string]string{"a": "b"}
				return nil
			})
			must(h.T, err)
		}
	},
	"requeue": func(h *half) func() {
		h.busy()
		_, err := h.Cancel(h.Context(), "acme", "job_line")
		must(h.T, err)
		return func() { _, _, err := h.Requeue(h.Context(), "acme", "job_line", tasks.Limits{}); must(h.T, err) }
	},
	"requeue, many": func(h *half) func() {
		h.busy()
		ids := []string{"job_2", "job_line", "job_3"}
		_, err := h.CancelAll(h.Context(), tasks.Selection{Tenant: "acme", IDs: ids})
		must(h.T, err)
		return func() {
			_, err := h.RequeueAll(h.Context(), tasks.Selection{Tenant: "acme", IDs: ids}, tasks.Limits{QueuedBytes: 1e6, TokensPerDay: 1e6}, func([]tasks.Ticket) {})
			must(h.T, err)
		}
	},
	"delete": func(h *half) func() {
		h.busy()
		_, err := h.Cancel(h.Context(), "acme", "job_2")
		must(h.T, err)
		return func() { must(h.T, h.Delete(h.Context(), "acme", "job_2")) }
	},
	"join": func(h *half) func() {
		h.hook("acme")
		h.now = h.now.Add(time.Second)
		next := h.submit(h.prompt("job_1", "acme"), h.prompt("job_2", "acme"), h.prompt("job_3", "other"))
		_, _, err := h.Join(h.Context(), next[0], asked)
		must(h.T, err)
		return func() { _, _, err := h.Join(h.Context(), next[1], asked); must(h.T, err) }
	},
	"divert": func(h *half) func() {
		h.busy()
		return func() {
			_, _, err := h.Divert(h.Context(), pool, map[string]tasks.Detour{"job_4": {Pool: "q", Passed: 1}})
			must(h.T, err)
		}
	},
	"sweep, deadlines and leases": func(h *half) func() {
		h.busy()
		for range 20 { // a sweep a second
			h.now = h.now.Add(time.Second)
			if h.now.Second() < 14 {
				_, err := h.Sweep(h.Context())
				must(h.T, err)
			}
		}
		return func() { _, err := h.Sweep(h.Context()); must(h.T, err) }
	},
	"audit, a job that is lost": func(h *half) func() {
		h.busy()
		must(h.T, h.rdb.Del(h.Context(), "sluice:{s}:j:job_3").Err())
		return h.audit(`"lease":10000,"most":50,"tenant":"acme"`)
	},
	"audit, a running job that is lost": func(h *half) func() {
		h.busy()
		must(h.T, h.rdb.Del(h.Context(), "sluice:{s}:j:job_line").Err())
		return h.audit(`"lease":10000,"most":50,"tenant":"acme"`)
	},
	"audit, a job that stands in no line": func(h *half) func() {
		h.busy()
		must(h.T, h.rdb.Del(h.Context(), "sluice:{s}:out:p", "sluice:{s}:q:p:acme").Err())
		return h.audit(`"lease":10000,"most":50,"tenant":"acme"`)
	},
	"audit, a batch that does not end": func(h *half) func() {
		h.busy()
		must(h.T, h.rdb.Del(h.Context(), "sluice:{s}:j:job_line").Err())
		_, err := h.Audit(h.Context()) // in which the job ends
		must(h.T, err)
		h.now = h.now.Add(6 * time.Second)
		must(h.T, h.rdb.HSet(h.Context(), "sluice:{s}:g:batch_1", "running", 1).Err())
		must(h.T, h.rdb.HDel(h.Context(), "sluice:{s}:g:batch_1", "ended").Err())
		return h.audit(`"stamp":`)
	},
	"audit, counts": func(h *half) func() {
		h.busy()
		must(h.T, h.rdb.HSet(h.Context(), "sluice:{s}:n:p", "queued", 9).Err())
		h.audit("")() // a round
		h.now = h.now.Add(6 * time.Second)
		return h.audit(`"unmet":`)
	},
	"audit, a lost job that no tenant has": func(h *half) func() {
		h.busy()
		must(h.T, h.rdb.HSet(h.Context(), "sluice:{s}:missing", "job_9", "running p").Err())
		must(h.T, h.rdb.HIncrBy(h.Context(), "sluice:{s}:n:p", "running", 1).Err())
		h.audit("")() // a round
		h.now = h.now.Add(6 * time.Second)
		return h.audit(`"unmet":`)
	},
	"batch_open": func(h *half) func() {
		return func() { _, _, err := h.OpenBatch(h.Context(), "batch_1", "acme", "key"); must(h.T, err) }
	},
	"batch_stage": func(h *half) func() {
		_, _, err := h.OpenBatch(h.Context(), "batch_1", "acme", "key")
		must(h.T, err)
		j := h.prompt("job_line", "acme")
		j.Batch, j.Line = "batch_1", 1
		return func() { must(h.T, h.StageBatch(h.Context(), "batch_1", []tasks.Job{j}, tasks.Limits{})) }
	},
	"batch_unfold": func(h *half) func() {
		h.staged()
		_, err := h.CommitBatch(h.Context(), "batch_1", tasks.BatchCommit{Fingerprint: "f"})
		must(h.T, err)
		h.submit(h.prompt("job_4", "other"), h.prompt("job_5", "other"))
		return func() { _, _, err := h.Unfold(h.Context(), "batch_1"); must(h.T, err) }
	},
	"batch_commit": func(h *half) func() {
		h.staged()
		return func() {
			_, err := h.CommitBatch(h.Context(), "batch_1", tasks.BatchCommit{Fingerprint: "f"})
			must(h.T, err)
		}
	},
	"batch_unfold, a faulty line": func(h *half) func() {
		h.hook("acme")
		_, _, err := h.OpenBatch(h.Context(), "batch_1", "acme", "")
		must(h.T, err)
		j := h.prompt("job_line", "acme")
		j.Batch, j.Line, j.Error = "batch_1", 1, &tasks.JobError{Code: tasks.UpstreamRejected}
		must(h.T, h.StageBatch(h.Context(), "batch_1", []tasks.Job{j}, tasks.Limits{}))
		_, err = h.CommitBatch(h.Context(), "batch_1", tasks.BatchCommit{})
		must(h.T, err)
		return func() { _, _, err := h.Unfold(h.Context(), "batch_1"); must(h.T, err) }
	},
	"batch_commit, of a call": func(h *half) func() {
		h.staged()
		return func() {
			_, err := h.CommitBatch(h.Context(), "batch_1", tasks.BatchCommit{Fingerprint: "f", Digest: "d", Repeat: true})
			must(h.T, err)
		}
	},
	"batch_delete": func(h *half) func() {
		h.line()
		_, err := h.CancelBatch(h.Context(), "acme", "batch_1")
		must(h.T, err)
		return func() { must(h.T, h.DeleteBatch(h.Context(), "acme", "batch_1")) }
	},
	"batch_abort": func(h *half) func() {
		h.staged()
		return func() { must(h.T, h.AbortBatch(h.Context(), "batch_1")) }
	},
	"endpoint_save": func(h *half) func() { return func() { h.hook("acme") } },
	"endpoint_delete": func(h *half) func() {
		h.sent()
		return func() { must(h.T, h.DeleteEndpoint(h.Context(), "acme", "whe_acme")) }
	},
	"endpoint_test": func(h *half) func() {
		h.hook("acme")
		return func() { _, err := h.TestEndpoint(h.Context(), "acme", "whe_acme"); must(h.T, err) }
	},
	"pool_event": func(h *half) func() {
		h.hook("acme")
		return func() { must(h.T, h.PoolEvent(h.Context(), pool, true, []byte(`{}`))) }
	},
	"delivery_settle": func(h *half) func() {
		k := h.sent()
		return func() {
			_, err := h.SettleDeliveries(h.Context(), []tasks.Settled{{Ticket: k, Status: tasks.DeliveryPending, Delay: time.Second, Counted: true, Reason: "x", Disable: true}})
			must(h.T, err)
		}
	},
	"delivery_open": func(h *half) func() {
		k := h.sent()
		return func() { _, err := h.OpenDeliveries(h.Context(), []tasks.DeliveryTicket{k}); must(h.T, err) }
	},
	"delivery_sweep": func(h *half) func() {
		h.sent()
		for range 60 { // a sweep a second, until a lease ends
			h.now = h.now.Add(time.Second)
			if due := h.rdb.ZCount(h.Context(), "sluice:{s}:wout", "-inf", fmt.Sprint(h.now.UnixMilli())).Val(); due > 0 && h.spared().Before(h.now) {
				return func() { _, err := h.SweepDeliveries(h.Context()); must(h.T, err) }
			}
			_, err := h.SweepDeliveries(h.Context())
			must(h.T, err)
		}
		h.Fatal("no lease ended")
		return func() { _, err := h.SweepDeliveries(h.Context()); must(h.T, err) }
	},
}
