package limit

import (
	"context"
	"time"
)

// Booking is the answer to [Gate.Book].
type Booking struct {
	Grant Grant         // the place, where Booked
	Wait  time.Duration // until the call may be sent; or, without a place, until it is worth asking again
	// Booked is false when there is no place within the gate's horizon, or it is held, or as many
	// calls are under way as may be.
	Booked bool
}

// Book asks for a call's place once and returns at once, where [Gate.Take] waits until the
// place is there: for a simulation that has a clock of its own ([Config.Now]), and asks for one
// call after the other, as Run does.
func (g *Gate) Book(ctx context.Context, n Need) (Booking, error) {
	w := &waiter{need: n, key: g.newKey(n)}
	answers, err := g.ask(ctx, []*waiter{w})
	if err != nil {
		return Booking{}, err
	}
	a := answers[0]
	switch a.status {
	case "ok":
		return Booking{Grant: Grant{ID: n.ID, Class: n.Class, Bound: a.bound, key: a.key, epoch: a.epoch, need: n}, Wait: a.wait, Booked: true}, nil
	case "full":
		g.leaveLine(ctx)
		return Booking{Wait: fullAgain}, nil
	}
	return Booking{Wait: max(a.wait, time.Millisecond)}, nil
}

// fullAgain is when it is worth asking again while as many calls are under way as may be.
const fullAgain = 50 * time.Millisecond
