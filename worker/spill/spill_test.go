package spill_test

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/worker/spill"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
	}
	goleak.VerifyTestMain(m)
}

// record answers each end as it is told to.
type record struct {
	mu      sync.Mutex
	say     map[string]error // by id
	ended   []tasks.Ending
	settled []tasks.Settled
	renewed map[string]int
}

func (r *record) End(_ context.Context, t tasks.Ticket, e tasks.Ending) ([]tasks.Ticket, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.say[t.ID]; err != nil {
		return nil, err
	}
	r.ended = append(r.ended, e)
	return nil, nil
}

func (r *record) SettleDelivery(_ context.Context, s tasks.Settled) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settled = append(r.settled, s)
	return r.say[s.Ticket.ID]
}

func (r *record) Renew(_ context.Context, held []tasks.Ticket) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range held {
		r.renewed[t.ID]++
	}
	return nil, nil
}

func (r *record) RenewDeliveries(_ context.Context, list []tasks.DeliveryTicket) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range list {
		r.renewed[t.ID]++
	}
	return nil
}

func open(t *testing.T, c spill.Config) (*spill.Folder, *record) {
	t.Helper()
	r := &record{say: map[string]error{}, renewed: map[string]int{}}
	c.Record, c.Hand = r, func(context.Context, []tasks.Ticket) error { return nil }
	if c.TTL == 0 {
		c.TTL = time.Hour
	}
	c.Metrics = prometheus.NewRegistry()
	f, err := spill.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return f, r
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func keep(t *testing.T, f *spill.Folder, id, result string) {
	t.Helper()
	err := f.KeepEnding(tasks.Ticket{ID: id, Fence: 3, Pool: "claude"}, tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(result), Kept: 1}, errors.New("WRONGTYPE"))
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsKeptIsRecordedByTheNextStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spill")
	f, _ := open(t, spill.Config{Dir: dir})
	keep(t, f, "job_1", `{"text":"hello"}`)
	sent := tasks.Settled{Ticket: tasks.DeliveryTicket{ID: "dlv_1", Fence: 2}, Status: tasks.DeliveryDelivered, Body: []byte("{}")}
	if err := f.KeepDelivery(sent, errors.New("WRONGTYPE")); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files(t, dir), ".") {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if m := info.Mode().Perm(); m&0o077 != 0 {
			t.Errorf("%s has mode %o; want it for its user alone", name, m)
		}
	}
	f, r := open(t, spill.Config{Dir: dir})
	if n, bytes := f.Size(); n != 2 || bytes == 0 {
		t.Errorf("after a restart %d files of %d bytes are counted; want 2", n, bytes)
	}
	f.Try(t.Context())
	if len(r.ended) != 1 || string(r.ended[0].Result) != `{"text":"hello"}` || r.ended[0].Kept != 1 {
		t.Errorf("recorded %+v; want the answer", r.ended)
	}
	if len(r.settled) != 1 || r.settled[0].Ticket != sent.Ticket || r.settled[0].Status != sent.Status {
		t.Errorf("settled %+v; want %+v", r.settled, sent)
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
}

func TestWhatBecomesOfAFile(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		say  error
		ttl  time.Duration
		left int
	}{
		"recorded":                     {nil, time.Hour, 0},
		"its record is final":          {tasks.ErrFinal, time.Hour, 0},
		"another worker has it":        {tasks.ErrLost, time.Hour, 0},
		"its record is gone":           {tasks.ErrNotFound, time.Hour, 0},
		"refused":                      {errors.New("WRONGTYPE"), time.Hour, 1},
		"redis is away":                {tasks.ErrUnavailable, time.Hour, 1},
		"refused, results.ttl is over": {errors.New("WRONGTYPE"), time.Nanosecond, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			f, r := open(t, spill.Config{Dir: dir, TTL: test.ttl})
			r.say["job_1"] = test.say
			keep(t, f, "job_1", "{}")
			f.Try(t.Context())
			if left := files(t, dir); len(left) != test.left {
				t.Errorf("%d files are left; want %d", len(left), test.left)
			}
			if n, _ := f.Size(); n != test.left {
				t.Errorf("%d files are counted; want %d", n, test.left)
			}
		})
	}
}

