package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9/logging"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

var raced = flag.Bool("raced", false, "start every child process with the race detector, too")

// built is where the program was built that tests start as a child.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// Sluice returns the path of the program that a test starts as a process of its own.
// It is built without the race detector, with which such a process needs twice the
// processor: most of what it runs is run with the detector in the test's own process
// and by the tests of its packages. With -raced, and where the tests have no detector
// either, it is [Raced].
func Sluice(tb testing.TB) string {
	tb.Helper()
	info, _ := debug.ReadBuildInfo()
	if *raced || info == nil || !slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return Raced(tb)
	}
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "sluice"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "sluice")
		cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", built.path, ".")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		tb.Fatal(built.err)
	}
	return built.path
}

// Raced returns the path of the program as it is tested: the test binary, which is the
// program by the name of sluice.
func Raced(tb testing.TB) string {
	tb.Helper()
	path, err := exec.LookPath("sluice") // [testscript.Main] puts it there
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// leakless runs the tests and then looks for goroutines they left.
type leakless struct{ m *testing.M }

func (l leakless) Run() int {
	// Most of these tests wait for other processes, leases and schedules, each
	// with a Redis of its own, and need little of a processor. -parallel still has
	// the last word.
	_ = flag.Set("test.parallel", "8")
	debug.SetGCPercent(400) // else a sixteenth of their time goes into collecting what short runs leave
	logging.Disable()       // as the program does, for the tests that run it in this process
	code := l.m.Run()
	if err := os.RemoveAll(built.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestMain lets the test binary be the program for the scripts.
func TestMain(m *testing.M) {
	testscript.Main(leakless{m}, map[string]func(){
		"sluice": func() { os.Exit(withSignals()) },
	})
}

// TestScripts runs testdata: what a user types and what comes back.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			e.Setenv("HOME", home)
			onPath(t, e)
			return os.Mkdir(home, 0o700)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
		},
	})
}

// onPath makes a script's sluice that of [Sluice].
func onPath(t *testing.T, e *testscript.Env) {
	e.Setenv("PATH", filepath.Dir(Sluice(t))+string(filepath.ListSeparator)+e.Getenv("PATH"))
	e.Setenv("GORACE", "atexit_sleep_ms=0") // else each process ends a second late
}

// exits CODE command... runs a command of a script that ends with that very code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE command [args...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("%s ends with %s; want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// idle are the command lines that no test uses now.
var idle struct {
	mu    sync.Mutex
	lines []*commandLine
}

// typeIn is program with a command line that was used before, if there is one: to build
// the tree of commands is most of what a short command costs with the race detector.
func typeIn(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	idle.mu.Lock()
	var c *commandLine
	if n := len(idle.lines); n > 0 {
		c, idle.lines = idle.lines[n-1], idle.lines[:n-1]
	}
	idle.mu.Unlock()
	if c == nil {
		c = newCommandLine()
	}
	defer func() {
		c.cli = CLI{}
		_ = kong.Visit(c.parser.Model.Node, func(node kong.Visitable, next kong.Next) error {
			switch node := node.(type) {
			case *kong.Node:
				node.Active = false
			case *kong.Value:
				node.Set, node.Active = false, false
			case *kong.Flag:
				node.Negated = false
			}
			return next(nil)
		})
		idle.mu.Lock()
		defer idle.mu.Unlock()
		idle.lines = append(idle.lines, c)
	}()
	return c.run(ctx, args, environ, stdin, stdout, stderr)
}

