// Package store keeps the record of every job in Redis, and the backlogs in
// which jobs wait for their turn.
//
// Each move of a job is one Lua script: it checks the job's status and fence,
// and changes record, counts and indexes together, so that a crash leaves
// either the job before the move or the job after it. Time is Redis's own. A
// final job never changes, but by a retry that its caller asks for, and
// nothing of it outlives Config.ResultTTL. All keys carry one hash tag.
//
// The store never calls Asynq and never reads a prompt. With Config.Seal it seals all that
// is content of a tenant before it leaves the process (vault.go), and no script sees any.
package store

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/pipeline"
	"github.com/sluicehq/sluice/tasks/seal"
)

const (
	// Lease is how long a worker may be silent before its jobs are given back.
	// Renewed every RenewEvery, it is noticed within Lease and one sweep.
	Lease      = 10 * time.Second
	RenewEvery = 2500 * time.Millisecond

	answersKept  = 24 * time.Hour   // an Idempotency-Key's memory
	staleAfter   = 10 * time.Minute // a batch whose writer has gone silent
	stagedFor    = 65 * time.Minute // a batch is written: its body may take an hour
	stagedMost   = 64               // batches of one tenant being written
	silentAfter  = 15 * time.Second // a writer that may lose its Idempotency-Key to the next try
	defaultDepth = 4                // of a pool that Config.Depth does not name

	apart = 1 << 42 // how far a lane moves a job in its tenant's backlog, as backlog.lua has it
)

// While a script runs, everybody else waits. So none makes more than some hundred
// steps, about a millisecond's work: what is more is done by several, and what nobody
// waits for gives way between them ([tasks.GiveWay]).
const (
	sweepMost   = 12  // of each kind in one sweep
	hooksMost   = 200 // likewise of deliveries, which are small and have no dependents
	stageLines  = 64  // lines of a batch that one script writes or forgets
	unfoldLines = 32  // that one puts into the backlogs
	cancelLines = 16  // lines of a batch that one script cancels
)

// Config says what a Store works with.
type Config struct {
	Redis redis.UniversalClient
	// Prefix begins all keys and channels; two stores of different prefixes never
	// meet. "" means [tasks.DefaultPrefix].
	Prefix string
	// ResultTTL is how long a finished job is kept; 0 means 168 h.
	ResultTTL time.Duration
	// ResultBytes is how large a result may be; 0 means 8 MiB.
	ResultBytes int64
	// Depth is how many jobs of each pool may be between the backlog and the
	// provider's answer's start: about a second of work. Where Rates say what they
	// cost, they are also no more than two seconds of it, but two. It also names the
	// pools that a sweep looks after. A pool that is not in it has depth 4.
	Depth map[string]int
	// Rates are what each pool's allowance gives, by which its jobs cost. In a pool that
	// is not in it each job costs the same.
	Rates map[string]tasks.Rates
	// Lanes are the shares of each pool's lanes, of which only their proportion counts. A
	// sweep notes them. A pool that is not in it has 70, 25 and 5.
	Lanes map[string]Shares
	// Weight is a tenant's share of the allowance, 1 or more: while both have
	// a backlog, a tenant of weight 3 is served three times what a tenant of
	// weight 1 is. A change counts from the tenant's next submit. Nil: all have 1.
	Weight func(tenant string) int64
	// Places is how many of a tenant's jobs, and of each of its users, may be out at once: handed to workers, held by
	// them or running; 0: as many as there is room for. A tenant at its limit is passed over
	// while its jobs wait, and the others go on; so is a user within its tenant. A change counts as that of Weight. Nil: nobody has a limit.
	Places func(tenant string) tasks.Places
	// NewSecret makes a tenant's first signing secret, in its whsec_ form. Nil:
	// a tenant that never asked for one has none.
	NewSecret func() string
	// Bodies keeps prompts and results of more than Above bytes, of which the record
	// has only where they lie; shorter ones are compressed. Nil: all are in the
	// record as they are.
	Bodies *bodies.Bodies
	Above  int64
	// Seal has the master keys under which content is sealed, each tenant's with a key of
	// its own; nil: it lies in plain, and what was sealed cannot be read. Plain has Seal
	// open what was sealed, and all that is written lie in plain.
	Seal  *seal.Ring
	Plain bool
	// Process is the version of this process, a space, and its name, under which Watch has it listed; "": nowhere.
	Process string
	// Now is the clock, for tests and simulations; nil: Redis's own.
	Now func() time.Time
}

