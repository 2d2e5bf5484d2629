package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
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
	return fmt.Appendf(nil, `{"model":"%s","prompt":"%s","max_tokens":%d}`, model, prose(seed, n), maxTokens)
}

// post makes a request to the API.
func (st *stack) post(path, media string, body []byte, headers ...string) []byte {
	headers = append(headers, "Content-Type: "+media, "Authorization: Bearer "+st.Token)
	return rig.Request(http.MethodPost, st.api, path, body, headers...)
}

// single makes a submit of one job.
func (st *stack) single(job []byte, headers ...string) []byte {
	return st.post("/v1/jobs", "application/json", job, headers...)
}

// submit sends every request once to an address, over conns connections, and
// returns how long it took from the first to the last answer.
func submit(ctx context.Context, addr string, conns int, requests [][]byte) (time.Duration, error) {
	clients := make([]*rig.Conn, conns)
	for i := range clients {
		c, err := rig.Dial(ctx, addr)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		clients[i] = c
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
				if err := c.Expect(ctx, http.StatusAccepted, requests[i]); err != nil {
					return fmt.Errorf("submit: %w", err)
				}
			}
			return ctx.Err()
		})
	}
	err := g.Wait()
	return time.Since(start), err
}

// singles makes n submits of jobs with prompts of about size bytes; spread is
// by how much of its size one may be larger or smaller.
func (st *stack) singles(n, size, maxTokens int, spread float64) [][]byte {
	dice := rand.New(rand.NewPCG(7, uint64(n)))
	out := make([][]byte, n)
	for i := range out {
		bytes := int(float64(size) * (1 + spread*(2*dice.Float64()-1)))
		out[i] = st.single(job(uint64(i), bytes, maxTokens))
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
	return st.post("/v1/batches", "application/x-ndjson", lines)
}

// fill submits n jobs in batches.
func (st *stack) fill(ctx context.Context, n, size int) error {
	for ; n > 0; n -= 50_000 {
		if _, err := submit(ctx, st.api, 1, [][]byte{st.batch(min(n, 50_000), size)}); err != nil {
			return fmt.Errorf("a batch: %w", err)
		}
	}
	return nil
}

// resume lets the pool go on, and pause holds it.
func (st *stack) resume(ctx context.Context) error { return st.command(ctx, "resume", "") }

func (st *stack) pause(ctx context.Context) error {
	return st.command(ctx, "pause", `{"reason":"bench"}`)
}

func (st *stack) command(ctx context.Context, verb, body string) error {
	c, err := rig.Dial(ctx, st.api)
	if err != nil {
		return err
	}
	defer c.Close()
	a, err := c.Do(ctx, st.post("/v1/pools/"+rig.Pool+"/"+verb, "application/json", []byte(body)))
	if err == nil && a.Status/100 != 2 {
		err = fmt.Errorf("the answer is %d: %.300s", a.Status, a.Body)
	}
	if err != nil {
		return fmt.Errorf("%s the pool: %w", verb, err)
	}
	return nil
}
