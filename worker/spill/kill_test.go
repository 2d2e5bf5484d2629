package spill_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/spill"
)

// A child of a test keeps ends until it is killed, or may write no large files, as on a
// disk that is nearly full.
const (
	childDir   = "SPILL_TEST_CHILD"
	childMay   = "SPILL_TEST_MAY" // bytes of a file
	childBytes = 1 << 16          // of an answer
)

// child keeps ends and says which, until it is killed.
func child(dir string) {
	f, err := spill.Open(spill.Config{Dir: dir, Record: &record{}, TTL: time.Hour})
	var most uint64
	if _, bad := fmt.Sscan(os.Getenv(childMay), &most); bad == nil && err == nil {
		signal.Ignore(syscall.SIGXFSZ)
		err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: most, Max: most})
	}
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		size := childBytes
		if most > 0 && i%2 == 1 {
			size = 10 // a small one goes on to be kept
		}
		id := fmt.Sprintf("job_%d_%d", os.Getpid(), i)
		err := f.KeepEnding(tasks.Ticket{ID: id, Fence: 3, Pool: "claude"},
			tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`"` + strings.Repeat("a", size) + `"`)}, errors.New("OOM"))
		if err != nil {
			fmt.Println("refused", id)
			continue
		}
		fmt.Println("kept", id)
	}
}

// killed runs a child until it has said so many lines, kills it and returns all of them
// that are whole.
func killed(t *testing.T, lines int, env ...string) (kept, refused []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 1<<16)
	n, err := io.ReadAtLeast(out, text, lines*len("kept job_12345_0\n"))
	_ = cmd.Process.Kill()
	rest, _ := io.ReadAll(out)
	_ = cmd.Wait()
	if err != nil {
		t.Fatalf("the child said %q: %v", text[:n], err)
	}
	for line := range strings.Lines(string(text[:n]) + string(rest)) {
		word, id, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch {
		case !strings.HasSuffix(line, "\n"):
		case word == "kept":
			kept = append(kept, id)
		case word == "refused":
			refused = append(refused, id)
		default:
			t.Fatal(line)
		}
	}
	return kept, refused
}

// recordedBy records what lies in a folder, and returns the ids and what is left.
func recordedBy(t *testing.T, dir string) (ids map[string]int, left []string) {
	t.Helper()
	f, r := open(t, spill.Config{Dir: dir})
	ids = map[string]int{}
	for _, name := range files(t, dir) {
		if filepath.Ext(name) != ".json" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		var i struct {
			Ticket tasks.Ticket
			Ending tasks.Ending
		}
		if err == nil {
			err = json.Unmarshal(text, &i)
		}
		if err != nil || !json.Valid(i.Ending.Result) {
			t.Errorf("%s is not whole: %v", name, err)
		}
		ids[i.Ticket.ID]++
	}
	f.Try(context.Background())
	if len(r.ended) != len(ids) {
		t.Errorf("%d of %d are recorded", len(r.ended), len(ids))
	}
	return ids, files(t, dir)
}

func TestWhatWasKeptOutlivesAKill(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spill")
	var kept []string
	for range 2 {
		k, _ := killed(t, 5, childDir+"="+dir)
		kept = append(kept, k...)
	}
	ids, left := recordedBy(t, dir)
	for _, id := range kept {
		if ids[id] != 1 {
			t.Errorf("%s was kept, and lies there %d times", id, ids[id])
		}
	}
	for _, name := range left { // of a file that was being written
		if !strings.HasPrefix(name, ".tmp-") {
			t.Errorf("%s is left", name)
		}
	}
	if len(left) > 2 {
		t.Errorf("%d files are left of two kills", len(left))
	}
}

func TestADiskThatTakesNoMoreIsSaidAndKeepsWhatFits(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spill")
	kept, refused := killed(t, 10, childDir+"="+dir, childMay+"=8192")
	if len(kept) < 3 || len(refused) < 3 {
		t.Fatalf("%d kept, %d refused", len(kept), len(refused))
	}
	ids, left := recordedBy(t, dir)
	for _, id := range kept {
		if ids[id] != 1 {
			t.Errorf("%s was kept, and lies there %d times", id, ids[id])
		}
	}
	for _, id := range refused {
		if ids[id] != 0 {
			t.Errorf("%s was refused, and lies there", id)
		}
	}
	if len(left) > 1 { // the kill itself may leave one
		t.Errorf("left of %d refusals: %v", len(refused), left)
	}
}
