package store_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// scripts keeps the calls of scripts that a client made.
type scripts struct{ calls [][]any }

func (s *scripts) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (s *scripts) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "evalsha" && err == nil || cmd.Name() == "eval" {
			s.calls = append(s.calls, cmd.Args())
		}
		return err
	}
}

func (s *scripts) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return next(ctx, cmds) }
}

// dump is what all keys hold, and contents is the same in words that are always alike.
func dump(t *testing.T, rdb *redis.Client) (raw, contents map[string]string) {
	t.Helper()
	keys, err := rdb.Keys(t.Context(), "*").Result()
	must(t, err)
	dumps, kinds := make([]*redis.StringCmd, len(keys)), make([]*redis.StatusCmd, len(keys))
	_, err = rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for i, key := range keys {
			dumps[i], kinds[i] = p.Dump(t.Context(), key), p.Type(t.Context(), key)
		}
		return nil
	})
	must(t, err)
	read := make([]*redis.Cmd, len(keys))
	_, err = rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for i, key := range keys {
			how := map[string][]any{
				"hash": {"hgetall", key}, "zset": {"zrange", key, 0, -1, "withscores"}, "list": {"lrange", key, 0, -1},
				"set": {"smembers", key}, "string": {"get", key},
			}
			read[i] = p.Do(t.Context(), how[kinds[i].Val()]...)
		}
		return nil
	})
	must(t, err)
	raw, contents = map[string]string{}, map[string]string{}
	for i, key := range keys {
		raw[key], contents[key] = dumps[i].Val(), fmt.Sprint(read[i].Val())
	}
	return raw, contents
}

// differ are the keys that two dumps have in different states, but for one.
func differ(a, b map[string]string, but string) (keys []string) {
	for key := range maps.Keys(a) {
		if a[key] != b[key] && key != but {
			keys = append(keys, key)
		}
	}
	for key := range b {
		if _, ok := a[key]; !ok && key != but {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// A script that meets a key of another type than it should be has moved all that it
// moves elsewhere, or nothing: whichever key it is.
func TestNoScriptMovesByHalves(t *testing.T) {
	t.Parallel()
	for name, c := range halves {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := redistest.New(t)
			h := &half{T: t, rdb: rdb, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
			seen := &scripts{}
			watched := redis.NewClient(rdb.Options())
			defer watched.Close()
			watched.AddHook(seen)
			h.Store = store.New(store.Config{
				Redis: watched, Now: func() time.Time { return h.now }, Depth: map[string]int{pool: 2, "q": 2}, ResultTTL: time.Hour,
				Weight: func(string) int64 { return 2 }, NewSecret: func() string { return "whsec_1" },
			})
			act := c(h)
			raw, before := dump(t, rdb)
			seen.calls = nil
			act()
			calls := slices.DeleteFunc(seen.calls, func(call []any) bool { return !strings.Contains(fmt.Sprint(call), h.only) })
			if len(calls) != 1 {
				t.Fatalf("%d scripts were called", len(calls))
			}
			call := calls[0]
			if h.only != "" { // the others moved something as well
				restore(t, rdb, raw, "")
				must(t, rdb.Do(t.Context(), call...).Err())
			}
			_, after := dump(t, rdb)
			if len(differ(before, after, "")) == 0 {
				t.Fatal("nothing moved")
			}
			all := maps.Clone(before)
			maps.Copy(all, after)
			for key := range all {
				if _, was := before[key]; !was && strings.HasPrefix(key, "sluice:{s}:d:") {
					continue // what is new has no key before: its name is made in the script
				}
				restore(t, rdb, raw, key)
				if lists.MatchString(key) {
					must(t, rdb.Set(t.Context(), key, "of another type", 0).Err())
				} else {
					must(t, rdb.RPush(t.Context(), key, "of another type").Err())
				}
				_, with := dump(t, rdb)
				said, err := rdb.Do(t.Context(), call...).Result()
				_, got := dump(t, rdb)
				moved, missing := differ(with, got, key), differ(got, after, key)
				whole := len(missing) == 0 || passedBy(key) && !slices.ContainsFunc(missing, counted)
				if err != nil && len(moved) > 0 || err == nil && len(moved) > 0 && !whole {
					t.Errorf("with %s of another type: %v, %v; moved: %v; not as it should be: %v", key, said, err, moved, missing)
				}
				handedOut, flying := rdb.ZCard(t.Context(), "sluice:{s}:wout").Val(), int64(0)
				for _, n := range rdb.HVals(t.Context(), "sluice:{s}:wfly").Val() {
					n, err := strconv.ParseInt(n, 10, 64)
					must(t, err)
					flying += n
				}
				if !strings.HasPrefix(key, "sluice:{s}:w") && handedOut != flying {
					t.Errorf("with %s of another type: %d deliveries are handed out, and %d are counted", key, handedOut, flying)
				}
			}
		})
	}
}

// restore puts a dump's keys in the place of all that there are, but for one.
func restore(t *testing.T, rdb *redis.Client, raw map[string]string, but string) {
	t.Helper()
	_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		p.FlushAll(t.Context())
		for k, v := range raw {
			if k != but {
				p.Restore(t.Context(), k, 0, v)
			}
		}
		return nil
	})
	must(t, err)
}

// passedBy reports whether a script may go on without a key: it is of one job, tenant,
// lane or pool among others, which is looked at again later, or only says whose turn it is.
func passedBy(key string) bool {
	for _, kind := range strings.Fields("j q d n fall ring turn hooks wq wp wh whp wt we wlanes wplaces wtenants wrest wgone wseq weight wturn") {
		if strings.HasPrefix(key+":", "sluice:{s}:"+kind+":") {
			return true
		}
	}
	return false
}

// lists are those keys that hold a list.
var lists = regexp.MustCompile(`:(jd|gl|late)(:|$)`)

// counted reports whether a key holds a count, or the job that the script is for.
func counted(key string) bool {
	return regexp.MustCompile(`:(n:.*|tq|g:.*|day:.*|j:job_line)$`).MatchString(key)
}

// half is a store in which something is about to happen.
type half struct {
	*testing.T
	*store.Store
	rdb *redis.Client
	now time.Time
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
	"requeue": func(h *half) func() {
		h.busy()
		_, err := h.Cancel(h.Context(), "acme", "job_line")
		must(h.T, err)
		return func() { _, _, err := h.Requeue(h.Context(), "acme", "job_line", tasks.Limits{}); must(h.T, err) }
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
		return h.audit(`"lease":10000,"most":250,"tenant":"acme"`)
	},
	"audit, a running job that is lost": func(h *half) func() {
		h.busy()
		must(h.T, h.rdb.Del(h.Context(), "sluice:{s}:j:job_line").Err())
		return h.audit(`"lease":10000,"most":250,"tenant":"acme"`)
	},
	"audit, a job that stands in no line": func(h *half) func() {
		h.busy()
		must(h.T, h.rdb.Del(h.Context(), "sluice:{s}:out:p", "sluice:{s}:q:p:acme").Err())
		return h.audit(`"lease":10000,"most":250,"tenant":"acme"`)
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
