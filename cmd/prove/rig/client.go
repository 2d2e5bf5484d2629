package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// Client is a careful caller of the API: what fails because something is away
// (no connection, 503, a key that is still busy) is asked again, at the next
// API and with the same Idempotency-Key.
type Client struct {
	urls    []string
	token   string
	http    *http.Client
	turn    atomic.Uint64
	Retries atomic.Int64 // requests that were repeated
}

// Client returns a caller of all of the stage's APIs.
func (s *Stage) Client() *Client {
	return &Client{urls: s.URLs, token: s.Token, http: &http.Client{
		Timeout: 40 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	}}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Answer is what the API said.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	Tries  int
}

// Once asks the API with this index, modulo their number, once.
func (c *Client) Once(ctx context.Context, api int, method, path, key, media string, body []byte) (Answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.urls[api%len(c.urls)]+path, bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	res, err := c.http.Do(r)
	if err != nil {
		return Answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return Answer{}, err
	}
	return Answer{Status: res.StatusCode, Header: res.Header, Body: b}, nil
}

// Do asks until there is an answer that says something.
func (c *Client) Do(ctx context.Context, method, path, key, media string, body []byte) (Answer, error) {
	for try := 1; ; try++ {
		a, err := c.Once(ctx, int(c.turn.Add(1)%uint64(len(c.urls))), method, path, key, media, body)
		a.Tries = try
		wait := 100 * time.Millisecond
		switch {
		case err == nil && a.Status == http.StatusServiceUnavailable, err == nil && a.Status == http.StatusConflict && key != "":
			if s, err := strconv.Atoi(a.Header.Get("Retry-After")); err == nil && s > 0 {
				wait = min(time.Duration(s)*time.Second, time.Second)
			}
		case err == nil:
			return a, nil
		}
		c.Retries.Add(1)
		select {
		case <-ctx.Done():
			return a, fmt.Errorf("%s %s: %w", method, path, errors.Join(ctx.Err(), err))
		case <-time.After(wait):
		}
	}
}

// Job is what the API says of a job, as far as a proof asks.
type Job struct {
	ID         string          `json:"id"`
	Status     string          `json:"status"`
	Attempts   int             `json:"attempts"`
	CustomID   string          `json:"custom_id"`
	FinishedAt string          `json:"finished_at"`
	Result     json.RawMessage `json:"result"`
	Text       string          `json:"text"`
	Error      *struct {
		Code        string `json:"code"`
		MaybeBilled bool   `json:"maybe_billed"`
	} `json:"error"`
	Upstream *struct {
		Attempts []struct {
			N           int    `json:"n"`
			Outcome     string `json:"outcome"`
			MaybeBilled bool   `json:"maybe_billed"`
		} `json:"attempts"`
	} `json:"upstream"`
}

// Final reports whether the job has ended.
func (j Job) Final() bool {
	switch j.Status {
	case "succeeded", "failed", "canceled", "expired":
		return true
	}
	return false
}

// Body is a submit of a text prompt.
func Body(prompt string, maxTokens int) []byte {
	b, err := json.Marshal(map[string]any{"model": Model, "prompt": prompt, "max_tokens": maxTokens})
	if err != nil {
		panic(err) // strings and a number
	}
	return b
}

// Submit has one job accepted and returns its id.
func (c *Client) Submit(ctx context.Context, key, prompt string, maxTokens int) (string, error) {
	a, err := c.Do(ctx, http.MethodPost, "/v1/jobs", key, "application/json", Body(prompt, maxTokens))
	if err != nil {
		return "", err
	}
	// The answer to a key whose first answer was lost with its API may be the job
	// as it stands by now, finished.
	again := a.Status == http.StatusOK && a.Header.Get("Idempotency-Replayed") == "true"
	var j Job
	if err := json.Unmarshal(a.Body, &j); err != nil || a.Status != http.StatusAccepted && !again || j.ID == "" {
		return "", fmt.Errorf("submit: status %d, %s", a.Status, a.Body)
	}
	return j.ID, nil
}

