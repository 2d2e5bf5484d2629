package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// answer is a line of results.
type answer struct {
	CustomID string `json:"custom_id"`
	Line     int    `json:"line"`
	Sample   int    `json:"sample"`
	ID       string `json:"id"`
	Status   string `json:"status"`
	Text     string `json:"text"`
	Digest   string `json:"digest"`
}

// answersIn returns what lines of results say, by line.
func answersIn(t *testing.T, lines string) []answer {
	t.Helper()
	var all []answer
	for raw := range strings.Lines(lines) {
		var a answer
		if err := json.Unmarshal([]byte(raw), &a); err != nil || !strings.HasSuffix(raw, "}\n") {
			t.Fatalf("a line of results: %v: %q", err, raw)
		}
		if a.Status == "succeeded" && len(a.Digest) != 64 {
			t.Errorf("line %d has the digest %q", a.Line, a.Digest)
		}
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b answer) int { return cmp.Or(a.Line-b.Line, a.Sample-b.Sample) })
	return all
}

// texts is what lines of results answer, by line.
func texts(t *testing.T, lines string) string {
	t.Helper()
	var all []string
	for _, a := range answersIn(t, lines) {
		all = append(all, fmt.Sprintf("%d %s %s", a.Line, a.CustomID, a.Text))
	}
	return strings.Join(all, "\n")
}

// TestAnEditedFileIsAskedForWhatIsNewAndNothingElse was: results matched by line
// number and custom_id, so that lines were given the answers of other prompts.
func TestAnEditedFileIsAskedForWhatIsNewAndNothingElse(t *testing.T) {
	t.Parallel()
	text := []string{"--model", "m1"}
	for name, c := range map[string]struct {
		file          string
		before, after string
		args, then    []string // flags before and after; nil: those before
		asked         string   // by the second run
		want          string
		stale         string
	}{
		"a line on top": {"p.txt", "b\nc\n", "a\nb\nc\n", text, nil, "m1: a", "1 1 m1: a\n2 2 m1: b\n3 3 m1: c", ""},
		"moved":         {"p.txt", "a\nb\nc\n", "c\nb\na\n", text, nil, "", "1 1 m1: c\n2 2 m1: b\n3 3 m1: a", ""},
		"removed":       {"p.txt", "a\nb\nc\n", "a\nc\n", text, nil, "", "1 1 m1: a\n2 2 m1: c", "2 2 m1: b"},
		"changed":       {"p.txt", "a\nb\n", "a\nB\n", text, nil, "m1: B", "1 1 m1: a\n2 2 m1: B", "2 2 m1: b"},
		"appended":      {"p.txt", "a\n", "a\nb\n", text, nil, "m1: b", "1 1 m1: a\n2 2 m1: b", ""},
		"blank lines":   {"p.txt", "a\nb\n", "\n\na\n\nb\n", text, nil, "", "3 3 m1: a\n5 5 m1: b", ""},
		"twice on purpose": {
			"p.txt", "a\na\n", "a\na\na\n", text, nil, "m1: a", "1 1 m1: a\n2 2 m1: a\n3 3 m1: a", "",
		},
		"once less":       {"p.txt", "a\na\na\n", "b\na\n", text, nil, "m1: b", "1 1 m1: b\n2 2 m1: a", "1 1 m1: a\n3 3 m1: a"},
		"another model":   {"p.txt", "a\n", "a\n", text, []string{"--model", "m2"}, "m2: a", "1 1 m2: a", "1 1 m1: a"},
		"another limit":   {"p.txt", "a\n", "a\n", text, []string{"--model", "m1", "--max-tokens", "7"}, "m1: a", "1 1 m1: a", "1 1 m1: a"},
		"the same file":   {"p.txt", "a\nb\n", "a\nb\n", text, nil, "", "1 1 m1: a\n2 2 m1: b", ""},
		"white space":     {"p.jsonl", `{"custom_id":"x","model":"m1","prompt":"é"}`, `{ "prompt": "\u00e9", "model": "m1", "custom_id": "x" }`, nil, nil, "", "1 x m1: é", ""},
		"another name":    {"p.jsonl", `{"custom_id":"x","model":"m1","prompt":"a"}`, `{"custom_id":"y\"","model":"m1","prompt":"a"}`, nil, nil, "", "1 y\" m1: a", ""},
		"metadata, times": {"p.jsonl", `{"model":"m1","prompt":"a"}`, `{"model":"m1","prompt":"a","metadata":{"a":"b"},"priority":"low","deadline":"2199-01-01T00:00:00Z"}`, nil, nil, "", "1 1 m1: a", ""},
		"names keep to their answers": {
			"p.jsonl",
			`{"custom_id":"x","model":"m1","prompt":"a"}` + "\n" + `{"custom_id":"y","model":"m1","prompt":"a"}`,
			`{"custom_id":"z","model":"m1","prompt":"b"}` + "\n" + `{"custom_id":"y","model":"m1","prompt":"a"}`,
			nil, nil, "m1: b", "1 z m1: b\n2 y m1: a", "1 x m1: a",
		},
		"the custom_id stays, the prompt does not": {
			"p.jsonl", `{"custom_id":"x","model":"m1","prompt":"a"}`, `{"custom_id":"x","model":"m1","prompt":"A"}`, nil, nil, "m1: A", "1 x m1: A", "1 x m1: a",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			d.write(c.file, c.before)
			run := append([]string{"@" + c.file, "-o", "@out.jsonl"}, c.args...)
			d.ok(run...)
			first, calls := d.provider.seen()
			before := d.read("out.jsonl")
			d.write(c.file, c.after)
			if c.then != nil {
				run = append([]string{"@" + c.file, "-o", "@out.jsonl"}, c.then...)
			}
			_, stderr := d.ok(run...)
			second, now := d.provider.seen()
			var asked []string
			for q, n := range second {
				for range n - first[q] {
					asked = append(asked, q)
				}
			}
			if got := strings.Join(asked, "\n"); got != c.asked || now-calls != len(asked) {
				t.Errorf("asked %q in %d calls; want %q", got, now-calls, c.asked)
			}
			if got := texts(t, d.read("out.jsonl")); got != c.want {
				t.Errorf("results\n%s\nwant\n%s", got, c.want)
			}
			stale := d.read("out.jsonl.stale.jsonl")
			if got := texts(t, stale); got != c.stale {
				t.Errorf("stale\n%s\nwant\n%s", got, c.stale)
			}
			if said := fmt.Sprintf("%d answers that no line asks for any more are in ", strings.Count(stale, "\n")); strings.Contains(stderr, said) != (c.stale != "") {
				t.Errorf("stale answers, and on stderr:\n%s", stderr)
			}
			for line := range strings.Lines(stale) {
				if !strings.Contains(before, line) {
					t.Errorf("a stale answer is not as it was: %s", line)
				}
			}
			if c.after == c.before && c.then == nil && d.read("out.jsonl") != before {
				t.Error("the results were rewritten although nothing is new")
			}
		})
	}
}