// invoke runs the program in this process.
func invoke(t *testing.T, stdin string, environ []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = typeIn(t.Context(), args, append([]string{"HOME=" + t.TempDir()}, environ...), strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestWrongUsage(t *testing.T) {
	body := filepath.Join(t.TempDir(), "body.json")
	if err := os.WriteFile(body, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	secret := []string{"SLUICE_AUTH__HMAC_SECRET=" + strings.Repeat("s", 32)}
	for args, want := range map[string]string{
		"":                                "expected one of",
		"frobnicate":                      "unexpected argument frobnicate",
		"version --frobnicate":            "unknown flag --frobnicate",
		"get":                             "try: sluice get --help",
		"watch":                           "try: sluice watch --help",
		"cancel":                          "give the ids of jobs",
		"pools pause":                     "try: sluice pools pause --help",
		"token":                           "--tenant",
		"submit --max-tokens many":        "--max-tokens",
		"submit --wait soon --model m hi": "neither seconds nor a duration",
		"submit hello":                    "--model is needed",
		"submit -m m -f x hello":          "exclude one another",
		"submit -m m -f /does/not/exist":  "/does/not/exist",
		"submit --json " + body + " -m m": "--json is the whole body",
		"--log-level loud version":        "log level",
		"get --url ftp://x job_1":         "address of the API",
		"fake --rpm=-1":                   "RequestsPerMinute",
		"fake --fault frobnicate":         "frobnicate",
		"fake --fault 529:7":              "probability",
		"token --tenant acme --ttl 25h":   "auth.max_lifetime, 24h",
		"token --tenant acme --ttl 0s":    "--ttl 0s",
		"token --tenant acme --ttl=-1h":   "--ttl -1h",
		"token --tenant a/b":              "tenant",
		"token --tenant a --scope all":    "scope",
		"token --tenant a --scope ,":      "scope",
	} {
		code, stdout, stderr := invoke(t, "", secret, strings.Fields(args)...)
		if code != 2 || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("sluice %s: code %d, stdout %q, stderr %q; want 2, nothing, %q", args, code, stdout, stderr, want)
		}
	}
}

func TestEveryCommandHasHelp(t *testing.T) {
	for _, c := range []string{
		"", "submit", "get", "watch", "cancel", "explain", "pools", "pools list", "pools pause", "pools resume", "pools tenants", "pools audit", "token", "fake", "config", "config check", "version", "healthcheck", "top", "completion", "help",
	} {
		code, stdout, stderr := invoke(t, "", nil, append(strings.Fields(c), "--help")...)
		if code != 0 || !strings.Contains(stdout, strings.TrimSpace("Usage: sluice "+c)) || stderr != "" {
			t.Errorf("sluice %s --help: code %d, stdout %q, stderr %q", c, code, stdout, stderr)
		}
	}
}

// The help of the fake provider lists every kind of fault that it takes, and what it does.
func TestTheFakesHelpListsEveryFault(t *testing.T) {
	_, help, _ := invoke(t, "", nil, "fake", "--help")
	help = strings.Join(strings.Fields(help), " ")
	for _, k := range fake.Kinds() {
		if !strings.Contains(help, " "+k.Name+" "+strings.Join(strings.Fields(k.Says), " ")) {
			t.Errorf("the help does not say that %s is %q", k.Name, k.Says)
		}
	}
}

func TestAFaultThatThereIsNotNamesThoseThatThereAre(t *testing.T) {
	if code, _, stderr := invoke(t, "", nil, "fake", "--fault", "bogus"); code != 2 || !strings.Contains(stderr, `there is no fault "bogus", only `) || !strings.Contains(stderr, "529") || !strings.Contains(stderr, "hang") {
		t.Errorf("code %d, %q", code, stderr)
	}
}

func TestWhatCannotBeReachedIsAFailure(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	for _, args := range [][]string{{"get", "job_1"}, {"watch", "job_1"}, {"submit", "-m", "m", "p"}, {"pools"}, {"healthcheck", url}} {
		if code, stdout, stderr := invoke(t, "", []string{"SLUICE_URL=" + url}, args...); code != 1 || stdout != "" || stderr == "" {
			t.Errorf("%q: code %d, stdout %q, stderr %q; want 1", args, code, stdout, stderr)
		}
	}
}

// fakeAPI answers as a test says and remembers what it was asked.
type fakeAPI struct {
	*httptest.Server
	mu    sync.Mutex
	asked []asked
}

type asked struct {
	method, uri, body string
	header            http.Header
}

func newFakeAPI(t *testing.T, answer func(n int, r asked, w http.ResponseWriter)) *fakeAPI {
	t.Helper()
	f := &fakeAPI{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		a := asked{r.Method, r.URL.RequestURI(), string(b), r.Header}
		f.mu.Lock()
		f.asked = append(f.asked, a)
		n := len(f.asked)
		f.mu.Unlock()
		answer(n, a, w)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeAPI) environ() []string {
	return []string{"SLUICE_URL=" + f.URL + "/", "SLUICE_TOKEN=tok"}
}

func (f *fakeAPI) requests() []asked {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

const (
	queued    = `{"id":"job_1","status":"queued","text":null,"error":null,"waiting":{"for":"input_tokens","position":3}}`
	running   = `{"id":"job_1","status":"running","text":null,"error":null,"waiting":{"for":null}}`
	succeeded = `{"id":"job_1","status":"succeeded","text":"Hello <b>","error":null,"waiting":null}`
	failed    = `{"id":"job_1","status":"failed","text":null,"error":{"code":"upstream_rejected","message":"no such model"}}`
)

func TestSubmit(t *testing.T) {
	body := filepath.Join(t.TempDir(), "body.json")
	if err := os.WriteFile(body, []byte(`{"model": "m",  "messages": []}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		args    []string
		stdin   string
		answers []string // the first for the submit
		body    string
		uris    string
		code    int
		stdout  string
		stderr  string
	}{
		"prompt of words":  {args: []string{"-m", "m", "two", "words"}, answers: []string{queued}, body: `{"model":"m","prompt":"two words"}`, uris: "/v1/jobs", stdout: queued + "\n"},
		"standard input":   {args: []string{"-m", "m"}, stdin: "a <b>\n", answers: []string{queued}, body: `{"model":"m","prompt":"a <b>\n"}`, uris: "/v1/jobs", stdout: queued + "\n"},
		"body as it is":    {args: []string{"--json", body}, answers: []string{queued}, body: `{"model": "m",  "messages": []}`, uris: "/v1/jobs", stdout: queued + "\n"},
		"every setting":    {args: []string{"-m", "m", "--max-tokens", "5", "--priority", "low", "--metadata", "a=b", "--fallback-model", "x,y", "--webhook-url", "https://h", "--deadline", "D", "--not-before", "N", "p"}, answers: []string{queued}, uris: "/v1/jobs", stdout: queued + "\n", body: `{"model":"m","prompt":"p","max_tokens":5,"priority":"low","not_before":"N","deadline":"D","webhook_url":"https://h","metadata":{"a":"b"},"fallback_models":["x","y"]}`},
		"empty prompt":     {args: []string{"-m", "m"}, stdin: " \n", code: 2, stderr: "the prompt is empty"},
		"wait, done":       {args: []string{"-m", "m", "--wait", "5", "p"}, answers: []string{queued, succeeded}, uris: "/v1/jobs /v1/jobs/job_1?wait=5", stdout: succeeded + "\n", stderr: "job_1 is queued"},
		"repeat, done":     {args: []string{"-m", "m", "--wait", "5", "p"}, answers: []string{succeeded}, uris: "/v1/jobs", stdout: succeeded + "\n"},
		"wait, failed":     {args: []string{"-m", "m", "--wait", "5s", "p"}, answers: []string{failed}, uris: "/v1/jobs", code: 1, stdout: failed + "\n", stderr: "job_1 failed: upstream_rejected: no such model"},
		"long wait":        {args: []string{"-m", "m", "--wait", "10m", "p"}, answers: []string{queued, running, succeeded}, uris: "/v1/jobs /v1/jobs/job_1?wait=25 /v1/jobs/job_1?wait=25", stdout: succeeded + "\n", stderr: "job_1 is queued"},
		"text":             {args: []string{"-m", "m", "--text", "p"}, answers: []string{queued, succeeded}, uris: "/v1/jobs /v1/jobs/job_1?wait=25", stdout: "Hello <b>\n", stderr: "job_1 is queued"},
		"text of a failed": {args: []string{"-m", "m", "--text", "p"}, answers: []string{failed}, uris: "/v1/jobs", code: 1, stderr: "upstream_rejected"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			api := newFakeAPI(t, func(n int, _ asked, w http.ResponseWriter) { _, _ = io.WriteString(w, c.answers[n-1]+"\n") })
			code, stdout, stderr := invoke(t, c.stdin, api.environ(), append([]string{"submit", "--idempotency-key", "k"}, c.args...)...)
			if code != c.code || stdout != c.stdout || !strings.Contains(stderr, c.stderr) || c.stderr == "" && stderr != "" {
				t.Errorf("code %d, stdout %q, stderr %q; want %d, %q, %q", code, stdout, stderr, c.code, c.stdout, c.stderr)
			}
			var uris []string
			for i, r := range api.requests() {
				uris = append(uris, r.uri)
				if r.header.Get("Authorization") != "Bearer tok" {
					t.Errorf("Authorization %q", r.header.Get("Authorization"))
				}
				if i > 0 {
					continue
				}
				if c.body != "" && strings.TrimSpace(r.body) != c.body {
					t.Errorf("body %s; want %s", r.body, c.body)
				}
				if r.method != http.MethodPost || r.header.Get("Prefer") != "" || r.header.Get("Idempotency-Key") != "k" || r.header.Get("Content-Type") != "application/json" {
					t.Errorf("%s with %v", r.method, r.header)
				}
			}
			if got := strings.Join(uris, " "); got != c.uris {
				t.Errorf("asked %q; want %q", got, c.uris)
			}
		})
	}
}

// A proxy's refusal, a connection that breaks and an API that is restarted say nothing
// of a job: it is sent again under its key, and asked for again once it is there.
func TestAWaitOutlivesProxiesAndRestarts(t *testing.T) {
	page := func(status int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<html>nginx</html>")
		}
	}
	say := func(body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { _, _ = io.WriteString(w, body+"\n") }
	}
	broken := func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
	problem := func(status int, code string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"code":%q,"detail":"D"}`, code)
		}
	}
	for name, c := range map[string]struct {
		answers []func(http.ResponseWriter)
		posts   int
		code    int
		stderr  string
	}{
		"502, 504 and a broken connection at the submit": {[]func(http.ResponseWriter){page(502), page(504), broken, page(503), say(queued), say(succeeded)}, 5, 0, "job_1 is queued\n"},
		"the same in the wait":                           {[]func(http.ResponseWriter){say(queued), page(502), broken, page(504), problem(503, "unavailable"), say(running), say(succeeded)}, 1, 0, "job_1 is queued\n"},
		"Sluice's own no at the submit":                  {[]func(http.ResponseWriter){problem(503, "store_full")}, 1, 1, "503 store_full: D"},
		"a proxy's own no":                               {[]func(http.ResponseWriter){page(413)}, 1, 1, "sluice: 413: Request Entity Too Large. The answer is not Sluice's (text/html): a proxy before it gave it."},
		"a job that is gone":                             {[]func(http.ResponseWriter){say(queued), problem(404, "not_found")}, 1, 1, "sluice: 404 not_found: D\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newFakeAPI(t, func(n int, _ asked, w http.ResponseWriter) { c.answers[n-1](w) })
			code, stdout, stderr := invoke(t, "", api.environ(), "submit", "-m", "m", "--text", "p")
			if code != c.code || (code == 0) != (stdout == "Hello <b>\n") || !strings.Contains(stderr, c.stderr) {
				t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			keys := map[string]bool{}
			posts := 0
			for _, r := range api.requests() {
				if r.method == http.MethodPost {
					posts++
					keys[r.header.Get("Idempotency-Key")] = true
				}
			}
			if posts != c.posts || len(keys) != 1 || keys[""] {
				t.Errorf("%d submits under the keys %v; want %d under one", posts, keys, c.posts)
			}
		})
	}
}

func TestGetAndCancel(t *testing.T) {
	api := newFakeAPI(t, func(_ int, r asked, w http.ResponseWriter) {
		switch {
		case r.method == http.MethodPost:
			_, _ = io.WriteString(w, `{"id":"job_1","status":"canceled"}`)
		case strings.Contains(r.uri, "failed"):
			_, _ = io.WriteString(w, failed)
		case strings.Contains(r.uri, "open"):
			_, _ = io.WriteString(w, running)
		default:
			_, _ = io.WriteString(w, succeeded)
		}
	})
	cases := []struct {
		args   []string
		code   int
		stdout string
		stderr string
		uri    string
	}{
		{[]string{"get", "job_1"}, 0, succeeded + "\n", "", "/v1/jobs/job_1"},
		{[]string{"get", "--text", "job_1"}, 0, "Hello <b>\n", "", "/v1/jobs/job_1"},
		{[]string{"get", "failed"}, 0, failed + "\n", "", "/v1/jobs/failed"},
		{[]string{"get", "--text", "failed"}, 1, "", "no such model", "/v1/jobs/failed"},
		{[]string{"get", "--text", "open"}, 1, "", "job_1 is running", "/v1/jobs/open"},
		{[]string{"get", "--wait", "7", "a/b?c"}, 0, succeeded + "\n", "", "/v1/jobs/a%2Fb%3Fc?wait=7"},
		{[]string{"cancel", "job_1"}, 0, `{"id":"job_1","status":"canceled"}` + "\n", "", "/v1/jobs/job_1/cancel"},
	}
	for _, c := range cases {
		before := len(api.requests())
		code, stdout, stderr := invoke(t, "", api.environ(), c.args...)
		if code != c.code || stdout != c.stdout || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%q: code %d, stdout %q, stderr %q", c.args, code, stdout, stderr)
		}
		if got := api.requests()[before].uri; got != c.uri {
			t.Errorf("%q: asked %s; want %s", c.args, got, c.uri)
		}
	}
}

func TestProblemsAreOneClearLine(t *testing.T) {
	cases := map[string]struct {
		status int
		header map[string]string
		body   string
		token  string
		want   string
	}{
		"problem":   {422, nil, `{"type":"t","title":"T","status":422,"code":"impossible_time","detail":"The deadline\nhas passed.","request_id":"req_1"}`, "tok", "sluice: 422 impossible_time: The deadline has passed. (request req_1)\n"},
		"quota":     {429, map[string]string{"Retry-After": "7"}, `{"code":"quota_exceeded","title":"Too many"}`, "tok", "sluice: 429 quota_exceeded: Too many Try again in 7s.\n"},
		"no token":  {401, nil, `{"code":"unauthorized","detail":"No bearer token."}`, "", "sluice: 401 unauthorized: No bearer token. Set SLUICE_TOKEN; sluice dev prints one, sluice token mints one.\n"},
		"a proxy's": {502, nil, `<html>`, "tok", "sluice: 502: Bad Gateway. The answer is not Sluice's (text/html): a proxy before it gave it.\n"},
		"redirect":  {302, map[string]string{"Location": "http://elsewhere.example/"}, "", "tok", "sluice: 302: Found. The answer is not Sluice's (no content type): a proxy before it gave it.\n"},
		"no job":    {200, nil, `<html>`, "tok", "sluice: the answer is not a job: is this the address of a Sluice API?\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			api := newFakeAPI(t, func(_ int, _ asked, w http.ResponseWriter) {
				for k, v := range c.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			code, stdout, stderr := invoke(t, "", []string{"SLUICE_URL=" + api.URL, "SLUICE_TOKEN=" + c.token}, "get", "job_1")
			if code != 1 || stdout != "" || stderr != c.want {
				t.Errorf("code %d, stdout %q, stderr %q; want 1, nothing, %q", code, stdout, stderr, c.want)
			}
		})
	}
}

func TestTokenComesFromAFileToo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	api := newFakeAPI(t, func(_ int, _ asked, w http.ResponseWriter) { _, _ = io.WriteString(w, succeeded) })
	for _, c := range []struct{ environ, args []string }{
		{[]string{"SLUICE_TOKEN_FILE=" + file}, nil},
		{[]string{"SLUICE_TOKEN=other"}, []string{"--token-file", file}},
	} {
		if code, _, stderr := invoke(t, "", c.environ, append([]string{"get", "job_1", "--url", api.URL}, c.args...)...); code != 0 {
			t.Errorf("code %d: %s", code, stderr)
		}
	}
	for _, r := range api.requests() {
		if got := r.header.Get("Authorization"); got != "Bearer from-file" {
			t.Errorf("Authorization %q", got)
		}
	}
}

