// Package spill keeps on this machine's disk what Redis would not take: how
// attempts at jobs and deliveries ended. Each lies in a file of its own, written
// to a temporary name, flushed and renamed, so that whatever is killed a file is
// whole or not there.
//
// It promises that what was kept is tried again, at each start and now and then,
// until the record has it, has moved on, or its time is over. The files are for this
// user alone (0600 in a folder of 0700), and hold answers as Config.Seal makes them.
// Nothing of an answer is ever logged.
package spill

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/tasks"
)

// Kind is what a file holds.
type Kind string

// The kinds of what is kept.
const (
	Ending   Kind = "ending"   // of an attempt at a job
	Delivery Kind = "delivery" // of an attempt at a webhook
)

// format is the version of the files. A file of another one is left where it is.
const format = 1

// item is what a file holds, as JSON.
type item struct {
	Version int            `json:"version"`
	Kind    Kind           `json:"kind"`
	Ticket  *tasks.Ticket  `json:"ticket,omitempty"`
	Ending  *tasks.Ending  `json:"ending,omitempty"`
	Settled *tasks.Settled `json:"settled,omitempty"`

	// In place of the above, sealed: an item as JSON, for the tenant and the id that it names.
	// A release that knows nothing of it leaves the file where it is.
	Tenant string `json:"tenant,omitempty"`
	ID     string `json:"id,omitempty"`
	Sealed []byte `json:"sealed,omitempty"`
}

// tenant is whose the item is; "": a release before this one has handed it over.
func (i *item) tenant() string {
	if i.Settled != nil {
		return i.Settled.Tenant
	}
	return i.Ticket.Tenant
}

// id names what the item is about.
func (i *item) id() string {
	if i.Settled != nil {
		return i.Settled.Ticket.ID
	}
	return i.Ticket.ID
}

// sound reports whether the item can be recorded by this release.
func (i *item) sound() bool {
	switch i.Kind {
	case Ending:
		return i.Version == format && i.Ticket != nil && i.Ending != nil
	case Delivery:
		return i.Version == format && i.Settled != nil
	}
	return false
}

// Record is where all of it belongs.
type Record interface {
	End(ctx context.Context, t tasks.Ticket, e tasks.Ending) ([]tasks.Ticket, error)
	Renew(ctx context.Context, held []tasks.Ticket) (lost []string, err error)
	SettleDelivery(ctx context.Context, s tasks.Settled) error
	RenewDeliveries(ctx context.Context, list []tasks.DeliveryTicket) error
}

// Config says what a Folder works with.
type Config struct {
	Dir    string // made if it is not there; several processes may share it
	Record Record
	// Seal is what stands in a file for what is about an id of a tenant's, and Open the
	// reverse; nil: files hold it in plain.
	Seal, Open func(ctx context.Context, tenant, id string, value []byte) ([]byte, error)
	// Hand passes on the tickets that a recorded end made room for.
	Hand func(ctx context.Context, list []tasks.Ticket) error
	// Ended is told of each end of a job that was recorded; nil: nobody is.
	Ended    func(t tasks.Ticket, e tasks.Ending)
	TTL      time.Duration // after which a file is dropped; above 0
	MaxItems int           // 0 means 10,000
	MaxBytes int64         // of all files; 0 means 1 GiB
	// Renew is the pause between renewals of the leases of what this process has
	// kept; 0 means 2.5 s. Every is that between tries to record it; 0 means 30 s.
	Renew, Every time.Duration
	Log          *slog.Logger          // nil: silent
	Metrics      prometheus.Registerer // nil: none
}

// ErrBounds says that no more may be kept: there is as much as is allowed.
var ErrBounds = errors.New("as much as is allowed is kept already")

// Folder is the files. Its methods may be called at once from anywhere.
type Folder struct {
	c    Config
	kept *prometheus.CounterVec
	out  *prometheus.CounterVec

	rounds sync.Mutex // one round of tries at a time

	mu     sync.Mutex
	known  size                            // in the folder, as far as is known
	coming size                            // being written
	jobs   map[string]tasks.Ticket         // kept by this process, by file
	hooks  map[string]tasks.DeliveryTicket // likewise
	told   map[string]bool                 // files that cannot be read, which the log has
	behind string                          // the file that the last round ended with
}

