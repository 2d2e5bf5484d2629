package drain

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// FuzzRow holds that a line of results is refused or can be given another place,
// and that every other member stays as it was, byte for byte.
func FuzzRow(f *testing.F) {
	f.Add(`{"custom_id":"a","line":1,"id":"job_1","status":"succeeded","result":{"a":1.10,"a":"\ud83d"},"text":"}","finish":"length","usage":{"input_tokens":1e2},"digest":"d"}`)
	f.Add(`{ "line" : 7, "status":"failed", "id":"x", "custom_id":"\"" }`)
	f.Add(`{"line":1,"line":2,"custom_id":"a","custom_id":"b","id":"x","status":"failed"}`)
	f.Add(`{"custom_id":"a","line":1,"sample":2,"id":"x","status":"canceled","columns":{"b":"c"},"finish":null,"note":[1, 2 ],"":0}` + "\n")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := readRow([]byte(line))
		if err != nil {
			return
		}
		p := prompt{Job: tasks.Job{Line: 12345, CustomID: "c\"\n"}, digest: "d", sample: 3, columns: []byte(`{"a":"b"}`)}
		moved, err := r.as(&p)
		if err != nil {
			t.Fatal(err)
		}
		now, err := readRow(moved)
		if err != nil || now.line != p.Line || now.customID != p.CustomID || now.sample != 3 || string(now.columns) != `{"a":"b"}` || now.id != r.id || now.digest != r.digest || now.status != r.status || now.finish != r.finish {
			t.Fatalf("%q became %q: %+v, %v", line, moved, now, err)
		}
		if was, is := othersOf(t, []byte(line)), othersOf(t, moved); !slices.Equal(was, is) {
			t.Fatalf("%q became %q: members %q, then %q", line, moved, was, is)
		}
		back, err := now.as(&prompt{Job: tasks.Job{Line: r.line, CustomID: r.customID}})
		if again, readErr := readRow(back); err != nil || readErr != nil || again.line != r.line || again.customID != r.customID {
			t.Fatalf("%q, moved and back: %q, %v, %v", line, back, err, readErr)
		}
	})
}

// othersOf are the members of a row, as they stand there, that its place does not change.
func othersOf(t *testing.T, raw []byte) (all []string) {
	t.Helper()
	d := jsontext.NewDecoder(bytes.NewReader(raw), asWritten)
	if _, err := d.ReadToken(); err != nil {
		t.Fatal(err)
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadValue()
		if err != nil {
			t.Fatal(err)
		}
		member := string(name)
		value, err := d.ReadValue()
		if err != nil {
			t.Fatal(err)
		}
		key, _ := jsontext.AppendUnquote(nil, member)
		if !slices.Contains([]string{"custom_id", "line", "sample", "columns"}, string(key)) {
			all = append(all, member+":"+string(value))
		}
	}
	return all
}

// FuzzKind holds that what is taken for prompts is text in UTF-8, and that what
// is refused is told apart from nothing.
func FuzzKind(f *testing.F) {
	for _, name := range []string{"p.txt", "p.jsonl", "p", "-"} {
		f.Add(name, "a\nb\n", false)
		f.Add(name, "[\n{\n", false)
		f.Add(name, "a,b\n1,2\n", true)
		f.Add(name, "{\"a\":\n1}\x00", false)
	}
	f.Fuzz(func(t *testing.T, name, content string, text bool) {
		b := []byte(content)
		if len(bytes.TrimSpace(b)) == 0 {
			return
		}
		k, err := kindOf(Options{File: name, Text: text}, name, b)
		switch {
		case err == nil && (strings.Contains(content, "\x00") || notUTF8(b) > 0):
			t.Errorf("%q is taken for %s", content, k)
		case err == nil && text && k != plainText, err == nil && k == "":
			t.Errorf("%q is taken for %q", content, k)
		case err != nil && !strings.Contains(err.Error(), "nothing was sent; "):
			t.Errorf("%q: %v", content, err)
		}
	})
}

