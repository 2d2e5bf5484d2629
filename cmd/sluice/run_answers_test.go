package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fields are what each line of a file says under these names, by the file's order.
func fields(t *testing.T, lines string, names ...string) (all []string) {
	t.Helper()
	for raw := range strings.Lines(lines) {
		var m map[string]json.RawMessage
		if err := json.Unmarshal([]byte(raw), &m); err != nil {
			t.Fatalf("%v: %q", err, raw)
		}
		var said []string
		for _, name := range names {
			said = append(said, string(m[name]))
		}
		all = append(all, strings.Join(said, " "))
	}
	return all
}

// wants compares lines.
func wants(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestEndingsCanBeFailures was: an answer that was cut off, refused or empty looked
// like a whole one, with exit code 0.
func TestEndingsCanBeFailures(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.provider.reply = func(ask string, nth int) (string, string) {
		switch {
		case strings.Contains(ask, "long") && nth == 1:
			return "cut", "length"
		case strings.Contains(ask, "bad"):
			return "", "content_filter"
		case strings.Contains(ask, "nothing"):
			return "", "stop"
		}
		return ask, "stop"
	}
	d.write("p.txt", "fine\nlong\nbad\nnothing\n")
	args := []string{"@p.txt", "-o", "@out.jsonl", "--model", "m1", "--ordered"}
	_, stderr := d.ok(args...)
	wants(t, "results", fields(t, d.read("out.jsonl"), "line", "status", "finish"), `1 "succeeded" "complete"`, `2 "succeeded" "length"`, `3 "succeeded" "filtered"`, `4 "succeeded" "empty"`)
	if want := "4 jobs: 4 succeeded, 0 failed, 0 done before; answers: 1 complete, 1 empty, 1 filtered, 1 length; 28 input and 12 output tokens in "; !strings.Contains(stderr, want) {
		t.Errorf("stderr\n%s\nwant %s", stderr, want)
	}
	// The same file, held to more: what does not count is asked again, said, and kept.
	code, _, stderr := d.run(append(args, "--fail-on", "length,filtered")...)
	if code != 1 || !strings.Contains(stderr, "sluice: 2 answers of earlier runs are not accepted (2 finish_not_accepted): their lines are asked again, and the answers are kept in ") {
		t.Errorf("code %d\n%s", code, stderr)
	}
	wants(t, "held to more", fields(t, d.read("out.jsonl"), "line", "status", "finish", "text"),
		`1 "succeeded" "complete" "m1: fine"`, `2 "succeeded" "complete" "m1: long"`, `3 "failed" "filtered" ""`, `4 "succeeded" "empty" ""`)
	wants(t, "the error", fields(t, d.read("out.jsonl"), "error")[2:3],
		`{"code":"finish_not_accepted","message":"the answer ended as filtered, which --fail-on does not accept","upstream_status":null,"maybe_billed":false}`)
	wants(t, "stale", fields(t, d.read("out.jsonl.stale.jsonl"), "line", "status"), `2 "succeeded"`, `3 "succeeded"`)
	if _, calls := d.provider.seen(); calls != 6 {
		t.Errorf("%d calls; want 6", calls)
	}
	// A rerun asks what failed, and only that; the answer that failed is not lost.
	code, _, stderr = d.run(append(args, "--fail-on", "length,filtered")...)
	if _, calls := d.provider.seen(); code != 1 || calls != 7 || !strings.Contains(stderr, "1 answers of earlier runs are not accepted (1 finish_not_accepted)") {
		t.Errorf("code %d, %d calls\n%s", code, calls, stderr)
	}
	wants(t, "stale, then", fields(t, d.read("out.jsonl.stale.jsonl"), "line", "status"), `2 "succeeded"`, `3 "succeeded"`, `3 "failed"`)
	if code, _, stderr := d.run(append(args, "--fail-on", "lenght")...); code != 2 || !strings.Contains(stderr, "there are length, refused, empty and filtered") {
		t.Errorf("code %d\n%s", code, stderr)
	}
}

// TestAnAnswerThatTheSchemaRefusesIsAskedForAgain holds what --schema promises.
func TestAnAnswerThatTheSchemaRefusesIsAskedForAgain(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.provider.reply = func(ask string, nth int) (string, string) {
		switch {
		case strings.Contains(ask, "never"):
			return `{"age":"old"}`, "stop"
		case nth < 3:
			return "Sure! Here it is.", "stop"
		}
		return `{"age":7}`, "stop"
	}
	d.write("p.txt", "third\nnever\n")
	d.write("s.json", `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","required":["age"],"properties":{"age":{"type":"integer"}}}`)
	args := []string{"@p.txt", "-o", "@out.jsonl", "--model", "m1", "--ordered", "--schema", "@s.json"}
	code, _, stderr := d.run(args...)
	if code != 1 || !strings.Contains(stderr, "2 jobs: 1 succeeded, 1 failed") || !strings.Contains(stderr, "56 input and 24 output tokens") {
		t.Errorf("code %d\n%s", code, stderr)
	}
	wants(t, "results", fields(t, d.read("out.jsonl"), "line", "status", "text", "attempts"), `1 "succeeded" "{\"age\":7}" 3`, `2 "failed" "{\"age\":\"old\"}" 5`)
	if e := fields(t, d.read("out.jsonl"), "error")[1]; !strings.Contains(e, `"code":"schema_mismatch"`) || !strings.Contains(e, "/age") {
		t.Errorf("the error is %s", e)
	}
	if n := strings.Count(d.read("out.jsonl.stale.jsonl"), "schema_mismatch"); n != 6 {
		t.Errorf("%d of the 6 answers that others came for are kept", n)
	}
	if _, calls := d.provider.seen(); calls != 8 {
		t.Errorf("%d calls; want 3 and 5", calls)
	}
	code, _, stderr = d.run(args...)
	if _, calls := d.provider.seen(); code != 1 || calls != 13 || !strings.Contains(stderr, "1 answers of earlier runs are not accepted (1 schema_mismatch): their lines are asked again") {
		t.Errorf("again: code %d, %d calls\n%s", code, calls, stderr)
	}
	for file, want := range map[string]string{"s.txt": "it is not JSON", "type.json": "it is not a schema", "far.json": "that stands alone", "none.json": "read the schema"} {
		if file != "none.json" {
			d.write(file, map[string]string{"s.txt": "{", "type.json": `{"type":"objekt"}`, "far.json": `{"$ref":"http://127.0.0.1:1/s.json"}`}[file])
		}
		if code, _, stderr := d.run("@p.txt", "--model", "m1", "--schema", "@"+file); code != 2 || !strings.Contains(stderr, want) {
			t.Errorf("%s: code %d\n%s", file, code, stderr)
		}
	}
}

func TestSamples(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.txt", "a\nb\n")
	args := []string{"@p.txt", "-o", "@out.jsonl", "--model", "m1", "--ordered"}
	for _, step := range []struct {
		samples string
		want    []string
		calls   int // in all
		stale   int
	}{
		{"3", []string{`1 1 "m1: a"`, `1 2 "m1: a"`, `1 3 "m1: a"`, `2 1 "m1: b"`, `2 2 "m1: b"`, `2 3 "m1: b"`}, 6, 0},
		{"3", []string{`1 1 "m1: a"`, `1 2 "m1: a"`, `1 3 "m1: a"`, `2 1 "m1: b"`, `2 2 "m1: b"`, `2 3 "m1: b"`}, 6, 0},
		{"2", []string{`1 1 "m1: a"`, `1 2 "m1: a"`, `2 1 "m1: b"`, `2 2 "m1: b"`}, 6, 2},
		{"4", []string{`1 1 "m1: a"`, `1 2 "m1: a"`, `1 3 "m1: a"`, `1 4 "m1: a"`, `2 1 "m1: b"`, `2 2 "m1: b"`, `2 3 "m1: b"`, `2 4 "m1: b"`}, 10, 2},
		{"", []string{`1  "m1: a"`, `2  "m1: b"`}, 10, 8},
		{"1", []string{`1 1 "m1: a"`, `2 1 "m1: b"`}, 10, 8},
	} {
		run := args
		if step.samples != "" {
			run = append(run, "--samples", step.samples)
		}
		_, stderr := d.ok(run...)
		wants(t, "--samples "+step.samples, fields(t, d.read("out.jsonl"), "line", "sample", "text"), step.want...)
		if _, calls := d.provider.seen(); calls != step.calls {
			t.Errorf("--samples %s: %d calls; want %d\n%s", step.samples, calls, step.calls, stderr)
		}
		if n := strings.Count(d.read("out.jsonl.stale.jsonl"), "\n"); n != step.stale {
			t.Errorf("--samples %s: %d stale answers; want %d", step.samples, n, step.stale)
		}
	}
	for _, n := range []string{"0", "-1"} {
		if code, _, stderr := d.run(append(args, "--samples="+n)...); code != 2 || !strings.Contains(stderr, "--samples has to be at least 1") {
			t.Errorf("--samples=%s: code %d\n%s", n, code, stderr)
		}
	}
	if code, _, stderr := d.run(append(args, "--samples", "2", "--format", "openai")...); code != 2 || !strings.Contains(stderr, "exclude one another") {
		t.Errorf("code %d\n%s", code, stderr)
	}
}

func TestColumnsAreCarriedIntoTheResults(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.csv", "custom_id,who,text,lang\nx,Ann,\"Hi, {who}\",en\n,Bob,\"two\nlines\",de\n")
	args := []string{"@p.csv", "-o", "@out.jsonl", "--model", "m1", "--ordered", "--template", "{ text } for {who}, as {\"json\": 1}"}
	d.ok(args...)
	wants(t, "results", fields(t, d.read("out.jsonl"), "custom_id", "line", "text", "columns"),
		`"x" 2 "m1: Hi, {who} for Ann, as {\"json\": 1}" {"custom_id":"x","lang":"en"}`,
		`"3" 3 "m1: two\nlines for Bob, as {\"json\": 1}" {"custom_id":"","lang":"de"}`)
	// What is not asked may be edited: the answer stays, and carries what is there now.
	d.write("p.csv", "lang,who,text,custom_id\nfr,Bob,\"two\nlines\",y\nen,Ann,\"Hi, {who}\",x\n")
	d.ok(args...)
	wants(t, "edited", fields(t, d.read("out.jsonl"), "custom_id", "line", "columns"), `"y" 2 {"lang":"fr","custom_id":"y"}`, `"x" 4 {"lang":"en","custom_id":"x"}`)
	if _, calls := d.provider.seen(); calls != 2 {
		t.Errorf("%d calls; want 2", calls)
	}
}