// TestEveryMemberOfAnEarlierRowIsKept: a row under another line, or among the stale
// ones, says all that it said, and so does an answer that an interrupted run did not
// write any more.
func TestEveryMemberOfAnEarlierRowIsKept(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.provider.reply = func(ask string, _ int) (string, string) { return ask, "length" }
	d.write("p.txt", "a\nb\nc\nd\n")
	args := []string{"@p.txt", "-o", "@out.jsonl", "--model", "m1", "--ordered"}
	d.interrupted(1, args...)
	d.ok(args...)
	members := []string{"id", "status", "result", "text", "finish", "error", "usage", "attempts", "digest", "note"}
	rows := strings.Split(strings.TrimSuffix(d.read("out.jsonl"), "\n"), "\n")
	if len(rows) != 4 {
		t.Fatalf("results\n%s", d.read("out.jsonl"))
	}
	for i, row := range rows {
		if !strings.Contains(row, `"finish":"length"`) || !strings.Contains(row, `"prompt_tokens":7`) {
			t.Errorf("row %d is not whole: %s", i+1, row)
		}
		rows[i] = strings.TrimSuffix(row, "}") + `,"note":{"n":1.10e400,"by":"somebody \ud83d","a":1,"a":2}}`
	}
	d.write("out.jsonl", strings.Join(rows, "\n")+"\n")
	before := fields(t, d.read("out.jsonl"), members...)
	d.write("p.txt", "d\n\na\nb\n")
	d.ok(args...)
	wants(t, "moved", fields(t, d.read("out.jsonl"), members...), before[3], before[0], before[1])
	wants(t, "stale", fields(t, d.read("out.jsonl.stale.jsonl"), members...), before[2])
	if got := texts(t, d.read("out.jsonl")); got != "1 1 m1: d\n3 3 m1: a\n4 4 m1: b" {
		t.Errorf("results\n%s", got)
	}
}

