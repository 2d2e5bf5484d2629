package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// Client is a careful caller of the API: what fails because something is away
// (no connection, 503, a key that is still busy) is asked again, at the next
// API and with the same Idempotency-Key.
type Client struct {
	addrs   []string
	token   string
	idle    []chan *Conn // of each API
	turn    atomic.Uint64
	Webhook string       // where the ends of jobs that Submit makes are told; "": nowhere
	Retries atomic.Int64 // requests that were repeated
}

// Client returns a caller of all of the stage's APIs.
func (s *Stage) Client() *Client { return s.ClientOf(s.Token) }

// ClientOf is Client with another token.
func (s *Stage) ClientOf(token string) *Client {
	c := &Client{addrs: s.Addrs, token: token}
	for range s.Addrs {
		c.idle = append(c.idle, make(chan *Conn, 64))
	}
	return c
}

// Close lets go of idle connections. Nobody uses the client any more.
func (c *Client) Close() {
	for _, idle := range c.idle {
		close(idle)
		for conn := range idle {
			conn.Close()
		}
	}
}

// once asks the API with this index once, for at most 40 s. A connection that
// was idle may be of an API that is gone, and is tried before a new one.
func (c *Client) once(ctx context.Context, api int, method, path, key, media string, body []byte) (a Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	headers := []string{"Authorization: Bearer " + c.token}
	if key != "" {
		headers = append(headers, "Idempotency-Key: "+key, "Content-Type: "+media)
	}
	request := Request(method, c.addrs[api], path, body, headers...)
	for {
		var conn *Conn
		idle := true
		select {
		case conn = <-c.idle[api]:
		default:
			idle = false
			if conn, err = Dial(ctx, c.addrs[api]); err != nil {
				return a, err
			}
		}
		if a, err = conn.Do(ctx, request); err == nil {
			select {
			case c.idle[api] <- conn:
			default:
				conn.Close()
			}
			return a, nil
		}
		conn.Close()
		if !idle || ctx.Err() != nil {
			return a, err
		}
	}
}