func TestAVendorsResultLines(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.jsonl", `{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m1","messages":[{"role":"user","content":"<b>&"}]}}
{"custom_id":"b","body":{"model":"m1","messages":[{"role":"user","content":"[[refused]]"}]}}
`)
	args := []string{"@p.jsonl", "-o", "@out.jsonl", "--format", "openai", "--ordered"}
	if code, _, stderr := d.run(args...); code != 1 {
		t.Errorf("code %d\n%s", code, stderr)
	}
	lines := fields(t, d.read("out.jsonl"), "custom_id", "response", "error")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], `"a" {"status_code":200,"request_id":"job_`) || !strings.Contains(lines[0], `"content":"m1: \u003cb\u003e\u0026"`) || !strings.HasSuffix(lines[0], "}} null") ||
		lines[1] != `"b" null {"code":"upstream_rejected","message":"invalid_request_error: no"}` {
		t.Errorf("lines\n%s", strings.Join(lines, "\n"))
	}
	if n := len(answersIn(t, d.read("out.jsonl.state"))); n != 2 {
		t.Errorf("%d digests are kept", n)
	}
	before := d.read("out.jsonl")
	// The lines can be made again, whole or cut off, and are, unpaid.
	for _, left := range []string{"", before[:len(before)/2], before} {
		d.write("out.jsonl", left)
		d.write("p.jsonl", `{"custom_id":"A","body":{"model":"m1","messages":[{"role":"user","content":"<b>&"}]}}`)
		d.ok(args...)
		if got := d.read("out.jsonl"); got != strings.Replace(before[:strings.Index(before, "\n")+1], `"custom_id":"a"`, `"custom_id":"A"`, 1) {
			t.Errorf("made again of %d bytes:\n%s", len(left), got)
		}
	}
	if _, calls := d.provider.seen(); calls != 2 {
		t.Errorf("%d calls; want 2", calls)
	}
	// What is not such lines is left alone.
	for name, content := range map[string]string{"notes": "my notes\n", "rows": d.read("out.jsonl.state")} {
		d.write("out.jsonl", content)
		if code, _, stderr := d.run(args...); code != 2 || d.read("out.jsonl") != content || !strings.Contains(stderr, "holds something other than results") {
			t.Errorf("%s: code %d\n%s", name, code, stderr)
		}
	}
	d.write("out.jsonl", before)
	if code, _, stderr := d.run("@p.jsonl", "-o", "@out.jsonl"); code != 2 || !strings.Contains(stderr, "say the same --format") {
		t.Errorf("without --format: code %d\n%s", code, stderr)
	}
	if code, _, stderr := d.run("@p.jsonl", "--format", "anthropic"); code != 2 || !strings.Contains(stderr, "is answered in the dialect openai by the pool p") {
		t.Errorf("another vendor's: code %d\n%s", code, stderr)
	}
	stdout, _ := d.ok("@p.jsonl", "--format", "openai")
	if got := fields(t, stdout, "custom_id", "status"); !slices.Equal(got, []string{`"A" `}) {
		t.Errorf("to standard output: %q", got)
	}
}