var rounds = flag.Int("rounds", 5, "edits and runs of a file at random, at least 3")

// TestEditsAndInterruptionsAtRandom edits a file of prompts again and again,
// with runs to the end, interrupted and killed in between, and holds the whole
// promise: each line its own answer, none paid for twice, and none lost.
func TestEditsAndInterruptionsAtRandom(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		samples int // of each line
		rows    string
		flags   []string
	}{
		"rows":     {1, "out.jsonl", nil},
		"samples":  {2, "out.jsonl", []string{"--samples", "2"}},
		"a vendor": {1, "out.jsonl.state", []string{"--format", "openai", "--ordered"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			editsAndInterruptions(t, c.samples, c.rows, c.flags)
		})
	}
}

func editsAndInterruptions(t *testing.T, samples int, rows string, flags []string) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 1))
	d := newDesk(t)
	d.atOnce(64) // the place of a call whose process was killed is free after ten seconds only
	args := append([]string{"@p.jsonl", "-o", "@out.jsonl"}, flags...)

	var file []string         // the prompts, a line each
	have := map[string]int{}  // answers that the next run finds, by question
	stale := map[string]int{} // answers that no line asked for at some run
	next := 0
	fresh := func() string {
		next++
		return fmt.Sprintf("prompt %d", next)
	}
	for range 6 {
		file = append(file, fresh())
	}
	edit := func() {
		at := dice.IntN(len(file))
		switch dice.IntN(6) {
		case 0:
			file = slices.Insert(file, at, fresh())
		case 1:
			if len(file) > 3 {
				file = slices.Delete(file, at, at+1)
			}
		case 2:
			file[at] += "!"
		case 3:
			file = slices.Insert(file, dice.IntN(len(file)), file[at])
		case 4:
			dice.Shuffle(len(file), func(i, j int) { file[i], file[j] = file[j], file[i] })
		}
	}
	need := func() map[string]int {
		n := map[string]int{}
		for _, p := range file {
			n["m1: "+p] += samples
		}
		return n
	}
	// begins is what the start of a run makes of the answers that there are.
	begins := func() {
		for q, n := range have {
			if more := n - need()[q]; more > 0 {
				stale[q] += more
				have[q] -= more
			}
		}
	}
	save := func() {
		var b strings.Builder
		for i, p := range file {
			name := ""
			if i%2 == 0 {
				name = fmt.Sprintf(`"custom_id":"c%d",`, i)
			}
			fmt.Fprintf(&b, "{%s\"model\":\"m1\",\"prompt\":%q}\n", name, p)
		}
		d.write("p.jsonl", b.String())
	}
	for round := range *rounds {
		for range dice.IntN(5) {
			edit()
		}
		last := round == *rounds-1
		how := dice.IntN(2)
		if round == 8 || round == min(3, *rounds-3) {
			how = 2 // a few seconds each
		}
		if how > 0 && !last {
			file = append(file, fresh(), fresh(), fresh(), fresh()) // so that there is more to ask than is answered before a kill
		}
		save()
		begins()
		before, _ := d.provider.seen()
		switch {
		case how == 0 || last:
			d.ok(args...)
		case how == 1:
			d.interrupted(dice.IntN(3), args...)
		default:
			free := 1 + dice.IntN(3) // the first answer lets the gate send more than one call
			holding := d.provider.hold(free)
			p, err := startChild(d.dir, append(d.environ, "GORACE=atexit_sleep_ms=0"), append([]string{Sluice(t), "run", d.path("p.jsonl"), "-o", d.path("out.jsonl")}, flags...)...)
			if err != nil {
				t.Fatal(err)
			}
			d.held(holding, nil)
			want := 0
			for _, n := range have {
				want += n
			}
			// What was answered is in the results, and the rest under way or waiting.
			await(t, func() bool { return strings.Count(d.read(rows), "\n") == want+free })
			if _, err := p.end(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			d.provider.drop()
			if round == 3 {
				break // what was under way is asked again once its lease is over
			}
			// To be quick, the others ask for nothing that a dead process has in hand.
			got, _ := d.provider.seen()
			for i, p := range file {
				if got["m1: "+p] == 0 {
					file[i] = fresh()
				}
			}
		}
		after, _ := d.provider.seen()
		for q, n := range after {
			have[q] += n - before[q]
			if paid, wanted := n-before[q], need()[q]; how == 0 && have[q] != wanted && wanted > 0 {
				t.Errorf("round %d: %q was answered %d times and there are %d answers; %d lines ask it", round, q, paid, have[q], wanted)
			}
		}
		if how != 0 && !last {
			continue
		}
		got := answersIn(t, d.read(rows))
		if len(got) != samples*len(file) {
			t.Fatalf("round %d: %d results of %d lines", round, len(got), len(file))
		}
		ids := map[string]bool{}
		var lines []string // as a vendor has them
		for n, a := range got {
			i, sample := n/samples, 0
			name := fmt.Sprint(i + 1)
			if i%2 == 0 {
				name = fmt.Sprintf("c%d", i)
			}
			if samples > 1 {
				sample = n%samples + 1
			}
			lines = append(lines, fmt.Sprintf("%q %q", name, "m1: "+file[i]))
			if a.Sample != sample || a.Line != i+1 || a.CustomID != name || a.Text != "m1: "+file[i] || ids[a.ID] {
				t.Fatalf("round %d: line %d (%s, %q) has %+v", round, i+1, name, file[i], a)
			}
			ids[a.ID] = true
		}
		if rows != "out.jsonl" {
			var got []string
			for line := range strings.Lines(d.read("out.jsonl")) {
				var l struct {
					CustomID string `json:"custom_id"`
					Response struct {
						Body struct {
							Choices []struct{ Message struct{ Content string } }
						}
					}
				}
				if err := json.Unmarshal([]byte(line), &l); err != nil || len(l.Response.Body.Choices) != 1 {
					t.Fatalf("round %d: %v: %s", round, err, line)
				}
				got = append(got, fmt.Sprintf("%q %q", l.CustomID, l.Response.Body.Choices[0].Message.Content))
			}
			if !slices.Equal(got, lines) {
				t.Fatalf("round %d: lines %q; want %q", round, got, lines)
			}
		}
		gone := map[string]int{}
		for _, a := range answersIn(t, d.read("out.jsonl.stale.jsonl")) {
			if ids[a.ID] {
				t.Errorf("round %d: %s is among the results and among the stale ones", round, a.ID)
			}
			ids[a.ID] = true
			gone[a.Text]++
		}
		maps.DeleteFunc(stale, func(_ string, n int) bool { return n == 0 })
		if !maps.Equal(gone, stale) {
			t.Fatalf("round %d: stale answers %v; want %v", round, gone, stale)
		}
		total := 0
		for _, n := range after {
			total += n
		}
		if total != len(ids) {
			t.Fatalf("round %d: %d answers were paid for, and %d are there", round, total, len(ids))
		}
	}
}

