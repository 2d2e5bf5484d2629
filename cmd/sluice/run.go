package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker/pause"
)

// runTenant owns the jobs of run: whoever is at this machine.
const runTenant = "local"

func usagef(format string, args ...any) error { return wrongUsage{fmt.Errorf(format, args...)} }

// runOptions are the flags of run.
type runOptions struct {
	File      string // "-" is standard input
	Out       string // "" is standard output
	Model     string // for plain text
	MaxTokens int    // for plain text
	Fresh     bool   // forget what an earlier run of the same file did
	Progress  bool
	Grace     time.Duration
}

// run drains a file of prompts with no server and writes a line a job. What an
// earlier run of the same file finished is not asked again.
func run(ctx context.Context, cfg *Config, o runOptions, log *slog.Logger, stdin io.Reader, stdout, stderr io.Writer) error {
	input, err := readInput(o.File, stdin)
	if err != nil {
		return err
	}
	all, err := parseInput(cfg, o, input)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return usagef("%s holds no prompts", o.File)
	}
	hooks := 0
	for i := range all {
		if all[i].WebhookURL != "" {
			// Nobody could check the signature, or be tried again once the run is over.
			all[i].WebhookURL = ""
			hooks++
		}
	}
	if hooks > 0 {
		fmt.Fprintf(stderr, "sluice: run sends no webhooks; webhook_url is left out of %d lines\n", hooks)
	}
	if cfg.DataDir == "" {
		return usagef("data_dir is needed to keep what is done; set SLUICE_DATA_DIR")
	}
	dir := filepath.Join(cfg.DataDir, "runs", runKey(o, input))
	out, done, err := openResults(o, all, stdout)
	if err != nil {
		return err
	}
	defer out.Close()
	if o.Fresh {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("forget the earlier run: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the run's folder: %w", err)
	}
	r := &runner{log: log, out: out, stderr: stderr, dir: dir, all: all, open: map[string]tasks.Job{}, paused: map[string]bool{}, total: len(all), progress: o.Progress}
	r.skipped = len(done)
	left := all[:0:0]
	for _, j := range all {
		if !done[j.Line] {
			left = append(left, j)
		}
	}
	if len(left) == 0 {
		fmt.Fprintf(stderr, "all %d jobs were done by an earlier run; --fresh asks again\n", len(all))
		r.summary(0, 0, 0)
		return nil
	}
	own := *cfg
	if own.Redis.URL == "" {
		// A run's own embedded Redis, so that several runs and a dev server share nothing.
		own.DataDir = dir
	}
	s, err := newService(ctx, &own, roles{worker: true, tell: true, grace: o.Grace}, log)
	if err != nil {
		return err
	}
	if s.cfg.UsesFake() {
		fmt.Fprintln(stderr, "sluice: "+fakeNotice)
	}
	r.s, r.begun = s, time.Now()
	err = s.run(ctx, func(ctx context.Context) error { return r.drain(ctx, left) })
	r.clearProgress()
	seconds := time.Since(r.begun).Seconds()
	r.summary(seconds, r.share(seconds), r.refused())
	if closeErr := s.close(); closeErr != nil {
		log.Warn("close", "error", closeErr)
	}
	switch {
	case err != nil:
		return err
	case r.written < len(left):
		return fmt.Errorf("interrupted with %d of %d jobs done; the same command goes on from there", r.skipped+r.written, r.total)
	}
	if out.lasting {
		if err := os.RemoveAll(dir); err != nil { // the results file says what is done
			log.Warn("the run's folder was not removed", "error", err)
		}
		fmt.Fprintf(stderr, "results are in %s\n", o.Out)
	}
	if r.failed > 0 {
		return fmt.Errorf("%d of %d jobs failed; the same command tries them again", r.failed, r.total)
	}
	return nil
}

func readInput(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		b, err := io.ReadAll(stdin)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return b, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, wrongUsage{fmt.Errorf("read the prompts: %w", err)}
	}
	return b, nil
}

