package pool

import (
	"context"

	"github.com/sluicehq/sluice/tasks"
)

// Paused reports whether a pool is paused, as far as is known.
func (s *Set) Paused(ctx context.Context, pool string) bool {
	m, ok := s.member(pool)
	if !ok {
		return false
	}
	state, err := m.Breaker.State(ctx)
	return err == nil && state.Paused
}

// Adopt gives a job the fallback models of its pool when it has no list of its
// own. A caller who wants no other model sends an empty one.
func (s *Set) Adopt(j *tasks.Job) {
	if j.Fallback != nil {
		return
	}
	m, _ := s.member(j.Pool)
	for _, model := range m.Fallback {
		if model != j.Model {
			j.Fallback = append(j.Fallback, model)
		}
	}
}

// Next finds the next model of a job's list whose pool takes calls; false: there
// is none. A job goes forward in its list only, and the provider's own body is
// only sent to a provider of the same dialect. samePool lets another model of the
// job's own pool answer.
func (s *Set) Next(ctx context.Context, j tasks.Job, samePool bool) (tasks.Detour, bool) {
	from, _ := s.member(j.Pool)
	for i := j.Passed; i < len(j.Fallback); i++ {
		name, ok := s.Match(j.Fallback[i])
		if !ok || name == j.Pool && !samePool {
			continue
		}
		to, _ := s.member(name)
		if j.Request.Kind == tasks.Raw && from.Dialect != to.Dialect {
			continue
		}
		if state, err := to.Breaker.State(ctx); err != nil || state.Paused {
			continue
		}
		d := tasks.Detour{Pool: name, Passed: i + 1, Left: len(j.Fallback) - i - 1}
		d.Input, d.Output = j.Request.Use()
		return d, true
	}
	return tasks.Detour{}, false
}
