package auth

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// book is a Ledger in memory; fail has it answer nothing.
type book struct {
	mu      sync.Mutex
	fail    error
	slow    time.Duration // until it answers
	tokens  map[string]tasks.Token
	revoked []tasks.Revocation
	reads   int // of records
}

func (b *book) Token(_ context.Context, id string) (tasks.Token, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads++
	t, ok := b.tokens[id]
	if b.fail == nil && !ok {
		return t, tasks.ErrNotFound
	}
	return t, b.fail
}

func (b *book) Revoked(ctx context.Context, after int64) (tasks.Revocations, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.slow > 0 { // and answers as it stood when it was asked
		list, late := b.revoked, time.After(b.slow)
		b.mu.Unlock()
		select {
		case <-late:
		case <-ctx.Done():
		}
		if b.mu.Lock(); ctx.Err() != nil {
			return tasks.Revocations{}, ctx.Err()
		}
		return tasks.Revocations{Version: int64(len(list)), List: list[min(after, int64(len(list))):]}, nil
	}
	return tasks.Revocations{Version: int64(len(b.revoked)), List: b.revoked[min(after, int64(len(b.revoked))):]}, b.fail
}

func (b *book) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func newBook(t *testing.T) (*book, *Verifier) {
	t.Helper()
	b := &book{tokens: map[string]tasks.Token{}}
	v, err := New(Config{Issuer: testIssuer, Audience: testAudience, HMACSecret: testSecret(), Ledger: b})
	if err != nil {
		t.Fatal(err)
	}
	return b, v
}

// mintAs mints a token for a year with a jti, changed as told.
func mintAs(t *testing.T, id string, change func(*MintConfig)) string {
	t.Helper()
	c := MintConfig{
		Secret: testSecret(), Issuer: testIssuer, Audience: testAudience, Subject: "ci", Tenant: "acme",
		Scopes: []string{ScopeJobsWrite}, TTL: 365 * 24 * time.Hour, ID: id, Models: []string{"claude-*"},
	}
	if change != nil {
		change(&c)
	}
	raw, err := Mint(c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func reasonOf(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Reason
	}
	return ""
}

// A token that the server keeps is good while its record says what it says, however long
// it lives; whoever has the secret cannot make one without a record.
func TestAKeptTokenIsGoodByItsRecord(t *testing.T) {
	t.Parallel()
	b, v := newBook(t)
	raw := mintAs(t, "tok_1", nil)
	b.tokens["tok_1"] = tasks.Token{ID: "tok_1", Tenant: "acme", Subject: "ci", Scopes: []string{ScopeJobsWrite}, Models: []string{"claude-*"}, Expires: expiryOf(t, raw)}
	for range 3 {
		c, err := v.Verify(t.Context(), raw)
		if err != nil || c.ID != "tok_1" || len(c.Models) != 1 || c.Unsure {
			t.Fatalf("%+v, %v", c, err)
		}
	}
	if b.reads != 1 {
		t.Errorf("its record was read %d times for three requests", b.reads)
	}
	for name, forged := range map[string]string{
		"no record":       mintAs(t, "tok_2", nil),
		"another tenant":  mintAs(t, "tok_1", func(c *MintConfig) { c.Tenant = "other" }),
		"another scope":   mintAs(t, "tok_1", func(c *MintConfig) { c.Scopes = []string{ScopeAdmin} }),
		"another subject": mintAs(t, "tok_1", func(c *MintConfig) { c.Subject = "root" }),
		"all models":      mintAs(t, "tok_1", func(c *MintConfig) { c.Models = nil }),
		"a pool":          mintAs(t, "tok_1", func(c *MintConfig) { c.Pools = []string{"claude"} }),
		"another end":     mintAs(t, "tok_1", func(c *MintConfig) { c.TTL *= 2 }),
	} {
		if _, err := v.Verify(t.Context(), forged); reasonOf(err) != reasonRecord {
			t.Errorf("%s: %v, want reason record", name, err)
		}
	}
	if _, err := v.Verify(t.Context(), mintAs(t, "mine", nil)); reasonOf(err) != reasonLifetime {
		t.Errorf("a year without a record: %v, want reason lifetime", err)
	}
	alone, err := New(Config{Issuer: testIssuer, Audience: testAudience, HMACSecret: testSecret()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alone.Verify(t.Context(), raw); reasonOf(err) != reasonRecord {
		t.Errorf("without a ledger: %v, want reason record", err)
	}
}

func expiryOf(t *testing.T, raw string) time.Time {
	t.Helper()
	text, err := part(raw, 1)
	c := claimSet{by: &claimRules{own: true, scope: []string{"scope"}}}
	if err = errors.Join(err, c.UnmarshalJSON(text)); err != nil {
		t.Fatal(err)
	}
	return c.exp
}

// Any token is revoked by its jti, and requests that go on with it end.
func TestARevokedTokenIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testARevokedToken)
}

func testARevokedToken(t *testing.T) {
	b, v := newBook(t)
	offline := mintAs(t, "mine", func(c *MintConfig) { c.TTL = time.Hour })
	c, err := v.Verify(t.Context(), offline)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _ = v.Run(ctx); close(done) }()
	followed, stop := v.Follow(t.Context(), c)
	defer stop()
	begun := time.Now()
	b.change(func() {
		b.revoked = append(b.revoked, tasks.Revocation{ID: "mine", Until: time.Now().Add(time.Hour)})
	})
	<-followed.Done()
	if took := time.Since(begun); context.Cause(followed) != ErrRevoked || took > time.Second {
		t.Errorf("ended with %v after %s", context.Cause(followed), took)
	}
	if _, err := v.Verify(t.Context(), offline); reasonOf(err) != reasonRevoked {
		t.Errorf("%v, want reason revoked", err)
	}
	if late, stop := v.Follow(t.Context(), c); context.Cause(late) != ErrRevoked {
		t.Error("a request that begins to be followed after the revocation goes on")
	} else {
		stop()
	}
	if gone, err := v.Revoked(t.Context(), "mine"); err != nil || !gone {
		t.Error(gone, err)
	}
	cancel()
	<-done
}

