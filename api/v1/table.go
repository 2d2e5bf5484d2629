package v1

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// A table is CSV (RFC 4180) or TSV with a header. Each row is asked what a template
// makes of it. A column "custom_id" names the row.

const customIDColumn = "custom_id"

// Table reads a table row by row.
type Table struct {
	csv      *csv.Reader
	template rowTemplate
	from     int64 // where the next row begins
	longest  int64 // bytes of a prompt at most; 0: no limit
}

// Row is what a row of a table asks.
type Row struct {
	Line       int    // on which it begins
	Bytes      int64  // of its prompt
	CustomID   string // "" where the table names none
	Start, End int64  // of it in the table
	cells      []string
}

// OpenTable reads the header of a table whose fields a comma separates, or another sign. The template is text with
// columns' names in braces, and is called that in errors.
func OpenTable(file io.Reader, comma rune, template, called string) (*Table, error) {
	r := csv.NewReader(file)
	r.Comma, r.FieldsPerRecord = comma, -1
	header, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("there is no header")
	}
	if err == nil {
		err = checkHeader(header)
	}
	if err != nil {
		return nil, fmt.Errorf("the header cannot be read: %w", err)
	}
	t := &Table{csv: r, from: r.InputOffset()}
	t.template, err = newTemplate(template, called, header)
	return t, err
}

// Next returns the next row: io.EOF after the last, and a *[LineFault] for one that asks
// nothing, behind which the table goes on.
func (t *Table) Next() (row Row, err error) {
	row.cells, err = t.csv.Read()
	if errors.Is(err, io.EOF) {
		return row, io.EOF
	}
	row.Start, row.End = t.from, t.csv.InputOffset()
	t.from = row.End
	var broken *csv.ParseError
	if errors.As(err, &broken) {
		row.Line = broken.StartLine
		return row, &LineFault{Line: row.Line, Detail: broken.Err.Error()}
	}
	if err != nil {
		return row, err
	}
	row.Line, _ = t.csv.FieldPos(0)
	if detail := t.fill(&row); detail != "" {
		return row, &LineFault{Line: row.Line, Detail: detail}
	}
	return row, nil
}

// fill makes the row's prompt, or says what is wrong with the row.
func (t *Table) fill(row *Row) (detail string) {
	columns := t.template.columns
	if len(row.cells) != len(columns) {
		return fmt.Sprintf("The row has %d fields, and the header has %d.", len(row.cells), len(columns))
	}
	empty := true
	for piece := range t.template.pieces(row.cells) {
		row.Bytes += int64(len(piece))
		empty = empty && strings.TrimSpace(piece) == ""
	}
	if empty {
		return "The prompt is empty."
	}
	if t.longest > 0 && row.Bytes > t.longest {
		return fmt.Sprintf("The prompt that the template makes of the row must not be longer than %d bytes.", t.longest)
	}
	if i := slices.Index(columns, customIDColumn); i >= 0 {
		row.CustomID = row.cells[i]
	}
	if utf8.RuneCountInString(row.CustomID) > maxCustomID {
		return fmt.Sprintf("The \"custom_id\" must be at most %d characters long.", maxCustomID)
	}
	return ""
}

// Prompt is what the template makes of a row. It may be much longer than the row: Bytes says how long.
func (t *Table) Prompt(row *Row) string {
	var b strings.Builder
	b.Grow(int(row.Bytes))
	for piece := range t.template.pieces(row.cells) {
		b.WriteString(piece)
	}
	return b.String()
}

// Rest are a row's columns that the template does not use, as a JSON object.
func (t *Table) Rest(row *Row) []byte {
	out := []byte{'{'}
	for i, name := range t.template.columns {
		if slices.Contains(t.template.fields, i) {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		key, _ := json.Marshal(name) // strings are always JSON
		value, _ := json.Marshal(row.cells[i])
		out = append(append(append(out, key...), ':'), value...)
	}
	return append(out, '}')
}

// rowTemplate is text with columns' names in braces.
type rowTemplate struct {
	parts   []string // text and the fields in it by turns: text comes first and last
	fields  []int    // the columns that stand between them
	columns []string // of the table
}

var (
	inBraces   = regexp.MustCompile(`\{([^{}]*)\}`)
	columnName = regexp.MustCompile(`^[\pL\pN_ .-]+$`)
)

// newTemplate reads a template for a table with these columns.
func newTemplate(text, called string, columns []string) (t rowTemplate, err error) {
	t.columns = columns
	places := make(map[string]int, len(columns))
	for i, name := range columns {
		places[name] = i
	}
	from := 0
	for _, at := range inBraces.FindAllStringSubmatchIndex(text, -1) {
		name := strings.TrimSpace(text[at[2]:at[3]])
		i, ok := places[name]
		if !ok && columnName.MatchString(name) {
			return t, fmt.Errorf("%s: there is no column %q; the columns are %s", called, name, someOf(columns))
		}
		if ok { // other braces are text
			t.parts, t.fields = append(t.parts, text[from:at[0]]), append(t.fields, i)
			from = at[1]
		}
	}
	t.parts = append(t.parts, text[from:])
	if len(t.fields) == 0 {
		return t, fmt.Errorf("%s names no column, so that all rows would ask the same; put one in braces; the columns are %s", called, someOf(columns))
	}
	return t, nil
}

// someOf names columns for an error: who sent a table without a header finds its first row there.
func someOf(columns []string) string {
	const most, longest = 20, 40
	var names []string
	for _, name := range columns[:min(len(columns), most)] {
		if r := []rune(name); len(r) > longest {
			name = string(r[:longest]) + "…"
		}
		names = append(names, name)
	}
	if more := len(columns) - most; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// pieces are what the prompt of a row is made of. What stands in a field is not looked at for braces.
func (t *rowTemplate) pieces(row []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i, f := range t.fields {
			if !yield(t.parts[i]) || !yield(row[f]) {
				return
			}
		}
		yield(t.parts[len(t.fields)])
	}
}

// checkHeader makes sure that each column has a name of its own.
func checkHeader(header []string) error {
	seen := make(map[string]bool, len(header))
	for i, name := range header {
		header[i] = strings.TrimSpace(name)
		switch name = header[i]; {
		case name == "":
			return fmt.Errorf("column %d of the header has no name", i+1)
		case seen[name]:
			return fmt.Errorf("the header has two columns %q", name)
		}
		seen[name] = true
	}
	return nil
}
