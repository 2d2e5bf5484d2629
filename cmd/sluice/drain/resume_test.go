package drain

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// TestAJournalCutOffByACrash: half a line, and a batch that was never accepted,
// take nothing from the others.
func TestAJournalCutOffByACrash(t *testing.T) {
	f := &folder{dir: t.TempDir()}
	if err := f.note("batch_1", map[string]string{"job_1": "d1"}); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(f.dir, journal)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(text, "\njob_2 d2\njob_3"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.note("batch_2", map[string]string{"job_4": "d4"}); err != nil {
		t.Fatal(err)
	}
	batches, digests, err := noted(f.dir)
	if err != nil || digests["job_1"] != "d1" || digests["job_4"] != "d4" || !slices.Equal(batches, []string{"batch_1", "batch_2"}) {
		t.Errorf("batches %q, digests %v, %v", batches, digests, err)
	}
}

// TestLinesOfOneQuestionAreMatchedInTimeThatGrowsWithThem: a file of samples of
// one prompt has as many lines of one digest.
func TestLinesOfOneQuestionAreMatchedInTimeThatGrowsWithThem(t *testing.T) {
	const n = 200_000
	all, marks := make([]prompt, n), make([]mark, n)
	for i := range all {
		all[i] = prompt{Job: tasks.Job{Line: i + 1, CustomID: fmt.Sprint("c", i+1)}, digest: "d"}
		marks[i] = mark{"d", fmt.Sprint("old", i), n + i + 5, 0}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i, at := range match(all, marks, make([]bool, n)) {
		if at != i || ctx.Err() != nil {
			t.Fatalf("answer %d goes to line %d (%v)", i, at+1, ctx.Err())
		}
	}
}
