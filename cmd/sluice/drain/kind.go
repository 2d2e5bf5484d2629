package drain

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"
)

// lineKind is what the lines of an input are. It is read from the name and the
// first bytes and never guessed: what is taken for prompts is paid for.
type lineKind string

const (
	jsonLines lineKind = "JSON line"
	jsonList  lineKind = "element of a JSON list"
	plainText lineKind = "line of plain text"
	csvRows   lineKind = "row of CSV"
	csv2Rows  lineKind = "row of CSV with semicolons"
	tsvRows   lineKind = "row of TSV"
)

// commas are what separates the fields of a table's rows.
var commas = map[lineKind]rune{tsvRows: '\t', csvRows: ',', csv2Rows: ';'}

func (k lineKind) count(n int) string {
	if n == 1 {
		return "1 " + string(k)
	}
	one, of, more := strings.Cut(string(k), " of ")
	if more {
		of = " of " + of
	}
	return fmt.Sprintf("%d %ss%s", n, one, of)
}

// what is what the lines are of.
func (k lineKind) what() string {
	if _, of, ok := strings.Cut(string(k), " of "); ok {
		return of
	}
	return string(k)
}

const (
	bomUTF8 = "\xef\xbb\xbf"
	blank   = " \t\r\n"
)

// guise is something that is not lines of prompts, and how it becomes them. In
// the hint FILE is the file, STEM its name without extension and OTHER a new one.
type guise struct{ what, hint string }

var (
	listInText   = guise{"a JSON list", "name it .json, or say --text if each line is a prompt as it stands"}
	jsonDocument = guise{"a JSON document over several lines", "make it JSON lines, an object a line: jq -c . FILE > STEM.jsonl"}
	linesInText  = guise{"JSON lines", "name it .jsonl, or say --text if each line is a prompt as it stands"}
	table        = guise{"CSV or TSV", "say with --template what to ask of each row, a column's name in braces: sluice run FILE --template '{COLUMN}'"}
	yamlText     = guise{"YAML", "make it JSON lines: yq -o json -I 0 '.[]' FILE > STEM.jsonl"}
	markup       = guise{"HTML or XML", "take the prompts out of it, a prompt a line, into STEM.txt"}
	twoBytes     = guise{"UTF-16", "make it UTF-8: iconv -f UTF-16 -t UTF-8 FILE > OTHER"}
	fourBytes    = guise{"UTF-32", "make it UTF-8: iconv -f UTF-32 -t UTF-8 FILE > OTHER"}
	crOnly       = guise{"text whose lines end in CR alone, as on an old Mac", `end them in LF: tr '\r' '\n' < FILE > OTHER`}
	nuls         = guise{"binary, for it holds NUL bytes", "prompts are text in UTF-8: make JSON lines or a text file of them"}
	compressed   = guise{"gzip", "name it .gz, or: gunzip < FILE | sluice run -"}
	archive      = guise{"a zip archive", "take the prompts out of it: unzip FILE"}
	workbook     = guise{"a spreadsheet (xlsx)", "save its column of prompts as a text file, a prompt a line: STEM.txt"}
	officeText   = guise{"an Office document", "save it as plain text, a prompt a line: STEM.txt"}
	unnamed      = guise{"plain text", "if each line is a prompt, name it .txt or say --text; else make JSON lines of it"}
)

// magic is how files of other kinds begin.
var magic = []struct {
	first string
	guise
}{
	{"\xff\xfe\x00\x00", fourBytes},
	{"\x00\x00\xfe\xff", fourBytes},
	{"\xff\xfe", twoBytes},
	{"\xfe\xff", twoBytes},
	{"\x1f\x8b", compressed},
	{"PK\x03\x04", archive},
	{"PK\x05\x06", archive},
	{"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", officeText},
	{"%PDF-", guise{"PDF", "take its text out, a prompt a line: pdftotext FILE STEM.txt"}},
	{"PAR1", guise{"Parquet", `make it JSON lines: duckdb -c "COPY (FROM 'FILE') TO 'STEM.jsonl' (FORMAT json)"`}},
	{"ARROW1", guise{"Arrow", "export it as JSON lines"}},
	{"Obj\x01", guise{"Avro", "export it as JSON lines"}},
	{"SQLite format 3\x00", guise{"an SQLite database", `make JSON lines of a query: sqlite3 FILE "SELECT json_object('prompt', prompt) FROM prompts" > STEM.jsonl`}},
	{"\x28\xb5\x2f\xfd", guise{"zstd", "decompress it: zstd -dc FILE > OTHER"}},
	{"BZh", guise{"bzip2", "decompress it: bzip2 -dc FILE > OTHER"}},
	{"\xfd7zXZ\x00", guise{"xz", "decompress it: xz -dc FILE > OTHER"}},
	{`{\rtf`, guise{"RTF", officeText.hint}},
}

