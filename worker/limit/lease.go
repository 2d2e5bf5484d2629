package limit

import "context"

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
	return g.receiveAll(epoch, reply)
}

// keepAlive renews the lease of this process while it has anything in Redis.
func (g *Gate) keepAlive(ctx context.Context) {
	failed := false
	for {
		g.pause(ctx, g.cfg.lease/4)
		if ctx.Err() != nil {
			return
		}
		now := g.clock.now()
		g.mu.Lock()
		for key, end := range g.unsettled {
			if now.After(end) {
				delete(g.unsettled, key)
			}
		}
		busy, asking := len(g.unsettled) > 0 || g.slotAhead || g.inLine != "", g.inLine
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
