package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// Lines reads a file of prompts by the rules of a batch's body, for a program
// that has no server.
type Lines struct {
	Match func(model string) (pool string, ok bool) // required
	Now   func() time.Time                          // nil means time.Now
	Most  int                                       // lines at most; 0 means 1,000,000
}

// Read calls each with every job of an NDJSON file, in order: its model's pool,
// line and custom id are set, its id and tenant are not. The first fault ends
// it with an error that begins with the line's number and repeats no value.
func (l Lines) Read(file io.Reader, each func(tasks.Job) error) error {
	if l.Now == nil {
		l.Now = time.Now
	}
	setDefault(&l.Most, 1_000_000)
	seen := map[string]int{}
	err := readLines(file, 32<<20, l.Most, func(line int, raw []byte) error {
		s, err := decodeSubmit(bytes.Clone(raw), true, l.Now())
		if err != nil {
			var p *problem
			if errors.As(err, &p) {
				return p.onLine(line)
			}
			return err
		}
		job := s.job
		job.Line, job.CustomID = line, s.customID
		if job.CustomID == "" {
			job.CustomID = strconv.Itoa(line)
		}
		if first, twice := seen[job.CustomID]; twice {
			return fmt.Errorf("Line %d: the \"custom_id\" is that of line %d already.", line, first) //lint:ignore ST1005 shown to a person as it is
		}
		seen[job.CustomID] = line
		pool, ok := l.Match(job.Model)
		if !ok {
			return fmt.Errorf("Line %d: no pool serves the model.", line) //lint:ignore ST1005 shown to a person as it is
		}
		job.Pool = pool
		return each(job)
	})
	var p *problem
	if errors.As(err, &p) {
		return errors.New(p.detail)
	}
	return err
}

// ResultLine returns a finished job as a line of results, with its line break.
func ResultLine(j *tasks.Job) []byte { return resultLine(nil, j) }
