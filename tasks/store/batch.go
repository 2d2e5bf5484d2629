package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
)

var (
	batchOpenScript   = script("batch_open")
	batchStageScript  = script("batch_stage")
	batchCommitScript = script("batch_commit")
	batchUnfoldScript = script("batch_unfold")
	batchAbortScript  = script("batch_abort")
	batchDeleteScript = script("batch_delete")
)

// OpenBatch begins a batch of that id. Where the id or the Idempotency-Key was used
// before it returns what is known of the first batch and no new one; ErrKeyBusy means
// that the first is still being written, and a QuotaError that its tenant has as many
// of them as it may; a writer that has been silent for 15 s
// may lose its key or its id to the next, and its commit is then refused.
func (s *Store) OpenBatch(ctx context.Context, id, tenant, key string) (tasks.Batch, *tasks.PriorBatch, error) {
	b := tasks.Batch{ID: id, Status: tasks.BatchInProgress}
	b.Tenant, b.User = tasks.SplitOwner(tenant)
	name, _, err := s.reservation(ctx, tenant, key, "")
	if err != nil {
		return b, nil, fmt.Errorf("open a batch: %w", err)
	}
	var reply []any
	err = operate(ctx, id, func(ctx context.Context, op string) (err error) {
		reply, err = s.run(ctx, batchOpenScript, args{
			"op": op, "batch": id, "tenant": tenant, "key": name, "weight": s.weight(b.Tenant),
			"stale": staleAfter.Milliseconds(), "silent": silentAfter.Milliseconds(), "most": stagedMost,
		}).Slice()
		return err
	})
	if err != nil {
		return b, nil, fmt.Errorf("open a batch: %w", unseen(err))
	}
	switch str(reply[0]) {
	case "busy":
		return b, nil, tasks.ErrKeyBusy
	case "taken":
		return b, nil, tasks.ErrIDTaken
	case "leaving":
		return b, nil, tasks.ErrLeaving
	case "many":
		return b, nil, &tasks.QuotaError{Quota: "open_batches", Limit: stagedMost, RetryAfter: 10 * time.Second}
	case "stale":
		if err := s.AbortBatch(ctx, id); err != nil {
			return b, nil, err
		}
		return s.OpenBatch(ctx, id, tenant, key)
	case "prior":
		prior, err := s.prior(ctx, tenant, reply)
		return b, prior, err
	}
	b.CreatedAt = fromMilli(num(reply[1]))
	return b, nil, nil
}

// prior is what a key or an id stood for before. The fingerprint of a batch is sealed, that
// of a job a name: it is no batch's.
func (s *Store) prior(ctx context.Context, tenant string, reply []any) (*tasks.PriorBatch, error) {
	p := &tasks.PriorBatch{ID: str(reply[2]), Lines: num(reply[4])}
	print, err := s.vault.openText(ctx, tenant, str(reply[1]), ofBatch, p.ID)
	if err == nil {
		p.Answer, err = s.first(ctx, tenant, p.ID, str(reply[3]))
	}
	if err != nil {
		return nil, fmt.Errorf("open a batch: %w", err)
	}
	p.Fingerprint = print
	return p, nil
}

// unseen is the error of a step of which nobody sees anything, whether it was carried
// out or not, as of those before a batch's commit.
func unseen(err error) error {
	var unknown *tasks.UnknownError
	if errors.As(err, &unknown) {
		return unknown.Err
	}
	return err
}

// StageBatch writes lines of an open batch. Nobody sees them before CommitBatch. One with
// an Error runs never: it fails so when the batch is unfolded. After
// an error some may be written, and the batch is to be aborted; of the tenant's limits
// only the bytes count before it is committed, and past them it is a QuotaError.
func (s *Store) StageBatch(ctx context.Context, id string, jobs []tasks.Job, l tasks.Limits) error {
	most := func(jobs []tasks.Job) []tasks.Job { return jobs[:min(stageLines, len(jobs))] }
	some := most(jobs)
	rows, err := s.lines(ctx, some, l)
	for err == nil && len(some) > 0 {
		jobs = jobs[len(some):]
		var (
			next   = most(jobs)
			ahead  sync.WaitGroup
			made   []any
			failed error
		)
		ahead.Go(func() { made, failed = s.lines(ctx, next, l) }) // while Redis writes those before
		err = s.stage(ctx, id, some, rows, l)
		ahead.Wait()
		if some, rows = next, made; err == nil {
			err = failed
		}
	}
	if err != nil {
		s.Drop(jobs)
		return fmt.Errorf("write batch %s: %w", id, err)
	}
	return nil
}

