package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// What may come next is what the program takes: commands, flags, and an argument's few values.
func TestComplete(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]string{
		"jo":                    "jobs",
		"to":                    "token tokens top",
		"--ver":                 "--version",
		"batch ":                "cancel get list results retry submit watch",
		"batch su":              "submit",
		"batch submit --idem":   "--idempotency-key",
		"pools pause --":        "--config --help --json --log-level --reason --token-file --until --url --version",
		"completion ":           "bash fish zsh",
		"--config x completion": "completion",
		"--config=x jobs --st":  "--status",
		"jobs --status ":        "",
		"submit -m ":            "",
		"submit --text --wa":    "--wait",
		"help ba":               "batch",
		"help batch re":         "results retry",
		"health":                "",
		"comple":                "completion",
		"nothing of ours ":      "",
	} {
		args := append([]string{"complete", "--"}, strings.Split(words, " ")...)
		code, stdout, stderr := invoke(t, "", nil, args...)
		got := strings.Join(strings.Fields(stdout), " ")
		if words == "nothing of ours " {
			got = "" // it may be anything but a fault
		}
		if code != 0 || stderr != "" || got != want {
			t.Errorf("%q: code %d, %q, stderr %q; want %q", words, code, got, stderr, want)
		}
	}
}

// Each shell that is here takes its script; bash completes by it, files too.
func TestTheShellsTakeTheirScripts(t *testing.T) {
	t.Parallel()
	for name, script := range completions {
		shell, err := exec.LookPath(name)
		if err != nil {
			if name == "bash" && os.Getenv("CI") != "" {
				t.Fatal("bash is not on PATH")
			}
			continue
		}
		code, printed, _ := invoke(t, "", nil, "completion", name)
		if code != 0 || printed != script {
			t.Errorf("completion %s: code %d, %q", name, code, printed)
		}
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), shell, "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
		if name != "bash" {
			continue
		}
		// As bash does when somebody presses the tabulator.
		ask := exec.CommandContext(t.Context(), shell, "-eu", "-c", `source "$0"
			try() { COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=(); _sluice; echo "${COMPREPLY[*]-}"; }
			try sluice batch re
			try sluice completion ""
			complete -p sluice`, file)
		ask.Env = []string{"PATH=" + filepath.Dir(Sluice(t)) + string(filepath.ListSeparator) + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}
		out, err := ask.CombinedOutput()
		want := "results retry\nbash fish zsh\ncomplete -o bashdefault -o default -F _sluice sluice\n"
		if err != nil || string(out) != want {
			t.Errorf("bash: %v, %q; want %q", err, out, want)
		}
	}
}

func TestHelpAndVersionInEveryForm(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"", "batch", "batch submit", "top"} {
		_, want, _ := invoke(t, "", nil, append(strings.Fields(args), "--help")...)
		code, got, stderr := invoke(t, "", nil, append([]string{"help"}, strings.Fields(args)...)...)
		if code != 0 || stderr != "" || got != want || !strings.Contains(got, "Usage: ") {
			t.Errorf("help %s: code %d, stderr %q, %q; want %q", args, code, stderr, got, want)
		}
	}
	if code, stdout, stderr := invoke(t, "", nil, "help", "frobnicate"); code != 2 || stdout != "" || !strings.Contains(stderr, `no command "frobnicate"`) {
		t.Errorf("help frobnicate: code %d, %q, %q", code, stdout, stderr)
	}
	_, want, _ := invoke(t, "", nil, "version")
	if code, got, _ := invoke(t, "", nil, "--version"); code != 0 || got != want || want == "" {
		t.Errorf("--version: code %d, %q; want %q", code, got, want)
	}
}

