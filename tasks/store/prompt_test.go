package store_test

import (
	"errors"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// A prompt is read back as it was sent, wherever and however it lies, by its tenant alone.
func TestAPromptIsReadBackByItsTenant(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ apart, seals bool }{"in the record": {}, "apart": {apart: true}, "sealed": {seals: true}, "sealed apart": {true, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := store.Config{Redis: redistest.New(t), Depth: map[string]int{pool: 1}}
			if c.apart {
				b, err := bodies.Open(bodies.Config{URL: "file://" + t.TempDir()})
				must(t, err)
				t.Cleanup(b.Close)
				cfg.Bodies, cfg.Above = b, above
			}
			if c.seals {
				cfg.Seal = ringOf(t, "a")
			}
			s := store.New(cfg)
			for _, body := range []string{`"short"`, string(large(asks))} {
				j := job("acme")
				j.Request.Body, j.Request.Kind = []byte(body), tasks.Text
				made, _, err := s.Create(t.Context(), tasks.Submission{Job: j})
				must(t, errors.Join(err, made[0].Err))
				got, err := s.Prompt(t.Context(), "acme", j.ID)
				if err != nil || string(got.Request.Body) != body || got.Request.Kind != tasks.Text || got.Model != j.Model {
					t.Errorf("read %+v, %v, want %.40s", got, err, body)
				}
				if _, err := s.Prompt(t.Context(), "zoe", j.ID); !errors.Is(err, tasks.ErrNotFound) {
					t.Errorf("another tenant reads it: %v", err)
				}
			}
			if _, err := s.Prompt(t.Context(), "acme", "job_nosuch"); !errors.Is(err, tasks.ErrNotFound) {
				t.Errorf("no such job: %v", err)
			}
		})
	}
}
