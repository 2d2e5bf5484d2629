package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// What README.md says is held to what the program is and does.

// table returns the cells of the table of README.md that begins with header.
func table(t *testing.T, header string) [][]string {
	t.Helper()
	var rows [][]string
	in := false
	lines := bufio.NewScanner(strings.NewReader(project(t, "README.md")))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, header):
			in = true
		case in && !strings.HasPrefix(line, "|"):
			return rows
		case in && !strings.HasPrefix(line, "| ---"):
			cells := strings.Split(strings.Trim(line, "|"), " | ")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
		}
	}
	if !in {
		t.Fatalf("README.md has no table that begins with %s", header)
	}
	return rows
}

// compare reports every row that is in one list only.
func compare(t *testing.T, what string, documented, real []string) {
	t.Helper()
	for _, row := range real {
		if !slices.Contains(documented, row) {
			t.Errorf("README.md lacks %s %s", what, row)
		}
	}
	for _, row := range documented {
		if !slices.Contains(real, row) {
			t.Errorf("README.md has %s %s, which is not so", what, row)
		}
	}
}

func TestDocumentedCommands(t *testing.T) {
	parser, err := kong.New(&CLI{}, kong.Name("sluice"))
	if err != nil {
		t.Fatal(err)
	}
	var documented, commands []string
	for _, row := range table(t, "| command |") {
		documented = append(documented, "| "+row[0]+" | "+row[1]+" |")
	}
	for _, leaf := range parser.Model.Leaves(true) {
		name := leaf.FullPath()
		for _, a := range leaf.Positional {
			name += " " + strings.ToUpper(a.Summary())
		}
		commands = append(commands, fmt.Sprintf("| `%s` | %s |", strings.NewReplacer("<", "", ">", "").Replace(name), leaf.Help))
	}
	compare(t, "the command", documented, commands)
}

func TestDocumentedConfiguration(t *testing.T) {
	c, faults := config.Load("", []string{"HOME=/", "ANTHROPIC_API_KEY=k", `SLUICE_PRICES={"m": {}}`})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	c.DataDir = "~" + c.DataDir
	// What has to be given has no default.
	c.Providers[0] = config.Provider{Stream: c.Providers[0].Stream, StreamOptions: c.Providers[0].StreamOptions}
	c.Pools[0].Provider, c.Pools[0].Models = "", nil
	c.Pools[0].Accounts = []config.Account{{Weight: 1, Limits: c.Pools[0].Limits}} // as one is that gives nothing

	var documented []string
	for _, row := range table(t, "| key |") {
		documented = append(documented, "| "+row[0]+" | "+row[1]+" |")
	}
	compare(t, "the setting", documented, settings(reflect.ValueOf(*c), ""))
}

// settings are the rows of a part of the configuration, each a key and its value.
func settings(v reflect.Value, prefix string) (rows []string) {
	for i := range v.NumField() {
		key := prefix + v.Type().Field(i).Tag.Get("key")
		if key == prefix {
			continue
		}
		f := v.Field(i)
		switch {
		case f.Kind() == reflect.Struct:
			rows = append(rows, settings(f, key+".")...)
			continue
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			one := reflect.New(f.Type().Elem()).Elem()
			if f.Len() > 0 {
				one = f.Index(0)
			}
			if _, mapping := one.Type().FieldByName("Name"); mapping {
				key += ".<name>"
			} else {
				key += "[]"
			}
			rows = append(rows, settings(one, key+".")...)
			continue
		}
		value := fmt.Sprintf("`%v`", f.Interface())
		switch d, ok := f.Interface().(time.Duration); {
		case ok:
			value = "`" + config.FormatDuration(d) + "`"
		case value == "``" || value == "`[]`" || value == "`map[]`":
			value = "none"
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s |", key, value))
	}
	return rows
}

func TestDocumentedMetrics(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(keys, []byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{"HOME=" + t.TempDir(), "SLUICE_REDIS__URL=" + redistest.Start(t, redistest.Options{}).URL(), "SLUICE_AUTH__JWKS_FILE=" + keys, "SLUICE_BODIES__URL=file://" + t.TempDir()}
	cfg, faults := config.Load("", environ)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	s, err := newService(t.Context(), cfg, roles{api: true, worker: true}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := s.newAPI("http://127.0.0.1", nil); err != nil {
		t.Fatal(err)
	}
	descriptions := make(chan *prometheus.Desc)
	go func() {
		s.registry.Describe(descriptions)
		close(descriptions)
	}()
	var documented, metrics []string
	for _, row := range table(t, "| metric |") {
		documented = append(documented, fmt.Sprintf("| %s | %s | %s |", row[0], row[1], row[2]))
	}
	shape := regexp.MustCompile(`^Desc\{fqName: "(sluice_\w+)", help: "(.*?)"(?:, unit: "\w*")?, constLabels: \{\}, variableLabels: \{(.*)\}\}$`)
	for d := range descriptions {
		if m := shape.FindStringSubmatch(d.String()); m != nil {
			metrics = append(metrics, fmt.Sprintf("| `%s` | %s | %s |", m[1], strings.ReplaceAll(m[3], ",", ", "), m[2]))
		}
	}
	compare(t, "the metric", documented, metrics)
}

// Needs skips a test whose tools are not on PATH; in CI it fails.
func Needs(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is not on PATH", tool)
			}
			t.Skipf("%s is not on PATH", tool)
		}
	}
}

