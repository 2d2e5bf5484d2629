// Package sdks proves that the official SDKs of Anthropic and OpenAI, unmodified, work
// with another base URL and key as they do at their own provider: call by call, and
// while processes are killed and connections cut.
//
// An SDK is driven by a small program of its own (testdata), which does what it is told
// and says what came of it; what is right is judged here, once for all of a dialect.
package sdks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Command proves that official SDKs are served.
type Command struct {
	Only    string        `help:"SDKs whose name has this."`
	Drivers string        `type:"existingdir" placeholder:"DIR" help:"The drivers in Go, as go build made them; without it, they are built, which takes minutes."`
	Skip    []string      `enum:"calls,kills,pace" help:"Parts to leave out: ${enum}."`
	Kills   int           `default:"100" help:"Calls of each SDK that are struck, of each kind."`
	Calls   int           `default:"1000" help:"Calls of each SDK against an allowance of 10 a second, 64 at once."`
	Timeout time.Duration `default:"40m" help:"The proof fails when it takes longer."`
}

// testdata has the drivers.
const testdata = "cmd/prove/sdks/testdata"

// Run proves. It is an error that an SDK tripped over something.
func (c *Command) Run(ctx context.Context, lab *rig.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	chosen := slices.DeleteFunc(all(), func(k *sdk) bool { return !strings.Contains(k.name, c.Only) })
	if err := tools(chosen); err != nil {
		if os.Getenv("CI") != "" {
			return err
		}
		fmt.Println("SKIPPED, nothing is proved:", err)
		return nil
	}
	programs := c.Drivers
	if programs == "" {
		programs = filepath.Join(lab.Dir, "drivers")
		if err := build(ctx, programs, chosen); err != nil {
			return err
		}
	}
	w, err := c.open(ctx, lab)
	if err != nil {
		return errors.Join(err, w.close())
	}
	for _, k := range chosen {
		d, err := k.start(programs)
		if err != nil {
			return errors.Join(err, w.close())
		}
		w.drivers = append(w.drivers, d)
	}
	for _, part := range []struct {
		name string
		run  func(context.Context, *world) error
	}{{"calls", calls}, {"kills", c.kills}, {"pace", c.pace}} {
		if !slices.Contains(c.Skip, part.name) {
			err = errors.Join(err, part.run(ctx, w))
		}
	}
	return errors.Join(err, w.close(), w.report())
}

// tools tells what is missing here to drive them.
func tools(chosen []*sdk) error {
	for _, k := range chosen {
		if !k.node {
			continue
		}
		if _, err := exec.LookPath("node"); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(testdata, "npm", "node_modules")); err != nil {
			return fmt.Errorf("run npm ci in %s/npm: %w", testdata, err)
		}
	}
	return nil
}

// world is what the SDKs meet.
type world struct {
	lab     *rig.Lab
	stage   *rig.Stage
	strict  *rig.Provider // it holds each key to 10 requests a second
	loose   *rig.Provider
	door    *door
	inbox   *inbox
	drivers []*driver

	mu      sync.Mutex
	meet    map[string]func() // what is to be done when a call with such a mark arrives
	results map[string]map[string]string
	order   []string
}

const roomy = "timeout: 60s, breaker: {window: 10s, min_calls: 1000, failure_ratio: 1, probe_interval: 1s}, limits: {requests_per_minute: 600000, input_tokens_per_minute: 6000000000, output_tokens_per_minute: 600000000, request_burst: 1000, concurrency: 512}"

