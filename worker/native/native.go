// Package native moves jobs that have time through the batch API of their provider, at
// its price for that: it gathers them into bundles, has the provider make a batch of each, looks
// sparsely how that stands, records what it brings, and gives back to the ordinary lane what it
// will not bring in time.
//
// It promises that a job ends once, whatever dies and whatever answer is lost: a bundle is a
// record in Redis that any worker goes on with, a line is known by its job and that
// job's fence, and a batch is looked for at the provider before it is made again. A batch only ever
// brings whole answers: all else is settled in the ordinary lane, uncounted, and listed as perhaps
// paid for unless the provider says that it was not.
//
// It takes nothing of a pool's allowance, never shortens what a deadline needs in the ordinary lane, and
// logs no content.
package native

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream"
)

// Rules say which jobs go into bundles, and when a bundle goes where.
type Rules struct {
	Closed      bool          // none goes into one any more: what is under way is gone on with
	MinRoom     time.Duration // from a job's turn to its deadline, at least; MaxAge less is taken for as much
	MaxJobs     int64         // of a bundle
	MaxBytes    int64         // of its lines
	MaxAge      time.Duration // how long it is gathered
	Poll        time.Duration // between looks at a batch, at first; of an older one a quarter of its age, up to five times this
	SpillBefore time.Duration // how long before its deadline a job is back in the ordinary lane
}

// window is the time that providers give a batch, and so who has no deadline.
const window = 24 * time.Hour

// Records is the durable record of bundles and of their members.
type Records interface {
	ClaimBundle(ctx context.Context, pool string, lease time.Duration) (b tasks.Bundle, wait time.Duration, err error)
	SaveBundle(ctx context.Context, b tasks.Bundle, next time.Duration) error
	DropBundle(ctx context.Context, b tasks.Bundle) error
	InBundle(ctx context.Context, members []tasks.Ticket) ([]tasks.Ticket, error)
	Bundled(ctx context.Context, t tasks.Ticket) (tasks.Job, error)
	End(ctx context.Context, t tasks.Ticket, e tasks.Ending) ([]tasks.Ticket, error)
}

// API is a provider's batches; *upstream.Caller is one.
type API interface {
	BatchLine(id, owner string, q upstream.Question) ([]byte, error)
	CreateBatch(ctx context.Context, r *tasks.Request, name, file string, lines [][]byte, fileMade func(id string) error) (upstream.Batch, upstream.Answer)
	ReadBatch(ctx context.Context, id string) (upstream.Batch, upstream.Answer)
	CancelBatch(ctx context.Context, id string) (upstream.Batch, upstream.Answer)
	RecentBatches(ctx context.Context, since time.Time) ([]upstream.Batch, upstream.Answer)
	BatchResults(ctx context.Context, b upstream.Batch, e tasks.Path, each func(upstream.LineResult) error) upstream.Answer
	ForgetBatch(ctx context.Context, b upstream.Batch)
}

// Account is one of a pool's accounts.
type Account struct {
	Name, Provider string
	API            API
	Open           func() bool // calls are made of it now
}

// Config says what a Lane works with.
type Config struct {
	Pool     string
	Rules    Rules
	Dialect  upstream.Dialect
	Records  Records
	Accounts []Account
	Prices   tasks.Prices
	// Ended is told of each line that is recorded, and of what else there is room for now.
	Ended func(ctx context.Context, t tasks.Ticket, e tasks.Ending, next []tasks.Ticket)
	// Over is told of each bundle with which this process is done; nil: nobody is.
	Over func(Outcome)
	Now  func() time.Time // of Redis
	Log  *slog.Logger
}

// Outcome is how a bundle was done with.
type Outcome string

// The outcomes. Of all but Read no answer came.
const (
	Read    Outcome = "read"    // its batch ended, and what it brought is recorded
	Late    Outcome = "late"    // its batch did not end in time, or there was no time for one
	Refused Outcome = "refused" // the provider takes no batch of it, or failed it as a whole
	Unknown Outcome = "unknown" // whether its batch was made, or how it stands, is not known
	Empty   Outcome = "empty"   // all of its jobs have left it
)

