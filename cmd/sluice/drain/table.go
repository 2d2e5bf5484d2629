package drain

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A table is CSV (RFC 4180) or TSV with a header. Each row is asked what a template
// makes of it; the columns that the template does not use go into the result. A
// column "custom_id" names the row.

const customIDColumn = "custom_id"

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
func newTemplate(text string, columns []string) (t rowTemplate, err error) {
	t.columns = columns
	from := 0
	for _, at := range inBraces.FindAllStringSubmatchIndex(text, -1) {
		name := strings.TrimSpace(text[at[2]:at[3]])
		i := slices.Index(columns, name)
		if i < 0 && columnName.MatchString(name) {
			return t, fmt.Errorf("--template: there is no column %q; the columns are %s", name, strings.Join(columns, ", "))
		}
		if i >= 0 { // other braces are text
			t.parts, t.fields = append(t.parts, text[from:at[0]]), append(t.fields, i)
			from = at[1]
		}
	}
	t.parts = append(t.parts, text[from:])
	if len(t.fields) == 0 {
		return t, fmt.Errorf("--template names no column, so that all rows would ask the same; put one in braces; the columns are %s", strings.Join(columns, ", "))
	}
	return t, nil
}

// fill is the prompt of a row. What stands in a field is not looked at for braces.
func (t *rowTemplate) fill(row []string) string {
	var b strings.Builder
	for i, f := range t.fields {
		b.WriteString(t.parts[i])
		b.WriteString(row[f])
	}
	return b.String() + t.parts[len(t.fields)]
}

// rest are the columns that the template does not use, as a JSON object.
func (t *rowTemplate) rest(row []string) []byte {
	out := []byte{'{'}
	for i, name := range t.columns {
		if slices.Contains(t.fields, i) {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		key, _ := json.Marshal(name) // strings are always JSON
		value, _ := json.Marshal(row[i])
		out = append(append(append(out, key...), ':'), value...)
	}
	return append(out, '}')
}

// readTable reads a table.
func readTable(c *Config, o Options, comma rune, text []byte) (all []prompt, fs *faults, err error) {
	r := csv.NewReader(bytes.NewReader(text))
	r.Comma, r.FieldsPerRecord = comma, -1
	header, err := r.Read()
	if err != nil {
		return nil, nil, usagef("%s: the header cannot be read: %w; nothing was sent", nameOf(o.File), err)
	}
	if err := checkHeader(header); err != nil {
		return nil, nil, usagef("%s: %w; nothing was sent", nameOf(o.File), err)
	}
	t, err := newTemplate(o.Template, header)
	if err != nil {
		return nil, nil, wrongUsage{err}
	}
	fs = &faults{}
	ids, from := map[string]int{}, r.InputOffset()
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return all, fs, nil
		}
		raw := bytes.TrimRight(text[from:r.InputOffset()], "\r\n")
		from = r.InputOffset()
		var broken *csv.ParseError
		if errors.As(err, &broken) {
			fs.add(broken.StartLine, broken.Err.Error(), raw)
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		line, _ := r.FieldPos(0)
		p, detail := c.rowPrompt(o, &t, line, row, ids)
		if detail != "" {
			fs.add(line, detail, raw)
			continue
		}
		ids[p.CustomID] = line
		all = append(all, p)
	}
}

// checkHeader makes sure that each column has a name of its own.
func checkHeader(header []string) error {
	for i, name := range header {
		header[i] = strings.TrimSpace(name)
		if header[i] == "" {
			return fmt.Errorf("column %d of the header has no name", i+1)
		}
		if slices.Contains(header[:i], header[i]) {
			return fmt.Errorf("the header has two columns %q", header[i])
		}
	}
	return nil
}

// rowPrompt is what a row asks, or what is wrong with the row.
func (c *Config) rowPrompt(o Options, t *rowTemplate, line int, row []string, ids map[string]int) (p prompt, detail string) {
	if len(row) != len(t.columns) {
		return p, fmt.Sprintf("The row has %d fields, and the header has %d.", len(row), len(t.columns))
	}
	text := t.fill(row)
	if strings.TrimSpace(text) == "" {
		return p, "The prompt is empty."
	}
	p = c.textPrompt(o, line, text)
	p.columns = t.rest(row)
	if i := slices.Index(t.columns, customIDColumn); i >= 0 && row[i] != "" {
		p.CustomID = row[i]
	}
	if first, twice := ids[p.CustomID]; twice {
		return p, "The \"custom_id\" is that of line " + strconv.Itoa(first) + " already."
	}
	if utf8.RuneCountInString(p.CustomID) > 128 {
		return p, "The \"custom_id\" must be at most 128 characters long."
	}
	return p, ""
}
