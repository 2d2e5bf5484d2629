package drain

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// results is where the lines of results go. A run's own rows say what a rerun has
// to know; where a vendor's lines are asked for, the rows are in a file beside
// those, from which the lines can be made again.
type results struct {
	w       *bufio.Writer // of rows, or of a vendor's lines to standard output
	file    *os.File      // nil: standard output, which is not closed
	lasting bool          // a file that keeps what is written; a pipe or a device does not
	name    string        // as it was given
	path    string        // of a lasting file: absolute, and of no symbolic link; else ""

	format string
	view   *os.File      // a lasting file of a vendor's lines; nil: there is none
	lines  *bufio.Writer // of view

	// In order, what does not last is held until those before it are written.
	held map[int][]byte
	next int
}

// Close writes what is left. It also lets go of the files' locks.
func (r *results) Close() error {
	err := r.flush()
	for _, f := range []*os.File{r.file, r.view} {
		if f != nil {
			err = errors.Join(err, release(f))
		}
	}
	return err
}

// put writes the row of the prompt at that place.
func (r *results) put(place int, row []byte) error {
	if r.held == nil {
		return r.write(row)
	}
	r.held[place] = row
	for ; r.held[r.next] != nil; r.next++ {
		if err := r.write(r.held[r.next]); err != nil {
			return err
		}
		delete(r.held, r.next)
	}
	return nil
}

func (r *results) write(row []byte) (err error) {
	rows, lines := r.w, r.lines
	if r.format != "" && !r.lasting {
		rows, lines = nil, r.w
	}
	if rows != nil {
		_, err = rows.Write(row)
	}
	if r.format != "" && err == nil {
		var line []byte
		if line, err = vendorLine(r.format, row); err == nil {
			_, err = lines.Write(line)
		}
	}
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}

// flush writes what is still held in memory, but for what waits for its turn.
func (r *results) flush() error {
	err := r.w.Flush()
	if r.lines != nil && err == nil {
		err = r.lines.Flush() // after the rows, from which they can be made again
	}
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}

// sync brings what was written onto the disk, and the file's name.
func (r *results) sync() error {
	err := errors.Join(r.flush(), r.file.Sync())
	if r.view != nil {
		err = errors.Join(err, r.view.Sync())
	}
	if err = errors.Join(err, syncFolder(filepath.Dir(r.path))); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}

// rows is the file of a run's own rows.
func (r *results) rows() string {
	if r.format != "" {
		return r.path + ".state"
	}
	return r.path
}

// stale is the file of answers that no line asks for any more.
func (r *results) stale() string { return r.path + ".stale.jsonl" }

// openResults makes sure that results can be written before anything is asked,
// and that nobody else writes them meanwhile.
func openResults(o Options, stdout io.Writer) (*results, error) {
	r := &results{name: o.Out, format: o.Format}
	if o.Out == "" {
		r.w = bufio.NewWriter(stdout)
	} else if at, err := os.Stat(o.Out); err == nil && !at.Mode().IsRegular() && !at.IsDir() {
		// A pipe or a device holds nothing of an earlier run, and reading it might never end.
		if r.file, err = os.OpenFile(o.Out, os.O_WRONLY, 0); err != nil {
			return nil, wrongUsage{fmt.Errorf("the results cannot be written: %w", err)}
		}
		r.w = bufio.NewWriter(r.file)
	}
	if r.w != nil {
		if o.SkipInvalid {
			return nil, usagef("--skip-invalid needs a file for the results, beside which the faulty lines are kept: name one with -o")
		}
		if o.Ordered {
			r.held = map[int][]byte{}
		}
		return r, nil
	}
	f, err := lockResults(o.Out)
	if err != nil {
		return nil, err
	}
	r.w, r.file, r.lasting = bufio.NewWriter(f), f, true
	if err := r.place(o); err != nil {
		return nil, errors.Join(err, r.file.Close())
	}
	return r, nil
}

func lockResults(name string) (*os.File, error) {
	f, err := lockFile(name)
	if errors.Is(err, errLocked) {
		return nil, usagef("another run writes %s: wait for its end, or name another file", name)
	}
	if err != nil {
		return nil, wrongUsage{fmt.Errorf("the results cannot be written: %w", err)}
	}
	return f, nil
}

// place finds where the file is, by whatever name it was given, and empties it
// when the run is to start over.
func (r *results) place(o Options) error {
	path, err := realPath(r.name)
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
	if r.format != "" {
		rows, err := lockResults(r.rows())
		if err != nil {
			return err
		}
		r.view, r.lines, r.file = r.file, r.w, rows
		r.w = bufio.NewWriter(rows)
	}
	if o.Fresh {
		err = r.file.Truncate(0)
		if r.view != nil {
			err = errors.Join(err, r.view.Truncate(0))
		}
		if err != nil {
			return wrongUsage{fmt.Errorf("the results cannot be written: %w", err)}
		}
	}
	return nil
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
// comes behind them. A vendor's lines are made anew.
func (r *results) rewrite(old []byte, rows [][]byte) (err error) {
	if content := bytes.Join(rows, nil); !bytes.Equal(content, old) {
		if r.file, err = replaceLocked(r.rows(), r.file, rows); err != nil {
			return fmt.Errorf("rewrite the results: %w", err)
		}
		r.w.Reset(r.file)
	}
	if _, err := r.file.Seek(0, io.SeekEnd); err != nil || r.view == nil {
		return err
	}
	lines := make([][]byte, len(rows))
	for i := range rows {
		if lines[i], err = vendorLine(r.format, rows[i]); err != nil {
			return err
		}
	}
	if r.view, err = replaceLocked(r.path, r.view, lines); err != nil {
		return fmt.Errorf("rewrite the results: %w", err)
	}
	r.lines.Reset(r.view)
	_, err = r.view.Seek(0, io.SeekEnd)
	return err
}

// order brings the rows of a lasting file into the order of their lines.
func (r *results) order() error {
	if err := r.flush(); err != nil {
		return err
	}
	if _, err := r.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	old, err := io.ReadAll(r.file)
	if err != nil {
		return fmt.Errorf("read the results: %w", err)
	}
	all, err := rows(old)
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b row) int { return cmp.Or(a.line-b.line, a.sample-b.sample) })
	sorted := make([][]byte, len(all))
	for i := range all {
		sorted[i] = all[i].raw
	}
	return r.rewrite(old, sorted)
}
