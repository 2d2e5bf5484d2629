package pool

import (
	"cmp"
	"context"
	"crypto/sha256"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream"
)

const (
	settleWithin = 15 * time.Second       // how long a refusal is held at most
	inquiryTime  = 10 * time.Second       // how long an inquiry may take
	inquiryEvery = 3 * time.Second        // between the starts of two inquiries
	lookEvery    = 250 * time.Millisecond // how soon a pause by another process is seen

	// What convicts a key where no model has ever succeeded, or where none can be
	// probed: refusedPrompts different prompts of refusedModels models, refused
	// within refusedWithin.
	refusedPrompts = 3
	refusedModels  = 2
	refusedWithin  = 10 * time.Minute
	refusedKept    = 64
)

// culprit is for whom a refusal was meant.
type culprit int

const (
	unknown    culprit = iota // it could not be found out
	theRequest                // the key is well
	theKey                    // the key was refused, or has no money
	nobody                    // the pool is paused already, or was since the call was sent
)

// finding is what a doubt came to.
type finding struct {
	of     culprit
	answer upstream.Answer // that convicts the key
	age    time.Duration   // of the oldest call that convicts it
}

// doubts settles for whom a pool's refusals were meant, by what this process has
// seen. What shows that the key is well: a success that was sent after the refused
// call; for an unknown model, and for a 401 where the list looks at keys, a list of
// models; else the smallest real call. One inquiry is under way at a time, whoever waits.
type doubts struct {
	asker  Asker
	models []string
	log    *slog.Logger
	now    func() time.Time

	mu       sync.Mutex
	known    string               // the model that succeeded last
	well     time.Time            // when the latest call that succeeded was sent
	taken    time.Time            // when the latest call was sent that showed the key to be taken
	listed   time.Time            // when the latest list of models was asked for that did not refuse the key
	checks   bool                 // the list of models has refused a key: some hand it to anybody
	suspect  string               // the model whose refusal convicted the key, for probes
	refused  map[[32]byte]refusal // by prompt and model: 402s and 403s since the last success
	inquiry  *inquiry             // under way; nil: none is
	earliest time.Time            // when the next may begin
	changed  chan struct{}        // closed and replaced when more is known
}

// inquiry is one attempt at finding out, made by one of those who wait for it.
type inquiry struct {
	began time.Time
	real  bool          // a real call is made, and not only a list asked for
	done  chan struct{} // closed at its end; what follows is set before
	cut   bool          // it was given up half way
	found finding
}

// answers reports whether an inquiry that is over says all there is to say on a
// refusal that came then.
func (q *inquiry) answers(came time.Time, d upstream.Doubt) bool {
	select {
	case <-q.done:
		return q.found.of == theKey || !q.cut && !q.began.Before(came) && (q.real || d == upstream.DoubtModel)
	default:
		return false
	}
}

// byList reports whether a list of models may settle a doubt.
func byList(d upstream.Doubt) bool { return d == upstream.DoubtKey || d == upstream.DoubtModel }

// refusal is what one prompt was told.
type refusal struct {
	model  string
	sent   time.Time
	answer upstream.Answer
}

func newDoubts(asker Asker, models []string, log *slog.Logger) *doubts {
	return &doubts{asker: asker, models: models, log: log, now: time.Now, refused: map[[32]byte]refusal{}, changed: make(chan struct{})}
}

func (d *doubts) knownModel() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known
}

// probed is the model that a probe of a refused key asks, "" when none is known.
func (d *doubts) probed() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return cmp.Or(d.known, d.suspect)
}

// suspected remembers the model whose refusal convicted the key.
func (d *doubts) suspected(model string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.suspect = model
}

// answered takes in a call that ended without a doubt.
func (d *doubts) answered(model string, o tasks.Outcome, took time.Duration) {
	sent := d.now().Add(-took)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch o {
	case tasks.Succeeded, tasks.TooLarge:
		d.known = model
		d.well = later(d.well, sent)
		for k, r := range d.refused {
			if !r.sent.After(sent) {
				delete(d.refused, k)
			}
		}
	case tasks.Rejected: // by what looked at the request, after the key
	default:
		return
	}
	d.taken = later(d.taken, sent)
	d.tell()
}