// Outcomes are all of them.
func Outcomes() []Outcome { return []Outcome{Read, Late, Refused, Unknown, Empty} }

// Lane is a pool's way through batches.
type Lane struct{ Config }

// New returns a Lane.
func New(c Config) *Lane {
	return &Lane{c}
}

// lease is how long a worker has a bundle to itself, unless it says that it still works on it.
func (l *Lane) lease() time.Duration { return l.Rules.SpillBefore / 15 }

// callWithin is how long a call about a batch may take: another worker is to take the
// bundle up only when it is over.
func (l *Lane) callWithin() time.Duration { return l.lease() / 2 }

// last is when a bundle's members are given back whatever its batch does.
func (l *Lane) last(b *tasks.Bundle) time.Time { return b.Spill.Add(l.Rules.SpillBefore / 2) }

// Joins says what a job needs to go into a bundle; false: it is called for in the ordinary lane. One
// that has been in a bundle goes into no other.
func (l *Lane) Joins(j *tasks.Job) (in tasks.Joining, ok bool) {
	now := l.Now()
	until := now.Add(window)
	if !j.Deadline.IsZero() && j.Deadline.Before(until) {
		until = j.Deadline
	}
	left := until.Sub(now)
	// A deadline of just that room has a little less of it when the job has its turn.
	least := max(l.Rules.MinRoom-l.Rules.MaxAge, (l.Rules.MinRoom+l.Rules.SpillBefore)/2)
	switch {
	case l.Rules.Closed, j.Bundle != "" || j.Losses > 0 || j.Attempts > 0 || j.Request.Stream,
		j.Deadline.IsZero() && !j.Request.Patient, left < least:
		return in, false
	}
	bytes := int64(len(j.Request.Body)) + 512
	if bytes > l.Rules.MaxBytes {
		return in, false
	}
	account := l.Accounts[0].Name
	for _, a := range l.Accounts {
		if a.Open() {
			account = a.Name
			break
		}
	}
	// Those of a bundle have like time, so that the nearest deadline does not end much of the others'.
	like := min(bits.Len64(uint64(left/least)), 5)
	r := &j.Request
	kind := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %q %q %d", account, j.Asks(), r.Endpoint, r.Version, r.Beta, r.OpenAI, like))
	spill := until.Add(-l.Rules.SpillBefore)
	return tasks.Joining{
		Kind: hex.EncodeToString(kind[:8]), Account: account, Model: j.Asks(), Endpoint: r.Endpoint, Bytes: bytes, Spill: spill,
		Lease: spill.Sub(now) + l.Rules.SpillBefore*3/4, MostJobs: l.Rules.MaxJobs, MostBytes: l.Rules.MaxBytes, MostAge: l.Rules.MaxAge,
	}, true
}

// atOnce is how many bundles of a pool a process works on.
const atOnce = 4

// Run works on the pool's bundles until ctx ends. What is under way then, another worker goes on with. Where
// no job goes into one any more, it looks for none after the last.
func (l *Lane) Run(ctx context.Context) error {
	work := errgroup.Group{}
	room := make(chan struct{}, atOnce)
	for ctx.Err() == nil {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return work.Wait()
		}
		b, wait, err := l.Records.ClaimBundle(ctx, l.Pool, l.lease())
		if err == nil && b.ID != "" {
			work.Go(func() error {
				defer func() { <-room }()
				l.work(ctx, &b)
				return nil
			})
			continue
		}
		<-room
		if err != nil && ctx.Err() == nil {
			l.Log.Warn("no bundle can be taken up", "pool", l.Pool, "error", err)
		}
		if err == nil && wait < 0 && l.Rules.Closed {
			<-ctx.Done()
			break
		}
		if wait <= 0 || wait > time.Second {
			wait = time.Second
		}
		idle(ctx, wait)
	}
	return work.Wait()
}

