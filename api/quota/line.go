package quota

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

//go:embed line.lua
var lineLua string

// What a line holds, and how long.
const (
	lineMost    = 10_000           // who stand in one
	lineLongest = time.Hour        // ahead that a place is kept
	lineStays   = 20 * time.Second // a place is kept for who does not come
	lineEarly   = time.Second      // before its time somebody may come: clocks differ, and it was told whole seconds
	linesKnown  = 10_000           // in a process
)

// Turn is how somebody who asks for a place stands among those who were told to come again.
type Turn struct {
	Mine  bool  // its time has come: the place is its own
	Ahead int64 // how many are to have a place before it; where its own time has come, of how many others it has too
}

// Again is when somebody who was refused may come again.
type Again struct {
	After time.Duration // until its place is expected to be free
	Each  time.Duration // until that of the next is, at least
	Mine  bool          // it had a turn, and there was no place all the same
}

// Returns keeps those who were refused in the order in which they came, a line for each tenant and pool:
// who comes again when it was told to goes before those who come for the first time. A process asks
// Redis alone about lines in which it has put somebody. Its methods may be called by many goroutines.
type Returns struct {
	rdb    redis.UniversalClient
	prefix string
	now    func() time.Time // nil: Redis's own clock
	script *redis.Script

	mu    sync.Mutex
	until map[string]time.Time // by key: until when somebody may be in it
}

// Returns are of those of the quota's tenants who were refused.
func (q *Quota) Returns() *Returns {
	return &Returns{rdb: q.rdb, prefix: q.prefix, now: q.now, script: redis.NewScript(lineLua), until: map[string]time.Time{}}
}

func (r *Returns) key(tenant, pool string) string {
	return r.prefix + "{" + url.QueryEscape(tenant) + "}:line:" + pool
}

func (r *Returns) clock() time.Time {
	if r.now != nil {
		return r.now()
	}
	return time.Now()
}

// Formed reports whether this process knows of somebody in a line. It makes no call.
func (r *Returns) Formed(tenant, pool string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.until[r.key(tenant, pool)]
	return ok && r.clock().Before(until)
}

func (r *Returns) formed(key string, stays time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.until) >= linesKnown {
		clear(r.until)
	}
	r.until[key] = r.clock().Add(stays)
}

// Turn is how who stands for a request has its turn. One whose time has come is in the line no more.
func (r *Returns) Turn(ctx context.Context, tenant, pool, who string) (Turn, error) {
	key := r.key(tenant, pool)
	got, err := r.run(ctx, key, map[string]any{"who": who, "stays": lineStays.Milliseconds(), "early": lineEarly.Milliseconds()}, 3)
	if err != nil {
		return Turn{}, err
	}
	r.formed(key, milliseconds(got[2]))
	return Turn{Mine: got[0] == 1, Ahead: got[1]}, nil
}

// Join puts who was refused into the line, and returns when it is to come again: later than all
// before it. Who is told more than an hour has no place then, and comes apart from the others.
func (r *Returns) Join(ctx context.Context, tenant, pool, who string, again Again) (time.Duration, error) {
	key := r.key(tenant, pool)
	got, err := r.run(ctx, key, map[string]any{
		"who": who, "join": true, "stays": lineStays.Milliseconds(), "early": lineEarly.Milliseconds(), "front": again.Mine,
		"after": max(0, again.After).Milliseconds(), "each": max(1, again.Each.Milliseconds()), "most": lineMost, "longest": lineLongest.Milliseconds(),
	}, 1)
	if err != nil {
		return 0, err
	}
	after := milliseconds(got[0])
	r.formed(key, after+lineStays)
	if after >= lineLongest {
		after += rand.N(lineLongest / 10)
	}
	return after, nil
}

func (r *Returns) run(ctx context.Context, key string, args map[string]any, values int) ([]int64, error) {
	arg, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("ask a line: %w", err)
	}
	now := ""
	if r.now != nil {
		now = strconv.FormatInt(r.now().UnixMilli(), 10)
	}
	got, err := r.script.Run(ctx, r.rdb, []string{key}, now, arg).Int64Slice()
	if err != nil {
		return nil, fmt.Errorf("ask a line: %w", tasks.NotNow(err))
	}
	if len(got) != values {
		return nil, fmt.Errorf("ask a line: %d values in the answer", len(got))
	}
	return got, nil
}
