package main

import (
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// What becomes of jobs and callers when Redis answers, but not with what it was
// asked for.

// refusals are error lines that a Redis or what stands before it answers with.
var refusals = map[string]string{
	"NOAUTH":        "-NOAUTH Authentication required.",
	"WRONGPASS":     "-WRONGPASS invalid username-password pair or user is disabled.",
	"NOPERM":        "-NOPERM User app has no permissions to run the 'evalsha' command",
	"BUSY":          "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
	"maxclients":    "-ERR max number of clients reached",
	"UNBLOCKED":     "-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
	"MOVED":         "-MOVED 3828 127.0.0.1:1",
	"EXECABORT":     "-EXECABORT Transaction discarded because of previous errors.",
	"script":        "-ERR Error running script (call to f_1): @user_script:1: attempt to index a nil value",
	"proxy":         "-ERR proxy: no backend available",
	"unheard of":    "-SOMETHING that nobody has seen yet",
	"LOADING":       "-LOADING Redis is loading the dataset in memory",
	"READONLY":      "-READONLY You can't write against a read only replica.",
	"NOREPLICAS":    "-NOREPLICAS Not enough good replicas to write.",
	"OOM":           "-OOM command not allowed when used memory > 'maxmemory'.",
	"MISCONF":       "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
	"not an answer": "+OK",
}

// fault is one trouble with Redis: a way to make it, and to heal it.
type fault struct{ begin, end func() }

// An answer that was paid for is kept until it is recorded, whatever Redis says
// meanwhile: nothing is asked twice, and no worker is said to be lost.
func TestAnAnswerIsNotBoughtAgainAfterAnErrorOfRedis(t *testing.T) {
	t.Parallel()
	type world struct {
		t     *testing.T
		admin *redis.Conn
		proxy *redistest.Proxy
	}
	do := func(w world, args ...any) {
		if err := w.admin.Do(w.t.Context(), args...).Err(); err != nil {
			w.t.Errorf("%v: %v", args, err)
		}
	}
	cases := map[string]func(w world) fault{
		"the user is switched off": func(w world) fault {
			return fault{func() { do(w, "ACL", "SETUSER", "app", "off"); do(w, "CLIENT", "KILL", "USER", "app") }, func() { do(w, "ACL", "SETUSER", "app", "on") }}
		},
		"the password is another": func(w world) fault {
			return fault{func() { do(w, "ACL", "SETUSER", "app", "resetpass", ">other"); do(w, "CLIENT", "KILL", "USER", "app") }, func() { do(w, "ACL", "SETUSER", "app", ">pw") }}
		},
		"the permissions are taken": func(w world) fault {
			return fault{func() { do(w, "ACL", "SETUSER", "app", "-@all") }, func() { do(w, "ACL", "SETUSER", "app", "+@all") }}
		},
		"there is room for no client": func(w world) fault {
			return fault{func() { do(w, "CONFIG", "SET", "maxclients", 1); do(w, "CLIENT", "KILL", "SKIPME", "yes") }, func() { do(w, "CONFIG", "SET", "maxclients", 1000) }}
		},
		"connections are reset": func(w world) fault {
			return fault{func() { w.proxy.Reset(true) }, func() { w.proxy.Reset(false) }}
		},
	}
	// What stands in the answer differs, and no more: these are one after the other.
	answers := strings.Split("NOAUTH,BUSY,MOVED,EXECABORT,script,proxy,unheard of,not an answer,OOM", ",")
	cases["answers"] = nil
	for name, make := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const jobs = 6
			server := redistest.Start(t, redistest.Options{})
			w := world{t: t, admin: server.Client().Conn(), proxy: redistest.Before(t, server)}
			t.Cleanup(func() { _ = w.admin.Close() })
			do(w, "ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all")
			provider := newWire(t, recorded(t, "anthropic/text"))
			provider.gather = -1
			r := outageOn(t, server, strings.Replace(w.proxy.URL(), "redis://", "redis://app:pw@", 1), claude(provider.URL))
			troubles := map[string]fault{}
			if make != nil {
				troubles[name] = make(w)
			} else {
				for _, answer := range answers {
					troubles[answer] = fault{func() { w.proxy.Answer(refusals[answer]) }, func() { w.proxy.Answer("") }}
				}
			}
			for name, trouble := range troubles {
				release := provider.hold()
				calls, _ := provider.seen()
				before, refused := len(calls), r.said.count("an ending w")
				var ids []string
				for range jobs {
					ids = append(ids, r.submit())
				}
				r.until("the calls are under way", func() bool {
					calls, _ := provider.seen()
					return len(calls) == before+jobs
				})
				trouble.begin()
				release()
				r.until("the endings are refused", func() bool { return r.said.count("an ending w") >= refused+jobs })
				trouble.end()
				for _, id := range ids {
					if j := r.final(id); j.Status != "succeeded" || j.Attempts != 1 || j.outcomes() != "succeeded" {
						t.Errorf("%s: job %+v, attempts %q", name, j, j.outcomes())
					}
				}
				if calls, _ := provider.seen(); len(calls) != before+jobs {
					t.Errorf("%s: %d calls for %d jobs", name, len(calls)-before, jobs)
				}
			}
		})
	}
}

