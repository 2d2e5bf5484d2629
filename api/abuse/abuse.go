// Package abuse watches how tenants behave: it keeps, for each, keyed hashes and sums of its
// submits, and tells what is out of the ordinary by named rules, each with its window and its
// measure.
//
// It promises that no content is kept or can be read from what is kept, that one signal alone
// never leads to an action, that a tenant's own past counts only once there is one, and that
// while Redis is away nothing is judged and nobody is refused. A submit waits for none of it:
// what was seen is kept once a second, of all tenants in one round trip.
//
// It is not the judge of intent: a paraphrase by a model looks new to every rule here, and what
// is done for the first time, much and all alike, looks like a stolen key. Therefore it is
// watched first, and acted upon where an operator has asked for that.
package abuse

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/tasks"
)

// Store keeps how tenants behave.
type Store interface {
	// SaveConducts keeps what nobody has kept anything newer of, and returns what is newer; a
	// Version of -1 only reads. now is Redis's clock.
	SaveConducts(ctx context.Context, list []tasks.Conduct) (newer []tasks.Conduct, now time.Time, err error)
	// ChangeConduct keeps one likewise, and the act in the audit with it: both or neither.
	ChangeConduct(ctx context.Context, c tasks.Conduct, act tasks.Act) (newer []tasks.Conduct, err error)
	// Conducts are those of tenants of which something was found, the newest first.
	Conducts(ctx context.Context, limit int) ([]tasks.Conduct, error)
}

// Config says what a Watch works with.
type Config struct {
	Store  Store         // required
	Secret []byte        // keys the hashes; the same in every process, or they compare nothing
	Window time.Duration // of volumes; 0: a minute
	Learn  time.Duration // before which a tenant has no past; 0: a week
	// Enforce has tenants climb the ladder; else everything is told and nothing is done.
	Enforce    bool
	Registerer prometheus.Registerer // nil: no metrics
	Log        *slog.Logger          // nil: nothing is logged
	Now        func() time.Time      // nil: time.Now
}

const (
	flushEvery  = time.Second
	flushWithin = 2 * time.Second
	together    = 32   // tenants kept in one script
	mostActs    = 2048 // of a tenant between two flushes that are looked at; of more only sums are taken
	mostTenants = 4096 // that have come between two flushes
	forgetAfter = 15 * time.Minute
	flushTries  = 3
)

// Watch is the step of a submit that looks at it. Its methods may be called at once from anywhere.
type Watch struct {
	c     Config
	rules Rules

	flags   *prometheus.CounterVec
	alarms  prometheus.Counter
	refused prometheus.Counter

	met bool // those that stand on a rung are known since the start; Flush alone asks

	mu    sync.Mutex
	seen  map[string][]Act  // by tenant, since the last flush
	keys  map[string]Key    // by tenant; emptied when full
	known map[string]*state // by tenant, as it was kept last
}

// state is what a process knows of a tenant.
type state struct {
	conduct Conduct
	version int64
	used    time.Time
	passed  float64 // in this window, while it is throttled
	refused uint32  // submits, that no Conduct counts yet
	window  int64
	told    [rules]int64 // when each rule's flag was last counted
	alarmed int64        // when an alarm was last counted
}

// New returns a watch, or what Config lacks.
func New(c Config) (*Watch, error) {
	if c.Store == nil || len(c.Secret) == 0 {
		return nil, errors.New("abuse: Config.Store and Secret are needed")
	}
	if c.Window <= 0 {
		c.Window = time.Minute
	}
	if c.Learn <= 0 {
		c.Learn = 7 * 24 * time.Hour
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	w := &Watch{
		c: c, rules: Rules{Window: c.Window, Learn: c.Learn, Model: NewModel(1), Enforce: c.Enforce},
		seen: map[string][]Act{}, keys: map[string]Key{}, known: map[string]*state{},
		flags: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_abuse_flags_total", Help: "Findings about tenants' submits, by rule; one that lasts counts once an hour.",
		}, []string{"rule"}),
		alarms: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_abuse_alarms_total", Help: "Tenants of which two independent rules tell at once; one that lasts counts once an hour.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_abuse_refused_total", Help: "Submits that were refused as abnormal_usage.",
		}),
	}
	if c.Registerer == nil {
		return w, nil
	}
	for _, m := range []prometheus.Collector{w.flags, w.alarms, w.refused} {
		if err := c.Registerer.Register(m); err != nil {
			return nil, fmt.Errorf("register the metrics of abuse: %w", err)
		}
	}
	return w, nil
}

