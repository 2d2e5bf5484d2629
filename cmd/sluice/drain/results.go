package drain

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sluicehq/sluice/tasks"
)

// results is where the lines of results go.
type results struct {
	w       *bufio.Writer
	file    *os.File // nil: standard output, which is not closed
	lasting bool     // a file that keeps what is written; a pipe or a device does not
	name    string   // as it was given
	path    string   // of a lasting file: absolute, and of no symbolic link; else ""
}

// Close writes what is left. It also lets go of the file's lock.
func (r *results) Close() error {
	err := r.w.Flush()
	if r.file != nil {
		err = errors.Join(err, release(r.file))
	}
	return err
}

// sync brings what was written onto the disk, and the file's name.
func (r *results) sync() error {
	if err := errors.Join(r.w.Flush(), r.file.Sync(), syncFolder(filepath.Dir(r.path))); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}

// flush writes what is still held in memory.
func (r *results) flush() error {
	if err := r.w.Flush(); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}

// stale is the file of answers that no line asks for any more.
func (r *results) stale() string { return r.path + ".stale.jsonl" }

// openResults makes sure that results can be written before anything is asked,
// and that nobody else writes them meanwhile.
func openResults(o Options, stdout io.Writer) (*results, error) {
	if o.Out == "" {
		return &results{w: bufio.NewWriter(stdout)}, nil
	}
	if at, err := os.Stat(o.Out); err == nil && !at.Mode().IsRegular() && !at.IsDir() {
		// A pipe or a device holds nothing of an earlier run, and reading it might never end.
		f, err := os.OpenFile(o.Out, os.O_WRONLY, 0)
		if err != nil {
			return nil, wrongUsage{fmt.Errorf("the results cannot be written: %w", err)}
		}
		return &results{w: bufio.NewWriter(f), file: f, name: o.Out}, nil
	}
	f, err := lockFile(o.Out)
	if errors.Is(err, errLocked) {
		return nil, usagef("another run writes %s: wait for its end, or name another file", o.Out)
	}
	if err != nil {
		return nil, wrongUsage{fmt.Errorf("the results cannot be written: %w", err)}
	}
	r := &results{w: bufio.NewWriter(f), file: f, lasting: true, name: o.Out}
	if err := r.place(o); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

// place finds where the file is, by whatever name it was given, and empties it
// when the run is to start over.
func (r *results) place(o Options) error {
	path, err := filepath.EvalSymlinks(r.name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return wrongUsage{fmt.Errorf("the results cannot be written: %w", err)}
	}
	r.path = path
	at, err := r.file.Stat()
	if err != nil {
		return err
	}
	if in, err := os.Stat(o.File); err == nil && os.SameFile(in, at) {
		return usagef("%s holds the prompts: name another file for the results", o.Out)
	}
	if o.Fresh {
		if err := r.file.Truncate(0); err != nil {
			return wrongUsage{fmt.Errorf("the results cannot be written: %w", err)}
		}
	}
	return nil
}

// settled is what an earlier run's results come to for the present lines.
type settled struct {
	left    []prompt        // that have no answer yet
	had     map[string]bool // ids of the jobs whose answers are in the results or among the stale ones
	retired int             // answers that no line asks for any more, found now
}

// settle gives each line the answer to the same question that an earlier run has
// brought, one answer a line, and rewrites the file so that it holds these under
// their present lines and nothing else. Answers that are left over go to the
// stale file before the results lose them, so that a crash between leaves both.
// Lines that failed are taken out, to be tried again.
//
// An answer from before release 0.1.0, which has no digest, does not say what it
// answers: line numbers and custom_ids stay when a prompt is corrected, and the
// program went by them alone, so even a folder of this very input beside the
// results proves nothing. What does is asked: what the job that brought the
// answer asked, by the job's id, as the folder's own records have it.
func (r *results) settle(o Options, all []prompt, asked map[string]string) (settled, error) {
	if !r.lasting {
		return settled{left: all}, nil
	}
	old, err := io.ReadAll(r.file)
	if err != nil {
		return settled{}, wrongUsage{fmt.Errorf("read the results so far: %w", err)}
	}
	had, err := rows(old)
	if err != nil {
		return settled{}, usagef("%s holds something other than results of a run; name another file, or --fresh to write over it", o.Out)
	}
	had, err = digested(o, had, asked)
	if err != nil {
		return settled{}, err
	}
	out := settled{had: map[string]bool{}}
	marks := make([]mark, len(had))
	for i := range had {
		marks[i] = mark{had[i].digest, had[i].customID, had[i].line}
		out.had[had[i].id] = true
	}
	var kept [][]byte
	var stale [][]byte
	done := make([]bool, len(all))
	for i, at := range match(all, marks, done) {
		if at < 0 {
			stale = append(stale, had[i].raw)
			continue
		}
		line, err := had[i].as(&all[at])
		if err != nil {
			return settled{}, err
		}
		kept = append(kept, line)
	}
	for i := range all {
		if !done[i] {
			out.left = append(out.left, all[i])
		}
	}
	if out.retired, err = r.retire(stale, out.had); err != nil {
		return settled{}, err
	}
	return out, r.rewrite(old, kept)
}

// digested returns the answers among rows, each with the digest of what it answers.
func digested(o Options, had []row, asked map[string]string) ([]row, error) {
	answers, seen := had[:0], map[string]bool{}
	for _, w := range had {
		if w.status != tasks.StatusSucceeded || seen[w.id] {
			continue
		}
		seen[w.id] = true
		if w.digest == "" {
			digest := asked[w.id]
			if digest == "" {
				return nil, usagef("%s holds results of an earlier release, which do not say what they answer, and nothing shows that %s is still what it was then; name another file for the results, or --fresh to ask everything again",
					o.Out, nameOf(o.File))
			}
			var err error
			if w, err = w.with(digest); err != nil {
				return nil, err
			}
		}
		answers = append(answers, w)
	}
	return answers, nil
}

// retire adds answers to the stale file, those that are there already left out,
// and returns how many it has added. It notes in had whose answers the file has.
func (r *results) retire(lines [][]byte, had map[string]bool) (int, error) {
	old, err := os.ReadFile(r.stale())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("read the answers that no line asks for: %w", err)
	}
	there := map[string]bool{}
	for raw := range bytes.Lines(old) {
		if w, err := readRow(raw); err == nil {
			there[w.id], had[w.id] = true, true
		}
	}
	content := [][]byte{old}
	if len(old) > 0 && !bytes.HasSuffix(old, []byte("\n")) {
		content = append(content, []byte("\n"))
	}
	n := 0
	for _, line := range lines {
		if w, err := readRow(line); err != nil || !there[w.id] {
			content = append(content, line)
			n++
		}
	}
	if n == 0 {
		return 0, nil
	}
	f, err := replaceFile(r.stale(), content)
	if err != nil {
		return 0, fmt.Errorf("keep the answers that no line asks for: %w", err)
	}
	return n, f.Close()
}

// rewrite puts rows in the place of old, if they differ. What is written next
// comes behind them.
func (r *results) rewrite(old []byte, rows [][]byte) error {
	if content := bytes.Join(rows, nil); !bytes.Equal(content, old) {
		f, err := replaceFile(r.path, rows)
		if err != nil {
			return fmt.Errorf("rewrite the results: %w", err)
		}
		if err := release(r.file); err != nil {
			return errors.Join(err, f.Close())
		}
		r.file = f
		r.w.Reset(f)
	}
	_, err := r.file.Seek(0, io.SeekEnd)
	return err
}
