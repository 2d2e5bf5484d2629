package web

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/hibiken/asynq"
)

const jobID = "job_01JD0Z3W5N8Q6T2V4X7Y9ABCDE"

// enqueue puts three tasks into a queue: one of Sluice's own, and two that leak a prompt.
func enqueue(t *testing.T, s *site) {
	t.Helper()
	client := asynq.NewClientFromRedisClient(s.redis)
	for id, payload := range map[string]string{
		"one":   `{"id":"` + jobID + `","attempt":2,"prompt":"my secret prompt"}`,
		"two":   `{"id":"my secret prompt","attempt":1}`,
		"three": "my secret prompt",
	} {
		if _, err := client.EnqueueContext(t.Context(), asynq.NewTask("prompt", []byte(payload)), asynq.Queue("claude"), asynq.TaskID(id)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMonitoring(t *testing.T) {
	s := newSite(t, nil)
	enqueue(t, s)
	monitor, admin := s.signIn("look"), s.signIn("change")

	a := s.do(monitor, "GET", "/monitoring/api/queues", nil)
	s.want(a, 200, `"queue":"claude"`)
	if got := a.Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("the API's type is %q", got)
	}
	a = s.do(monitor, "GET", "/monitoring/api/queues/claude/pending_tasks", nil)
	s.want(a, 200, jobID, `\"attempt\":2`, "16 bytes, not shown")
	if strings.Contains(a.body, "secret prompt") {
		t.Errorf("a prompt is shown:\n%s", a.body)
	}
	s.want(s.do(nil, "GET", "/monitoring/api/queues", nil, "Authorization", "Bearer look"), 200)
	s.want(s.do(nil, "GET", "/monitoring/api/queues", nil, "Authorization", "Bearer caller"), 403)
	s.want(s.do(monitor, "GET", "/monitoring/api/nothing", nil), 404)
	s.want(s.do(monitor, "GET", "/monitoring/api/redis_info", nil), 200, "redis_version")
	s.want(s.do(monitor, "GET", "/monitoring/api/servers", nil), 200, "servers")

	inspector := asynq.NewInspectorFromRedisClient(s.redis)
	paused := func() bool {
		t.Helper()
		info, err := inspector.GetQueueInfo("claude")
		if err != nil {
			t.Fatal(err)
		}
		return info.Paused
	}
	for _, call := range [][2]string{
		{"POST", "/monitoring/api/queues/claude:pause"},
		{"DELETE", "/monitoring/api/queues/claude"},
		{"DELETE", "/monitoring/api/queues/claude/pending_tasks/one"},
		{"POST", "/monitoring/api/queues/claude/pending_tasks:archive_all"},
		{"POST", "/monitoring/"},
		{"PUT", "/monitoring/static/js/x.js"},
	} {
		s.want(s.do(monitor, call[0], call[1], nil), 405)
	}
	s.want(s.do(nil, "POST", "/monitoring/api/queues/claude:pause", nil, "Authorization", "Bearer look"), 405)
	if info, err := inspector.GetQueueInfo("claude"); err != nil || info.Paused || info.Pending != 3 {
		t.Fatalf("somebody who may only look changed the queue: %+v, %v", info, err)
	}

	s.want(s.do(admin, "POST", "/monitoring/api/queues/claude:pause", nil), 204)
	if !paused() {
		t.Error("admin could not pause")
	}
	s.want(s.do(nil, "POST", "/monitoring/api/queues/claude:resume", nil, "Authorization", "Bearer change"), 204)
	if paused() {
		t.Error("admin could not resume")
	}
	if log := s.log.String(); !strings.Contains(log, "path=/monitoring/api/queues/claude:pause") || !strings.Contains(log, "subject=ada") {
		t.Errorf("the change is not logged:\n%s", log)
	}
	// asynqmon was lent the client and must leave it open.
	if err := s.redis.Ping(t.Context()).Err(); err != nil {
		t.Errorf("the shared client: %v", err)
	}
}

func TestMonitoringPage(t *testing.T) {
	s := newSite(t, nil)
	for _, row := range []struct{ token, readOnly string }{{"look", "true"}, {"change", "false"}} {
		jar := s.signIn(row.token)
		for _, path := range []string{"/monitoring", "/monitoring/", "/monitoring/queues/gpt-4.1", "/monitoring/redis"} {
			a := s.do(jar, "GET", path, nil)
			s.want(a, 200, `window.FLAG_READ_ONLY="`+row.readOnly+`"`, `<div id="root">`, "asynqmon shows the tasks in Asynq")
			if !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") || a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %s, %s", path, a.Header.Get("Content-Type"), a.Header.Get("Cache-Control"))
			}
			policy := a.Header.Get("Content-Security-Policy")
			if strings.Contains(a.body, "//fonts.") || strings.Contains(a.body, "manifest") || strings.Contains(policy, "http") || !strings.Contains(policy, "frame-ancestors 'none'") {
				t.Errorf("%s: asks elsewhere, or may be framed: %s", path, policy)
			}
			script, _, _ := strings.Cut(policy[strings.Index(policy, "script-src"):], ";")
			if strings.Contains(script, "unsafe") {
				t.Errorf("%s: %s", path, script)
			}
			inline := regexp.MustCompile(`(?s)<script>(.*?)</script>`).FindAllStringSubmatch(a.body, -1)
			if len(inline) == 0 {
				t.Errorf("%s: no inline script, so nothing is tested", path)
			}
			for _, m := range inline {
				sum := sha256.Sum256([]byte(m[1]))
				if hash := "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(script, hash) {
					t.Errorf("%s: an inline script is not allowed by %s", path, script)
				}
			}
		}
	}
	jar := s.signIn("look")
	page := s.do(jar, "GET", "/monitoring", nil)
	scripts := regexp.MustCompile(`src="(/monitoring/static/[^"]+\.js)"`).FindAllStringSubmatch(page.body, -1)
	if len(scripts) < 2 {
		t.Fatalf("%d scripts in the page", len(scripts))
	}
	for _, m := range scripts {
		a := s.do(jar, "GET", m[1], nil)
		s.want(a, 200)
		if !strings.HasPrefix(a.Header.Get("Content-Type"), "application/javascript") {
			t.Errorf("%s: %s", m[1], a.Header.Get("Content-Type"))
		}
		s.want(s.do(jar, "GET", m[1]+".map", nil), 404)
	}
	for _, svg := range regexp.MustCompile(`static/media/[a-z.0-9-]+\.svg`).FindAllString(s.do(jar, "GET", scripts[len(scripts)-1][1], nil).body, -1) {
		if a := s.do(jar, "GET", "/monitoring/"+svg, nil); a.StatusCode != 200 || a.Header.Get("Content-Type") != "image/svg+xml" {
			t.Errorf("%s: %d %s", svg, a.StatusCode, a.Header.Get("Content-Type"))
		}
	}
	for path, want := range map[string]int{
		"/monitoring/favicon.ico":       http.StatusOK,
		"/monitoring/manifest.json":     http.StatusOK,
		"/monitoring/nothing.json":      http.StatusNotFound,
		"/monitoring/static/js/none.js": http.StatusNotFound,
		"/monitoring/static":            http.StatusOK, // a place within the page
	} {
		a := s.do(jar, "GET", path, nil)
		s.want(a, want)
		if want == 404 && a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: a missing file may be kept", path)
		}
	}
}

