package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// readyz is what a process says of its health.
type readyz struct {
	Status string
	Parts  []struct{ Name, Status, Reason string }
	Notice []string `json:"notices"`
	code   int
}

func (r *stage) readyz() (z readyz) {
	r.t.Helper()
	z.code = r.call("GET", "/readyz", "", &z).StatusCode
	return z
}

// down are the reasons of the parts that are.
func (z readyz) down() string {
	var out []string
	for _, p := range z.Parts {
		if p.Status != "ok" {
			out = append(out, p.Name+": "+p.Reason)
		}
	}
	return strings.Join(out, "; ")
}

func (z readyz) notices() string { return strings.Join(z.Notice, "; ") }

// durably is a Redis with which an operator has nothing to do.
func durably(t *testing.T) *redistest.Server {
	t.Helper()
	return redistest.Start(t, redistest.Options{AOF: "always", Args: []string{"--maxmemory", "100mb"}})
}

// A part that has not answered yet is no news while a process starts, and is some later; one that
// has worked is news at once.
func TestAPartThatStartsIsNotDown(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	var down error
	r := &readiness{
		log: slog.New(newNotes(&said)), down: map[string]bool{},
		parts: func() []api.Check {
			return []api.Check{{Name: "gates", Check: func(context.Context) error { return down }}}
		},
	}
	told := func(what string, begun time.Time, err error, want string) {
		t.Helper()
		said.Reset()
		down = err
		if r.tellParts(t.Context(), begun); said.String() != want {
			t.Errorf("%s: told %q, want %q", what, said.String(), want)
		}
	}
	const news = "sluice: part is down (part=gates error=\"not yet\")\n"
	now, long := time.Now(), time.Now().Add(-time.Hour)
	told("at the start", now, errors.New("not yet"), "")
	told("for long", long, errors.New("not yet"), news)
	told("again", long, errors.New("not yet"), "")
	told("well", now, nil, "")
	told("after it worked", now, errors.New("not yet"), news)
}

// Whatever keeps a process from its work makes it unready, in words; when that is
// over it is ready again by itself.
func TestReadinessFollowsWhatWorkNeeds(t *testing.T) {
	t.Parallel()
	type act = []any
	acl := func(rules ...any) act { return append(act{"ACL", "SETUSER", "app"}, rules...) }
	for name, c := range map[string]struct {
		breaks, mends []act
		want          string
	}{
		"read-only replica": {[]act{{"REPLICAOF", "127.0.0.1", "1"}}, []act{{"REPLICAOF", "NO", "ONE"}}, "redis: Redis is a read-only replica"},
		"full":              {[]act{{"CONFIG", "SET", "maxmemory", "1"}}, []act{{"CONFIG", "SET", "maxmemory", "100mb"}}, "redis: Redis is full"},
		"too few replicas":  {[]act{{"CONFIG", "SET", "min-replicas-to-write", "1"}}, []act{{"CONFIG", "SET", "min-replicas-to-write", "0"}}, "redis: Redis has fewer replicas"},
		"no scripts":        {[]act{acl("-@scripting")}, []act{acl("+@scripting")}, "ACL SETUSER <user> +eval +evalsha"},
		"no channels":       {[]act{acl("resetchannels")}, []act{acl("&*")}, "&sluice:*"},
		"no keys":           {[]act{acl("resetkeys", "~other:*")}, []act{acl("allkeys")}, "~sluice:*"},
		"a missing command": {[]act{acl("-hincrby"), {"CLIENT", "KILL", "USER", "app"}, {"CONFIG", "SET", "maxmemory", "101mb"}}, []act{acl("+hincrby")}, "permissions: redis does not permit this user what Sluice needs: grant it, as in ACL SETUSER <user> +hincrby"},
		"another password":  {[]act{acl("resetpass", ">other"), {"CLIENT", "KILL", "USER", "app"}}, []act{acl(">pw")}, "redis: Redis refuses the user or the password"},
		"evicts":            {[]act{{"CONFIG", "SET", "maxmemory-policy", "allkeys-lru"}}, []act{{"CONFIG", "SET", "maxmemory-policy", "noeviction"}}, "eviction: Redis evicts keys"},
		"a later release": {[]act{{"SET", "sluice:limit:{claude}:gate", `{"version":99}`}}, []act{{"DEL", "sluice:limit:{claude}:gate"}},
			"gates: a newer release"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := durably(t)
			admin := server.Client()
			do := func(acts []act) {
				t.Helper()
				for _, a := range acts {
					if err := admin.Do(t.Context(), a...).Err(); err != nil {
						t.Fatalf("%v: %v", a, err)
					}
				}
			}
			do([]act{acl("on", ">pw", "allkeys", "allchannels", "+@all")})
			provider := newWire(t, recorded(t, "anthropic/text"))
			r := outageOn(t, server, strings.Replace(server.URL(), "unix://", "unix://app:pw@", 1), claude(provider.URL))
			r.until("ready", func() bool { return r.readyz().code == http.StatusOK })
			if n := r.readyz().notices(); n != "" {
				t.Errorf("notices of a durable Redis: %s", n)
			}
			do(c.breaks)
			var last readyz
			r.until("it says "+c.want, func() bool {
				last = r.readyz()
				return last.code == http.StatusServiceUnavailable && strings.Contains(last.down(), c.want)
			})
			for range 5 {
				r.readyz()
			}
			part, _, _ := strings.Cut(last.down(), ":")
			r.until("the log says so once", func() bool { return r.said.count("part is down\" part="+part) == 1 })
			do(c.mends)
			// The door is open by the time that this is told.
			r.until("ready again", func() bool { return r.readyz().code == http.StatusOK })
			if j := r.final(r.submit()); j.Status != "succeeded" {
				t.Errorf("the job that follows: %+v", j)
			}
			r.until("nothing to add", func() bool { return r.readyz().notices() == "" })
		})
	}
}