// do asks until there is an answer that says something. What has a key has a
// body, of that media type.
func (c *Client) do(ctx context.Context, method, path, key, media string, body []byte) (Answer, error) {
	for {
		a, err := c.once(ctx, int(c.turn.Add(1)%uint64(len(c.addrs))), method, path, key, media, body)
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
	CustomID   string          `json:"custom_id"`
	FinishedAt string          `json:"finished_at"`
	Result     json.RawMessage `json:"result"`
	Text       string          `json:"text"`
	Error      *struct {
		Code        string `json:"code"`
		MaybeBilled bool   `json:"maybe_billed"`
	} `json:"error"`
	Upstream struct {
		Attempts []Attempt `json:"attempts"`
	} `json:"upstream"`
}

// Attempt is a line of a job's log of its calls.
type Attempt struct {
	Outcome     string `json:"outcome"`
	NativeBatch string `json:"native_batch"`
	MaybeBilled bool   `json:"maybe_billed"`
	Cost        Cost   `json:"cost"`
}

// Cost is what calls cost, and what they may have cost besides; zero where nobody says.
type Cost struct {
	Amount json.Number `json:"amount"`
	Maybe  json.Number `json:"maybe"`
}

// Money is the cost, digit by digit.
func (c Cost) Money() (sum tasks.Cost, err error) {
	if c == (Cost{}) {
		return sum, nil
	}
	if sum.Amount, err = tasks.ParseMoney(c.Amount.String()); err == nil {
		sum.Maybe, err = tasks.ParseMoney(c.Maybe.String())
	}
	return sum, err
}

// Final reports whether the job has ended.
func (j Job) Final() bool {
	switch j.Status {
	case "succeeded", "failed", "canceled", "expired":
		return true
	}
	return false
}

// Ask asks until there is an answer that says something, and returns it. A POST has
// the key, and a body of JSON.
func (c *Client) Ask(ctx context.Context, method, path, key string, body []byte) (Answer, error) {
	return c.do(ctx, method, path, key, "application/json", body)
}

func body(prompt string, maxTokens int, webhook string) []byte {
	it := map[string]any{"model": Model, "prompt": prompt, "max_tokens": maxTokens}
	if webhook != "" {
		it["webhook_url"] = webhook
	}
	b, err := json.Marshal(it)
	if err != nil {
		panic(err) // strings and a number
	}
	return b
}

// Submit has one job accepted and returns its id.
func (c *Client) Submit(ctx context.Context, key, prompt string, maxTokens int) (string, error) {
	a, err := c.do(ctx, http.MethodPost, "/v1/jobs", key, "application/json", body(prompt, maxTokens, c.Webhook))
	// The answer to a key whose first answer was lost with its API may be the job
	// as it stands by now, finished.
	if a.Status == http.StatusOK && a.Header.Get("Idempotency-Replayed") == "true" {
		a.Status = http.StatusAccepted
	}
	return accepted(a, err)
}

// Offer submits one job once, and returns the status of the answer, whatever it is, and
// the id of the job where it was accepted.
func (c *Client) Offer(ctx context.Context, prompt string, maxTokens int) (status int, id string, err error) {
	a, err := c.once(ctx, int(c.turn.Add(1)%uint64(len(c.addrs))), http.MethodPost, "/v1/jobs", "", "application/json", body(prompt, maxTokens, c.Webhook))
	if a.Status != http.StatusAccepted {
		return a.Status, "", err
	}
	id, err = accepted(a, err)
	return a.Status, id, err
}

// OfferBatch sends a batch once, to one API, and returns the answer's status and, of a
// 202, the batch's id.
func (c *Client) OfferBatch(ctx context.Context, prompts []string, maxTokens int) (status int, id string, err error) {
	a, err := c.once(ctx, int(c.turn.Add(1)%uint64(len(c.addrs))), http.MethodPost, "/v1/batches", "", "application/x-ndjson", lines(prompts, maxTokens))
	if a.Status != http.StatusAccepted {
		return a.Status, "", err
	}
	id, err = accepted(a, err)
	return a.Status, id, err
}

// lines is a batch's body.
func lines(prompts []string, maxTokens int) (text []byte) {
	for _, p := range prompts {
		text = append(append(text, body(p, maxTokens, "")...), '\n')
	}
	return text
}

// SubmitBatch has a batch accepted, a line a prompt, and returns its id.
func (c *Client) SubmitBatch(ctx context.Context, key string, prompts []string, maxTokens int) (string, error) {
	return accepted(c.do(ctx, http.MethodPost, "/v1/batches", key, "application/x-ndjson", lines(prompts, maxTokens)))
}

// accepted returns the id that an answer of 202 has.
func accepted(a Answer, err error) (string, error) {
	if err != nil {
		return "", err
	}
	var it struct{ ID string }
	if err := json.Unmarshal(a.Body, &it); err != nil || a.Status != http.StatusAccepted || it.ID == "" {
		return "", fmt.Errorf("submit: status %d, %s", a.Status, a.Body)
	}
	return it.ID, nil
}

// read reads what a path has.
func (c *Client) read(ctx context.Context, path string, into any) error {
	a, err := c.do(ctx, http.MethodGet, path, "", "", nil)
	if err != nil {
		return err
	}
	if a.Status != http.StatusOK {
		return fmt.Errorf("read %s: status %d, %s", path, a.Status, a.Body)
	}
	if err := json.Unmarshal(a.Body, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// Job reads a job, after up to wait for its end, in whole seconds.
func (c *Client) Job(ctx context.Context, id string, wait time.Duration) (j Job, err error) {
	err = c.read(ctx, fmt.Sprintf("/v1/jobs/%s?wait=%d", id, wait/time.Second), &j)
	return j, err
}

// Jobs lists jobs, newest first, all pages of them. query is added to each
// request, such as "batch=…".
func (c *Client) Jobs(ctx context.Context, query string) ([]Job, error) {
	var all []Job
	for after := ""; ; {
		var page struct {
			Data    []Job
			HasMore bool `json:"has_more"`
			Next    string
		}
		if err := c.read(ctx, "/v1/jobs?limit=100&"+query+after, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Data...)
		if !page.HasMore {
			return all, nil
		}
		after = "&after=" + page.Next
	}
}

// Batch is what the API says of a batch, as far as a proof asks.
type Batch struct {
	ID     string         `json:"id"`
	Status string         `json:"status"`
	Counts map[string]int `json:"counts"`
}

// Batch reads a batch.
func (c *Client) Batch(ctx context.Context, id string) (g Batch, err error) {
	err = c.read(ctx, "/v1/batches/"+id, &g)
	return g, err
}
