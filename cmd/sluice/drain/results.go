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

	"github.com/sluicehq/sluice/tasks"
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

// settled is what an earlier run's results come to for the present lines.
type settled struct {
	left     []prompt        // that have no answer yet
	had      map[string]bool // ids of the jobs whose answers are in the results or among the stale ones
	retired  int             // answers that no line asks for any more, found now
	refusals map[tasks.ErrorCode]int
}

// settle gives each line the answer to the same question that an earlier run has
// brought, one answer a line, and rewrites the file so that it holds these under
// their present lines and nothing else. Answers that are left over, and those that
// are not accepted, go to the stale file before the results lose them, so that a
// crash between leaves both. Lines that failed are taken out, to be tried again.
//
// An answer from before release 0.1.0, which has no digest, does not say what it
// answers: line numbers and custom_ids stay when a prompt is corrected, and the
// program went by them alone, so even a folder of this very input beside the
// results proves nothing. What does is asked: what the job that brought the
// answer asked, by the job's id, as the folder's own records have it.
func (r *results) settle(o Options, s *standard, all []prompt, asked map[string]string) (settled, error) {
	if !r.lasting {
		return settled{left: all}, nil
	}
	old, err := r.read(o)
	if err != nil {
		return settled{}, err
	}
	had, err := rows(old)
	if err != nil {
		return settled{}, r.foreign(o)
	}
	out := settled{had: map[string]bool{}, refusals: map[tasks.ErrorCode]int{}}
	for i := range had {
		out.had[had[i].id] = true
	}
	had, stale, err := out.digested(o, s, had, asked)
	if err != nil {
		return settled{}, err
	}
	marks := make([]mark, len(had))
	for i := range had {
		marks[i] = mark{had[i].digest, had[i].customID, had[i].line, had[i].sample}
	}
	type placed struct {
		place int
		row   []byte
	}
	var kept []placed
	refused := len(stale)
	done := make([]bool, len(all))
	for i, at := range match(all, marks, done) {
		if at < 0 {
			stale = append(stale, had[i].raw)
			continue
		}
		row, err := had[i].as(&all[at])
		if err != nil {
			return settled{}, err
		}
		kept = append(kept, placed{all[at].place, row})
	}
	for i := range all {
		if !done[i] {
			out.left = append(out.left, all[i])
		}
	}
	if out.retired, err = r.retire(stale, out.had); err != nil {
		return settled{}, err
	}
	out.retired = max(0, out.retired-refused)
	if o.Ordered {
		slices.SortStableFunc(kept, func(a, b placed) int { return a.place - b.place })
	}
	rows := make([][]byte, len(kept))
	for i := range kept {
		rows[i] = kept[i].row
	}
	return out, r.rewrite(old, rows)
}

// read returns the rows of an earlier run.
func (r *results) read(o Options) ([]byte, error) {
	old, err := io.ReadAll(r.file)
	if err == nil && r.view != nil {
		var lines []byte
		if lines, err = io.ReadAll(r.view); err == nil && !vendorLines(r.format, lines) {
			return nil, r.foreign(o)
		}
	}
	if err != nil {
		return nil, wrongUsage{fmt.Errorf("read the results so far: %w", err)}
	}
	return old, nil
}

// foreign is the error of a file that holds no results of a run like this one.
func (r *results) foreign(o Options) error {
	if r.format == "" && exists(r.path+".state") {
		return usagef("%s holds results of a run with --format: say the same --format, name another file, or --fresh to write over it", o.Out)
	}
	return usagef("%s holds something other than results of a run; name another file, or --fresh to write over it", o.Out)
}

// digested returns the answers among rows, each with the digest of what it answers,
// and the rows of answers that are not accepted.
func (s *settled) digested(o Options, st *standard, had []row, asked map[string]string) (answers []row, refused [][]byte, err error) {
	seen := map[string]bool{}
	for _, w := range had {
		if seen[w.id] {
			continue
		}
		seen[w.id] = true
		if w.status != tasks.StatusSucceeded {
			if w.code == schemaMismatch || w.code == finishNotAccepted {
				refused = append(refused, w.raw)
				s.refusals[w.code]++
			}
			continue
		}
		if w.digest == "" {
			digest := asked[w.id]
			if digest == "" {
				return nil, nil, usagef("%s holds results of an earlier release, which do not say what they answer, and nothing shows that %s is still what it was then; name another file for the results, or --fresh to ask everything again",
					o.Out, nameOf(o.File))
			}
			raw, err := with(w.raw, member{name: "digest", value: []byte(`"` + digest + `"`)})
			if err != nil {
				return nil, nil, err
			}
			if w, err = readRow(raw); err != nil {
				return nil, nil, err
			}
		}
		if e := st.judge(w.finish, w.text); e != nil {
			refused = append(refused, w.raw)
			s.refusals[e.Code]++
			continue
		}
		answers = append(answers, w)
	}
	return answers, refused, nil
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
