package main

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

const bomUTF8 = "\xef\xbb\xbf"

func gzipped(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, s)
	_ = z.Close()
	return b.String()
}

func utf16le(s string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

func swapped(s string) string {
	b := []byte(s)
	for i := 0; i+1 < len(b); i += 2 {
		b[i], b[i+1] = b[i+1], b[i]
	}
	return string(b)
}

func utf32le(s string) string {
	var b []byte
	for _, r := range s {
		b = append(b, byte(r), byte(r>>8), byte(r>>16), 0)
	}
	return string(b)
}

// TestWhatIsNotPromptsIsNotSent was: what was no JSON lines was sent to the
// provider line by line, and paid for.
func TestWhatIsNotPromptsIsNotSent(t *testing.T) {
	t.Parallel()
	const (
		one    = `{"model":"m1","prompt":"hello"}` + "\n"
		alpaca = "[\n    {\n        \"instruction\": \"Give three tips.\",\n        \"input\": \"\"\n    }\n]\n"
		csv    = "id,prompt\r\n1,\"Summarise, please:\r\nline two\"\r\n2,Hello\r\n"
	)
	type file struct {
		name, content string
		args          []string
		want          string // of what is refused: words on stderr
		taken         int    // prompts of what is taken
	}
	text := []string{"--model", "m1"}
	asText := []string{"--model", "m1", "--text"}
	refused := func(name, content, want string, args ...string) file { return file{name, content, args, want, 0} }
	taken := func(name, content string, n int, args ...string) file { return file{name, content, args, "", n} }
	for _, c := range []file{
		refused("alpaca.json", alpaca, `Line 1: It is none of the lines that are taken: a submit body ("prompt", "messages" or "request"), OpenAI's batch line ("body"), Anthropic's ("params"), or a provider's body ("messages"). It has "instruction", "input".`),
		refused("alpaca.json", alpaca, "a line is an element of the list\nnothing was sent"),
		refused("alpaca.txt", alpaca, "a JSON list, which run does not read; nothing was sent; name it .json, or say --text", text...),
		refused("alpaca.jsonl", alpaca, "It is none of the lines that are taken"),
		refused("-", alpaca, "It is none of the lines that are taken"),
		refused("oneline.json", `[{"instruction":"a"},{"instruction":"b"}]`, "2 lines are faulty"),
		refused("oneline.txt", `[{"instruction":"a"},{"instruction":"b"}]`, "a JSON list", text...),
		refused("strings.json", `["a", "b"]`, "Line 2: The body must be a JSON object.", text...),
		refused("strings.txt", `["a", "b"]`, "a JSON list", text...),
		refused("cut.txt", `[{"instruction":"a"},{"instr`, "a JSON list", text...),
		refused("cut.json", `[{"model":"m1","prompt":"a"},{"model":`, "Line 2: The body ends before its JSON value does."),
		refused("two.json", `[{"model":"m1","prompt":"a"}] []`, "Something follows"),
		refused("sharegpt.jsonl", `{"conversations":[{"from":"human","value":"hi"}]}`, `It has "conversations".`),
		refused("embed.jsonl", `{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"m1","input":"a"}}`, "names another endpoint"),
		refused("other.json", `{"data":[{"model":"m1","prompt":"a"}]}`, `It has "data".`),
		refused("empty.json", `[]`, "holds no prompts"),
		refused("empty.json", `{"requests": []}`, "holds no prompts"),
		refused("pretty.json", "{\n \"model\": \"m1\",\n \"prompt\": \"a\"\n}\n", "a JSON document over several lines"),
		refused("pretty.jsonl", "{\n \"model\": \"m1\",\n \"prompt\": \"a\"\n}\n", "a JSON document over several lines"),
		refused("pretty2.jsonl", "{\"model\": \"m1\",\n \"prompt\": \"a\"}\n", "a JSON document over several lines"),
		refused("lines.txt", one, "JSON lines, which run does not read; nothing was sent; name it .jsonl, or say --text", text...),
		refused("prompts.csv", csv, "CSV or TSV, which run does not read; nothing was sent; say with --template what to ask of each row, a column's name in braces: sluice run FILE --template '{COLUMN}'"),
		refused("prompts.csv", csv, "CSV", text...),
		refused("prompts.csv", csv, `--template: there is no column "text"; the columns are id, prompt`, "--model", "m1", "--template", "{text}"),
		refused("prompts.csv", csv, "--template names no column", "--model", "m1", "--template", "Say hello."),
		refused("prompts.csv", csv, "CSV names no model, and none is picked", "--template", "{prompt}"),
		refused("prompts.csv", "a,b\n1\n2,3\n4,5,6\n7,\"x\n", "Line 2: The row has 1 fields, and the header has 2.", "--model", "m1", "--template", "{b}"),
		refused("prompts.csv", "a,a\n1,2\n", `the header has two columns "a"`, "--model", "m1", "--template", "{a}"),
		refused("prompts.csv", "a,b\n1,\n", "Line 2: The prompt is empty.", "--model", "m1", "--template", "{b}"),
		refused("prompts.csv", "custom_id,b\nx,1\nx,2\n", `Line 3: The "custom_id" is that of line 2 already.`, "--model", "m1", "--template", "{b}"),
		refused("prompts.csv", csv, "--template and --text exclude one another", "--model", "m1", "--text", "--template", "{prompt}"),
		refused("p.jsonl", one, "--template is for the columns of CSV or TSV, and this seems to be JSON lines", "--template", "{prompt}"),
		refused("p.txt", "Say hello.\n", "--template is for the columns", "--model", "m1", "--template", "{prompt}"),
		refused("prompts", csv, "CSV", text...),
		refused("-", csv, "CSV", text...),
		refused("semicolons", "id;prompt\n1;a\n2;b\n", "CSV", text...),
		refused("prompts.tsv", "id\tprompt\n1\ta\n", "TSV"),
		refused("tabs", "id\tprompt\n1\ta\n", "TSV", text...),
		refused("prompts.yaml", "- prompt: a\n- prompt: b\n", "YAML", text...),
		refused("prompts", "- prompt: a\n  model: m\n- prompt: b\n", "YAML", text...),
		refused("page.html", "<!DOCTYPE html>\n<p>hi\n", "HTML or XML", text...),
		refused("page.txt", "<?xml version=\"1.0\"?>\n<a/>\n", "HTML or XML", text...),
		refused("prompts.md", "Say hello.\nSay goodbye.\n", "plain text, which run does not read; nothing was sent; if each line is a prompt, name it .txt or say --text", text...),
		refused("-", "Say hello.\n", "standard input seems to be plain text", text...),
		refused("le.txt", "\xff\xfe"+utf16le("Say hello.\r\nSay goodbye.\r\n"), "UTF-16, which run does not read; nothing was sent; make it UTF-8: iconv -f UTF-16 -t UTF-8 FILE", text...),
		refused("be.txt", "\xfe\xff"+swapped(utf16le("Say hello.\n")), "UTF-16", text...),
		refused("nomark.txt", utf16le("Say hello.\nSay goodbye.\n"), "UTF-16", text...),
		refused("nomark.txt", swapped(utf16le("Say hello.\nSay goodbye.\n")), "UTF-16", asText...),
		refused("le.jsonl", "\xff\xfe"+utf16le(one), "UTF-16"),
		refused("wide.txt", "\xff\xfe\x00\x00"+utf32le("Say hello.\n"), "UTF-32", text...),
		refused("widenomark.txt", utf32le("Say hello.\n"), "UTF-32", text...),
		refused("nul.txt", "hello\x00world\nand again\n", "binary, for it holds NUL bytes", text...),
		refused("nul.txt", "hello\x00world\nand again\n", "binary, for it holds NUL bytes", asText...),
		refused("mac.txt", "Say hello.\rSay goodbye.\r", "lines end in CR alone", text...),
		refused("latin1.txt", "plain\ncaf\xe9\n", "Line 2: not UTF-8 text; nothing was sent; if it is Latin-1 or Windows-1252", text...),
		refused("latin1.jsonl", "{\"model\":\"m1\",\"prompt\":\"caf\xe9\"}\n", "Line 1: not UTF-8 text"),
		refused("p.jsonl", gzipped(one), "gzip, which run does not read; nothing was sent; name it .gz"),
		refused("-", gzipped(one), "gzip"),
		refused("p.jsonl.gz", gzipped(gzipped(one)), "gzip"),
		refused("p.jsonl.gz", one, "its name ends in .gz, and it is not gzip"),
		refused("p.jsonl.gz", gzipped(one)+"garbage", "its gzip is damaged or cut off"),
		refused("p.jsonl.gz", gzipped(one)[:len(gzipped(one))-3], "its gzip is damaged or cut off"),
		refused("p.csv.gz", gzipped(csv), "CSV"),
		refused("book.xlsx", "PK\x03\x04\x14\x00\x06\x00\x08\x00[Content_Types].xml\x00xl/workbook.xml", "a spreadsheet (xlsx)"),
		refused("p.txt", "PK\x03\x04\x14\x00\x06\x00\x08\x00prompts.txt", "a zip archive", text...),
		refused("p.pdf", "%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
		refused("p.parquet", "PAR1\x15\x04\x15\x1e", "Parquet"),
		refused("p.db", "SQLite format 3\x00\x10\x00", "an SQLite database"),
		refused("p.zst", "\x28\xb5\x2f\xfd\x04\x58", "zstd"),
		refused("p.rtf", "{\\rtf1\\ansi hello}", "RTF"),
		refused("empty.txt", "\n \r\n", "holds no prompts", text...),
		refused("bom.txt", bomUTF8, "holds no prompts", text...),
		refused("p.txt", "Say hello.\n", "plain text names no model, and none is picked: name one with --model; the pools serve m*"),
		refused("-", "Say hello.\n", "none is picked", "--text"),
		refused("p.txt", "Say hello.\n", `no pool serves the model "gpt-9"; name another with --model; the pools serve m*`, "--model", "gpt-9"),
		refused("p.jsonl", `{"prompt":"a"}`, "The member \"model\" is missing.\nnothing was sent; --skip-invalid leaves such lines out\n--model names the model of lines that name none; the pools serve m*"),
		refused("p.jsonl", `{"model":"x","prompt":"a"}`, "Line 1: No pool serves the model in \"model\".\nnothing was sent; --skip-invalid leaves such lines out\n--model names the model of lines that name none; the pools serve m*"),

		taken("p.jsonl", one, 1),
		taken("list.json", "\xef\xbb\xbf[\n"+one+","+one+"]\n", 2),
		taken("list.json.gz", gzipped("["+one+"]"), 1),
		taken("jobs.json", `{"jobs":[{"model":"m1","prompt":"a"}]}`, 1),
		taken("requests.json", "{\n  \"requests\": [\n    {\"custom_id\": \"a\", \"params\": {\"model\": \"m1\", \"max_tokens\": 5, \"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}}\n  ]\n}\n", 1),
		taken("openai.jsonl", `{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m1","messages":[{"role":"user","content":"hi"}]}}`, 1),
		taken("cookbook.jsonl", `{"model":"m1","messages":[{"role":"user","content":"hi"}],"temperature":0,"metadata":{"row":1}}`, 1),
		taken("bare.jsonl", `{"messages":[{"role":"user","content":"hi"}],"top_p":1}`, 1, "--model", "m1"),
		taken("mixed.jsonl", one+`{"custom_id":"b","body":{"model":"m1","messages":[{"role":"user","content":"hi"}]}}`+"\n"+`{"custom_id":"c","params":{"model":"m1","messages":[{"role":"user","content":"hi"}]}}`+"\n", 3),
		taken("prompts.csv", csv, 2, "--model", "m1", "--template", "{prompt}"),
		taken("-", csv, 2, "--model", "m1", "--template", "{prompt}"),
		taken("prompts.csv", bomUTF8+"id;text\n1;\"a;b\"\n2;c, d\n", 2, "--model", "m1", "--template", "{text}"),
		taken("prompts.tsv", "id\ttext\n1\ta, b\n\n2\tc\n", 2, "--model", "m1", "--template", "Ask {text}!"),
		taken("prompts.csv.gz", gzipped(csv), 2, "--model", "m1", "--template", `{"json": "{prompt}"}`),
		taken("p.ndjson", one+"\n"+one, 2),
		taken("p.jsonl", bomUTF8+one, 1),
		taken("p.json", one+one, 2), // lines, whatever the name
		taken("p", one, 1),
		taken("-", one, 1),
		taken("-", "\n  "+one, 1),
		taken("p.jsonl.gz", gzipped(bomUTF8+one), 1),
		taken("p.txt.gz", gzipped("Say hello.\nSay goodbye.\n"), 2, text...),
		taken("two.gz", gzipped(one)+gzipped(one), 2), // two members are one file
		taken("p.jsonl", `{"prompt":"a"}`, 1, "--model", "m2"),
		taken("p.txt", "Say hello.\r\n\r\nSay goodbye.", 2, text...),
		taken("p.txt", bomUTF8+"Say hello.\n", 1, text...),
		taken("p.txt", "One, two, three,\nfour, five, six,\n", 2, text...),
		taken("p.txt", "[INST] hello [/INST]\n{name}, who are you?\n<b>what</b> is this?\n- why: so\n", 4, text...),
		taken("p.txt", "{name}, who are you?\n", 1, text...),
		taken("p.txt", "one\rtwo\nthree\n", 2, text...), // a CR within a line of a file with LF
		taken("p.txt", "only one\r", 1, text...),
		taken("p.txt", "a\u2028b\nc\u0085d\n", 2, text...),
		taken("-", "Say hello.\n", 1, asText...),
		taken("p.md", "Say hello.\n", 1, asText...),
		taken("p.jsonl", one, 1, asText...),
		taken("p.csv", "a,b\nc,d\n", 2, asText...),
	} {
		t.Run(c.name+" "+c.want, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			arg, stdin := "-", c.content
			if c.name != "-" {
				d.write(c.name, c.content)
				arg, stdin = "@"+c.name, ""
			}
			// One of each form is asked; of the others it is told what would be.
			dry := c.want == "" && !slices.Contains([]string{"list.json", "mixed.jsonl", "prompts.csv", "two.gz", "p.md"}, c.name)
			words := append([]string{arg}, c.args...)
			if dry {
				words = append(words, "--dry-run")
			}
			code, stdout, stderr := d.runs(t.Context(), stdin, words...)
			_, calls := d.provider.seen()
			asked := calls
			if dry {
				_, all, _ := strings.Cut(stdout, " all ")
				_, _ = fmt.Sscan(all, &asked)
			}
			said := strings.ReplaceAll(stderr, d.path(c.name), "FILE")
			switch {
			case c.want == "" && (code != 0 || asked != c.taken || dry != (calls == 0) || !dry && strings.Count(stdout, "\n") != c.taken || !strings.Contains(stderr, "; the first prompt: \"")):
				t.Errorf("code %d, %d calls; want %d prompts to be taken\n%s%s", code, calls, c.taken, stdout, stderr)
			case c.want != "" && (code != 2 || calls != 0 || stdout != "" || !strings.Contains(said, c.want)):
				t.Errorf("code %d, %d calls, stdout %q; want %q on stderr:\n%s", code, calls, stdout, c.want, said)
			}
		})
	}
}

// TestTheFirstPromptIsShownBeforeTheFirstCall: what is going to be paid for, on
// one line and without what a terminal would obey.
func TestTheFirstPromptIsShownBeforeTheFirstCall(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	long := strings.Repeat("word ", 30)
	for line, want := range map[string]string{
		`{"model":"m1","prompt":"one\ntwo\u001b[31m\u202e \"q\""}`:                                                                                  `1 JSON line; the first prompt: "one two\x1b[31m\u202e \"q\""`,
		`{"model":"m1","prompt":"` + long + `"}` + "\n" + `{"model":"m1","prompt":"b"}`:                                                             `2 JSON lines; the first prompt: "` + long[:60] + `…"`,
		`{"model":"m1","system":"s","messages":[{"role":"assistant","content":"a"},{"role":"user","content":[{"type":"text","text":"in parts"}]}]}`: `the first prompt: "in parts"`,
		`{"model":"m1","request":{"messages":[{"role":"user","content":"as a request"}],"n":1}}`:                                                    `the first prompt: "as a request"`,
		`{"model":"m1","request":{"messages":[{"role":"system","content":"alone"}]}}`:                                                               `the first prompt: "{\"messages\":[{\"role\":\"system\",\"content\":\"alone\"}]}"`,
	} {
		d.write("p.jsonl", line)
		_, stderr := d.ok("@p.jsonl")
		first, _, _ := strings.Cut(stderr, "\n")
		if !strings.HasPrefix(first, "sluice: "+d.path("p.jsonl")+": ") || !strings.HasSuffix(first, want) {
			t.Errorf("%s\nsays %s\nwant %s", line, first, want)
		}
	}
	d.write("p.txt", "a\nb\n")
	if _, stderr := d.ok("@p.txt", "--model", "m1"); !strings.Contains(stderr, `: 2 lines of plain text; the first prompt: "a"`) {
		t.Errorf("plain text:\n%s", stderr)
	}
}

// TestAllFaultyLinesAreNamed was: ten faults were ten tries.
func TestAllFaultyLinesAreNamed(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	var b strings.Builder
	for i := range 60 {
		if i%2 == 0 {
			fmt.Fprintf(&b, "{\"model\":\"m1\",\"prompt\":\"secret %d\"\n", i)
		} else {
			fmt.Fprintf(&b, "{\"model\":\"m1\",\"prompt\":\"fine %d\"}\n", i)
		}
	}
	d.write("p.jsonl", b.String())
	code, stdout, stderr := d.run("@p.jsonl", "-o", "@out.jsonl")
	if _, calls := d.provider.seen(); code != 2 || stdout != "" || calls != 0 || d.read("out.jsonl") != "" {
		t.Errorf("code %d, %d calls, %s", code, calls, stdout)
	}
	for i := range 60 {
		want := i%2 == 0 && i < 40
		if got := strings.Contains(stderr, fmt.Sprintf("p.jsonl: Line %d: ", i+1)); got != want {
			t.Errorf("line %d is named: %t; want %t", i+1, got, want)
		}
	}
	if !strings.Contains(stderr, "\nand 10 more\n30 lines are faulty\nnothing was sent") || strings.Contains(stderr, "secret") {
		t.Error(stderr)
	}
}

// TestALineThatCanNeverFitIsFaulty was: a picture above what its pool takes was sent, or
// waited for; a document and a recording likewise. What the pool takes is asked of no
// allowance that is only guessed.
func TestALineThatCanNeverFitIsFaulty(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	picture, err := os.ReadFile("../../tasks/estimate/testdata/1000x800.png")
	if err != nil {
		t.Fatal(err)
	}
	limited := func(dialect, limits string) string {
		return fmt.Sprintf("providers: {p: {dialect: %s, base_url: %q, api_key: k}}\npools: {p: {provider: p, models: [\"m*\"]%s}}\n", dialect, d.provider.URL, limits)
	}
	const few = ", limits: {requests_per_minute: 6000, input_tokens_per_minute: 300}"
	base := base64.StdEncoding.EncodeToString
	for name, c := range map[string]struct{ dialect, part string }{
		"a picture, OpenAI":    {"openai", `{"type":"image_url","image_url":{"url":"data:image/png;base64,` + base(picture) + `"}}`},
		"a picture, Anthropic": {"anthropic", `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + base(picture) + `"}}`},
		"a document":           {"anthropic", `{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"` + base(append([]byte("%PDF-1.4\n"), make([]byte, 500_000)...)) + `"}}`},
		"a recording":          {"openai", `{"type":"input_audio","input_audio":{"format":"wav","data":"` + base(append([]byte("RIFF"), make([]byte, 3_000_000)...)) + `"}}`},
	} {
		line := `{"model":"m1","max_tokens":9,"messages":[{"role":"user","content":[` + c.part + `]}]}`
		d.write("p.jsonl", `{"model":"m1","prompt":"fits"}`+"\n"+line+"\n")
		d.write("sluice.yaml", limited(c.dialect, few))
		code, _, stderr := d.run("@p.jsonl", "-o", "@out.jsonl")
		if _, calls := d.provider.seen(); code != 2 || calls != 0 || !strings.Contains(stderr, "p.jsonl: Line 2: The request has about ") || !strings.Contains(stderr, "its pool takes 300 a minute") {
			t.Errorf("%s: code %d, %d calls\n%s", name, code, calls, stderr)
		}
		d.write("sluice.yaml", limited(c.dialect, ""))
		if _, stderr := d.ok("@p.jsonl", "--dry-run"); !strings.Contains(stderr, "2 JSON lines") {
			t.Errorf("%s, with a guessed allowance:\n%s", name, stderr)
		}
	}
	d.write("sluice.yaml", limited("openai", few))
	if d.ok("@p.jsonl", "-o", "@out.jsonl", "--skip-invalid"); !strings.Contains(d.read("out.jsonl.invalid.jsonl"), "takes 300 a minute") {
		t.Errorf("left out: %.300s", d.read("out.jsonl.invalid.jsonl"))
	}
}