// lines are lines of a batch as the script takes them, as many as fit one.
func (s *Store) lines(ctx context.Context, jobs []tasks.Job, l tasks.Limits) ([]any, error) {
	list := make([]*tasks.Job, len(jobs))
	for i := range jobs {
		list[i] = &jobs[i]
	}
	if err := s.Unload(ctx, list...); err != nil {
		return nil, err
	}
	rows := make([]any, 0, 14*len(jobs))
	for i := range jobs {
		row, err := s.line(ctx, &jobs[i], l)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row...)
	}
	return rows, nil
}

// stage writes lines of a batch. After an error of which it is known that none was written,
// their prompts are dropped.
func (s *Store) stage(ctx context.Context, id string, jobs []tasks.Job, rows []any, l tasks.Limits) error {
	var reply []any
	err := Sure(ctx, id, func(ctx context.Context) (err error) {
		reply, err = s.run(ctx, batchStageScript, args{"batch": id, "stale": staleAfter.Milliseconds(), "age": stagedFor.Milliseconds(), "widest": l.QueuedBytes}, rows...).Slice()
		return err
	})
	if err != nil {
		return unseen(err)
	}
	err = refused(l, reply)
	if str(reply[0]) == "gone" {
		err = tasks.ErrNotFound
	}
	if err != nil {
		s.Drop(jobs)
	}
	return err
}

// line is a line of a batch as the script takes it.
func (s *Store) line(ctx context.Context, j *tasks.Job, l tasks.Limits) ([]any, error) {
	field, body, err := s.prompt(ctx, j)
	if err != nil {
		return nil, err
	}
	envelope, err := s.pack(ctx, j)
	if err != nil {
		return nil, err
	}
	fault, err := s.vault.seal(ctx, j.Tenant, []byte(faulty(j)), ofOutcome, j.ID)
	if err != nil {
		return nil, err
	}
	return []any{j.ID, j.Tenant, j.Pool, laneShift(j.Priority), milli(j.NotBefore), milli(j.Deadline), envelope, body, len(j.Fallback), j.Reserved, counted(j, l), field, fault, s.costOf(j)}, nil
}

// repeated is what tells a repeat of a batch's request, as scripts take it.
func (s *Store) repeated(ctx context.Context, id string, c tasks.BatchCommit) (fingerprint, digest string, err error) {
	if !s.vault.seals || c.Fingerprint == "" && c.Digest == "" {
		return c.Fingerprint, c.Digest, nil
	}
	tenant, err := s.BatchHolder(ctx, id)
	if err != nil {
		return "", "", err
	}
	if fingerprint, err = s.vault.sealText(ctx, tenant, c.Fingerprint, ofBatch, id); err == nil {
		digest, err = s.vault.name(ctx, tenant, ofCall, c.Digest)
	}
	return fingerprint, digest, err
}