// Visit is one submit.
type Visit struct {
	Tenant string
	// Who sent it, and from where; "": not known.
	User, Address, Credential string
	Models                    []string
	Jobs                      int    // 1; of a batch, its lines
	Tokens                    int64  // estimated, of all of them
	Cost                      int64  // at most, in billionths; 0: not known
	Body                      []byte // nil: it is not looked at, as of a batch's lines
}

// See notes a submit that was taken in. It does not wait and does not keep the body.
func (w *Watch) See(v *Visit) {
	k := w.key(v.Tenant)
	a := Act{Jobs: float64(v.Jobs), Tokens: float64(v.Tokens), Cost: float64(v.Cost) / 1000}
	for _, h := range []struct {
		name string
		to   *uint64
	}{{v.User, &a.User}, {v.Address, &a.Address}, {v.Credential, &a.Credential}} {
		if h.name != "" {
			*h.to = k.Hash(h.name)
		}
	}
	if len(v.Models) > 0 {
		a.Model = k.Hash(v.Models[0])
	}
	if v.Body != nil {
		p := k.Of(v.Body)
		a.Print = &p
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	list, ok := w.seen[v.Tenant]
	switch {
	case !ok && len(w.seen) >= mostTenants:
	case len(list) >= mostActs:
		last := &list[mostActs-1]
		last.Jobs, last.Tokens, last.Cost = last.Jobs+a.Jobs, last.Tokens+a.Tokens, last.Cost+a.Cost
	default:
		w.seen[v.Tenant] = append(list, a)
	}
}

// key is a tenant's, made once: it takes as long as to read a small prompt.
func (w *Watch) key(tenant string) Key {
	w.mu.Lock()
	k, ok := w.keys[tenant]
	w.mu.Unlock()
	if ok {
		return k
	}
	k = NewKey(w.c.Secret, tenant)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.keys) >= mostTenants {
		clear(w.keys)
	}
	w.keys[tenant] = k
	return k
}

// Allow refuses a submit of a tenant that is on a rung where that is done, with an
// *AbnormalError; of a tenant of which nothing is known, nobody.
func (w *Watch) Allow(tenant string) error {
	if !w.c.Enforce {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.known[tenant]
	if s == nil || s.conduct.Ladder.Rung == Observe || s.conduct.Ladder.Rung == Review { // of which the latter's jobs wait
		return nil
	}
	now := w.c.Now()
	e := &AbnormalError{Action: s.conduct.Ladder.Rung, Rules: s.conduct.standing(now), RetryAfter: time.Duration(descendAfter) * w.c.Window}
	if e.Action == Throttle {
		if n := number(now, w.c.Window); n != s.window {
			s.window, s.passed = n, 0
		}
		usual, _ := s.conduct.Volume[rate].usual(hourOf(now.UTC()))
		if s.passed++; s.passed <= max(5, 2*math.Expm1(usual)) {
			return nil
		}
		e.RetryAfter = w.rules.start(s.window + 1).Sub(now)
	}
	w.refused.Inc()
	s.refused++
	return e
}

// AbnormalError is a submit that is not taken in for what its tenant did.
type AbnormalError struct {
	Action     Action
	Rules      []Flag // that stood when the tenant came to its rung
	RetryAfter time.Duration
}

func (e *AbnormalError) Error() string {
	return "the tenant's usage is abnormal: " + e.Action.String()
}

// standing are the flags of the last hour.
func (c *Conduct) standing(now time.Time) (list []Flag) {
	for _, f := range c.Flags {
		if f.At > now.Add(-time.Hour).Unix() {
			list = append(list, f)
		}
	}
	return list
}

// Run keeps what was seen, until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	every := time.NewTicker(flushEvery)
	defer every.Stop()
	away := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
		err := w.Flush(ctx)
		if err != nil && !away && ctx.Err() == nil {
			w.c.Log.LogAttrs(ctx, slog.LevelWarn, "how tenants behave is not judged while the store is away", slog.Any("error", err))
		}
		away = err != nil
	}
}

