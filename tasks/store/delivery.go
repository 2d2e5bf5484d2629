package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/seal"
)

const (
	// DeliveryDepth is how many deliveries may be under way at once, all processes
	// together: places. A tenant alone may have a third of them (lua/webhook.lua).
	DeliveryDepth = 768

	// A delivery that nobody takes within its lease is handed out again, and so is
	// one whose sender has not renewed it for so long.
	deliveryLease = Lease
	failureMost   = 5 * 24 * time.Hour
)

var (
	deliverySettleScript = script("delivery_settle")
	deliverySweepScript  = script("delivery_sweep")
	deliveryOpenScript   = script("delivery_open")
	deliveryRenewScript  = script("delivery_renew")
	deliveryAgainScript  = script("delivery_again")
	poolEventScript      = script("pool_event")
)

// SweepDeliveries makes deliveries ready whose time has come and hands out what
// there is room for. Any process may call it, one call after the other: after an
// error, the next one hands the same out again.
func (s *Store) SweepDeliveries(ctx context.Context) (tasks.SweptDeliveries, error) {
	n := s.sweeps.Load()
	reply, err := s.run(ctx, deliverySweepScript, args{
		"claim": fmt.Sprintf("%s/%d", s.name, n), "depth": DeliveryDepth, "lease": deliveryLease.Milliseconds(), "most": hooksMost,
	}).Slice()
	if err != nil {
		return tasks.SweptDeliveries{}, fmt.Errorf("sweep deliveries: %w", err)
	}
	s.sweeps.CompareAndSwap(n, n+1)
	return tasks.SweptDeliveries{
		Hand: deliveryTickets(reply[0]), NextDue: time.Duration(num(reply[1])) * time.Millisecond,
		Out: int(num(reply[2])), Lanes: int(num(reply[3])), Waiting: int(num(reply[4])), Disabled: int(num(reply[5])),
	}, nil
}

// SettleDeliveries records how attempts ended and hands out further ones. A
// ticket that is void by now changes nothing. What cannot be sealed of an attempt, since the key
// of its tenant is not there, is left out.
func (s *Store) SettleDeliveries(ctx context.Context, list []tasks.Settled) ([]tasks.DeliveryTicket, error) {
	return s.settle(ctx, list, DeliveryDepth)
}

// settle is SettleDeliveries, and hands out none where depth is 0.
func (s *Store) settle(ctx context.Context, list []tasks.Settled, depth int) ([]tasks.DeliveryTicket, error) {
	rows := make([]any, 0, 9*len(list))
	if err := s.named(ctx, list); err != nil {
		return nil, fmt.Errorf("settle %d deliveries: %w", len(list), err)
	}
	for i := range list {
		e := &list[i]
		line, body, err := s.attempted(ctx, e)
		if err != nil {
			return nil, fmt.Errorf("settle %d deliveries: %w", len(list), err)
		}
		rows = append(rows, e.Ticket.ID, e.Ticket.Fence, string(e.Status), flag(e.Counted), e.Delay.Milliseconds(), e.Reason, line, body, flag(e.Disable))
	}
	reply, err := s.run(ctx, deliverySettleScript, args{
		"claim": NewID("clm"), "depth": depth, "lease": deliveryLease.Milliseconds(), "failing": failureMost.Milliseconds(),
	}, rows...).Slice()
	if err != nil {
		return nil, fmt.Errorf("settle %d deliveries: %w", len(list), err)
	}
	return deliveryTickets(reply), nil
}

// named has each tell its tenant, which a release before this one has not kept.
func (s *Store) named(ctx context.Context, list []tasks.Settled) error {
	for i := range list {
		if list[i].Tenant != "" || !s.vault.seals {
			continue
		}
		tenant, err := s.holder(ctx, s.keys.delivery(list[i].Ticket.ID))
		if err != nil && !errors.Is(err, tasks.ErrNotFound) {
			return err
		}
		list[i].Tenant = tenant
	}
	return nil
}

