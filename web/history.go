package web

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const (
	historyFor   = time.Hour
	historyEvery = 30 * time.Second
	sparkWide    = 120 // of a spark's box: a step is historyEvery
	sparkHigh    = 24
)

// history is how pools have stood in the last hour, as this process saw it: about 100 bytes
// for each pool and half minute.
type history struct {
	mu    sync.Mutex
	pools map[string][]moments
}

// moments is what of each allowance was used at a time.
type moments struct {
	at   time.Time
	used map[tasks.WaitReason]float64
}

// Run notes how the pools stand, by the same Status that the pages show, until ctx ends. What
// cannot be read leaves a gap.
func (w *Web) Run(ctx context.Context) error {
	tick := time.NewTicker(historyEvery)
	defer tick.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look is one round of Run.
func (w *Web) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	pools, err := w.cfg.Status(ctx)
	if err != nil {
		return
	}
	now := w.cfg.Now()
	h := &w.history
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := map[string][]moments{}
	for i := range pools {
		m := moments{now, map[tasks.WaitReason]float64{}}
		for _, a := range pools[i].Allowance {
			m.used[a.Dimension] = a.Used
		}
		kept[pools[i].Name] = append(recent(h.pools[pools[i].Name], now), m)
	}
	h.pools = kept
}

// recent are those of the last hour.
func recent(all []moments, now time.Time) []moments {
	for len(all) > 0 && now.Sub(all[0].at) >= historyFor {
		all = all[1:]
	}
	return all
}

// spark is a dimension's last hour as a line: its points, and in words; "" while too little is known.
func (h *history) spark(pool string, of tasks.WaitReason, now time.Time) (points, words string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var line []string
	low, high := 1.0, 0.0
	for _, m := range recent(h.pools[pool], now) {
		used, known := m.used[of]
		if !known {
			continue
		}
		used = min(1, max(0, used))
		low, high = min(low, used), max(high, used)
		x := sparkWide * (1 - now.Sub(m.at).Seconds()/historyFor.Seconds())
		line = append(line, fmt.Sprintf("%.1f,%.1f", min(x, sparkWide), sparkHigh*(1-used)))
	}
	if len(line) < 2 {
		return "", ""
	}
	return strings.Join(line, " "), fmt.Sprintf("Last hour: from %.0f to %.0f %%", 100*low, 100*high)
}