// While nobody can say what was revoked, claims are unsure; after a while none is good.
func TestWhileTheLedgerIsAway(t *testing.T) {
	t.Parallel()
	b, v := newBook(t)
	raw := mintAs(t, "mine", func(c *MintConfig) { c.TTL = time.Hour })
	if c, err := v.Verify(t.Context(), raw); err != nil || c.Unsure {
		t.Fatal(c, err)
	}
	b.change(func() { b.fail = errors.New("away") })
	back := func(d time.Duration) {
		v.ledger.mu.Lock()
		defer v.ledger.mu.Unlock()
		v.ledger.asked, v.ledger.failed = v.ledger.asked.Add(-d), time.Time{}
	}
	back(time.Second)
	if c, err := v.Verify(t.Context(), raw); err != nil || !c.Unsure {
		t.Errorf("after a second: %+v, %v; want unsure", c, err)
	}
	back(readsFor)
	_, err := v.Verify(t.Context(), raw)
	if reasonOf(err) != reasonUnavailable || !errors.Is(err, tasks.ErrUnavailable) || strings.Contains(err.Error(), "away") {
		t.Errorf("after %s: %v", readsFor, err)
	}
	if _, err := v.Revoked(t.Context(), "mine"); !errors.Is(err, tasks.ErrUnavailable) {
		t.Error(err)
	}
	b.change(func() { b.fail = nil })
	back(0)
	if c, err := v.Verify(t.Context(), raw); err != nil || c.Unsure {
		t.Errorf("when it is back: %+v, %v", c, err)
	}
}

// Of a Ledger that answers late, whoever changes something awaits the answer, and is
// refused what was revoked a second before it came; whoever reads does not wait for it.
func TestWhileTheLedgerIsSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testASlowLedger)
}