// open starts everything.
func (c *Command) open(ctx context.Context, lab *rig.Lab) (w *world, err error) {
	w = &world{lab: lab, meet: map[string]func(){}, results: map[string]map[string]string{}}
	if w.door, err = openDoor(); err != nil {
		return w, err
	}
	if w.inbox, err = openInbox(); err != nil {
		return w, err
	}
	if w.loose, err = rig.StartProvider(fake.Config{MeanLatency: 20 * time.Millisecond, MeanOutputTokens: 12, Models: []string{"claude-*", "gpt-*", "refused-*", "claude-sonnet-4-5", "gpt-4o"}}); err != nil {
		return w, err
	}
	w.loose.Meet = w.met
	if w.strict, err = rig.StartProvider(fake.Config{MeanLatency: 200 * time.Millisecond, MeanOutputTokens: 8, RequestsPerMinute: 600, RequestBurst: 10}); err != nil {
		return w, err
	}
	providers, pools := "", ""
	provider := func(name, dialect, key string, at *rig.Provider) {
		path := ""
		if dialect == "openai" {
			path = "/v1"
		}
		providers += fmt.Sprintf("  %s: {dialect: %s, base_url: \"http://%s%s\", api_key: %q}\n", name, dialect, at.Addr, path, key)
	}
	pool := func(name, provider, models, more string) {
		pools += fmt.Sprintf("  %s: {provider: %s, models: [%q], %s}\n", name, provider, models, more)
	}
	provider("other", "openai", "other", w.loose)
	pool("gpt", "other", "gpt-*", roomy)
	for _, refused := range []string{"once", "spend", "401", "402"} {
		for dialect, name := range map[string]string{"anthropic": "provider", "openai": "other"} {
			pool("refused-"+refused+"-"+dialect, name, "refused-"+refused+"-"+dialect, "max_attempts: 1, "+roomy)
		}
	}
	for i, k := range all() {
		name := fmt.Sprintf("paced-%d", i)
		provider(name, k.dialect, name, w.strict)
		pool(name, name, name, "limits: {requests_per_minute: 600, input_tokens_per_minute: 60000000, output_tokens_per_minute: 60000000, request_burst: 10, concurrency: 64}")
	}
	w.stage, err = lab.Stage(ctx, rig.Config{
		Name: "sdks", APIs: 2, Workers: 2, Provider: w.loose, OneKey: true, Pool: roomy, Providers: providers, Pools: pools,
		API:      []string{"SLUICE_TENANTS__SMALL__SUBMITS_PER_MINUTE=1"},
		Settings: fmt.Sprintf("public_url: http://%s\nwebhooks: {allow_http: true, allow_private: true}", w.door.addr()),
	})
	if err == nil {
		w.door.lead(w.stage.Addrs...)
	}
	return w, err
}

func (w *world) close() error {
	var errs []error
	for _, d := range w.drivers {
		d.close()
	}
	if w.door != nil {
		errs = append(errs, w.door.close())
	}
	if w.stage != nil {
		errs = append(errs, w.stage.Close())
	}
	for _, p := range []*rig.Provider{w.loose, w.strict} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	if w.inbox != nil {
		w.inbox.close()
	}
	return errors.Join(errs...)
}

var markOf = regexp.MustCompile(`mark-[0-9a-z-]+-end`)

// met does what is to be done when a call arrives at the provider.
func (w *world) met(_ string, body []byte) bool {
	mark := string(markOf.Find(body))
	w.mu.Lock()
	then := w.meet[mark]
	delete(w.meet, mark)
	w.mu.Unlock()
	if then != nil {
		then()
	}
	return false
}

// when has something done, once, as soon as the provider is sent a call with the mark.
func (w *world) when(mark string, then func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.meet[mark] = then
}

// note keeps how an SDK did in a scenario.
func (w *world) note(k *sdk, scenario, how string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.results[scenario] == nil {
		w.results[scenario] = map[string]string{}
		w.order = append(w.order, scenario)
	}
	w.results[scenario][k.name] = how
}

const passes = "passes"

