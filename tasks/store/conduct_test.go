package store_test

import (
	"bytes"
	"strings"
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
	// A process that has not heard of it keeps nothing of what it knew; nor does any while a deletion is under way.
	save(tasks.Conduct{Tenant: "acme", Version: 2, Data: raw, Found: true})
	must(t, s.CloseTenant(ctx, "calm", tasks.Act{At: time.Now(), By: "ada"}))
	must(t, s.CloseTenant(ctx, "new", tasks.Act{At: time.Now(), By: "ada"}))
	save(tasks.Conduct{Tenant: "calm", Version: 1, Data: []byte("late"), Found: true}, tasks.Conduct{Tenant: "new", Data: raw, Found: true})
	if list, err := s.Conducts(ctx, 10); err != nil || len(list) != 0 || rdb.Exists(ctx, "sluice:{s}:ab:acme", "sluice:{s}:ab:new").Val() != 0 {
		t.Errorf("kept after it was deleted: %+v, %v", list, err)
	}
}

// What is kept of a tenant takes at most 4 KiB of Redis, its key and the list of findings included.
func TestAConductIsSmallInRedis(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	s := store.New(store.Config{Redis: rdb})
	ctx := t.Context()
	tenant := strings.Repeat("t", 64)
	data := make([]byte, conductSize)
	for i := range data {
		data[i] = byte(i*7 + 1)
	}
	_, _, err := s.SaveConducts(ctx, []tasks.Conduct{{Tenant: tenant, Data: data, Found: true}})
	must(t, err)
	sum := int64(0)
	for _, key := range rdb.Keys(ctx, "*:ab*").Val() {
		n, err := rdb.MemoryUsage(ctx, key).Result()
		must(t, err)
		sum += n
	}
	if sum == 0 || sum > 4<<10 {
		t.Errorf("a tenant takes %d bytes, want at most 4096", sum)
	}
}

// conductSize is more than a Conduct is packed to, which a test of api/abuse compares.
const conductSize = 3560

// What an admin says of a tenant is kept together with its line of the audit, once, though the
// answer is lost; where another process was faster, neither is.
func TestAChangedConductIsInTheAudit(t *testing.T) {
	t.Parallel()
	l := newLossy(t)
	ctx := t.Context()
	act := tasks.Act{At: time.Now(), By: "ada", Action: "release_tenant", Target: "acme", Reason: "a nightly run"}
	if newer, err := l.s.ChangeConduct(ctx, tasks.Conduct{Tenant: "acme", Version: 7, Data: []byte("late")}, act); err != nil || len(newer) != 1 || newer[0].Version != 0 {
		t.Errorf("made of what is not there: %+v, %v", newer, err)
	}
	acts := func() []tasks.Act {
		page, err := l.sure.Acts(ctx, "", 10)
		must(t, err)
		return page.Acts
	}
	if list := acts(); len(list) != 0 {
		t.Errorf("nothing was done, and the audit has %+v", list)
	}
	l.lose(2, nil)
	if newer, err := l.s.ChangeConduct(ctx, tasks.Conduct{Tenant: "acme", Data: []byte("free")}, act); err != nil || len(newer) != 0 {
		t.Errorf("changed, with two answers lost: %+v, %v", newer, err)
	}
	newer, _, err := l.sure.SaveConducts(ctx, []tasks.Conduct{{Tenant: "acme", Version: -1}})
	must(t, err)
	if len(newer) != 1 || newer[0].Version != 1 || string(newer[0].Data) != "free" {
		t.Errorf("kept is %+v, want it once", newer)
	}
	if list := acts(); len(list) != 1 || list[0].By != "ada" || list[0].Reason != act.Reason {
		t.Errorf("the audit has %+v, want one line", list)
	}
}
