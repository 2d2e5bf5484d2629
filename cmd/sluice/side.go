package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/api/anthropic"
	faults "github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/upstream"
)

const (
	modelsKept  = time.Minute      // a provider's list serves again
	modelsRetry = 10 * time.Second // after a list that did not come
	modelsWait  = 10 * time.Second // for a list
	countTries  = 4                // at a count that the provider does not make
)

// sides asks the providers of one dialect for what is no job, from the API's process.
type sides struct {
	list   []*side            // in the order of the pools
	byPool map[string][]place // of each account
	serial atomic.Uint64
	lead   string // of the names of waits, which no other process has
}

// place is where an account of a pool is asked.
type place struct {
	*side
	shut func() bool // it takes no calls, as far as is known; nil: nobody knows
}

// side is one provider.
type side struct {
	caller *upstream.Caller
	gate   *limit.Gate // of its counts of tokens, which have an allowance of their own there
	globs  []string    // of the pools that it serves

	mu     sync.Mutex
	models []anthropic.Model
	until  time.Time
}

// newSides makes the way to each provider of a dialect.
func (s *service) newSides(dialect string) (*sides, error) {
	out := &sides{byPool: map[string][]place{}, lead: s.newID("count")}
	made := map[string]*side{}
	for _, p := range s.cfg.Pools {
		if s.provider(p).Dialect != dialect {
			continue
		}
		for _, a := range s.cfg.AccountsOf(p) {
			one := made[a.Provider]
			if one == nil {
				var err error
				if one, err = s.side(a); err != nil {
					return nil, err
				}
				made[a.Provider], out.list = one, append(out.list, one)
			}
			one.globs = append(one.globs, p.Models...)
			at := place{side: one}
			if h := s.healths[p.Name+"."+a.ID]; p.Several() && h != nil {
				at.shut = h.Shut
			}
			out.byPool[p.Name] = append(out.byPool[p.Name], at)
		}
	}
	return out, nil
}

// side makes the way to an account's provider.
func (s *service) side(a config.Account) (*side, error) {
	caller, err := s.caller(s.reached(a.Provider), a.Models)
	if err != nil {
		return nil, err
	}
	gate, err := limit.New(limit.Config{
		Redis: s.joined, Prefix: s.cfg.Redis.Prefix, Pool: a.Provider + ":token_count", Timeout: modelsWait, FollowProvider: true, Log: s.log,
		Limits: limit.Limits{RequestsPerMinute: a.Limits.RequestsPerMinute, RequestBurst: int(a.Limits.RequestBurst)},
	})
	if err != nil {
		return nil, fmt.Errorf("providers.%s: %w", a.Provider, err)
	}
	return &side{caller: caller, gate: gate}, nil
}

