package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/sluicehq/sluice/api/relay"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/web"
)

// What deploy holds is compared with what a running dev tells.

// startDev starts dev with an embedded Redis and these variables besides, and returns it with
// the address of its metrics and what it tells its user to set.
func startDev(t *testing.T, more ...string) (c *child, ops string, environ []string) {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil && os.Getenv("CI") != "" {
		t.Fatal("redis-server is not on PATH")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ops = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Dir(Sluice(t)) + string(filepath.ListSeparator) + os.Getenv("PATH")
	base := []string{"PATH=" + path, "HOME=" + t.TempDir(), "GORACE=atexit_sleep_ms=0"}
	c, err = startChild(t.TempDir(), slices.Concat(base, []string{"SLUICE_LISTEN=127.0.0.1:0", "SLUICE_OPS_LISTEN=" + ops}, more), Sluice(t), "dev")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if code, err := c.end(os.Interrupt); code != 0 || err != nil {
			said, _ := c.said()
			t.Errorf("dev ended with %d, %v:\n%s", code, err, said)
		}
	})
	if _, err := c.await(regexp.MustCompile(`(?m)^export SLUICE_TOKEN=.+$`)); err != nil {
		t.Fatal(err)
	}
	for k, v := range c.exported() {
		base = append(base, k+"="+v)
	}
	return c, ops, base
}

// scrape returns the labels of every metric that a process tells.
func scrape(t *testing.T, ops string) map[string]map[string]bool {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + ops + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("scrape: %s, %v", res.Status, err)
	}
	found := map[string]map[string]bool{}
	label := regexp.MustCompile(`(\w+)="`)
	for _, m := range regexp.MustCompile(`(?m)^(\w+)(?:\{(.*)\})? \S+$`).FindAllStringSubmatch(string(text), -1) {
		if found[m[1]] == nil {
			found[m[1]] = map[string]bool{}
		}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			found[m[1]][l[1]] = true
		}
	}
	return found
}

// panel is a panel of the dashboard.
type panel struct {
	Title       string
	FieldConfig struct{ Defaults struct{ Unit string } }
	Targets     []struct{ Expr string }
}