// SubmitBatch has a batch accepted, a line a prompt, and returns its id.
func (c *Client) SubmitBatch(ctx context.Context, key string, prompts []string, maxTokens int) (string, error) {
	var lines bytes.Buffer
	for _, p := range prompts {
		lines.Write(Body(p, maxTokens))
		lines.WriteByte('\n')
	}
	a, err := c.Do(ctx, http.MethodPost, "/v1/batches", key, "application/x-ndjson", lines.Bytes())
	if err != nil {
		return "", err
	}
	var g struct{ ID string }
	if err := json.Unmarshal(a.Body, &g); err != nil || a.Status != http.StatusAccepted || g.ID == "" {
		return "", fmt.Errorf("submit a batch: status %d, %s", a.Status, a.Body)
	}
	return g.ID, nil
}

// Job reads a job, after up to wait for its end.
func (c *Client) Job(ctx context.Context, id string, wait time.Duration) (Job, error) {
	path := "/v1/jobs/" + id
	if wait >= time.Second {
		path += "?wait=" + strconv.Itoa(int(wait/time.Second))
	}
	a, err := c.Do(ctx, http.MethodGet, path, "", "", nil)
	if err != nil {
		return Job{}, err
	}
	var j Job
	if a.Status != http.StatusOK {
		return j, fmt.Errorf("read job %s: status %d, %s", id, a.Status, a.Body)
	}
	if err := json.Unmarshal(a.Body, &j); err != nil {
		return j, fmt.Errorf("read job %s: %w", id, err)
	}
	return j, nil
}

// Jobs lists jobs, newest first, all pages of them. query is added to each
// request, such as "batch=…".
func (c *Client) Jobs(ctx context.Context, query string) ([]Job, error) {
	var all []Job
	for after := ""; ; {
		path := "/v1/jobs?limit=100&" + query
		if after != "" {
			path += "&after=" + after
		}
		a, err := c.Do(ctx, http.MethodGet, path, "", "", nil)
		if err != nil {
			return nil, err
		}
		var page struct {
			Data    []Job
			HasMore bool `json:"has_more"`
			Next    string
		}
		if a.Status != http.StatusOK {
			return nil, fmt.Errorf("list jobs: status %d, %s", a.Status, a.Body)
		}
		if err := json.Unmarshal(a.Body, &page); err != nil {
			return nil, fmt.Errorf("list jobs: %w", err)
		}
		all = append(all, page.Data...)
		if !page.HasMore {
			return all, nil
		}
		after = page.Next
	}
}

// Batch is what the API says of a batch, as far as a proof asks.
type Batch struct {
	ID     string         `json:"id"`
	Status string         `json:"status"`
	Counts map[string]int `json:"counts"`
}

// Batch reads a batch.
func (c *Client) Batch(ctx context.Context, id string) (Batch, error) {
	var g Batch
	a, err := c.Do(ctx, http.MethodGet, "/v1/batches/"+id, "", "", nil)
	if err != nil {
		return g, err
	}
	if a.Status != http.StatusOK {
		return g, fmt.Errorf("read batch %s: status %d, %s", id, a.Status, a.Body)
	}
	return g, json.Unmarshal(a.Body, &g)
}

// Ask asks a provider in this process for a prompt's answer, past Sluice.
func Ask(ctx context.Context, provider http.Handler, prompt string, maxTokens int) (string, error) {
	body, err := json.Marshal(map[string]any{
		"model": Model, "max_tokens": maxTokens, "messages": []any{map[string]string{"role": "user", "content": prompt}},
	})
	if err != nil {
		return "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "/v1/messages", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("X-Api-Key", "another key")
	r.Header.Set("Anthropic-Version", "2023-06-01")
	r.Header.Set("Content-Type", "application/json")
	w := recorder{header: http.Header{}}
	provider.ServeHTTP(&w, r)
	var out struct{ Content []struct{ Text string } }
	if err := json.Unmarshal(w.body.Bytes(), &out); err != nil || len(out.Content) == 0 {
		return "", fmt.Errorf("the provider answered %d: %s", w.status, w.body.Bytes())
	}
	return out.Content[0].Text, nil
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