// idle waits, or until ctx ends.
func idle(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// done is what a step returns of a bundle of which nothing is left to do.
const done = time.Duration(-1)

// work takes one step with a bundle.
func (l *Lane) work(ctx context.Context, b *tasks.Bundle) {
	h := &hold{Lane: l, b: b, saved: time.Now()}
	next, err := h.step(ctx)
	switch {
	case err != nil:
	case next == done && h.unwritten != nil:
		l.Log.Warn("what came of a job in a bundle cannot be recorded yet", "pool", l.Pool, "bundle", b.ID, "error", h.unwritten)
		err = l.Records.SaveBundle(ctx, *b, max(l.lease(), h.until(5*l.Rules.Poll)))
	case next == done:
		if err = l.Records.DropBundle(ctx, *b); err == nil && l.Over != nil {
			l.Over(cmp.Or(h.outcome, Empty))
		}
	default:
		err = l.Records.SaveBundle(ctx, *b, next)
	}
	if err != nil && ctx.Err() == nil {
		l.Log.Warn("a bundle waits for its next worker", "pool", l.Pool, "bundle", b.ID, "state", string(b.State), "error", err)
	}
}

// hold is a bundle that this process works on.
type hold struct {
	*Lane
	b     *tasks.Bundle
	saved time.Time // when its lease last began

	twice     bool    // what its batch has may have been paid for in another of it as well
	outcome   Outcome // once it is done with; "": nothing was left to do
	unwritten error   // of a member whose end could not be recorded; nil: there was none
	inARow    int     // such members, the last ones
}

// patience is how many members in a row may fail to be recorded until the record is taken to be away: what is
// wrong with one of them holds up none of the others.
const patience = 3

// save notes how far the bundle has come, and begins its lease anew.
func (h *hold) save(ctx context.Context) error {
	began := time.Now()
	err := h.Records.SaveBundle(ctx, *h.b, h.lease())
	if err == nil {
		h.saved = began
	}
	return err
}

// keep begins the lease anew in time.
func (h *hold) keep(ctx context.Context) error {
	if time.Since(h.saved) < h.lease()/4 {
		return nil
	}
	return h.save(ctx)
}

// step does what the bundle's state asks for, and says when it is due again.
func (h *hold) step(ctx context.Context) (time.Duration, error) {
	in, err := h.Records.InBundle(ctx, h.b.Members)
	if err != nil {
		return 0, err
	}
	account := h.account()
	switch {
	case account == nil:
		return done, h.spillAll(ctx, in, Unknown, h.b.State != tasks.BundleClosed, "its account is configured no more")
	case h.b.State == tasks.BundleClosed && len(in) == 0:
		return done, nil
	case h.b.State == tasks.BundleClosed:
		return h.send(ctx, account, in)
	case h.b.State == tasks.BundleSending:
		return h.find(ctx, account, in)
	}
	return h.look(ctx, account, in)
}

func (h *hold) account() *Account {
	for i := range h.Accounts {
		if h.Accounts[i].Name == h.b.Account {
			return &h.Accounts[i]
		}
	}
	return nil
}

// lineID is a member's name in a batch. That of a fence before is nobody's.
func lineID(t tasks.Ticket) string { return t.ID + "-" + strconv.FormatInt(t.Fence, 10) }

// call is a context for one call about a batch.
func (h *hold) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, h.callWithin())
}

// until is when to look again: in d, but not after the bundle's time is over.
func (h *hold) until(d time.Duration) time.Duration {
	if left := h.b.Spill.Sub(h.Now()); left > 0 {
		return min(d, left)
	}
	if left := h.last(h.b).Sub(h.Now()); left > 0 {
		return min(d, left, max(h.lease()/2, time.Millisecond))
	}
	return 0
}