// TestResultsInTheInputsOrder holds the first call until the others are answered.
func TestResultsInTheInputsOrder(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	var b strings.Builder
	var want []string
	for i := range 40 {
		fmt.Fprintf(&b, "prompt %d\n", i)
		want = append(want, fmt.Sprintf(`%d "m1: prompt %d"`, i+1, i))
	}
	d.write("p.txt", b.String())
	d.interrupted(3, "@p.txt", "-o", "@out.jsonl", "--model", "m1", "--ordered")
	lines := fields(t, d.read("out.jsonl"), "line")
	if !slices.IsSortedFunc(lines, func(a, b string) int { return len(a)*100 + strings.Compare(a, b) - len(b)*100 }) {
		t.Errorf("interrupted: %q", lines)
	}
	d.ok("@p.txt", "-o", "@out.jsonl", "--model", "m1", "--ordered")
	wants(t, "a file", fields(t, d.read("out.jsonl"), "line", "text"), want...)
	stdout, _ := d.ok("@p.txt", "--model", "m1", "--ordered")
	wants(t, "standard output", fields(t, stdout, "line", "text"), want...)
	stdout, _ = d.ok("@p.txt", "--model", "m1", "--ordered")
	wants(t, "again", fields(t, stdout, "line", "text"), want...)
}