// size is how much there is.
type size struct {
	items int
	bytes int64
}

func (s *size) add(items int, bytes int64) {
	s.items, s.bytes = max(0, s.items+items), max(0, s.bytes+bytes)
}

const suffix = ".json"

// Open makes the folder, tries that a file can be written to it, and counts what
// lies there.
func Open(c Config) (*Folder, error) {
	if c.MaxItems == 0 {
		c.MaxItems = 10_000
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 1 << 30
	}
	if c.Renew == 0 {
		c.Renew = 2500 * time.Millisecond
	}
	if c.Every == 0 {
		c.Every = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f := &Folder{
		c: c, jobs: map[string]tasks.Ticket{}, hooks: map[string]tasks.DeliveryTicket{}, told: map[string]bool{},
		kept: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_spilled_total", Help: "Ends of attempts that Redis did not take and that were written to data_dir, by kind.",
		}, []string{"kind"}),
		out: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_spilled_left_total", Help: "Files that left data_dir: recorded, moved_on (the record needs it no more) or dropped (results.ttl is over).",
		}, []string{"outcome"}),
	}
	if err := f.probe(); err != nil {
		return nil, fmt.Errorf("keep files in %s: %w", c.Dir, err)
	}
	if _, err := f.list(); err != nil {
		return nil, err
	}
	for _, k := range []Kind{Ending, Delivery} {
		f.kept.WithLabelValues(string(k))
	}
	for _, o := range []string{recorded, movedOn, dropped} {
		f.out.WithLabelValues(o)
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(f.kept, f.out,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "sluice_spilled_items", Help: "Files in data_dir that wait to be recorded.",
			}, func() float64 { n, _ := f.Size(); return float64(n) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "sluice_spilled_bytes", Help: "Bytes of the files in data_dir that wait to be recorded.",
			}, func() float64 { _, b := f.Size(); return float64(b) }),
		)
	}
	return f, nil
}

// probe makes the folder and writes a file to it.
func (f *Folder) probe() error {
	if err := os.MkdirAll(f.c.Dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(f.c.Dir, 0o700); err != nil {
		return err
	}
	name, err := f.write([]byte("{}"))
	if err != nil {
		return err
	}
	return os.Remove(name)
}

// Size is how many files wait, and their bytes.
func (f *Folder) Size() (items int, bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known.items, f.known.bytes
}

// KeepEnding keeps how an attempt at a job ended, until the record takes it. why is
// what Redis said. The job stays leased while this process runs.
func (f *Folder) KeepEnding(t tasks.Ticket, e tasks.Ending, why error) error {
	if err := f.keep(&item{Version: format, Kind: Ending, Ticket: &t, Ending: &e}); err != nil {
		return err
	}
	f.c.Log.Warn("redis did not take the end of an attempt; it is kept in data_dir and recorded later", "job", t.ID, "pool", t.Pool, "outcome", string(e.Attempt.Outcome), "error", why)
	return nil
}

// KeepDelivery keeps how an attempt at a webhook ended, likewise.
func (f *Folder) KeepDelivery(s tasks.Settled, why error) error {
	if err := f.keep(&item{Version: format, Kind: Delivery, Settled: &s}); err != nil {
		return err
	}
	f.c.Log.Warn("redis did not take the end of an attempt at a webhook; it is kept in data_dir and recorded later", "delivery", s.Ticket.ID, "outcome", s.Reason, "error", why)
	return nil
}

// keep writes an item, whose lease is renewed from then on.
func (f *Folder) keep(i *item) error {
	b, err := f.sealed(i)
	if err != nil {
		return err
	}
	n := int64(len(b))
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known.items+f.coming.items >= f.c.MaxItems || f.known.bytes+f.coming.bytes+n > f.c.MaxBytes {
		return ErrBounds
	}
	f.coming.add(1, n)
	f.mu.Unlock()
	name, err := f.put(b)
	f.mu.Lock()
	f.coming.add(-1, -n)
	if err != nil {
		return err
	}
	f.known.add(1, n)
	f.kept.WithLabelValues(string(i.Kind)).Inc()
	if i.Kind == Ending {
		f.jobs[name] = *i.Ticket
	} else {
		f.hooks[name] = i.Settled.Ticket
	}
	return nil
}

// sealed is an item as a file has it.
func (f *Folder) sealed(i *item) ([]byte, error) {
	b, err := json.Marshal(i)
	if err != nil || f.c.Seal == nil || i.tenant() == "" {
		return b, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), tryWithin)
	defer cancel()
	secret, err := f.c.Seal(ctx, i.tenant(), i.id(), b)
	if err != nil || bytes.Equal(secret, b) { // nothing is sealed in this process
		return b, err
	}
	return json.Marshal(item{Version: format, Kind: i.Kind, Tenant: i.tenant(), ID: i.id(), Sealed: secret})
}