// CommitBatch accepts a batch whole: after it, every line will run. Unfold
// then puts them into the backlogs, and a sweep goes on where it is cut off. One that
// repeats another is a *tasks.RepeatError and stays as it is.
func (s *Store) CommitBatch(ctx context.Context, id string, c tasks.BatchCommit) (b tasks.Batch, err error) {
	fingerprint, digest, err := s.repeated(ctx, id, c)
	if err != nil {
		return b, fmt.Errorf("commit batch %s: %w", id, err)
	}
	a := args{
		"batch": id, "lines": c.Lines, "dialect": c.Dialect, "fingerprint": fingerprint, "most": c.Limits.QueuedJobs, "daily": c.Limits.TokensPerDay, "budget": c.Limits.CostPerDay, "keep": answersKept.Milliseconds(),
		"digest": digest, "again": c.Repeat, "kept": tasks.CallKept.Milliseconds(), "lease": tasks.CallerLease.Milliseconds(),
	}
	if own, some := ownLimits(c.Limits); some {
		a["own"] = own
	}
	err = Sure(ctx, id, func(ctx context.Context) error {
		reply, err := s.run(ctx, batchCommitScript, a).Slice()
		if err != nil {
			return fmt.Errorf("commit batch %s: %w", id, err)
		}
		if err := refused(c.Limits, reply); err != nil {
			return err
		}
		switch str(reply[0]) {
		case "gone":
			return fmt.Errorf("commit batch %s: %w", id, tasks.ErrNotFound)
		case "lost":
			return fmt.Errorf("commit batch %s: %w", id, tasks.ErrKeyBusy)
		case "repeat":
			return &tasks.RepeatError{ID: str(reply[1]), Again: str(reply[2]) == "1"}
		}
		b, err = s.Batch(ctx, str(reply[1]), id)
		return err
	})
	return b, err
}

// Unfold puts the next lines of an accepted batch into the backlogs and says
// how many are left.
func (s *Store) Unfold(ctx context.Context, id string) (left int64, out []tasks.Ticket, err error) {
	reply, err := s.run(ctx, batchUnfoldScript, args{"batch": id, "most": unfoldLines, "depths": s.depth}).Slice()
	if err != nil {
		return 0, nil, fmt.Errorf("unfold batch %s: %w", id, err)
	}
	return num(reply[0]), tickets(reply[1]), nil
}

// AbortBatch forgets a batch that was not committed.
func (s *Store) AbortBatch(ctx context.Context, id string) error {
	for {
		reply, err := s.run(ctx, batchAbortScript, args{"batch": id, "most": stageLines}).Slice()
		if err != nil {
			return fmt.Errorf("abort batch %s: %w", id, err)
		}
		s.discard(loose(words(reply[1])))
		if num(reply[0]) == 0 {
			return nil
		}
	}
}

// DeleteBatch forgets a batch that has ended, with all its jobs; ErrConflict while it has
// not. It may be called again after an error.
func (s *Store) DeleteBatch(ctx context.Context, tenant, id string) error {
	for {
		reply, err := s.run(ctx, batchDeleteScript, args{"batch": id, "tenant": tenant, "most": stageLines}).Slice()
		if err == nil {
			err = moveError(str(reply[0]))
		}
		if err != nil {
			return fmt.Errorf("delete batch %s: %w", id, err)
		}
		s.remove(ctx, words(reply[2]))
		if num(reply[1]) == 0 {
			return nil
		}
	}
}

// faulty is the outcome of a job that fails by itself; "": it is to run.
func faulty(j *tasks.Job) string {
	if j.Error == nil {
		return ""
	}
	return encode(outcome{Error: j.Error})
}

// Batch returns a tenant's batch with its counts as they stand.
func (s *Store) Batch(ctx context.Context, tenant, id string) (tasks.Batch, error) {
	h, err := s.rdb.HGetAll(ctx, s.keys.batch(id)).Result()
	if err != nil {
		return tasks.Batch{}, fmt.Errorf("read batch %s: %w", id, redisError(err))
	}
	if !owns(tenant, h) || h["whole"] == "" {
		return tasks.Batch{}, tasks.ErrNotFound
	}
	return s.unpackBatch(id, h), nil
}

// BatchHolder names the owner of a batch; else tasks.ErrNotFound.
func (s *Store) BatchHolder(ctx context.Context, id string) (string, error) {
	return s.holder(ctx, s.keys.batch(id))
}

