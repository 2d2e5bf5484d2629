package api_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/tasks"
)

// world is everything behind the API, in memory: it keeps jobs and batches by
// the rules of tasks.Transitions, and a test moves them as a worker would.
type world struct {
	delay    atomic.Int64 // nanoseconds that every estimate is longer
	mu       sync.Mutex
	fail     error // returned by every call of the store, when set
	seq      int
	jobs     map[string]*tasks.Job
	order    []string // newest last
	keys     map[string]*keyed
	batches  map[string]*tasks.Batch
	lines    map[string][]string
	staged   map[string][]tasks.Job
	batchKey map[string]string
	watchers map[string][]watcher
	partial  map[string]tasks.Partial
	listened map[string]int
	paused   map[string]string
	until    time.Time // of the last pause
	limits   quota.Limits
	admitted int64
	refunded int64
	tokens   int64 // set aside for good

	kept []tasks.Token // newest first
	acts []tasks.Act   // newest first

	denies error // returned by what an admin asks of tenants and tokens, when set

	inputLimit int64 // of each pool, a minute
}

type keyed struct {
	fingerprint, id string
	answer          []byte
	busy            bool
}

func newWorld() *world {
	return &world{
		jobs: map[string]*tasks.Job{}, keys: map[string]*keyed{}, batches: map[string]*tasks.Batch{},
		lines: map[string][]string{}, staged: map[string][]tasks.Job{}, batchKey: map[string]string{},
		watchers: map[string][]watcher{}, partial: map[string]tasks.Partial{}, listened: map[string]int{}, paused: map[string]string{},
	}
}

func (w *world) newID(prefix string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seq++
	return fmt.Sprintf("%s_%s%016d", prefix, ulid.Make().String()[:10], w.seq)
}

func (w *world) breakWith(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = err
}

func (w *world) put(j tasks.Job) {
	j.Version, j.Status = 0, tasks.StatusQueued // a record counts its changes: a new one has none
	if !j.NotBefore.IsZero() && j.NotBefore.After(time.Now()) {
		j.Status = tasks.StatusScheduled
	}
	j.CreatedAt = time.Now().UTC().Truncate(time.Millisecond)
	w.jobs[j.ID] = &j
	w.order = append(w.order, j.ID)
}

func (w *world) Submit(_ context.Context, s tasks.Submission) (tasks.Accepted, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return tasks.Accepted{}, w.fail
	}
	if j := w.jobs[s.Job.ID]; j != nil {
		if j.Owner() != s.Job.Owner() || j.Model != s.Job.Model {
			return tasks.Accepted{}, tasks.ErrIDTaken
		}
		return tasks.Accepted{Job: *j, Replayed: true}, nil
	}
	name := s.Job.Owner() + "|" + s.Key
	if s.Key != "" {
		if k := w.keys[name]; k != nil {
			switch {
			case k.busy:
				return tasks.Accepted{}, tasks.ErrKeyBusy
			case k.fingerprint != s.Fingerprint:
				return tasks.Accepted{}, &tasks.ReusedError{ID: k.id}
			}
			a := tasks.Accepted{Replayed: true, Answer: k.answer}
			if j := w.jobs[k.id]; j != nil {
				a.Job = *j
			}
			return a, nil
		}
	}
	if err := w.take(s.Job.Tenant, 1, s.Job.Reserved, s.Job.Bytes, s.Limits); err != nil {
		return tasks.Accepted{}, fmt.Errorf("submit: %w", err)
	}
	w.put(s.Job)
	if s.Key != "" {
		w.keys[name] = &keyed{fingerprint: s.Fingerprint, id: s.Job.ID}
	}
	return tasks.Accepted{Job: *w.jobs[s.Job.ID]}, nil
}