// attempted is the line of the log and the body of an attempt, as the record has them. What
// the receiver said is the line's last member (unquoted in lua/webhook.lua).
func (s *Store) attempted(ctx context.Context, e *tasks.Settled) (line string, body []byte, err error) {
	if body = e.Body; s.large(len(body)) {
		body = nil // it holds a result that lies elsewhere, and is built again
	}
	a := e.Attempt
	if e.Tenant == "" && s.vault.seals { // it is gone
		a.Answer, body = "", nil
	}
	body, err = s.vault.seal(ctx, e.Tenant, body, ofDelivery, e.Ticket.ID)
	if err == nil {
		a.Answer, err = s.vault.sealText(ctx, e.Tenant, a.Answer, ofReceiver, e.Ticket.ID)
	}
	if sealed := (*tasks.SealError)(nil); errors.As(err, &sealed) {
		a.Answer, body, err = "", nil, nil
	}
	if err != nil || !e.Counted {
		return "", body, err
	}
	return encode(a), body, nil
}

// RenewDeliveries says that the attempts at deliveries that OpenDeliveries returned
// are still under way. Within Lease of the last time, another begins them again.
func (s *Store) RenewDeliveries(ctx context.Context, list []tasks.DeliveryTicket) error {
	if err := s.run(ctx, deliveryRenewScript, args{"lease": deliveryLease.Milliseconds()}, ticketRows(list)...).Err(); err != nil {
		return fmt.Errorf("renew %d deliveries: %w", len(list), err)
	}
	return nil
}

func ticketRows(list []tasks.DeliveryTicket) []any {
	rows := make([]any, 0, 2*len(list))
	for _, t := range list {
		rows = append(rows, t.ID, t.Fence)
	}
	return rows
}

func deliveryTickets(v any) []tasks.DeliveryTicket {
	l := list(v)
	out := make([]tasks.DeliveryTicket, 0, len(l)/2)
	for i := 0; i+1 < len(l); i += 2 {
		out = append(out, tasks.DeliveryTicket{ID: str(l[i]), Fence: num(l[i+1])})
	}
	return out
}

// OpenDeliveries takes deliveries and reads what the attempts at them need, in the
// tickets' order; void tickets, those that another process took, and those whose result
// cannot be read now, or which cannot be opened, are left out.
// Until they are settled, they have to be renewed.
func (s *Store) OpenDeliveries(ctx context.Context, claims []tasks.DeliveryTicket) ([]tasks.Sending, error) {
	lost := encode(tasks.DeliveryAttempt{At: time.Now().UTC().Truncate(time.Millisecond), Outcome: tasks.DeliveryWorkerLost})
	reply, err := s.run(ctx, deliveryOpenScript, args{
		"most": eventResult + s.spare(), "lease": deliveryLease.Milliseconds(), "by": s.name, "line": lost,
	}, ticketRows(claims)...).Slice()
	if err != nil {
		return nil, fmt.Errorf("read %d deliveries: %w", len(claims), err)
	}
	var out []tasks.Sending
	var lies []string
	var shut []tasks.Settled
	for i, r := range reply {
		found := list(r)
		if len(found) == 0 {
			continue
		}
		object := pairs(found[2])
		o, err := s.unpackSending(ctx, claims[i].ID, pairs(found[0]), pairs(found[1]), object)
		if sealed := (*tasks.SealError)(nil); errors.As(err, &sealed) {
			shut = append(shut, s.shut(claims[i], o.Delivery.CreatedAt))
			continue
		}
		if err != nil {
			return nil, err
		}
		out, lies = append(out, o), append(lies, object["rr"])
	}
	if len(shut) > 0 {
		if _, err := s.settle(ctx, shut, 0); err != nil {
			return nil, err
		}
	}
	return s.withResults(ctx, out, lies)
}

// deliverySealed is the reason of a delivery that cannot be opened: it waits for its key.
const deliverySealed = "sealed"

// shut is what becomes of a delivery that cannot be opened: it waits a little, which is no
// attempt, and no longer than a receiver may fail.
func (s *Store) shut(t tasks.DeliveryTicket, created time.Time) tasks.Settled {
	e := tasks.Settled{Ticket: t, Status: tasks.DeliveryPending, Delay: bodyMissingFor, Reason: deliverySealed}
	if s.clock().Sub(created) > failureMost {
		e.Status = tasks.DeliveryExhausted
	}
	return e
}

// resultWithin is how long deliveries wait for the results that they are to bring.
const resultWithin = 5 * time.Second

// omitted stands for a result that no event can carry, since it is no JSON.
var omitted = []byte{0}