func TestPools(t *testing.T) {
	api := newFakeAPI(t, func(_ int, r asked, w http.ResponseWriter) {
		if strings.HasSuffix(r.uri, "/v1/pools/claude/audit?limit=2") {
			_, _ = io.WriteString(w, `{"data":[
				{"at":"2026-01-01T00:00:00Z","action":"resume","by":"bob","reason":null},
				{"at":"2025-12-31T00:00:00Z","action":"pause","by":"ann","reason":"credit\nused up"}]}`)
			return
		}
		if strings.HasSuffix(r.uri, "/v1/pools/claude/tenants") {
			_, _ = io.WriteString(w, `{"data":[
				{"tenant":"acme","weight":3,"seconds":{"minute":42.51,"hour":2000},"share":0.7512,"queued":12,"running":2,"lag":-1.25},
				{"tenant":"zoe","weight":1,"seconds":{"minute":1,"hour":20},"share":0.01,"queued":0,"running":0,"lag":0}],
				"jain":{"minute":0.98761,"hour":null},"others":{"tenants":2,"seconds":{"minute":0.5,"hour":3}}}`)
			return
		}
		if r.method == http.MethodGet {
			_, _ = io.WriteString(w, `{"status":"degraded","pools":[
				{"name":"claude","state":"paused","since":null,"reason":"credit\nused up","paused_by":"operator","queued":12,"scheduled":2,"running":0,"waiting_for":"paused","oldest_queued_at":"2020-01-01T00:00:00Z"},
				{"name":"gpt","state":"open","reason":null,"paused_by":null,"queued":1,"scheduled":0,"running":3,"waiting_for":"requests","oldest_queued_at":null,"drained_at":"2020-01-01T00:00:00Z","allowance":{"requests":{"limit":50,"used":0.5}}}]}`)
			return
		}
		_, _ = io.WriteString(w, `{"name":"claude"}`)
	})
	want := "POOL STATE BY QUEUED LATER RUNNING OLDEST FOR ALLOWANCE NEXT REASON\n" +
		"claude paused operator 10 2 0 AGE paused - - credit used up\n" +
		"gpt open - 1 0 3 - requests requests 50 % drained in 0s -\n"
	ages, spaces := regexp.MustCompile(`\d+h\d+m\d+s`), regexp.MustCompile(` +`)
	for _, args := range [][]string{{"pools"}, {"pools", "list"}} {
		code, stdout, stderr := invoke(t, "", api.environ(), args...)
		if got := spaces.ReplaceAllString(ages.ReplaceAllString(stdout, "AGE"), " "); code != 0 || got != want {
			t.Errorf("%q: code %d, stderr %q, stdout\n%s\nwant\n%s", args, code, stderr, got, want)
		}
	}
	if code, stdout, _ := invoke(t, "", api.environ(), "pools", "list", "--json"); code != 0 || !json.Valid([]byte(stdout)) || strings.Count(stdout, "\n") != 1 {
		t.Errorf("--json: %d, %q", code, stdout)
	}
	for verb, body := range map[string]string{"pause": `{"reason":"credit used up"}`, "resume": ""} {
		args := []string{"pools", verb, "claude"}
		if verb == "pause" {
			args = append(args, "--reason", "credit used up")
		}
		if code, stdout, stderr := invoke(t, "", api.environ(), args...); code != 0 || stdout != `{"name":"claude"}`+"\n" {
			t.Errorf("%s: %d, %q, %q", verb, code, stdout, stderr)
		}
		all := api.requests()
		if r := all[len(all)-1]; r.method != http.MethodPost || r.uri != "/v1/pools/claude/"+verb || r.body != body {
			t.Errorf("%s asked %+v", verb, r)
		}
	}
	want = "AT                    ACTION  BY   UNTIL  REASON\n" +
		"2026-01-01T00:00:00Z  resume  bob  -      -\n" +
		"2025-12-31T00:00:00Z  pause   ann  -      credit used up\n"
	if code, stdout, stderr := invoke(t, "", api.environ(), "pools", "audit", "claude", "--limit", "2"); code != 0 || stdout != want {
		t.Errorf("audit: code %d, stderr %q, stdout\n%s\nwant\n%s", code, stderr, stdout, want)
	}
	want = "TENANT    WEIGHT  SHARE  S/MINUTE  S/HOUR  LAG   QUEUED  RUNNING\n" +
		"acme      3       75.1%  42.5      2000.0  -1.2  12      2\n" +
		"(3 more)  -       -      1.5       23.0    -     -       -\n" +
		"Jain's index: 0.9876 in the last minute, none in the last hour\n"
	if code, stdout, stderr := invoke(t, "", api.environ(), "pools", "tenants", "claude", "--limit", "1"); code != 0 || stdout != want {
		t.Errorf("tenants: code %d, stderr %q, stdout\n%s\nwant\n%s", code, stderr, stdout, want)
	}
}

