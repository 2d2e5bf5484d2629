package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/sluicehq/sluice/tasks"
)

// A spool lays receipts and bills by their request's id into files, so that those of one
// file alone are in memory at once, however long the report is.
type spool struct {
	files   [spoolFiles]*os.File
	writers [spoolFiles]*bufio.Writer
}

const spoolFiles = 64

// spooled is a line of a file: one of the two.
type spooled struct {
	Ours   *receipt `json:",omitempty"`
	Theirs *bill    `json:",omitempty"`
}

func newSpool(dir string) (*spool, error) {
	s := &spool{}
	for i := range s.files {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			s.close()
			return nil, err
		}
		s.files[i], s.writers[i] = f, bufio.NewWriterSize(f, 4<<10)
	}
	return s, nil
}

func (s *spool) close() {
	for _, f := range s.files {
		if f != nil {
			f.Close() // its folder goes
		}
	}
}

func (s *spool) add(id string, line spooled) error {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	b, err := json.Marshal(line)
	if err == nil {
		_, err = s.writers[h.Sum32()%spoolFiles].Write(append(b, '\n'))
	}
	return err
}

// each shows all that has one id, in some order of the ids.
func (s *spool) each(show func(ours []receipt, theirs []bill) error) error {
	for i, f := range s.files {
		if err := s.writers[i].Flush(); err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		ours, theirs, ids := map[string][]receipt{}, map[string][]bill{}, map[string]bool{}
		in := json.NewDecoder(bufio.NewReader(f))
		for {
			var line spooled
			err := in.Decode(&line)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if r := line.Ours; r != nil {
				ours[r.ID], ids[r.ID] = append(ours[r.ID], *r), true
			}
			if b := line.Theirs; b != nil {
				theirs[b.ID], ids[b.ID] = append(theirs[b.ID], *b), true
			}
		}
		for _, id := range slices.Sorted(maps.Keys(ids)) {
			if err := show(ours[id], theirs[id]); err != nil {
				return err
			}
		}
	}
	return nil
}

// totals are what a comparison comes to.
type totals struct {
	Ours   inAll `json:"ours"`
	Theirs inAll `json:"theirs"`
	// Requests by how they compare.
	Same       int64 `json:"same"`
	OnlyOurs   int64 `json:"only_ours"`
	OnlyTheirs int64 `json:"only_theirs"`
	Tokens     int64 `json:"tokens"`
	Cost       int64 `json:"cost"`
	// Calls of ours that may have been charged: those that the report has, those that it has
	// not, and those that have no request id, since nobody saw their answer begin.
	MaybeFound    int64       `json:"maybe_found"`
	MaybeMissing  int64       `json:"maybe_missing"`
	MaybeUnnamed  int64       `json:"maybe_unnamed"`
	MaybeAtMost   json.Number `json:"maybe_unnamed_at_most"`
	MaybeUnpriced bool        `json:"maybe_unnamed_unpriced"` // of some of these nobody knows the price
	// Calls of ours that were charged and have no request id either: not every provider gives one.
	Unnamed     int64       `json:"unnamed"`
	UnnamedCost json.Number `json:"unnamed_cost"`
	Explained   bool        `json:"explained"` // what only they have may be what has no request id

	unnamedMost, unnamedSum, strange tasks.Money
}

// inAll is what one of the two comes to.
type inAll struct {
	Requests int64       `json:"requests"`
	Input    int64       `json:"input_tokens"`
	Output   int64       `json:"output_tokens"`
	Cost     json.Number `json:"cost"`

	sum tasks.Money
}

func (s *inAll) add(c counted) {
	s.Requests, s.Input, s.Output = s.Requests+1, s.Input+c.Input, s.Output+c.Output
	if c.Cost != nil {
		s.sum += *c.Cost
	}
}

func (t *totals) unnamed(r receipt) {
	t.Ours.add(r.counted)
	t.MaybeUnpriced = t.MaybeUnpriced || r.Cost == nil
	if r.Cost != nil {
		t.unnamedSum += *r.Cost
	}
	if r.Maybe == nil {
		t.Unnamed++
		return
	}
	t.MaybeUnnamed++
	t.unnamedMost += *r.Maybe
}

// difference is a line of the output.
type difference struct {
	What    string `json:"what"` // only_ours, only_theirs, tokens or cost
	Request string `json:"request_id"`
	Job     string `json:"job"`
	Ours    *told  `json:"ours"`
	Theirs  *told  `json:"theirs"`
}

// told is what one side says of a request.
type told struct{ counted }

// roundedOff is how far two amounts may lie apart that are the same, rounded.
const roundedOff = tasks.Unit / 1_000_000

// compare says how a request's receipts and bills differ. Several rows of a report with
// one id are one request.
func (t *totals) compare(list *rows, ours []receipt, theirs []bill) error {
	d, maybe := t.gather(ours, theirs)
	var has columns
	for i := range theirs {
		has.and(theirs[i].Has)
	}
	if d.What = t.judge(&d, maybe, has); d.What == "" {
		return nil
	}
	if list.json {
		b, err := json.Marshal(d)
		if err != nil {
			return err
		}
		return printLine(list.out, b)
	}
	return list.row(d.What, d.Request, d.Job, d.Ours.tokens(), d.Theirs.tokens(), d.Ours.cost(), d.Theirs.cost())
}

