package spill

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// The ways in which a file leaves the folder.
const (
	recorded = "recorded"
	movedOn  = "moved_on"
	dropped  = "dropped"
)

const (
	tryWithin   = 5 * time.Second  // for one item
	roundWithin = 10 * time.Second // for a round of them

	// placeWithin is how long a delivery whose end is kept holds its place among those
	// under way. After that it is sent once more.
	placeWithin = 10 * time.Minute
)

// Run keeps the leases of what this process has kept, and tries now and then to
// record what lies in the folder, until ctx ends.
func (f *Folder) Run(ctx context.Context) error {
	var renewing sync.WaitGroup
	renewing.Go(func() { each(ctx, f.c.Renew, f.renew) })
	each(ctx, f.c.Every, f.Try)
	renewing.Wait()
	return nil
}

// each does something at each tick until ctx ends.
func each(ctx context.Context, every time.Duration, do func(context.Context)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do(ctx)
		}
	}
}

// renew keeps others from doing again what this process has kept the end of.
func (f *Folder) renew(ctx context.Context) {
	f.mu.Lock()
	jobs := make(map[string]string, len(f.jobs)) // files by job
	held := make([]tasks.Ticket, 0, len(f.jobs))
	for name, t := range f.jobs {
		jobs[t.ID], held = name, append(held, t)
	}
	hooks := make([]tasks.DeliveryTicket, 0, len(f.hooks))
	for name, t := range f.hooks {
		if time.Since(born(name)) < placeWithin {
			hooks = append(hooks, t)
		}
	}
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, tryWithin)
	defer cancel()
	if len(held) > 0 {
		lost, err := f.c.Record.Renew(ctx, held)
		f.failed(ctx, err)
		f.mu.Lock()
		for _, id := range lost {
			delete(f.jobs, jobs[id])
		}
		f.mu.Unlock()
	}
	if len(hooks) > 0 {
		f.failed(ctx, f.c.Record.RenewDeliveries(ctx, hooks))
	}
}

func (f *Folder) failed(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		f.c.Log.Warn("the leases of what is kept in data_dir were not renewed", "error", err)
	}
}

// Try tries once to record what lies in the folder, within 10 s. Each round goes on
// behind the last one, so that files that are refused hold up none behind them.
func (f *Folder) Try(ctx context.Context) {
	f.rounds.Lock()
	defer f.rounds.Unlock()
	names, err := f.list()
	if err != nil {
		f.c.Log.Warn("data_dir cannot be read", "error", err)
		return
	}
	at, found := slices.BinarySearch(names, f.behind)
	if found {
		at++
	}
	ctx, cancel := context.WithTimeout(ctx, roundWithin)
	defer cancel()
	for _, name := range slices.Concat(names[at:], names[:at]) {
		if ctx.Err() != nil {
			return
		}
		f.one(ctx, name)
		f.behind = name
	}
}

// one tries to record one file.
func (f *Folder) one(ctx context.Context, name string) {
	path := filepath.Join(f.c.Dir, name)
	old := time.Since(born(name)) > f.c.TTL
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return // another process was faster
	}
	ctx, cancel := context.WithTimeout(ctx, tryWithin)
	defer cancel()
	var i item
	if err == nil {
		i, err = f.opened(ctx, b)
	}
	if errors.Is(err, tasks.ErrUnavailable) && !old {
		f.c.Log.Debug("what is kept in data_dir cannot be opened yet", "error", err)
		return
	}
	if err != nil || !i.sound() {
		f.unread(name, old)
		return
	}
	if old {
		f.c.Log.Error("what redis did not take is dropped: results.ttl is over", "kind", string(i.Kind), "id", i.id())
		f.leave(name, int64(len(b)), dropped)
		return
	}
	switch err := f.record(ctx, &i); {
	case err == nil:
		f.c.Log.Info("what redis did not take at first is recorded", "kind", string(i.Kind), "id", i.id())
		f.leave(name, int64(len(b)), recorded)
	case tasks.Void(err):
		f.c.Log.Warn("what redis did not take is not needed any more: its record has moved on", "kind", string(i.Kind), "id", i.id(), "error", err)
		f.leave(name, int64(len(b)), movedOn)
	case ctx.Err() == nil:
		f.c.Log.Debug("what is kept in data_dir was not recorded yet", "kind", string(i.Kind), "id", i.id(), "error", err)
	}
}

func (f *Folder) record(ctx context.Context, i *item) error {
	if i.Kind == Delivery {
		return f.c.Record.SettleDelivery(ctx, *i.Settled)
	}
	next, err := f.c.Record.End(ctx, *i.Ticket, *i.Ending)
	if err == nil && f.c.Ended != nil {
		f.c.Ended(*i.Ticket, *i.Ending)
	}
	if err == nil && len(next) > 0 {
		if err := f.c.Hand(ctx, next); err != nil {
			f.c.Log.Warn("jobs were not handed to the queue yet", "error", err)
		}
	}
	return err
}

// unread is for a file that this release cannot read: it stays until its time is over.
func (f *Folder) unread(name string, old bool) {
	if old && !born(name).IsZero() {
		f.leave(name, 0, dropped)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.told[name] {
		f.told[name] = true
		f.c.Log.Error("a file in data_dir cannot be read; it is left there until results.ttl is over", "file", name)
	}
}

// leave removes a file.
func (f *Folder) leave(name string, bytes int64, how string) {
	if err := os.Remove(filepath.Join(f.c.Dir, name)); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			f.c.Log.Warn("a file of data_dir that has served cannot be removed", "file", name, "error", err)
		}
		return
	}
	f.out.WithLabelValues(how).Inc()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known.add(-1, -bytes)
	delete(f.jobs, name)
	delete(f.hooks, name)
}