// take holds a tenant's limits.
func (w *world) take(tenant string, jobs, tokens, bytes int64, l tasks.Limits) error {
	for _, j := range w.jobs {
		if j.Tenant == tenant && !j.Status.Final() {
			jobs++
			bytes += j.Bytes
		}
	}
	if l.QueuedBytes > 0 && bytes > l.QueuedBytes {
		return &tasks.QuotaError{Quota: quota.QueuedBytes, Limit: l.QueuedBytes, RetryAfter: 3 * time.Second}
	}
	if l.QueuedJobs > 0 && jobs > l.QueuedJobs {
		return &tasks.QuotaError{Quota: quota.QueuedJobs, Limit: l.QueuedJobs, RetryAfter: 3 * time.Second}
	}
	if l.TokensPerDay > 0 && w.tokens+tokens > l.TokensPerDay {
		return &tasks.QuotaError{Quota: quota.TokensPerDay, Limit: l.TokensPerDay, Window: 24 * time.Hour, RetryAfter: time.Hour}
	}
	w.tokens += tokens
	return nil
}

func (w *world) Tokens(context.Context, string) (tasks.DayTokens, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return tasks.DayTokens{Reserved: w.tokens, ResetsIn: time.Hour}, nil
}

func (w *world) SaveAnswer(_ context.Context, tenant, key, id string, answer []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.keys[tenant+"|"+key]
	if k == nil || k.id != id {
		return tasks.ErrNotFound
	}
	if k.answer == nil {
		k.answer = bytes.Clone(answer)
	}
	return nil
}

func (w *world) find(tenant, id string) (*tasks.Job, error) {
	if w.fail != nil {
		return nil, w.fail
	}
	j := w.jobs[id]
	if j == nil || !tasks.Owns(tenant, j.Tenant, j.User) {
		return nil, fmt.Errorf("read job %s: %w", id, tasks.ErrNotFound)
	}
	return j, nil
}

func (w *world) Job(_ context.Context, tenant, id string) (tasks.Job, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	j, err := w.find(tenant, id)
	if err != nil {
		return tasks.Job{}, err
	}
	return *j, nil
}

func (w *world) Jobs(_ context.Context, f tasks.Filter) (tasks.Page, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return tasks.Page{}, w.fail
	}
	var page tasks.Page
	for i := len(w.order) - 1; i >= 0; i-- {
		j := w.jobs[w.order[i]]
		if j == nil || !tasks.Owns(f.Tenant, j.Tenant, j.User) || f.After != "" && j.ID >= f.After || f.Status != "" && j.Status != f.Status ||
			f.Model != "" && j.Model != f.Model || f.Batch != "" && j.Batch != f.Batch || f.Pool != "" && j.Pool != f.Pool ||
			j.CreatedAt.Before(f.Since) || !f.Until.IsZero() && !j.CreatedAt.Before(f.Until) || !holds(j.Metadata, f.Metadata) {
			continue
		}
		if len(page.Jobs) == f.Limit {
			page.HasMore, page.Next = true, page.Jobs[f.Limit-1].ID
			break
		}
		listed := *j
		listed.Result = nil
		page.Jobs = append(page.Jobs, listed)
	}
	return page, nil
}

// holds reports whether all pairs are among those of a job.
func holds(all, pairs map[string]string) bool {
	for k, v := range pairs {
		if got, there := all[k]; !there || got != v {
			return false
		}
	}
	return true
}

// next is where a move leads by the table, or ErrConflict when it is not listed.
func next(from tasks.Status, move tasks.Move) (tasks.Status, error) {
	for _, row := range tasks.Transitions {
		if row.From == from && row.Move == move {
			return row.To, nil
		}
	}
	return from, tasks.ErrConflict
}

// move changes a job by a legal move and tells those who watch.
func (w *world) move(j *tasks.Job, m tasks.Move, change func(*tasks.Job)) error {
	to, err := next(j.Status, m)
	if err != nil {
		return err
	}
	next := *j // readers may still hold the old one's slices
	next.Status = to
	next.Version++
	if change != nil {
		change(&next)
	}
	if to.Final() {
		next.FinishedAt = time.Now().UTC()
		next.ExpiresAt = next.FinishedAt.Add(time.Hour)
	}
	w.jobs[j.ID] = &next
	w.tell(j.ID)
	if j.Batch != "" {
		w.tell(j.Batch)
	}
	return nil
}

