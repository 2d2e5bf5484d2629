package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sluicehq/sluice/tasks"
)

var (
	auditTurnScript    = script("audit_turn")
	auditScanScript    = script("audit_scan")
	auditJobsScript    = script("audit_jobs")
	auditBatchesScript = script("audit_batches")
	auditBatchScript   = script("audit_batch")
	auditCountsScript  = script("audit_counts")
)

const (
	auditPage  = 50               // jobs or lines in one script
	auditScan  = 50               // keys in one script, of all that Redis has
	auditScans = 10               // such scripts in one step
	auditPages = 40               // other scripts in one step
	auditMost  = 1000             // jobs that are not final, up to which counts are compared
	auditStep  = 2 * time.Second  // after which a step begins no further script
	auditRest  = 5 * time.Second  // from a round to the next
	auditSkew  = 10 * time.Second // how far the clocks that made ids may differ
)

// audit is how far a process has come with comparing counts and records. A round goes
// through all tenants, each one's jobs and then its batches; the counts are its end.
type audit struct {
	mu      sync.Mutex
	cursor  string           // where in all of Redis's keys; "": at their beginning
	begun   time.Time        // the round, by Redis's clock; zero: none
	next    time.Time        // when the next one may begin, or this process asks again whose turn it is
	tenants []string         // of the round
	at      int              // the tenant whose turn it is
	from    string           // where in its jobs; "": they are done
	more    string           // where in its batches; "": they are listed
	batches []string         // of it that have not ended, as far as listed
	line    int              // of the first of those
	seen    json.RawMessage  // of its lines
	stamp   string           // of its counts
	live    []string         // jobs of the round that are not final
	within  map[string]bool  // batches of this tenant with such a job
	off     map[string]int64 // counts that were off at the end of the round before
	unmet   []string         // jobs met without a record by then
}

// Audit goes a step on with comparing the records with what speaks of them, and mends
// what a Redis has lost that evicts, was flushed in part or restored: a job whose
// record is gone ends as failed with the code job_lost, a job that stands in no line or
// list is put back, a batch none of whose lines will end ends, and counts are what the records say. Any
// process may call it, about once a second: one at a time does it, about 2,000 records
// a step, and rests for 5 s after a round. Counts are compared while at most 1,000 jobs
// are not final; past that a user's is not mended, and one whose job was lost has one too many.
func (s *Store) Audit(ctx context.Context) (out tasks.Audited, err error) {
	w := &s.audit
	w.mu.Lock()
	defer w.mu.Unlock()
	mine, err := s.turn(ctx, w)
	if err != nil || !mine {
		return out, err
	}
	start := time.Now()
	for range auditScans {
		begun := time.Now()
		if err := s.auditScan(ctx, w, &out); err != nil {
			return out, err
		}
		tasks.GiveWay(ctx, time.Since(begun))
		if w.cursor == "0" || time.Since(start) > auditStep/2 {
			break
		}
	}
	for range auditPages {
		if time.Since(start) > auditStep { // Redis is slow or far; the turn must not end meanwhile
			break
		}
		begun := time.Now()
		if over, err := s.auditNext(ctx, w, &out); over || err != nil {
			return out, err
		}
		tasks.GiveWay(ctx, time.Since(begun))
	}
	return out, nil
}

// auditNext goes on with the round by one script, and reports whether that was its last.
func (s *Store) auditNext(ctx context.Context, w *audit, out *tasks.Audited) (over bool, err error) {
	switch {
	case w.at == len(w.tenants):
		err = s.auditCounts(ctx, w, out)
		w.begun, w.next, out.Round = time.Time{}, s.clock().Add(auditRest), err == nil
		return true, err
	case w.from != "":
		err = s.auditJobs(ctx, w, out)
	case len(w.batches) > 0:
		err = s.auditBatch(ctx, w, out)
	case w.more != "":
		err = s.auditBatches(ctx, w)
	default:
		w.at++
		w.from, w.within = "+", map[string]bool{}
	}
	return false, err
}

// turn reports whether it is this process that does it, and begins a round where none is.
func (s *Store) turn(ctx context.Context, w *audit) (bool, error) {
	if w.begun.IsZero() && s.clock().Before(w.next) {
		return false, nil
	}
	reply, err := s.run(ctx, auditTurnScript, args{"by": s.name, "begin": w.begun.IsZero(), "depths": s.depth}).Slice()
	if err != nil {
		return false, fmt.Errorf("audit: %w", err)
	}
	if num(reply[0]) == 0 {
		w.begun, w.next = time.Time{}, s.clock().Add(auditRest)
		return false, nil
	}
	if w.begun.IsZero() {
		w.begun, w.tenants, w.at, w.from = fromMilli(num(reply[1])), words(reply[2]), 0, "+"
		w.more, w.batches, w.live, w.within = "", nil, nil, map[string]bool{}
	}
	return true, nil
}

