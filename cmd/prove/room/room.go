// Package room proves that what Sluice accepts has room to end in: results fill a
// small Redis, and intake says no before they do.
package room

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Command says how large Redis and the answers are.
type Command struct {
	Memory  int           `default:"24" help:"Megabytes that Redis has (maxmemory)."`
	Answer  int           `default:"20" help:"Kilobytes of an answer."`
	Quiet   time.Duration `default:"10s" help:"Nothing may have come in for so long before it is called full."`
	Timeout time.Duration `default:"5m" help:"The proof fails when it takes longer."`
}

// Validate refuses what Sluice alone would fill, and answers that a few of fill it.
func (c *Command) Validate() error {
	if c.Memory < 12 || c.Answer < 1 || c.Answer > 40*c.Memory {
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
	tokens := c.Answer * 1000 / bytesPerToken
	prompt := fmt.Sprintf("fill it [[tokens:%d]]", tokens)
	var ids []string
	refused, last := 0, time.Now()
	peak := 0.0
	for time.Since(last) < c.Quiet {
		status, id, err := client.Offer(ctx, prompt, tokens)
		switch {
		case err != nil:
			return err
		case status == http.StatusAccepted:
			ids, last = append(ids, id), time.Now()
		case status == http.StatusServiceUnavailable:
			refused++
			if err := rig.Wait(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		default:
			return fmt.Errorf("submit: status %d", status)
		}
		if peak, err = c.used(ctx, s, peak); err != nil {
			return err
		}
	}
	succeeded := 0
	err := rig.Until(ctx, c.Timeout, "every accepted job has ended", func(ctx context.Context) (bool, error) {
		for ; succeeded < len(ids); succeeded++ {
			status, err := s.RDB.HGet(ctx, "sluice:{s}:j:"+ids[succeeded], "s").Result()
			if err != nil || status != "succeeded" {
				return false, err
			}
		}
		return true, nil
	})
	peak, usedErr := c.used(ctx, s, peak)
	fmt.Printf("%d MB, answers of %d kB: %d jobs accepted, %d submits refused; %d succeeded; at most %.0f %% of the memory was used\n",
		c.Memory, c.Answer, len(ids), refused, succeeded, 100*peak)
	switch {
	case err != nil || usedErr != nil:
		return errors.Join(err, usedErr)
	case refused == 0:
		return errors.New("a guarantee was broken: intake never said no")
	case peak >= 0.95:
		return errors.New("a guarantee was broken: Redis was nearly full before intake said no")
	case len(ids)*c.Answer < c.Memory*1000/3:
		return errors.New("a guarantee was broken: intake said no with most of the memory free")
	}
	return nil
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