// send has the provider make a batch of those that are still in the bundle.
func (h *hold) send(ctx context.Context, account *Account, in []tasks.Ticket) (time.Duration, error) {
	if !h.Now().Before(h.b.Spill) {
		return done, h.spillAll(ctx, in, Late, false, "there was no time left for a batch")
	}
	if !account.Open() {
		return h.until(h.Rules.Poll), nil
	}
	lines, head, err := h.lines(ctx, account, in)
	if err != nil || len(lines) == 0 {
		return done, err
	}
	h.b.State, h.b.SentAt, h.b.Lines, h.b.Sends = tasks.BundleSending, h.Now(), len(lines), h.b.Sends+1
	if err := h.save(ctx); err != nil {
		return 0, err
	}
	within, cancel := h.call(ctx)
	defer cancel()
	made, a := account.API.CreateBatch(within, head, h.b.ID, h.b.File, lines, func(id string) error {
		h.b.File = id
		return h.save(ctx)
	})
	switch {
	case a.Outcome == tasks.Succeeded:
		h.b.State, h.b.Batch = tasks.BundleSent, made.ID
		h.Log.Info("a batch was made at the provider", "pool", h.Pool, "bundle", h.b.ID, "batch", made.ID, "jobs", len(lines))
		return h.until(h.Rules.Poll), nil
	case a.MaybeBilled:
		h.Log.Warn("whether a batch was made is not known; it is looked for", "pool", h.Pool, "bundle", h.b.ID, "upstream_status", a.Status, "outcome", string(a.Outcome))
		return h.until(h.Rules.Poll), nil
	}
	h.b.State = tasks.BundleClosed
	h.Log.Warn("no batch was made", "pool", h.Pool, "bundle", h.b.ID, "upstream_status", a.Status, "outcome", string(a.Outcome))
	if a.Outcome == tasks.Rejected {
		return done, h.spillAll(ctx, in, Refused, false, "the provider takes no batch of it")
	}
	return h.until(max(a.RetryAfter, h.Rules.Poll)), nil
}

// lines are those of the members. One that can be none goes to the ordinary lane, where it is told why.
func (h *hold) lines(ctx context.Context, account *Account, in []tasks.Ticket) (lines [][]byte, head *tasks.Request, err error) {
	for _, t := range in {
		j, err := h.Records.Bundled(ctx, t)
		var line []byte
		switch {
		case errors.Is(err, tasks.ErrLost):
			continue
		case unreadable(err):
		case err != nil:
			return nil, nil, err
		default:
			line, err = account.API.BatchLine(lineID(t), j.Owner(), upstream.Read(j.Asks(), j.Request))
		}
		if err != nil {
			if err := h.spill(ctx, t, upstream.Answer{Message: "it cannot be a line of a batch"}); err != nil {
				return nil, nil, err
			}
			continue
		}
		if head == nil {
			r := j.Request
			r.Body = nil
			head = &r
		}
		lines = append(lines, line)
		if err := h.keep(ctx); err != nil {
			return nil, nil, err
		}
	}
	return lines, head, nil
}

// fresh is for how many polls a batch may be made and not be shown.
const fresh = 10

// known reports whether the provider shows a batch under the name that it was made with.
func (h *hold) known() bool { return h.Dialect == upstream.OpenAI }

// skew is by how much a provider's clock may be behind ours.
const skew = time.Minute

// find looks for the batch of a bundle of which nobody knows whether it was made. One that names its
// batches shows it; else each that was made at that time and has as many lines is asked for its
// results once it has ended, and what is ours in them is recorded.
func (h *hold) find(ctx context.Context, account *Account, in []tasks.Ticket) (time.Duration, error) {
	over := h.over()
	within, cancel := h.call(ctx)
	defer cancel()
	list, a := account.API.RecentBatches(within, h.b.GatheredAt.Add(-skew))
	if a.Outcome != tasks.Succeeded {
		if over {
			return done, h.spillAll(ctx, in, Unknown, true, "whether its batch was made is not known")
		}
		return h.until(h.Rules.Poll), nil
	}
	var ours []upstream.Batch
	for _, b := range list {
		if h.ours(&b) {
			ours = append(ours, b)
		}
	}
	switch {
	case len(ours) == 0 && h.Now().Sub(h.b.SentAt) < fresh*h.Rules.Poll && !over:
		return h.until(h.Rules.Poll), nil // a fresh one may not be shown yet
	case len(ours) == 0:
		h.b.State = tasks.BundleClosed
		return 0, nil
	case h.known():
		for _, twin := range ours[1:] {
			account.API.CancelBatch(within, twin.ID)
		}
		h.b.State, h.b.Batch = tasks.BundleSent, ours[0].ID
		return 0, nil
	}
	return h.try(ctx, account, in, ours, over)
}