// A process that was there before its Redis, or before an operator changed it, says
// what is so now.
func TestDurabilityIsAskedAgain(t *testing.T) {
	t.Parallel()
	server := durably(t)
	server.Kill()
	provider := newWire(t, recorded(t, "anthropic/text"))
	r := outageOn(t, server, strings.Replace(server.URL(), "unix://", "unix://app:pw@", 1), claude(provider.URL))
	says := func(durable float64, code int, notices ...string) {
		t.Helper()
		r.until("durable and notices are "+strings.Join(notices, ", "), func() bool {
			z := r.readyz()
			if r.gauge("sluice_redis_durable") != durable || code != 0 && z.code != code || len(z.Notice) != len(notices) {
				return false
			}
			for _, n := range notices {
				if !strings.Contains(z.notices(), n) {
					return false
				}
			}
			return true
		})
	}
	says(0, 503, "has not said whether it keeps jobs")
	server.Start()
	admin := server.Client()
	do := func(a ...any) {
		t.Helper()
		if err := admin.Do(t.Context(), a...).Err(); err != nil {
			t.Fatalf("%v: %v", a, err)
		}
	}
	do("ACL", "SETUSER", "app", "on", ">pw", "allkeys", "allchannels", "+@all")
	says(1, 200)
	do("CONFIG", "SET", "appendonly", "no")
	says(0, 200, "appendonly no")
	do("CONFIG", "SET", "maxmemory", "0")
	says(0, 200, "appendonly no", "no maxmemory")
	do("CONFIG", "SET", "appendonly", "yes")
	do("CONFIG", "SET", "maxmemory", "100mb")
	says(1, 200)
	do("ACL", "SETUSER", "app", "-@dangerous")
	says(0, 200, "Redis does not say whether it keeps jobs (INFO is refused)")
	do("ACL", "SETUSER", "app", "+@all")
	says(1, 200)
	if n := r.said.count("(INFO is refused)"); n != 1 {
		t.Errorf("that INFO is refused was logged %d times", n)
	}
}