// send writes events and, at once, what was written so far.
func send(w http.ResponseWriter, events ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, e := range events {
		_, _ = io.WriteString(w, e+"\n\n")
	}
	w.(http.Flusher).Flush()
}

func TestWatch(t *testing.T) {
	const quick = "retry: 1"
	status := func(id, job string) string { return "id: " + id + "\nevent: status\ndata: " + job }
	delta := func(id string, attempt, offset int, text string) string {
		return fmt.Sprintf("id: %s\nevent: delta\ndata: {\"attempt\":%d,\"offset\":%d,\"text\":%q}", id, attempt, offset, text)
	}
	const done = "id: 9-1-5-done\nevent: done\ndata: {\"id\":\"job_1\"}"
	cases := map[string]struct {
		args    []string
		streams [][]string // one a connection; a cut one ends without done
		lasts   []string   // the Last-Event-ID of each connection
		code    int
		stdout  string
		stderr  []string
	}{
		"to its end": {
			streams: [][]string{{quick, ": waiting", status("1", queued), status("2", running), delta("3", 1, 0, "Hel"), delta("4", 1, 3, "lo"), status("5", succeeded), done}},
			lasts:   []string{""}, stdout: "Hello\n",
			stderr: []string{"job_1: queued, waiting for the provider's allowance of input tokens, position 3\n", "job_1: running\n", "job_1: succeeded\n"},
		},
		"a cut connection is taken up again, and nothing printed twice": {
			streams: [][]string{{quick, delta("3", 1, 0, "Hel")}, {}, {delta("3", 1, 0, "Hello"), status("5", succeeded), done}},
			lasts:   []string{"", "3", "3"}, stdout: "Hello\n",
		},
		"another attempt begins anew": {
			streams: [][]string{{delta("3", 1, 0, "Hel"), delta("4", 2, 0, "Bye\n"), status("5", succeeded), done}},
			lasts:   []string{""}, stdout: "Hel\nBye\n", stderr: []string{"another attempt"},
		},
		"failure": {
			streams: [][]string{{status("5", failed), done}}, lasts: []string{""},
			code: 1, stderr: []string{"job_1 failed: upstream_rejected: no such model"},
		},
		"events as JSON": {
			args:    []string{"--json"},
			streams: [][]string{{delta("3", 1, 0, "Hi"), status("5", succeeded), done}}, lasts: []string{""},
			stdout: `{"event":"delta","data":{"attempt":1,"offset":0,"text":"Hi"}}` + "\n" + `{"event":"status","data":` + succeeded + "}\n" + `{"event":"done","data":{"id":"job_1"}}` + "\n",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			api := newFakeAPI(t, func(n int, _ asked, w http.ResponseWriter) { send(w, c.streams[n-1]...) })
			code, stdout, stderr := invoke(t, "", api.environ(), append([]string{"watch", "job_1"}, c.args...)...)
			if code != c.code || stdout != c.stdout {
				t.Errorf("code %d, stdout %q, stderr %q; want %d, %q", code, stdout, stderr, c.code, c.stdout)
			}
			for _, want := range c.stderr {
				if !strings.Contains(stderr, want) {
					t.Errorf("stderr %q lacks %q", stderr, want)
				}
			}
			var lasts []string
			for _, r := range api.requests() {
				lasts = append(lasts, r.header.Get("Last-Event-ID"))
			}
			if strings.Join(lasts, "|") != strings.Join(c.lasts, "|") {
				t.Errorf("Last-Event-ID %q; want %q", lasts, c.lasts)
			}
		})
	}
}

