package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks/seal"
	"github.com/sluicehq/sluice/tasks/store"
)

// sealing is with what this process seals the content of tenants.
type sealing struct {
	ring  *seal.Ring // nil: there is no key
	plain bool       // what is written lies in plain
	meant bool       // and somebody has said so
	own   bool       // see masters
	again func() (*config.Config, error)
}

// openSeal makes the ring of the configured keys or, for dev and run, of their own.
func (s *service) openSeal(r roles) error {
	s.sealing = sealing{plain: s.cfg.Seal.Off, meant: s.cfg.Seal.Off, again: r.again, own: r.ownKey}
	keys, err := masters(s.cfg, r.ownKey)
	if err != nil {
		return err
	}
	if len(keys) > 0 {
		if s.sealing.ring, err = seal.New(keys); err != nil {
			return fmt.Errorf("seal.keys: %w", err)
		}
	}
	sealed := 0.0
	if s.sealing.ring != nil && !s.sealing.plain {
		sealed = 1
	}
	s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sluice_sealed", Help: "1 while this process seals prompts, results and secrets at rest; 0 while they lie in plain.",
	}, func() float64 { return sealed }))
	for _, notice := range s.sealNotices() {
		s.log.Warn(notice)
	}
	return nil
}

// masters are the master keys that a configuration lists, behind the one of data_dir, if there is
// one: it opens what it sealed before others were listed. With none listed, dev and run, which
// own one, make it beside the embedded Redis; where sealing is off it only opens.
func masters(cfg *config.Config, own bool) ([]seal.Master, error) {
	listed := cfg.Seal.Masters()
	alone := own && cfg.Redis.URL == "" // it may seal
	if cfg.DataDir == "" || len(listed) == 0 && !alone || slices.ContainsFunc(listed, func(m seal.Master) bool { return m.Name == seal.LocalName }) {
		return listed, nil
	}
	_, err := os.Stat(filepath.Join(cfg.DataDir, seal.LocalFile))
	if errors.Is(err, fs.ErrNotExist) && (len(listed) > 0 || cfg.Seal.Off) {
		return listed, nil
	}
	first, err := seal.Local(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	return append([]seal.Master{first}, listed...), nil
}

// sealNotices are what an operator should know of sealing.
func (s *service) sealNotices() (list []string) {
	if s.sealing.ring == nil && !s.sealing.meant {
		list = append(list, "prompts, results and secrets lie in plain in Redis and where large bodies lie: list a key under seal.keys, or say seal: off if that is meant")
	}
	if s.store != nil {
		for _, name := range s.store.MissingKeys() {
			list = append(list, fmt.Sprintf("what the master key %q has sealed cannot be read here: list it under seal.keys until sluice seal rotate says that it is not needed", name))
		}
	}
	return list
}

// resealEvery is how often the configuration is read again for keys that were listed or dropped.
const resealEvery = 5 * time.Second

// reseal takes up master keys as they are listed and dropped, until ctx ends.
func (s *service) reseal(ctx context.Context) error {
	tick := time.NewTicker(resealEvery)
	defer tick.Stop()
	for was := (reread{keys: s.cfg.Seal.Keys}); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			was = s.takeUp(was)
		}
	}
}

// reread is what the configuration said when it was read last: its keys, or its faults.
type reread struct {
	keys   []config.SealKey
	faults string
}

// takeUp reads the configuration again and has its master keys seal and open from now on. One with
// faults changes nothing, and is told of once.
func (s *service) takeUp(was reread) reread {
	cfg, err := s.sealing.again()
	if err != nil {
		if err.Error() != was.faults {
			s.log.Warn("the keys that seal stay as they were, since the configuration has faults", "error", err)
		}
		return reread{was.keys, err.Error()}
	}
	if slices.Equal(cfg.Seal.Keys, was.keys) {
		return reread{keys: was.keys}
	}
	keys, err := masters(cfg, s.sealing.own)
	if err == nil {
		err = s.sealing.ring.Set(keys)
	}
	if err != nil {
		if err.Error() != was.faults {
			s.log.Error("the keys that seal stay as they were", "error", err)
		}
		return reread{was.keys, err.Error()}
	}
	s.log.Info("the keys that seal have changed", "keys", s.sealing.ring.Names(), "seals", s.sealing.ring.Current())
	return reread{keys: cfg.Seal.Keys}
}

// whom is what the other processes call this one. Containers may share a host's name, and the
// number of their process.
func whom() string {
	host, _ := os.Hostname() // else the number alone
	return fmt.Sprintf("%s (process %d, %s)", host, os.Getpid(), rand.Text()[:6])
}