func (w *world) tell(id string) {
	var last *tasks.Job
	if j := w.jobs[id]; j != nil {
		last = new(*j)
	}
	for _, c := range w.watchers[id] {
		if c.ended != nil && (last == nil || last.Status.Final()) {
			select {
			case <-c.ended:
			default:
			}
			c.ended <- last
		}
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}
}

// watcher watches every change, or, when it has ended, ends alone.
type watcher struct {
	changed chan struct{}
	ended   chan *tasks.Job
}

func (w *world) Cancel(_ context.Context, tenant, id string) (tasks.Job, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	j, err := w.find(tenant, id)
	if err != nil {
		return tasks.Job{}, err
	}
	if j.Status.Final() {
		return tasks.Job{}, tasks.ErrFinal
	}
	err = w.move(j, tasks.MoveCancel, func(j *tasks.Job) {
		j.Error = &tasks.JobError{Code: tasks.CanceledByCaller, Message: "canceled by the caller"}
	})
	return *w.jobs[id], err
}

func (w *world) Edit(_ context.Context, tenant, id string, edit func(*tasks.Job) error) (tasks.Job, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	j, err := w.find(tenant, id)
	if err != nil {
		return tasks.Job{}, err
	}
	if j.Status.Final() || j.Status == tasks.StatusRunning {
		return tasks.Job{}, tasks.ErrConflict
	}
	if err := edit(j); err != nil {
		return tasks.Job{}, err
	}
	j.Version++
	return *j, nil
}

func (w *world) Retry(_ context.Context, tenant, id string, l tasks.Limits) (tasks.Job, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	j, err := w.find(tenant, id)
	if err != nil {
		return tasks.Job{}, err
	}
	if _, err := next(j.Status, tasks.MoveRequeue); err != nil {
		return tasks.Job{}, err
	}
	if err := w.take(tenant, 1, j.Request.Tokens(), j.Bytes, l); err != nil {
		return tasks.Job{}, err
	}
	if err := w.move(j, tasks.MoveRequeue, func(j *tasks.Job) {
		j.Error, j.Attempts, j.FinishedAt, j.ExpiresAt = nil, 0, time.Time{}, time.Time{}
	}); err != nil {
		return tasks.Job{}, err
	}
	return *w.jobs[id], nil
}