// places are the accounts of a pool in the order in which they are asked: those that take calls first.
func (s *sides) places(pool string) []place {
	list := slices.Clone(s.byPool[pool])
	shut := func(p place) int {
		if p.shut != nil && p.shut() {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(list, func(a, b place) int { return shut(a) - shut(b) })
	return list
}

// Models lists what the pools serve.
func (s *sides) Models(ctx context.Context) []anthropic.Model {
	var all []anthropic.Model
	for _, one := range s.list {
		for _, m := range one.list(ctx) {
			if !slices.ContainsFunc(all, func(n anthropic.Model) bool { return n.ID == m.ID }) {
				all = append(all, m)
			}
		}
	}
	return all
}

// Model is one model of a pool's provider.
func (s *sides) Model(ctx context.Context, pool, id string) (anthropic.Model, error) {
	places := s.places(pool)
	if len(places) == 0 {
		return anthropic.Model{}, tasks.ErrNotFound
	}
	one := places[0]
	list := one.list(ctx)
	if i := slices.IndexFunc(list, func(m anthropic.Model) bool { return m.ID == id }); i >= 0 {
		return list[i], nil
	}
	ctx, cancel := context.WithTimeout(ctx, modelsWait)
	defer cancel()
	a := one.caller.Side(ctx, "/models/"+url.PathEscape(id), &tasks.Request{})
	if a.Outcome != tasks.Succeeded {
		return anthropic.Model{}, tasks.ErrNotFound
	}
	return anthropic.Model{ID: id, Body: a.Result}, nil
}

// list is the provider's list, narrowed to what its pools serve; where it has none, the
// names that are configured and no globs.
func (s *side) list(ctx context.Context) []anthropic.Model {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.until) {
		return s.models
	}
	ctx, cancel := context.WithTimeout(ctx, modelsWait)
	defer cancel()
	a := s.caller.Side(ctx, "/models?limit=1000", &tasks.Request{})
	var said struct {
		Data []json.RawMessage `json:"data"`
	}
	if a.Outcome != tasks.Succeeded || json.Unmarshal(a.Result, &said) != nil || said.Data == nil {
		if s.until = time.Now().Add(modelsRetry); s.models == nil {
			s.models = s.named()
		}
		return s.models
	}
	s.models, s.until = nil, time.Now().Add(modelsKept)
	for _, raw := range said.Data {
		var m struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(raw, &m) == nil && pool.Serves(s.globs, m.ID) {
			s.models = append(s.models, anthropic.Model{ID: m.ID, Body: raw})
		}
	}
	return s.models
}

// named are the configured names. When they came out is not known, which the form says
// by the beginning of time.
func (s *side) named() []anthropic.Model {
	var list []anthropic.Model
	for _, name := range s.globs {
		if !strings.ContainsAny(name, `*?[\`) {
			id := strconv.Quote(name)
			list = append(list, anthropic.Model{ID: name, Body: json.RawMessage(`{"type":"model","id":` + id + `,"display_name":` + id + `,"created_at":"1970-01-01T00:00:00Z"}`)})
		}
	}
	return list
}

// CountTokens asks a pool's provider, in its own pace; of several accounts one that takes calls,
// and the next one where that is refused.
func (s *sides) CountTokens(ctx context.Context, pool string, r tasks.Request) (status int, body []byte, err error) {
	places := s.places(pool)
	if len(places) == 0 {
		return 0, nil, tasks.ErrNotFound
	}
	for try := 1; ; {
		a, err := s.counted(ctx, &places, &r)
		switch {
		case err != nil:
			return 0, nil, err
		case a.Outcome == tasks.Succeeded:
			return http.StatusOK, a.Result, nil
		case a.Outcome == tasks.RateLimited, a.Outcome == tasks.RampLimited:
			try = 1
		case ctx.Err() != nil:
			return 0, nil, ctx.Err()
		case passes(a.Outcome) && try < countTries:
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(try) * 500 * time.Millisecond):
			}
			try++
		case a.Status >= 400 && a.Refusal != nil && a.Outcome != tasks.Unauthorized:
			return a.Status, a.Refusal, nil
		default:
			f := faults.Fail(faults.Unavailable, "The provider did not count the tokens.")
			f.RetryAfter = faults.DefaultRetryAfter
			return 0, nil, f
		}
	}
}

// counted asks the places in turn until one of them does not turn the count away, and drops those that do.
func (s *sides) counted(ctx context.Context, places *[]place, r *tasks.Request) (a upstream.Answer, err error) {
	for {
		a, err = (*places)[0].counted(ctx, s.lead+":"+strconv.FormatUint(s.serial.Add(1), 10), r)
		away := a.Outcome == tasks.Unauthorized || a.Outcome == tasks.SpendLimited || passes(a.Outcome)
		if err != nil || !away || len(*places) == 1 {
			return a, err
		}
		*places = (*places)[1:]
	}
}

// counted has tokens counted once, in the pool's pace; a refusal for it holds the pool
// back.
func (s *side) counted(ctx context.Context, id string, r *tasks.Request) (upstream.Answer, error) {
	grant, err := s.gate.Take(ctx, limit.Need{ID: id})
	if err != nil {
		return upstream.Answer{}, cmp.Or(ctx.Err(), err)
	}
	a := s.caller.Side(ctx, "/messages/count_tokens", r)
	late := context.WithoutCancel(ctx)
	err = s.gate.Settle(late, grant, limit.Actual{Refused: a.Outcome == tasks.RateLimited, Known: true})
	if a.Outcome != tasks.RateLimited && a.Outcome != tasks.RampLimited {
		return a, nil
	}
	wait := time.Second
	if a.HasRetryAfter {
		wait = a.RetryAfter
	}
	return a, errors.Join(err, s.gate.Hold(late, wait, string(a.Outcome)))
}

// passes reports whether another call may well succeed after such an outcome.
func passes(o tasks.Outcome) bool {
	switch o {
	case tasks.Overloaded, tasks.ServerError, tasks.Timeout, tasks.ConnectError, tasks.CutOff:
		return true
	}
	return false
}
