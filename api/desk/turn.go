package desk

import (
	"context"
	"runtime"
	"sync"

	"github.com/sluicehq/sluice/tasks"
)

// turns let one thing at a time be done for each tenant. The zero value is ready.
type turns struct {
	mu sync.Mutex
	of map[string]*turn
}

type turn struct {
	free chan struct{} // has one while nobody has the turn
	want int           // that have it or wait for it
}

// take waits until nothing else is done for a tenant; end is to be called then. Without
// an error it is the caller's turn.
func (t *turns) take(ctx context.Context, tenant string) (end func(), err error) {
	tenant = tasks.TenantOf(tenant)
	t.mu.Lock()
	if t.of == nil {
		t.of = map[string]*turn{}
	}
	one := t.of[tenant]
	if one == nil {
		one = &turn{free: make(chan struct{}, 1)}
		one.free <- struct{}{}
		t.of[tenant] = one
	}
	one.want++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if one.want--; one.want == 0 {
			delete(t.of, tenant)
		}
	}
	select {
	case <-one.free:
		return func() { one.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// largeBody is from how many bytes on a body takes a processor for so long that others notice.
const largeBody = 128 << 10

// processors bounds how many do at once what takes a processor long.
type processors chan struct{}

func newProcessors() processors { return make(processors, max(1, runtime.GOMAXPROCS(0)/2)) }

// Reading waits until a body that lies in memory may be read, which it says is done by
// calling done. Small ones may at once. Of a tenant's large ones one is read at a time,
// and of all tenants' so many that half of the processors are left to who has little to do.
func (d *Desk) Reading(ctx context.Context, tenant string, bytes int) (done func(), err error) {
	if bytes < largeBody {
		return func() {}, nil
	}
	end, err := d.readings.take(ctx, tenant)
	if err != nil {
		return nil, err
	}
	select {
	case d.processors <- struct{}{}:
		return func() { <-d.processors; end() }, nil
	case <-ctx.Done():
		end()
		return nil, ctx.Err()
	}
}