// chosen are the jobs of a selection, the newest first.
func (w *world) chosen(sel tasks.Selection) (ids []string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.batches[sel.Batch]; w.fail != nil || sel.Batch != "" && (b == nil || !tasks.Owns(sel.Tenant, b.Tenant, b.User)) {
		return nil, cmp.Or(w.fail, tasks.ErrNotFound)
	}
	for _, id := range slices.Backward(w.order) {
		j := w.jobs[id]
		if j == nil || !tasks.Owns(sel.Tenant, j.Tenant, j.User) || sel.May != nil && !sel.May(j) ||
			sel.IDs != nil && !slices.Contains(sel.IDs, id) || !slices.Contains(sel.Statuses, j.Status) ||
			sel.Batch != "" && !slices.Contains(w.lines[sel.Batch], id) ||
			j.CreatedAt.Before(sel.Since) || !sel.Until.IsZero() && !j.CreatedAt.Before(sel.Until) {
			continue
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (w *world) RetryAll(ctx context.Context, sel tasks.Selection, l tasks.Limits) (m tasks.Moved, err error) {
	ids, err := w.chosen(sel)
	if err != nil {
		return m, err
	}
	for _, id := range ids {
		if _, err := w.Retry(ctx, sel.Tenant, id, l); err != nil {
			m.More = true
			return m, err
		}
		m.Jobs++
	}
	return m, nil
}

func (w *world) CancelAll(ctx context.Context, sel tasks.Selection) (m tasks.Moved, err error) {
	ids, err := w.chosen(sel)
	if err != nil {
		return m, err
	}
	for _, id := range ids {
		if _, err := w.Cancel(ctx, sel.Tenant, id); err != nil {
			return m, err
		}
		m.Jobs++
	}
	return m, nil
}

func (w *world) ReserveKey(_ context.Context, tenant, key, fingerprint, id string) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.keys[tenant+"|"+key]
	switch {
	case k == nil:
		w.keys[tenant+"|"+key] = &keyed{fingerprint: fingerprint, id: id, busy: true}
		return nil, w.fail
	case k.fingerprint != fingerprint:
		return nil, &tasks.ReusedError{ID: k.id}
	case k.answer == nil:
		return nil, tasks.ErrKeyBusy
	}
	return k.answer, nil
}

func (w *world) FreeKey(_ context.Context, tenant, key, _ string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.keys, tenant+"|"+key)
	return nil
}

func (w *world) Delete(_ context.Context, tenant, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	j, err := w.find(tenant, id)
	if err != nil {
		return err
	}
	if !j.Status.Final() {
		return tasks.ErrConflict
	}
	delete(w.jobs, id)
	w.tell(id)
	return nil
}

func (w *world) OpenBatch(_ context.Context, id, tenant, key string) (tasks.Batch, *tasks.PriorBatch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return tasks.Batch{}, nil, w.fail
	}
	if b := w.batches[id]; b != nil {
		return tasks.Batch{}, &tasks.PriorBatch{ID: id, Lines: int64(len(w.lines[id]))}, nil
	}
	name := tenant + "|" + key
	if key != "" {
		if k := w.keys[name]; k != nil {
			if k.busy {
				return tasks.Batch{}, nil, tasks.ErrKeyBusy
			}
			return tasks.Batch{}, &tasks.PriorBatch{ID: k.id, Fingerprint: k.fingerprint, Answer: k.answer}, nil
		}
		w.keys[name] = &keyed{id: id, busy: true}
		w.batchKey[id] = name
	}
	b := &tasks.Batch{ID: id, Status: tasks.BatchInProgress, CreatedAt: time.Now().UTC()}
	b.Tenant, b.User = tasks.SplitOwner(tenant)
	w.staged[id] = []tasks.Job{}
	w.batches[id] = b
	return *b, nil, nil
}

func (*world) Unload(context.Context, ...*tasks.Job) error { return nil }

func (*world) Drop([]tasks.Job) {}

func (w *world) StageBatch(_ context.Context, id string, jobs []tasks.Job, l tasks.Limits) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(jobs) > 200 {
		return fmt.Errorf("a chunk of %d jobs", len(jobs))
	}
	if w.fail != nil {
		return w.fail
	}
	staged, bytes := append(w.staged[id], jobs...), int64(0)
	for i := range staged {
		bytes += staged[i].Bytes
	}
	if err := w.take(w.batches[id].Tenant, 0, 0, bytes, tasks.Limits{QueuedBytes: l.QueuedBytes}); err != nil {
		return err
	}
	w.staged[id] = staged
	return nil
}

func (w *world) CommitBatch(_ context.Context, id string, c tasks.BatchCommit) (tasks.Batch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return tasks.Batch{}, w.fail
	}
	tokens := int64(0)
	for _, j := range w.staged[id] {
		tokens += j.Reserved
	}
	if err := w.take(w.batches[id].Tenant, int64(len(w.staged[id])), tokens, 0, c.Limits); err != nil {
		return tasks.Batch{}, err
	}
	for _, j := range w.staged[id] {
		w.put(j)
		w.lines[id] = append(w.lines[id], j.ID)
	}
	delete(w.staged, id)
	if name := w.batchKey[id]; name != "" {
		k := w.keys[name]
		k.busy, k.fingerprint = false, c.Fingerprint
	}
	return w.count(id), nil
}

func (w *world) AbortBatch(_ context.Context, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.staged, id)
	delete(w.batches, id)
	if name := w.batchKey[id]; name != "" {
		delete(w.keys, name)
	}
	return nil
}