// report prints what every SDK did, and fails when one tripped.
func (w *world) report() error {
	failed := 0
	for _, scenario := range w.order {
		for _, name := range slices.Sorted(maps.Keys(w.results[scenario])) {
			how := w.results[scenario][name]
			fmt.Printf("%-34s %-28s %s\n", scenario, name, how)
			if !strings.HasPrefix(how, passes) {
				failed++
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("official SDKs trip over %d things", failed)
	}
	return nil
}

// trial is one SDK in one scenario, as a tenant of its own.
type trial struct {
	*driver
	w             *world
	tenant, token string
	faults        []error
}

// trial makes one; scenario is part of the tenant's name.
func (w *world) trial(d *driver, scenario string) (*trial, error) {
	t := &trial{driver: d, w: w, tenant: plain(d.name + "-" + scenario)}
	var err error
	t.token, err = rig.TokenOf(t.tenant)
	return t, err
}

var odd = regexp.MustCompile(`[^a-z0-9]+`)

func plain(s string) string { return strings.Trim(odd.ReplaceAllString(strings.ToLower(s), "-"), "-") }

// base is the base URL of the SDK's form.
func (t *trial) base() string {
	if t.dialect == "openai" {
		return "http://" + t.w.door.addr() + "/openai/v1"
	}
	return "http://" + t.w.door.addr() + "/anthropic"
}

// do has the SDK do something and reads what it answers.
func (t *trial) do(ctx context.Context, c command, into any) error {
	if c.Base == "" {
		c.Base = t.base()
	}
	if c.Key == "" {
		c.Key = t.token
	}
	out, err := t.ask(ctx, c)
	if err != nil {
		return fmt.Errorf("%s %s: %w", c.Do, c.ID, err)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(out, into)
}

// expect notes a fault unless something is so.
func (t *trial) expect(ok bool, format string, args ...any) {
	if !ok {
		t.faults = append(t.faults, fmt.Errorf(format, args...))
	}
}

// fails expects an error of that status and of the type that the SDK has for it.
func (t *trial) fails(ctx context.Context, status int, kind string, c command) {
	none := 0
	c.Retries = &none
	err := t.do(ctx, c, nil)
	f, ok := errors.AsType[*failure](err)
	for range 5 { // a busy machine may say for a moment that it cannot be asked
		if !ok || f.Status != 503 || status == 503 || rig.Wait(ctx, time.Second) != nil {
			break
		}
		err = t.do(ctx, c, nil)
		f, ok = errors.AsType[*failure](err)
	}
	if !ok {
		t.expect(false, "%s %s: %v; want %d", c.Do, c.ID, err, status)
		return
	}
	class := "Error"
	if t.node {
		if class = t.types[status]; class == "" {
			class = "APIError"
		}
	}
	t.expect(f.Status == status && (f.Class == class || class != "APIError" && slices.Contains(f.Kinds, class)), "%s %s: %v; want %s %d", c.Do, c.ID, f, class, status)
	t.expect(kind == "" || bytes.Contains(f.Body, []byte(`"`+kind+`"`)), "%s %s: %v; want %q in it", c.Do, c.ID, f, kind)
	t.expect(f.Request != "", "%s %s: no request id: %v", c.Do, c.ID, f)
}

// called expects that the provider was called so often for a prompt.
func (t *trial) called(times int32, prompt string) {
	got := t.w.loose.Stats(true).Detail[rig.PromptDigest(prompt)].Calls
	t.expect(got == times, "%d calls upstream of %.60q, want %d", got, prompt, times)
}

type scenario struct {
	name string
	run  func(context.Context, *trial) error
}

// calls has every SDK go through the scenarios of its dialect.
func calls(ctx context.Context, w *world) error {
	var running errgroup.Group
	for _, d := range w.drivers {
		list := anthropicScenarios
		if d.dialect == "openai" {
			list = openaiScenarios
		}
		var some errgroup.Group
		some.SetLimit(4)
		running.Go(func() error {
			for _, s := range list {
				some.Go(func() error { return w.judge(ctx, d, s) })
			}
			return some.Wait()
		})
	}
	return running.Wait()
}

// judge has one SDK go through one scenario.
func (w *world) judge(ctx context.Context, d *driver, s scenario) error {
	t, err := w.trial(d, s.name)
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	err = s.run(within, t)
	how := passes
	if err := errors.Join(append(t.faults, err)...); err != nil {
		how = "FAILS: " + strings.ReplaceAll(err.Error(), "\n", "\n\t")
	}
	w.note(d.sdk, s.name, how)
	return ctx.Err()
}
