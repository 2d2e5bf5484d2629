package pool_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/upstream"
)

type lists string

func (l lists) Models(context.Context) (upstream.Answer, []string) {
	if l == "" {
		return upstream.Answer{Outcome: tasks.ConnectError}, nil
	}
	return upstream.Answer{Outcome: tasks.Succeeded, Result: []byte(l)}, nil
}

func TestTheModelsAreThoseThatPoolsServe(t *testing.T) {
	t.Parallel()
	member := func(d upstream.Dialect, l pool.Lister, globs ...string) pool.Member {
		return pool.Member{Spec: pool.Spec{Name: fmt.Sprint(globs), Dialect: d, Models: globs}, Lister: l}
	}
	s := pool.NewSet(nil, time.Now,
		member(upstream.OpenAI, lists(`{"data":[{"id":"gpt-1","owned_by":"x"},{"id":"other"},{"id":""},3]}`), "gpt-*", "gpt-own"),
		member(upstream.OpenAI, lists(""), "away", "away-*"),
		member(upstream.OpenAI, nil, "mute", "gpt-1"),
		member(upstream.Anthropic, lists(`{"data":[{"id":"claude-1"},{"id":"gpt-1"}]}`), "*"),
	)
	if _, ok := s.MatchIn("anthropic", "gpt-1"); ok {
		t.Error("* of one dialect serves what the other's pools name")
	}
	got := ""
	for _, m := range s.Models(t.Context(), "openai") {
		got += m.ID + string(m.Body) + " "
	}
	got += "| "
	for _, m := range s.Models(t.Context(), "anthropic") {
		got += m.ID + " "
	}
	if want := `gpt-1{"id":"gpt-1","owned_by":"x"} gpt-own away mute | claude-1 `; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}

// A mount serves the pools of its dialect; what both may serve is the one's that names it,
// else each has its own.
func TestAModelIsFoundInItsDialect(t *testing.T) {
	t.Parallel()
	of := func(name string, d upstream.Dialect, globs ...string) pool.Member {
		return pool.Member{Spec: pool.Spec{Name: name, Dialect: d, Models: globs}}
	}
	for _, row := range []struct {
		name    string
		members []pool.Member
		want    map[string][2]string // the pool at Anthropic's mount, and at OpenAI's
	}{
		{"both serve all", []pool.Member{of("a", upstream.Anthropic, "*"), of("o", upstream.OpenAI, "*")},
			map[string][2]string{"claude-1": {"a", "o"}, "gpt-1": {"a", "o"}}},
		{"each names its own and serves all", []pool.Member{of("a", upstream.Anthropic, "claude-*", "*"), of("o", upstream.OpenAI, "gpt-*", "*")},
			map[string][2]string{"claude-1": {"a", ""}, "gpt-1": {"", "o"}, "llama": {"a", "o"}}},
		{"both name it", []pool.Member{of("a", upstream.Anthropic, "claude-*"), of("o", upstream.OpenAI, "claude-1", "*")},
			map[string][2]string{"claude-1": {"a", "o"}, "claude-2": {"a", ""}, "llama": {"", "o"}}},
		{"another pool of the same dialect names it", []pool.Member{of("all", upstream.OpenAI, "*"), of("gpt", upstream.OpenAI, "gpt-*")},
			map[string][2]string{"gpt-1": {"", "all"}}},
		{"named by all of another form", []pool.Member{of("all", upstream.OpenAI, "**"), of("a", upstream.Anthropic, "claude-*")},
			map[string][2]string{"claude-1": {"a", "all"}}},
	} {
		s := pool.NewSet(nil, time.Now, row.members...)
		for model, want := range row.want {
			a, _ := s.MatchIn("anthropic", model)
			o, _ := s.MatchIn("openai", model)
			if got := [2]string{a, o}; got != want {
				t.Errorf("%s: %s is served by %q; want %q", row.name, model, got, want)
			}
		}
	}
}
