package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hibiken/asynq"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/pipeline"
)

// TypeDeliver is the Asynq type of a task that carries deliveries of webhooks,
// and Deliveries the queue that they go through. No pool may have its name.
const (
	TypeDeliver = "deliver"
	Deliveries  = "webhooks"
)

// A task carries a few deliveries, so that Asynq's share of the cost of each is
// small. They are sent beside each other.
const (
	deliveriesTogether = 64
	deliverTimeout     = 2 * time.Minute // never fires first: a sender gives up sooner
)

// DeliverTask returns the Asynq task of some deliveries. It may come twice: the
// fences say what is void.
func DeliverTask(prefix string, list []tasks.DeliveryTicket) (*asynq.Task, []asynq.Option) {
	b, err := json.Marshal(list)
	if err != nil {
		panic(err) // strings and numbers
	}
	return asynq.NewTask(TypeDeliver, b), []asynq.Option{
		asynq.Queue(Name(prefix, Deliveries)), asynq.TaskID(deliveryTaskID(list[0])),
		asynq.MaxRetry(maxRetry), asynq.Timeout(deliverTimeout),
	}
}

func deliveryTaskID(first tasks.DeliveryTicket) string {
	return fmt.Sprintf("%s:%d", first.ID, first.Fence)
}

// DeliveryTickets reads the tickets of such a task, of this id, or returns ErrNotOurs.
func DeliveryTickets(id string, task *asynq.Task) ([]tasks.DeliveryTicket, error) {
	var list []tasks.DeliveryTicket
	if task.Type() != TypeDeliver || json.Unmarshal(task.Payload(), &list) != nil || len(list) == 0 || id != deliveryTaskID(list[0]) {
		return nil, ErrNotOurs
	}
	return list, nil
}

// HandDeliveries enqueues deliveries, in one round trip, and wakes a sender.
// Those that cannot be enqueued are handed out again when their lease has ended.
func (f *Feeder) HandDeliveries(ctx context.Context, list []tasks.DeliveryTicket) error {
	if len(list) == 0 {
		return nil
	}
	errs := make([]error, (len(list)+deliveriesTogether-1)/deliveriesTogether)
	var steps []func(context.Context)
	for i := range errs {
		some := list[i*deliveriesTogether : min((i+1)*deliveriesTogether, len(list))]
		steps = append(steps, func(ctx context.Context) {
			task, opts := DeliverTask(f.c.Prefix, some)
			if _, err := f.client.EnqueueContext(ctx, task, opts...); err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
				errs[i] = fmt.Errorf("enqueue deliveries: %w", err)
			}
		})
	}
	pipeline.Join(ctx, nil, steps...)
	if f.c.Kick != nil {
		f.c.Kick(ctx, Deliveries, 0)
	}
	return errors.Join(errs...)
}
