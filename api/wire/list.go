package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
)

// ReadError is the failure of a body to arrive, as opposed to what is in it.
type ReadError struct{ Err error }

func (e *ReadError) Error() string { return "read the body: " + e.Err.Error() }
func (e *ReadError) Unwrap() error { return e.Err }

// TooManyLines is the fault of a batch of more jobs than it may have.
func TooManyLines(most int) *fault.Fault {
	return fault.Fail(fault.BodyTooLarge, "A batch must not have more than %d jobs.", most)
}

// LineTooLong is the fault of a line of more bytes than a job may have.
func LineTooLong(line int, most int64) *fault.Fault {
	return fault.Fail(fault.BodyTooLarge, "A job must not be longer than %d bytes.", most).OnLine(line)
}

// Lines calls each with every line of an NDJSON body that is not blank, and
// its 1-based number, blank ones counted. It never holds more than one line. What it
// says of a body that does not arrive is a *ReadError.
func Lines(body io.Reader, longest int64, most int, each func(line int, raw []byte) error) error {
	jobs := 0
	return AllLines(body, longest, func(line int, raw []byte, whole bool) error {
		if !whole {
			return LineTooLong(line, longest)
		}
		if jobs++; jobs > most {
			return TooManyLines(most).OnLine(line)
		}
		return each(line, raw)
	})
}