// await waits until something holds.
func await(t *testing.T, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("it did not come to that")
		}
	}
}

// TestAnInterruptedRunFindsItsAnswersThoughTheFileWasEdited was: the folder of a
// run was named by the input's bytes, and an edit left what was paid for behind.
func TestAnInterruptedRunFindsItsAnswersThoughTheFileWasEdited(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.txt", "a\nb\nc\nd\ne\nf\ng\nh\n")
	d.interrupted(0, "@p.txt", "-o", "@out.jsonl", "--model", "m1")
	paid, calls := d.provider.seen()
	if len(paid) == 0 || len(paid) == 8 || d.read("out.jsonl") != "" {
		t.Fatalf("%d answers at the interruption, and the results %q", len(paid), d.read("out.jsonl"))
	}
	var had, open []string
	for _, p := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		if paid["m1: "+p] > 0 {
			had = append(had, p)
		} else {
			open = append(open, p)
		}
	}
	// One that is answered and all that wait go, and a new one comes to the top.
	d.write("p.txt", "new\n"+strings.Join(had[1:], "\n")+"\n")
	_, stderr := d.ok("@p.txt", "-o", "@out.jsonl", "--model", "m1")
	want := "1 1 m1: new"
	for i, p := range had[1:] {
		want += fmt.Sprintf("\n%d %d m1: %s", i+2, i+2, p)
	}
	if got := texts(t, d.read("out.jsonl")); got != want {
		t.Errorf("results\n%s\nwant\n%s", got, want)
	}
	if got := answersIn(t, d.read("out.jsonl.stale.jsonl")); len(got) != 1 || got[0].Text != "m1: "+had[0] {
		t.Errorf("stale: %+v; want the answer to %s", got, had[0])
	}
	if _, now := d.provider.seen(); now != calls+1 {
		t.Errorf("%d calls more; want one, for the new line", now-calls)
	}
	if want := fmt.Sprintf("sluice: %d jobs of an earlier run are canceled", len(open)); !strings.Contains(stderr, want) {
		t.Errorf("stderr\n%s\nwant %s", stderr, want)
	}
	if want := fmt.Sprintf("%d jobs: 1 succeeded, 0 failed, %d done before; answers: 1 complete; 7 input and 3 output tokens", len(had), len(had)-1); !strings.Contains(stderr, want) {
		t.Errorf("stderr\n%s\nwant %s", stderr, want)
	}
	if left, err := filepath.Glob(filepath.Join(d.data, "runs", "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestAJobWaitsAsItsLineNowSays: a line whose deadline was moved is the same
// question, and must not wait on under the old one.
func TestAJobWaitsAsItsLineNowSays(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	const line = `{"model":"m1","prompt":%q,"not_before":%q}` + "\n"
	soon, later := "2020-01-01T00:00:00Z", "2199-01-01T00:00:00Z"
	d.write("p.jsonl", fmt.Sprintf(line, "a", soon)+fmt.Sprintf(line, "b", later))
	d.interrupted(0, "@p.jsonl", "-o", "@out.jsonl")
	d.write("p.jsonl", fmt.Sprintf(line, "a", soon)+fmt.Sprintf(line, "b", soon))
	d.ok("@p.jsonl", "-o", "@out.jsonl")
	if got := texts(t, d.read("out.jsonl")); got != "1 1 m1: a\n2 2 m1: b" {
		t.Errorf("results\n%s", got)
	}
	if _, calls := d.provider.seen(); calls != 2 {
		t.Errorf("%d calls; want 2", calls)
	}
}

// TestOneRunAtATimeWritesAFile was: a second run with the same -o took lines out
// of the file that the first went on writing under another name.
func TestOneRunAtATimeWritesAFile(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.txt", "[[refused]]\n")
	if code, _, stderr := d.run("@p.txt", "-o", "@out.jsonl", "--model", "m1"); code != 1 {
		t.Fatal(stderr)
	}
	d.write("p.txt", "a\nb\n")
	if err := os.Symlink("out.jsonl", d.path("link.jsonl")); err != nil {
		t.Fatal(err)
	}
	holding := d.provider.hold(0)
	done := make(chan string, 1)
	go func() {
		code, _, stderr := d.runs(t.Context(), "", "@p.txt", "-o", "@out.jsonl", "--model", "m1")
		done <- fmt.Sprint(code, stderr)
	}()
	d.held(holding, done)
	other := *d
	other.environ = append(slices.Clone(d.environ), "SLUICE_DATA_DIR="+t.TempDir()) // the lock is the file's own
	for name, args := range map[string][]string{"same": {"-o", "@out.jsonl"}, "fresh": {"-o", "@out.jsonl", "--fresh"}, "by another name": {"-o", "@link.jsonl"}} {
		for _, desk := range []*desk{d, &other} {
			code, _, stderr := desk.run(append([]string{"@p.txt", "--model", "m1"}, args...)...)
			if code != 2 || !strings.Contains(stderr, "another run writes") {
				t.Errorf("%s: code %d\n%s", name, code, stderr)
			}
		}
	}
	d.provider.release()
	if said := <-done; !strings.HasPrefix(said, "0") {
		t.Errorf("the first run: %s", said)
	}
	if got := texts(t, d.read("out.jsonl")); got != "1 1 m1: a\n2 2 m1: b" {
		t.Errorf("results\n%s", got)
	}
}

func TestTwoRunsToStandardOutputAtOnce(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.txt", "a\n")
	holding := d.provider.hold(0)
	done := make(chan string, 1)
	go func() {
		code, stdout, stderr := d.runs(t.Context(), "", "@p.txt", "--model", "m1")
		done <- fmt.Sprint(code, stdout, stderr)
	}()
	d.held(holding, done)
	if code, _, stderr := d.run("@p.txt", "--model", "m1", "--fresh"); code != 2 || !strings.Contains(stderr, "another run of ") {
		t.Errorf("a second: code %d\n%s", code, stderr)
	}
	d.provider.release()
	if said := <-done; !strings.HasPrefix(said, "0") || !strings.Contains(said, "m1: a") {
		t.Errorf("the first run: %s", said)
	}
}

// TestTheSameFileTwiceToStandardOutputSaysSo was: the second run asked nothing,
// and its summary counted the answers and tokens as its own.
func TestTheSameFileTwiceToStandardOutputSaysSo(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.txt", "a\nb\n")
	first, _ := d.ok("@p.txt", "--model", "m1")
	second, stderr := d.ok("@p.txt", "--model", "m1")
	if texts(t, first) != texts(t, second) {
		t.Errorf("first\n%s\nthen\n%s", first, second)
	}
	for _, want := range []string{
		"all 2 jobs were done by an earlier run; --fresh asks again\n",
		"2 jobs: 0 succeeded, 0 failed, 2 done before; 0 input and 0 output tokens",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("stderr\n%s\nwant %s", stderr, want)
		}
	}
	if _, calls := d.provider.seen(); calls != 2 {
		t.Errorf("%d calls; want 2", calls)
	}
	// An edited file finds the answers to what stays.
	d.write("p.txt", "new\nb\na\n")
	third, stderr := d.ok("@p.txt", "--model", "m1")
	if got := texts(t, third); got != "1 1 m1: new\n2 2 m1: b\n3 3 m1: a" {
		t.Errorf("results\n%s", got)
	}
	if want := "2 of 3 jobs were done by an earlier run; --fresh asks again\n"; !strings.Contains(stderr, want) {
		t.Errorf("stderr\n%s\nwant %s", stderr, want)
	}
	if _, calls := d.provider.seen(); calls != 3 {
		t.Errorf("%d calls; want 3", calls)
	}
	if _, stderr := d.ok("@p.txt", "--model", "m1", "--fresh"); !strings.Contains(stderr, "3 jobs: 3 succeeded, 0 failed, 0 done before") {
		t.Errorf("--fresh:\n%s", stderr)
	}
}

// TestWhatIsNotResultsIsLeftAlone: a file with one line and no line break was
// taken for a line that a crash had cut off, and emptied.
func TestWhatIsNotResultsIsLeftAlone(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.jsonl", `{"model":"m1","prompt":"a"}`)
	for name, content := range map[string]string{
		"notes": "my notes", "notes with a line break": "my notes\n", "JSON": `{"a":1}`, "the prompts": d.read("p.jsonl"), "a list": "[1,2]\n",
		"no number": `{"custom_id":"a","id":"job_1","status":"succeeded","digest":"x"}` + "\n",
		"no id":     `{"custom_id":"a","line":1,"status":"succeeded","digest":"x"}` + "\n",
	} {
		d.write("out", content)
		code, _, stderr := d.run("@p.jsonl", "-o", "@out")
		if code != 2 || !strings.Contains(stderr, "holds something other than results") || d.read("out") != content {
			t.Errorf("%s: code %d, then %q\n%s", name, code, d.read("out"), stderr)
		}
	}
	for _, args := range [][]string{{"@p.jsonl", "-o", "@p.jsonl"}, {"@p.jsonl", "-o", "@p.jsonl", "--fresh"}} {
		code, _, stderr := d.run(args...)
		if code != 2 || !strings.Contains(stderr, "holds the prompts") || d.read("p.jsonl") == "" {
			t.Errorf("%q: code %d, then %q\n%s", args, code, d.read("p.jsonl"), stderr)
		}
	}
	if _, calls := d.provider.seen(); calls != 0 {
		t.Errorf("%d calls", calls)
	}
}

// TestResultsThatOthersTouched: rows that another program wrote anew, a last line
// without its break, one that a crash cut off, a mode, a symbolic link.
func TestResultsThatOthersTouched(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.txt", "a\nb\nc\n")
	d.ok("@p.txt", "-o", "@out.jsonl", "--model", "m1")
	var lines []string
	for line := range strings.Lines(d.read("out.jsonl")) {
		lines = append(lines, line)
	}
	var loose map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &loose); err != nil {
		t.Fatal(err)
	}
	sorted, err := json.Marshal(loose) // "line" is before "custom_id" no more
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("out.jsonl", d.path("link.jsonl")); err != nil {
		t.Fatal(err)
	}
	content := strings.ReplaceAll(string(sorted), `":`, `" : `) + "\n" + lines[1] + lines[1] + strings.TrimSuffix(lines[2], "\n")
	d.write("out.jsonl", content)
	if err := os.Chmod(d.path("out.jsonl"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.write("p.txt", "\na\nb\nc\n")
	d.ok("@p.txt", "-o", "@link.jsonl", "--model", "m1")
	if got := texts(t, d.read("out.jsonl")); got != "2 2 m1: a\n3 3 m1: b\n4 4 m1: c" {
		t.Errorf("results\n%s", got)
	}
	if _, calls := d.provider.seen(); calls != 3 {
		t.Errorf("%d calls; want 3", calls)
	}
	at, err := os.Lstat(d.path("link.jsonl"))
	file, fileErr := os.Stat(d.path("out.jsonl"))
	if err != nil || fileErr != nil || at.Mode()&os.ModeSymlink == 0 || file.Mode().Perm() != 0o644 {
		t.Errorf("the link is %v, %v; the file %v, %v", at, err, file, fileErr)
	}
	// Cut off within a line: that line alone is asked again.
	whole := d.read("out.jsonl")
	for _, cut := range []int{1, 9, 40, len(whole) / 4} {
		d.write("out.jsonl", whole[:len(whole)-cut])
		d.ok("@p.txt", "-o", "@out.jsonl", "--model", "m1")
		if got := len(answersIn(t, d.read("out.jsonl"))); got != 3 {
			t.Errorf("cut by %d: %d results", cut, got)
		}
	}
	if _, calls := d.provider.seen(); calls != 6 {
		t.Errorf("%d calls; want 6", calls)
	}
}

// TestACrashBetweenTheStaleAnswersAndTheResults leaves both with an answer; the
// next run keeps it once.
func TestACrashBetweenTheStaleAnswersAndTheResults(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.txt", "a\nb\n")
	d.ok("@p.txt", "-o", "@out.jsonl", "--model", "m1")
	whole := d.read("out.jsonl")
	d.write("p.txt", "a\n")
	d.ok("@p.txt", "-o", "@out.jsonl", "--model", "m1")
	stale := d.read("out.jsonl.stale.jsonl")
	d.write("out.jsonl", whole) // as before the second of the two was written
	_, stderr := d.ok("@p.txt", "-o", "@out.jsonl", "--model", "m1")
	if got := d.read("out.jsonl.stale.jsonl"); got != stale || strings.Contains(stderr, "no line asks") {
		t.Errorf("stale\n%s\nwant\n%s\nstderr\n%s", got, stale, stderr)
	}
	// A line break that somebody took away is no reason to spoil two answers.
	d.write("out.jsonl.stale.jsonl", strings.TrimSuffix(stale, "\n"))
	d.write("p.txt", "b\n")
	d.ok("@p.txt", "-o", "@out.jsonl", "--model", "m1")
	if got := texts(t, d.read("out.jsonl.stale.jsonl")); got != "1 1 m1: a\n2 2 m1: b" {
		t.Errorf("stale\n%s", got)
	}
	// What cannot be kept is not taken out of the results.
	if err := os.Remove(d.path("out.jsonl.stale.jsonl")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.path("out.jsonl.stale.jsonl"), 0o700); err != nil {
		t.Fatal(err)
	}
	before := d.read("out.jsonl")
	d.write("p.txt", "c\n")
	if code, _, stderr := d.run("@p.txt", "-o", "@out.jsonl", "--model", "m1"); code != 1 || d.read("out.jsonl") != before {
		t.Errorf("code %d, results %q\n%s", code, d.read("out.jsonl"), stderr)
	}
}