// Who waits for a paused pool is told who paused it and why; and that a signal ended the command.
func TestWatchOfAPausedPool(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	api := newFakeAPI(t, func(_ int, r asked, w http.ResponseWriter) {
		if r.uri == "/v1/status" {
			_, _ = io.WriteString(w, twoPools)
			return
		}
		send(w, "id: 1\nevent: status\ndata: "+`{"id":"job_1","status":"queued","pool":"claude","waiting":{"for":"paused","position":3}}`)
		<-ctx.Done()
	})
	said := make(writes, 8)
	code := make(chan int, 1)
	go func() {
		code <- typeIn(ctx, []string{"watch", "job_1"}, api.environ(), strings.NewReader(""), io.Discard, said)
	}()
	if got, want := <-said, "job_1: queued, waiting for its paused pool, position 3: claude is paused by operator (the \u241b[31mbill), back any moment\n"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	stop()
	if got := <-said; got != "sluice: interrupted\n" {
		t.Errorf("told %q at the end", got)
	}
	if got := <-code; got != 1 {
		t.Errorf("exit code %d, want 1", got)
	}
}

// writes are a stream that is read write by write.
type writes chan string

func (l writes) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// A port that somebody has is named with the setting that chooses another.
func TestATakenPortNamesItsSetting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	for want, args := range map[string][]string{
		"--listen":               {"fake", "--listen", taken},
		"listen (SLUICE_LISTEN)": {"api"},
	} {
		environ := []string{"SLUICE_LISTEN=" + taken, "SLUICE_AUTH__HMAC_SECRET=" + strings.Repeat("s", 32), "SLUICE_REDIS__URL=redis://127.0.0.1:1", "SLUICE_OPS_LISTEN=127.0.0.1:0"}
		if code, _, stderr := invoke(t, "", environ, args...); code != 1 || !strings.Contains(stderr, "address already in use: another address is named by "+want) {
			t.Errorf("%q: code %d, %q", args, code, stderr)
		}
	}
}