// An accepted job must not be evicted: of a Redis that evicts nothing is taken in.
func TestARedisThatEvictsGetsNoJobUnlessThatIsMeant(t *testing.T) {
	t.Parallel()
	evicting := redistest.Options{AOF: "always", Args: []string{"--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"}}
	provider := newWire(t, recorded(t, "anthropic/text"))
	r := outageOn(t, redistest.Start(t, evicting), "", claude(provider.URL))
	for _, c := range []struct{ path, body string }{{"/v1/jobs", hello}, {"/v1/batches", `{"jobs":[` + hello + `]}`}} {
		var p struct{ Code string }
		res := r.call("POST", c.path, c.body, &p)
		if res.StatusCode != 503 || p.Code != "unsafe_redis" || res.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %s %s, Retry-After %q; want 503 unsafe_redis and a time", c.path, res.Status, p.Code, res.Header.Get("Retry-After"))
		}
	}
	if z := r.readyz(); z.code != 503 || !strings.Contains(z.down(), "redis.allow_eviction") || !strings.Contains(z.notices(), "volatile-lru") {
		t.Errorf("/readyz: %+v", z)
	}

	meant := outageOn(t, redistest.Start(t, evicting), "", claude(provider.URL)+"redis: {allow_eviction: true}\n")
	if j := meant.final(meant.submit()); j.Status != "succeeded" {
		t.Errorf("a job where eviction is meant: %+v", j)
	}
	meant.until("ready", func() bool { return meant.readyz().code == 200 })
	if z := meant.readyz(); !strings.Contains(z.notices(), "volatile-lru") {
		t.Errorf("/readyz where eviction is meant: %+v", z)
	}

	// Keys that are gone are counted.
	admin := meant.redis.Client()
	if err := admin.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-random").Err(); err != nil {
		t.Fatal(err)
	}
	if err := admin.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	_ = admin.Set(t.Context(), "another", "key", redis.KeepTTL).Err() // it may be refused
	meant.until("evicted keys are counted", func() bool { return meant.gauge("sluice_redis_evicted_keys") > 0 })
}