// opened reads the item of a file. An error of [tasks.ErrUnavailable] is one of keys.
func (f *Folder) opened(ctx context.Context, b []byte) (i item, err error) {
	if err = json.Unmarshal(b, &i); err != nil || i.Sealed == nil {
		return i, err
	}
	if f.c.Open == nil {
		return i, fmt.Errorf("it is sealed: %w", tasks.ErrUnavailable)
	}
	if b, err = f.c.Open(ctx, i.Tenant, i.ID, i.Sealed); err != nil {
		return i, err
	}
	i = item{}
	err = json.Unmarshal(b, &i)
	return i, err
}

// put makes a file that is whole or not there.
func (f *Folder) put(b []byte) (name string, err error) {
	tmp, err := f.write(b)
	if err != nil {
		return "", err
	}
	name = fmt.Sprintf("%013d-%s%s", time.Now().UnixMilli(), rand.Text()[:12], suffix)
	if err = os.Rename(tmp, filepath.Join(f.c.Dir, name)); err == nil {
		err = f.flush()
	}
	if err != nil {
		_ = os.Remove(tmp)
		_ = os.Remove(filepath.Join(f.c.Dir, name))
		return "", err
	}
	return name, nil
}

const unfinished = ".tmp-" // begins the names of files that are being written

// write writes a file under a temporary name and flushes it.
func (f *Folder) write(b []byte) (name string, err error) {
	file, err := os.CreateTemp(f.c.Dir, unfinished+"*") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = file.Write(b)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		_ = os.Remove(file.Name())
		return "", err
	}
	return file.Name(), nil
}

// flush makes the folder's names durable.
func (f *Folder) flush() error {
	d, err := os.Open(f.c.Dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// list returns the names of the files that wait, oldest first, counts them, and
// removes what a killed process left half written.
func (f *Folder) list() (names []string, err error) {
	f.mu.Lock()
	jobs, hooks := slices.Collect(maps.Keys(f.jobs)), slices.Collect(maps.Keys(f.hooks)) // no newer ones
	f.mu.Unlock()
	entries, err := os.ReadDir(f.c.Dir) // sorted
	if err != nil {
		return nil, err
	}
	there, bytes := map[string]bool{}, int64(0)
	for _, e := range entries {
		info, err := e.Info()
		switch {
		case err != nil: // another process took it
		case strings.HasPrefix(e.Name(), unfinished):
			if time.Since(info.ModTime()) > time.Hour {
				_ = os.Remove(filepath.Join(f.c.Dir, e.Name()))
			}
		case strings.HasSuffix(e.Name(), suffix) && info.Mode().IsRegular():
			names, there[e.Name()], bytes = append(names, e.Name()), true, bytes+info.Size()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = size{len(names), bytes}
	for _, name := range jobs {
		if !there[name] {
			delete(f.jobs, name)
		}
	}
	for _, name := range hooks {
		if !there[name] {
			delete(f.hooks, name)
		}
	}
	return names, nil
}

// born is when a file was written, by its name; zero for a name that is none of ours.
func born(name string) time.Time {
	text, _, _ := strings.Cut(name, "-")
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