// parseInput reads JSON lines or, when the first line is no JSON object and the
// name is not that of JSON lines, plain text with a prompt a line.
func parseInput(cfg *Config, o runOptions, input []byte) ([]tasks.Job, error) {
	input = bytes.TrimPrefix(input, []byte("\xef\xbb\xbf"))
	var all []tasks.Job
	ext := strings.ToLower(filepath.Ext(o.File))
	if ext == ".jsonl" || ext == ".ndjson" || ext != ".txt" && bytes.HasPrefix(bytes.TrimLeft(input, " \t\r\n"), []byte("{")) {
		err := api.Lines{Match: cfg.Pool}.Read(bytes.NewReader(input), func(j tasks.Job) error {
			all = append(all, j)
			return nil
		})
		if err != nil {
			return nil, wrongUsage{fmt.Errorf("%s: %w", o.File, err)}
		}
		return all, nil
	}
	model := o.Model
	if model == "" {
		model = textModel(cfg)
	}
	pool, ok := cfg.Pool(model)
	if !ok {
		return nil, usagef("no pool serves the model %q; name one with --model", model)
	}
	line := 0
	for raw := range bytes.Lines(input) {
		line++
		text := strings.TrimSpace(string(raw))
		if text == "" {
			continue
		}
		if !utf8.ValidString(text) {
			return nil, usagef("%s: Line %d: not UTF-8 text", o.File, line)
		}
		body, err := json.Marshal(text)
		if err != nil {
			return nil, err
		}
		all = append(all, tasks.Job{
			Model: model, Pool: pool, Priority: tasks.Normal, Line: line, CustomID: strconv.Itoa(line),
			Request: tasks.Request{Kind: tasks.Text, Body: body, MaxTokens: o.MaxTokens, InputTokens: tasks.EstimateTokens(len(body))},
		})
	}
	return all, nil
}

// textModel is what plain text is asked of when nobody says.
func textModel(cfg *Config) string {
	for _, m := range []string{"claude-sonnet-4-5", "gpt-4o-mini"} {
		if _, ok := cfg.Pool(m); ok {
			return m
		}
	}
	for _, p := range cfg.Pools {
		for _, m := range p.Models {
			if !strings.ContainsAny(m, "*?[") {
				return m
			}
		}
	}
	return ""
}

// runKey tells one run from another: what is asked, and where it goes.
func runKey(o runOptions, input []byte) string {
	out := o.Out
	if out != "" {
		if abs, err := filepath.Abs(out); err == nil {
			out = abs
		}
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n%d\n", out, o.Model, o.MaxTokens)
	sum.Write(input)
	return hex.EncodeToString(sum.Sum(nil))[:20]
}

// results is where the lines go.
type results struct {
	w       *bufio.Writer
	file    *os.File // nil: standard output, which is not closed
	lasting bool     // a file that keeps what is written; a pipe or a device does not
}

func (r *results) Close() error {
	err := r.w.Flush()
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
	}
	return err
}