// Every command that prints a result prints it as JSON for programs, by the same flag.
func TestEveryResultHasJSON(t *testing.T) {
	t.Parallel()
	// The results of run are lines of JSON, submit's --json is the body that it sends (and its job is
	// JSON), servers tell what they do in the log, and the rest is no result.
	neither := regexp.MustCompile(`^(run|submit|dev|api|worker|fake|completion|help)$`)
	parser, err := kong.New(&CLI{}, kong.Name("sluice"), kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range parser.Model.Leaves(true) {
		path := strings.TrimPrefix(strings.Split(leaf.FullPath(), " <")[0], "sluice ")
		flag := flagOf(leaf, "--json")
		if has := flag != nil && flag.IsBool(); has == neither.MatchString(path) {
			t.Errorf("%s has --json: %v", path, has)
		}
	}
}

// What is JSON anyway is laid out for a reader at a terminal, and one line for a program at one.
func TestJSONAtATerminal(t *testing.T) {
	t.Parallel()
	api := newFakeAPI(t, func(_ int, _ asked, w http.ResponseWriter) {
		_, _ = io.WriteString(w, `{"id":"x_1", "status":"ended"}`)
	})
	for _, args := range []string{"get x_1", "batch get x_1", "batch watch x_1", "cancel x_1", "deliveries redeliver x_1", "pools resume p", "submit -m m hi"} {
		at := func(more ...string) string {
			return strings.ReplaceAll(onTerminal(t, func(tty *os.File) int {
				return typeIn(t.Context(), append(strings.Fields(args), more...), api.environ(), strings.NewReader(""), tty, io.Discard)
			}), "\r\n", "\n")
		}
		if got, want := at(), "{\n  \"id\": \"x_1\",\n  \"status\": \"ended\"\n}\n"; got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
		if strings.HasPrefix(args, "submit") {
			continue // whose --json is the body
		}
		if got, want := at("--json"), `{"id":"x_1","status":"ended"}`+"\n"; got != want {
			t.Errorf("%s --json: %q, want %q", args, got, want)
		}
	}
}

const twoPools = `{"status":"ok","pools":[{"name":"claude","state":"paused","paused_by":"operator","reason":"the \u001b[31mbill","expected_resume_at":"2020-01-01T00:00:00Z",
	"queued":120,"scheduled":20,"running":3,"waiting_for":"paused","oldest_queued_at":"2020-01-01T00:00:00Z","drained_at":null,
	"allowance":{"requests":{"limit":50,"used":0.1},"output_tokens":{"limit":50,"used":0.93}}},{"name":"gpt","state":"open","queued":0,"running":0,"allowance":{}}]}`

// top tells the same to a pipe, to a program and to a terminal, and only the terminal is told
// how to show it; what a token may not see is left out, and an API that is away for a while is
// no end.
func TestTop(t *testing.T) {
	t.Parallel()
	api := func(t *testing.T, tenants int) []string {
		times := 0
		return newFakeAPI(t, func(_ int, r asked, w http.ResponseWriter) {
			path, _, _ := strings.Cut(r.uri, "?")
			switch path {
			case "/v1/status":
				if times++; times == 2 {
					w.Header().Set("Content-Type", "application/problem+json")
					w.WriteHeader(503)
					_, _ = io.WriteString(w, `{"code":"unavailable","detail":"Redis is away."}`)
					return
				}
				_, _ = io.WriteString(w, twoPools)
			case "/v1/tenants":
				w.WriteHeader(tenants)
				_, _ = io.WriteString(w, `{"data":[{"name":"aa","weight":1,"usage":{"queued_jobs":3}},{"name":"acme","weight":2,"queued_jobs":1000,"usage":{"queued_jobs":120,"tokens_today":{"used":77}}}]}`)
			default:
				_, _ = io.WriteString(w, `{"data":[{"id":"job_1","model":"m\u001b[2J","pool":"claude","started_at":"2020-01-01T00:00:00Z"}]}`)
			}
		}).environ()
	}
	moment := regexp.MustCompile(`(?m)^\S+Z `)
	ages := regexp.MustCompile(`\d+h\d+m\d+s`)
	code, got, stderr := invoke(t, "", api(t, 200), "top", "--every", "1ms", "--count", "3")
	round := `pool claude state=paused queued=100 later=20 running=3 oldest=AGE for=paused allowance="output tokens 93 %" next="back any moment"
pool gpt state=open queued=0 later=0 running=0 oldest=- for=- allowance="-" next="-"
tenant acme queued=120 running=- tokens=77
tenant aa queued=3 running=- tokens=0
job job_1 model=m` + "\u241b" + `[2J pool=claude for=AGE
`
	want := round + "away 503 unavailable: Redis is away.\n" + round
	if said := ages.ReplaceAllString(moment.ReplaceAllString(got, ""), "AGE"); code != 0 || stderr != "" || said != want {
		t.Errorf("a pipe: code %d, stderr %q:\n%s\nwant\n%s", code, stderr, said, want)
	}

	code, got, stderr = invoke(t, "", api(t, 403), "top", "--every", "1ms", "--count", "3", "--json")
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if code != 0 || stderr != "" || len(lines) != 3 {
		t.Fatalf("--json: code %d, stderr %q: %s", code, stderr, got)
	}
	for i, line := range lines {
		var s standing
		if err := json.Unmarshal([]byte(line), &s); err != nil || len(s.Pools) != 2 || s.Tenants != nil || len(s.Running) != 1 || (i == 1) != (s.Away != "") {
			t.Errorf("--json, line %d: %v %+v", i+1, err, s)
		}
	}

	environ := api(t, 403)
	said := onTerminal(t, func(tty *os.File) int {
		return typeIn(t.Context(), []string{"top", "--every", "1ms", "--count", "2"}, environ, strings.NewReader(""), tty, tty)
	})
	screens := strings.Split(said, "\x1b[H")
	ours := regexp.MustCompile(`\x1b\[(H|J|K|\?7[lh])`)
	if rest := ours.ReplaceAllString(said, ""); len(screens) != 3 || strings.Contains(rest, "\x1b") || !strings.Contains(rest, "the \u241b[31mbill") {
		t.Errorf("the terminal was told %d screens: %q", len(screens)-1, said)
	}
	if last := screens[len(screens)-1]; !strings.Contains(last, "since then: 503 unavailable") || !strings.Contains(last, "claude") || strings.Contains(last, "TENANT") {
		t.Errorf("the last screen is %q", last)
	}

	if code, stdout, stderr := invoke(t, "", []string{"SLUICE_URL=http://127.0.0.1:1"}, "top"); code != 1 || stdout != "" || !strings.Contains(stderr, "cannot be reached") {
		t.Errorf("nobody there: code %d, %q, %q", code, stdout, stderr)
	}
	if code, _, stderr := invoke(t, "", nil, "top", "--every", "0"); code != 2 {
		t.Errorf("--every 0: code %d, %q", code, stderr)
	}
}

// A list never brings a terminal's sequences into a pipe, whatever a provider or a caller wrote.
func TestListsHaveNoControlCharactersInAPipe(t *testing.T) {
	t.Parallel()
	evil := `\u001b[31m\u202e\u0007`
	for args, answer := range map[string]string{
		"pools list":      `{"pools":[{"name":"p","state":"paused","reason":"` + evil + `"}]}`,
		"pools audit p":   `{"data":[{"at":"2030-01-01T00:00:00Z","action":"pause","by":"` + evil + `","reason":"` + evil + `"}]}`,
		"jobs":            `{"data":[{"id":"job_1","status":"failed","model":"` + evil + `"}]}`,
		"deliveries list": `{"data":[{"id":"whd_1","reason":"` + evil + `"}]}`,
		"tokens list":     `{"data":[{"id":"tok_1","name":"` + evil + `","models":["` + evil + `"]}]}`,
		"abuse":           `{"data":[{"tenant":"acme","rule":"` + evil + `"}]}`,
		"explain job_1":   `{"id":"job_1","status":"succeeded","data":[{"what":"waiting","detail":"` + evil + `"}]}`,
	} {
		api := newFakeAPI(t, func(_ int, _ asked, w http.ResponseWriter) { _, _ = io.WriteString(w, answer) })
		code, stdout, stderr := invoke(t, "", api.environ(), strings.Fields(args)...)
		if code != 0 || strings.ContainsAny(stdout, "\x1b\a\u202e") || !strings.Contains(stdout, "\u241b") {
			t.Errorf("%s: code %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}

// What is checked is one JSON object for a program, whatever comes of it, and the exit code is the same.
func TestChecksAsJSON(t *testing.T) {
	t.Parallel()
	secret := "SLUICE_AUTH__HMAC_SECRET=0123456789abcdef0123456789abcdef"
	_, token, _ := invoke(t, "", []string{secret}, "token", "--tenant", "acme")
	for _, row := range []struct {
		environ string
		args    []string
		code    int
		want    string // a part of it
	}{
		{secret, []string{"version", "--json"}, 0, `{"version":"` + version + `",`},
		{secret, []string{"config", "check", "--json"}, 0, `{"ok":true,"faults":[],"notices":[],"config":{`},
		{secret, []string{"config", "check", "--json"}, 0, `"hmac_secret":"********"`},
		{"SLUICE_LOG_LEVEL=info", []string{"config", "check", "--json"}, 0, `"notices":["No key is set`},
		{"SLUICE_MAX_WAIT=never", []string{"config", "check", "--json"}, 1, `{"ok":false,"faults":["max_wait: `},
		{secret, []string{"auth", "check", "--json", strings.TrimSpace(token)}, 0, `{"accepted":true,"tenant":"acme","subject":"acme","scopes":["jobs:read","jobs:write"],"findings":[{`},
		{secret, []string{"auth", "check", "--json", "nonsense"}, 1, `{"accepted":false,"reason":"malformed","detail":`},
	} {
		code, stdout, stderr := invoke(t, "", []string{row.environ, "HOME=" + t.TempDir(), "SLUICE_DATA_DIR=" + t.TempDir()}, row.args...)
		if code != row.code || !json.Valid([]byte(stdout)) || strings.Count(stdout, "\n") != 1 || !strings.Contains(stdout, row.want) || (stderr == "") != (code == 0) {
			t.Errorf("%s %v: code %d, want %d; %s\nwant %s; stderr %q", row.environ, row.args, code, row.code, stdout, row.want, stderr)
		}
	}
}