// What ends from the disk is told, so that it is counted, and nothing else is.
func TestAnEndFromTheDiskIsTold(t *testing.T) {
	t.Parallel()
	var told []string
	f, r := open(t, spill.Config{Dir: t.TempDir(), Ended: func(k tasks.Ticket, e tasks.Ending) { told = append(told, k.Pool+" "+k.ID+" "+string(e.Status)) }})
	r.say["job_1"] = errors.New("WRONGTYPE")
	r.say["job_2"] = tasks.ErrFinal
	for _, id := range []string{"job_1", "job_2", "job_3"} {
		keep(t, f, id, "{}")
	}
	f.Try(t.Context())
	if want := []string{"claude job_3 succeeded"}; !slices.Equal(told, want) {
		t.Errorf("told of %q; want %q", told, want)
	}
}

func TestAFileThatIsRefusedHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, r := open(t, spill.Config{Dir: dir})
	r.say["job_1"] = errors.New("WRONGTYPE")
	keep(t, f, "job_1", "{}")
	keep(t, f, "job_2", "{}")
	f.Try(t.Context())
	if len(r.ended) != 1 || len(files(t, dir)) != 1 {
		t.Errorf("%d recorded, %d left; want one each", len(r.ended), len(files(t, dir)))
	}
}

func TestNoMoreIsKeptThanAllowed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]spill.Config{"files": {MaxItems: 1}, "bytes": {MaxBytes: 1000}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.Dir = t.TempDir()
			f, r := open(t, c)
			keep(t, f, "job_1", "{}")
			if err := f.KeepEnding(tasks.Ticket{ID: "job_2"}, tasks.Ending{Result: make([]byte, 1000)}, errors.New("OOM")); !errors.Is(err, spill.ErrBounds) {
				t.Errorf("the second: %v; want ErrBounds", err)
			}
			f.Try(t.Context())
			keep(t, f, "job_3", "{}")
			if len(r.ended) != 1 {
				t.Errorf("%d recorded; want one", len(r.ended))
			}
		})
	}
}

// A killed process leaves a file half written under a temporary name; a later release
// writes another format; a disk damages one.
func TestFilesThatCannotBeReadAreLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"1700000000000-A.json": `{"version":1,"kind":"ending","ti`,
		"9700000000000-B.json": `{"version":2,"kind":"ending","ticket":{"ID":"job_1"},"ending":{}}`,
		"9700000000000-C.json": `{"version":1,"kind":"ending"}`,
		".tmp-1":               `{"version":1`,
		"notes.txt":            "not ours",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, ".tmp-1"), old, old); err != nil {
		t.Fatal(err)
	}
	f, r := open(t, spill.Config{Dir: dir})
	keep(t, f, "job_2", "{}")
	f.Try(t.Context())
	if got := strings.Join(files(t, dir), " "); got != "9700000000000-B.json 9700000000000-C.json notes.txt" {
		t.Errorf("left are %s", got)
	}
	if len(r.ended) != 1 {
		t.Errorf("%d recorded; want the one that can be read", len(r.ended))
	}
}

func TestAFolderThatCannotBeWrittenIsSaid(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := spill.Open(spill.Config{Dir: filepath.Join(file, "spill"), TTL: time.Hour}); err == nil || !strings.Contains(err.Error(), "keep files in") {
		t.Errorf("Open: %v; want the reason", err)
	}
}

