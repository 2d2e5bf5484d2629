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
		member(upstream.Anthropic, lists(`{"data":[{"id":"claude-1"}]}`), "*"),
	)
	got := ""
	for _, m := range s.Models(t.Context(), "openai") {
		got += m.ID + string(m.Body) + " "
	}
	if want := `gpt-1{"id":"gpt-1","owned_by":"x"} gpt-own away mute `; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}
