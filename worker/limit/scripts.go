package limit

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// The scripts, each with the chapters that it needs.
var (
	takeScript     = newScript("take", "state", "pace", "guard", "ledger", "learn", "book", "line")
	settleScript   = newScript("settle", "state", "pace", "guard", "ledger", "learn", "book", "line")
	renewScript    = newScript("renew", "state", "pace", "guard", "ledger", "learn", "book", "line")
	steerScript    = newScript("steer", "state", "pace", "guard", "ledger", "learn", "book", "line")
	leaveScript    = newScript("leave", "state", "pace", "guard", "ledger")
	peekScript     = newScript("peek", "state", "pace", "guard", "ledger")
	describeScript = newScript("describe", "state", "pace", "guard", "ledger")
)

// script is a file of lua/ behind its chapters, other files there, in their order.
type script struct {
	name     string
	chapters []string
	redis    *redis.Script
}

func newScript(name string, chapters ...string) *script {
	var text strings.Builder
	for _, f := range append(slices.Clone(chapters), name) {
		b, err := luaFiles.ReadFile("lua/" + f + ".lua")
		if err != nil {
			panic(err) // the list above names a file that is not there
		}
		text.Write(b)
	}
	return &script{name: name, chapters: chapters, redis: redis.NewScript(text.String())}
}

// answer is a script's decision on one reservation.
type answer struct {
	status string // ok, hold, far, full; again: ask anew
	wait   time.Duration
	key    string
	epoch  int64
	at     time.Time // when it reached us
}

// settlement is one call of the settle script.
type settlement struct {
	grant   Grant
	how     string // used, expected, input, back
	in, out int64
	seen    *Observed
}

func seconds(d time.Duration) float64 { return d.Seconds() }

// common are the arguments that every script is given. The names of the JSON
// members are those in lua/state.lua.
type common struct {
	Holder      string   `json:"holder"`
	Lease       float64  `json:"lease"`
	Epoch       string   `json:"epoch"`
	Limits      [3]int64 `json:"limits"`
	Burst       int64    `json:"burst"`
	Concurrency int      `json:"concurrency"`
	Follow      bool     `json:"follow"`
	Channel     string   `json:"channel"`
	Lifetime    float64  `json:"lifetime"`
}

func (c *common) fill(with common) { *c = with }

// arguments are a script's own arguments, with room for the common ones.
type arguments interface{ fill(with common) }

type takeArgs struct {
	common
	Calls []callArgs `json:"calls"`
}

type callArgs struct {
	Key      string `json:"key"`
	Class    string `json:"class"`
	Estimate int64  `json:"estimate"`
	Max      int64  `json:"max"`
}

type settleArgs struct {
	common
	Key      string       `json:"key"`
	BookedIn string       `json:"booked_in"`
	How      string       `json:"how"`
	Input    int64        `json:"input"`
	Output   int64        `json:"output"`
	Headers  *headersArgs `json:"headers,omitempty"`
}

type headersArgs struct {
	Limits    [3]int64 `json:"limits"`    // 0: not said
	Remaining [3]int64 `json:"remaining"` // -1: not said
	Rounding  int64    `json:"rounding"`
	Age       float64  `json:"age"`
}

type renewArgs struct {
	common
	Key string `json:"key"`
}

type steerArgs struct {
	common
	Verb    string  `json:"verb"`
	Seconds float64 `json:"seconds,omitempty"`
	Reason  string  `json:"reason,omitempty"`
	Pace    float64 `json:"pace,omitempty"`
}

// run calls a script and returns the epoch, which every reply begins with, and
// the rest.
func (g *Gate) run(ctx context.Context, s *script, a arguments) (epoch int64, reply []string, err error) {
	var now any = ""
	if g.cfg.now != nil {
		now = g.cfg.now()
	}
	known := g.epoch.Load()
	with := g.common
	with.Epoch = strconv.FormatInt(known, 10)
	a.fill(with)
	body, err := json.Marshal(a)
	if err != nil {
		return 0, nil, fmt.Errorf("encode the arguments of %s: %w", s.name, err)
	}
	out, err := s.redis.Run(ctx, g.rdb, g.keys, now, body).Slice()
	if err != nil {
		return 0, nil, err
	}
	reply = make([]string, len(out))
	for i, v := range out {
		switch v := v.(type) {
		case string:
			reply[i] = v
		case int64:
			reply[i] = strconv.FormatInt(v, 10)
		default:
			return 0, nil, fmt.Errorf("script answered %T", v)
		}
	}
	if len(reply) == 0 {
		return 0, nil, errors.New("script answered nothing")
	}
	epoch, err = parseEpoch(reply[0])
	if err != nil {
		return 0, nil, err
	}
	if known != epoch && g.epoch.CompareAndSwap(known, epoch) && known != 0 {
		g.m.lost.Inc()
		g.log.WarnContext(ctx, "the gate's state in Redis was lost; it starts empty")
	}
	return epoch, reply[1:], nil
}