// ours reports whether a batch that was made since the bundle was gathered may be of it.
func (h *hold) ours(b *upstream.Batch) bool {
	if h.known() {
		return b.Name == h.b.ID || b.File != "" && b.File == h.b.File
	}
	return b.Lines == h.b.Lines && b.CreatedAt.Before(h.b.SentAt.Add(h.lease()+skew))
}

// twin reports whether the provider may have another batch of the bundle.
func (h *hold) twin(ctx context.Context, account *Account, got *upstream.Batch) bool {
	if h.b.Sends < 2 {
		return false
	}
	if got.CreatedAt.Before(h.b.SentAt.Add(-skew)) && h.Now().Sub(h.b.SentAt) < fresh*h.Rules.Poll {
		return true // the later one may not be shown yet
	}
	within, cancel := h.call(ctx)
	defer cancel()
	list, a := account.API.RecentBatches(within, h.b.GatheredAt.Add(-skew))
	if a.Outcome != tasks.Succeeded {
		return true
	}
	for _, b := range list {
		if b.ID == got.ID || !h.ours(&b) {
			continue
		}
		if h.known() || !b.Ended {
			return true
		}
		if _, mine, whole, err := h.record(ctx, account, nil, b); mine || !whole || err != nil {
			return true
		}
	}
	return false
}

// try reads the results of batches that may be the bundle's.
func (h *hold) try(ctx context.Context, account *Account, in []tasks.Ticket, ours []upstream.Batch, over bool) (time.Duration, error) {
	ended := true
	h.twice = h.b.Sends > 1
	for _, b := range ours {
		if !b.Ended {
			ended = false
			continue
		}
		left, mine, whole, err := h.record(ctx, account, in, b)
		switch {
		case err != nil:
			return 0, err
		case mine && whole:
			h.forget(ctx, account, b)
			return done, h.spillAll(ctx, left, Read, true, "its batch has no line of it")
		}
		in, ended = left, ended && whole
	}
	switch {
	case over:
		return done, h.spillAll(ctx, in, Unknown, true, "whether its batch was made is not known")
	case ended:
		h.b.State = tasks.BundleClosed // none of them is its
		return 0, nil
	}
	return h.until(h.Rules.Poll), nil
}

// look looks how a batch stands.
func (h *hold) look(ctx context.Context, account *Account, in []tasks.Ticket) (time.Duration, error) {
	within, cancel := h.call(ctx)
	defer cancel()
	got, a := account.API.ReadBatch(within, h.b.Batch)
	age, over := h.Now().Sub(h.b.SentAt), h.over()
	poll := h.until(min(max(age/4, h.Rules.Poll), 5*h.Rules.Poll))
	switch {
	case a.Outcome != tasks.Succeeded && (over || a.Status == 404 && age > fresh*h.Rules.Poll):
		account.API.CancelBatch(within, h.b.Batch) // should it be there after all
		return done, h.spillAll(ctx, in, Unknown, true, "its batch cannot be read")
	case a.Outcome != tasks.Succeeded:
		return poll, nil // a fresh one may not be found yet
	case got.Ended:
		return h.ended(ctx, account, in, got)
	case over:
		account.API.CancelBatch(within, h.b.Batch)
		return done, h.spillAll(ctx, in, Late, true, "its batch did not end in time")
	case (len(in) == 0 || !h.Now().Before(h.b.Spill)) && h.b.State == tasks.BundleSent:
		if _, a := account.API.CancelBatch(within, h.b.Batch); a.Outcome == tasks.Succeeded {
			h.b.State = tasks.BundleCanceling
		}
		return h.until(h.Rules.Poll), nil
	}
	return poll, nil
}

// over reports whether the members are given back whatever the batch does.
func (h *hold) over() bool { return !h.Now().Before(h.last(h.b)) }

