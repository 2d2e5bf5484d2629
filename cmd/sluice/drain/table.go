package drain

import (
	"bytes"
	"errors"
	"io"
	"strconv"

	"github.com/sluicehq/sluice/api/v1"
)

// readTable reads a table. The columns that the template does not use go into the result.
func readTable(c *Config, o Options, comma rune, text []byte) (all []prompt, fs *faults, err error) {
	t, err := v1.OpenTable(bytes.NewReader(text), comma, o.Template, "--template")
	if err != nil {
		return nil, nil, usagef("%s: %w; nothing was sent", nameOf(o.File), err)
	}
	fs = &faults{}
	ids := map[string]int{}
	for {
		row, err := t.Next()
		if errors.Is(err, io.EOF) {
			return all, fs, nil
		}
		raw := bytes.TrimRight(text[row.Start:row.End], "\r\n")
		var faulty *v1.LineFault
		if errors.As(err, &faulty) {
			fs.add(faulty.Line, faulty.Detail, raw)
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		p := c.textPrompt(o, row.Line, t.Prompt(&row))
		p.columns = t.Rest(&row)
		if row.CustomID != "" {
			p.CustomID = row.CustomID
		}
		if first, twice := ids[p.CustomID]; twice {
			fs.add(row.Line, "The \"custom_id\" is that of line "+strconv.Itoa(first)+" already.", raw)
			continue
		}
		ids[p.CustomID] = row.Line
		all = append(all, p)
	}
}