func TestDescribe(t *testing.T) {
	for payload, want := range map[string]string{
		"":                                      "",
		`{"id":"` + jobID + `","attempt":3}`:    `{"id":"` + jobID + `","attempt":3}`,
		`{"id":"` + jobID + `","text":"hello"}`: `{"id":"` + jobID + `","attempt":0}`,
		`{"id":"hello"}`:                        "14 bytes, not shown",
		`{"id":"job_01JD0Z3W5N8Q6T2V4X7Y9ABCD<"}`:  "39 bytes, not shown",
		`{"id":"` + jobID + `","attempt":"hello"}`: "57 bytes, not shown",
		`"hello"`: "7 bytes, not shown",
		"hello":   "5 bytes, not shown",
	} {
		if got := describe("", []byte(payload)); got != want {
			t.Errorf("%s: got %s, want %s", payload, got, want)
		}
	}
}

func FuzzDescribe(f *testing.F) {
	f.Add([]byte(`{"id":"` + jobID + `","attempt":3}`))
	f.Add([]byte(`{"ID":"hello"}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		got := describe("", payload)
		if got == "" || strings.HasSuffix(got, " bytes, not shown") {
			return
		}
		var task map[string]any
		if err := json.Unmarshal([]byte(got), &task); err != nil || len(task) != 2 || !identifier(task["id"].(string)) {
			t.Fatalf("%q is shown as %s", payload, got)
		}
	})
}

// Queues that are not ours are neither shown nor changed: another Sluice, or another
// program, has them on the same Redis.
func TestMonitoringShowsOwnQueuesAlone(t *testing.T) {
	s := newSite(t, func(c *Config) { c.Ours = func(queue string) bool { return queue != "other:claude" } })
	enqueue(t, s)
	client := asynq.NewClientFromRedisClient(s.redis)
	if _, err := client.EnqueueContext(t.Context(), asynq.NewTask("prompt", nil), asynq.Queue("other:claude"), asynq.TaskID("one")); err != nil {
		t.Fatal(err)
	}
	admin := s.signIn("change")
	for _, path := range []string{"queues", "queue_stats"} {
		a := s.do(admin, "GET", "/monitoring/api/"+path, nil)
		if s.want(a, 200, `"claude"`); strings.Contains(a.body, "other") {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	for _, c := range [][2]string{
		{"GET", ""}, {"DELETE", ""}, {"POST", ":pause"}, {"POST", ":resume"}, {"GET", "/pending_tasks"}, {"GET", "/tasks/one"}, {"DELETE", "/pending_tasks/one"},
		{"POST", "/pending_tasks:archive_all"}, {"DELETE", "/pending_tasks:delete_all"}, {"POST", "/active_tasks:cancel_all"},
	} {
		for _, name := range []string{"other:claude", "other%3Aclaude", "./other:claude", "claude/../other:claude"} {
			if a := s.do(admin, c[0], "/monitoring/api/queues/"+name+c[1], nil); a.StatusCode < 300 {
				t.Errorf("%s %s%s: %d", c[0], name, c[1], a.StatusCode)
			}
		}
	}
	info, err := asynq.NewInspectorFromRedisClient(s.redis).GetQueueInfo("other:claude")
	if err != nil || info.Paused || info.Pending != 1 {
		t.Errorf("another's queue was changed: %+v, %v", info, err)
	}
}