// TestTheReadmeRuns does what the README tells a reader to do with a running
// dev: every block marked as tested, in order, in one shell.
func TestTheReadmeRuns(t *testing.T) {
	t.Parallel()
	Needs(t, "bash", "curl")
	readme := project(t, "README.md")
	c, ops, environ := startDev(t, startedWith(t, readme)...)

	// What dev prints, but for its address and token.
	said, _ := c.said()
	printed := regexp.MustCompile("(?s)<!-- printed by dev -->\n```text\n(.*?)```").FindStringSubmatch(readme)
	if printed == nil {
		t.Fatal("README.md does not show what dev prints")
	}
	address, token := regexp.MustCompile(`127\.0\.0\.1:\d+`), regexp.MustCompile(`(?m)^(export SLUICE_TOKEN=eyJ).+$`)
	seen := token.ReplaceAllString(address.ReplaceAllString(said, "127.0.0.1:8080"), "$1…")
	if !strings.Contains(seen, printed[1]) {
		t.Errorf("dev prints\n%s\nREADME.md has\n%s", seen, printed[1])
	}

	blocks := regexp.MustCompile("(?s)<!-- tested -->\n```sh\n(.*?)```").FindAllStringSubmatch(readme, -1)
	if len(blocks) < 6 {
		t.Fatalf("README.md has %d blocks to run", len(blocks))
	}
	var script strings.Builder
	for _, b := range blocks {
		script.WriteString(strings.ReplaceAll(b[1], "127.0.0.1:9090", ops))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-eu", "-c", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"+script.String())
	shell.WaitDelay = 5 * time.Second // for what it has left running
	shell.Dir, shell.Env = filepath.Join("..", ".."), append(environ, "TMPDIR="+t.TempDir())
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("the README's commands: %v\n%s", err, out)
	}
	for _, want := range []string{
		`"status":"succeeded"`, "event: done", `"object":"batch"`, "HTTP/1.1 202 Accepted", "HTTP/1.1 200 OK", "Idempotency-Replayed: true",
		"application/problem+json", "idempotency_key_reused", `"status":"canceled"`, "paused", `"custom_id":"sotu-0001"`, "sluice_backlog_jobs", `"status":"ok"`, "job.succeeded",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the README's commands do not show %s:\n%s", want, out)
		}
	}
}

// startedWith are the settings that the README starts dev with to show webhooks.
func startedWith(t *testing.T, readme string) []string {
	t.Helper()
	block := regexp.MustCompile("<!-- dev for webhooks -->\n```sh\n(.*) sluice dev\n```").FindStringSubmatch(readme)
	if block == nil {
		t.Fatal("README.md does not say how dev calls this machine's webhooks")
	}
	return strings.Fields(block[1])
}