// kindOf says what the input is by its name, without .gz, and its content, or
// refuses it with what it seems to be and how to convert it. --text is a
// person's word that each line of a text in UTF-8 is a prompt.
func kindOf(o Options, name string, b []byte) (lineKind, error) {
	if g := encoded(b); g != nil {
		return "", g.refuse(o.File, name)
	}
	if line := notUTF8(b); line > 0 {
		latin := guise{"", "if it is Latin-1 or Windows-1252, make it UTF-8: iconv -f WINDOWS-1252 -t UTF-8 FILE > OTHER"}
		return "", usagef("%s: Line %d: not UTF-8 text; nothing was sent; %s", nameOf(o.File), line, latin.how(o.File, name))
	}
	if o.Text {
		return plainText, nil
	}
	k, g := spoken(o, name, b)
	if g != nil {
		return "", g.refuse(o.File, name)
	}
	if _, ok := commas[k]; o.Template != "" && !ok {
		return "", usagef("%s: --template is for the columns of CSV or TSV, and this seems to be %s; nothing was sent; leave --template out, or name the file .csv or .tsv", nameOf(o.File), k.count(2)[2:])
	}
	return k, nil
}

// Form is what the lines of a file are: of List, Text and Comma one says it, and none that
// they are JSON lines.
type Form struct {
	List, Text bool
	Comma      rune // of a table
}

// onPages are the hints to who has a page's form in place of a shell.
var onPages = map[guise]string{
	listInText:  "name it .json, or choose that each line is a prompt",
	linesInText: "name it .jsonl, or choose that each line is a prompt",
	table:       "say what each row asks, a column's name in braces",
	compressed:  "name it .gz",
	unnamed:     "if each line is a prompt, name it .txt or choose so; else make JSON lines of it",
}

// Recognize says what the lines of a file are, as a run does, by its name without .gz and
// by how it begins, for who takes it in by a page; or it says why it is none. It never guesses.
func Recognize(name string, start []byte, template string) (form Form, fault string) {
	start = bytes.TrimPrefix(start, []byte(bomUTF8))
	if len(bytes.TrimSpace(start)) == 0 {
		return form, "The file holds no prompts."
	}
	o := Options{Template: template}
	var k lineKind
	g := encoded(start)
	if g == nil {
		k, g = spoken(o, name, start)
	}
	if g != nil {
		hint := cmp.Or(onPages[*g], g.how(name, name))
		return form, fmt.Sprintf("The file seems to be %s, which is not taken: %s.", g.what, hint)
	}
	return Form{List: k == jsonList, Text: k == plainText, Comma: commas[k]}, ""
}

// spoken is the kind of a text in UTF-8, or what it is instead.
func spoken(o Options, name string, b []byte) (lineKind, *guise) {
	ext := strings.ToLower(filepath.Ext(name))
	switch ext {
	case ".csv", ".tsv", ".tab":
		return tableKind(o, ext, b)
	case ".yaml", ".yml":
		return "", &yamlText
	}
	if k, g := document(b); g != nil || k != "" {
		if ext == ".txt" && k == jsonList {
			return "", &listInText
		}
		return k, g
	}
	switch {
	case ext == ".jsonl", ext == ".ndjson":
		return jsonLines, nil
	case ext == ".txt":
		// A prompt may begin with a brace or a tag, and hold commas.
		switch line := firstLine(b); {
		case json.Valid(line) && (line[0] == '{' || line[0] == '['):
			return "", &linesInText
		case htmlPage.Match(line):
			return "", &markup
		}
		return plainText, nil
	case firstLine(b)[0] == '{':
		return jsonLines, nil
	}
	return other(o, b)
}

// tableKind is what separates the fields of a table, by its name and its header.
func tableKind(o Options, ext string, b []byte) (lineKind, *guise) {
	header := firstLine(b)
	switch {
	case o.Template == "":
		return "", &table
	case ext == ".tsv", ext == ".tab":
		return tsvRows, nil
	case bytes.Count(header, []byte(";")) > bytes.Count(header, []byte(",")):
		return csv2Rows, nil
	}
	return csvRows, nil
}

// refuse is the error of a file that is not lines of prompts.
func (g *guise) refuse(file, name string) error {
	return usagef("%s seems to be %s, which run does not read; nothing was sent; %s", nameOf(file), g.what, g.how(file, name))
}

var plainName = regexp.MustCompile(`^[\w./-]+$`)

// how is the hint with names that a shell takes as they are; others are left to
// the reader.
func (g *guise) how(file, name string) string {
	stem, other := strings.TrimSuffix(name, filepath.Ext(name)), "new-"+name
	if strings.Contains(g.hint, "STEM"+filepath.Ext(name)) {
		stem = "new-" + stem // what would be written is not what is read
	}
	if file == "-" || !plainName.MatchString(file) {
		file, stem, other = "FILE", "NEW", "NEW"+filepath.Ext(name)
	}
	return strings.NewReplacer("FILE", file, "STEM", stem, "OTHER", other).Replace(g.hint)
}

