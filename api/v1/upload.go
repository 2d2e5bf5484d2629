package v1

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

const (
	mostRow        = 4 << 20 // bytes of a row of a table: a field in quotation marks may never end
	mostColumns    = 1000    // of a table: each field of a row takes more memory than it is long
	mostLineFaults = 20      // that an upload names
)

// Upload is a file of prompts that is to be a batch, from whoever has no body of the API's
// own: a page with a form.
type Upload struct {
	Caller desk.Caller
	Key    string // names this upload: a second with the same finds the batch of the first; "" for none
	File   io.Reader
	Room   wire.Account // of its memory

	// Of List, Text and Comma one says what the lines are; without, the file is JSON lines.
	List  bool // one JSON document
	Text  bool // each is a prompt
	Comma rune // of a table

	Model     string // of lines that name none, as those of a table and of a text
	Template  string // what each row of a table asks
	MaxTokens int    // of the answer to a row or a line of text; 0: the default
}

// FaultyLines are the lines for which an upload was refused.
type FaultyLines struct {
	Lines []LineFault
	More  bool // there may be others
}

func (f *FaultyLines) Error() string {
	return fmt.Sprintf("%d lines are faulty, the first being line %d: %s", len(f.Lines), f.Lines[0].Line, f.Lines[0].Detail)
}

// TakeBatch takes a file in as POST /v1/batches takes its body: line by line, with the
// same checks, caps and quotas, and nothing of it exists before all of it was read. What is
// wrong with lines is a *[FaultyLines].
func (a *API) TakeBatch(ctx context.Context, u *Upload) (tasks.Batch, error) {
	leave, err := a.desk.Upload(u.Caller.Tenant)
	if err != nil {
		return tasks.Batch{}, err
	}
	defer leave()
	in := &intake{
		api: a, tenant: u.Caller.Tenant, memory: u.Room, model: u.Model, keyed: u.Key != "", sum: fingerprint{sum: sha256.New()}, lines: wire.Lines, faulty: &FaultyLines{},
	}
	_, _ = io.WriteString(in.sum.sum, u.Model+"\n") // the lines do not tell it
	f := file{u, ctx, in}
	switch {
	case u.List:
		in.lines = readDocument("")
	case u.Text:
		in.lines = f.text
	case u.Comma != 0:
		in.lines = f.table
	}
	body := wire.Within(ctx, u.File, a.c.MaxBatchBody, u.Room)
	handed, err := a.desk.SubmitBatch(ctx, u.Caller, desk.Incoming{
		Key: u.Key, Fingerprint: in.sum.String,
		Read:   func(take takeJob) error { return in.read(ctx, body, take) },
		Staged: func(n int) { u.Room.Give(int64(n)) },
	})
	return handed.Batch, err
}

// file reads an upload whose lines are no JSON.
type file struct {
	*Upload
	ctx context.Context
	in  *intake
}

// text reads a file each of whose lines is a prompt.
func (f file) text(body io.Reader, longest int64, most int, each func(line int, raw []byte) error) error {
	return wire.Lines(body, min(mostRow, longest), most, func(line int, raw []byte) error {
		return f.row(line, int64(len(raw)), longest, "", string(raw), each)
	})
}

// table reads the rows of a table.
func (f file) table(body io.Reader, longest int64, most int, each func(line int, raw []byte) error) error {
	m := &rowMeter{r: bufio.NewReader(wire.Unmarked(body)), comma: byte(f.Comma)}
	m.next()
	t, err := OpenTable(m, f.Comma, f.Template, "The template")
	if err != nil {
		return cmp.Or(m.err, error(fault.Fail(fault.InvalidRequest, "The table: %s.", err)))
	}
	t.longest = min(mostRow, longest)
	for n := 1; ; n++ {
		m.next()
		row, err := t.Next()
		var faulty *LineFault
		switch {
		case m.err != nil:
			return m.err
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &faulty):
			f.Room.Give(row.End - row.Start)
			err = f.in.fault(faulty.Line, fault.Fail(fault.InvalidRequest, "%s", faulty.Detail))
		case err == nil && n > most:
			err = wire.TooManyLines(most).OnLine(row.Line)
		case err == nil:
			if err = f.Room.Take(f.ctx, row.Bytes); err == nil {
				err = f.row(row.Line, row.End-row.Start+row.Bytes, longest, row.CustomID, t.Prompt(&row), each)
			}
		}
		if err != nil {
			return err
		}
	}
}

// rowMeter stops a row that never ends or has more fields than a table may have columns, and
// remembers why reading failed. It never reads ahead of the line that it gives: what is counted is the row's.
type rowMeter struct {
	r      *bufio.Reader
	comma  byte
	left   int  // bytes of the row
	fields int  // of the row, less one
	quoted bool // within quotation marks
	err    error
}

// next begins a row.
func (m *rowMeter) next() { m.left, m.fields, m.quoted = mostRow, 0, false }

func (m *rowMeter) Read(p []byte) (int, error) {
	_, err := m.r.Peek(1)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			m.err = &wire.ReadError{Err: err}
		}
		return 0, err
	}
	line, _ := m.r.Peek(min(len(p), m.r.Buffered())) // what is there can be looked at
	if end := bytes.IndexByte(line, '\n'); end >= 0 {
		line = line[:end+1]
	}
	n := copy(p, line)
	_, _ = m.r.Discard(n)
	for _, b := range p[:n] {
		switch {
		case b == '"':
			m.quoted = !m.quoted
		case b == m.comma && !m.quoted:
			m.fields++
		}
	}
	switch m.left -= n; {
	case m.left < 0:
		m.err = fault.Fail(fault.BodyTooLarge, "A row of a table must not be longer than %d bytes: send longer prompts as JSON lines.", mostRow)
	case m.fields >= mostColumns:
		m.err = fault.Fail(fault.InvalidRequest, "A row of a table must not have more than %d fields.", mostColumns)
	}
	if m.err != nil {
		return 0, m.err
	}
	return n, nil
}

// row hands a row over as a line of a batch, whose memory is counted in the place of the row's.
func (f file) row(line int, bytes, longest int64, custom, prompt string, each func(line int, raw []byte) error) error {
	f.Room.Give(bytes)
	if !utf8.ValidString(prompt) || !utf8.ValidString(custom) {
		return f.in.fault(line, fault.Fail(fault.InvalidRequest, "It is no text in UTF-8."))
	}
	o := jsonwrite.Object{}
	if custom != "" {
		o.Str("custom_id", custom)
	}
	o.Str("prompt", prompt)
	if f.MaxTokens > 0 {
		o.Num("max_tokens", int64(f.MaxTokens))
	}
	raw := o.End()
	if int64(len(raw)) > longest {
		return wire.LineTooLong(line, longest)
	}
	if err := f.Room.Take(f.ctx, int64(len(raw))); err != nil {
		return err
	}
	return each(line, raw)
}
