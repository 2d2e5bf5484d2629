package store_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

func TestConducts(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t, redistest.Options{}).Client()
	s := store.New(store.Config{Redis: rdb})
	ctx := t.Context()
	save := func(list ...tasks.Conduct) []tasks.Conduct {
		t.Helper()
		newer, now, err := s.SaveConducts(ctx, list)
		must(t, err)
		if now.IsZero() {
			t.Error("Redis has no clock")
		}
		return newer
	}
	if newer := save(tasks.Conduct{Tenant: "acme", Version: -1}); len(newer) != 1 || newer[0].Version != 0 || len(newer[0].Data) != 0 {
		t.Errorf("read before anything is kept: %+v", newer)
	}
	raw := []byte{0, 255, '"', '\n'}
	if newer := save(tasks.Conduct{Tenant: "acme", Data: raw, Found: true}, tasks.Conduct{Tenant: "calm", Data: raw}); newer != nil {
		t.Errorf("kept first: %+v", newer)
	}
	// Of two that were made of one, the second is told of the first.
	if newer := save(tasks.Conduct{Tenant: "acme", Data: []byte("late")}); len(newer) != 1 || newer[0].Version != 1 || !bytes.Equal(newer[0].Data, raw) {
		t.Errorf("kept by two at once: %+v", newer)
	}
	if newer := save(tasks.Conduct{Tenant: "acme", Version: 1, Data: []byte("next")}); newer != nil {
		t.Errorf("kept again: %+v", newer)
	}
	list, err := s.Conducts(ctx, 10)
	must(t, err)
	if len(list) != 1 || list[0].Tenant != "acme" || list[0].Version != 2 || string(list[0].Data) != "next" {
		t.Errorf("found something of: %+v", list)
	}
	if _, err := s.DeleteTenant(ctx, "acme", tasks.Act{At: time.Now(), By: "ada"}); err != nil {
		t.Fatal(err)
	}
	if newer := save(tasks.Conduct{Tenant: "acme", Version: -1}); newer[0].Version != 0 {
		t.Errorf("of a tenant that was deleted %+v is left", newer)
	}
	if list, err := s.Conducts(ctx, 10); err != nil || len(list) != 0 {
		t.Errorf("after it was deleted: %+v, %v", list, err)
	}
}
