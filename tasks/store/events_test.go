package store_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// Events are read as they were written, whatever is written twice, and no more of them
// at once than a reader can hold.
func TestEventsAreKept(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := store.New(store.Config{Redis: redistest.New(t), Depth: map[string]int{pool: 8}})
	j := job("acme")
	k := submits(t, s, j)[0]
	read := func(offset int, want tasks.Events) {
		t.Helper()
		got, err := s.Events(ctx, j.ID, offset)
		if err != nil || got.Status != want.Status || got.Calls != want.Calls || got.Call != want.Call || !bytes.Equal(got.Raw, want.Raw) || got.More != want.More || got.End != want.End {
			t.Fatalf("read from %d: %+v, %v; want %+v", offset, got, err, want)
		}
	}
	write := func(call, offset int, raw string, end tasks.StreamEnd, want bool) {
		t.Helper()
		if _, taken, err := s.AppendEvents(ctx, k, call, offset, []byte(raw), end); err != nil || taken != want {
			t.Fatalf("write %.20q at %d: %v, %v", raw, offset, taken, err)
		}
	}
	read(0, tasks.Events{Status: tasks.StatusQueued})
	take(t, s, k)
	write(1, 0, "too early", tasks.StreamOpen, false)
	n := start(t, s, k).Call
	read(0, tasks.Events{Status: tasks.StatusRunning, Calls: 1})
	write(n, 0, "a\r\n\n", tasks.StreamOpen, true)
	write(n, 0, "a\r\n\n", tasks.StreamOpen, true) // again, after a lost answer
	write(n, 9, "behind a gap", tasks.StreamOpen, false)
	read(0, tasks.Events{Status: tasks.StatusRunning, Calls: 1, Call: 1, Raw: []byte("a\r\n\n"), End: tasks.StreamOpen})
	large := string(bytes.Repeat([]byte("x"), 70<<10))
	write(n, 4, large, tasks.StreamWhole, true)
	read(4, tasks.Events{Status: tasks.StatusRunning, Calls: 1, Call: 1, Raw: []byte(large)[:64<<10], More: true, End: tasks.StreamWhole})
	read(4+64<<10, tasks.Events{Status: tasks.StatusRunning, Calls: 1, Call: 1, Raw: []byte(large)[64<<10:], End: tasks.StreamWhole})
	read(4+70<<10, tasks.Events{Status: tasks.StatusRunning, Calls: 1, Call: 1, End: tasks.StreamWhole})

	// The next call's take their place.
	write(n+1, 0, "b", tasks.StreamOpen, true)
	read(0, tasks.Events{Status: tasks.StatusRunning, Calls: 1, Call: 2, Raw: []byte("b"), End: tasks.StreamOpen})
	if _, err := s.End(ctx, k, won); err != nil {
		t.Fatal(err)
	}
	write(n+1, 1, "too late", tasks.StreamOpen, false)
	if err := s.Delete(ctx, "acme", j.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Events(ctx, j.ID, 0); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("of a job that was deleted: %v", err)
	}
}