// Flush keeps what was seen by now. Where the store does not answer, that is forgotten, and so is
// what was known: nobody is refused by what is old.
func (w *Watch) Flush(ctx context.Context) error {
	if !w.met {
		if err := w.meet(ctx); err != nil {
			w.mu.Lock()
			clear(w.seen)
			w.mu.Unlock()
			return err
		}
		w.met = true
	}
	now := w.c.Now()
	w.mu.Lock()
	seen := w.seen
	w.seen = map[string][]Act{}
	for name, s := range w.known {
		switch {
		case seen[name] != nil:
			s.used = now
		case s.conduct.Ladder.Rung > Observe:
			seen[name] = []Act{} // an admin may have released it
		case now.Sub(s.used) > forgetAfter:
			delete(w.known, name)
		}
	}
	w.mu.Unlock()
	names := make([]string, 0, together)
	for name := range seen {
		if names = append(names, name); len(names) == together {
			if err := w.keep(ctx, names, seen); err != nil {
				return err
			}
			names = names[:0]
		}
	}
	return w.keep(ctx, names, seen)
}

// meet gets to know the tenants that stand on a rung, of which this process may see no submit: of those
// under review the jobs wait on, and go on by themselves once nobody enforces it.
func (w *Watch) meet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushWithin)
	defer cancel()
	list, err := w.c.Store.Conducts(ctx, mostTold)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range list {
		s := &state{conduct: unpack(list[i].Data), version: list[i].Version, used: w.c.Now()}
		if s.conduct.Ladder.Rung > Observe && w.known[list[i].Tenant] == nil {
			w.known[list[i].Tenant] = s
		}
	}
	return nil
}

// keep takes in what some tenants did.
func (w *Watch) keep(ctx context.Context, names []string, seen map[string][]Act) error {
	for range flushTries {
		if len(names) == 0 {
			return nil
		}
		list := make([]tasks.Conduct, len(names))
		made := make(map[string]*state, len(names))
		for i, name := range names {
			list[i], made[name] = w.next(name, seen[name])
		}
		newer, err := w.save(ctx, list)
		if err != nil {
			w.mu.Lock()
			w.known = map[string]*state{}
			w.mu.Unlock()
			return err
		}
		names = names[:0]
		w.mu.Lock()
		for i := range newer {
			s := &state{conduct: unpack(newer[i].Data), version: newer[i].Version, used: w.c.Now()}
			old := w.known[newer[i].Tenant]
			if old != nil && old.version > 0 && s.version == 0 {
				delete(w.known, newer[i].Tenant) // the tenant was deleted, and so is what it did
				delete(made, newer[i].Tenant)
				continue
			}
			if old != nil {
				s.window, s.passed, s.refused, s.told, s.alarmed = old.window, old.passed, old.refused, old.told, old.alarmed
			}
			w.known[newer[i].Tenant] = s
			delete(made, newer[i].Tenant)
			if len(seen[newer[i].Tenant]) > 0 {
				names = append(names, newer[i].Tenant)
			}
		}
		for name, s := range made {
			if s == nil {
				continue
			}
			if now := w.known[name]; now != nil { // it has gone on meanwhile
				s.window, s.passed, s.refused = now.window, now.passed, now.refused-s.refused
			} else {
				s.refused = 0
			}
			w.known[name] = s
			w.count(s)
		}
		w.mu.Unlock()
	}
	return nil
}

// save keeps what becomes of some tenants, in one round trip.
func (w *Watch) save(ctx context.Context, list []tasks.Conduct) ([]tasks.Conduct, error) {
	ctx, cancel := context.WithTimeout(ctx, flushWithin)
	defer cancel()
	newer, _, err := w.c.Store.SaveConducts(ctx, list)
	return newer, err
}

// next is what becomes of a tenant by what it did; of one that this process does not know, what
// is kept of it is asked for first.
func (w *Watch) next(name string, acts []Act) (tasks.Conduct, *state) {
	now := w.c.Now()
	w.mu.Lock()
	known := w.known[name]
	if known == nil || len(acts) == 0 && known.refused == 0 && known.conduct.Window == number(now, w.c.Window) {
		w.mu.Unlock()
		return tasks.Conduct{Tenant: name, Version: -1}, nil
	}
	s := *known
	w.mu.Unlock()
	was := s.version
	s.version++
	s.conduct.Refused += s.refused
	for i := range acts {
		acts[i].At = now
		s.conduct.Take(&w.rules, &acts[i])
	}
	s.conduct.Close(&w.rules, now)
	return tasks.Conduct{Tenant: name, Version: was, Data: pack(&s.conduct), Found: len(s.conduct.standing(now)) > 0 || s.conduct.Ladder.Rung == Review, Held: s.conduct.held(&w.rules)}, &s
}