func (w *world) count(id string) tasks.Batch {
	b := *w.batches[id]
	b.Counts = tasks.Counts{}
	for _, line := range w.lines[id] {
		j := w.jobs[line]
		if j == nil {
			continue
		}
		b.Counts.Total++
		switch j.Status {
		case tasks.StatusRunning:
			b.Counts.Running++
		case tasks.StatusSucceeded:
			b.Counts.Succeeded++
		case tasks.StatusFailed:
			b.Counts.Failed++
		case tasks.StatusCanceled:
			b.Counts.Canceled++
		case tasks.StatusExpired:
			b.Counts.Expired++
		default:
			b.Counts.Queued++
		}
	}
	if b.Counts.Queued+b.Counts.Running == 0 {
		b.Status, b.EndedAt = tasks.BatchEnded, time.Now().UTC().Truncate(time.Hour)
	}
	return b
}

func (w *world) Batch(_ context.Context, tenant, id string) (tasks.Batch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return tasks.Batch{}, w.fail
	}
	if b := w.batches[id]; b == nil || !tasks.Owns(tenant, b.Tenant, b.User) || w.staged[id] != nil {
		return tasks.Batch{}, tasks.ErrNotFound
	}
	return w.count(id), nil
}

func (w *world) Batches(_ context.Context, f tasks.BatchFilter) (page tasks.BatchPage, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return page, w.fail
	}
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(w.batches))) {
		if b := w.batches[id]; !tasks.Owns(f.Tenant, b.Tenant, b.User) || w.staged[id] != nil || f.After != "" && id >= f.After {
			continue
		}
		b := w.count(id)
		if f.Status != "" && b.Status != f.Status || b.CreatedAt.Before(f.Since) || !f.Until.IsZero() && !b.CreatedAt.Before(f.Until) {
			continue
		}
		if len(page.Batches) == f.Limit {
			page.HasMore, page.Next = true, page.Batches[f.Limit-1].ID
			break
		}
		page.Batches = append(page.Batches, b)
	}
	return page, nil
}

func (w *world) BatchJobs(_ context.Context, _, id string, from, limit int) (jobs []tasks.Job, more bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return nil, false, w.fail
	}
	lines := w.lines[id]
	for _, line := range lines[min(from, len(lines)):min(from+limit, len(lines))] {
		if j := w.jobs[line]; j != nil {
			jobs = append(jobs, *j)
		}
	}
	return jobs, from+limit < len(lines), nil
}

// BatchResults gives 32 lines at a time.
func (w *world) BatchResults(ctx context.Context, tenant, id string, from int) (jobs []tasks.Job, next int, err error) {
	const lines = 32
	jobs, more, err := w.BatchJobs(ctx, tenant, id, from, lines)
	if more {
		next = from + lines
	}
	return slices.DeleteFunc(jobs, func(j tasks.Job) bool { return !j.Status.Final() }), next, err
}

func (w *world) CancelBatch(_ context.Context, tenant, id string) (tasks.Batch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.batches[id]; b == nil || !tasks.Owns(tenant, b.Tenant, b.User) {
		return tasks.Batch{}, tasks.ErrNotFound
	}
	if w.count(id).Status == tasks.BatchEnded {
		return tasks.Batch{}, tasks.ErrFinal
	}
	for _, line := range w.lines[id] {
		if j := w.jobs[line]; !j.Status.Final() {
			if err := w.move(j, tasks.MoveCancel, nil); err != nil {
				return tasks.Batch{}, err
			}
		}
	}
	return w.count(id), nil
}

// DeleteBatch is asked by a provider's form alone, which has tests of its own.
func (*world) DeleteBatch(context.Context, string, string) error { return tasks.ErrNotFound }

func (w *world) Watch(_ context.Context, id string) (changed <-chan struct{}, stop func(), err error) {
	c := watcher{changed: make(chan struct{}, 1)}
	stop, err = w.watch(id, c)
	return c.changed, stop, err
}

