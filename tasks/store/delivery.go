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
)

const (
	// DeliveryLease is how long a sender may have a delivery: an attempt's
	// timeout, and what it may wait before that.
	DeliveryLease = 45 * time.Second

	deliveryDepth = 256 // deliveries under way at once, all processes together
	failureMost   = 5 * 24 * time.Hour
)

var (
	deliverySettleScript = script("delivery_settle", "webhook")
	deliverySweepScript  = script("delivery_sweep", "webhook")
	deliveryAgainScript  = script("delivery_again", "webhook")
	poolEventScript      = script("pool_event", "webhook")
)

// SweepDeliveries makes deliveries ready whose time has come and hands out what
// there is room for. Any process may call it.
func (s *Store) SweepDeliveries(ctx context.Context) (tasks.SweptDeliveries, error) {
	reply, err := s.run(ctx, deliverySweepScript, deliveryDepth, DeliveryLease.Milliseconds(), sweepMost).Slice()
	if err != nil {
		return tasks.SweptDeliveries{}, fmt.Errorf("sweep deliveries: %w", err)
	}
	return tasks.SweptDeliveries{
		Hand: deliveryTickets(reply[0]), NextDue: time.Duration(num(reply[1])) * time.Millisecond,
		Out: int(num(reply[2])), Lanes: int(num(reply[3])), Waiting: int(num(reply[4])),
	}, nil
}

// SettleDeliveries records how attempts ended and hands out further ones. A
// ticket that is void by now changes nothing.
func (s *Store) SettleDeliveries(ctx context.Context, list []tasks.Settled) ([]tasks.DeliveryTicket, error) {
	args := make([]any, 0, 4+9*len(list))
	args = append(args, deliveryDepth, DeliveryLease.Milliseconds(), s.ttl.Milliseconds(), failureMost.Milliseconds())
	for i := range list {
		e := &list[i]
		line := ""
		if e.Counted {
			line = encode(e.Attempt)
		}
		args = append(args, e.Ticket.ID, e.Ticket.Fence, string(e.Status), flag(e.Counted), e.Delay.Milliseconds(), e.Reason, line, e.Body, flag(e.Disable))
	}
	reply, err := s.run(ctx, deliverySettleScript, args...).Slice()
	if err != nil {
		return nil, fmt.Errorf("settle %d deliveries: %w", len(list), err)
	}
	return deliveryTickets(reply), nil
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return ""
}

func deliveryTickets(v any) []tasks.DeliveryTicket {
	l := list(v)
	out := make([]tasks.DeliveryTicket, 0, len(l)/2)
	for i := 0; i+1 < len(l); i += 2 {
		out = append(out, tasks.DeliveryTicket{ID: str(l[i]), Fence: num(l[i+1])})
	}
	return out
}