// FuzzPrompts holds of a whole file, under every name and by every flag, that it is
// refused as the fault of who gave it, or read: each line that is not blank is then a
// prompt that can be asked and known again or, where faulty lines are left out, named
// with what is wrong with it. A file is read the same the second time, and as gzip.
func FuzzPrompts(f *testing.F) {
	names := []string{"p.jsonl", "p.json", "p.txt", "p.csv", "p.tsv", "p", "p.yaml", "p.jsonl.gz"}
	for i, content := range []string{
		`{"model":"m1","prompt":"a"}` + "\n" + `{"custom_id":"b","body":{"model":"m1","messages":[{"role":"user","content":"hi"}]}}`,
		`{"requests":[{"custom_id":"c","params":{"model":"m1","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}}]}`,
		"Say hello.\r\n\r\nSay goodbye.", "custom_id,b\nx,\"1,\n2\"\ny,3\nx,4\n", "a\tb\n1\t2\n",
		`{"model":"m1","prompt":"a"}` + "\n" + `{"model":"m1","promt":"a"}` + "\n{", "- a: b\n", "\x1f\x8b\x08",
	} {
		f.Add(content, byte(i), byte(0))
		f.Add(content, byte(i), byte(1|2|4))
		f.Add(bomUTF8+content, byte(i), byte(1|4|8))
	}
	f.Fuzz(func(t *testing.T, content string, name, flags byte) {
		o := Options{File: filepath.Join(t.TempDir(), names[int(name)%len(names)]), MaxTokens: 9, SkipInvalid: flags&1 != 0, Text: flags&8 != 0, Out: "out"}
		if flags&2 != 0 {
			o.Template = "Ask {b}!"
		}
		if flags&4 != 0 {
			o.Model = "m1"
		}
		o.Samples = int(flags >> 6)
		read := func(as, content string) (promptFile, error) {
			o.File = as
			if err := os.WriteFile(as, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			c := &Config{Stderr: io.Discard, Match: func(model string) (string, bool) { return "p", strings.HasPrefix(model, "m") }}
			return readPrompts(c, o)
		}
		plain := o.File
		in, err := read(plain, content)
		if err != nil {
			if usage := (wrongUsage{}); !errors.As(err, &usage) {
				t.Fatalf("%q: %v", content, err)
			}
			return
		}
		last := 0
		for i := range in.prompts {
			p := &in.prompts[i]
			if p.place != i || p.Line < last || o.Samples < 2 && p.Line == last || p.Pool != "p" || len(p.digest) != 64 || p.CustomID == "" || !json.Valid(p.Request.Body) || p.columns != nil && !json.Valid(p.columns) {
				t.Fatalf("%q: prompt %d is %+v", content, i, p)
			}
			last = p.Line
		}
		for _, l := range in.invalid {
			if !o.SkipInvalid || l.line < 1 || l.detail == "" {
				t.Fatalf("%q: left out: %+v", content, l)
			}
		}
		if len(in.prompts) == 0 {
			t.Fatalf("%q: nothing to ask, and no fault", content)
		}
		if n := lines(content); o.Text && len(in.prompts) != n*max(1, o.Samples) {
			t.Fatalf("%q: %d prompts of %d lines", content, len(in.prompts), n)
		}
		again, err := read(plain, content)
		if err != nil || !slices.EqualFunc(in.prompts, again.prompts, same) {
			t.Fatalf("%q: read again: %v, %v", content, again.prompts, err)
		}
		if strings.HasSuffix(plain, ".gz") {
			return
		}
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		if _, err := io.WriteString(w, content); err != nil || w.Close() != nil {
			t.Fatal(err)
		}
		if again, err = read(plain+".gz", z.String()); err != nil || !slices.EqualFunc(in.prompts, again.prompts, same) || len(in.invalid) != len(again.invalid) {
			t.Fatalf("%q: as gzip: %v, %v", content, again.prompts, err)
		}
	})
}

func same(a, b prompt) bool {
	return a.digest == b.digest && a.Line == b.Line && a.CustomID == b.CustomID && a.sample == b.sample && bytes.Equal(a.columns, b.columns)
}

// lines counts those that are not blank.
func lines(content string) (n int) {
	for line := range strings.Lines(strings.TrimPrefix(content, bomUTF8)) {
		if strings.TrimSpace(line) != "" {
			n++
		}
	}
	return n
}
