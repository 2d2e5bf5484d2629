package kill

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// kill is one kill -9, or one stop of a worker for longer than its lease.
type kill struct {
	freeze bool
	name   string
	worker string    // digest of a killed worker's provider key; "" for others
	redis  bool      // Redis was killed
	at     time.Time // just before the signal
	gone   time.Time // the process has ended, or goes on
	back   time.Time // for Redis: it answers again
}

func (k *kill) verb() string {
	if k.freeze {
		return "kill -STOP"
	}
	return "kill -9"
}

// step is a kill that is planned.
type step struct {
	at, down time.Duration // from the beginning on; how long the process is away
	proc     *rig.Proc
	kill     kill
}

// lanes plans the kills, at random moments within the time that the jobs take
// at the pool's pace. There is a lane for each kind of process, so that one may
// be away while another is killed. In a lane the time is cut into equal parts,
// with a kill somewhere in each.
func (c Command) lanes(s *rig.Stage) [][]step {
	dice := rand.New(rand.NewPCG(c.Seed, 1))
	span := time.Duration(float64(c.Jobs) / c.Rate * 0.9 * float64(time.Second))
	between := func(a, b time.Duration) time.Duration {
		return a + time.Duration(dice.Float64()*float64(b-a))
	}
	lane := func(n int, pick func() step, a, b time.Duration) []step {
		var out []step
		for i := range n {
			part := span / time.Duration(n)
			st := pick()
			st.at, st.down = time.Duration(i)*part+between(0, part*8/10), between(a, b)
			out = append(out, st)
		}
		return out
	}
	worker := func(freeze bool) func() step {
		return func() step {
			i := dice.IntN(len(s.Workers))
			return step{proc: s.Workers[i], kill: kill{name: s.Workers[i].Name, worker: rig.Digest(rig.Key(i)), freeze: freeze}}
		}
	}
	api := func() step {
		p := s.APIs[dice.IntN(len(s.APIs))]
		return step{proc: p, kill: kill{name: p.Name}}
	}
	redis := func() step { return step{proc: s.Redis, kill: kill{name: s.Redis.Name, redis: true}} }
	down := max(c.RedisDown, 100*time.Millisecond)
	lanes := [][]step{
		lane(c.WorkerKills, worker(false), 100*time.Millisecond, 2*time.Second),
		lane(c.APIKills, api, 100*time.Millisecond, 2*time.Second),
		lane(c.RedisKills, redis, 50*time.Millisecond, down),
		lane(c.Freezes, worker(true), 12*time.Second, 15*time.Second),
	}
	if last := len(lanes[2]) - 1; last >= 0 {
		lanes[2][last].down = down
	}
	return lanes
}

// killAll kills as planned, and starts again what it killed.
func (e *evidence) killAll(ctx context.Context, s *rig.Stage, begin time.Time, progress io.Writer) error {
	busy := make([]sync.Mutex, len(s.Workers)) // one is either killed or stopped
	hold := func(p *rig.Proc) (release func()) {
		if i := slices.Index(s.Workers, p); i >= 0 {
			busy[i].Lock()
			return busy[i].Unlock
		}
		return func() {}
	}
	var mu sync.Mutex
	var g errgroup.Group
	for _, steps := range e.plan.lanes(s) {
		g.Go(func() error {
			for _, st := range steps {
				if rig.Wait(ctx, time.Until(begin.Add(st.at))) != nil {
					return nil // the jobs are done
				}
				release := hold(st.proc)
				k := st.kill
				k.at = time.Now()
				err := k.strike(ctx, s, st.proc, st.down)
				release()
				if err != nil {
					return err
				}
				mu.Lock()
				e.kills = append(e.kills, k)
				fmt.Fprintf(progress, "%6.1f s  %s %s, back after %.1f s\n", k.at.Sub(begin).Seconds(), k.verb(), k.name, k.back.Sub(k.at).Seconds())
				mu.Unlock()
			}
			return nil
		})
	}
	err := g.Wait()
	slices.SortFunc(e.kills, func(a, b kill) int { return a.at.Compare(b.at) })
	return err
}

// strike kills or stops the process, and starts it again or lets it go on. It
// does so also when ctx ends: what follows is read from it.
func (k *kill) strike(ctx context.Context, s *rig.Stage, p *rig.Proc, down time.Duration) error {
	begin, end := p.Kill, p.Start
	if k.freeze {
		begin = func() error { return p.Signal(syscall.SIGSTOP) }
		end = func() error { return p.Signal(syscall.SIGCONT) }
	}
	if err := begin(); err != nil {
		return err
	}
	k.gone = time.Now()
	_ = rig.Wait(ctx, down)
	if err := end(); err != nil {
		return err
	}
	if k.redis {
		if err := s.AwaitRedis(context.WithoutCancel(ctx)); err != nil {
			return err
		}
	}
	k.back = time.Now()
	if k.freeze {
		k.gone = k.back
	}
	return nil
}