func TestWhatIsKeptStaysLeasedAndIsTriedAgain(t *testing.T) {
	t.Parallel()
	f, r := open(t, spill.Config{Dir: t.TempDir(), Renew: 5 * time.Millisecond, Every: 5 * time.Millisecond})
	r.say["job_1"], r.say["dlv_1"] = tasks.ErrUnavailable, tasks.ErrUnavailable
	keep(t, f, "job_1", "{}")
	if err := f.KeepDelivery(tasks.Settled{Ticket: tasks.DeliveryTicket{ID: "dlv_1"}}, errors.New("WRONGTYPE")); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	redistest.Until(t, "both are leased", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.renewed["job_1"] > 1 && r.renewed["dlv_1"] > 1
	})
	r.mu.Lock()
	clear(r.say)
	r.mu.Unlock()
	redistest.Until(t, "both are recorded", func() bool { n, _ := f.Size(); return n == 0 })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A file of this release is read by the next ones as well.
func TestTheFormatOfAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := `{"version":1,"kind":"ending","ticket":{"ID":"job_1","Fence":3,"Pool":"claude"},"ending":{"Status":"succeeded","Delay":1000000000,"Result":"e30=","Finish":"complete",` +
		`"Usage":{"input_tokens":5,"output_tokens":7},"Provider":"anthropic","Attempt":{"outcome":"succeeded","status":200,"request_id":"r"},"Kept":2}}`
	if err := os.WriteFile(filepath.Join(dir, "9700000000000-A.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, r := open(t, spill.Config{Dir: dir})
	f.Try(t.Context())
	if len(r.ended) != 1 {
		t.Fatal("it was not read")
	}
	if e := r.ended[0]; e.Status != tasks.StatusSucceeded || string(e.Result) != "{}" || e.Usage.OutputTokens != 7 || e.Kept != 2 || e.Attempt.RequestID != "r" || e.Provider != "anthropic" || e.Delay != time.Second {
		t.Errorf("read %+v", e)
	}
}

// What is kept is sealed for its tenant and id, and opened before it is recorded; while its
// key is missing, it stays where it is.
func TestWhatIsKeptIsSealed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := &record{say: map[string]error{}, renewed: map[string]int{}}
	missing := true
	f, err := spill.Open(spill.Config{
		Dir: dir, Record: r, TTL: time.Hour, Hand: func(context.Context, []tasks.Ticket) error { return nil },
		Seal: func(_ context.Context, tenant, id string, value []byte) ([]byte, error) {
			return []byte(tenant + "/" + id + "/" + base64.StdEncoding.EncodeToString(value)), nil
		},
		Open: func(_ context.Context, tenant, id string, value []byte) ([]byte, error) {
			if missing {
				return nil, tasks.ErrUnavailable
			}
			text, is := strings.CutPrefix(string(value), tenant+"/"+id+"/")
			if !is {
				t.Errorf("opened for %s of %s: %s", id, tenant, value)
			}
			return base64.StdEncoding.DecodeString(text)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.KeepEnding(tasks.Ticket{ID: "job_1", Tenant: "acme"}, tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte("canary")}, errors.New("away")); err != nil {
		t.Fatal(err)
	}
	if err := f.KeepDelivery(tasks.Settled{Ticket: tasks.DeliveryTicket{ID: "dlv_1"}, Tenant: "acme", Body: []byte("canary")}, errors.New("away")); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil || strings.Contains(string(b), "canary") || strings.Contains(string(b), base64.StdEncoding.EncodeToString([]byte("canary"))) {
			t.Errorf("%s, %v", b, err)
		}
	}
	f.Try(t.Context())
	if len(r.ended)+len(r.settled) > 0 {
		t.Error("recorded without its key")
	}
	missing = false
	f.Try(t.Context())
	if len(r.ended) != 1 || string(r.ended[0].Result) != "canary" || len(r.settled) != 1 || string(r.settled[0].Body) != "canary" {
		t.Errorf("recorded %+v, %+v", r.ended, r.settled)
	}
	if n, _ := f.Size(); n != 0 {
		t.Errorf("%d files are left", n)
	}
}
