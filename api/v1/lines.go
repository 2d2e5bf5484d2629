package v1

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// Lines reads a file of prompts by the rules of a batch's body, for a program
// that has no server.
type Lines struct {
	// List says that the file is one JSON document, a list or {"jobs":[…]} or
	// {"requests":[…]}: a line is an element then. False: it has a job a line.
	List  bool
	Match func(model string) (pool string, ok bool) // required
	Model string                                    // of lines that name none; "" means that they are faulty
	Now   func() time.Time                          // nil means time.Now
	Most  int                                       // lines at most; 0 means 1,000,000
	// Fault takes each faulty line and says by nil that the rest is to be read, so
	// that all are found; nil means that the first ends the reading.
	Fault func(*LineFault) error
}

// LineFault is what is wrong with one line of a file of prompts. It repeats no
// value of the line.
type LineFault struct {
	Line     int // 1-based
	Detail   string
	Unserved bool   // it names no model, or one that no pool serves
	Raw      []byte // the line; nil where it could not be read to its end. For its owner, not for a log.
}

// Error begins with the line's number.
func (f *LineFault) Error() string { return "Line " + strconv.Itoa(f.Line) + ": " + f.Detail }

// Read calls each with every job of an NDJSON file, in order: its model's pool,
// line and custom id are set, its id and tenant are not. What ends it early is
// an error of each or of the reader, or a *LineFault.
func (l Lines) Read(file io.Reader, each func(tasks.Job) error) error {
	if l.Now == nil {
		l.Now = time.Now
	}
	l.Most = cmp.Or(l.Most, 1_000_000)
	check := desk.Lines{Match: l.Match}
	read := wire.Lines
	if l.List {
		read = readDocument("")
	}
	err := read(file, 32<<20, l.Most, func(line int, raw []byte) error {
		job, err := l.decode(line, raw, &check)
		var fault *LineFault
		if errors.As(err, &fault) && l.Fault != nil {
			return l.Fault(fault)
		}
		if err != nil {
			return err
		}
		return each(job)
	})
	var p *fault.Fault
	if errors.As(err, &p) { // longer or more than is read
		return &LineFault{Line: p.Line, Detail: strings.TrimPrefix(p.Detail, fmt.Sprintf("Line %d: ", p.Line))}
	}
	return err
}

// decode reads one line; check knows those before.
func (l Lines) decode(line int, raw []byte, check *desk.Lines) (tasks.Job, error) {
	job, err := decodeLine(bytes.Clone(raw), l.Model, l.Now())
	if err == nil {
		err = check.Check(line, &job)
	}
	var f *fault.Fault
	if errors.As(err, &f) {
		return job, &LineFault{Line: line, Detail: f.Detail, Unserved: f.Detail == modelMissing || f.Code == fault.ModelNotFound, Raw: bytes.Clone(raw)}
	}
	return job, err
}

// ResultLine returns a finished job as a line of results, with its line break.
// Digest is that of what was asked.
func ResultLine(j *tasks.Job, digest string) []byte { return resultLine(nil, j, digest) }