// openResults makes sure that results can be written before anything is asked,
// and finds the lines that an earlier run has brought. Lines that failed are
// taken out, to be tried again.
func openResults(o runOptions, all []tasks.Job, stdout io.Writer) (*results, map[int]bool, error) {
	if o.Out == "" {
		return &results{w: bufio.NewWriter(stdout)}, nil, nil
	}
	if at, err := os.Stat(o.Out); err == nil && !at.Mode().IsRegular() && !at.IsDir() {
		// A pipe or a device holds nothing of an earlier run, and reading it might never end.
		f, err := os.OpenFile(o.Out, os.O_WRONLY, 0)
		if err != nil {
			return nil, nil, wrongUsage{fmt.Errorf("the results cannot be written: %w", err)}
		}
		return &results{w: bufio.NewWriter(f), file: f}, nil, nil
	}
	flags := os.O_RDWR | os.O_CREATE
	if o.Fresh {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(o.Out, flags, 0o600)
	if err != nil {
		return nil, nil, wrongUsage{fmt.Errorf("the results cannot be written: %w", err)}
	}
	fail := func(err error) (*results, map[int]bool, error) {
		return nil, nil, errors.Join(err, f.Close())
	}
	old, err := io.ReadAll(f)
	if err != nil {
		return fail(wrongUsage{fmt.Errorf("read the results so far: %w", err)})
	}
	done, keep, err := readResults(o, all, old)
	if err != nil {
		return fail(err)
	}
	if len(keep) != len(old) {
		if err := replaceFile(o.Out, keep); err != nil {
			return fail(fmt.Errorf("take failed lines out of the results: %w", err))
		}
		if err := f.Close(); err != nil {
			return nil, nil, err
		}
		if f, err = os.OpenFile(o.Out, os.O_RDWR, 0o600); err != nil {
			return nil, nil, wrongUsage{fmt.Errorf("the results cannot be written: %w", err)}
		}
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return fail(err)
	}
	return &results{w: bufio.NewWriter(f), file: f, lasting: true}, done, nil
}

// readResults reads an earlier run's results: which lines they have, and what
// of them to keep. The last line may have been cut off by a crash.
func readResults(o runOptions, all []tasks.Job, old []byte) (done map[int]bool, keep []byte, err error) {
	custom := make(map[int]string, len(all))
	for _, j := range all {
		custom[j.Line] = j.CustomID
	}
	done = map[int]bool{}
	for raw := range bytes.Lines(old) {
		if !bytes.HasSuffix(raw, []byte("\n")) {
			break
		}
		var was struct {
			CustomID string       `json:"custom_id"`
			Line     int          `json:"line"`
			Status   tasks.Status `json:"status"`
		}
		if err := json.Unmarshal(raw, &was); err != nil || was.Line == 0 || custom[was.Line] != was.CustomID || !was.Status.Valid() {
			return nil, nil, usagef("%s holds something other than results of %s; name another file, or --fresh to write over it", o.Out, o.File)
		}
		if was.Status == tasks.StatusSucceeded && !done[was.Line] {
			done[was.Line] = true
			keep = append(keep, raw...)
		}
	}
	return done, keep, nil
}

// replaceFile puts content in the place of a file, whole or not at all.
func replaceFile(name string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// runner writes a run's results as its jobs end.
type runner struct {
	s      *service
	log    *slog.Logger
	out    *results
	stderr io.Writer
	dir    string
	all    []tasks.Job
	open   map[string]tasks.Job // by id: not written yet
	paused map[string]bool      // by pool, as last said

	begun                      time.Time
	total, skipped             int
	written, succeeded, failed int
	usage                      tasks.Usage
	progress                   bool
	shown                      bool
}

// journal names the batch of an interrupted run.
const journal = "batch"

// drain submits what no earlier run has submitted, and writes results until
// every line has one or ctx ends.
func (r *runner) drain(ctx context.Context, left []tasks.Job) error {
	if err := r.tryKeys(ctx); err != nil {
		return err
	}
	if err := r.resume(ctx, left); err != nil {
		return err
	}
	var fresh []tasks.Job
	known := map[int]bool{}
	for _, j := range r.open {
		known[j.Line] = true
	}
	for _, j := range left {
		if !known[j.Line] {
			fresh = append(fresh, j)
		}
	}
	if err := r.submit(ctx, fresh); err != nil {
		return err
	}
	// The worker tells of each end; jobs that end otherwise, or elsewhere, are looked for.
	look := time.NewTicker(5 * time.Second)
	defer look.Stop()
	paint := time.NewTicker(200 * time.Millisecond)
	defer paint.Stop()
	watch := time.NewTicker(time.Second)
	defer watch.Stop()
	if err := r.collect(ctx); err != nil {
		return err
	}
	for len(r.open) > 0 {
		select {
		case <-ctx.Done():
			// What ends within the grace period is written by the next run.
			return nil
		case id := <-r.s.ended:
			if j, ok := r.open[id]; ok {
				if err := r.write(ctx, j.ID); err != nil {
					return err
				}
			}
		case <-look.C:
			if err := r.collect(ctx); err != nil {
				return err
			}
		case <-paint.C:
			r.paint()
		case <-watch.C:
			if err := r.watchPools(ctx); err != nil {
				return err
			}
		}
		if len(r.s.ended) == 0 {
			if err := r.out.w.Flush(); err != nil {
				return fmt.Errorf("write the results: %w", err)
			}
		}
	}
	return nil
}

// tryKeys lets each pool that an earlier run found refused, or out of credit,
// try again: who gives the command has perhaps seen to it, and sees what comes.
func (r *runner) tryKeys(ctx context.Context) error {
	for name, b := range r.s.breakers {
		if err := b.Try(ctx, "sluice run"); err != nil {
			return fmt.Errorf("try pool %s again: %w", name, err)
		}
	}
	return nil
}

// watchPools says when a pool is paused and when it goes on. A provider that
// refuses the key ends the run: nobody is there to change it meanwhile.
func (r *runner) watchPools(ctx context.Context) error {
	for name, b := range r.s.breakers {
		s, err := b.State(ctx)
		if err != nil {
			continue // Redis is away; the log says so
		}
		if s.PausedBy == pause.ByBreaker && s.Cause == pause.BadAuthority {
			return fmt.Errorf("the provider of pool %s refuses the key; what waits is kept: see to the key and run the same command again", name)
		}
		if s.Paused == r.paused[name] {
			continue
		}
		r.paused[name] = s.Paused
		r.clearProgress()
		switch {
		case !s.Paused:
			fmt.Fprintf(r.stderr, "sluice: pool %s goes on\n", name)
		case s.ExpectedResumeAt.IsZero():
			fmt.Fprintf(r.stderr, "sluice: pool %s is paused: %s; its jobs wait\n", name, s.Reason)
		default:
			fmt.Fprintf(r.stderr, "sluice: pool %s is paused: %s; its jobs wait, and it is tried again at %s\n", name, s.Reason, s.ExpectedResumeAt.Format(time.RFC3339))
		}
	}
	return nil
}

// resume takes up the batch of an interrupted run: its jobs are asked for once,
// however often the run is begun.
func (r *runner) resume(ctx context.Context, left []tasks.Job) error {
	name, err := os.ReadFile(filepath.Join(r.dir, journal))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the run's journal: %w", err)
	}
	wanted := make(map[int]tasks.Job, len(left))
	for _, j := range left {
		wanted[j.Line] = j
	}
	for _, id := range strings.Fields(string(name)) {
		for from := 0; ; from += 500 {
			jobs, more, err := r.s.store.BatchJobs(ctx, runTenant, id, from, 500)
			if errors.Is(err, tasks.ErrNotFound) {
				break // never accepted, or kept by a Redis that forgets
			}
			if err != nil {
				return err
			}
			for _, j := range jobs {
				if _, ok := wanted[j.Line]; !ok {
					continue
				}
				delete(wanted, j.Line)
				if j.Status.Final() && j.Status != tasks.StatusSucceeded {
					if _, err := r.s.jobs.Retry(ctx, runTenant, j.ID, tasks.Limits{}); err != nil {
						return err
					}
				}
				r.open[j.ID] = j
			}
			if !more {
				break
			}
		}
	}
	return nil
}

// submit puts jobs into one batch, whose name is in the journal before it is accepted.
func (r *runner) submit(ctx context.Context, fresh []tasks.Job) error {
	if len(fresh) == 0 {
		return nil
	}
	b, _, err := r.s.store.OpenBatch(ctx, runTenant, "")
	if err != nil {
		return err
	}
	for chunk := fresh; len(chunk) > 0; {
		n := min(200, len(chunk))
		for i := range chunk[:n] {
			r.s.fall.adopt(&chunk[i])
			chunk[i].ID, chunk[i].Tenant, chunk[i].Batch = store.NewID("job"), runTenant, b.ID
		}
		if err := r.s.store.StageBatch(ctx, b.ID, chunk[:n]); err != nil {
			return err
		}
		chunk = chunk[n:]
	}
	f, err := os.OpenFile(filepath.Join(r.dir, journal), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("write the run's journal: %w", err)
	}
	_, err = fmt.Fprintln(f, b.ID)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write the run's journal: %w", err)
	}
	for _, j := range fresh {
		r.open[j.ID] = j
	}
	_, err = r.s.jobs.CommitBatch(ctx, b.ID, tasks.BatchCommit{})
	return err
}