// Batches returns one page of a tenant's batches with their counts, newest first.
func (s *Store) Batches(ctx context.Context, f tasks.BatchFilter) (tasks.BatchPage, error) {
	match := s.batchesLike(f)
	from, low := bounds("batch_", f.After, f.Since, f.Until)
	through := s.newest(s.keys.batches(tasks.TenantOf(f.Tenant)), from, low, match)
	if f.Before != "" {
		through = s.next(s.keys.batches(tasks.TenantOf(f.Tenant)), f.Before, match)
	}
	ids, more, err := scan(ctx, f.Limit, f.Patience, through)
	if err != nil {
		return tasks.BatchPage{}, err
	}
	records, err := s.ask(ctx, s.keys.batch, ids)
	if err != nil {
		return tasks.BatchPage{}, fmt.Errorf("read %d batches: %w", len(ids), err)
	}
	page := tasks.BatchPage{HasMore: more != "", Next: more}
	for i, h := range records {
		if owns(f.Tenant, h) {
			page.Batches = append(page.Batches, s.unpackBatch(ids[i], h))
		}
	}
	if page.HasMore && len(ids) > 0 && len(page.Batches) == 0 { // all of it has ended its time just now
		if f.Before != "" {
			f.Before = more
		} else {
			f.After = more
		}
		return s.Batches(ctx, f)
	}
	if f.Before != "" {
		slices.Reverse(page.Batches)
	}
	return page, nil
}

// batchesLike picks those of some ids that a filter is for.
func (s *Store) batchesLike(f tasks.BatchFilter) func(context.Context, []string) ([]string, error) {
	return func(ctx context.Context, ids []string) ([]string, error) {
		records, err := s.ask(ctx, s.keys.batch, ids, "t", "us", "ct", "ended", "canceling", "dl")
		if err != nil {
			return nil, fmt.Errorf("look through %d batches: %w", len(ids), err)
		}
		var out []string
		for i, h := range records {
			b := s.unpackBatch(ids[i], h)
			if owns(f.Tenant, h) && (f.Status == "" || b.Status == f.Status) && (f.Dialect == "" || b.Dialect == f.Dialect) && !b.CreatedAt.Before(f.Since) && (f.Until.IsZero() || b.CreatedAt.Before(f.Until)) {
				out = append(out, b.ID)
			}
		}
		return out, nil
	}
}

func (s *Store) unpackBatch(id string, h map[string]string) tasks.Batch {
	b := tasks.Batch{
		ID: id, Tenant: h["t"], User: h["us"], Dialect: h["dl"], Status: tasks.BatchInProgress, CreatedAt: fromMilli(atoi(h["ct"])), EndedAt: fromMilli(atoi(h["ended"])),
		Counts: tasks.Counts{
			Total: atoi(h["total"]), Queued: atoi(h["queued"]), Running: atoi(h["running"]), Succeeded: atoi(h["succeeded"]),
			Failed: atoi(h["failed"]), Canceled: atoi(h["canceled"]), Expired: atoi(h["expired"]),
		},
	}
	switch {
	case !b.EndedAt.IsZero():
		b.Status, b.ExpiresAt = tasks.BatchEnded, b.EndedAt.Add(s.ttl)
	case h["canceling"] != "":
		b.Status = tasks.BatchCanceling
	}
	if at := atoi(h["canceling"]); at > 1 { // a release before this one noted only that it was
		b.CancelingAt = fromMilli(at)
	}
	return b
}

// BatchJobs returns up to limit of a batch's jobs in line order, from the
// index from on, and whether there are more after them. They come without
// prompts and results. Jobs that were deleted are left out, so a page may be short.
func (s *Store) BatchJobs(ctx context.Context, tenant, id string, from, limit int) ([]tasks.Job, bool, error) {
	if _, err := s.Batch(ctx, tenant, id); err != nil {
		return nil, false, err
	}
	ids, err := s.rdb.LRange(ctx, s.keys.lines(id), int64(from), int64(from+limit)).Result()
	if err != nil {
		return nil, false, fmt.Errorf("read batch %s: %w", id, redisError(err))
	}
	more := len(ids) > limit
	if more {
		ids = ids[:limit]
	}
	jobs, err := s.each(ctx, ids, shown)
	return jobs, more, err
}

// Results are read so many lines at a time, and no more of them than about so
// many bytes.
const (
	resultLines = 100
	resultBytes = 4 << 20
)