// gather adds up what each side has of a request; maybe: ours may not have been charged.
func (t *totals) gather(ours []receipt, theirs []bill) (d difference, maybe bool) {
	for i := range ours {
		t.Ours.add(ours[i].counted)
		d.Request, d.Job, maybe = ours[i].ID, ours[i].Job, maybe || ours[i].Maybe != nil
		d.Ours = d.Ours.plus(ours[i].counted)
	}
	for i := range theirs {
		t.Theirs.add(theirs[i].counted)
		d.Request, d.Theirs = theirs[i].ID, d.Theirs.plus(theirs[i].counted)
	}
	t.Theirs.Requests -= int64(max(0, len(theirs)-1))
	return d, maybe
}

// judge counts a request by how it compares, and returns what differs; "": nothing. Tokens of
// which the report has no column are not compared.
func (t *totals) judge(d *difference, maybe bool, has columns) (what string) {
	ours, theirs := d.Ours, d.Theirs
	switch {
	case ours == nil:
		if t.OnlyTheirs++; theirs.Cost != nil {
			t.strange += *theirs.Cost
		}
		return "only_theirs"
	case maybe && theirs == nil:
		t.MaybeMissing++
	case maybe:
		t.MaybeFound++
	case theirs == nil:
		t.OnlyOurs++
		return "only_ours"
	case !has.same(&ours.counted, &theirs.counted):
		t.Tokens++
		return "tokens"
	case ours.Cost != nil && theirs.Cost != nil && max(*ours.Cost-*theirs.Cost, *theirs.Cost-*ours.Cost) > roundedOff:
		t.Cost++
		return "cost"
	default:
		t.Same++
	}
	return ""
}

func (c *told) plus(o counted) *told {
	if c == nil {
		return &told{o}
	}
	sum := told{counted{Input: c.Input + o.Input, Cached: c.Cached + o.Cached, Output: c.Output + o.Output, Cost: c.Cost}}
	if o.Cost != nil {
		all := *o.Cost
		if c.Cost != nil {
			all += *c.Cost
		}
		sum.Cost = &all
	}
	return &sum
}

func (c *told) tokens() string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf("%d + %d", c.Input, c.Output)
}

func (c *told) cost() string {
	if c == nil || c.Cost == nil {
		return ""
	}
	return c.Cost.String()
}

// MarshalJSON writes the money as a number with all its digits.
func (c told) MarshalJSON() ([]byte, error) {
	said := "null"
	if c.Cost != nil {
		said = c.Cost.String()
	}
	return fmt.Appendf(nil, `{"input_tokens":%d,"output_tokens":%d,"cost":%s}`, c.Input, c.Output, said), nil
}

// errDiffers ends a comparison that found something.
var errDiffers = errors.New("the report and the jobs' calls differ")

// tell prints the totals. It is an error that something differs which nothing explains.
func (t *totals) tell(out io.Writer, asJSON bool) error {
	t.Ours.Cost, t.Theirs.Cost = json.Number(t.Ours.sum.String()), json.Number(t.Theirs.sum.String())
	t.MaybeAtMost, t.UnnamedCost = json.Number(t.unnamedMost.String()), json.Number(t.unnamedSum.String())
	t.Explained = t.OnlyTheirs <= t.MaybeUnnamed+t.Unnamed && (t.MaybeUnpriced || t.strange <= t.unnamedMost+t.unnamedSum)
	var err error
	if t.OnlyOurs+t.Tokens+t.Cost > 0 || !t.Explained {
		err = errDiffers
	}
	if asJSON {
		b, broken := json.Marshal(map[string]any{"totals": t})
		return errors.Join(err, broken, printLine(out, b))
	}
	fmt.Fprintf(out, "ours: %d calls, %d tokens in, %d out, %s %s\n", t.Ours.Requests, t.Ours.Input, t.Ours.Output, t.Ours.Cost, tasks.Currency)
	fmt.Fprintf(out, "theirs: %d requests, %d tokens in, %d out, %s %s\n", t.Theirs.Requests, t.Theirs.Input, t.Theirs.Output, t.Theirs.Cost, tasks.Currency)
	fmt.Fprintf(out, "the same: %d; only ours: %d; only theirs: %d; other tokens: %d; other cost: %d\n", t.Same, t.OnlyOurs, t.OnlyTheirs, t.Tokens, t.Cost)
	if all := t.MaybeFound + t.MaybeMissing + t.MaybeUnnamed; all > 0 {
		fmt.Fprintf(out, "of ours may have been charged: %d; charged by the report: %d, not in it: %d, with no request id: %d, at most %s %s\n", all, t.MaybeFound, t.MaybeMissing, t.MaybeUnnamed, t.MaybeAtMost, tasks.Currency)
	}
	if t.Unnamed > 0 {
		fmt.Fprintf(out, "of ours were charged, with no request id: %d, %s %s\n", t.Unnamed, t.UnnamedCost, tasks.Currency)
	}
	if t.MaybeUnpriced {
		fmt.Fprintln(out, "some have no request id, of which nobody knows the price")
	}
	if t.OnlyTheirs > 0 && t.Explained {
		fmt.Fprintln(out, "what is only theirs may be those with no request id")
	}
	return err
}
