package hostile

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// What a tenant that goes has, and the bars beside mostSlower.
const (
	leavingEnded = 2000             // of its jobs have run
	leavingBatch = 14_000           // lines of one batch
	mostSlow     = 0.005            // of Redis's scripts, as many above 5 ms: a crowded machine makes any command one
	lastSteps    = 100              // jobs that may be counted for the API that died
	mostIdle     = 15 * time.Second // from the death of the API that deletes until another goes on
)

// leaver is the tenant that goes: no name that a value which was sealed holds by chance.
const leaver = "the-tenant-that-goes"

// leaving is the deletion of a tenant with many jobs, by the second of two APIs.
type leaving struct {
	stage  *rig.Stage
	victim *victim // at the first
	foe    *foe    // who goes

	before, beside []time.Duration // the victim's submits
	failed         int
	took, idle     time.Duration // of all of it, and from the kill to the next step
	killedAt       int64         // jobs that were deleted by then
	scripts, slow  int64         // that Redis ran meanwhile, and those above 5 ms, commands among them
	longest        time.Duration // of those
	ids            map[string]bool
}

// leave watches the victim while a tenant of c.Leave jobs is deleted, whose API is killed on the way. Nobody
// asks again: what goes on does so by itself.
func (c *Command) leave(ctx context.Context, lab *rig.Lab) (err error) {
	stage, victim, foe, err := c.stage(ctx, lab, attack{name: "leave"}, 2, "SLUICE_SEAL__KEYS={\"proof\": \""+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32))+"\"}")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.Close()) }()
	defer victim.close()
	defer foe.close()
	if foe.token, err = rig.TokenOf(leaver); err != nil {
		return err
	}
	l := &leaving{stage: stage, victim: victim, foe: foe, ids: map[string]bool{}}
	if err := l.fill(ctx, c.Leave); err != nil {
		return err
	}
	if _, err := victim.submits(ctx, time.Second); err != nil { // what comes first is slow
		return err
	}
	alone, err := victim.submits(ctx, c.Span)
	if err != nil {
		return err
	}
	l.before = alone.all
	if err := stage.RDB.SlowLogReset(ctx).Err(); err != nil {
		return err
	}
	if l.scripts, err = l.scripted(ctx); err != nil {
		return err
	}
	if err := l.watch(ctx, c.Span); err != nil {
		return err
	}
	if err := l.slowest(ctx); err != nil {
		return err
	}
	if c.Slow {
		if err := slow(ctx, stage.RDB, "leave"); err != nil {
			return err
		}
	}
	left, err := l.left(ctx)
	if err != nil {
		return err
	}
	return l.report(left)
}

// fill gives the tenant its jobs: some that have run, the others for another day, all in batches.
func (l *leaving) fill(ctx context.Context, jobs int) error {
	later := time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)
	for n := 0; n < jobs; {
		most, when := leavingBatch, fmt.Sprintf(`,"not_before":%q`, later)
		if n == 0 {
			most, when = leavingEnded, ""
		}
		most = min(most, jobs-n)
		var b []byte
		for i := range most {
			b = fmt.Appendf(b, `{"model":%q,"prompt":"line %d","max_tokens":16%s}`+"\n", rig.Model, n+i, when)
		}
		if err := l.foe.accepted(ctx, l.foe.request(http.MethodPost, "/v1/batches", "application/x-ndjson", b)); err != nil {
			return err
		}
		n += most
	}
	return rig.Until(ctx, 10*time.Minute, "all of its jobs are there", func(ctx context.Context) (bool, error) {
		n, err := l.stage.RDB.ZCard(ctx, "sluice:{s}:unfold").Result()
		if err != nil || n > 0 {
			return false, err
		}
		ids, err := l.stage.RDB.ZRange(ctx, "sluice:{s}:tn:"+leaver, 0, -1).Result()
		if err != nil || len(ids) < jobs {
			return false, err
		}
		for _, id := range ids {
			l.ids[id] = true
		}
		n, err = l.stage.RDB.ZCard(ctx, "sluice:{s}:due").Result()
		ended := min(jobs, leavingEnded)
		running, unread := l.stage.RDB.ZCard(ctx, "sluice:{s}:run:"+rig.Pool).Result()
		return int(n) == jobs-ended && running == 0, errors.Join(err, unread)
	})
}

// watch deletes the tenant, and watches the victim meanwhile.
func (l *leaving) watch(ctx context.Context, span time.Duration) error {
	going, over := context.WithCancel(ctx)
	defer over()
	var all sync.WaitGroup
	var wrong error
	all.Go(func() {
		defer over()
		wrong = l.delete(ctx)
	})
	for going.Err() == nil {
		s, err := l.victim.submits(ctx, span)
		if err != nil {
			over()
			all.Wait()
			return errors.Join(err, wrong)
		}
		l.beside, l.failed = append(l.beside, s.all...), l.failed+s.failed
	}
	all.Wait()
	return wrong
}