func parseEpoch(s string) (int64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("read epoch: %w", err)
	}
	return int64(f), nil
}

func parseWait(s string) (time.Duration, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("read wait: %w", err)
	}
	return time.Duration(f * float64(time.Second)), nil
}

// ask books slots for the needs, in order; there may be fewer answers than needs.
func (g *Gate) ask(ctx context.Context, ws []*waiter) ([]answer, error) {
	a := takeArgs{Calls: make([]callArgs, len(ws))}
	for i, w := range ws {
		a.Calls[i] = callArgs{Key: w.key, Class: w.need.Class, Estimate: w.need.InputTokens, Max: w.need.MaxTokens}
	}
	epoch, reply, err := g.run(ctx, takeScript, &a)
	if err != nil {
		return nil, err
	}
	at := time.Now()
	var out []answer
	for i := 0; i+1 < len(reply); i += 2 {
		wait, err := parseWait(reply[i+1])
		if err != nil {
			return nil, err
		}
		out = append(out, answer{status: reply[i], wait: wait, key: ws[len(out)].key, epoch: epoch, at: at})
	}
	if len(out) == 0 || len(out) > len(ws) {
		return nil, fmt.Errorf("script gave %d answers to %d questions", len(out), len(ws))
	}
	return out, nil
}

// settle writes one settlement.
func (g *Gate) settle(ctx context.Context, s settlement) error {
	a := settleArgs{
		Key: s.grant.key, BookedIn: strconv.FormatInt(s.grant.epoch, 10), How: s.how, Input: s.in, Output: s.out,
		Headers: headers(s.seen),
	}
	epoch, reply, err := g.run(ctx, settleScript, &a)
	if err != nil {
		g.m.settles.WithLabelValues(g.cfg.Pool, "error").Inc()
		return err
	}
	if len(reply) < 5 {
		return fmt.Errorf("script answered %d values", len(reply))
	}
	switch {
	case reply[0] == "0":
		g.m.settles.WithLabelValues(g.cfg.Pool, "unknown").Inc()
	default:
		g.m.settles.WithLabelValues(g.cfg.Pool, s.how).Inc()
	}
	if n, err := strconv.ParseFloat(reply[1], 64); err == nil {
		g.m.inflight.Set(n)
	}
	for d, name := range dimensions {
		if v, err := strconv.ParseFloat(reply[2+d], 64); err == nil {
			g.m.level.WithLabelValues(g.cfg.Pool, name).Set(v)
		}
	}
	return g.take(epoch, reply[5:])
}

// headers is what the settle script takes of what was observed.
func headers(o *Observed) *headersArgs {
	if o == nil {
		return nil
	}
	h := &headersArgs{Remaining: [3]int64{-1, -1, -1}, Rounding: o.Rounding, Age: seconds(max(0, o.Age))}
	if h.Rounding <= 0 {
		h.Rounding = 1000
	}
	for d, r := range []Reading{o.Requests, o.InputTokens, o.OutputTokens} {
		if r.HasLimit {
			h.Limits[d] = r.Limit
		}
		if r.HasRemaining && o.Age <= 2*time.Second {
			h.Remaining[d] = r.Remaining
		}
	}
	return h
}

// take puts slots that were handed over to us where the pump finds them.
func (g *Gate) take(epoch int64, said []string) error {
	for _, m := range said {
		a, err := parseAnswer(m)
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

// parseAnswer reads "status wait key".
func parseAnswer(m string) (answer, error) {
	f := strings.Fields(m)
	if len(f) != 3 {
		return answer{}, fmt.Errorf("hand-over of %d words", len(f))
	}
	wait, err := parseWait(f[1])
	if err != nil {
		return answer{}, err
	}
	return answer{status: f[0], wait: wait, key: f[2], at: time.Now()}, nil
}

// renew shows that this process lives.
func (g *Gate) renew(ctx context.Context, waitsFor string) error {
	epoch, reply, err := g.run(ctx, renewScript, &renewArgs{Key: waitsFor})
	if err != nil {
		return err
	}
	return g.take(epoch, reply)
}

func (g *Gate) leave(ctx context.Context) error {
	_, _, err := g.run(ctx, leaveScript, &common{})
	return err
}

// steer returns how long the hold still lasts.
func (g *Gate) steer(ctx context.Context, a steerArgs) (time.Duration, error) {
	return g.heldFor(ctx, a.Verb, steerScript, &a)
}

// peek returns how long the hold still lasts.
func (g *Gate) peek(ctx context.Context) (time.Duration, error) {
	return g.heldFor(ctx, "ask for the hold of", peekScript, &common{})
}

func (g *Gate) heldFor(ctx context.Context, act string, s *script, a arguments) (time.Duration, error) {
	_, reply, err := g.run(ctx, s, a)
	if err == nil && len(reply) != 1 {
		err = fmt.Errorf("script answered %d values", len(reply))
	}
	if err != nil {
		return 0, fmt.Errorf("%s pool %s: %w", act, g.cfg.Pool, err)
	}
	return parseWait(reply[0])
}
