package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
)

func TestDocumentsAreListedAndForgotten(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 1)
	ctx := t.Context()
	put := func(tenant, id string, expires time.Duration) tasks.Document {
		t.Helper()
		d := tasks.Document{ID: id, Tenant: tenant, Kind: tasks.FileDocument, Body: []byte(`{"id":"` + id + `"}`), Expires: expires}
		if err := s.AddContent(ctx, id, []byte("a")); err != nil {
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

	list := func(after string, limit int) (ids []string, more bool) {
		t.Helper()
		page, more, err := s.Documents(ctx, "acme", tasks.FileDocument, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page {
			ids = append(ids, d.ID)
		}
		return ids, more
	}
	for _, tc := range []struct {
		after string
		limit int
		want  string
	}{{"", 2, "[file-4 file-3] true"}, {"file-3", 2, "[file-1 file-0] false"}, {"file-3", 1, "[file-1] true"}, {"file-0", 3, "[] false"}} {
		ids, more := list(tc.after, tc.limit)
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