// Whatever Redis or what stands before it answers, a caller is told to come
// again, never of an internal error.
func TestAnErrorOfRedisIsNever500(t *testing.T) {
	t.Parallel()
	for name, line := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stub := redistest.Before(t, nil)
			stub.Answer(line)
			code := "unavailable"
			if name == "OOM" || name == "MISCONF" {
				code = "store_full"
			}
			refusedEverywhere(t, stub.URL(), code, slices.Contains([]string{"LOADING", "READONLY", "NOREPLICAS", "maxclients"}, name))
		})
	}
	t.Run("untrusted certificate", func(t *testing.T) {
		t.Parallel()
		stub := httptest.NewTLSServer(http.NotFoundHandler())
		stub.Config.ErrorLog = log.New(io.Discard, "", 0)
		defer stub.Close()
		refusedEverywhere(t, strings.Replace(stub.URL, "https://", "rediss://", 1)+"/0", "unavailable", true)
	})
}

func refusedEverywhere(t *testing.T, url, code string, slow bool) {
	t.Helper()
	cfg := configured(t, url, claude("http://127.0.0.1:1")+"tenants:\n  free: {submits_per_minute: 0, queued_jobs: 0, tokens_per_day: 0}\n")
	s, err := newService(t.Context(), cfg, roles{api: true}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	a, err := s.newAPI("http://sluice.test", stageSecret)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(a.Handler())
	defer server.Close()
	r := &stage{t: t, s: s, url: server.URL}
	for i, c := range []struct{ tenant, method, path, body string }{
		{"acme", "POST", "/v1/jobs", hello}, // asked for a quota first
		{"acme", "POST", "/v1/jobs/job_1/retry", ""},
		{"acme", "POST", "/v1/batches", `{"jobs":[` + hello + `]}`},
		{"free", "POST", "/v1/jobs", hello},
		{"free", "POST", "/v1/jobs", strings.Replace(hello, "{", `{"deadline":"2099-01-01T00:00:00Z",`, 1)},
		{"free", "GET", "/v1/jobs/job_1", ""},
		{"free", "GET", "/v1/jobs/job_1?wait=1", ""},
		{"free", "GET", "/v1/jobs/job_1/events", ""},
		{"free", "GET", "/v1/jobs", ""},
		{"free", "POST", "/v1/jobs/job_1/cancel", ""},
		{"free", "POST", "/v1/jobs/job_1/retry", ""},
		{"free", "DELETE", "/v1/jobs/job_1", ""},
		{"free", "POST", "/v1/batches", `{"jobs":[` + hello + `]}`},
		{"free", "GET", "/v1/batches/batch_1", ""},
		{"free", "GET", "/v1/batches/batch_1/results", ""},
		{"free", "POST", "/v1/batches/batch_1/cancel", ""},
		{"free", "GET", "/v1/status", ""},
		{"free", "GET", "/v1/pools", ""},
		{"free", "GET", "/v1/pools/claude/audit", ""},
		{"free", "POST", "/v1/pools/claude/pause", `{"reason":"x"}`},
		{"free", "POST", "/v1/pools/claude/resume", ""},
		{"free", "GET", "/v1/webhook-endpoints", ""},
		{"free", "POST", "/v1/webhook-endpoints", `{"url":"https://example.com/hook","events":["job.succeeded"]}`},
		{"free", "GET", "/v1/webhook-endpoints/whe_1", ""},
		{"free", "GET", "/v1/signing-secret", ""},
		{"free", "POST", "/v1/signing-secret/rotate", ""},
	} {
		if slow && i >= 9 {
			break // the client library asks some of these again and again
		}
		r.token = r.mint(c.tenant)
		var p struct{ Code, Detail string }
		res := r.call(c.method, c.path, c.body, &p)
		if after, err := strconv.Atoi(res.Header.Get("Retry-After")); res.StatusCode != 503 || p.Code != code || err != nil || after < 1 {
			t.Errorf("%s %s (%s): %s %s %q, Retry-After %q; want 503 %s and a time", c.method, c.path, c.tenant, res.Status, p.Code, p.Detail, res.Header.Get("Retry-After"), code)
		}
	}
}

// A user as Redis makes one by default since version 7 may use no channel. Jobs run
// and end, callers who wait have their answer, a cancel is one, nothing is said to
// have been billed that nobody called, and an operator is told what to grant.
func TestJobsRunForAUserWhoMayUseNoChannel(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	admin := server.Client()
	grant := func(rules ...any) {
		t.Helper()
		if err := admin.Do(t.Context(), append([]any{"ACL", "SETUSER", "app"}, rules...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	grant("on", ">pw", "~sluice:*", "~asynq:*", "+@all")
	provider := newWire(t, recorded(t, "anthropic/text"))
	url := strings.Replace(server.URL(), "unix://", "unix://app:pw@", 1)
	r := outageOn(t, server, url, strings.Replace(claude(provider.URL), "concurrency: 32", "concurrency: 2", 1))
	notices := func() string {
		z := r.readyz()
		if lacks := strings.Contains(z.notices(), "&sluice:*"); lacks != strings.Contains(z.down(), "&sluice:*") {
			t.Errorf("/readyz: notices %q, and down are %q", z.notices(), z.down())
		}
		return z.notices()
	}
	r.until("the missing permission is named", func() bool { return strings.Contains(notices(), "&sluice:*") })
	if page := r.stream("/"); !strings.Contains(page, "&amp;sluice:*") {
		t.Errorf("the console does not name it: %s", page)
	}
	once := func(what string, j jobView) {
		t.Helper()
		if j.Status != "succeeded" || j.Attempts != 1 || j.outcomes() != "succeeded" {
			t.Errorf("%s: %+v, attempts %q", what, j, j.outcomes())
		}
	}
	within := func(what string, d time.Duration, f func()) {
		t.Helper()
		begun := time.Now()
		if f(); time.Since(begun) > d {
			t.Errorf("%s took %v; want at most %v", what, time.Since(begun), d)
		}
	}

	// More than may run at once, so that places are handed over too.
	var ids []string
	for range 6 {
		ids = append(ids, r.submit())
	}
	for _, id := range ids {
		once("job", r.final(id))
	}
	within("a submit that waits", 15*time.Second, func() {
		var j jobView
		if res := r.call("POST", "/v1/jobs", hello, &j, "Prefer", "wait=20"); res.StatusCode != http.StatusOK {
			t.Errorf("submit with wait=20: %s", res.Status)
		}
		once("waited for", j)
	})
	if calls, _ := provider.seen(); len(calls) != 7 {
		t.Errorf("%d calls for 7 jobs", len(calls))
	}

	// A call that is under way: a poll and a stream are held until it ends.
	provider.now(nil)
	held := r.submit()
	r.until("the call is made", func() bool { return r.job(held).Status == "running" })
	events := make(chan string)
	go func() { events <- r.stream("/v1/jobs/" + held + "/events") }()
	polled := make(chan jobView)
	go func() {
		var j jobView
		r.call("GET", "/v1/jobs/"+held+"?wait=30", "", &j)
		polled <- j
	}()
	r.until("both are held", func() bool { return r.gauge("sluice_http_held_requests") == 2 })
	within("a cancel and what follows from it", 25*time.Second, func() {
		var j jobView
		if res := r.call("POST", "/v1/jobs/"+held+"/cancel", "", &j); res.StatusCode != http.StatusOK || j.Status != "canceled" {
			t.Errorf("cancel: %s %+v", res.Status, j)
		}
		if j := <-polled; j.Status != "canceled" || j.outcomes() != "canceled" {
			t.Errorf("the poll: %+v %q", j, j.outcomes())
		}
		if text := <-events; !strings.Contains(text, "event: done") {
			t.Errorf("the stream: %s", text)
		}
		r.until("the call is cut off", func() bool { return r.gauge("sluice_calls_in_flight") == 0 })
	})
	waiting := strings.Replace(hello, "{", `{"not_before":"2099-01-01T00:00:00Z",`, 1)
	var j jobView
	r.call("POST", "/v1/jobs", waiting, &j)
	if res := r.call("POST", "/v1/jobs/"+j.ID+"/cancel", "", &j); res.StatusCode != http.StatusOK || j.outcomes() != "" {
		t.Errorf("cancel of a job that waits: %s %+v", res.Status, j)
	}

	// Said once; and gone when the permission comes.
	if n := r.said.count("level=WARN msg=\"redis does not permit"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	if n := r.said.count("cancelation channel"); n != 0 {
		t.Errorf("asynq complains %d times", n)
	}
	grant("&sluice:*", "&asynq:*")
	r.until("the notice is gone", func() bool { return !strings.Contains(notices(), "&sluice:*") })
	if page := r.stream("/"); strings.Contains(page, "&amp;sluice:*") {
		t.Errorf("the console still names it: %s", page)
	}
}

// gauge is the sum of a metric of the program.
func (r *stage) gauge(name string) (sum float64) {
	families, err := r.s.registry.Gather()
	if err != nil {
		r.t.Error(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// stream reads an event stream to its end.
func (r *stage) stream(path string) string {
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.url+path, nil)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	return res.Status + "\n" + string(text)
}