func TestFaultyLinesCanBeLeftOut(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.jsonl", `{"model":"m1","prompt":"a"}
{"model":"m1","prompt":"cut
{"model":"m1","promt":"b"}
{"model":"m1","prompt":"c"}
`)
	_, stderr := d.ok("@p.jsonl", "-o", "@out.jsonl", "--skip-invalid", "--ordered")
	if want := "sluice: 2 faulty lines are left out; they are in " + d.path("out.jsonl.invalid.jsonl") + "\n"; !strings.Contains(stderr, want) {
		t.Errorf("stderr\n%s\nwant %s", stderr, want)
	}
	wants(t, "results", fields(t, d.read("out.jsonl"), "line"), "1", "4")
	wants(t, "left out", fields(t, d.read("out.jsonl.invalid.jsonl"), "line", "input"), `2 "{\"model\":\"m1\",\"prompt\":\"cut"`, `3 {"model":"m1","promt":"b"}`)
	if code, _, stderr := d.run("@p.jsonl", "--skip-invalid"); code != 2 || !strings.Contains(stderr, "--skip-invalid needs a file") {
		t.Errorf("to standard output: code %d\n%s", code, stderr)
	}
	d.write("p.jsonl", `{"model":"m1","prompt":"a"}`)
	d.ok("@p.jsonl", "-o", "@out.jsonl", "--skip-invalid")
	if _, err := os.Stat(d.path("out.jsonl.invalid.jsonl")); !os.IsNotExist(err) {
		t.Errorf("lines of an earlier run are still there: %v", err)
	}
	d.write("p.jsonl", `{"model":"m1"}`+"\n{\n")
	if code, _, stderr := d.run("@p.jsonl", "-o", "@none.jsonl", "--skip-invalid"); code != 2 || !strings.Contains(stderr, "2 lines are faulty") {
		t.Errorf("nothing but faulty lines: code %d\n%s", code, stderr)
	}
}

func TestADryRunSendsAndChangesNothing(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("sluice.yaml", d.read("sluice.yaml")+"prices: {\"m1*\": {input: 3, output: 15}}\n")
	d.write("p.jsonl", `{"model":"m1","prompt":"twelve bytes","max_tokens":1000}
{"model":"m1-b","prompt":"a","max_tokens":1000}
{"model":"m2","request":{"messages":[{"role":"user","content":"a"}],"max_tokens":7}}
`)
	stdout, _ := d.ok("@p.jsonl", "-o", "@out.jsonl", "--dry-run")
	for _, want := range []string{"m1     1", "1000           $0.0150", "m2     1", "7         not known", "all     3", "2007  $0.0300 and more", "pool p: at most 8s at the allowed pace; output tokens bind", "nothing was sent\n"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("it says no %q:\n%s", want, stdout)
		}
	}
	left, err := filepath.Glob(filepath.Join(d.data, "*"))
	if _, calls := d.provider.seen(); calls != 0 || d.read("out.jsonl") != "" || err != nil || len(left) > 0 {
		t.Errorf("%d calls, %q, %v", calls, left, err)
	}
	d.ok("@p.jsonl", "-o", "@out.jsonl")
	before := d.read("out.jsonl")
	d.write("p.jsonl", `{"model":"m1","prompt":"new"}`+"\n"+d.read("p.jsonl"))
	stdout, _ = d.ok("@p.jsonl", "-o", "@out.jsonl", "--dry-run")
	if !strings.Contains(stdout, "3 of 4 jobs were done by an earlier run and are left out") || !strings.Contains(stdout, "all     1") || d.read("out.jsonl") != before {
		t.Errorf("with results:\n%s", stdout)
	}
}

// TestADryRunWithNothingLeftSaysSo was: it showed an empty table of prices.
func TestADryRunWithNothingLeftSaysSo(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.jsonl", `{"model":"m1","prompt":"a"}`+"\n"+`{"model":"m1"}`+"\n")
	args := []string{"@p.jsonl", "-o", "@out.jsonl", "--skip-invalid"}
	d.ok(args...)
	stdout, _ := d.ok(append(args, "--dry-run")...)
	if want := "nothing is left to ask: all 1 jobs were done by an earlier run; --fresh asks again\n1 faulty lines are left out\nnothing was sent\n"; stdout != want {
		t.Errorf("it says\n%swant\n%s", stdout, want)
	}
	if stdout, _ := d.ok(append(args, "--dry-run", "--fresh")...); !strings.Contains(stdout, "all     1") {
		t.Errorf("--fresh:\n%s", stdout)
	}
}

// TestADryRunTellsOfAnswersThatItCannotSee was: what an interrupted run was answered
// and did not write any more, and what a run to standard output was answered, was
// counted without a word.
func TestADryRunTellsOfAnswersThatItCannotSee(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.txt", "a\nb\n")
	const want = "an earlier run has left jobs behind: those that were answered are counted here, and are not asked again\n"
	for _, out := range [][]string{nil, {"-o", "@out.jsonl"}} {
		args := append([]string{"@p.txt", "--model", "m1"}, out...)
		if stdout, _ := d.ok(append(args, "--dry-run")...); strings.Contains(stdout, want) {
			t.Errorf("%q: before any run:\n%s", out, stdout)
		}
		if out == nil {
			d.ok(args...)
		} else {
			d.interrupted(0, args...)
		}
		if stdout, _ := d.ok(append(args, "--dry-run")...); !strings.Contains(stdout, want) {
			t.Errorf("%q: after a run:\n%s", out, stdout)
		}
		if stdout, _ := d.ok(append(args, "--dry-run", "--fresh")...); strings.Contains(stdout, want) {
			t.Errorf("%q: --fresh:\n%s", out, stdout)
		}
	}
}

// TestAModelThatNobodyKnowsEndsItsLines was: a file of 10,000 lines with a typo made
// 10,000 calls.
func TestAModelThatNobodyKnowsEndsItsLines(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("sluice.yaml", strings.Replace(d.read("sluice.yaml"), "requests_per_minute: 60000, request_burst: 1000", "requests_per_minute: 600, request_burst: 4", 1))
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "{\"model\":\"m-none\",\"prompt\":\"%d\"}\n", i)
	}
	b.WriteString(`{"model":"m1","prompt":"fine"}`)
	d.write("p.jsonl", b.String())
	code, _, stderr := d.run("@p.jsonl", "-o", "@out.jsonl")
	_, calls := d.provider.seen()
	if code != 1 || calls > 80 || !strings.Contains(stderr, `the provider does not know the model "m-none": 5 lines were answered "`) || !strings.Contains(stderr, "101 jobs: 1 succeeded, 100 failed") {
		t.Errorf("code %d, %d calls\n%s", code, calls, stderr)
	}
	if n := strings.Count(d.read("out.jsonl"), "\n"); n != 101 {
		t.Errorf("%d results", n)
	}
	if !strings.Contains(d.read("out.jsonl"), `"error":{"code":"canceled","message":"not asked: the provider does not know the model`) {
		t.Error("no line says why it was not asked")
	}
	d.write("p.jsonl", strings.ReplaceAll(d.read("p.jsonl"), "m-none", "m1"))
	d.atOnce(4)
	if _, stderr := d.ok("@p.jsonl", "-o", "@out.jsonl"); !strings.Contains(stderr, "101 jobs: 100 succeeded, 0 failed, 1 done before") {
		t.Error(stderr)
	}
}
