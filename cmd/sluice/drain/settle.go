package drain

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/sluicehq/sluice/tasks"
)

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
	type placed struct {
		place int
		row   []byte
	}
	var kept []placed
	refused := len(stale)
	done := make([]bool, len(all))
	for i, at := range match(all, had, done) {
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
	out.left = undone(all, done)
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

// unanswered are the prompts to which an earlier run's results hold no answer. It
// changes no file.
func unanswered(o Options, s *standard, all []prompt) ([]prompt, error) {
	r := results{path: o.Out, format: o.Format}
	if o.Out == "" || o.Fresh {
		return all, nil
	}
	old, err := os.ReadFile(r.rows())
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, wrongUsage{fmt.Errorf("read the results so far: %w", err)}
	}
	had, err := rows(old)
	if err != nil {
		return nil, r.foreign(o)
	}
	had = slices.DeleteFunc(had, func(w row) bool {
		return w.status != tasks.StatusSucceeded || w.digest == "" || s.judge(w.finish, w.text) != nil
	})
	done := make([]bool, len(all))
	match(all, had, done)
	return undone(all, done), nil
}