// ended records what a batch has brought that has ended, and gives back the rest.
func (h *hold) ended(ctx context.Context, account *Account, in []tasks.Ticket, got upstream.Batch) (time.Duration, error) {
	if got.Failed {
		h.forget(ctx, account, got)
		h.Log.Warn("the provider failed a batch as a whole", "pool", h.Pool, "bundle", h.b.ID, "batch", h.b.Batch)
		return done, h.spillAll(ctx, in, Refused, false, "the provider failed its batch as a whole")
	}
	h.twice = h.twin(ctx, account, &got)
	left, _, whole, err := h.record(ctx, account, in, got)
	switch {
	case err != nil:
		return 0, err
	case !whole && !h.over(), len(left) > 0 && h.Now().Before(h.b.Spill): // it stopped half-way, perhaps between two lines
		return h.until(h.Rules.Poll), nil
	}
	if whole {
		h.forget(ctx, account, got)
	}
	return done, h.spillAll(ctx, left, Read, true, "its batch has no line of it")
}

// forget deletes what the provider still has of a batch, unless some of it is still to be recorded.
func (h *hold) forget(ctx context.Context, account *Account, b upstream.Batch) {
	if h.unwritten == nil {
		within, cancel := h.call(ctx)
		defer cancel()
		account.API.ForgetBatch(within, b)
	}
}

