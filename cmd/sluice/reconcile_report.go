package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicehq/sluice/tasks"
)

// reportLine is the longest line of JSON that is read.
const reportLine = 16 << 20

// bill is a row of a provider's report.
type bill struct {
	ID  string
	Has columns
	counted
}

// columns are what a row says of tokens.
type columns struct {
	Input, Output bool
	Whole         bool // the input is with that of caches; else it may be without
}

func (c *columns) and(o columns) {
	c.Input, c.Output, c.Whole = c.Input || o.Input, c.Output || o.Output, c.Whole || o.Whole
}

// same reports whether ours are theirs, as far as these say.
func (c *columns) same(ours, theirs *counted) bool {
	input := ours.Input == theirs.Input || !c.Whole && ours.Input-ours.Cached == theirs.Input
	return (!c.Input || input) && (!c.Output || ours.Output == theirs.Output)
}

// What the columns of a report are called. OpenAI counts cached tokens among those of the
// prompt, Anthropic apart from them.
var (
	idNames     = []string{"request_id", "x_request_id", "requestid", "id"}
	inputNames  = []string{"prompt_tokens", "input_tokens", "uncached_input_tokens", "usage_input_tokens"}
	outputNames = []string{"completion_tokens", "output_tokens", "usage_output_tokens"}
	cacheNames  = []string{"cache_read_input_tokens", "cache_creation_input_tokens"}
	costNames   = []string{"cost", "cost_usd", "amount", "amount_usd"}
	moneyNames  = []string{"currency", "cost_currency", "amount_currency"}
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
				if s := string(raw); s != "null" {
					_ = json.Unmarshal(raw, &s) // what is no string counts as it stands
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
	count := func(name string, sum *int64) error {
		text := cells[name]
		n, err := strconv.ParseInt(cmp.Or(text, "0"), 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("line %d: %s is %q, no number of tokens", line, name, text)
		}
		*sum += n
		return nil
	}
	input, in := first(inputNames)
	output, out := first(outputNames)
	err := errors.Join(count(input, &b.Input), count(output, &b.Output))
	for _, name := range cacheNames {
		b.Has.Whole = b.Has.Whole || cells[name] != ""
		err = errors.Join(err, count(name, &b.Cached))
	}
	b.Input += b.Cached
	b.Has.Input, b.Has.Output, b.Has.Whole = in != "", out != "", b.Has.Whole || input == "prompt_tokens"
	if name, text := first(moneyNames); text != "" && !strings.EqualFold(text, tasks.Currency) {
		err = errors.Join(err, fmt.Errorf("line %d: %s is %q, and what jobs cost is told in %s: change the report into that, or leave its money out", line, name, text, tasks.Currency))
	}
	if name, text := first(costNames); text != "" {
		cost, ok := amount(strings.TrimPrefix(text, "$"))
		if !ok {
			err = errors.Join(err, fmt.Errorf("line %d: %s is %q, no amount", line, name, text))
		}
		b.Cost = &cost
	}
	if err != nil {
		return err
	}
	return each(b)
}

// decimal is an amount as providers write it: with more digits than ours, or as JSON does.
var decimal = regexp.MustCompile(`^([0-9]{1,9}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][-+]?[0-9]{1,2})?$`)

// amount reads one, rounded to the nearest billionth; false: it is none, or above what anybody is charged.
func amount(text string) (tasks.Money, bool) {
	if !decimal.MatchString(text) {
		return 0, false
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return 0, false
	}
	r.Mul(r, new(big.Rat).SetInt64(int64(tasks.Unit)))
	n, ok := new(big.Int).SetString(r.FloatString(0), 10)
	most := big.NewInt(1e9 * int64(tasks.Unit))
	return tasks.Money(n.Int64()), ok && n.Cmp(most) < 0
}
