package drain

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unicode/utf8"
)

const mostFaults = 20 // faulty lines that are named

// invalid is a line that cannot be asked.
type invalid struct {
	line   int
	detail string // repeats nothing of the line
	raw    []byte
}

// faults are what is wrong with a file of prompts.
type faults struct {
	all  []invalid
	hint string // what to do about some of them
}

func (f *faults) add(line int, detail string, raw []byte) {
	f.all = append(f.all, invalid{line, detail, raw})
}

// refuse is the error of a file with faulty lines, all of which are named.
func (f *faults) refuse(o Options, k lineKind) error {
	var told strings.Builder
	for _, i := range f.all[:min(len(f.all), mostFaults)] {
		fmt.Fprintf(&told, "%s: Line %d: %s\n", o.File, i.line, i.detail)
	}
	if more := len(f.all) - mostFaults; more > 0 {
		fmt.Fprintf(&told, "and %d more\n", more)
	}
	if n := len(f.all); n > 1 {
		fmt.Fprintf(&told, "%d lines are faulty\n", n)
	}
	if k == jsonList {
		told.WriteString("a line is an element of the list\n")
	}
	told.WriteString("nothing was sent")
	if !o.SkipInvalid {
		told.WriteString("; --skip-invalid leaves such lines out")
	}
	return usagef("%s%s", &told, f.hint)
}

// keepInvalid writes the lines that are left out beside the results, each with
// what is wrong with it, and says so. Without any it takes away what an earlier
// run wrote.
func keepInvalid(name string, all []invalid) error {
	if len(all) == 0 {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the faulty lines of an earlier run: %w", err)
		}
		return nil
	}
	var content [][]byte
	for _, i := range all {
		input := json.RawMessage(i.raw)
		if !json.Valid(i.raw) || !utf8.Valid(i.raw) {
			input, _ = json.Marshal(string(i.raw)) // a string is always JSON
		}
		line, err := jsonLine(struct {
			Line  int             `json:"line"`
			Error string          `json:"error"`
			Input json.RawMessage `json:"input"`
		}{i.line, i.detail, input})
		if err != nil {
			return err
		}
		content = append(content, line)
	}
	f, err := replaceFile(name, content)
	if err != nil {
		return fmt.Errorf("keep the faulty lines: %w", err)
	}
	return f.Close()
}
