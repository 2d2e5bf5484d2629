package kill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/tasks"
)

// flow does once what callers and an operator do: submit and wait within the call,
// listen, drain a batch, pause and resume, cancel, and restart every process.
func (e *evidence) flow(ctx context.Context, s *rig.Stage, c *rig.Client) error {
	for _, step := range []struct {
		name string
		do   func(context.Context, *rig.Client) error
	}{
		{"wait within the submit, and the webhook", e.flowWait},
		{"events", e.flowEvents},
		{"a batch and its results", e.flowBatch},
		{"pause and resume", e.flowPause},
		{"cancel", func(ctx context.Context, c *rig.Client) error {
			e.jobs = append(e.jobs, accepted{prompt: "flow: for later"})
			return e.jobs[len(e.jobs)-1].cancelLater(ctx, c, "flow-later")
		}},
		{"restart", func(ctx context.Context, c *rig.Client) error { return e.flowRestart(ctx, s, c) }},
	} {
		if err := step.do(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// submit has a job of the flow accepted.
func (e *evidence) one(ctx context.Context, c *rig.Client, name string) (id string, err error) {
	prompt := "flow: " + name
	id, err = c.Submit(ctx, "flow-"+name, prompt, maxTokens)
	e.jobs = append(e.jobs, accepted{prompt: prompt, id: id, hook: true})
	return id, err
}

// ends waits until a job has succeeded.
func ends(ctx context.Context, c *rig.Client, id string) error {
	j, err := c.Job(ctx, id, 20*time.Second)
	if err == nil && j.Status != string(tasks.StatusSucceeded) {
		err = fmt.Errorf("job %s is %s", id, j.Status)
	}
	return err
}

// expect asks for an answer of that status.
func expect(ctx context.Context, c *rig.Client, status int, method, path, key string, body any) ([]byte, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	a, err := c.Ask(ctx, method, path, key, text)
	if err == nil && a.Status != status {
		err = fmt.Errorf("%s %s: status %d, want %d: %.300s", method, path, a.Status, status, a.Body)
	}
	return a.Body, err
}

func (e *evidence) flowWait(ctx context.Context, c *rig.Client) error {
	id, err := e.one(ctx, c, "wait")
	if err != nil {
		return err
	}
	if err := ends(ctx, c, id); err != nil {
		return err
	}
	return rig.Until(ctx, 10*time.Second, "the webhook comes", func(context.Context) (bool, error) {
		return e.inbox.has(event{"job.succeeded", id}), nil
	})
}

func (e *evidence) flowEvents(ctx context.Context, c *rig.Client) error {
	id, err := e.one(ctx, c, "events")
	if err != nil {
		return err
	}
	text, err := expect(ctx, c, http.StatusOK, http.MethodGet, "/v1/jobs/"+id+"/events", "", nil)
	if err == nil && !strings.Contains(string(text), "event: done") {
		err = fmt.Errorf("the stream has no end: %s", text)
	}
	return err
}

func (e *evidence) flowBatch(ctx context.Context, c *rig.Client) error {
	lines := make([]accepted, batchSize)
	for i := range lines {
		lines[i].prompt = fmt.Sprintf("flow: line %d", i)
	}
	id, err := submitBatch(ctx, c, "flow-batch", lines)
	if err != nil {
		return err
	}
	e.jobs, e.batches = append(e.jobs, lines...), append(e.batches, rig.Batch{ID: id})
	for i := range lines {
		if err := ends(ctx, c, lines[i].id); err != nil {
			return err
		}
	}
	text, err := expect(ctx, c, http.StatusOK, http.MethodGet, "/v1/batches/"+id+"/results", "", nil)
	if n := strings.Count(string(text), "\n"); err == nil && n != batchSize {
		err = fmt.Errorf("%d lines of results", n)
	}
	return err
}

func (e *evidence) flowPause(ctx context.Context, c *rig.Client) error {
	if _, err := expect(ctx, c, http.StatusOK, http.MethodPost, "/v1/pools/"+rig.Pool+"/pause", "flow-pause", map[string]string{"reason": "proof"}); err != nil {
		return err
	}
	id, err := e.one(ctx, c, "paused")
	if err != nil {
		return err
	}
	if j, err := c.Job(ctx, id, time.Second); err != nil || j.Status != string(tasks.StatusQueued) {
		return fmt.Errorf("a job of a paused pool is %q, %w", j.Status, errors.Join(err))
	}
	if _, err := expect(ctx, c, http.StatusOK, http.MethodPost, "/v1/pools/"+rig.Pool+"/resume", "flow-resume", map[string]string{}); err != nil {
		return err
	}
	return ends(ctx, c, id)
}

// flowRestart stops and starts every process in order, while a job waits.
func (e *evidence) flowRestart(ctx context.Context, s *rig.Stage, c *rig.Client) error {
	id, err := e.one(ctx, c, "restart")
	if err != nil {
		return err
	}
	for _, p := range s.Procs() {
		if err := errors.Join(p.Stop(), p.Start()); err != nil {
			return err
		}
	}
	for _, p := range s.Procs() {
		if err := p.AwaitReady(ctx); err != nil {
			return err
		}
	}
	return ends(ctx, c, id)
}

// cancelLater has a job accepted that is for later, and cancels it.
func (j *accepted) cancelLater(ctx context.Context, c *rig.Client, key string) error {
	text, err := expect(ctx, c, http.StatusAccepted, http.MethodPost, "/v1/jobs", key, map[string]any{
		"model": rig.Model, "prompt": j.prompt, "not_before": time.Now().Add(time.Hour).UTC().Format(time.RFC3339), "webhook_url": c.Webhook,
	})
	if err != nil {
		return err
	}
	var it rig.Job
	if err := json.Unmarshal(text, &it); err != nil {
		return err
	}
	j.id, j.hook, j.cancel = it.ID, true, true
	a, err := c.Ask(ctx, http.MethodPost, "/v1/jobs/"+j.id+"/cancel", "", nil)
	if err == nil && a.Status != http.StatusOK && a.Status != http.StatusConflict { // conflict: an answer before was lost
		err = fmt.Errorf("cancel %s: status %d: %s", j.id, a.Status, a.Body)
	}
	return err
}
