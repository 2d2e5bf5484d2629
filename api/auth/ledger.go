package auth

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// Ledger is what the server knows of tokens beside what they say themselves, the same in
// every process.
type Ledger interface {
	// Token returns the record of a token that the server keeps; tasks.ErrNotFound when
	// it keeps none of that id.
	Token(ctx context.Context, id string) (tasks.Token, error)
	// Revoked returns what was revoked after a version; 0 is before all.
	Revoked(ctx context.Context, after int64) (tasks.Revocations, error)
}

// KeptPrefix begins the jti of a token that the server keeps. Such a token may live longer
// than MaxLifetime, and is good only while its record says so.
const KeptPrefix = "tok_"

const (
	askEvery   = 250 * time.Millisecond // what was revoked, ahead of who wants to know
	askedFor   = 900 * time.Millisecond // an answer counts; a revoked token is good for that long at most
	readWait   = 500 * time.Millisecond // for an answer, of who only reads: it has an answer all the same
	writeWait  = 5 * time.Second        // of who changes something, and is refused without an answer
	readsFor   = 30 * time.Second       // after the last answer
	recordsFor = 5 * time.Minute        // a record is in memory
	recordsMax = 10_000                 // in memory
)

// ErrRevoked is the cause with which a context of [Verifier.Follow] ends.
var ErrRevoked = errors.New("the token was revoked")

// ledger is what one process knows of the Ledger. Its times are of this process alone.
type ledger struct {
	from   Ledger
	asking chan struct{} // held by who asks

	mu      sync.RWMutex
	asked   time.Time // when the last question that was answered began
	failed  time.Time // when the last one that was not ended, should there be none since
	why     error
	given   time.Duration // that it was given to be answered; writeWait: it was refused
	version int64
	revoked map[string]time.Time // by jti: when no such token can be good any more
	records map[string]record
	holds   map[string]map[*hold]struct{} // by jti: requests that go on
}

// record is a token's record, and when it was read.
type record struct {
	tasks.Token
	at time.Time
}

type hold struct{ end context.CancelCauseFunc }

func newLedger(from Ledger) *ledger {
	if from == nil {
		return nil
	}
	return &ledger{from: from, asking: make(chan struct{}, 1), revoked: map[string]time.Time{}, records: map[string]record{}, holds: map[string]map[*hold]struct{}{}}
}

// keep asks again and again what was revoked, until ctx ends.
func (l *ledger) keep(ctx context.Context) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		_ = l.ask(ctx, time.Now(), readWait) // whoever wants to know is told
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

type patient struct{}

// Patient has [Verifier.Verify] wait for up to 5 s until the Ledger says what was revoked,
// in place of half a second: for a request that is refused without that.
func Patient(ctx context.Context) context.Context { return context.WithValue(ctx, patient{}, true) }

// waits is how long a request waits for the Ledger.
func waits(ctx context.Context) time.Duration {
	if ctx.Value(patient{}) != nil {
		return writeWait
	}
	return readWait
}

// fresh makes sure that this process knows what was revoked up to a moment ago, and
// waits at most so long for it. What it waits for was asked after that moment, however
// late the answer comes.
func (l *ledger) fresh(ctx context.Context, wait time.Duration) error {
	now := time.Now()
	l.mu.RLock()
	asked, failed, why, given := l.asked, l.failed, l.why, l.given
	l.mu.RUnlock()
	switch {
	case now.Sub(asked) <= askedFor:
		return nil
	case now.Sub(failed) <= askEvery && wait <= given:
		return why // nobody waits for what somebody was just refused
	}
	return l.ask(ctx, now.Add(-askedFor), wait)
}

// ask asks what was revoked, unless somebody has since then.
func (l *ledger) ask(ctx context.Context, since time.Time, wait time.Duration) error {
	came := time.Now()
	end := time.NewTimer(wait)
	defer end.Stop()
	select {
	case l.asking <- struct{}{}:
		defer func() { <-l.asking }()
	case <-end.C:
		return l.unanswered(context.DeadlineExceeded, wait)
	case <-ctx.Done():
		return ctx.Err()
	}
	l.mu.RLock()
	asked, failed, why, given, version := l.asked, l.failed, l.why, l.given, l.version
	l.mu.RUnlock()
	began := time.Now()
	switch {
	case asked.After(since):
		return nil
	case failed.After(came) && came.Add(wait).Sub(began) <= given:
		return why
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), came.Add(wait)) // others wait for it too
	defer cancel()
	found, err := l.from.Revoked(ctx, version)
	switch {
	case err == nil:
	case ctx.Err() != nil || timedOut(err): // the deadline of a connection may pass a moment before that of ctx
		return l.unanswered(err, time.Since(began))
	default:
		return l.unanswered(err, writeWait)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked, l.failed, l.why, l.version = began, time.Time{}, nil, found.Version
	l.learn(found.List)
	return nil
}

// timedOut reports whether an error says that something took too long.
func timedOut(err error) bool {
	slow, ok := errors.AsType[net.Error](err)
	return ok && slow.Timeout()
}

// unanswered notes that a question was not answered in the time that it was given.
func (l *ledger) unanswered(err error, given time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed, l.why, l.given = time.Now(), unasked(err), given
	return l.why
}

