// Package room proves that what Sluice accepts has room to end in: results fill a
// small Redis, and intake says no before they do.
package room

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Command says how large Redis and the answers are.
type Command struct {
	Memory  int           `default:"24" help:"Megabytes that Redis has (maxmemory)."`
	Answer  int           `default:"20" help:"Kilobytes of an answer."`
	Batch   int           `help:"Lines of one batch that is sent again until intake says no; 0: jobs one by one."`
	Quiet   time.Duration `default:"10s" help:"Nothing may have come in for so long before it is called full."`
	Timeout time.Duration `default:"5m" help:"The proof fails when it takes longer."`
}

// Validate refuses what Sluice alone would fill, and answers that a few of fill it.
func (c *Command) Validate() error {
	if c.Memory < 12 || c.Answer < 1 || c.Answer > 40*c.Memory || c.Batch < 0 {
		return errors.New("at least 12 megabytes are needed, and answers of 1 kilobyte to a 25th of them")
	}
	return nil
}

// Run proves. It is an error that an accepted job did not end, or that Redis was full
// before intake said no.
func (c *Command) Run(ctx context.Context, lab *rig.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	s, err := lab.Stage(ctx, rig.Config{
		Name: "room", APIs: 1, Workers: 2, Fake: fake.Config{MeanLatency: 50 * time.Millisecond}, OneKey: true,
		RedisArgs: []string{"--maxmemory", strconv.Itoa(c.Memory) + "mb", "--maxmemory-policy", "noeviction"},
		Pool:      "limits: {requests_per_minute: 12000, input_tokens_per_minute: 0, output_tokens_per_minute: 0, request_burst: 50, concurrency: 64}",
	})
	if err != nil {
		return err
	}
	return errors.Join(c.prove(ctx, s), s.Close())
}

// bytesPerToken is what the fake provider's answers have, about.
const bytesPerToken = 5

func (c *Command) prove(ctx context.Context, s *rig.Stage) error {
	client := s.Client()
	defer client.Close()
	f := filling{Command: c, s: s, client: client, lines: max(1, c.Batch)}
	if err := f.fill(ctx); err != nil {
		return err
	}
	succeeded := 0
	err := rig.Until(ctx, c.Timeout, "every accepted job has ended", func(ctx context.Context) (bool, error) {
		for _, a := range f.taken[f.ended:] {
			n, err := f.succeeded(ctx, a)
			if err != nil || n < a.jobs {
				return false, err
			}
			f.ended, succeeded = f.ended+1, succeeded+n
		}
		return true, nil
	})
	accepted, refused := f.accepted, f.refused
	peak, usedErr := c.used(ctx, s, f.peak)
	fmt.Printf("%d MB, answers of %d kB: %d jobs accepted, %d submits refused; %d succeeded; at most %.0f %% of the memory was used\n",
		c.Memory, c.Answer, accepted, refused, succeeded, 100*peak)
	switch {
	case err != nil || usedErr != nil:
		return errors.Join(err, usedErr)
	case refused == 0:
		return errors.New("a guarantee was broken: intake never said no")
	case peak >= 0.95:
		return errors.New("a guarantee was broken: Redis was nearly full before intake said no")
	case accepted*c.Answer < c.Memory*1000/3:
		return errors.New("a guarantee was broken: intake said no with most of the memory free")
	}
	return nil
}

// taken is a job, or a batch of so many, that got a 202.
type taken struct {
	id   string
	jobs int
}

// filling is a Redis that is being filled.
type filling struct {
	*Command
	s                        *rig.Stage
	client                   *rig.Client
	lines                    int // of the next batch
	taken                    []taken
	ended, accepted, refused int
	peak                     float64
}

// fill sends until nothing has come in for a while. A batch that is refused is sent
// again with half of its lines.
func (f *filling) fill(ctx context.Context) error {
	for last := time.Now(); time.Since(last) < f.Quiet; {
		status, id, err := f.offer(ctx)
		switch {
		case err != nil:
			return err
		case status == http.StatusAccepted:
			f.taken, f.accepted, last = append(f.taken, taken{id, f.lines}), f.accepted+f.lines, time.Now()
		case status == http.StatusServiceUnavailable:
			f.refused++
			f.lines = max(1, f.lines/2)
			if err := rig.Wait(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		default:
			return fmt.Errorf("submit: status %d", status)
		}
		if f.peak, err = f.used(ctx, f.s, f.peak); err != nil {
			return err
		}
	}
	return nil
}

func (f *filling) offer(ctx context.Context) (status int, id string, err error) {
	tokens := f.Answer * 1000 / bytesPerToken
	prompt := fmt.Sprintf("fill it [[tokens:%d]]", tokens)
	if f.Batch > 0 {
		return f.client.OfferBatch(ctx, slices.Repeat([]string{prompt}, f.lines), tokens)
	}
	return f.client.Offer(ctx, prompt, tokens)
}

// succeeded is how many jobs of what was taken have succeeded.
func (f *filling) succeeded(ctx context.Context, a taken) (int, error) {
	if f.Batch > 0 {
		g, err := f.client.Batch(ctx, a.id)
		return g.Counts["succeeded"], err
	}
	status, err := f.s.RDB.HGet(ctx, "sluice:{s}:j:"+a.id, "s").Result()
	if status == "succeeded" {
		return 1, err
	}
	return 0, err
}

// used is the share of its memory that Redis has in use, or what it was before.
func (c *Command) used(ctx context.Context, s *rig.Stage, before float64) (float64, error) {
	info, err := s.Info(ctx, "memory")
	if err != nil {
		return before, err
	}
	used, err := strconv.ParseFloat(info["used_memory"], 64)
	return max(before, used/float64(c.Memory<<20)), err
}
