package worker

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// textEvery is the shortest time between two writes of a running attempt's text.
const textEvery = 50 * time.Millisecond

// Texts takes what a running attempt has brought for readers who want it as it comes.
type Texts interface {
	Append(ctx context.Context, t tasks.Ticket, call, offset int, text string) (wanted bool, err error)
	// AppendEvents takes the events of a job whose caller streams, and how they end.
	// The next begin size bytes later.
	AppendEvents(ctx context.Context, t tasks.Ticket, call, offset int, raw []byte, end tasks.StreamEnd) (size int, taken bool, err error)
}

// text collects what a running attempt has brought, and publishes it only
// while somebody wants it: a job that is polled costs nothing here.
type text struct {
	texts  Texts
	ticket tasks.Ticket

	mu     sync.Mutex
	call   int
	wanted bool
	all    strings.Builder
	sent   int
	last   time.Time
}

// of says whose the text is.
func (t *text) of(tenant string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ticket.Tenant = tenant
}

func (t *text) begin(s tasks.Started) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.call, t.wanted = s.Call, t.wanted || s.Wanted
}

func (t *text) want() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wanted = true
}

// add takes the next piece; it is called from one goroutine.
func (t *text) add(ctx context.Context, piece string) {
	t.mu.Lock()
	t.all.WriteString(piece)
	if !t.wanted || time.Since(t.last) < textEvery {
		t.mu.Unlock()
		return
	}
	ticket, call, from, out := t.ticket, t.call, t.sent, t.all.String()[t.sent:]
	t.sent, t.last = t.all.Len(), time.Now()
	t.mu.Unlock()

	wanted, err := t.texts.Append(ctx, ticket, call, from, out)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil || !wanted {
		// The next reader gets the text from its beginning: the stored part may be gone by then.
		t.wanted, t.sent = false, 0
	}
}