// OpenDeliveries reads what the attempts of tickets need, in the tickets' order;
// void tickets are left out.
func (s *Store) OpenDeliveries(ctx context.Context, list []tasks.DeliveryTicket) ([]tasks.Sending, error) {
	fail := func(err error) ([]tasks.Sending, error) {
		return nil, fmt.Errorf("read %d deliveries: %w", len(list), redisError(err))
	}
	keys := make([]string, len(list))
	for i, t := range list {
		keys[i] = s.keys.delivery(t.ID)
	}
	records, err := s.hashes(ctx, keys)
	if err != nil {
		return fail(err)
	}
	var out []tasks.Sending
	more := &asked{at: map[string]int{}}
	for i, h := range records {
		if len(h) == 0 || atoi(h["f"]) != list[i].Fence || h["s"] != string(tasks.DeliveryPending) {
			continue
		}
		d, err := unpackDelivery(list[i].ID, h)
		if err != nil {
			return nil, err
		}
		out = append(out, tasks.Sending{Delivery: d})
		more.add(s.signerOf(&d))
		switch {
		case d.Body != nil:
		case strings.HasPrefix(d.Object, "batch_"):
			more.add(s.keys.batch(d.Object))
		default:
			more.add(s.keys.job(d.Object), "e", "t", "p", "c", "s", "n", "ct", "fin", "o")
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	if records, err = s.ask(ctx, more.list); err != nil {
		return fail(err)
	}
	var wanted []any // results: large, and most receivers want none
	for i := range out {
		d := &out[i].Delivery
		signer := records[more.at[s.signerOf(d)]]
		switch {
		case d.Endpoint == "":
			if out[i].Keys = keysOf(signer); out[i].Keys.Secret == "" {
				if out[i].Keys, err = s.TenantKeys(ctx, d.Tenant); err != nil {
					return nil, err
				}
			}
		case signer["t"] == d.Tenant:
			e := unpackEndpoint(d.Endpoint, signer)
			out[i].Endpoint, out[i].Keys = &e, e.Keys
		}
		if d.Body != nil {
			continue
		}
		if strings.HasPrefix(d.Object, "batch_") {
			if g := records[more.at[s.keys.batch(d.Object)]]; g["t"] == d.Tenant {
				b := s.unpackBatch(d.Object, g)
				out[i].Batch = &b
			}
			continue
		}
		if h := records[more.at[s.keys.job(d.Object)]]; h["t"] == d.Tenant {
			j, err := unpack(d.Object, h)
			if err != nil {
				return nil, err
			}
			out[i].Job = &j
			if out[i].Endpoint != nil && out[i].Endpoint.IncludeResult {
				wanted = append(wanted, j.ID)
			}
		}
	}
	if len(wanted) == 0 {
		return out, nil
	}
	results, err := s.run(ctx, eventResultsScript, append([]any{eventResult}, wanted...)...).StringSlice()
	if err != nil {
		return fail(err)
	}
	for i := range out {
		if out[i].Job != nil && out[i].Endpoint != nil && out[i].Endpoint.IncludeResult {
			if results[0] != "" {
				out[i].Job.Result = json.RawMessage(results[0])
			}
			results = results[1:]
		}
	}
	return out, nil
}

// eventResult is the longest result that an event carries, as worker/webhook has
// it (MaxResultBytes). Of a longer one so much is read that its length shows.
const eventResult = 256 << 10

var eventResultsScript = script("event_results")

// signerOf is the key of the record that holds a delivery's signing keys.
func (s *Store) signerOf(d *tasks.Delivery) string {
	if d.Endpoint != "" {
		return s.keys.endpoint(d.Endpoint)
	}
	return s.keys.secrets(d.Tenant)
}

// asked are hashes to be read together, each once.
type asked struct {
	list []ask
	at   map[string]int // key -> place in list
}

// ask is a hash to be read: some of its fields, or with none named all of them.
type ask struct {
	key    string
	fields []string
}

func (a *asked) add(key string, fields ...string) {
	if _, ok := a.at[key]; !ok {
		a.at[key] = len(a.list)
		a.list = append(a.list, ask{key, fields})
	}
}

func (s *Store) hashes(ctx context.Context, keys []string) ([]map[string]string, error) {
	list := make([]ask, len(keys))
	for i, k := range keys {
		list[i].key = k
	}
	return s.ask(ctx, list)
}

// ask reads hashes in one round trip. What is not there is left out of a map.
func (s *Store) ask(ctx context.Context, list []ask) ([]map[string]string, error) {
	cmds, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, a := range list {
			if a.fields == nil {
				p.HGetAll(ctx, a.key)
			} else {
				p.HMGet(ctx, a.key, a.fields...)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]map[string]string, len(list))
	for i, c := range cmds {
		switch c := c.(type) {
		case *redis.MapStringStringCmd:
			out[i] = c.Val()
		case *redis.SliceCmd:
			out[i] = make(map[string]string, len(list[i].fields))
			for n, v := range c.Val() {
				if v != nil {
					out[i][list[i].fields[n]] = str(v)
				}
			}
		}
	}
	return out, nil
}

func unpackDelivery(id string, h map[string]string) (tasks.Delivery, error) {
	d := tasks.Delivery{
		ID: id, Tenant: h["t"], Endpoint: h["w"], Event: h["v"], Type: h["y"], Object: h["o"], Status: tasks.DeliveryStatus(h["s"]),
		Attempts: int(atoi(h["n"])), CreatedAt: fromMilli(atoi(h["ct"])), DueAt: fromMilli(atoi(h["due"])),
		URL: h["u"], Detail: h["x"], Fence: atoi(h["f"]),
	}
	if d.Status == tasks.DeliveryDelivered {
		d.DeliveredAt = fromMilli(atoi(h["fin"]))
	}
	if d.Status == tasks.DeliveryExhausted {
		d.Reason = h["why"]
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
var told = []string{"t", "w", "u", "v", "y", "o", "x", "s", "n", "ct", "due", "fin", "why", "f", "log"}

// Delivery returns a tenant's delivery, without its body; another's is ErrNotFound.
func (s *Store) Delivery(ctx context.Context, tenant, id string) (tasks.Delivery, error) {
	records, err := s.ask(ctx, []ask{{s.keys.delivery(id), told}})
	if err != nil {
		return tasks.Delivery{}, fmt.Errorf("read delivery %s: %w", id, redisError(err))
	}
	if records[0]["t"] != tenant {
		return tasks.Delivery{}, tasks.ErrNotFound
	}
	return unpackDelivery(id, records[0])
}

// Deliveries returns one page of a tenant's deliveries, newest first.
func (s *Store) Deliveries(ctx context.Context, f tasks.DeliveryFilter) (tasks.DeliveryPage, error) {
	index := s.keys.deliveries(f.Tenant)
	if f.Endpoint != "" {
		if _, err := s.Endpoint(ctx, f.Tenant, f.Endpoint); err != nil {
			return tasks.DeliveryPage{}, err
		}
		index = s.keys.sent(f.Endpoint)
	}
	ids, more, err := scan(ctx, f.Limit, s.newest(index, f.After), func(ctx context.Context, ids []string) ([]string, error) {
		return s.deliveriesOf(ctx, f.Status, ids)
	})
	if err != nil {
		return tasks.DeliveryPage{}, err
	}
	list := make([]ask, len(ids))
	for i, id := range ids {
		list[i] = ask{s.keys.delivery(id), told}
	}
	records, err := s.ask(ctx, list)
	if err != nil {
		return tasks.DeliveryPage{}, fmt.Errorf("list deliveries: %w", redisError(err))
	}
	page := tasks.DeliveryPage{HasMore: more != "", Next: more}
	for i, h := range records {
		if h["t"] == "" {
			continue
		}
		d, err := unpackDelivery(ids[i], h)
		if err != nil {
			return tasks.DeliveryPage{}, err
		}
		page.Deliveries = append(page.Deliveries, d)
	}
	if page.HasMore && len(page.Deliveries) == 0 { // all of it has ended its time just now
		f.After = more
		return s.Deliveries(ctx, f)
	}
	return page, nil
}

// deliveriesOf returns those of ids that have a status, "" being any.
func (s *Store) deliveriesOf(ctx context.Context, status tasks.DeliveryStatus, ids []string) ([]string, error) {
	list := make([]ask, len(ids))
	for i, id := range ids {
		list[i] = ask{s.keys.delivery(id), []string{"s"}}
	}
	records, err := s.ask(ctx, list)
	if err != nil {
		return nil, fmt.Errorf("look through %d deliveries: %w", len(ids), redisError(err))
	}
	var out []string
	for i, h := range records {
		if h["s"] != "" && (status == "" || h["s"] == string(status)) {
			out = append(out, ids[i])
		}
	}
	return out, nil
}

// Redeliver sends a delivery again, from the first attempt on and under the
// same event id; one that waits for another try goes now. ErrConflict: its
// endpoint is disabled or gone. ErrDeleted: its job was.
func (s *Store) Redeliver(ctx context.Context, tenant, id string) (tasks.Delivery, error) {
	answers, err := s.again(ctx, tenant, true, []string{id})
	if err != nil {
		return tasks.Delivery{}, err
	}
	switch answers[0] {
	case "gone":
		return tasks.Delivery{}, tasks.ErrNotFound
	case "disabled":
		return tasks.Delivery{}, tasks.ErrConflict
	case "deleted":
		return tasks.Delivery{}, tasks.ErrDeleted
	}
	return s.Delivery(ctx, tenant, id)
}

// RedeliverRange sends an endpoint's deliveries again that were made from since
// on and before until, those that arrived only if delivered is set. It returns how many.
func (s *Store) RedeliverRange(ctx context.Context, tenant, endpoint string, since, until time.Time, delivered bool) (int, error) {
	e, err := s.Endpoint(ctx, tenant, endpoint)
	if err != nil {
		return 0, err
	}
	if !e.DisabledAt.IsZero() {
		return 0, tasks.ErrConflict
	}
	bound := func(t time.Time) string { return fmt.Sprintf("dlv_%013d", max(0, t.UnixMilli())) }
	from, sent := "["+bound(since), 0
	for {
		ids, err := s.rdb.ZRangeByLex(ctx, s.keys.sent(endpoint), &redis.ZRangeBy{Min: from, Max: "(" + bound(until), Count: sweepMost}).Result()
		if err != nil {
			return sent, fmt.Errorf("list deliveries: %w", redisError(err))
		}
		if len(ids) == 0 {
			return sent, nil
		}
		answers, err := s.again(ctx, tenant, delivered, ids)
		if err != nil {
			return sent, err
		}
		for _, a := range answers {
			if a == "ok" {
				sent++
			}
		}
		from = "(" + ids[len(ids)-1]
	}
}

func (s *Store) again(ctx context.Context, tenant string, delivered bool, ids []string) ([]string, error) {
	args := []any{tenant, flag(delivered), s.ttl.Milliseconds()}
	for _, id := range ids {
		args = append(args, id)
	}
	answers, err := s.run(ctx, deliveryAgainScript, args...).StringSlice()
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
	if err := s.run(ctx, poolEventScript, pool, state, s.ttl.Milliseconds(), body).Err(); err != nil {
		return fmt.Errorf("tell of pool %s: %w", pool, err)
	}
	return nil
}

// joinEvents is the events as an endpoint's record holds them: each between commas.
func joinEvents(events []string) string {
	e := slices.Clone(events)
	slices.Sort(e)
	return "," + strings.Join(slices.Compact(e), ",") + ","
}