// record records the lines of a batch that has ended. left are the members of which it has
// none, mine says that it had one of the bundle's, and whole that all of it was read.
func (h *hold) record(ctx context.Context, account *Account, in []tasks.Ticket, b upstream.Batch) (left []tasks.Ticket, mine, whole bool, err error) {
	of, all := map[string]tasks.Ticket{}, map[string]bool{}
	for _, t := range h.b.Members {
		all[lineID(t)] = true
	}
	for _, t := range in {
		of[lineID(t)] = t
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	silence := time.AfterFunc(h.callWithin(), stop)
	defer silence.Stop()
	a := account.API.BatchResults(reading, b, h.b.Endpoint, func(r upstream.LineResult) error {
		silence.Stop()
		defer silence.Reset(h.callWithin())
		mine = mine || all[r.ID]
		if t, ok := of[r.ID]; ok {
			delete(of, r.ID)
			err = h.line(ctx, account, t, b.ID, r.Answer)
		}
		if err == nil {
			err = h.keep(ctx)
		}
		return err
	})
	if err != nil {
		return nil, mine, false, err
	}
	if a.Outcome != tasks.Succeeded {
		h.Log.Warn("the results of a batch were not read to their end", "pool", h.Pool, "bundle", h.b.ID, "batch", b.ID, "outcome", string(a.Outcome), "upstream_status", a.Status)
	}
	for _, t := range of {
		left = append(left, t)
	}
	return left, mine, a.Outcome == tasks.Succeeded, nil
}

// unreadable reports whether an error is of one job's prompt alone: where it lies, or its key.
func unreadable(err error) bool {
	var away *tasks.BodiesError
	var sealed *tasks.SealError
	return errors.As(err, &away) || errors.As(err, &sealed)
}

// line records what a batch has brought of one member.
func (h *hold) line(ctx context.Context, account *Account, t tasks.Ticket, batch string, a upstream.Answer) error {
	e := tasks.Ending{
		Status: tasks.StatusSucceeded, Result: a.Result, Finish: a.Finish, Usage: a.Usage, Provider: account.Provider,
		Attempt: tasks.Attempt{Outcome: a.Outcome, Status: a.Status, RequestID: a.RequestID, Account: account.Name, Batch: batch, Usage: a.Usage, MaybeBilled: a.MaybeBilled || h.twice},
	}
	switch a.Outcome {
	case tasks.Succeeded:
	case tasks.TooLarge: // as it is in the ordinary lane, at twice the price
		e.Status, e.Error = tasks.StatusFailed, &tasks.JobError{Code: tasks.ResultTooLarge, Message: a.Message, UpstreamStatus: a.Status, MaybeBilled: a.MaybeBilled}
	default:
		a.MaybeBilled = a.MaybeBilled || h.twice
		return h.spill(ctx, t, a)
	}
	if price, ok := h.Price(h.b.Model, h.b.SentAt); ok {
		e.Attempt.Cost = h.cost(ctx, t, price, &e.Attempt)
	}
	return h.end(ctx, t, e)
}

// cost is what a line has cost, and may have cost besides; nil: nobody can tell.
func (h *hold) cost(ctx context.Context, t tasks.Ticket, price tasks.Price, of *tasks.Attempt) *tasks.Cost {
	var c tasks.Cost
	if of.Usage != nil {
		c.Amount = price.Of(*of.Usage, tasks.Served{Tier: tasks.TierBatch})
	}
	if of.MaybeBilled {
		if j, err := h.Records.Bundled(ctx, t); err == nil {
			c.Maybe = h.AtMost(price, &j.Request)
		}
	}
	if c == (tasks.Cost{}) {
		return nil
	}
	return &c
}

// Price is a model's for lines of a batch that is made then: half of its price, unless that says its own factor.
func (l *Lane) Price(model string, at time.Time) (tasks.Price, bool) {
	p, ok := l.Prices.Of(model, at)
	p.Batch = cmp.Or(p.Batch, tasks.Unit/2)
	return p, ok
}

// AtMost is about the most that a job's line may cost.
func (l *Lane) AtMost(p tasks.Price, r *tasks.Request) tasks.Money {
	most := p.AtMost(r)
	return most/tasks.Unit*p.Batch + most%tasks.Unit*p.Batch/tasks.Unit // in one step it may not fit
}

// spillAll gives members back to the ordinary lane, as the last of a bundle.
func (h *hold) spillAll(ctx context.Context, list []tasks.Ticket, as Outcome, maybe bool, why string) error {
	h.outcome = as
	if len(list) > 0 {
		h.Log.Info("jobs of a bundle go to the ordinary lane", "pool", h.Pool, "bundle", h.b.ID, "batch", h.b.Batch, "jobs", len(list), "maybe_billed", maybe, "why", why)
	}
	for _, t := range list {
		if err := h.spill(ctx, t, upstream.Answer{MaybeBilled: maybe, Message: why}); err != nil {
			return err
		}
		if err := h.keep(ctx); err != nil {
			return err
		}
	}
	return nil
}

// spill gives one back, uncounted.
func (h *hold) spill(ctx context.Context, t tasks.Ticket, a upstream.Answer) error {
	e := tasks.Ending{
		Status: tasks.StatusRetrying, Draw: tasks.NoDraw,
		Attempt: tasks.Attempt{Outcome: tasks.Spilled, Status: a.Status, RequestID: a.RequestID, MaybeBilled: a.MaybeBilled, Account: h.b.Account, Batch: h.b.Batch},
		Error:   &tasks.JobError{Code: tasks.UpstreamUnavailable, Message: "a batch brought no answer, and the ordinary lane is asked: " + a.Message, UpstreamStatus: a.Status, MaybeBilled: a.MaybeBilled},
	}
	if a.MaybeBilled {
		j, err := h.Records.Bundled(ctx, t)
		if errors.Is(err, tasks.ErrLost) {
			return nil
		}
		if price, ok := h.Price(h.b.Model, h.b.SentAt); ok && err == nil {
			e.Attempt.Cost = &tasks.Cost{Maybe: h.AtMost(price, &j.Request)}
		}
	}
	return h.end(ctx, t, e)
}

// end records an ending. A job that has moved on meanwhile stays as it is, and one whose record cannot be
// written is tried again by the bundle's next worker.
func (h *hold) end(ctx context.Context, t tasks.Ticket, e tasks.Ending) error {
	next, err := h.Records.End(ctx, t, e)
	switch {
	case err == nil:
		h.Ended(ctx, t, e, next)
	case tasks.Void(err):
	default:
		h.unwritten = err
		if h.inARow++; h.inARow < patience && ctx.Err() == nil {
			return nil
		}
		return err
	}
	h.inARow = 0
	return nil
}
