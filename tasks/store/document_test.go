package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

func TestDocumentsAreListedAndForgotten(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 1)
	ctx := t.Context()
	put := func(tenant, id string, expires time.Duration) tasks.Document {
		t.Helper()
		d := tasks.Document{ID: id, Tenant: tenant, Kind: tasks.FileDocument, Body: []byte(`{"id":"` + id + `"}`), Expires: expires}
		if err := s.AddContent(ctx, tenant, id, []byte("a"), tasks.Limits{}); err != nil {
			t.Fatal(err)
		}
		if err := s.PutDocument(ctx, d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	var last tasks.Document
	for i := range 5 {
		last = put("acme", fmt.Sprintf("file-%d", i), time.Hour)
	}
	put("acme", "file-2", time.Millisecond)
	redistest.Until(t, "a document ends its time", func() bool {
		_, err := s.Document(ctx, "acme", "file-2")
		return errors.Is(err, tasks.ErrNotFound)
	})
	put("other", "file-9", time.Hour)

	list := func(after string, limit int, oldest bool) (ids []string, more bool) {
		t.Helper()
		page, more, err := s.Documents(ctx, tasks.DocumentFilter{Tenant: "acme", Kind: tasks.FileDocument, After: after, Limit: limit, Oldest: oldest})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page {
			ids = append(ids, d.ID)
		}
		return ids, more
	}
	for _, tc := range []struct {
		after  string
		limit  int
		oldest bool
		want   string
	}{
		{"", 2, false, "[file-4 file-3] true"}, {"file-3", 2, false, "[file-1 file-0] false"}, {"file-3", 1, false, "[file-1] true"}, {"file-0", 3, false, "[] false"},
		{"", 2, true, "[file-0 file-1] true"}, {"file-1", 2, true, "[file-3 file-4] false"}, {"file-1", 1, true, "[file-3] true"}, {"file-4", 3, true, "[] false"},
	} {
		ids, more := list(tc.after, tc.limit, tc.oldest)
		if got := fmt.Sprint(ids, more); got != tc.want {
			t.Errorf("after %q, %d: got %s; want %s", tc.after, tc.limit, got, tc.want)
		}
	}
	if _, err := s.Document(ctx, "other", "file-4"); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("another tenant reads: %v", err)
	}
	if err := s.DropDocument(ctx, last); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Document(ctx, "acme", last.ID); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("after it was dropped: %v", err)
	}
	if chunk, err := s.Content(ctx, last.ID, 0); chunk != nil || err != nil {
		t.Errorf("its content: %q, %v", chunk, err)
	}
	if chunk, err := s.Content(ctx, "file-3", 0); string(chunk) != "a" || err != nil {
		t.Errorf("another's content: %q, %v", chunk, err)
	}
}

// The content of a document lies where bodies lie, counts to its tenant while it is
// there, and goes with it or when its time is over.
func TestContentsAreCountedAndForgotten(t *testing.T) {
	t.Parallel()
	eachShelf(t, func(h *shelf) {
		ctx, id := h.Context(), strings.Replace(store.NewID("file"), "_", "-", 1)
		counted := func(want string) {
			h.Helper()
			if got := h.rdb.HGet(ctx, "sluice:{s}:tb", "acme").Val(); got != want {
				h.Errorf("%q bytes are counted, want %q", got, want)
			}
		}
		limits := tasks.Limits{QueuedBytes: 2500}
		for i := range 2 {
			if err := h.AddContent(ctx, "acme", id, bytes.Repeat([]byte{byte('a' + i)}, 1200), limits); err != nil {
				h.Fatal(err)
			}
		}
		var full *tasks.QuotaError
		if err := h.AddContent(ctx, "acme", id, make([]byte, 200), limits); !errors.As(err, &full) || full.Quota != "queued_bytes" {
			h.Errorf("past the quota: %v", err)
		}
		d := tasks.Document{ID: id, Tenant: "acme", Kind: tasks.FileDocument, Body: []byte("{}"), Expires: time.Hour}
		if err := h.PutDocument(ctx, d); err != nil {
			h.Fatal(err)
		}
		counted("2400")
		if n := h.rdb.StrLen(ctx, "sluice:{s}:part:"+id).Val(); n > 0 || strings.Contains(strings.Join(h.rdb.LRange(ctx, "sluice:{s}:part:"+id, 0, -1).Val(), ""), "aaa") {
			h.Error("Redis has the content")
		}
		if err := h.bodies.Sweep(ctx, h.Store); err != nil {
			h.Fatal(err)
		}
		for i, want := range []string{strings.Repeat("a", 1200), strings.Repeat("b", 1200), ""} {
			if got, err := h.Content(ctx, id, i); err != nil || string(got) != want {
				h.Errorf("chunk %d: %d bytes, %v", i, len(got), err)
			}
		}
		if err := h.DropDocument(ctx, d); err != nil {
			h.Fatal(err)
		}
		counted("")
		if got, err := h.Content(ctx, id, 0); err != nil || got != nil {
			h.Errorf("after its end: %q, %v", got, err)
		}
		// One whose document never came.
		if err := h.AddContent(ctx, "acme", id, make([]byte, 100), limits); err != nil {
			h.Fatal(err)
		}
		counted("100")
		h.rdb.ZAdd(ctx, "sluice:{s}:parts", redis.Z{Member: id, Score: 1})
		if _, err := store.New(h.config).Sweep(ctx); err != nil {
			h.Fatal(err)
		}
		counted("")
	})
}

// again sends each script twice, as a client does whose first answer was lost.
type again struct{}

func (again) DialHook(next redis.DialHook) redis.DialHook { return next }
func (again) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (again) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := next(ctx, cmd); err != nil || cmd.Name() != "evalsha" {
			return err
		}
		return next(ctx, cmd)
	}
}

// A chunk whose answer was lost is there once, and counted once.
func TestAChunkThatIsSentAgainIsAddedOnce(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 1)
	ctx := t.Context()
	rdb.AddHook(again{})
	for range 2 { // two chunks may be alike
		if err := s.AddContent(ctx, "acme", "file-1", []byte("alike"), tasks.Limits{}); err != nil {
			t.Fatal(err)
		}
	}
	if n, held := rdb.LLen(ctx, "sluice:{s}:part:file-1").Val(), rdb.HGet(ctx, "sluice:{s}:tb", "acme").Val(); n != 2 || held != "10" {
		t.Errorf("%d chunks and %s bytes, want 2 and 10", n, held)
	}
}

// Of many who claim a document at once one has it.
func TestADocumentIsClaimedOnce(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 1)
	d := tasks.Document{ID: "upload-1", Tenant: "acme", Kind: tasks.UploadDocument, Body: []byte("first"), Expires: time.Hour}
	for _, want := range []string{"", "first"} {
		if prior, err := s.ClaimDocument(t.Context(), d); err != nil || string(prior) != want {
			t.Errorf("claimed: %q, %v; want %q", prior, err, want)
		}
		d.Body = []byte("second")
	}
}