// SealCmd looks after the keys that seal.
type SealCmd struct {
	Rotate SealRotateCmd `cmd:"" help:"Wrap every tenant's key anew with the master key that is listed last."`
}

// SealRotateCmd wraps every tenant's key anew.
type SealRotateCmd struct {
	JSON bool `name:"json" help:"Print what was done as JSON, and whom it waits for on standard error."`
}

// Help says in which order a master key is changed.
func (*SealRotateCmd) Help() string {
	return "List the new key last under seal.keys, in every process; run this, which waits until all of them have it; drop the old key when this says so. Values are not sealed anew, and nothing stops."
}

// Run ends with an error when a key is left that the old master key alone opens.
func (c *SealRotateCmd) Run(ctx context.Context, env *Env) error {
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	if len(cfg.Seal.Keys) == 0 {
		return wrongUsage{errors.New("seal.keys lists no key")}
	}
	keys, err := masters(cfg, false)
	if err != nil {
		return err
	}
	ring, err := seal.New(keys)
	if err != nil {
		return err
	}
	conn, err := openRedis(ctx, cfg, env.Log, prometheus.NewRegistry())
	if err != nil {
		return err
	}
	st := store.New(store.Config{Redis: conn.open(4), Prefix: cfg.Redis.Prefix, Seal: ring})
	told := env.Stdout
	if c.JSON {
		told = env.Stderr
	}
	done, left, err := 0, []string(nil), everywhere(ctx, st, ring.Current(), told)
	if err == nil {
		done, left, err = rotated(ctx, st)
	}
	if err = errors.Join(err, conn.close()); err != nil {
		return err
	}
	return c.tell(env.Stdout, done, left, ring)
}

// tell says what was wrapped, and which master keys are needed no more.
func (c *SealRotateCmd) tell(out io.Writer, done int, left []string, ring *seal.Ring) error {
	var err error
	old := ring.Names()[:len(ring.Names())-1]
	if len(left) > 0 {
		err = fmt.Errorf("keys of tenants need master keys that are not listed, or not as they were: %s", strings.Join(left, ", "))
		old = nil
	}
	if c.JSON {
		b, broken := json.Marshal(map[string]any{"wrapped": done, "seals": ring.Current(), "not_needed": slices.Concat([]string{}, old)})
		return errors.Join(err, broken, printLine(out, b))
	}
	fmt.Fprintf(out, "%d keys of tenants were wrapped anew with the master key %s\n", done, ring.Current())
	if len(old) > 0 {
		fmt.Fprintf(out, "no key needs %s any more: it can be dropped from seal.keys; what lies in older backups needs it still\n", strings.Join(old, ", "))
	}
	return err
}

// unreadyEvery is how often it is asked whether all processes have a master key.
const unreadyEvery = 500 * time.Millisecond

// everywhere waits until all processes have the master key that is to wrap, and says for which
// it waits. One that dies is waited for 10 s.
func everywhere(ctx context.Context, st *store.Store, name string, out io.Writer) error {
	for told := ""; ; {
		list, err := st.Unready(ctx)
		if err != nil || len(list) == 0 {
			return err
		}
		if names := strings.Join(list, ", "); names != told {
			told = names
			fmt.Fprintf(out, "waiting for processes that have not read the master key %s yet: %s\n", name, names)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nothing was wrapped anew: %d processes have not read the master key %s", len(list), name)
		case <-time.After(unreadyEvery):
		}
	}
}

// rotatePasses is how often all keys are looked at, at most.
const rotatePasses = 10

// rotated wraps the keys of all tenants anew, and names the master keys that are missing for some.
// One pass may miss a key that is made while it goes, so there is another, until one finds none.
func rotated(ctx context.Context, st *store.Store) (done int, left []string, err error) {
	for pass := range rotatePasses {
		n, missing, err := rotatePass(ctx, st)
		if done += n; err != nil {
			return done, nil, err
		}
		if n > 0 || pass == 0 {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(missing)) {
			left = append(left, fmt.Sprintf("%s (%d)", name, missing[name]))
		}
		return done, left, nil
	}
	return done, nil, errors.New("keys go on being wrapped with another master key: a process makes them that has not read the configuration")
}

// rotatePass looks at all keys once, and returns how many could not be wrapped anew, by the master keys that these need.
func rotatePass(ctx context.Context, st *store.Store) (done int, missing map[string]int, err error) {
	missing = map[string]int{}
	for next, more := uint64(0), true; more; {
		var n int
		var some map[string]int
		if next, n, some, err = st.Rotate(ctx, next); err != nil {
			return done, nil, err
		}
		for name, n := range some {
			missing[name] += n
		}
		done, more = done+n, next != 0
	}
	return done, missing, nil
}
