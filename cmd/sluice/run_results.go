package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// results is where the lines of results go.
type results struct {
	w       *bufio.Writer
	file    *os.File // nil: standard output, which is not closed
	lasting bool     // a file that keeps what is written; a pipe or a device does not
	name    string   // as it was given
	path    string   // of a lasting file: absolute, and of no symbolic link
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

// stale is the file of answers that no line asks for any more.
func (r *results) stale() string { return r.path + ".stale.jsonl" }

// openResults makes sure that results can be written before anything is asked,
// and that nobody else writes them meanwhile.
func openResults(o runOptions, stdout io.Writer) (*results, error) {
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
func (r *results) place(o runOptions) error {
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

var errLocked = errors.New("locked by another process")

// lockFile opens a file, makes it when there is none, and locks it until it is
// closed or the process dies. A file that is replaced takes the lock of the one
// before with it into nowhere, so what was locked has to be what the name means.
func lockFile(name string) (*os.File, error) {
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := lock(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		mine, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if now, err := os.Stat(name); err == nil && os.SameFile(mine, now) {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// lock locks an open file, or returns errLocked. A file system that knows no
// locks is no reason to refuse: the run's folder is locked as well.
func lock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errLocked
		default:
			return nil
		}
	}
}

// release closes a locked file. The lock is given up by itself: a process that is
// just being started beside us has a copy of the file for a moment.
func release(f *os.File) error {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	return f.Close()
}

// row is one line of results, as an earlier run has written it.
type row struct {
	raw      []byte // with its line break
	id       string
	customID string
	line     int
	status   tasks.Status
	digest   string // "": of a release that wrote none

	customAt, lineAt span // where the values are in raw
	end              int  // of the last member in raw
}

type span struct{ from, to int }

var errNoRow = errors.New("not a line of results")

// readRow reads the members of one line of results that a run goes by. The rest
// is left as it is.
func readRow(raw []byte) (row, error) {
	var in struct {
		ID       string       `json:"id"`
		CustomID string       `json:"custom_id"`
		Line     int          `json:"line"`
		Status   tasks.Status `json:"status"`
		Digest   string       `json:"digest"`
	}
	if json.Unmarshal(raw, &in) != nil {
		return row{}, errNoRow
	}
	r := row{raw: raw, id: in.ID, customID: in.CustomID, line: in.Line, status: in.Status, digest: in.Digest}
	if r.find() != nil || r.id == "" || r.line < 1 || r.customAt.to == 0 || r.lineAt.to == 0 || !r.status.Valid() {
		return row{}, errNoRow
	}
	return r, nil
}

// find finds the two values that a run may have to change, and the row's end.
func (r *row) find() error {
	// A provider's body may repeat a member, and hold half a surrogate pair.
	d := jsontext.NewDecoder(bytes.NewReader(r.raw), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			return err
		}
		key := name.String()
		value, err := d.ReadValue()
		if err != nil {
			return err
		}
		r.end = int(d.InputOffset())
		switch at := (span{r.end - len(value), r.end}); key {
		case "custom_id":
			r.customAt = at
		case "line":
			r.lineAt = at
		}
	}
	return nil
}

// with returns a row of an earlier release with its digest.
func (r *row) with(digest string) (row, error) {
	raw := append(bytes.Clone(r.raw[:r.end]), `,"digest":"`+digest+`"`...)
	return readRow(append(raw, r.raw[r.end:]...))
}

// as returns the row as that of a prompt: under its present line and custom_id,
// and byte for byte the same in everything else.
func (r *row) as(p *prompt) ([]byte, error) {
	if r.line == p.Line && r.customID == p.CustomID {
		return r.raw, nil
	}
	custom, err := jsontext.AppendQuote(nil, p.CustomID)
	if err != nil {
		return nil, err
	}
	line := strconv.AppendInt(nil, int64(p.Line), 10)
	at, text := [2]span{r.customAt, r.lineAt}, [2][]byte{custom, line}
	if r.lineAt.from < r.customAt.from {
		at, text = [2]span{r.lineAt, r.customAt}, [2][]byte{line, custom}
	}
	return bytes.Join([][]byte{r.raw[:at[0].from], text[0], r.raw[at[0].to:at[1].from], text[1], r.raw[at[1].to:]}, nil), nil
}

// rows reads results. The last line may have been cut off by a crash.
func rows(old []byte) ([]row, error) {
	var all []row
	for raw := range bytes.Lines(old) {
		whole := bytes.HasSuffix(raw, []byte("\n"))
		if !whole {
			raw = append(bytes.Clone(raw), '\n')
		}
		r, err := readRow(raw)
		if err != nil && !whole && begun(raw[:len(raw)-1]) {
			break
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// begun reports whether something is the beginning of a line of results.
func begun(b []byte) bool {
	first := []byte(`{"custom_id":"`)
	return bytes.HasPrefix(b, first) || bytes.HasPrefix(first, b)
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
// An answer of release 0.1.0, which wrote no digests, does not say what it
// answers: line numbers and custom_ids stay when a prompt is corrected, and that
// release went by them alone, so even a folder of this very input beside the
// results proves nothing. What does is asked: what the job that brought the
// answer asked, by the job's id, as the folder's own records have it.
func (r *results) settle(o runOptions, all []prompt, asked map[string]string) (settled, error) {
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
func digested(o runOptions, had []row, asked map[string]string) ([]row, error) {
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

// mark is what an answer, or a job that will bring one, is known by.
type mark struct {
	digest, customID string
	line             int
}

// match gives each mark a prompt that asks the same and is not done: that of its
// custom_id, else that of its line, else the first. It returns the prompts' indexes, -1
// for none, and marks them as done.
func match(all []prompt, marks []mark, done []bool) []int {
	type named struct{ digest, name string }
	type placed struct {
		digest string
		line   int
	}
	byName, byLine, open := map[named]int{}, map[placed]int{}, map[string][]int{}
	for i := range all {
		if p := &all[i]; !done[i] {
			byName[named{p.digest, p.CustomID}] = i
			byLine[placed{p.digest, p.Line}] = i
			open[p.digest] = append(open[p.digest], i)
		}
	}
	out := make([]int, len(marks))
	for i := range out {
		out[i] = -1
	}
	give := func(find func(m *mark) (int, bool)) {
		for i := range marks {
			if out[i] >= 0 {
				continue
			}
			if at, ok := find(&marks[i]); ok && !done[at] {
				out[i], done[at] = at, true
			}
		}
	}
	give(func(m *mark) (int, bool) { at, ok := byName[named{m.digest, m.customID}]; return at, ok })
	give(func(m *mark) (int, bool) { at, ok := byLine[placed{m.digest, m.line}]; return at, ok })
	give(func(m *mark) (int, bool) {
		list := open[m.digest]
		for len(list) > 0 && done[list[0]] {
			list = list[1:]
		}
		open[m.digest] = list
		if len(list) == 0 {
			return 0, false
		}
		return list[0], true
	})
	return out
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

// replaceFile puts content in the place of a file, whole or not at all, and on
// disk when it returns. The new file is open, and locked before it has the name.
func replaceFile(name string, content [][]byte) (*os.File, error) {
	tmp, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*os.File, error) {
		return nil, errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
	}
	if err := lock(tmp); err != nil {
		return fail(err)
	}
	if at, err := os.Stat(name); err == nil {
		if err := tmp.Chmod(at.Mode().Perm()); err != nil {
			return fail(err)
		}
	}
	w := bufio.NewWriterSize(tmp, 1<<20)
	for _, part := range content {
		if _, err := w.Write(part); err != nil {
			return fail(err)
		}
	}
	if err := errors.Join(w.Flush(), tmp.Sync()); err != nil {
		return fail(err)
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return fail(err)
	}
	if err := syncFolder(filepath.Dir(name)); err != nil {
		return nil, errors.Join(err, tmp.Close())
	}
	return tmp, nil
}

// syncFolder makes a file's new name last.
func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