// collect writes every open job that has ended.
func (r *runner) collect(ctx context.Context) error {
	ids := make([]string, 0, len(r.open))
	for id := range r.open {
		ids = append(ids, id)
	}
	ended, err := r.s.store.Ended(ctx, ids)
	if err != nil {
		if tasks.Away(err) || ctx.Err() != nil {
			return nil // the next look finds them
		}
		return err
	}
	for _, id := range ended {
		if err := r.write(ctx, id); err != nil {
			return err
		}
	}
	return r.out.w.Flush()
}

func (r *runner) write(ctx context.Context, id string) error {
	j, err := r.s.store.Job(context.WithoutCancel(ctx), runTenant, id)
	if err != nil {
		if tasks.Away(err) {
			r.s.log.Warn("a result cannot be read yet", "job", id, "error", err)
			return nil // the next look finds it
		}
		return err
	}
	if !j.Status.Final() {
		return nil
	}
	if _, err := r.out.w.Write(api.ResultLine(&j, "")); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	delete(r.open, id)
	r.written++
	if j.Status == tasks.StatusSucceeded {
		r.succeeded++
	} else {
		r.failed++
	}
	if j.Usage != nil {
		r.usage.InputTokens += j.Usage.InputTokens
		r.usage.OutputTokens += j.Usage.OutputTokens
	}
	return nil
}

