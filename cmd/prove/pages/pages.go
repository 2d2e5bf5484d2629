// Package pages proves of the console what only a browser knows: that each page, for each
// role, in both themes and on a narrow and a wide screen, is shown without an error, asks
// no other host, can be used by everybody whom axe knows of, fits the screen, and is there
// soon. It also takes the pictures that the README shows.
//
// It judges no words of a page: the tests of web do that.
package pages

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Command proves that the console's pages hold in a browser.
type Command struct {
	Rounds   int           `default:"5" help:"Loads of each page, of which the median counts."`
	Pictures string        `type:"path" placeholder:"DIR" help:"A folder for a picture of each page in both themes."`
	Timeout  time.Duration `default:"20m" help:"The proof fails when it takes longer."`
}

// testdata has the driver of the browser.
const testdata = "cmd/prove/pages/testdata/npm"

const (
	mostBytes = 150 << 10
	mostWait  = 200 * time.Millisecond
)

// Run proves. It is an error that a page does not hold.
func (c *Command) Run(ctx context.Context, lab *rig.Lab) error {
	chromium, err := tools()
	if err != nil {
		if os.Getenv("CI") != "" {
			return err
		}
		fmt.Println("SKIPPED, nothing is proved:", err)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/broken") {
			http.Error(w, "the receiver is being moved", http.StatusServiceUnavailable)
		}
	}))
	defer receiver.Close()
	s, err := lab.Stage(ctx, rig.Config{
		Name: "console", APIs: 1, Workers: 1,
		Fake:  fake.Config{MeanLatency: 300 * time.Millisecond, MeanOutputTokens: 40},
		Pool:  "limits: {requests_per_minute: 120, input_tokens_per_minute: 100000, output_tokens_per_minute: 20000, request_burst: 20, concurrency: 8}",
		Pools: "  closed: {provider: provider, models: [\"closed-*\"], limits: {requests_per_minute: 60, input_tokens_per_minute: 100000, output_tokens_per_minute: 20000}}\n",
		Settings: "webhooks: {allow_http: true, allow_private: true}\n" +
			"prices: {\"claude-*\": {input: 3, output: 15}, \"closed-*\": {input: 3, output: 15}}",
	})
	if err != nil {
		return err
	}
	w := &world{stage: s, receiver: receiver.URL}
	err = w.fill(ctx)
	var seen []sight
	if err == nil {
		seen, err = c.look(ctx, chromium, w)
	}
	if err == nil {
		err = c.judge(seen)
	}
	if c.Pictures != "" {
		err = errors.Join(err, shrink(c.Pictures))
	}
	return errors.Join(err, s.Close())
}

// tools finds the browser, and tells what is missing here.
func tools() (chromium string, err error) {
	if _, err := exec.LookPath("node"); err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(testdata, "node_modules")); err != nil {
		return "", fmt.Errorf("run npm ci in %s: %w", testdata, err)
	}
	return exec.LookPath("chromium")
}

// roles are who looks, by the scopes of their tokens.
var roles = []struct {
	name   string
	scopes []string
}{
	{"admin", []string{"admin", "jobs:read", "jobs:write", "content", "webhooks:write"}},
	{"monitor", []string{"monitor"}},
	{"caller", []string{"jobs:read", "jobs:write", "webhooks:write"}},
}

// page is an address of the console. Who has none of its scopes is refused.
type page struct {
	Name    string `json:"name"`
	Path    string `json:"path"`
	Picture bool   `json:"picture"`
	Foreign bool   `json:"foreign"` // it is not of our making, and judged by its errors alone

	refuses []string // roles
}

// view is some pages as one role sees them on one screen.
type view struct {
	Role  string `json:"role"`
	Token string `json:"token"`
	Theme string `json:"theme"`
	Width int    `json:"width"`
	Pages []page `json:"pages"`
}

// sight is what was seen of a page.
type sight struct {
	Role, Theme, Name    string
	Width, Status, Bytes int
	Errors, Foreign, Axe []string
	Sideways             bool
	Interactive          []float64 // ms of each load
}

