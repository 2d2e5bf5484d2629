package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicehq/sluice/tasks"
)

// reportLine is the longest line of JSON that is read.
const reportLine = 16 << 20

// bill is a row of a provider's report.
type bill struct {
	ID     string
	Counts bool // it says how many tokens
	counted
}

// What the columns of a report are called. OpenAI counts cached tokens among those of the
// prompt, Anthropic apart from them.
var (
	idNames     = []string{"request_id", "x_request_id", "requestid", "id"}
	inputNames  = []string{"prompt_tokens", "input_tokens", "uncached_input_tokens", "usage_input_tokens"}
	outputNames = []string{"completion_tokens", "output_tokens", "usage_output_tokens"}
	cacheNames  = []string{"cache_read_input_tokens", "cache_creation_input_tokens"}
	costNames   = []string{"cost", "cost_usd", "amount", "amount_usd"}
)

// column is a name as it is looked for.
func column(name string) string {
	return strings.NewReplacer(" ", "_", "-", "_", ".", "_").Replace(strings.ToLower(strings.TrimSpace(name)))
}

// readReport tells each row of a report.
func readReport(in io.Reader, each func(bill) error) error {
	r := bufio.NewReaderSize(in, 64<<10)
	if bom, _ := r.Peek(3); string(bom) == "\ufeff" {
		_, _ = r.Discard(3) // it was there
	}
	first, err := r.Peek(1)
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("it is empty")
	case err != nil:
		return err
	case first[0] == '{':
		return readJSONReport(r, each)
	case first[0] == '[':
		return errors.New("it is a list of JSON: give JSON lines, as jq -c '.[]' makes them")
	}
	table := csv.NewReader(r)
	table.ReuseRecord = true
	head, err := table.Read()
	if err != nil {
		return err
	}
	names := slices.Clone(head)
	for i := range names {
		names[i] = column(names[i])
	}
	if !slices.ContainsFunc(idNames, func(name string) bool { return slices.Contains(names, name) }) {
		return fmt.Errorf("it has no column of request ids (%s), only %s: a report by day compares with GET /v1/usage?group=day", strings.Join(idNames, ", "), strings.Join(names, ", "))
	}
	for {
		record, err := table.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		cells := make(map[string]string, len(record))
		for i, cell := range record {
			cells[names[i]] = strings.TrimSpace(cell)
		}
		line, _ := table.FieldPos(0)
		if err := tellRow(cells, line, each); err != nil {
			return err
		}
	}
}

// readJSONReport tells each line of JSON; what is in its usage counts as its own.
func readJSONReport(r io.Reader, each func(bill) error) error {
	in := bufio.NewScanner(r)
	in.Buffer(nil, reportLine)
	for n := 1; in.Scan(); n++ {
		if len(bytes.TrimSpace(in.Bytes())) == 0 {
			continue
		}
		var row map[string]json.RawMessage
		if err := json.Unmarshal(in.Bytes(), &row); err != nil {
			return fmt.Errorf("line %d is no JSON object", n)
		}
		var usage map[string]json.RawMessage
		_ = json.Unmarshal(row["usage"], &usage) // else it has none
		cells := map[string]string{}
		for _, members := range []map[string]json.RawMessage{row, usage} {
			for name, raw := range members {
				if s := strings.Trim(string(raw), `"`); s != "null" {
					cells[column(name)] = s
				}
			}
		}
		if err := tellRow(cells, n, each); err != nil {
			return err
		}
	}
	return in.Err()
}

// tellRow tells one row.
func tellRow(cells map[string]string, line int, each func(bill) error) error {
	first := func(names []string) (name, text string) {
		for _, name := range names {
			if cells[name] != "" {
				return name, cells[name]
			}
		}
		return "", ""
	}
	var b bill
	if _, b.ID = first(idNames); b.ID == "" {
		return fmt.Errorf("line %d has no request id (%s)", line, strings.Join(idNames, ", "))
	}
	count := func(names []string, sum *int64) error {
		name, text := first(names)
		if text == "" {
			return nil
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("line %d: %s is %q, no number of tokens", line, name, text)
		}
		*sum, b.Counts = *sum+n, true
		return nil
	}
	err := errors.Join(count(inputNames, &b.Input), count(outputNames, &b.Output))
	for _, name := range cacheNames {
		err = errors.Join(err, count([]string{name}, &b.Input))
	}
	if name, text := first(costNames); text != "" {
		f, bad := strconv.ParseFloat(strings.TrimPrefix(text, "$"), 64)
		if bad != nil || !(f >= 0 && f < 1e9) {
			err = errors.Join(err, fmt.Errorf("line %d: %s is %q, no amount", line, name, text))
		}
		cost := tasks.Money(math.Round(f * float64(tasks.Unit)))
		b.Cost = &cost
	}
	if err != nil {
		return err
	}
	return each(b)
}