// auditScan looks for what stands in no list; of many keys a round takes long.
func (s *Store) auditScan(ctx context.Context, w *audit, out *tasks.Audited) error {
	reply, err := s.run(ctx, auditScanScript, args{"cursor": cmp.Or(w.cursor, "0"), "most": auditScan}).Slice()
	if err != nil {
		return fmt.Errorf("audit all keys: %w", err)
	}
	w.cursor = str(reply[0])
	out.PutBack += int(num(reply[1]))
	return nil
}

func (s *Store) auditJobs(ctx context.Context, w *audit, out *tasks.Audited) error {
	tenant := w.tenants[w.at]
	reply, err := s.run(ctx, auditJobsScript, args{"tenant": tenant, "from": w.from, "most": auditPage, "depths": s.depth, "lease": Lease.Milliseconds()}).Slice()
	if err != nil {
		return fmt.Errorf("audit jobs: %w", err)
	}
	for l := words(reply[1]); len(l) >= 2; l = l[2:] {
		if len(w.live) <= auditMost {
			w.live = append(w.live, l[0])
		}
		w.within[l[1]] = true
	}
	for l := words(reply[2]); len(l) >= 3; l = l[3:] {
		out.Lost = append(out.Lost, tasks.LostJob{ID: l[0], Tenant: tenant, Pool: l[1], Ended: l[2] != ""})
	}
	out.PutBack += int(num(reply[3]))
	if w.from = after(str(reply[0])); w.from == "" {
		w.more = "+"
	}
	return nil
}

// after is where a list goes on behind this id; "" behind none.
func after(id string) string {
	if id == "" {
		return ""
	}
	return "(" + id
}

func (s *Store) auditBatches(ctx context.Context, w *audit) error {
	reply, err := s.run(ctx, auditBatchesScript, args{"tenant": w.tenants[w.at], "from": w.more, "most": auditPage}).Slice()
	if err != nil {
		return fmt.Errorf("audit batches: %w", err)
	}
	w.more = after(str(reply[0]))
	w.nextBatch(words(reply[1]))
	return nil
}

// nextBatch goes on with the first of these batches.
func (w *audit) nextBatch(batches []string) {
	w.batches, w.line, w.seen, w.stamp = batches, 0, json.RawMessage("{}"), ""
}

func (s *Store) auditBatch(ctx context.Context, w *audit, out *tasks.Audited) error {
	id := w.batches[0]
	reply, err := s.run(ctx, auditBatchScript, args{
		"batch": id, "tenant": w.tenants[w.at], "from": w.line, "most": auditPage, "seen": w.seen, "stamp": w.stamp, "live": w.within[id],
	}).StringSlice()
	if err != nil {
		return fmt.Errorf("audit batch %s: %w", id, err)
	}
	switch reply[0] {
	case "on":
		w.line, w.seen, w.stamp = int(atoi(reply[1])), json.RawMessage(reply[2]), reply[3]
		return nil
	case "ended":
		out.Batches = append(out.Batches, id)
	case "gone":
		out.LostBatches = append(out.LostBatches, id)
	}
	w.nextBatch(w.batches[1:])
	return nil
}

func (s *Store) auditCounts(ctx context.Context, w *audit, out *tasks.Audited) error {
	tenants, live := w.tenants, w.live
	few := len(live) <= auditMost && len(tenants) <= auditMost
	if !few {
		tenants, live = nil, nil
	}
	var since ulid.ULID
	if err := since.SetTime(uint64(max(0, w.begun.Add(-auditSkew).UnixMilli()))); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	before := w.off
	if before == nil {
		before = map[string]int64{}
	}
	rows := append(append(anys(tenants), anys(w.unmet)...), anys(live)...)
	reply, err := s.run(ctx, auditCountsScript, args{
		"before": before, "since": "job_" + since.String(), "most": auditMost, "tenants": len(tenants), "unmet": len(w.unmet),
		"compare": few, "depths": s.depth,
	}, rows...).Slice()
	if err != nil {
		return fmt.Errorf("audit counts: %w", err)
	}
	w.off = map[string]int64{}
	for l := list(reply[0]); len(l) >= 2; l = l[2:] {
		w.off[str(l[0])] = num(l[1])
	}
	w.unmet, out.Counts = words(reply[1]), words(reply[2])
	for l := words(reply[3]); len(l) >= 2; l = l[2:] {
		out.Lost = append(out.Lost, tasks.LostJob{ID: l[0], Pool: l[1]})
	}
	return nil
}
