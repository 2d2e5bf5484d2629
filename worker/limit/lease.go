package limit

import (
	"context"
	"time"
)

type renewArgs struct {
	common
	Key string `json:"key"`
}

// renew shows that this process lives.
func (g *Gate) renew(ctx context.Context, waitsFor string) error {
	epoch, reply, err := g.run(ctx, renewScript, &renewArgs{Key: waitsFor})
	if err != nil {
		return err
	}
	return g.take(epoch, reply)
}

// alive renews the lease of this process while it has anything in Redis.
func (g *Gate) alive(ctx context.Context) {
	t := time.NewTicker(g.cfg.lease / 4)
	defer t.Stop()
	failed := false
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		g.mu.Lock()
		for key, end := range g.held {
			if now.After(end) {
				delete(g.held, key)
			}
		}
		busy, asking := len(g.held) > 0 || g.slot || g.asking != "", g.asking
		g.mu.Unlock()
		if !busy {
			continue
		}
		err := g.renew(ctx, asking)
		if err != nil && !failed && ctx.Err() == nil {
			g.log.WarnContext(ctx, "could not renew the lease on reservations", "error", err)
		}
		failed = err != nil
	}
}
