package drain

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// folder is where a run keeps what an interrupted one goes on from: the journal
// of its batches and, unless an external Redis is configured, its Redis.
type folder struct {
	dir    string
	former bool     // made before release 0.1.0: its journal has no digests
	older  string   // the name that it had before release 0.1.0
	lock   *os.File // nil: not locked
}

// journal is the file of a run's batches and of what their jobs ask. A line is
// the id of a batch, or of a job and the digest of its prompt.
const journal = "batch"

// folderOf finds the folder of a run. Results that last, at a path, have one, whatever the
// input holds by then, so that an edited file finds the answers that an
// interrupted run was given and did not write any more. Others, which each run
// writes anew, have one for each file and flags, or for what came through a pipe.
func folderOf(dataDir string, o Options, path string, input []byte) *folder {
	sum := sha256.New()
	at, err := os.Stat(o.File)
	file, absErr := filepath.Abs(o.File)
	if path != "" {
		fmt.Fprintf(sum, "run 2\nresults\n%q\n", path)
	} else {
		fmt.Fprintf(sum, "run 2\n%q\n%q\n%d\n%t\n", outName(o), o.Model, o.MaxTokens, o.Text)
		if o.File != "-" && err == nil && at.Mode().IsRegular() && absErr == nil {
			fmt.Fprintf(sum, "file\n%q\n", file)
		} else {
			fmt.Fprint(sum, "content\n")
			sum.Write(input)
		}
	}
	runs := filepath.Join(dataDir, "runs")
	f := &folder{dir: filepath.Join(runs, hex.EncodeToString(sum.Sum(nil))[:20]), older: filepath.Join(runs, formerKey(o, input))}
	if !o.Fresh && !exists(f.dir) && exists(f.older) {
		f.dir, f.former = f.older, true
	}
	return f
}

// formerKey names the folder as programs before release 0.1.0 did: by all of the input. So what
// is in it was asked by this very input.
func formerKey(o Options, input []byte) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n%d\n", outName(o), o.Model, o.MaxTokens)
	sum.Write(input)
	return hex.EncodeToString(sum.Sum(nil))[:20]
}

// outName is the name of the results, "" for standard output.
func outName(o Options) string {
	if o.Out == "" {
		return ""
	}
	if abs, err := filepath.Abs(o.Out); err == nil {
		return abs
	}
	return o.Out
}

// begun reports whether an earlier run has left jobs behind.
func (f *folder) begun() bool { return exists(filepath.Join(f.dir, journal)) }

// enter makes the folder and, when it has to be locked, makes sure that nobody
// else is in it. When the run is to start over it forgets what the folder held,
// and returns the batches that nobody waits for any more.
func (f *folder) enter(o Options, locked bool) (abandoned []string, err error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the run's folder: %w", err)
	}
	if locked {
		f.lock, err = lockFile(filepath.Join(f.dir, "lock"))
		if errors.Is(err, errLocked) {
			return nil, usagef("another run of %s is under way: wait for its end, or write results to a file with -o", nameOf(o.File))
		}
		if err != nil {
			return nil, fmt.Errorf("lock the run's folder: %w", err)
		}
	}
	if !o.Fresh {
		return nil, nil
	}
	for _, dir := range []string{f.dir, f.older} {
		batches, _, err := noted(dir)
		if err != nil {
			return nil, err
		}
		abandoned = append(abandoned, batches...)
	}
	inside, err := os.ReadDir(f.dir)
	for _, e := range inside {
		if e.Name() != "lock" {
			err = errors.Join(err, os.RemoveAll(filepath.Join(f.dir, e.Name())))
		}
	}
	if err = errors.Join(err, os.RemoveAll(f.older)); err != nil {
		return nil, fmt.Errorf("forget the earlier run: %w", err)
	}
	return abandoned, nil
}

func (f *folder) leave() {
	if f.lock != nil {
		_ = release(f.lock)
		f.lock = nil
	}
}

// remove removes the folder of a run that has come to its end.
func (f *folder) remove() error { return os.RemoveAll(f.dir) }

// note writes a batch and what each of its jobs asks into the journal, on disk
// when it returns.
func (f *folder) note(batch string, digests map[string]string) error {
	var b bytes.Buffer
	b.WriteString("\n") // a crash may have left half a line
	for id, digest := range digests {
		fmt.Fprintf(&b, "%s %s\n", id, digest)
	}
	fmt.Fprintln(&b, batch)
	file, err := os.OpenFile(filepath.Join(f.dir, journal), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("write the run's journal: %w", err)
	}
	_, err = b.WriteTo(file)
	if err = errors.Join(err, file.Sync(), file.Close(), syncFolder(f.dir)); err != nil {
		return fmt.Errorf("write the run's journal: %w", err)
	}
	return nil
}

// noted reads a folder's journal: the batches of earlier runs and, by job, the
// digest of what it asks.
func noted(dir string) (batches []string, digests map[string]string, err error) {
	text, err := os.ReadFile(filepath.Join(dir, journal))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("read the run's journal: %w", err)
	}
	digests = map[string]string{}
	for line := range strings.Lines(string(text)) {
		switch words := strings.Fields(line); {
		case len(words) == 1 && strings.HasPrefix(words[0], "batch_"):
			batches = append(batches, words[0])
		case len(words) == 2:
			digests[words[0]] = words[1]
		}
	}
	return batches, digests, nil
}