// Keys that were evicted are gone also when the policy is right again: no job is taken
// in until an operator has said that he knows.
func TestEvictedKeysShutTheDoorAlsoUnderTheRightPolicy(t *testing.T) {
	t.Parallel()
	provider := newWire(t, recorded(t, "anthropic/text"))
	evict := func(r *stage) {
		admin := r.redis.Client()
		ctx := t.Context()
		for i := range 20 {
			_ = admin.Set(ctx, fmt.Sprint("another:", i), strings.Repeat("x", 50000), redis.KeepTTL).Err()
		}
		used, err := admin.InfoMap(ctx, "memory").Result()
		if err != nil {
			t.Fatal(err)
		}
		now, _ := strconv.Atoi(used["Memory"]["used_memory"])
		// The policy is there for less than a look.
		p := admin.Pipeline()
		p.ConfigSet(ctx, "maxmemory-policy", "allkeys-lru")
		p.ConfigSet(ctx, "maxmemory", strconv.Itoa(now-300000))
		p.ConfigSet(ctx, "maxmemory-policy", "noeviction")
		p.ConfigSet(ctx, "maxmemory", "100mb")
		if _, err := p.Exec(ctx); err != nil {
			t.Fatal(err)
		}
		if n, _ := admin.InfoMap(ctx, "stats").Result(); n["Stats"]["evicted_keys"] == "0" {
			t.Fatal("nothing was evicted")
		}
	}
	r := outageOn(t, durably(t), "", claude(provider.URL))
	r.until("ready", func() bool { return r.readyz().code == 200 })
	evict(r)
	r.until("the door is shut", func() bool { return strings.Contains(r.readyz().down(), "CONFIG RESETSTAT") })
	z := r.readyz()
	if z.code != 503 || !regexp.MustCompile(`redis has evicted [1-9]\d* keys while this process ran`).MatchString(z.notices()) {
		t.Errorf("/readyz: %+v", z)
	}
	if _, code := r.status("POST", "/v1/jobs", hello); code != "unsafe_redis" {
		t.Errorf("a submit: %s; want unsafe_redis", code)
	}
	if n := r.said.count("level=ERROR msg=\"redis evicts keys"); n != 1 {
		t.Errorf("the log says it %d times; want once", n)
	}
	if r.gauge("sluice_redis_evicted_keys") == 0 || r.gauge("sluice_redis_durable") != 0 {
		t.Error("the metrics do not say it")
	}
	if err := r.redis.Client().ConfigResetStat(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	r.until("an operator's word opens it", func() bool { return r.readyz().code == 200 })
	if j := r.final(r.submit()); j.Status != "succeeded" {
		t.Errorf("the job that follows: %+v", j)
	}

	meant := outageOn(t, durably(t), "", claude(provider.URL)+"redis: {allow_eviction: true}\n")
	meant.until("ready", func() bool { return meant.readyz().code == 200 })
	evict(meant)
	meant.until("it says so", func() bool { return strings.Contains(meant.readyz().notices(), "while this process ran") })
	if j := meant.final(meant.submit()); j.Status != "succeeded" {
		t.Errorf("a job where eviction is meant: %+v", j)
	}
}

// The permissions that README lists are enough for the whole life of a job, for a
// batch, a webhook's endpoint, a pause and the console.
func TestTheLeastPermissionsAreEnough(t *testing.T) {
	t.Parallel()
	_, rules, ok := strings.Cut(project(t, "README.md"), "<!-- least permissions -->\n```text\n")
	if !ok {
		t.Fatal("README does not list the least permissions")
	}
	rules, _, _ = strings.Cut(rules, "\n")
	command := []any{}
	for word := range strings.FieldsSeq(rules) {
		command = append(command, word)
	}
	server := durably(t)
	if err := server.Client().Do(t.Context(), command...).Err(); err != nil {
		t.Fatalf("%s: %v", rules, err)
	}
	provider := newWire(t, recorded(t, "anthropic/text"))
	r := outageOn(t, server, strings.Replace(server.URL(), "unix://", "unix://app:password@", 1), claude(provider.URL)+"webhooks: {allow_private: true}\n")
	r.until("ready", func() bool { return r.readyz().code == 200 })
	if z := r.readyz(); len(z.Notice) != 1 || !strings.Contains(z.notices(), "appendfsync") { // CONFIG GET is not among the least
		t.Errorf("notices: %s", z.notices())
	}
	id := r.submit()
	if j := r.final(id); j.Status != "succeeded" || j.Attempts != 1 {
		t.Errorf("job: %+v", j)
	}
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/v1/batches", `{"jobs":[` + hello + "," + hello + `]}`, 202},
		{"POST", "/v1/pools/claude/pause", `{"reason":"a look"}`, 200},
		{"POST", "/v1/jobs", hello, 202},
		{"GET", "/v1/status", "", 200},
		{"POST", "/v1/pools/claude/resume", "", 200},
		{"POST", "/v1/jobs", strings.Replace(hello, "{", `{"not_before":"2099-01-01T00:00:00Z",`, 1), 202},
		{"GET", "/v1/jobs", "", 200},
		{"GET", "/v1/signing-secret", "", 200},
		{"POST", "/v1/webhook-endpoints", `{"url":"https://127.0.0.1:1/hook","events":["job.succeeded"]}`, 201},
		{"GET", "/v1/pools/claude/audit", "", 200},
		{"POST", "/v1/jobs", hello, 202}, // and a delivery
	} {
		var answer any
		if res := r.call(c.method, c.path, c.body, &answer); res.StatusCode != c.want {
			t.Errorf("%s %s: %s %v; want %d", c.method, c.path, res.Status, answer, c.want)
		}
	}
	r.until("nothing waits but what is for later", func() bool { return r.gauge("sluice_backlog_jobs") <= 1 })
	if text := r.stream("/v1/jobs/" + id + "/events"); !strings.Contains(text, "event: done") {
		t.Errorf("the stream: %s", text)
	}
	if n := r.said.count("NOPERM") + r.said.count("can't run this command"); n > 0 {
		t.Errorf("%d lines of the log complain of permissions", n)
	}
}

// What counts is by how much Redis's own number rises, whatever it was, and that an
// operator has set it back, also when more went before the next look.
func TestEvictedKeysAreThoseSinceTheLastLook(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		counts []int64
		want   int64
	}{
		"none":                                {[]int64{0, 0, 0}, 0},
		"before the process began":            {[]int64{7, 7}, 0},
		"while it looks":                      {[]int64{7, 9, 9, 12}, 5},
		"set back":                            {[]int64{7, 9, 0, 0}, 0},
		"set back, and more":                  {[]int64{7, 9, 0, 2}, 2},
		"set back and more in between":        {[]int64{7, 9, 3, 3}, 3},
		"set back where none had gone lately": {[]int64{7, 0}, 0},
	} {
		r := &readiness{log: slog.New(slog.DiscardHandler)}
		for i, count := range c.counts {
			before := int64(0)
			if i > 0 {
				before = c.counts[i-1]
			}
			r.evictedLocked(before, count, i == 0)
		}
		if r.evicted != c.want {
			t.Errorf("%s: %v: %d evicted; want %d", name, c.counts, r.evicted, c.want)
		}
	}
}
