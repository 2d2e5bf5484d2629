package worker_test

import (
	"errors"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/worker/spill"
)

// ends is the record as a folder asks it.
type ends struct{ *desk }

func folder(t *testing.T, s *desk, dir string) *spill.Folder {
	t.Helper()
	f, err := spill.Open(spill.Config{Dir: dir, Record: ends{s}, Hand: s.feeder.Hand, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// spoil makes a record one of another type, until it is healed.
func spoil(t *testing.T, rdb *redis.Client, key string) (heal func()) {
	t.Helper()
	// At once: a job without a record is not its worker's any more.
	if _, err := rdb.TxPipelined(t.Context(), func(p redis.Pipeliner) error {
		p.Rename(t.Context(), key, key+":aside")
		p.Set(t.Context(), key, "spoiled", 0)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := rdb.Rename(t.Context(), key+":aside", key).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// A record that cannot be written takes its answer to the disk, and its slot is free.
func TestAnAnswerThatRedisRefusesIsKeptOnDisk(t *testing.T) {
	t.Parallel()
	began, release := make(chan struct{}, 1), make(chan struct{})
	p := newProvider(t, func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-release
		say(w, r)
	}, say)
	dir := t.TempDir()
	var kept *spill.Folder
	s := start(t, p, options{keepAfter: 150 * time.Millisecond, spill: func(s *system) *spill.Folder {
		kept = folder(t, &desk{Store: s.store, feeder: s.feeder}, dir)
		return kept
	}})
	id := s.submit()
	within(t, began, "the call")
	heal := spoil(t, s.srv.Client(), "sluice:{s}:j:"+id)
	close(release)
	if j := s.final(s.submit()); j.Status != tasks.StatusSucceeded {
		t.Errorf("another job: %+v", j)
	}
	redistest.Until(t, "the answer lies on the disk", func() bool { n, _ := kept.Size(); return n == 1 })
	kept.Try(t.Context())
	if n, _ := kept.Size(); n != 1 {
		t.Error("it has left although its record is still refused")
	}
	s.stop()
	heal()
	folder(t, &desk{Store: s.store, feeder: s.feeder}, dir).Try(t.Context())
	if j := s.final(id); j.Status != tasks.StatusSucceeded || len(j.Log) != 1 || len(j.Result) == 0 {
		t.Errorf("after a restart: %+v", j)
	}
	if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
		t.Errorf("left are %v, %v", left, err)
	}
	if n := p.count(); n != 2 {
		t.Errorf("%d calls for two jobs", n)
	}
}

// What is left unrecorded at a stop lies on the disk, and its receiver does not get
// it twice.
func TestADeliverysEndThatIsLeftAtAStopIsKeptOnDisk(t *testing.T) {
	t.Parallel()
	var well atomic.Bool
	dir := t.TempDir()
	d, r := newDesk(t, func(d *desk) {
		d.refuse = func() error {
			if well.Load() {
				return nil
			}
			return errors.New("READONLY You can't write against a read only replica.")
		}
		d.spill = folder(t, d, dir)
	}), newReceiver(t)
	d.end(r.URL + "/ok")
	until(t, "it arrives", func() bool { return len(r.at("/ok")) == 1 })
	d.stop()
	if left, err := os.ReadDir(dir); len(left) != 1 || err != nil {
		t.Fatalf("on the disk lie %v, %v; want one file", left, err)
	}
	well.Store(true)
	folder(t, d, dir).Try(t.Context())
	if list := d.list(tasks.DeliveryFilter{}); len(list) != 1 || list[0].Status != tasks.DeliveryDelivered || list[0].Attempts != 1 {
		t.Errorf("the record says %+v", list)
	}
	if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
		t.Errorf("left are %v, %v", left, err)
	}
}
