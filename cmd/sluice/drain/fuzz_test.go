package drain

import (
	"bytes"
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