// learn takes in what was revoked, and forgets what has passed by itself.
func (l *ledger) learn(list []tasks.Revocation) {
	if len(list) == 0 {
		return
	}
	now := time.Now()
	for id, until := range l.revoked {
		if now.After(until) {
			delete(l.revoked, id)
		}
	}
	for _, r := range list {
		l.revoked[r.ID] = r.Until
		delete(l.records, r.ID)
		for h := range l.holds[r.ID] {
			h.end(ErrRevoked)
		}
	}
}

// unasked is the error of a ledger that did not answer: tasks.ErrFull as it came, else
// tasks.ErrUnavailable.
func unasked(err error) error {
	if errors.Is(err, tasks.ErrFull) {
		return fmt.Errorf("ask what was revoked: %w", err)
	}
	return fmt.Errorf("ask what was revoked: %w: %w", tasks.ErrUnavailable, err)
}

// judge refuses a token of good signature that was revoked, or that the server should keep
// and does not. Its error is a reason, tasks.ErrUnavailable or tasks.ErrFull.
func (l *ledger) judge(ctx context.Context, c *Claims, kept bool) error {
	wait := waits(ctx)
	err := l.fresh(ctx, wait)
	if err != nil {
		wait = readWait
	}
	l.mu.RLock()
	age := time.Since(l.asked)
	_, revoked := l.revoked[c.ID]
	rec, known := l.records[c.ID]
	l.mu.RUnlock()
	switch {
	case c.ID != "" && revoked:
		return reason{reasonRevoked, "it was revoked"}
	case err != nil && age > readsFor:
		return err
	case !kept:
		c.Unsure = err != nil
		return nil
	}
	if !known || time.Since(rec.at) > recordsFor {
		fresh, readErr := l.record(ctx, c.ID, wait)
		switch {
		case readErr == nil:
			rec = fresh
		case !known || !tasks.Away(readErr):
			return readErr
		}
		err = errors.Join(err, readErr)
	}
	c.Unsure = err != nil
	return rec.fits(c)
}

// record reads a token's record, and waits at most so long for it.
func (l *ledger) record(ctx context.Context, id string, wait time.Duration) (record, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	began := time.Now()
	t, err := l.from.Token(ctx, id)
	switch {
	case errors.Is(err, tasks.ErrNotFound):
		return record{}, reason{reasonRecord, "the server keeps no such token"}
	case err != nil:
		return record{}, unasked(err)
	case !t.Revoked.IsZero():
		return record{}, reason{reasonRevoked, "it was revoked"}
	}
	rec := record{t, began}
	l.mu.Lock()
	defer l.mu.Unlock()
	for other := range l.records {
		if len(l.records) < recordsMax {
			break
		}
		delete(l.records, other)
	}
	if _, gone := l.revoked[id]; !gone {
		l.records[id] = rec
	}
	return rec, nil
}

// fits refuses a token that says other than its record.
func (r *record) fits(c *Claims) error {
	if r.Tenant != c.Tenant || r.Subject != c.Subject || !slices.Equal(r.Scopes, c.Scopes) || !slices.Equal(r.Models, c.Models) ||
		!slices.Equal(r.Pools, c.Pools) || r.Expires.Unix() != c.ExpiresAt.Unix() {
		return reason{reasonRecord, "the server's record of it says something else"}
	}
	return nil
}

// Follow returns a context that ends with [ErrRevoked] as its cause when the token is
// revoked, within a second or so of it. The caller calls stop.
func (v *Verifier) Follow(ctx context.Context, c Claims) (followed context.Context, stop func()) {
	followed, end := context.WithCancelCause(ctx)
	l := v.ledger
	if l == nil || c.ID == "" {
		return followed, func() { end(nil) }
	}
	h := &hold{end}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, revoked := l.revoked[c.ID]; revoked {
		end(ErrRevoked)
	}
	if l.holds[c.ID] == nil {
		l.holds[c.ID] = map[*hold]struct{}{}
	}
	l.holds[c.ID][h] = struct{}{}
	return followed, func() {
		end(nil)
		l.mu.Lock()
		defer l.mu.Unlock()
		if delete(l.holds[c.ID], h); len(l.holds[c.ID]) == 0 {
			delete(l.holds, c.ID)
		}
	}
}

// Revoked reports whether a token of that jti was revoked; false without a Ledger. An
// error is tasks.ErrUnavailable: nobody can say.
func (v *Verifier) Revoked(ctx context.Context, id string) (bool, error) {
	l := v.ledger
	if l == nil || id == "" {
		return false, nil
	}
	err := l.fresh(ctx, waits(ctx))
	l.mu.RLock()
	defer l.mu.RUnlock()
	if _, revoked := l.revoked[id]; revoked {
		return true, nil
	}
	return false, err
}

// Refresh asks the Ledger now what was revoked.
func (v *Verifier) Refresh(ctx context.Context) error {
	if v.ledger == nil {
		return nil
	}
	return v.ledger.ask(ctx, time.Now(), readWait)
}

// Longest is for how long a token of any issuer can be good at most.
func (v *Verifier) Longest() (longest time.Duration) {
	for _, r := range v.rules {
		longest = max(longest, r.maxLifetime+r.leeway)
	}
	return longest
}

// keptForm reports whether claims are of the form of a token that the server keeps.
func keptForm(own bool, alg, jti string) bool {
	return own && alg == algHS256 && strings.HasPrefix(jti, KeptPrefix)
}