// BatchResults returns a batch's next final jobs in line order with their
// results, from the index from on, and the index to go on from, 0 at the end.
func (s *Store) BatchResults(ctx context.Context, tenant, id string, from int) (jobs []tasks.Job, next int, err error) {
	if _, err := s.Batch(ctx, tenant, id); err != nil {
		return nil, 0, err
	}
	fail := func(err error) ([]tasks.Job, int, error) {
		return nil, 0, fmt.Errorf("read the results of batch %s: %w", id, redisError(err))
	}
	ids, err := s.rdb.LRange(ctx, s.keys.lines(id), int64(from), int64(from+resultLines)).Result()
	if err != nil {
		return fail(err)
	}
	if len(ids) > resultLines {
		ids, next = ids[:resultLines], from+resultLines
	}
	n, err := s.fitting(ctx, ids)
	if err != nil {
		return fail(err)
	}
	if n < len(ids) {
		ids, next = ids[:n], from+n
	}
	if jobs, err = s.results(ctx, ids); err != nil {
		return fail(err)
	}
	return slices.DeleteFunc(jobs, func(j tasks.Job) bool { return !j.Status.Final() }), next, nil
}

// fitting is how many of jobs, one at least, have results of no more bytes than are
// read at a time.
func (s *Store) fitting(ctx context.Context, ids []string) (int, error) {
	elsewhere := make([]*redis.StringCmd, len(ids))
	here, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, job := range ids {
			p.HStrLen(ctx, s.keys.job(job), "r")
		}
		for i, job := range ids {
			if s.bodies != nil {
				elsewhere[i] = p.HGet(ctx, s.keys.job(job), "rr")
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return 0, err
	}
	size := int64(0)
	for i := range ids {
		size += here[i].(*redis.IntCmd).Val()
		if elsewhere[i] != nil {
			ref, _ := bodies.Parse(elsewhere[i].Val())
			size += ref.Size
		}
		if size > resultBytes && i > 0 {
			return i, nil
		}
	}
	return len(ids), nil
}

// results reads jobs with their results; those that are gone are left out. A result
// that is missing where it should lie is an error of its job alone.
func (s *Store) results(ctx context.Context, ids []string) ([]tasks.Job, error) {
	records, err := s.ask(ctx, s.keys.job, ids, withResult...)
	if err != nil {
		return nil, err
	}
	var jobs []tasks.Job
	var lies []string
	for i, h := range records {
		if h["e"] == "" {
			continue
		}
		j, err := s.unpack(ctx, ids[i], h)
		if err != nil {
			return nil, err
		}
		jobs, lies = append(jobs, j), append(lies, h["rr"])
	}
	return jobs, fan(len(jobs), bodiesAtOnce, func(i int) error {
		err := s.whole(ctx, &jobs[i], lies[i], 0)
		var missing *tasks.BodiesError
		if errors.As(err, &missing) && missing.Missing {
			jobs[i].Error = &tasks.JobError{Code: tasks.BodyUnavailable, Message: "the store of bodies does not have the result"}
			return nil
		}
		return err
	})
}

// CancelBatch cancels every job of a batch that is not final. It may be called
// again after an error. ErrFinal: the batch has ended.
func (s *Store) CancelBatch(ctx context.Context, tenant, id string) (tasks.Batch, error) {
	b, err := s.Batch(ctx, tenant, id)
	if err != nil {
		return b, err
	}
	if b.Status == tasks.BatchEnded {
		return b, tasks.ErrFinal
	}
	err = operate(ctx, id, func(ctx context.Context, op string) error {
		for from := int64(0); from < b.Counts.Total; from += cancelLines {
			ids, err := s.rdb.LRange(ctx, s.keys.lines(id), from, from+cancelLines-1).Result()
			if err != nil {
				return fmt.Errorf("cancel batch %s: %w", id, redisError(err))
			}
			a := args{"op": fmt.Sprintf("%s.%d", op, from), "tenant": tenant, "batch": id}
			if err := s.run(ctx, cancelScript, a, anys(ids)...).Err(); err != nil {
				return fmt.Errorf("cancel batch %s: %w", id, err)
			}
		}
		b, err = s.Batch(ctx, tenant, id)
		return err
	})
	return b, err
}