// tell wakes whoever waits for a change. The lock is held.
func (d *doubts) tell() {
	close(d.changed)
	d.changed = make(chan struct{})
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// settle waits until it is known for whom a refusal was meant. paused reports
// whether the pool is paused, or was within that time.
func (d *doubts) settle(ctx context.Context, c Call, a upstream.Answer, paused func(time.Duration) bool) finding {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	came := d.now()
	sent := came.Add(-c.Took)
	d.note(c, a, sent)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for ctx.Err() == nil {
		if paused(d.now().Sub(sent)) {
			return finding{of: nobody}
		}
		f, q, begun, changed := d.next(a.Doubt, sent)
		switch {
		case f.of != unknown:
			return f
		case begun:
			d.inquire(ctx, q, c, a.Doubt)
		default:
			var over chan struct{}
			if q != nil {
				over = q.done
			}
			select {
			case <-ctx.Done():
			case <-changed:
			case <-over:
			case <-look.C:
			}
		}
		if q == nil || !q.answers(came, a.Doubt) {
			continue
		}
		if q.found.of == theKey {
			return q.found
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.conclude(a.Doubt, sent)
	}
	return finding{}
}

// next returns what is known of a refusal by now, or the inquiry to wait for,
// which is the caller's to make when it has just begun.
func (d *doubts) next(of upstream.Doubt, sent time.Time) (f finding, q *inquiry, begun bool, changed chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f = d.conclude(of, sent)
	if now := d.now(); f.of == unknown && d.inquiry == nil && !now.Before(d.earliest) {
		d.inquiry, begun = &inquiry{began: now, done: make(chan struct{})}, true
		d.earliest = now.Add(inquiryEvery)
	}
	return f, d.inquiry, begun, d.changed
}

// note remembers a 402 or a 403, by prompt.
func (d *doubts) note(c Call, a upstream.Answer, sent time.Time) {
	if a.Doubt != upstream.DoubtCredit && a.Doubt != upstream.DoubtAccess {
		return
	}
	h := sha256.New()
	_, _ = h.Write([]byte(c.Model + "\x00"))
	_, _ = h.Write(c.Prompt)
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, r := range d.refused {
		if len(d.refused) >= refusedKept || sent.Sub(r.sent) > refusedWithin {
			delete(d.refused, k)
		}
	}
	d.refused[[32]byte(h.Sum(nil))] = refusal{c.Model, sent, a}
}

// conclude says what is known of a refusal. The lock is held.
func (d *doubts) conclude(of upstream.Doubt, sent time.Time) finding {
	switch {
	case !d.well.Before(sent), byList(of) && !d.taken.Before(sent), of == upstream.DoubtModel && !d.listed.Before(sent):
		return finding{of: theRequest}
	case d.known != "" || byList(of):
		return finding{} // one call can tell
	}
	if models, all := d.against(); all.of == theKey && models >= refusedModels {
		return d.convict(all)
	}
	return finding{}
}

// convict returns f and forgets what led to it: after a resume, a key needs as
// much against it again. The lock is held.
func (d *doubts) convict(f finding) finding {
	clear(d.refused)
	return f
}

// against returns how many models were refused, and what that comes to when it
// is enough of them. The lock is held.
func (d *doubts) against() (models int, all finding) {
	now, named := d.now(), map[string]bool{}
	for _, r := range d.refused {
		named[r.model] = true
		if age := now.Sub(r.sent); age >= all.age {
			all.age, all.answer = age, r.answer
		}
	}
	if len(d.refused) >= refusedPrompts {
		all.of = theKey
	}
	return len(named), all
}

// inquire finds out what it can, and tells those who wait.
func (d *doubts) inquire(ctx context.Context, q *inquiry, c Call, of upstream.Doubt) {
	call, cancel := context.WithTimeout(ctx, inquiryTime)
	defer cancel()
	q.found, q.real = d.ask(call, c, of, q.began)
	q.cut = ctx.Err() != nil
	d.log.Info("a refusal was looked into", "doubt", string(of), "key_refused", q.found.of == theKey, "cut", q.cut)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inquiry = nil
	close(q.done)
}

// ask asks the provider. What shows the key to be well is noted, not returned.
func (d *doubts) ask(ctx context.Context, c Call, of upstream.Doubt, began time.Time) (f finding, realCall bool) {
	age := func() time.Duration { return d.now().Sub(began) }
	if byList(of) {
		if f, done := d.list(ctx, of, began); done {
			return f, false
		}
	}
	model, sure := d.knownModel(), true
	known := model != ""
	if !known {
		if model, sure = onlyModel(d.models); !sure {
			model = c.Model
		}
	}
	a := d.asker.Do(ctx, ping(model))
	d.answered(model, a.Outcome, age())
	switch a.Doubt {
	case upstream.NoDoubt:
		return finding{}, true
	case upstream.DoubtModel:
		if !known {
			return finding{}, true
		}
		d.withdraw(model)
		return d.ask(ctx, c, of, began)
	case upstream.DoubtKey:
		sure = true
	case upstream.DoubtSpend:
		// A cap that is stated convicts, unless it is this model's own.
		if !sure && d.other(ctx, map[string]bool{model: true}).Outcome == tasks.Succeeded {
			return finding{}, true
		}
		sure = true
	}
	if sure {
		return finding{of: theKey, answer: a, age: age()}, true
	}
	return d.second(ctx), true
}

// list asks for the models, and reports whether that is all there is to ask. A
// list acquits a key of a 401 where it is known to look at keys; for a model that
// is not there any answer will do that does not refuse the key.
func (d *doubts) list(ctx context.Context, of upstream.Doubt, began time.Time) (f finding, done bool) {
	a, _ := d.asker.Models(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	if convicts(a) {
		d.checks = true
		return finding{of: theKey, answer: a, age: d.now().Sub(began)}, true
	}
	if a.Outcome == tasks.Succeeded && d.checks {
		d.taken = later(d.taken, began)
	}
	d.listed = later(d.listed, began)
	d.tell()
	return finding{}, of == upstream.DoubtModel || a.Outcome == tasks.Succeeded && d.checks
}

// withdraw forgets a model that is not there any more.
func (d *doubts) withdraw(model string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == model {
		d.known = ""
	}
}

// convicts reports whether what came in place of a list refuses the key. One that
// is taken, but may not list the models, is told so with a 401 by some.
func convicts(list upstream.Answer) bool {
	return list.Doubt == upstream.DoubtKey && !strings.Contains(strings.ToLower(list.Message), "scope")
}

// second asks a model that was not asked yet, when enough prompts of one
// model were refused and nothing is known of any other.
func (d *doubts) second(ctx context.Context) finding {
	d.mu.Lock()
	models, all := d.against()
	asked := map[string]bool{}
	for _, r := range d.refused {
		asked[r.model] = true
	}
	d.mu.Unlock()
	if all.of != theKey || models >= refusedModels {
		return finding{}
	}
	switch a := d.other(ctx, asked); a.Doubt {
	case upstream.DoubtCredit, upstream.DoubtAccess, upstream.DoubtSpend:
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.convict(all)
	}
	return finding{}
}

// other asks the first model that is listed, served and not among those asked; the
// answer has no outcome when there is none.
func (d *doubts) other(ctx context.Context, asked map[string]bool) (a upstream.Answer) {
	_, names := d.asker.Models(ctx)
	for _, name := range names {
		if asked[name] || !Serves(d.models, name) {
			continue
		}
		sent := d.now()
		a = d.asker.Do(ctx, ping(name))
		d.answered(name, a.Outcome, d.now().Sub(sent))
		break
	}
	return a
}