// delete asks the second API once, kills it before its answer, and waits until all is gone.
func (l *leaving) delete(ctx context.Context) error {
	token, err := rig.TokenOf("ops")
	if err != nil {
		return err
	}
	begun := time.Now()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		c, err := rig.Dial(ctx, l.stage.Addrs[1])
		if err != nil {
			return // nothing is deleted then, which is told
		}
		defer c.Close()
		_, _ = c.Do(ctx, rig.Request(http.MethodDelete, l.stage.Addrs[1], "/v1/tenants/"+leaver, nil, "Authorization: Bearer "+token)) // it dies
	}()
	defer func() { <-asked }()
	gone := func(ctx context.Context) (int64, error) {
		h, err := l.stage.RDB.HMGet(ctx, "sluice:{s}:byes:"+leaver, "jobs").Result()
		if err != nil || h[0] == nil {
			return 0, err
		}
		return strconv.ParseInt(fmt.Sprint(h[0]), 10, 64)
	}
	err = rig.Until(ctx, 10*time.Minute, "an eighth of the jobs is deleted", func(ctx context.Context) (bool, error) {
		n, err := gone(ctx)
		return n >= int64(len(l.ids)/8), err
	})
	if err := errors.Join(err, l.stage.APIs[1].Kill()); err != nil {
		return err
	}
	killed := time.Now()
	if l.killedAt, err = gone(ctx); err != nil {
		return err
	}
	err = rig.Until(ctx, time.Minute, "another process goes on", func(ctx context.Context) (bool, error) {
		n, err := gone(ctx)
		return n == 0 || n > l.killedAt+lastSteps, err // what is counted goes at the end
	})
	if err != nil {
		return err
	}
	l.idle = time.Since(killed)
	err = rig.Until(ctx, 10*time.Minute, "the tenant is gone", func(ctx context.Context) (bool, error) {
		n, err := l.stage.RDB.Exists(ctx, "sluice:{s}:byes:"+leaver).Result()
		return n == 0, err
	})
	l.took = time.Since(begun)
	return err
}

// scripted is how many scripts Redis has run.
func (l *leaving) scripted(ctx context.Context) (int64, error) {
	stats, err := l.stage.Info(ctx, "commandstats")
	if err != nil {
		return 0, err
	}
	calls, _, _ := strings.Cut(strings.TrimPrefix(stats["cmdstat_evalsha"], "calls="), ",")
	return strconv.ParseInt(calls, 10, 64)
}

// slowest notes what Redis's scripts and commands took meanwhile.
func (l *leaving) slowest(ctx context.Context) error {
	n, err := l.scripted(ctx)
	if err != nil {
		return err
	}
	l.scripts = n - l.scripts
	log, err := l.stage.RDB.SlowLogGet(ctx, -1).Result()
	for _, e := range log {
		l.slow, l.longest = l.slow+1, max(l.longest, e.Duration)
	}
	return err
}

var jobIDs = regexp.MustCompile(`job_[0-9A-Z]+`)

// left goes over every key of Redis, and counts those that have the tenant's name in theirs or hold
// anything of it. The notes of who was deleted stay.
func (l *leaving) left(ctx context.Context) (n int, err error) {
	if err := l.stage.RDB.ConfigSet(ctx, "rdbcompression", "no").Err(); err != nil { // a dump shows what is in it then
		return 0, err
	}
	keys := l.stage.RDB.Scan(ctx, 0, "*", 1000).Iterator()
	for keys.Next(ctx) {
		key := keys.Val()
		if key == "sluice:{s}:acts" {
			continue
		}
		dump, err := l.stage.RDB.Dump(ctx, key).Bytes()
		if err != nil {
			continue // it has gone meanwhile
		}
		text := append([]byte(key+" "), dump...)
		held := bytes.Contains(text, []byte(leaver))
		for _, id := range jobIDs.FindAll(text, -1) {
			held = held || l.ids[string(id)]
		}
		if held {
			n++
			fmt.Printf("leave: %s is left\n", key)
		}
	}
	return n, keys.Err()
}

func (l *leaving) report(left int) error {
	alone, beside := rank(l.before, 99), rank(l.beside, 99)
	times, slow := float64(beside)/float64(max(1, alone)), float64(l.slow)/float64(max(1, l.scripts))
	fmt.Printf("leave: a tenant of %d jobs was deleted in %.1f s; the API that did it was killed after %d, and another process went on %.1f s later; keys that hold anything of it: %d\n",
		len(l.ids), l.took.Seconds(), l.killedAt, l.idle.Seconds(), left)
	fmt.Printf("leave: another tenant's submits, p50 and p99: %s, %s before; %s, %s meanwhile (%.1f times; %d of %d failed)\n",
		milli(rank(l.before, 50)), milli(alone), milli(rank(l.beside, 50)), milli(beside), times, l.failed, len(l.beside))
	fmt.Printf("leave: Redis ran %d scripts meanwhile; %d of them and of its commands took more than 5 ms, the longest %s\n", l.scripts, l.slow, milli(l.longest))
	fmt.Printf("bars: p99 at most %.0f times, no submit failed, at most %.1f %% as many above 5 ms as scripts, on again within %s, nothing left; %d processors, load %s\n",
		mostSlower, 100*mostSlow, mostIdle, runtime.NumCPU(), load())
	if times > mostSlower || l.failed > 0 || slow > mostSlow || l.idle > mostIdle || left > 0 {
		return errSlowed
	}
	return nil
}
