package sdks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// parallel is how many calls an SDK has under way against the strict allowance.
const parallel = 64

// pace has every SDK send more than its allowance takes at once, as a script does that
// dies of 429s elsewhere: each of its calls is answered, and none is seen twice.
func (c *Command) pace(ctx context.Context, w *world) error {
	if c.Calls == 0 {
		return nil
	}
	chosen := all()
	const scenario = "64 at once, 10 a second"
	var running errgroup.Group
	for _, d := range w.drivers {
		i := slices.IndexFunc(chosen, func(k *sdk) bool { return k.name == d.name })
		running.Go(func() error {
			t, err := w.trial(d, scenario)
			if err != nil {
				return err
			}
			began := time.Now()
			one := t.call("")
			var out struct {
				Answered int
				Errors   []failure
			}
			err = t.do(ctx, command{Do: "many", Each: one.Do, Count: c.Calls, Parallel: parallel, Params: t.asking(fmt.Sprintf("paced-%d", i), t.tenant+" number #")}, &out)
			if err != nil {
				w.note(d.sdk, scenario, "FAILS: "+err.Error())
				return nil
			}
			how := fmt.Sprintf("%s: %d answers to %d calls in %.0f s, %d errors", passes, out.Answered, c.Calls, time.Since(began).Seconds(), len(out.Errors))
			if out.Answered != c.Calls || len(out.Errors) > 0 {
				how = "FAILS: " + how
			}
			if len(out.Errors) > 0 {
				said, _ := json.Marshal(out.Errors[0]) // it was JSON
				how += ": " + string(said)
			}
			w.note(d.sdk, scenario, how)
			return nil
		})
	}
	err := running.Wait()
	s := w.strict.Stats(false)
	fmt.Printf("%s: the provider was called %d times, refused %d for pace, and had %d prompts twice\n", scenario, s.Calls, s.RateLimited, s.SentTwice)
	// Where processors are short a call may come late, and find that the one behind it was
	// first: prove stall has the figure.
	if want := int64(c.Calls * len(w.drivers)); s.RateLimited > want/100 || s.SentTwice > 0 || s.Calls-s.RateLimited != want {
		err = errors.Join(err, fmt.Errorf("%s: want %d calls, none refused, none twice", scenario, want))
	}
	return err
}
