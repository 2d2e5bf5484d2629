package main

import (
	"context"
	"errors"
	"fmt"
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
	again func() (*config.Config, error)
}

// openSeal makes the ring of the configured keys or, for dev and run, of their own.
func (s *service) openSeal(r roles) (err error) {
	c := s.cfg.Seal
	keys := c.Masters()
	s.sealing = sealing{plain: c.Off, meant: c.Off}
	if len(keys) > 0 {
		s.sealing.again = r.again
	} else if keys, err = ownKey(s.cfg, r); err != nil {
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

// ownKey is the key that dev and run keep in data_dir, beside the embedded Redis. Where
// sealing is off it is read, if it is there, for what was sealed before.
func ownKey(cfg *config.Config, r roles) ([]seal.Master, error) {
	if !r.ownKey || cfg.Redis.URL != "" || cfg.DataDir == "" {
		return nil, nil
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, seal.LocalFile)); cfg.Seal.Off && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	own, err := seal.Local(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	return []seal.Master{own}, nil
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

// reseal takes up master keys as they are listed and dropped, until ctx ends. A
// configuration with faults changes nothing.
func (s *service) reseal(ctx context.Context) error {
	tick := time.NewTicker(resealEvery)
	defer tick.Stop()
	last := s.cfg.Seal.Keys
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		cfg, err := s.sealing.again()
		if err != nil || slices.Equal(cfg.Seal.Keys, last) {
			continue
		}
		if err := s.sealing.ring.Set(cfg.Seal.Masters()); err != nil {
			s.log.Error("the keys that seal stay as they were", "error", err)
			continue
		}
		last = cfg.Seal.Keys
		s.log.Info("the keys that seal have changed", "keys", s.sealing.ring.Names(), "seals", s.sealing.ring.Current())
	}
}

// SealCmd looks after the keys that seal.
type SealCmd struct {
	Rotate SealRotateCmd `cmd:"" help:"Wrap every tenant's key anew with the master key that is listed last."`
}

// SealRotateCmd wraps every tenant's key anew.
type SealRotateCmd struct{}

// Help says in which order a master key is changed.
func (*SealRotateCmd) Help() string {
	return "List the new key last under seal.keys, in every process; run this; drop the old key when this says so. Values are not sealed anew, and nothing stops."
}

// Run ends with an error when a key is left that the old master key alone opens.
func (*SealRotateCmd) Run(ctx context.Context, env *Env) error {
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	keys := cfg.Seal.Masters()
	if len(keys) == 0 {
		return wrongUsage{errors.New("seal.keys lists no key")}
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
	done, left, err := rotated(ctx, st)
	if err = errors.Join(err, conn.close()); err != nil {
		return err
	}
	fmt.Fprintf(env.Stdout, "%d keys of tenants were wrapped anew with the master key %s\n", done, ring.Current())
	if len(left) > 0 {
		return fmt.Errorf("keys of tenants need master keys that are not listed, or not as they were: %s", strings.Join(left, ", "))
	}
	if old := ring.Names()[:len(ring.Names())-1]; len(old) > 0 {
		fmt.Fprintf(env.Stdout, "no key needs %s any more: it can be dropped from seal.keys; what lies in older backups needs it still\n", strings.Join(old, ", "))
	}
	return nil
}

// rotated wraps the keys of all tenants anew, and names the master keys that are missing for some.
func rotated(ctx context.Context, st *store.Store) (done int, left []string, err error) {
	missing := map[string]int{}
	for last, more := "", true; more; {
		var n int
		var some map[string]int
		if last, n, some, err = st.Rotate(ctx, last); err != nil {
			return done, nil, err
		}
		for name, n := range some {
			missing[name] += n
		}
		done, more = done+n, last != ""
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		left = append(left, fmt.Sprintf("%s (%d)", name, missing[name]))
	}
	return done, left, nil
}
