package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

var (
	errMalformed = errors.New("an event that does not fit the dialect")
	errTooLarge  = errors.New("more than a result may be")
)

const tooLargeMessage = "the answer is larger than a result may be"

// events reads server-sent events, as the WHATWG HTML standard defines them
// (section 9.2.6, "Interpreting an event stream"), with one leniency: an event
// that a clean end of the stream leaves without its blank line is delivered.
type events struct {
	lines *bufio.Scanner
	limit int

	begun  bool // the byte order mark has been looked for
	skipLF bool // the last line ended in CR; an LF that follows belongs to it

	kind []byte
	data []byte
	has  bool // data was given for the event under way

	keep bool   // raw is wanted
	raw  []byte // of the event, as it came, without comments
}

// newEvents reads r; no event's data may be longer than limit bytes.
func newEvents(r io.Reader, limit int) *events {
	e := &events{limit: limit}
	e.lines = bufio.NewScanner(r)
	e.lines.Buffer(make([]byte, 0, 4<<10), limit+64)
	e.lines.Split(e.split)
	return e
}

// split is cut, and keeps what has gone.
func (e *events) split(data []byte, atEOF bool) (advance int, token []byte, err error) {
	advance, token, err = e.cut(data, atEOF)
	if e.keep {
		e.raw = append(e.raw, data[:advance]...)
	}
	return advance, token, err
}

// cut cuts lines at LF, CR LF and CR. A line that ends in CR is delivered at
// once: waiting for a possible LF would hold back an event until the next.
func (e *events) cut(data []byte, atEOF bool) (advance int, token []byte, err error) {
	skipped := 0
	if e.skipLF && len(data) > 0 {
		e.skipLF = false
		if data[0] == '\n' {
			skipped = 1
			data = data[1:]
		}
	}
	if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
		if data[i] == '\r' && i+1 < len(data) && data[i+1] == '\n' {
			return skipped + i + 2, data[:i], nil
		}
		e.skipLF = data[i] == '\r'
		return skipped + i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return skipped + len(data), data, nil
	}
	return skipped, nil, nil
}

// next returns the next event that has data. Both slices are valid until the
// next call. The error is io.EOF at a clean end.
func (e *events) next() (kind string, data []byte, err error) {
	e.kind, e.data, e.raw, e.has = e.kind[:0], e.data[:0], e.raw[:0], false
	for before := 0; e.lines.Scan(); before = len(e.raw) {
		line := e.lines.Bytes()
		if e.keep && len(line) > 0 && line[0] == ':' {
			e.raw = e.raw[:before]
		}
		if len(e.raw) > 2*e.limit {
			return "", nil, errTooLarge
		}
		if !e.begun {
			e.begun = true
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
		}
		if len(line) == 0 {
			if e.has {
				return string(e.kind), e.data, nil
			}
			e.kind, e.raw = e.kind[:0], e.raw[:0]
			continue
		}
		if err := e.take(line); err != nil {
			return "", nil, err
		}
	}
	switch err := e.lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return "", nil, errTooLarge
	case err != nil:
		return "", nil, err
	case e.has:
		if e.keep {
			e.raw = append(bytes.TrimRight(e.raw, "\r\n"), "\n\n"...)
		}
		return string(e.kind), e.data, nil
	}
	return "", nil, io.EOF
}

// take adds the field of a line to the event.
func (e *events) take(line []byte) error {
	field, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(field) {
	case "event":
		e.kind = append(e.kind[:0], value...)
	case "data":
		if e.has {
			e.data = append(e.data, '\n')
		}
		if len(e.data)+len(value) > e.limit {
			return errTooLarge
		}
		e.data = append(e.data, value...)
		e.has = true
	}
	return nil
}