// AllLines is Lines for who wants to know of every line: one that is longer than longest
// is handed over cut off, as soon as that is known. The bytes are good until each returns.
func AllLines(body io.Reader, longest int64, each func(line int, raw []byte, whole bool) error) error {
	r := bufio.NewReaderSize(Unmarked(body), 64<<10)
	var long []byte // a line that is longer than the reader's buffer
	for line, whole := 1, true; ; {
		part, err := r.ReadSlice('\n')
		if whole && int64(len(long)+len(part)) > longest+1 {
			if err := each(line, part, false); err != nil {
				return err
			}
			long, whole = nil, false // of the rest nothing is kept
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			if whole {
				long = append(long, part...)
			}
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return &ReadError{err}
		}
		raw := part
		if long != nil {
			raw = append(long, part...)
		}
		if raw = bytes.Trim(raw, " \t\r\n"); whole && len(raw) > 0 {
			if err := each(line, raw, true); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
		long, whole = nil, true
		line++
	}
}

// List is a list of jobs that is read one at a time: the only member of an object, or
// the document itself.
type List struct {
	Members []string // names that the list may have in its object
	Bare    bool     // it may stand without one
	ID      string   // what a member "id" before it may say beside null, known by then; "": any other is a fault
	Longest int64    // bytes of an element
	Most    int      // elements
}

// form is the fault of a document of another form.
func (l *List) form() error {
	objects := make([]string, len(l.Members))
	for i, name := range l.Members {
		objects[i] = `{"` + name + `":[…]}`
	}
	what := "an object of the form " + strings.Join(objects, " or ")
	if l.Bare {
		what = "a list of jobs, or " + what
	}
	return fault.Fail(fault.InvalidRequest, "The body must be %s.", what)
}

// Read calls each with every element and its 1-based position. It never holds more than
// one element. What it says of a body that does not arrive is a *ReadError.
func (l List) Read(body io.Reader, each func(line int, raw []byte) error) error {
	m := &meter{r: body}
	m.allow(l.Longest)
	d := document{Decoder: jsontext.NewDecoder(Unmarked(m)), List: l, meter: m}
	if err := d.jobs(each); err != nil {
		return err
	}
	_, err := d.ReadToken()
	switch {
	case m.err != nil:
		return &ReadError{m.err}
	case !errors.Is(err, io.EOF):
		return fault.Fail(fault.InvalidJSON, "Something follows the JSON object.")
	}
	return nil
}

// document is a list of jobs, or an object around one, that is being read.
type document struct {
	*jsontext.Decoder
	List
	meter  *meter
	line   int  // elements read
	listed bool // the list has begun
}

// jobs reads the whole document.
func (d *document) jobs(each func(line int, raw []byte) error) error {
	switch k := d.PeekKind(); {
	case k == '[' && d.Bare:
		return d.elements(each)
	case k != '{' && k != 0:
		return d.form()
	}
	if err := d.token(); err != nil {
		return err
	}
	for d.PeekKind() == '"' {
		raw, err := d.ReadValue()
		if err != nil {
			return d.broken(err)
		}
		switch name := jsonread.Unquote(raw); {
		case slices.Contains(d.Members, name):
		case name == "id" && d.Bare:
			if err := d.known(); err != nil {
				return err
			}
			continue
		default:
			return d.unknown(name)
		}
		if k := d.PeekKind(); k != '[' && k != 0 {
			return d.form()
		}
		if err := d.elements(each); err != nil {
			return err
		}
	}
	return d.token()
}

// unknown is the fault of a member that no list of jobs has. One before the list, where that may
// stand alone, is most likely a line's.
func (d *document) unknown(name string) error {
	if d.Bare && !d.listed {
		return fault.Fail(fault.InvalidRequest, `The member %s is unknown: send lines of JSON as application/x-ndjson, and a JSON document as {"jobs":[…]}.`, jsonread.Clip(name))
	}
	return Told(jsonread.Unknown(name))
}

// known reads the batch's id, which was looked for before the rest was read.
func (d *document) known() error {
	raw, err := d.ReadValue()
	switch {
	case err != nil:
		return d.broken(err)
	case raw.Kind() == 'n', raw.Kind() == '"' && jsonread.Unquote(raw) == d.ID && d.line == 0:
		return nil
	}
	return fault.Fail(fault.InvalidRequest, `The member "id" must be a batch's id, the first member, and the "id" of the query, if that has one.`)
}

// Unmarked leaves out the byte order mark that a text in UTF-8 may begin with.
func Unmarked(r io.Reader) io.Reader {
	b := bufio.NewReaderSize(r, 64<<10)
	if first, err := b.Peek(3); err == nil && string(first) == "\xef\xbb\xbf" {
		_, _ = b.Discard(3)
	}
	return b
}

// elements reads the list of jobs.
func (d *document) elements(each func(line int, raw []byte) error) error {
	if err := d.token(); err != nil {
		return err
	}
	d.listed = true
	for d.PeekKind() != ']' {
		d.meter.allow(d.Longest)
		raw, err := d.ReadValue()
		if err != nil {
			return d.broken(err)
		}
		if int64(len(raw)) > d.Longest {
			return LineTooLong(d.line+1, d.Longest)
		}
		if d.line++; d.line > d.Most {
			return TooManyLines(d.Most).OnLine(d.line)
		}
		if err := each(d.line, raw); err != nil {
			return err
		}
	}
	err := d.token()
	d.listed = false
	return err
}

func (d *document) token() error {
	if _, err := d.ReadToken(); err != nil {
		return d.broken(err)
	}
	return nil
}

// broken says why the parser could not go on.
func (d *document) broken(err error) error {
	if errors.Is(err, ErrTooLong) && d.meter.left < 0 {
		return LineTooLong(d.line+1, d.Longest)
	}
	if d.meter.err != nil {
		return &ReadError{d.meter.err}
	}
	f := fault.Fail(fault.InvalidJSON, "%s", jsonread.Syntax(err).Detail)
	if d.listed {
		return f.OnLine(d.line + 1)
	}
	return f
}

// meter stops an element that never ends, and remembers why reading failed.
type meter struct {
	r    io.Reader
	left int64
	err  error
}

// allow lets one more element pass. The parser reads ahead by its buffer, so an
// element may be that much longer before the meter stops it; its own length is
// checked after.
func (m *meter) allow(longest int64) { m.left = 2*longest + 1<<20 }

func (m *meter) Read(p []byte) (int, error) {
	if m.left < 0 {
		return 0, ErrTooLong
	}
	n, err := m.r.Read(p)
	m.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		m.err = err
	}
	if err != nil && errors.Is(err, io.ErrUnexpectedEOF) {
		m.err = err
	}
	return n, err
}