func testASlowLedger(t *testing.T) {
	b, v := newBook(t)
	raw := mintAs(t, "mine", func(c *MintConfig) { c.TTL = time.Hour })
	if _, err := v.Verify(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _ = v.Run(ctx); close(done) }()
	asks := func(what string, ctx context.Context, unsure bool, least, most time.Duration) {
		t.Helper()
		begun := time.Now()
		c, err := v.Verify(ctx, raw)
		if took := time.Since(begun); err != nil || c.Unsure != unsure || took < least || took > most {
			t.Errorf("%s: unsure %t, %v after %s; want %t after %s to %s", what, c.Unsure, err, took, unsure, least, most)
		}
	}
	write := Patient(t.Context())
	for _, slow := range []time.Duration{2 * time.Second, 10 * time.Second} {
		b.change(func() { b.slow = slow })
		<-time.After(2 * time.Second)
		asks("a read", t.Context(), true, 0, readWait)
		if slow < writeWait {
			var writes sync.WaitGroup
			for range 3 {
				writes.Go(func() { asks("a write", write, false, slow, writeWait) })
			}
			writes.Wait()
		} else {
			asks("a write", write, true, writeWait, writeWait)
		}
		b.change(func() { b.slow = 0 })
		<-time.After(time.Second)
	}
	b.change(func() { b.fail = errors.New("refused") })
	<-time.After(time.Second)
	asks("a write of a Redis that refuses", write, true, 0, 0)
	b.change(func() { b.fail, b.slow = nil, 2*time.Second })
	<-time.After(2 * time.Second)

	// A question is under way, which does not know of it; one that a reader gave up is
	// begun anew, and may.
	var first sync.WaitGroup
	first.Go(func() {
		if c, err := v.Verify(write, raw); err != nil && reasonOf(err) != reasonRevoked || c.Unsure {
			t.Errorf("the write before: %+v, %v", c, err)
		}
	})
	<-time.After(readWait)
	b.change(func() {
		b.revoked = append(b.revoked, tasks.Revocation{ID: "mine", Until: time.Now().Add(time.Hour)})
	})
	<-time.After(time.Second)
	if _, err := v.Verify(write, raw); reasonOf(err) != reasonRevoked {
		t.Errorf("a second after it was revoked: %v", err)
	}
	first.Wait()
	cancel()
	<-done
}

// A connection to a slow Redis gives up at the deadline of a question, perhaps a moment
// before the question does. That is no refusal: who changes something still asks.
func TestALedgerWhoseConnectionGivesUpFirstIsSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, v := newBook(t)
		raw := mintAs(t, "mine", func(c *MintConfig) { c.TTL = time.Hour })
		b.change(func() { b.fail = fmt.Errorf("%w: %w", tasks.ErrUnavailable, os.ErrDeadlineExceeded) })
		if _, err := v.Verify(t.Context(), raw); !errors.Is(err, tasks.ErrUnavailable) {
			t.Errorf("before anything is known: %v", err)
		}
		b.change(func() { b.fail = nil })
		if c, err := v.Verify(Patient(t.Context()), raw); err != nil || c.Unsure {
			t.Errorf("a write: %+v, %v; want that it asks", c, err)
		}
		b.change(func() { b.fail = errors.New("refused") })
		<-time.After(time.Second)
		for _, ctx := range []context.Context{t.Context(), Patient(t.Context())} {
			if c, err := v.Verify(ctx, raw); err != nil || !c.Unsure {
				t.Errorf("refused: %+v, %v; want unsure", c, err)
			}
			b.change(func() { b.fail = nil }) // who was refused just now is not asked for again
		}
	})
}

// What a token is narrowed to, models or pools, is a list that says something, or the token is none.
func TestWhatATokenIsNarrowedTo(t *testing.T) {
	t.Parallel()
	for globs, want := range map[string]string{
		`["claude-*","gpt-5"]`: "", `"claude-x"`: "", `[]`: reasonClaim, `null`: reasonClaim, `{}`: reasonClaim, `[""]`: reasonClaim,
		`["claude-?"]`: reasonClaim, `["[a-z]"]`: reasonClaim, `[1]`: reasonClaim,
	} {
		w, err := New(Config{Issuer: testIssuer, Audience: testAudience, HMACSecret: testSecret(), Now: clock})
		if err != nil {
			t.Fatal(err)
		}
		for _, claim := range []string{"models", "pools"} {
			c, err := w.Verify(t.Context(), hs256(goodHead, strings.Replace(goodClaims, `"tenant"`, `"`+claim+`":`+globs+`,"tenant"`, 1)))
			if got := map[string][]string{"models": c.Models, "pools": c.Pools}; reasonOf(err) != want || (want == "") != (len(got[claim]) > 0) || len(c.Models) > 0 && len(c.Pools) > 0 {
				t.Errorf("%s %s: %q, %v; want %q", claim, globs, got, err, want)
			}
		}
	}
}
