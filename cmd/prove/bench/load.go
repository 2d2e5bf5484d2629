package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// prose returns n bytes of made-up words, the same for the same seed. Prompts
// of one letter over and over would flatter what compresses.
func prose(seed uint64, n int) string {
	dice := rand.New(rand.NewPCG(seed, 1))
	var b strings.Builder
	for b.Len() < n {
		for range 2 + dice.IntN(8) {
			b.WriteByte(byte('a' + dice.IntN(26)))
		}
		b.WriteByte(' ')
	}
	return b.String()[:n]
}

// job is a submit body with a prompt of n bytes.
func job(seed uint64, n, maxTokens int) []byte {
	return fmt.Appendf(nil, `{"model":"claude-bench","prompt":"%s","max_tokens":%d}`, prose(seed, n), maxTokens)
}

// submit sends every request once, over conns connections, and returns how
// long it took from the first to the last answer.
func (st *stack) submit(ctx context.Context, conns int, requests [][]byte) (time.Duration, error) {
	clients := make([]*client, 0, conns)
	defer func() {
		for _, c := range clients {
			c.close()
		}
	}()
	for range conns {
		c, err := dial(ctx, st.api)
		if err != nil {
			return 0, err
		}
		clients = append(clients, c)
	}
	var next atomic.Int64
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range clients {
		g.Go(func() error {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(requests) {
					return nil
				}
				if err := c.expect(http.StatusAccepted, requests[i]); err != nil {
					return fmt.Errorf("submit: %w", err)
				}
			}
			return ctx.Err()
		})
	}
	err := g.Wait()
	return time.Since(start), err
}

// expect sends a request that has to be answered with that status.
func (c *client) expect(want int, request []byte) error {
	status, body, err := c.do(request)
	if err == nil && status != want {
		err = fmt.Errorf("the answer is %d, want %d: %.300s", status, want, body)
	}
	return err
}

// singles makes n submits of jobs with prompts of about size bytes; spread is
// by how much of its size one may be larger or smaller.
func (st *stack) singles(n, size, maxTokens int, spread float64) [][]byte {
	dice := rand.New(rand.NewPCG(7, uint64(n)))
	out := make([][]byte, n)
	for i := range out {
		bytes := int(float64(size) * (1 + spread*(2*dice.Float64()-1)))
		out[i] = post(st.api, "/v1/jobs", st.token, "application/json", job(uint64(i), bytes, maxTokens))
	}
	return out
}

// batch makes one request that submits n jobs with prompts of size bytes.
func (st *stack) batch(n, size int) []byte {
	lines := make([]byte, 0, n*(size+64))
	// A few prompts over and over: making 100,000 is slower than taking them in.
	var some [64][]byte
	for i := range some {
		some[i] = append(job(uint64(i), size, 16), '\n')
	}
	for i := range n {
		lines = append(lines, some[i%len(some)]...)
	}
	return post(st.api, "/v1/batches", st.token, "application/x-ndjson", lines)
}

// fill submits n jobs in batches.
func (st *stack) fill(ctx context.Context, n, size int) error {
	const most = 50_000
	for n > 0 {
		m := min(n, most)
		c, err := dial(ctx, st.api)
		if err != nil {
			return err
		}
		err = c.expect(http.StatusAccepted, st.batch(m, size))
		c.close()
		if err != nil {
			return fmt.Errorf("submit a batch: %w", err)
		}
		n -= m
	}
	return nil
}

// command posts to the API what has an empty answer or one of no interest.
func (st *stack) command(ctx context.Context, path, body string) error {
	c, err := dial(ctx, st.api)
	if err != nil {
		return err
	}
	defer c.close()
	status, answer, err := c.do(post(st.api, path, st.token, "application/json", []byte(body)))
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("the answer is %d: %.300s", status, answer)
	}
	if err != nil {
		return fmt.Errorf("post %s: %w", path, err)
	}
	return nil
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