// count tells the metrics of new findings.
func (w *Watch) count(s *state) {
	for _, f := range s.conduct.Flags {
		if f.At > 0 && f.Rule < rules && f.At > s.told[f.Rule]+3600 {
			s.told[f.Rule] = f.At
			w.flags.WithLabelValues(f.Rule.String()).Inc()
		}
	}
	if l := &s.conduct.Ladder; l.Alarm && s.conduct.Window*int64(w.c.Window/time.Second) > s.alarmed+3600 {
		s.alarmed = s.conduct.Window * int64(w.c.Window/time.Second)
		w.alarms.Inc()
	}
}

// Found is what was found of a tenant.
type Found struct {
	Tenant string
	Action Action // where it stands
	Flags  []Flag // each rule's newest
}

// Of is what was found of one tenant in the last week; a tenant of which nothing is kept has no flags.
func (w *Watch) Of(ctx context.Context, tenant string) (Found, error) {
	got, _, err := w.c.Store.SaveConducts(ctx, []tasks.Conduct{{Tenant: tenant, Version: -1}})
	if err != nil || len(got) == 0 {
		return Found{Tenant: tenant}, err
	}
	return w.found(&got[0]), nil
}

// All is what was found of all tenants, the newest first.
func (w *Watch) All(ctx context.Context) ([]Found, error) {
	list, err := w.c.Store.Conducts(ctx, mostTold)
	out := make([]Found, 0, len(list))
	for i := range list {
		if f := w.found(&list[i]); len(f.Flags) > 0 {
			out = append(out, f)
		}
	}
	return out, err
}

const (
	mostTold = 1000 // tenants
	toldFor  = 7 * 24 * time.Hour
)

func (w *Watch) found(kept *tasks.Conduct) Found {
	c := unpack(kept.Data)
	f := Found{Tenant: kept.Tenant, Action: c.Ladder.Rung}
	for _, flag := range c.Flags {
		if flag.At > w.c.Now().Add(-toldFor).Unix() && flag.Rule < rules {
			flag.Action = min(flag.Action, f.Action) // an admin may have released it since
			f.Flags = append(f.Flags, flag)
		}
	}
	if len(f.Flags) == 0 && f.Action > Observe { // it stands there by what was found before
		last := slices.MaxFunc(c.Flags[:], func(a, b Flag) int { return cmp.Compare(a.At, b.At) })
		f.Flags = append(f.Flags, last)
	}
	return f
}

// Release is an admin's word that what was found of a tenant is no abuse: it is free at once, and
// it is its habit from now on. The act is in the audit when that is done, and not when it is not.
// tasks.ErrNotFound: nothing is kept of the tenant.
func (w *Watch) Release(ctx context.Context, tenant string, act tasks.Act) error {
	got, _, err := w.c.Store.SaveConducts(ctx, []tasks.Conduct{{Tenant: tenant, Version: -1}})
	for range 10 { // the tenant may be faster
		switch {
		case err != nil:
			return err
		case len(got) == 0:
			w.mu.Lock()
			delete(w.known, tenant)
			w.mu.Unlock()
			return nil
		case got[0].Version == 0:
			return fmt.Errorf("release %s: %w", tenant, tasks.ErrNotFound)
		}
		s := unpack(got[0].Data)
		s.release(&w.rules, w.c.Now())
		got, err = w.c.Store.ChangeConduct(ctx, tasks.Conduct{Tenant: tenant, Version: got[0].Version, Data: pack(&s)}, act)
	}
	return fmt.Errorf("release %s: %w", tenant, tasks.ErrUnavailable)
}

// pack is a Conduct as it is kept.
func pack(c *Conduct) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, c)
	if err != nil {
		panic(err) // it is of one size, which a test shows
	}
	return b
}

// unpack reads what was kept; what another release has written in another form is as nothing.
func unpack(b []byte) (c Conduct) {
	if _, err := binary.Decode(b, binary.LittleEndian, &c); err != nil || c.Version != conductVersion {
		return Conduct{}
	}
	return c
}