// look has the browser load every page.
func (c *Command) look(ctx context.Context, chromium string, w *world) ([]sight, error) {
	var views []view
	for _, r := range roles {
		token, err := rig.Mint("acme", r.name, r.scopes...)
		if err != nil {
			return nil, err
		}
		for _, theme := range []string{"light", "dark"} {
			for _, width := range []int{400, 1400} {
				views = append(views, view{r.name, token, theme, width, w.pages()})
			}
		}
	}
	if c.Pictures != "" {
		if err := os.MkdirAll(c.Pictures, 0o755); err != nil {
			return nil, err
		}
	}
	asked, err := json.Marshal(map[string]any{
		"chromium": chromium, "base": "http://" + w.stage.Addrs[0], "rounds": c.Rounds, "pictures": c.Pictures, "views": views,
	})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "node", filepath.Join(testdata, "look.mjs"))
	cmd.Stdin = bytes.NewReader(asked)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("look at the pages: %w", err)
	}
	var seen []sight
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var s sight
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return nil, fmt.Errorf("the browser said %.200q: %w", lines.Bytes(), err)
		}
		seen = append(seen, s)
	}
	return seen, nil
}

// judge says what was seen, and fails with what does not hold.
func (c *Command) judge(seen []sight) error {
	var wrong []error
	type worst struct {
		bytes int
		wait  time.Duration
	}
	pages := map[string]*worst{}
	for i := range seen {
		s := &seen[i]
		wrong = append(wrong, s.faults()...)
		if s.wait() > mostWait && c.Rounds >= 5 && !ofOthers(s.Name) { // less is no median
			wrong = append(wrong, s.fault("interactive after %s; at most %s", s.wait().Round(time.Millisecond), mostWait))
		}
		w := pages[s.Name]
		if w == nil {
			w = new(worst)
			pages[s.Name] = w
		}
		w.bytes, w.wait = max(w.bytes, s.Bytes), max(w.wait, s.wait())
	}
	fmt.Printf("%d pages seen, by %d roles, in two themes, 400 and 1400 pixels wide; medians of %d loads\n", len(seen), len(roles), c.Rounds)
	fmt.Printf("%-12s %10s %16s\n", "page", "KiB", "interactive ms")
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		w := pages[name]
		fmt.Printf("%-12s %10.1f %16.0f\n", name, float64(w.bytes)/1024, float64(w.wait)/float64(time.Millisecond))
	}
	return errors.Join(wrong...)
}

// wait is the median time until a page could be used.
func (s *sight) wait() time.Duration {
	all := slices.Sorted(slices.Values(s.Interactive))
	if len(all) == 0 {
		return time.Hour
	}
	return time.Duration(all[len(all)/2] * float64(time.Millisecond))
}

// faults is what does not hold of a page.
func (s *sight) faults() (wrong []error) {
	fault := func(format string, args ...any) { wrong = append(wrong, s.fault(format, args...)) }
	refused := s.refused()
	if want := map[bool]int{false: 200, true: 403}[refused]; s.Status != want {
		fault("status %d; want %d", s.Status, want)
	}
	own := !ofOthers(s.Name)
	for _, e := range s.Errors {
		if !own && strings.Contains(e, "negative value") {
			continue // a chart of asynqmon on a narrow screen
		}
		if !refused || !strings.Contains(e, "403") { // a browser tells of each refused load
			fault("error: %s", e)
		}
	}
	for _, f := range s.Foreign {
		fault("asks another host: %s", f)
	}
	for _, a := range s.Axe {
		fault("axe: %s", a)
	}
	if s.Sideways && own {
		fault("scrolls sideways")
	}
	if s.Bytes > mostBytes && own && s.Name != "docs" {
		fault("%d bytes; at most %d", s.Bytes, mostBytes)
	}
	return wrong
}

func (s *sight) fault(format string, args ...any) error {
	return fmt.Errorf("%s, for %s, %s, %d pixels: %s", s.Name, s.Role, s.Theme, s.Width, fmt.Sprintf(format, args...))
}