// Every block of the README that somebody may copy is run or read by a test: one that is
// new is marked as tested, or said here with the test that runs it.
func TestEveryBlockOfTheReadmeIsTested(t *testing.T) {
	t.Parallel()
	elsewhere := map[string]string{ // its first line, and who tests it
		"go run ./cmd/sluice run examples/prompts.jsonl -o results.jsonl":                                                           "TestTheFirstScreen and every test of run",
		"go test -race -p 2 -timeout 8m ./...":                                                                                      "TestTheFirstScreen",
		"go install ./cmd/sluice          # from a checkout; or: make build":                                                        "Sluice, which builds it, and TestComposeFile",
		"sha256sum --check --ignore-missing SHA256SUMS                  # macOS: shasum -a 256 --check --ignore-missing SHA256SUMS": "cmd/release",
		"sluice dev": "TestTheReadmeRuns",
		"export ANTHROPIC_BASE_URL=$SLUICE_URL/anthropic ANTHROPIC_API_KEY=$SLUICE_TOKEN":                                                                  "cmd/prove/sdks",
		"export OPENAI_BASE_URL=$SLUICE_URL/openai/v1 OPENAI_API_KEY=$SLUICE_TOKEN":                                                                        "cmd/prove/sdks",
		"const anthropic = new Anthropic({ baseURL: url + '/anthropic', apiKey: token });   // npm @anthropic-ai/sdk":                                      "cmd/prove/sdks makes these calls",
		`client := anthropic.NewClient(option.WithBaseURL(url+"/anthropic"), option.WithAPIKey(token)) // github.com/anthropics/anthropic-sdk-go and …/v2`: "cmd/prove/sdks makes these calls",
		`client = anthropic.Anthropic(base_url=url + "/anthropic", api_key=token)`:                                                                         "nobody: the README says that it was not tried",
	}
	blocks := regexp.MustCompile("(?s)(?:<!-- ([a-z ]+) -->\n)?```([a-z]+)\n(.*?)```").FindAllStringSubmatch(project(t, "README.md"), -1)
	if len(blocks) < 20 {
		t.Fatalf("README.md has %d blocks", len(blocks))
	}
	for _, b := range blocks {
		mark, kind, text := b[1], b[2], b[3]
		first, _, _ := strings.Cut(text, "\n")
		switch kind {
		case "sh":
			if mark == "" && elsewhere[first] == "" {
				t.Errorf("nobody runs the block that begins with %q", first)
			}
		case "yaml":
			path := filepath.Join(t.TempDir(), "sluice.yaml")
			for _, text := range append([]string{text}, regexp.MustCompile(`(?m)^# (.*)$`).FindAllString(text, -1)...) {
				if err := os.WriteFile(path, []byte(strings.TrimPrefix(text, "# ")), 0o600); err != nil {
					t.Fatal(err)
				}
				environ := []string{"HOME=/h", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"}
				if strings.Contains(text, "providers:") {
					environ = append(environ, "SLUICE_PROVIDERS__ANTHROPIC__API_KEY=key-of-ours")
				}
				if _, faults := config.Load(path, environ); len(faults) > 0 {
					t.Errorf("the configuration that begins with %q is refused: %v", first, faults)
				}
			}
		case "json":
			for line := range strings.Lines(text) {
				if !json.Valid([]byte(line)) {
					t.Errorf("%s is no JSON", line)
				}
			}
		case "text":
		default:
			if mark == "" && elsewhere[first] == "" {
				t.Errorf("nobody tests the block of %s that begins with %q", kind, first)
			}
		}
	}
}

// TestTheFirstScreen holds the two commands that a reader types first.
func TestTheFirstScreen(t *testing.T) {
	first := strings.Join(strings.SplitN(project(t, "README.md"), "\n", 46)[:45], "\n")
	run := "go run ./cmd/sluice run examples/prompts.jsonl -o results.jsonl"
	if !strings.Contains(first, "\n"+run+"\n") {
		t.Errorf("the README does not begin with %s", run)
	}
	tests := regexp.MustCompile(`(?m)^go test .*$`)
	documented := tests.FindString(first)
	for _, file := range []string{".ci/run", "Makefile"} {
		if documented == "" || !strings.Contains(project(t, file), documented) {
			t.Errorf("the README says %q, which %s does not run", documented, file)
		}
	}
}

// TestDocumentedRoutesExist asks a running dev for every path that the README
// names; a route that does not exist says so.
func TestDocumentedRoutesExist(t *testing.T) {
	t.Parallel()
	paths := regexp.MustCompile("`(GET|POST|PATCH|DELETE) (/[^`? ]+)").FindAllStringSubmatch(project(t, "README.md"), -1)
	if len(paths) < 15 {
		t.Fatalf("README.md names %d routes", len(paths))
	}
	_, _, environ := startDev(t)
	var url, token string
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "SLUICE_URL="); ok {
			url = v
		}
		if v, ok := strings.CutPrefix(kv, "SLUICE_TOKEN="); ok {
			token = v
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, p := range paths {
		req, err := http.NewRequestWithContext(t.Context(), p[1], url+strings.NewReplacer("{id}", "job_none", "{name}", "none").Replace(p[2]), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode >= 500 || res.StatusCode == http.StatusMethodNotAllowed || strings.Contains(string(body), `"code":"route_not_found"`) {
			t.Errorf("%s %s: %s %s", p[1], p[2], res.Status, body)
		}
	}
}
