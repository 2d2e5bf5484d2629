package auth

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// keySource finds a public key by its name.
type keySource interface {
	find(ctx context.Context, name keyName) (any, error)
	state() KeySet
}

// KeySet is how an issuer's key set stands.
type KeySet struct {
	// Setting is where it is configured, as in auth.issuers[0].
	Setting string
	// Down is why no key of it can be had; "" while it serves. Anybody may read it: it
	// has no address.
	Down string
	// Cause is the error behind Down, for the log; nil: none.
	Cause error
	// Notices are what is not as it should be although it serves. Anybody may read them.
	Notices []string
}

// keyPlace is where an issuer's keys are.
type keyPlace struct {
	key               string // begins the names of its settings, as in auth.issuers[0].
	issuer            string
	discovery         bool
	url, file         string // empty: none
	caFile, tokenFile string // empty: none
	allowHTTP         bool
}

// loader is what key sets of all places have in common.
type loader struct {
	at    keyPlace
	now   func() time.Time
	log   *slog.Logger
	loads *prometheus.CounterVec
}

// setting names the place as a whole.
func (l *loader) setting() string { return l.at.key[:len(l.at.key)-1] }

// loaded counts a load and logs what is new about it: the set when it differs from the
// one before, and which of its keys are not used.
func (l *loader) loaded(before, after *keySet) {
	l.loads.WithLabelValues(l.at.issuer, "ok").Inc()
	if before != nil && sameSet(before, after) {
		return
	}
	l.log.Info("read key set", "config", l.setting(), "issuer", l.at.issuer, "keys", len(after.keys))
	for _, skipped := range after.skipped {
		l.log.Warn("a key of the set is not used", "config", l.setting(), "issuer", l.at.issuer, "key", skipped)
	}
}

// failed counts a load that did not succeed, and logs it unless it is as the one before.
func (l *loader) failed(before, err error) {
	l.loads.WithLabelValues(l.at.issuer, "error").Inc()
	if before == nil || before.Error() != err.Error() {
		l.log.Error("read key set", "config", l.setting(), "issuer", l.at.issuer, "error", err)
	}
}

// sameSet reports whether two sets have keys of the same names and the same faults.
func sameSet(a, b *keySet) bool {
	if len(a.keys) != len(b.keys) || len(a.skipped) != len(b.skipped) {
		return false
	}
	for name := range a.keys {
		if _, ok := b.keys[name]; !ok {
			return false
		}
	}
	for i := range a.skipped {
		if a.skipped[i] != b.skipped[i] {
			return false
		}
	}
	return true
}

// notices says which keys of a set are not used.
func (l *loader) notices(set *keySet) (list []string) {
	if set == nil {
		return nil
	}
	for _, skipped := range set.skipped {
		list = append(list, l.setting()+": a key of the set is not used: "+skipped)
	}
	return list
}

// fileKeys is a key set in a file, read again when the file is another one.
type fileKeys struct {
	loader

	mu     sync.Mutex
	info   os.FileInfo // of the file as it was read last, usable or not
	readAt time.Time
	fault  error // why it could not be read when looked at last
	set    *keySet
}

// open reads the file for the first time, when a fault is still an error.
func (f *fileKeys) open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.read()
}

func (f *fileKeys) find(_ context.Context, name keyName) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.look()
	return f.set.find(name)
}

// look reads the file again if it is another one.
func (f *fileKeys) look() {
	info, err := os.Stat(f.at.file)
	switch {
	case err != nil:
		if f.fault == nil || f.fault.Error() != err.Error() {
			f.failed(f.fault, err)
		}
		f.fault, f.info = err, nil
	case f.changed(info):
		_ = f.read() // which has said it
	}
}

func (f *fileKeys) state() KeySet {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.look()
	s := KeySet{Setting: f.setting(), Notices: f.notices(f.set)}
	if f.fault != nil {
		s.Notices = append(s.Notices, f.setting()+": the file of keys cannot be used, so those before it are in force: "+safeText(f.fault))
	}
	return s
}

// changed reports whether the file may differ from what was read. File times are
// coarse, so a file that was young when it was read may have changed unseen.
func (f *fileKeys) changed(info os.FileInfo) bool {
	return f.info == nil || !os.SameFile(info, f.info) || info.Size() != f.info.Size() ||
		!info.ModTime().Equal(f.info.ModTime()) ||
		f.readAt.Sub(info.ModTime()) < 100*time.Millisecond && f.now().Sub(f.readAt) >= 100*time.Millisecond
}

func (f *fileKeys) read() error {
	set, err := f.parse()
	if err != nil {
		f.failed(f.fault, err)
	} else {
		f.loaded(f.set, set)
		f.set = set
	}
	f.fault = err
	return err
}

func (f *fileKeys) parse() (*keySet, error) {
	f.readAt = f.now()
	file, err := os.Open(f.at.file)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if f.info, err = file.Stat(); err != nil {
		return nil, err
	}
	text, err := readAtMost(file, maxSetBytes)
	if err != nil {
		return nil, err
	}
	return parseKeys(text)
}

// readAtMost reads all of r, or fails when that is more.
func readAtMost(r io.Reader, most int) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err != nil {
		return nil, err
	}
	if len(text) > most {
		return nil, tell("larger than %d bytes", most)
	}
	return text, nil
}

// safeText is an error in words that anybody may read.
func safeText(err error) string {
	var t told
	if errors.As(err, &t) {
		return string(t)
	}
	if errors.Is(err, os.ErrNotExist) {
		return "it is not there"
	}
	return "it cannot be read"
}