// withResults reads the results that lie elsewhere. A delivery whose result cannot be
// read now is left out, and waits a little: that is no attempt. One whose result is
// missing is sent without it, and says so.
func (s *Store) withResults(ctx context.Context, list []tasks.Sending, lies []string) ([]tasks.Sending, error) {
	if !slices.ContainsFunc(lies, func(l string) bool { return l != "" }) {
		return list, nil
	}
	within, cancel := context.WithTimeout(ctx, resultWithin)
	defer cancel()
	away := make([]bool, len(list))
	_ = fan(len(list), bodiesAtOnce, func(i int) error {
		if list[i].Job == nil {
			return nil
		}
		err := s.whole(within, list[i].Job, lies[i], eventResult+1)
		var missing *tasks.BodiesError
		if errors.As(err, &missing) && missing.Missing {
			list[i].Job.Result = omitted
			return nil
		}
		away[i] = err != nil
		return nil
	})
	var out []tasks.Sending
	var later []tasks.Settled
	for i := range list {
		if d := &list[i].Delivery; away[i] {
			later = append(later, tasks.Settled{Ticket: tasks.DeliveryTicket{ID: d.ID, Fence: d.Fence}, Tenant: d.Tenant, Status: tasks.DeliveryPending, Delay: bodyAwayFor})
		} else {
			out = append(out, list[i])
		}
	}
	if len(later) > 0 {
		if _, err := s.settle(ctx, later, 0); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// unpackSending reads a delivery with its signer, which is an endpoint or holds the
// tenant's own keys, and the job or batch that it tells of.
func (s *Store) unpackSending(ctx context.Context, id string, delivery, signer, object map[string]string) (o tasks.Sending, err error) {
	if o.Delivery, err = s.unpackDelivery(ctx, id, delivery); err != nil {
		return o, err
	}
	d := &o.Delivery
	switch {
	case d.Endpoint == "":
		if o.Keys, err = s.keysOf(ctx, d.Tenant, "", signer); err != nil {
			return o, err
		}
		if o.Keys.Secret == "" {
			if o.Keys, err = s.TenantKeys(ctx, d.Tenant); err != nil {
				return o, err
			}
		}
	case signer["t"] == d.Tenant:
		e, err := s.unpackEndpoint(ctx, d.Endpoint, signer)
		if err != nil {
			return o, err
		}
		o.Endpoint, o.Keys = &e, e.Keys
	}
	switch {
	case object["t"] != d.Tenant: // it is gone, or the body is kept
	case strings.HasPrefix(d.Object, "batch_"):
		b := s.unpackBatch(d.Object, object)
		o.Batch = &b
	default:
		if r := object["r"]; s.spare() > 0 && len(r) > eventResult+s.spare() && seal.Sealed(r) {
			object["r"] = strings.Repeat("0", len(r)) // it is cut off, and longer than an event carries
		}
		j, err := s.unpack(ctx, d.Object, object)
		if err != nil {
			return o, err
		}
		o.Job = &j
	}
	return o, nil
}

// eventResult is the longest result that an event carries, as worker/webhook has
// it (MaxResultBytes). Of a longer one so much is read that its length shows.
const eventResult = 256 << 10

// spare is by how much what is sealed is longer.
func (s *Store) spare() int {
	if s.vault.ring == nil {
		return 0
	}
	return seal.Overhead
}

func (s *Store) unpackDelivery(ctx context.Context, id string, h map[string]string) (d tasks.Delivery, err error) {
	if d, err = unpackDelivery(id, h); err != nil {
		return d, err
	}
	if d.URL, err = s.showURL(ctx, d.Tenant, d.Object, d.URL); err != nil {
		return d, err
	}
	if d.Body, err = s.vault.open(ctx, d.Tenant, d.Body, ofDelivery, id); err != nil {
		return d, err
	}
	for i := range d.Log {
		if d.Log[i].Answer, err = s.vault.openText(ctx, d.Tenant, d.Log[i].Answer, ofReceiver, id); err != nil {
			return d, err
		}
	}
	return d, nil
}

func unpackDelivery(id string, h map[string]string) (tasks.Delivery, error) {
	d := tasks.Delivery{
		ID: id, Tenant: h["t"], User: h["us"], Endpoint: h["w"], Event: h["v"], Type: h["y"], Object: h["o"], Status: tasks.DeliveryStatus(h["s"]),
		Attempts: int(atoi(h["n"])), CreatedAt: fromMilli(atoi(h["ct"])), DueAt: fromMilli(atoi(h["due"])),
		URL: h["u"], Detail: h["x"], Fence: atoi(h["f"]),
	}
	if d.Status == tasks.DeliveryDelivered {
		d.DeliveredAt = fromMilli(atoi(h["fin"]))
	}
	if why := h["why"]; d.Status == tasks.DeliveryExhausted || d.Status == tasks.DeliveryPending && why == deliverySealed {
		d.Reason = why
	}
	if b := h["b"]; b != "" {
		d.Body = []byte(b)
	}
	for line := range strings.Lines(h["log"]) {
		var a tasks.DeliveryAttempt
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			return d, fmt.Errorf("read delivery %s: a line of its log is not whole", id)
		}
		d.Log = append(d.Log, a)
	}
	return d, nil
}

// told are the fields of a delivery that its owner is shown: all but its body.
var told = []string{"t", "us", "w", "u", "v", "y", "o", "x", "s", "n", "ct", "due", "fin", "why", "f", "log"}

// Delivery returns a tenant's delivery, without its body; another's is ErrNotFound.
func (s *Store) Delivery(ctx context.Context, tenant, id string) (tasks.Delivery, error) {
	records, err := s.ask(ctx, s.keys.delivery, []string{id}, told...)
	if err != nil {
		return tasks.Delivery{}, fmt.Errorf("read delivery %s: %w", id, err)
	}
	if !owns(tenant, records[0]) {
		return tasks.Delivery{}, tasks.ErrNotFound
	}
	return s.unpackDelivery(ctx, id, records[0])
}

// Deliveries returns one page of a tenant's deliveries, newest first.
func (s *Store) Deliveries(ctx context.Context, f tasks.DeliveryFilter) (tasks.DeliveryPage, error) {
	index := s.keys.deliveries(tasks.TenantOf(f.Tenant))
	if f.Endpoint != "" {
		if _, err := s.Endpoint(ctx, f.Tenant, f.Endpoint); err != nil {
			return tasks.DeliveryPage{}, err
		}
		index = s.keys.sent(f.Endpoint)
	}
	from, low := bounds("dlv_", f.After, time.Time{}, time.Time{})
	ids, more, err := scan(ctx, f.Limit, f.Patience, s.newest(index, from, low, func(ctx context.Context, ids []string) ([]string, error) {
		return s.deliveriesOf(ctx, f, ids)
	}))
	if err != nil {
		return tasks.DeliveryPage{}, err
	}
	records, err := s.ask(ctx, s.keys.delivery, ids, told...)
	if err != nil {
		return tasks.DeliveryPage{}, fmt.Errorf("list deliveries: %w", err)
	}
	page := tasks.DeliveryPage{HasMore: more != "", Next: more}
	for i, h := range records {
		if h["t"] == "" {
			continue
		}
		d, err := s.unpackDelivery(ctx, ids[i], h)
		if err != nil {
			return tasks.DeliveryPage{}, err
		}
		page.Deliveries = append(page.Deliveries, d)
	}
	if page.HasMore && len(ids) > 0 && len(page.Deliveries) == 0 { // all of it has ended its time just now
		f.After = more
		return s.Deliveries(ctx, f)
	}
	return page, nil
}

// deliveriesOf returns those of ids that have a status, "" being any.
func (s *Store) deliveriesOf(ctx context.Context, f tasks.DeliveryFilter, ids []string) ([]string, error) {
	records, err := s.ask(ctx, s.keys.delivery, ids, "t", "us", "s")
	if err != nil {
		return nil, fmt.Errorf("look through %d deliveries: %w", len(ids), err)
	}
	var out []string
	for i, h := range records {
		if h["s"] != "" && owns(f.Tenant, h) && (f.Status == "" || h["s"] == string(f.Status)) {
			out = append(out, ids[i])
		}
	}
	return out, nil
}

// Redeliver sends a delivery again, from the first attempt on and under the
// same event id; one that waits for another try goes now. ErrConflict: its
// endpoint is disabled or gone. ErrDeleted: its job was.
func (s *Store) Redeliver(ctx context.Context, tenant, id string) (d tasks.Delivery, err error) {
	err = operate(ctx, id, func(ctx context.Context, op string) error {
		answers, err := s.again(ctx, op, tenant, true, []string{id})
		if err != nil {
			return err
		}
		switch answers[0] {
		case "gone":
			return tasks.ErrNotFound
		case "disabled":
			return tasks.ErrConflict
		case "deleted":
			return tasks.ErrDeleted
		}
		d, err = s.Delivery(ctx, tenant, id)
		return err
	})
	return d, err
}

// resendFor is how long one call goes on sending deliveries again.
const resendFor = 5 * time.Second

// RedeliverRange sends an endpoint's deliveries again, oldest first, as many of n as
// admit says of each step, and returns how far it came: admit's *tasks.QuotaError is
// the end of a call that has sent some. nil admits all. ErrConflict: the endpoint is
// disabled.
func (s *Store) RedeliverRange(ctx context.Context, f tasks.Resend, admit func(ctx context.Context, n int) (int, error)) (out tasks.Resent, err error) {
	e, err := s.Endpoint(ctx, f.Tenant, f.Endpoint)
	if err != nil {
		return out, err
	}
	if !e.DisabledAt.IsZero() {
		return out, tasks.ErrConflict
	}
	from, begun := "["+bornAt(f.Since), time.Now()
	if f.After >= bornAt(f.Since) {
		from = "(" + f.After
	}
	for {
		more, last, err := s.resendable(ctx, f, from)
		if err != nil {
			return out, err
		}
		if last == "" {
			out.Next = ""
			return out, nil
		}
		wanted := len(more)
		if wanted > 0 && admit != nil {
			n, err := admit(ctx, wanted)
			var used *tasks.QuotaError
			if errors.As(err, &used) && out.Sent > 0 {
				out.RetryAfter = used.RetryAfter
				return out, nil
			}
			if err != nil {
				return out, err
			}
			if more = more[:n]; n < wanted {
				last = more[n-1]
			}
		}
		n, err := s.resend(ctx, f, more)
		if err != nil {
			return out, err
		}
		out.Sent += n
		out.Next, from = last, "("+last
		if time.Since(begun) > resendFor {
			return out, nil
		}
	}
}

// bornAt is where the ids of deliveries of that time and later begin.
func bornAt(t time.Time) string { return fmt.Sprintf("dlv_%013d", max(0, t.UnixMilli())) }

// resendable returns, of the next deliveries, those that are sent again, and the last
// that it looked at; "" when there is none.
func (s *Store) resendable(ctx context.Context, f tasks.Resend, from string) (again []string, last string, err error) {
	ids, err := s.rdb.ZRangeByLex(ctx, s.keys.sent(f.Endpoint), &redis.ZRangeBy{Min: from, Max: "(" + bornAt(f.Until), Count: hooksMost}).Result()
	if err != nil {
		return nil, "", fmt.Errorf("list deliveries: %w", redisError(err))
	}
	if len(ids) == 0 {
		return nil, "", nil
	}
	records, err := s.ask(ctx, s.keys.delivery, ids, "s", "gone")
	if err != nil {
		return nil, "", fmt.Errorf("look through %d deliveries: %w", len(ids), err)
	}
	for i, h := range records {
		if h["s"] != "" && h["gone"] != "deleted" && (f.Delivered || tasks.DeliveryStatus(h["s"]) != tasks.DeliveryDelivered) {
			again = append(again, ids[i])
		}
	}
	return again, ids[len(ids)-1], nil
}

// resend sends deliveries of an endpoint again and returns how many.
func (s *Store) resend(ctx context.Context, f tasks.Resend, ids []string) (sent int, err error) {
	if len(ids) == 0 {
		return 0, nil
	}
	err = operate(ctx, f.Endpoint, func(ctx context.Context, op string) error {
		answers, err := s.again(ctx, op, f.Tenant, f.Delivered, ids)
		sent = 0
		for _, a := range answers {
			if a == "ok" {
				sent++
			}
		}
		return err
	})
	return sent, err
}

func (s *Store) again(ctx context.Context, op, tenant string, delivered bool, ids []string) ([]string, error) {
	answers, err := s.run(ctx, deliveryAgainScript, args{"op": op, "tenant": tenant, "delivered": delivered}, anys(ids)...).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("send %d deliveries again: %w", len(ids), err)
	}
	return answers, nil
}

// PoolEvent tells the endpoints that take events of pools that a pool is paused
// or goes on, once for each change, however many processes see it.
func (s *Store) PoolEvent(ctx context.Context, pool string, paused bool, body []byte) error {
	state := "resumed"
	if paused {
		state = "paused"
	}
	was, err := s.rdb.HGet(ctx, s.keys.poolStates(), pool).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("tell of pool %s: %w", pool, redisError(err))
	}
	if was == state || (was == "" && !paused) {
		return nil
	}
	if err := s.run(ctx, poolEventScript, args{"pool": pool, "state": state}, body).Err(); err != nil {
		return fmt.Errorf("tell of pool %s: %w", pool, err)
	}
	return nil
}
