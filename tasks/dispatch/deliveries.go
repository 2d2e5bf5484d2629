package dispatch

import (
	"cmp"
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
	group *gather.Group[tasks.Settled, error]
}

// NewDeliveries returns Deliveries. A nil log is none.
func NewDeliveries(s *store.Store, f *queue.Feeder, log *slog.Logger) *Deliveries {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	record := func(ctx context.Context, list []tasks.Settled) error {
		next, err := s.SettleDeliveries(ctx, list)
		if err != nil {
			return err
		}
		if err := f.HandDeliveries(ctx, next); err != nil {
			log.Warn("deliveries were not handed to the queue yet", "error", err)
		}
		return nil
	}
	return &Deliveries{s, gather.New(settlesTogether, settleFlights, func(ctx context.Context, list []tasks.Settled) ([]error, error) {
		ctx, cancel := context.WithTimeout(ctx, settleTimeout)
		defer cancel()
		errs := make([]error, len(list))
		err := record(ctx, list)
		if err == nil {
			return errs, nil
		}
		if len(list) == 1 || ctx.Err() != nil {
			return nil, err
		}
		// One that Redis does not take keeps none of the others from their end.
		for i := range list {
			errs[i] = record(ctx, list[i:i+1])
		}
		return errs, nil
	})}
}

// SettleDelivery records how an attempt ended.
func (d *Deliveries) SettleDelivery(ctx context.Context, e tasks.Settled) error {
	refused, err := d.group.Do(ctx, e)
	return cmp.Or(err, refused)
}