func (w *world) WatchEnd(_ context.Context, id string) (ended <-chan *tasks.Job, stop func(), err error) {
	c := watcher{ended: make(chan *tasks.Job, 1)}
	stop, err = w.watch(id, c)
	return c.ended, stop, err
}

func (w *world) watch(id string, c watcher) (stop func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return nil, w.fail
	}
	w.watchers[id] = append(w.watchers[id], c)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.watchers[id] = slices.DeleteFunc(w.watchers[id], func(other watcher) bool { return other == c })
	}, nil
}

// watched is how many requests are held on an object.
func (w *world) watched(id string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.watchers[id])
}

func (w *world) Partial(_ context.Context, id string, attempt, offset int) (tasks.Partial, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.partial[id]
	if p.Attempt == attempt {
		if offset > len(p.Text) {
			offset = len(p.Text)
		}
		p.Offset, p.Text = offset, p.Text[offset:]
	}
	return p, nil
}

func (w *world) Listen(_ context.Context, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listened[id]++
	return nil
}

// The worker's part.

func (w *world) start(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	must(w.move(w.jobs[id], tasks.MoveStart, func(j *tasks.Job) {
		j.Attempts++
		j.Provider, j.StartedAt = "fake", time.Now().UTC()
		j.Log = append(slices.Clip(j.Log), tasks.Attempt{N: len(j.Log) + 1, StartedAt: j.StartedAt, Outcome: tasks.Running})
	}))
}

func (w *world) produce(id, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.partial[id]
	if n := len(w.jobs[id].Log); p.Attempt != n {
		p = tasks.Partial{Attempt: n}
	}
	p.Text += text
	w.partial[id] = p
}

func (w *world) again(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	must(w.move(w.jobs[id], tasks.MoveRetry, func(j *tasks.Job) {
		j.Log = slices.Clone(j.Log)
		last := &j.Log[len(j.Log)-1]
		last.EndedAt, last.Outcome, last.Status, last.MaybeBilled = time.Now().UTC(), tasks.CutOff, 200, true
	}))
}

func answerBody(text string) []byte {
	quoted, err := json.Marshal(text)
	must(err)
	// White space, odd numbers and escapes that a re-encoder would change.
	return fmt.Appendf(nil, "{ \"id\":\"msg_1\",\n  \"n\": 1.50e+2, \"u\":\"\\u003c\\/\", \"content\":[{\"type\":\"text\",\"text\":%s}] }", quoted)
}

func (w *world) succeed(id, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	must(w.move(w.jobs[id], tasks.MoveSucceed, func(j *tasks.Job) {
		j.Result, j.Finish = answerBody(text), tasks.FinishLength
		j.Usage = &tasks.Usage{InputTokens: 3, OutputTokens: 4}
		j.Log = slices.Clone(j.Log)
		last := &j.Log[len(j.Log)-1]
		last.EndedAt, last.Outcome, last.Status, last.RequestID = time.Now().UTC(), tasks.Succeeded, 200, "req_up"
	}))
}