const barWidth = 30

// paint draws the progress bar on a terminal.
func (r *runner) paint() {
	if !r.progress {
		return
	}
	n := r.skipped + r.written
	full := barWidth * n / r.total
	rate := float64(r.written) / max(0.001, time.Since(r.begun).Seconds())
	left := "?"
	if rate > 0 {
		left = (time.Duration(float64(r.total-n)/rate) * time.Second).String()
	}
	fmt.Fprintf(r.stderr, "\r\033[K[%s%s] %d/%d  %d failed  %.1f/s  %s left",
		strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), n, r.total, r.failed, rate, left)
	r.shown = true
}

func (r *runner) clearProgress() {
	if r.shown {
		fmt.Fprint(r.stderr, "\r\033[K")
	}
}

// summary is the run's one line: share is of the binding allowance, refused the
// 429s.
func (r *runner) summary(seconds, share float64, refused int64) {
	fmt.Fprintf(r.stderr, "%d jobs: %d succeeded, %d failed, %d done before; %d input and %d output tokens in %.1f s; %.1f %% of the allowance used; %d 429s seen\n",
		r.total, r.succeeded, r.failed, r.skipped, r.usage.InputTokens, r.usage.OutputTokens, seconds, 100*share, refused)
}

// refused is how many 429s the run has seen.
func (r *runner) refused() (n int64) {
	for _, h := range r.s.healths {
		n += h.Refused()
	}
	return n
}

// share is how much of the binding allowance the run used from its start to its
// end: of each pool what it sent, over what its bucket held and was refilled.
func (r *runner) share(seconds float64) float64 {
	var most float64
	for _, p := range r.s.cfg.Pools {
		h := r.s.healths[p.Name]
		of := func(used int64, perMinute int64, burst float64) {
			if perMinute > 0 && used > 0 {
				most = max(most, float64(used)/(burst+float64(perMinute)*seconds/60))
			}
		}
		calls, in, out := h.Used()
		of(calls, p.Limits.RequestsPerMinute, float64(p.Limits.RequestBurst))
		of(in, p.Limits.InputTokensPerMinute, 0)
		of(out, p.Limits.OutputTokensPerMinute, 0)
	}
	return min(1, most)
}
