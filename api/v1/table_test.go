package v1

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
)

// TestARowOfATableTakesNoMoreThanItIsLong: a template may repeat a column, a row may be of
// commas, and a header of columns, each of which takes more than its bytes.
func TestARowOfATableTakesNoMoreThanItIsLong(t *testing.T) {
	wide := strings.Repeat(",", mostRow-100)
	for _, c := range []struct {
		name, file, template string
		most                 uint64 // MiB that are taken in all
		says                 string
	}{
		{"a template that repeats its column", "a\n" + strings.Repeat("x", 1<<20) + "\n", strings.Repeat("{a}", 20_000), 64, "must not be longer than 4194304 bytes"},
		{"a row of commas", "a\n" + wide + "\n", "{a}", 32, "more than 1000 fields"},
		{"a row of commas behind a quotation that ends nowhere", "a\nx\"y\n" + wide + "\n", "{a}", 32, "more than 1000 fields"},
		{"a header of commas", wide + "\n", "{a}", 32, "more than 1000 fields"},
		{"a row of commas in quotation marks", "a\n\"" + wide + "\"\n", "{a}", 64, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &rowMeter{r: bufio.NewReader(strings.NewReader(c.file)), comma: ','}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := rows(m, c.template)
			runtime.ReadMemStats(&after)
			if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > c.most {
				t.Errorf("took %d MiB, want at most %d", took, c.most)
			}
			if said := fmt.Sprint(err); !strings.Contains(said, c.says) || c.says == "" && err != nil {
				t.Errorf("said %q, want %q", said, c.says)
			}
		})
	}
}

// rows reads a table to its end: the last fault of a row, unless reading failed.
func rows(m *rowMeter, template string) error {
	m.next()
	table, err := OpenTable(m, ',', template, "The template")
	if err != nil {
		return errors.Join(m.err, err)
	}
	table.longest = mostRow
	var fault *LineFault
	var last error
	for {
		m.next()
		row, err := table.Next()
		switch {
		case m.err != nil:
			return m.err
		case errors.Is(err, io.EOF):
			return last
		case errors.As(err, &fault):
			last = errors.New(fault.Detail)
		case err != nil:
			return err
		default:
			_ = table.Prompt(&row)
		}
	}
}

// TestAMeterGivesRowsAsTheyCome: what is counted of a row is that row's, whatever the reader's buffer holds.
func TestAMeterGivesRowsAsTheyCome(t *testing.T) {
	var file strings.Builder
	file.WriteString("a,b\n")
	for i := range 3000 {
		fmt.Fprintf(&file, "%d,\"x,\n\"\"y\"\"\"\r\n", i) // 3,000 rows of one comma that counts
	}
	m := &rowMeter{r: bufio.NewReader(strings.NewReader(file.String())), comma: ','}
	if err := rows(m, "{a} {b}"); err != nil {
		t.Error(err)
	}
}

func TestAnErrorNamesFewColumns(t *testing.T) {
	header := strings.Repeat("secret ", 50)
	for i := range 500 {
		header += fmt.Sprintf(",c%d", i)
	}
	_, err := OpenTable(strings.NewReader(header+"\n"), ',', "{nobody}", "The template")
	if err == nil || len(err.Error()) > 300 || !strings.Contains(err.Error(), "and 481 more") {
		t.Errorf("said %v", err)
	}
}
