package dispatch

import (
	"context"
	"log/slog"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/gather"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/store"
)

// At most 64 endings of deliveries that come at once are recorded by one script,
// and at most two such scripts are under way.
const (
	settlesTogether = 64
	settleFlights   = 2
	settleTimeout   = 10 * time.Second
)

// Deliveries is the record of deliveries. The end of each makes room for others,
// which are handed to Asynq within the call.
type Deliveries struct {
	*store.Store
	group *gather.Group[tasks.Settled, struct{}]
}

// NewDeliveries returns Deliveries. A nil log is none.
func NewDeliveries(s *store.Store, f *queue.Feeder, log *slog.Logger) *Deliveries {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Deliveries{s, gather.New(settlesTogether, settleFlights, func(ctx context.Context, list []tasks.Settled) ([]struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, settleTimeout)
		defer cancel()
		next, err := s.SettleDeliveries(ctx, list)
		if err != nil {
			return nil, err
		}
		if err := f.HandDeliveries(ctx, next); err != nil {
			log.Warn("deliveries were not handed to the queue yet", "error", err)
		}
		return make([]struct{}, len(list)), nil
	})}
}

// SettleDelivery records how an attempt ended.
func (d *Deliveries) SettleDelivery(ctx context.Context, e tasks.Settled) error {
	_, err := d.group.Do(ctx, e)
	return err
}