// Store is a client of the records. Its methods may be called at once from anywhere.
type Store struct {
	rdb           redis.UniversalClient
	keys          keys
	ttl           time.Duration
	resultBytes   int64
	depth         map[string]int // nil is not allowed: scripts go through it
	lanes         map[string]Shares
	rates         map[string]tasks.Rates
	newSecret     func() string
	now           func() time.Time
	share         func(tenant string) int64
	places        func(tenant string) tasks.Places
	bodies        *bodies.Bodies // nil: none
	above         int64          // bytes of a body that the record has at most
	codec         codec
	secret        []byte       // of this process, for names of bodies
	name          string       // of this process, to whom a delivery is handed
	process       string       // its version and its name, as operators are shown it
	sweeps        atomic.Int64 // of deliveries that were answered
	audit         audit
	contentsSwept atomic.Int64 // the minute in which contents were last swept
	vault         *vault
}

// New returns a Store.
func New(c Config) *Store {
	s := &Store{rdb: pipeline.Client(c.Redis), keys: newKeys(c.Prefix), ttl: c.ResultTTL, resultBytes: cmp.Or(c.ResultBytes, 8<<20), depth: c.Depth, lanes: c.Lanes, rates: c.Rates, newSecret: c.NewSecret, share: c.Weight, places: c.Places, now: c.Now, bodies: c.Bodies, above: c.Above, codec: newCodec(), secret: []byte(rand.Text()), name: NewID("by"), process: c.Process}
	s.vault = &vault{begun: s.clock(), ring: c.Seal, seals: c.Seal != nil && !c.Plain, s: s, held: map[string]*heldKey{}, missing: map[string]time.Time{}}
	if s.bodies != nil && !s.bodies.InRedis() {
		s.resultBytes = min(s.resultBytes, s.above)
	}
	if s.ttl == 0 {
		s.ttl = 168 * time.Hour
	}
	if s.depth == nil {
		s.depth = map[string]int{}
	}
	return s
}

// Shares are what the lanes of a pool have of its allowance, 1 or more each.
type Shares struct{ High, Normal, Low int64 }

func (s Shares) String() string { return fmt.Sprintf("%d %d %d", s.High, s.Normal, s.Low) }

// NewID returns a new id: prefix, an underscore and a ULID, so that ids sort by time.
func NewID(prefix string) string { return NewIDAt(prefix, time.Now()) }

// NewIDAt is [NewID] for somebody who knows what time it is by Redis's clock: what is
// older than, or from then on, is asked for by the time in the id.
func NewIDAt(prefix string, now time.Time) string {
	return prefix + "_" + ulid.MustNew(ulid.Timestamp(now), ulid.DefaultEntropy()).String()
}

// clock is this process's, or the tests': for pauses alone.
func (s *Store) clock() time.Time {
	if s.now != nil {
		return s.now()
	}
	return time.Now()
}

func (s *Store) depthOf(pool string) int {
	if d := s.depth[pool]; d > 0 {
		return d
	}
	return defaultDepth
}

// cost is what a call that uses so many tokens is expected to cost in a pool, in µs of its
// allowance; 0: what others do.
func (s *Store) cost(pool string, input, output int64) int64 {
	return s.rates[pool].Draw(input, output).Microseconds()
}

func (s *Store) costOf(j *tasks.Job) int64 {
	input, output := j.Request.Use()
	return s.cost(j.Pool, input, output)
}

// costs is what a job is expected to cost in each pool, as JSON: the one in which it
// begins again its record alone knows.
func (s *Store) costs(j *tasks.Job) string {
	costs := map[string]int64{}
	input, output := j.Request.Use()
	for pool := range s.rates {
		costs[pool] = s.cost(pool, input, output)
	}
	return encode(costs)
}

// weight is a tenant's weight and places, as scripts take them.
func (s *Store) weight(tenant string) string {
	weight, places := int64(1), tasks.Places{}
	if s.share != nil {
		weight = s.share(tenant)
	}
	if s.places != nil {
		places = s.places(tenant)
	}
	return orderSays(weight, places)
}

func orderSays(weight int64, places tasks.Places) string {
	switch {
	case places.User > 0:
		return fmt.Sprintf("%d %d %d", max(1, weight), max(0, places.Tenant), places.User)
	case weight <= 1 && places.Tenant <= 0:
		return "1 0" // most have it, and each submit asks
	}
	return fmt.Sprintf("%d %d", max(1, weight), max(0, places.Tenant))
}

func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