func TestWatchOfAJobThatIsGone(t *testing.T) {
	api := newFakeAPI(t, func(_ int, _ asked, w http.ResponseWriter) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"code":"not_found","detail":"There is no such job."}`)
	})
	if code, _, stderr := invoke(t, "", api.environ(), "watch", "job_1"); code != 1 || !strings.Contains(stderr, "404 not_found") || len(api.requests()) != 1 {
		t.Errorf("code %d, stderr %q, %d requests; want 1, the problem, one", code, stderr, len(api.requests()))
	}
}

func TestWatchGivesUpAtLast(t *testing.T) {
	api := newFakeAPI(t, func(n int, _ asked, w http.ResponseWriter) { send(w, "retry: 1") })
	if code, _, stderr := invoke(t, "", api.environ(), "watch", "job_1"); code != 1 || !strings.Contains(stderr, "break off") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
	if n := len(api.requests()); n != reconnects+1 {
		t.Errorf("%d connections; want %d", n, reconnects+1)
	}
}

func TestWatchOfAJobThatEndedWhileAway(t *testing.T) {
	api := newFakeAPI(t, func(n int, r asked, w http.ResponseWriter) {
		switch {
		case !strings.HasSuffix(r.uri, "/events"):
			_, _ = io.WriteString(w, failed)
		case n == 1:
			send(w, "retry: 1", "id: 3\nevent: status\ndata: "+running)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	if code, _, stderr := invoke(t, "", api.environ(), "watch", "job_1"); code != 1 || !strings.Contains(stderr, "no such model") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}

func FuzzEvents(f *testing.F) {
	f.Add("retry: 5\n\nid: 1\nevent: status\ndata: {}\r\n\r\n")
	f.Add("data: a\ndata: b\n\n:\n\ndata")
	f.Fuzz(func(t *testing.T, s string) {
		r := &eventReader{r: bufio.NewReader(strings.NewReader(s))}
		for n := 0; ; n++ {
			if n > len(s) {
				t.Fatalf("%q: more events than bytes", s)
			}
			if _, err := r.next(); err != nil {
				return
			}
		}
	})
}

func TestMintedTokenIsTaken(t *testing.T) {
	secret := strings.Repeat("s", 32)
	code, stdout, stderr := invoke(t, "", []string{"SLUICE_AUTH__HMAC_SECRET=" + secret}, "token", "--tenant", "acme", "--scope", "jobs:read monitor", "--ttl", "10m")
	if code != 0 {
		t.Fatalf("code %d: %s", code, stderr)
	}
	v, err := auth.New(auth.Config{Issuer: "sluice", Audience: "sluice", HMACSecret: []byte(secret)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := v.Verify(t.Context(), strings.TrimSpace(stdout))
	if err != nil || c.Tenant != "acme" || c.Subject != "acme" || !c.Has("jobs:read") || !c.Has("monitor") || c.Has("jobs:write") {
		t.Errorf("claims %+v, %v", c, err)
	}
}

func TestHealthcheck(t *testing.T) {
	ready := http.StatusOK
	api := newFakeAPI(t, func(_ int, _ asked, w http.ResponseWriter) { w.WriteHeader(ready) })
	environ := []string{"SLUICE_OPS_LISTEN=" + strings.TrimPrefix(api.URL, "http://")}
	if code, _, stderr := invoke(t, "", environ, "healthcheck"); code != 0 {
		t.Errorf("ready: code %d, %s", code, stderr)
	}
	if got := api.requests()[0].uri; got != "/readyz" {
		t.Errorf("asked %s", got)
	}
	ready = http.StatusServiceUnavailable
	if code, _, stderr := invoke(t, "", environ, "healthcheck"); code != 1 || !strings.Contains(stderr, "503") {
		t.Errorf("not ready: code %d, %s", code, stderr)
	}
}

func TestFakeServesUntilItIsStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	code := make(chan int, 1)
	var errs bytes.Buffer
	go func() {
		code <- program(ctx, []string{"fake", "--listen", "127.0.0.1:0", "--latency", "0s", "--time-per-token", "0s", "--fault", "529:1"}, nil, strings.NewReader(""), in, &errs)
	}()
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, strings.TrimSpace(string(line[:n]))+"/v1/messages",
		strings.NewReader(`{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Api-Key", "k")
	req.Header.Set("Anthropic-Version", "2023-06-01")
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 529 {
		t.Errorf("status %d; want the fault, 529", res.StatusCode)
	}
	cancel()
	select {
	case c := <-code:
		if c != 0 {
			t.Errorf("code %d: %s", c, errs.String())
		}
	case <-time.After(time.Minute):
		t.Fatal("it does not stop")
	}
}
