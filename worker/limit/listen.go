package limit

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// listen takes in what other processes' scripts say.
func (g *Gate) listen(ctx context.Context) {
	sub := g.rdb.Subscribe(ctx, g.channel)
	defer sub.Close()
	// A blocked read ends only when its connection does.
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })()
	defer g.subscribed.Store(false)
	for failures := 0; ctx.Err() == nil; {
		msg, err := sub.Receive(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if g.subscribed.Swap(false) {
				wake(g.wakePump) // who waits for a word asks himself from now on
			}
			g.pause(ctx, backoff(failures))
			failures++
			if redis.IsPermissionError(err) {
				_ = sub.Subscribe(ctx, g.channel) // the connection is well: nothing else asks again
			}
			continue
		}
		failures = 0
		g.subscribed.Store(true)
		if m, ok := msg.(*redis.Message); ok {
			g.hear(m.Payload)
		} else {
			wake(g.wakePump) // subscribed: what was said before is lost
		}
	}
}

// hear acts on one message: "holder epoch status wait key", or to all
// "* epoch hold wait" and "* epoch free 0". The epoch of the latter is not compared:
// of a lost state they come before all of the next, and what they say only makes
// the pump ask again.
func (g *Gate) hear(text string) {
	f := strings.Fields(text)
	if len(f) < 4 || f[0] != "*" && (f[0] != g.holder || len(f) != 5) {
		return
	}
	epoch, err := parseEpoch(f[1])
	if err != nil {
		return
	}
	wait, err := parseWait(f[3])
	if err != nil {
		return
	}
	switch {
	case f[0] == g.holder:
		a := g.handedOver(f[2], wait, f[4])
		a.epoch = epoch
		g.receive(a)
	case f[2] == "hold":
		g.noteHold(wait)
	case f[2] == "free":
		g.noteFree()
	}
}

// receiveAll puts slots that were handed over to us where the pump finds them.
func (g *Gate) receiveAll(epoch int64, said []string) error {
	for _, m := range said {
		a, err := g.parseAnswer(m)
		if err != nil {
			return err
		}
		a.epoch = epoch
		g.receive(a)
	}
	return nil
}

func (g *Gate) receive(a answer) {
	g.mu.Lock()
	g.handed = append(g.handed, a)
	g.mu.Unlock()
	wake(g.wakePump)
}

func (g *Gate) handedOver(status string, wait time.Duration, key string) answer {
	now := g.clock.now()
	return answer{status: status, wait: wait, key: key, at: now, asked: now, slack: g.handedSlack, bound: concurrency}
}

// parseAnswer reads "status wait key".
func (g *Gate) parseAnswer(m string) (answer, error) {
	f := strings.Fields(m)
	if len(f) != 3 {
		return answer{}, fmt.Errorf("hand-over of %d words", len(f))
	}
	wait, err := parseWait(f[1])
	if err != nil {
		return answer{}, err
	}
	return g.handedOver(f[0], wait, f[2]), nil
}
