package pages

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// world is what the pages show: jobs in every state of several tenants, batches, webhooks
// that arrive and that do not, a pool that is paused, tokens, and acts of the audit.
type world struct {
	stage    *rig.Stage
	receiver string

	done, failed, waits, batch, delivery string // ids
}

// pages are the pages, each with the roles that are refused.
func (w *world) pages() []page {
	return []page{
		{Name: "pools", Path: "/", Picture: true},
		{Name: "pool", Path: "/pools/" + rig.Pool, Picture: true},
		{Name: "pause", Path: "/console/pools/" + rig.Pool + "/pause", refuses: []string{"monitor", "caller"}},
		{Name: "jobs", Path: "/jobs", Picture: true},
		{Name: "job", Path: "/jobs/" + w.done, Picture: true},
		{Name: "job-failed", Path: "/jobs/" + w.failed, Picture: true},
		{Name: "job-waits", Path: "/jobs/" + w.waits, Picture: true},
		{Name: "prompt", Path: "/jobs/" + w.done + "/prompt", refuses: []string{"monitor"}},
		{Name: "many", Path: "/jobs/cancel?tenant=acme", refuses: []string{"monitor"}},
		{Name: "batches", Path: "/batches", Picture: true},
		{Name: "upload", Path: "/batches/new", Picture: true},
		{Name: "batch", Path: "/batches/" + w.batch, Picture: true},
		{Name: "webhooks", Path: "/webhooks", Picture: true},
		{Name: "delivery", Path: "/webhooks/" + w.delivery, Picture: true},
		{Name: "new", Path: "/new", Picture: true},
		{Name: "usage", Path: "/usage?tenant=acme", Picture: true},
		{Name: "tenants", Path: "/tenants", Picture: true, refuses: []string{"caller"}},
		{Name: "audit", Path: "/audit", Picture: true, refuses: []string{"monitor", "caller"}},
		{Name: "docs", Path: "/docs"},
		{Name: "asynqmon", Path: "/monitoring", Foreign: true, refuses: []string{"caller"}},
	}
}

// refused reports whether the page refuses who looks.
func (s *sight) refused() bool {
	return slices.ContainsFunc(new(world).pages(), func(p page) bool { return p.Name == s.Name && slices.Contains(p.refuses, s.Role) })
}

// ofOthers reports whether a page is not of our making.
func ofOthers(name string) bool {
	return slices.ContainsFunc(new(world).pages(), func(p page) bool { return p.Name == name && p.Foreign })
}

// fill makes what the pages show.
func (w *world) fill(ctx context.Context) error {
	for _, step := range []func(context.Context) error{w.webhooks, w.jobs, w.batches, w.acts} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// ask sends a request as a tenant, and reads what is wanted of the answer.
func (w *world) ask(ctx context.Context, tenant, method, path string, body, into any) error {
	token, err := rig.TokenOf(tenant)
	if err != nil {
		return err
	}
	c := w.stage.ClientOf(token)
	defer c.Close()
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	a, err := c.Ask(ctx, method, path, "", b)
	if err != nil {
		return err
	}
	if a.Status >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: %d %s", method, path, a.Status, a.Body)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(a.Body, into)
}

type named struct {
	ID string `json:"id"`
}

func (w *world) webhooks(ctx context.Context) error {
	for _, path := range []string{"/in", "/broken"} {
		body := map[string]any{"url": w.receiver + path, "events": []string{"job.succeeded", "job.failed"}}
		if err := w.ask(ctx, "acme", http.MethodPost, "/v1/webhook-endpoints", body, nil); err != nil {
			return err
		}
	}
	return nil
}

// job submits one, and waits for its end where that is wanted.
func (w *world) job(ctx context.Context, tenant, prompt string, ends bool, more map[string]any) (id string, err error) {
	body := map[string]any{"model": rig.Model, "prompt": prompt, "max_tokens": 200, "metadata": map[string]string{"team": "search"}}
	for k, v := range more {
		body[k] = v
	}
	var made named
	if err := w.ask(ctx, tenant, http.MethodPost, "/v1/jobs", body, &made); err != nil || !ends {
		return made.ID, err
	}
	return made.ID, rig.Until(ctx, time.Minute, "the job ends", func(ctx context.Context) (bool, error) {
		var j rig.Job
		err := w.ask(ctx, tenant, http.MethodGet, "/v1/jobs/"+made.ID, nil, &j)
		return j.Final(), err
	})
}

func (w *world) jobs(ctx context.Context) (err error) {
	if w.done, err = w.job(ctx, "acme", "Why is the sky blue?", true, nil); err != nil {
		return err
	}
	if w.failed, err = w.job(ctx, "acme", "[[fault:400]] Why is the sea green?", true, nil); err != nil {
		return err
	}
	for i := range 60 {
		tenant := []string{"acme", "globex", "initech"}[i%3]
		if w.waits, err = w.job(ctx, tenant, fmt.Sprintf("Sum up ticket %d in one line.", i), false, nil); err != nil {
			return err
		}
	}
	w.waits, err = w.job(ctx, "acme", "Sum up the year.", false, map[string]any{"not_before": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
	if err != nil {
		return err
	}
	if _, err = w.job(ctx, "acme", "Is it open?", false, map[string]any{"model": "closed-1"}); err != nil {
		return err
	}
	return rig.Until(ctx, time.Minute, "a webhook is on its way", func(ctx context.Context) (bool, error) {
		var sent struct{ Data []named }
		err := w.ask(ctx, "acme", http.MethodGet, "/v1/deliveries?limit=1", nil, &sent)
		if len(sent.Data) > 0 {
			w.delivery = sent.Data[0].ID
		}
		return w.delivery != "", err
	})
}

func (w *world) batches(ctx context.Context) error {
	for n := range 2 {
		var jobs []map[string]any
		for i := range 40 {
			jobs = append(jobs, map[string]any{"custom_id": fmt.Sprint("row-", i), "model": rig.Model, "prompt": strings.Repeat("word ", 5+n+i), "max_tokens": 100})
		}
		var made named
		if err := w.ask(ctx, "acme", http.MethodPost, "/v1/batches", map[string]any{"jobs": jobs}, &made); err != nil {
			return err
		}
		w.batch = made.ID
	}
	return nil
}

func (w *world) acts(ctx context.Context) error {
	if err := w.ask(ctx, "ops", http.MethodPost, "/v1/pools/closed/pause", map[string]any{"reason": "the invoice is being looked at"}, nil); err != nil {
		return err
	}
	if err := w.ask(ctx, "ops", http.MethodPut, "/v1/tenants/globex", map[string]any{"queued_jobs": 500, "running_jobs": 4, "tokens_per_day": 2_000_000}, nil); err != nil {
		return err
	}
	for _, name := range []string{"ci", "notebook"} {
		body := map[string]any{"tenant": "acme", "scope": "jobs:read jobs:write", "ttl": "90d", "name": name}
		if err := w.ask(ctx, "ops", http.MethodPost, "/v1/tokens", body, nil); err != nil {
			return err
		}
	}
	return nil
}