func panels(t *testing.T) []panel {
	t.Helper()
	var dashboard struct{ Panels []panel }
	if err := json.Unmarshal([]byte(project(t, "deploy/grafana/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	if len(dashboard.Panels) < 20 {
		t.Fatalf("the dashboard has %d panels", len(dashboard.Panels))
	}
	return dashboard.Panels
}

// alert is a rule of deploy/alerts.yml.
type alert struct {
	Alert       string
	Expr        string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) (all []alert) {
	t.Helper()
	var rules struct{ Groups []struct{ Rules []alert } }
	if err := yaml.Unmarshal([]byte(project(t, "deploy/alerts.yml")), &rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 30 {
		t.Fatalf("there are %d alerts", len(all))
	}
	return all
}

// Every alert has a test in which it fires and a moment at which it does not, and links to its
// own part of the runbook, which tells of nothing else.
func TestEveryAlertIsTestedAndHasItsPartOfTheRunbook(t *testing.T) {
	t.Parallel()
	var tests struct {
		Tests []struct {
			Cases []struct {
				Alert string `yaml:"alertname"`
				Fires []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal([]byte(project(t, "deploy/alerts_test.yml")), &tests); err != nil {
		t.Fatal(err)
	}
	fires, rests := map[string]bool{}, map[string]bool{}
	for _, group := range tests.Tests {
		for _, c := range group.Cases {
			fires[c.Alert] = fires[c.Alert] || len(c.Fires) > 0
			rests[c.Alert] = rests[c.Alert] || len(c.Fires) == 0
		}
	}
	var headings, names []string
	for _, m := range regexp.MustCompile(`(?m)^## (\S+)$`).FindAllStringSubmatch(project(t, "docs/runbook.md"), -1) {
		headings = append(headings, m[1])
	}
	for _, r := range alerts(t) {
		names = append(names, r.Alert)
		if !fires[r.Alert] || !rests[r.Alert] {
			t.Errorf("%s: fires in a test: %v, does not in another: %v; want both", r.Alert, fires[r.Alert], rests[r.Alert])
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" {
			t.Errorf("%s does not say what it means, or how bad that is", r.Alert)
		}
		if want := "https://" + ours + "/blob/main/docs/runbook.md#" + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
			t.Errorf("%s links to %q; want %q", r.Alert, r.Annotations["runbook_url"], want)
		}
	}
	slices.Sort(headings)
	slices.Sort(names)
	if !slices.Equal(headings, names) {
		t.Errorf("docs/runbook.md has the headings %q; the alerts are %q", headings, names)
	}
}

func TestDashboardAlertsAndRunbookNameMetricsThatExist(t *testing.T) {
	t.Parallel()
	keys := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(keys, []byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, ops, environ := startDev(t, "SLUICE_AUTH__JWKS_FILE="+keys)
	submit := exec.CommandContext(t.Context(), Sluice(t), "submit", "-m", "m", "--text", "hi")
	submit.Env = environ
	if out, err := submit.CombinedOutput(); err != nil {
		t.Fatalf("submit: %v: %s", err, out)
	}
	// A job's answer is there before it is counted.
	found := scrape(t, ops)
	redistest.Until(t, "it is counted", func() bool {
		found = scrape(t, ops)
		return found["sluice_gate_level"] != nil && found["sluice_attempt_seconds_bucket"] != nil && found["sluice_tenant_tokens_total"] != nil
	})
	// What one pool, one account, no proxy and no trouble have no sample of is known by README, which
	// is compared with what the program registers.
	for _, row := range table(t, "| metric |") {
		name := strings.Trim(row[0], "`")
		if found[name] != nil || found[name+"_count"] != nil {
			continue
		}
		found[name] = map[string]bool{}
		for l := range strings.SplitSeq(row[1], ", ") {
			found[name][l] = true
		}
		found[name+"_bucket"] = found[name]
	}
	label := regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"`)
	var all []string
	for _, p := range panels(t) {
		for _, target := range p.Targets {
			all = append(all, target.Expr)
		}
	}
	for _, r := range alerts(t) {
		all = append(all, r.Expr)
	}
	for _, expr := range all {
		for _, m := range regexp.MustCompile(`(sluice_\w+)(?:\{([^}]*)\})?`).FindAllStringSubmatch(expr, -1) {
			labels, ok := found[m[1]]
			if !ok {
				t.Errorf("%s asks for %s, which a running dev does not tell", expr, m[1])
				continue
			}
			for _, l := range label.FindAllStringSubmatch(m[2], -1) {
				if !labels[l[1]] {
					t.Errorf("%s: %s has no label %s, only %v", expr, m[1], l[1], slices.Sorted(maps.Keys(labels)))
				}
			}
		}
	}
	for _, m := range regexp.MustCompile("`(sluice_\\w+)`").FindAllStringSubmatch(project(t, "docs/runbook.md"), -1) {
		if found[m[1]] == nil && found[m[1]+"_count"] == nil {
			t.Errorf("docs/runbook.md names %s, which a running dev does not tell", m[1])
		}
	}
}

// Each metric is on a panel, or the runbook says why it is on none.
func TestEachMetricIsOnAPanelOrTheRunbookSaysWhyNot(t *testing.T) {
	t.Parallel()
	shown, excused := map[string]bool{}, map[string]bool{}
	for _, p := range panels(t) {
		for _, target := range p.Targets {
			for _, name := range regexp.MustCompile(`sluice_\w+`).FindAllString(target.Expr, -1) {
				shown[strings.TrimSuffix(name, "_bucket")] = true
			}
		}
	}
	_, list, ok := strings.Cut(project(t, "docs/runbook.md"), "\n## Metrics without a panel\n")
	if !ok {
		t.Fatal("docs/runbook.md has no such list")
	}
	for _, m := range regexp.MustCompile(`(?m)^\* ([^:]+): `).FindAllStringSubmatch(list, -1) {
		for name := range strings.SplitSeq(m[1], ", ") {
			excused[strings.Trim(name, "`")] = true
		}
	}
	for _, row := range table(t, "| metric |") {
		name := strings.Trim(row[0], "`")
		if shown[name] == excused[name] {
			t.Errorf("%s: on a panel: %v, in the runbook's list of those on none: %v", name, shown[name], excused[name])
		}
		delete(excused, name)
	}
	for name := range excused {
		t.Errorf("docs/runbook.md excuses %s, which is no metric", name)
	}
}

// A panel has one unit, that of everything it draws: nobody reads tokens and requests off one
// axis.
func TestEachPanelHasOneUnit(t *testing.T) {
	t.Parallel()
	unit := func(expr string) string {
		switch {
		case strings.Contains(expr, "histogram_quantile("), strings.Contains(expr, "_seconds{"):
			return "s"
		case strings.Contains(expr, "_bytes"):
			return "bytes"
		case strings.Contains(expr, "_ratio"), strings.Contains(expr, "_coverage"), strings.Contains(expr, "429"):
			return "percentunit"
		case strings.Contains(expr, ") / sum"):
			return "none"
		case strings.HasPrefix(expr, "60 * "):
			return "short"
		case strings.Contains(expr, "rate("):
			return "ops"
		}
		return "short" // a count
	}
	seen := map[string]bool{}
	for _, p := range panels(t) {
		for _, target := range p.Targets {
			if got := unit(target.Expr); got != p.FieldConfig.Defaults.Unit {
				t.Errorf("%s: %s is of the unit %s; the axis is of %s", p.Title, target.Expr, got, p.FieldConfig.Defaults.Unit)
			}
		}
		if seen[p.Title] || len(p.Targets) == 0 {
			t.Errorf("%s stands twice, or shows nothing", p.Title)
		}
		seen[p.Title] = true
	}
}

// Alertmanager sends to receivers that exist, and its rules name alerts that do.
func TestAlertmanagerNamesWhatExists(t *testing.T) {
	t.Parallel()
	var c struct {
		Route struct {
			Receiver string
			Routes   []struct{ Receiver string }
		}
		Inhibit   []map[string][]string `yaml:"inhibit_rules"`
		Receivers []struct{ Name string }
	}
	if err := yaml.Unmarshal([]byte(project(t, "deploy/alertmanager.yml")), &c); err != nil {
		t.Fatal(err)
	}
	named := []string{c.Route.Receiver}
	for _, r := range c.Route.Routes {
		named = append(named, r.Receiver)
	}
	for _, name := range named {
		if !slices.ContainsFunc(c.Receivers, func(r struct{ Name string }) bool { return r.Name == name }) {
			t.Errorf("there is no receiver %q", name)
		}
	}
	if len(c.Inhibit) == 0 {
		t.Error("nothing is inhibited")
	}
	for _, rule := range c.Inhibit {
		for _, matcher := range slices.Concat(rule["source_matchers"], rule["target_matchers"]) {
			_, pattern, ok := strings.Cut(strings.Replace(matcher, "=~", "=", 1), "=")
			named, err := regexp.Compile("^(?:" + strings.Trim(pattern, `"`) + ")$")
			if !ok || err != nil || !slices.ContainsFunc(alerts(t), func(a alert) bool { return named.MatchString(a.Alert) }) {
				t.Errorf("%s names no alert", matcher)
			}
		}
	}
	if !strings.Contains(project(t, "deploy/prometheus.yml"), `"alertmanager:9093"`) {
		t.Error("Prometheus does not know of Alertmanager")
	}
}

func TestComposeMountsFilesThatExist(t *testing.T) {
	mounts := regexp.MustCompile(`[-"] ?(\./\S+?):(/\S+?):ro`).FindAllStringSubmatch(project(t, "docker-compose.yml"), -1)
	if len(mounts) < 7 {
		t.Fatalf("%d mounts", len(mounts))
	}
	for _, m := range mounts {
		if _, err := os.Stat(filepath.Join("..", "..", m[1])); err != nil {
			t.Error(err)
		}
	}
}

// A worker whose root cannot be written has a volume where its answers are kept that
// Redis does not take.
func TestAWorkersDataDirOutlivesItsContainer(t *testing.T) {
	t.Parallel()
	dir := regexp.MustCompile(`SLUICE_DATA_DIR=(\S+)`).FindStringSubmatch(project(t, "Dockerfile"))
	compose := project(t, "docker-compose.yml")
	service := regexp.MustCompile(`(?ms)^  worker:\n(.*?)\n\n`).FindStringSubmatch(compose)
	if dir == nil || service == nil {
		t.Fatal("no data_dir in the Dockerfile, or no worker in docker-compose.yml")
	}
	volume := regexp.MustCompile(`volumes: \["(\w+):` + dir[1] + `"[],]`).FindStringSubmatch(service[1])
	if volume == nil {
		t.Fatalf("docker-compose.yml gives the worker no volume at %s:\n%s", dir[1], service[1])
	}
	if _, named, _ := strings.Cut(compose, "\nvolumes:\n"); !strings.Contains(named, "  "+volume[1]+":\n") {
		t.Errorf("docker-compose.yml does not name the volume %s", volume[1])
	}
}

// Large bodies lie in a folder that the API and the workers share.
func TestTheComposeFileHasOnePlaceForBodies(t *testing.T) {
	t.Parallel()
	compose := project(t, "docker-compose.yml")
	place := regexp.MustCompile(`(?m)^  SLUICE_BODIES__URL: \$\{SLUICE_BODIES__URL:-file://(/\w+)/bodies\}$`).FindStringSubmatch(compose)
	if place == nil {
		t.Fatal("no bodies.url in docker-compose.yml")
	}
	for _, name := range []string{"api", "worker"} {
		service := regexp.MustCompile(`(?ms)^  ` + name + `:\n(.*?)\n\n`).FindStringSubmatch(compose)
		if service == nil || !strings.Contains(service[1], `volumes: ["worker:`+place[1]+`"`) {
			t.Errorf("the %s has not the volume at %s that the others have", name, place[1])
		}
	}
}

func TestAlertsByPromtool(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("promtool is not on PATH (Debian: prometheus)")
		}
		t.Skip("promtool is not on PATH (Debian: prometheus)")
	}
	// The panels' expressions as rules, with what Grafana puts into them.
	var asked strings.Builder
	asked.WriteString("groups:\n  - name: panels\n    rules:\n")
	for i, p := range panels(t) {
		for j, target := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "5m", "$pool", ".+").Replace(target.Expr)
			fmt.Fprintf(&asked, "      - {record: \"panel:%d:%d\", expr: %q}\n", i, j, expr)
		}
	}
	file := filepath.Join(t.TempDir(), "panels.yml")
	if err := os.WriteFile(file, []byte(asked.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}, {"check", "rules", file}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = filepath.Join("..", "..", "deploy")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", fmt.Sprint(args), err, out)
		}
	}
}

// The page on proxies and the examples say what is so: the sizes, waits and delays that
// the program has, and what the packages and the examples set.
func TestThePageOnProxiesSaysWhatIsSo(t *testing.T) {
	t.Parallel()
	page, nginx, haproxy := project(t, "docs/proxies.md"), project(t, "deploy/nginx.conf"), project(t, "deploy/haproxy.cfg")
	cfg, faults := config.Load("", []string{"HOME=" + t.TempDir()})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	whole := func(d time.Duration) string { return fmt.Sprintf("%d s", int(d.Seconds())) }
	for _, c := range []struct{ name, text, want string }{
		{"the page", page, "`max_wait`, " + whole(cfg.MaxWait)},
		{"the page", page, "`drain_delay` (" + whole(cfg.DrainDelay) + ")"},
		{"the page", page, fmt.Sprintf("a process's bound, %d by default", cfg.Redis.MaxConnections)},
		{"the page", page, "a batch's 256 MiB"},
		{"the page", page, "proxy-body-size: 256m"},
		{"the page", page, "for up to " + whole(relay.Patience(nil))},
		{"the page", page, "inter 1s fall 2"},
		{"nginx.conf", nginx, "client_max_body_size 256m;"},
		{"nginx.conf", nginx, "max_wait (" + whole(cfg.MaxWait) + ")"},
		{"nginx.conf", nginx, "max_fails=0;"},
		{"haproxy.cfg", haproxy, "inter 1s fall 2"},
		{"haproxy.cfg", haproxy, "drain_delay (" + whole(cfg.DrainDelay) + ")"},
		{"haproxy.cfg", haproxy, "max_wait (" + whole(cfg.MaxWait) + ")"},
		{"README.md", project(t, "README.md"), "(docs/proxies.md)"},
	} {
		if !strings.Contains(c.text, c.want) {
			t.Errorf("%s does not say %q", c.name, c.want)
		}
	}
	for _, text := range []string{nginx, haproxy, page} {
		timeout := regexp.MustCompile(`(?:proxy_read_timeout |timeout server |proxy-read-timeout: ")(\d+)`).FindStringSubmatch(text)
		if timeout == nil {
			t.Fatal("an example has no timeout")
		}
		if s, err := strconv.Atoi(timeout[1]); err != nil || time.Duration(s)*time.Second <= max(cfg.MaxWait, relay.Patience(nil)) {
			t.Errorf("an example waits %s s, max_wait is %s, and SDKs wait %s", timeout[1], cfg.MaxWait, relay.Patience(nil))
		}
	}
}

// A proxy may leave the path of public_url in the address or take it away, which cannot be
// told apart where it begins like an address of ours.
func TestThePathOfPublicURLIsNoneOfOurs(t *testing.T) {
	t.Parallel()
	ours := web.Paths()
	for _, m := range regexp.MustCompile(`(?m)^  (/[a-z0-9.]+)`).FindAllStringSubmatch(project(t, "api/openapi.yaml"), -1) {
		ours = append(ours, m[1])
	}
	if len(ours) < 20 {
		t.Fatalf("only %q", ours)
	}
	for _, path := range ours {
		if path == "/" {
			continue
		}
		_, faults := config.Load("", []string{"HOME=" + t.TempDir(), "SLUICE_PUBLIC_URL=https://h" + path + "/x"})
		if len(faults) != 1 || faults[0].Key != "public_url" {
			t.Errorf("public_url with the path %s: %v", path, faults)
		}
	}
}
