package pause

import (
	"context"
	_ "embed" // the scripts
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed lib.lua
	libLua string
	//go:embed record.lua
	recordLua string
	//go:embed look.lua
	lookLua string
	//go:embed operate.lua
	operateLua string
	//go:embed lapse.lua
	lapseLua string
	//go:embed take.lua
	takeLua string
	//go:embed probed.lua
	probedLua string
	//go:embed mark.lua
	markLua string
	//go:embed adopt.lua
	adoptLua string
	//go:embed restore.lua
	restoreLua string
	//go:embed arrive.lua
	arriveLua string
	//go:embed suspicion.lua
	suspicionLua string
	//go:embed ask.lua
	askLua string
	//go:embed opinion.lua
	opinionLua string
	//go:embed model.lua
	modelLua string
	//go:embed others.lua
	othersLua string
	//go:embed memory.lua
	memoryLua string
)

// scripts are the moves of the state; each is one round trip.
type scripts struct {
	record, look, operate, lapse, take, probed, mark, adopt, restore, arrive, ask, opinion, model, others, memory *redis.Script
}

func newScripts() scripts {
	with := func(body string) *redis.Script { return redis.NewScript(libLua + "\n" + suspicionLua + "\n" + body) }
	return scripts{
		record: with(recordLua), look: with(lookLua), operate: with(operateLua), lapse: with(lapseLua), take: with(takeLua),
		probed: with(probedLua), mark: with(markLua), adopt: with(adoptLua), restore: with(restoreLua),
		arrive: with(arriveLua), ask: with(askLua), opinion: with(opinionLua), model: with(modelLua), others: with(othersLua),
		memory: with(memoryLua),
	}
}

// args are the arguments of a script by name; those that every script takes are added by run.
type args map[string]any

// rules adds what the scripts that may move the breaker need besides a verdict.
func (b *Breaker) rules(a args) args {
	a["fp"] = b.fingerprint
	a["window"] = b.rule.Window.Milliseconds()
	a["min_calls"] = b.rule.MinCalls
	a["ratio"] = b.rule.FailureRatio
	a["interval"] = b.rule.ProbeInterval.Milliseconds()
	a["recheck"] = b.rule.Recheck.Milliseconds()
	a["rnd"] = b.rnd()
	return a
}

// run runs one script and returns its result and the state after it.
func (b *Breaker) run(ctx context.Context, s *redis.Script, a args) (int64, snapshot, error) {
	gen, err := randomID()
	if err != nil {
		return 0, snapshot{}, err
	}
	a["gen"], a["audit_max"], a["slow"] = gen, auditMax, slowStart.Milliseconds()
	a["holder"], a["alive"] = b.holder, flag(b.ask != nil && !b.away.Load())
	body, err := json.Marshal(a)
	if err != nil {
		return 0, snapshot{}, fmt.Errorf("encode script arguments: %w", err)
	}
	at := ""
	if b.now != nil {
		at = strconv.FormatInt(b.now().UnixMilli(), 10)
	}
	flat, err := s.Run(ctx, b.rdb, []string{b.key, b.auditKey, b.seenKey}, at, body).Slice()
	if err != nil {
		return 0, snapshot{}, err
	}
	return parse(flat)
}

func flag(on bool) int {
	if on {
		return 1
	}
	return 0
}