// encoded finds what is no text in UTF-8 with lines at all.
func encoded(b []byte) *guise {
	for _, m := range magic {
		if !bytes.HasPrefix(b, []byte(m.first)) {
			continue
		}
		g := m.guise
		switch {
		case g == archive && bytes.Contains(b, []byte("xl/")):
			g = workbook
		case g == archive && bytes.Contains(b, []byte("word/")):
			g = officeText
		}
		return &g
	}
	if g := wide(b); g != nil {
		return g
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return &nuls
	}
	if bytes.IndexByte(b, '\n') < 0 && bytes.IndexByte(bytes.TrimRight(b, "\r"), '\r') >= 0 {
		return &crOnly
	}
	return nil
}

// wide finds the encodings of two and four bytes a character that bear no mark, by
// the zeros that a text of Latin letters is full of.
func wide(b []byte) *guise {
	var zeros [4]int // by position in a group of four
	b = b[:min(len(b), 4096)/4*4]
	for i, c := range b {
		if c == 0 {
			zeros[i%4]++
		}
	}
	full := func(n int) bool { return n > 0 && 2*n > len(b)/4 }
	switch even, odd := zeros[0]+zeros[2], zeros[1]+zeros[3]; {
	case full(zeros[1]) && full(zeros[2]) && (full(zeros[0]) || full(zeros[3])):
		return &fourBytes
	case even == 0 && full(odd/2), odd == 0 && full(even/2):
		return &twoBytes
	}
	return nil
}

// notUTF8 returns the number of the first line that is not UTF-8, or 0.
func notUTF8(b []byte) int {
	n := 0
	for line := range bytes.Lines(b) {
		if n++; !utf8.Valid(line) {
			return n
		}
	}
	return 0
}

var (
	jobList    = regexp.MustCompile(`^\s*\{\s*"(jobs|requests)"\s*:\s*\[`)
	objectList = regexp.MustCompile(`^\s*\[\s*\{`)
	htmlPage   = regexp.MustCompile(`(?i)^<(\?xml|!doctype|html)`)
	yamlLine   = regexp.MustCompile(`^(- .*|(- )?["\w-]+:( .*)?|\s+.*)$`)
)

// document finds JSON that is not a value a line: a list of jobs, or what run does
// not read.
func document(b []byte) (lineKind, *guise) {
	line := firstLine(b)
	switch {
	case string(line) == "[", objectList.Match(b), line[0] == '[' && json.Valid(b), jobList.Match(b):
		return jsonList, nil
	case string(line) == "{":
		return "", &jsonDocument
	}
	if line[0] != '{' || json.Valid(line) {
		return "", nil
	}
	var whole json.RawMessage
	if json.NewDecoder(bytes.NewReader(b)).Decode(&whole) == nil {
		return "", &jsonDocument // its first line alone is no value, its first lines are
	}
	return "", nil
}

// firstLine returns the first line that is not blank; there is one.
func firstLine(b []byte) []byte {
	line, _, _ := bytes.Cut(bytes.TrimLeft(b, blank), []byte("\n"))
	return bytes.TrimRight(line, blank)
}

// other says what a text that nobody called lines of prompts seems to be.
func other(o Options, b []byte) (lineKind, *guise) {
	switch firstLine(b)[0] {
	case '[':
		return jsonList, nil // a broken one, as the reader will say
	case '<':
		return "", &markup
	}
	for _, k := range []lineKind{tsvRows, csvRows, csv2Rows} {
		switch {
		case !tabular(b, commas[k]):
		case o.Template == "":
			return "", &table
		default:
			return k, nil
		}
	}
	if mappings(b) {
		return "", &yamlText
	}
	return "", &unnamed
}

// tabular reports whether the first records of a text have as many fields each,
// and more than one.
func tabular(b []byte, comma rune) bool {
	r := csv.NewReader(bytes.NewReader(b))
	r.Comma = comma
	for n := range 5 {
		fields, err := r.Read()
		if errors.Is(err, io.EOF) {
			return n > 1
		}
		if err != nil || len(fields) < 2 {
			return false
		}
	}
	return true
}

// mappings reports whether the first lines of a text look like YAML.
func mappings(b []byte) bool {
	if bytes.Equal(firstLine(b), []byte("---")) {
		return true
	}
	n := 0
	for line := range bytes.Lines(b) {
		if line = bytes.TrimRight(line, blank); len(line) == 0 || line[0] == '#' {
			continue
		}
		if n++; !yamlLine.Match(line) {
			return false
		}
		if n == 5 {
			break
		}
	}
	return true
}