func (w *world) refuse(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	must(w.move(w.jobs[id], tasks.MoveFail, func(j *tasks.Job) {
		j.Error = &tasks.JobError{Code: tasks.UpstreamRejected, Message: "refused", UpstreamStatus: 400}
	}))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// The pools.

func (*world) Provider(pool string) string {
	if pool == "claude" || pool == "gpt" {
		return "fake"
	}
	return ""
}

func (w *world) Match(model string) (string, bool) {
	switch {
	case len(model) >= 6 && model[:6] == "claude":
		return "claude", true
	case len(model) >= 3 && model[:3] == "gpt":
		return "gpt", true
	}
	return "", false
}

func (w *world) MatchIn(dialect, model string) (string, bool) {
	pool, ok := w.Match(model)
	return pool, ok && (pool == "claude") == (dialect == "anthropic")
}

func (w *world) PoolsIn(dialect string) []string {
	return map[string][]string{"anthropic": {"claude"}, "openai": {"gpt"}}[dialect]
}
func (w *world) Models(context.Context, string) []tasks.Model { return []tasks.Model{{ID: "gpt-1"}} }

func (w *world) Barred(context.Context, string) tasks.Outcome { return "" }

func (w *world) Timeline(ctx context.Context, tenant, id string) ([]tasks.Span, error) {
	j, err := w.Job(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	from := j.CreatedAt
	return []tasks.Span{
		{From: from, To: from.Add(1500 * time.Millisecond), What: tasks.SpanWaiting, For: tasks.WaitNoWorker, Detail: "none"},
		{From: from.Add(1500 * time.Millisecond), To: from.Add(2 * time.Second), What: tasks.SpanHandover},
	}, nil
}

// Adopt lends fallback models to jobs for one model.
func (w *world) Adopt(j *tasks.Job) {
	if j.Model == "claude-lent" && j.Fallback == nil {
		j.Fallback = []string{"claude-y", "gpt-x"}
	}
}

func (w *world) InputLimit(context.Context, string) int64 { return w.inputLimit }

func (w *world) Served() []string { return []string{"claude*", "gpt*"} }

func (w *world) Status(context.Context) ([]tasks.PoolStatus, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return nil, w.fail
	}
	pools := []tasks.PoolStatus{
		{Name: "claude", State: tasks.PoolOpen, Allowance: []tasks.Allowance{{Dimension: tasks.WaitRequests, Limit: 1000, Used: 0.25}, {Dimension: tasks.WaitConcurrency, Limit: 64, Used: 1.2}}},
		{Name: "gpt", State: tasks.PoolOpen, Mishaps: tasks.Mishaps{
			Calls: []tasks.Mishap{{Cause: "rate_limited", Count: 3, Last: "job_1"}, {Cause: "ramp_limited", Count: 2}, {Cause: "timeout", Count: 1}}, Jobs: []tasks.Mishap{{Cause: "upstream_rejected", Count: 4}},
		}},
	}
	for i := range pools {
		if reason, ok := w.paused[pools[i].Name]; ok {
			pools[i].State, pools[i].Reason, pools[i].PausedBy = tasks.PoolPaused, reason, "operator"
			pools[i].ExpectedResumeAt = w.until
			pools[i].Since = time.Now()
		}
	}
	return pools, nil
}

func (w *world) Shares(_ context.Context, pool string) (tasks.Shares, error) {
	if w.Provider(pool) == "" {
		return tasks.Shares{}, tasks.ErrNotFound
	}
	return tasks.Shares{
		Tenants: []tasks.TenantShare{{Tenant: "acme", Weight: 3, Minute: 42.5, Hour: 2000.0004, Share: 0.75, Queued: 12, Running: 2, Lag: -1.25}, {Tenant: "zoe", Weight: 1}},
		Others:  2, OthersHour: 3, Minute: 0.98765,
	}, nil
}

func (w *world) Accounts(_ context.Context, pool string) ([]tasks.PoolAccount, error) {
	if w.Provider(pool) == "" {
		return nil, tasks.ErrNotFound
	}
	return []tasks.PoolAccount{
		{Name: "eu", Provider: "anthropic-eu", State: tasks.PoolPaused, Reason: "unauthorized", Detail: "d", Weight: 2, Shared: "org", Wait: -1, Calls: 3, Success: 2.0 / 3, Egress: "http://proxy-1:3128"},
		{Name: "us", Provider: "anthropic", State: tasks.PoolOpen, Weight: 1, Wait: 1500 * time.Millisecond, Allowance: []tasks.Allowance{{Dimension: tasks.WaitRequests, Limit: 60, Used: 0.25}}},
	}, nil
}

func (w *world) Waiting(_ context.Context, j tasks.Job) (tasks.Waiting, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, paused := w.paused[j.Pool]; paused {
		return tasks.Waiting{For: tasks.WaitPaused, Position: 1, AsOf: time.Now(), Degraded: true}, nil
	}
	if j.Status == tasks.StatusScheduled {
		return tasks.Waiting{For: tasks.WaitNotBefore, EstimatedStart: j.NotBefore, EstimatedStart90: j.NotBefore, AsOf: time.Now()}, nil
	}
	start := time.Now().Add(time.Hour).Truncate(time.Hour)
	return tasks.Waiting{For: tasks.WaitRequests, Position: 12, EstimatedStart: start, EstimatedStart90: start.Add(time.Hour), AsOf: time.Now()}, nil
}

func (w *world) Estimate(context.Context, string, string, tasks.Priority) (time.Duration, error) {
	return 1500*time.Millisecond + time.Duration(w.delay.Load()), nil
}

func (w *world) Outlook(context.Context, string, string, tasks.Priority) (tasks.Outlook, error) {
	delay := 500*time.Millisecond + time.Duration(w.delay.Load())
	return tasks.Outlook{Takes: time.Second, Start: func(int64) tasks.Start {
		return tasks.Start{Told: delay, Late: delay, Known: delay < 6*time.Second || delay > time.Minute}
	}}, nil
}

func (w *world) Audit(_ context.Context, pool string, n int) ([]tasks.PoolAct, error) {
	if pool != "claude" && pool != "gpt" {
		return nil, tasks.ErrNotFound
	}
	acts := []tasks.PoolAct{
		{At: time.Unix(1_900_000_060, 0), Action: "resume", By: "bob"},
		{At: time.Unix(1_900_000_000, 0), Action: "pause", By: "ann", Reason: "key rotation", Until: time.Unix(1_900_000_060, 0)},
	}
	return acts[:min(n, len(acts))], nil
}

func (w *world) Pause(_ context.Context, pool, reason, by string, until time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if pool != "claude" && pool != "gpt" {
		return tasks.ErrNotFound
	}
	if by == "" {
		return fmt.Errorf("nobody pauses %s", pool)
	}
	w.paused[pool], w.until = reason, until
	for _, j := range w.jobs {
		w.tell(j.ID)
	}
	return nil
}

func (w *world) Resume(_ context.Context, pool, _ string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if pool != "claude" && pool != "gpt" {
		return tasks.ErrNotFound
	}
	delete(w.paused, pool)
	return nil
}

// Admit is an allowance that never comes back.
func (w *world) Admit(_ context.Context, _ string, submits int64) (quota.Grant, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := quota.Grant{Limits: tasks.Limits{QueuedJobs: w.limits.QueuedJobs, QueuedBytes: w.limits.QueuedBytes, TokensPerDay: w.limits.TokensPerDay}}
	if most := w.limits.SubmitsPerMinute; most > 0 {
		if w.admitted+submits > most {
			return g, &tasks.QuotaError{Quota: quota.SubmitsPerMinute, Limit: most, Window: time.Minute, RetryAfter: 11500 * time.Millisecond}
		}
		w.admitted += submits
		g.Windows = []quota.Window{{Name: quota.SubmitsPerMinute, Limit: most, Remaining: most - w.admitted, Span: time.Minute, Reset: time.Second}}
	}
	return g, nil
}

func (w *world) Refund(context.Context, string, quota.Grant) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.admitted--
	w.refunded++
	return nil
}

// Verify knows tokens of the form "tenant:scope,scope", and "tenant/user:scope" of a user
// that sees only what is its own.
func (w *world) Verify(_ context.Context, raw string) (auth.Claims, error) {
	switch raw {
	case "keys-gone":
		return auth.Claims{}, fmt.Errorf("%w: %w", auth.ErrInvalid, auth.ErrUnavailable)
	case "panic":
		panic("a secret prompt")
	}
	for i := range raw {
		if raw[i] == ':' {
			c := auth.Claims{Subject: "somebody", ID: "1"}
			if c.Tenant, c.User = tasks.SplitOwner(raw[:i]); c.User != "" {
				c.Subject = c.User
			}
			for _, scope := range bytes.Split([]byte(raw[i+1:]), []byte(",")) {
				c.Scopes = append(c.Scopes, string(scope))
			}
			return c, nil
		}
	}
	return auth.Claims{}, auth.ErrInvalid
}
