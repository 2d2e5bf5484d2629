package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/sluicehq/sluice/tasks"
)

// results is where the lines go.
type results struct {
	w       *bufio.Writer
	file    *os.File // nil: standard output, which is not closed
	lasting bool     // a file that keeps what is written; a pipe or a device does not
}

func (r *results) Close() error {
	err := r.w.Flush()
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
	}
	return err
}

// openResults makes sure that results can be written before anything is asked,
// and finds the lines that an earlier run has brought. Lines that failed are
// taken out, to be tried again.
func openResults(o runOptions, all []tasks.Job, stdout io.Writer) (*results, map[int]bool, error) {
	if o.Out == "" {
		return &results{w: bufio.NewWriter(stdout)}, nil, nil
	}
	if at, err := os.Stat(o.Out); err == nil && !at.Mode().IsRegular() && !at.IsDir() {
		// A pipe or a device holds nothing of an earlier run, and reading it might never end.
		f, err := os.OpenFile(o.Out, os.O_WRONLY, 0)
		if err != nil {
			return nil, nil, wrongUsage{fmt.Errorf("the results cannot be written: %w", err)}
		}
		return &results{w: bufio.NewWriter(f), file: f}, nil, nil
	}
	flags := os.O_RDWR | os.O_CREATE
	if o.Fresh {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(o.Out, flags, 0o600)
	if err != nil {
		return nil, nil, wrongUsage{fmt.Errorf("the results cannot be written: %w", err)}
	}
	fail := func(err error) (*results, map[int]bool, error) {
		return nil, nil, errors.Join(err, f.Close())
	}
	old, err := io.ReadAll(f)
	if err != nil {
		return fail(wrongUsage{fmt.Errorf("read the results so far: %w", err)})
	}
	done, keep, err := readResults(o, all, old)
	if err != nil {
		return fail(err)
	}
	if len(keep) != len(old) {
		if err := replaceFile(o.Out, keep); err != nil {
			return fail(fmt.Errorf("take failed lines out of the results: %w", err))
		}
		if err := f.Close(); err != nil {
			return nil, nil, err
		}
		if f, err = os.OpenFile(o.Out, os.O_RDWR, 0o600); err != nil {
			return nil, nil, wrongUsage{fmt.Errorf("the results cannot be written: %w", err)}
		}
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return fail(err)
	}
	return &results{w: bufio.NewWriter(f), file: f, lasting: true}, done, nil
}

// readResults reads an earlier run's results: which lines they have, and what
// of them to keep. The last line may have been cut off by a crash.
func readResults(o runOptions, all []tasks.Job, old []byte) (done map[int]bool, keep []byte, err error) {
	custom := make(map[int]string, len(all))
	for _, j := range all {
		custom[j.Line] = j.CustomID
	}
	done = map[int]bool{}
	for raw := range bytes.Lines(old) {
		if !bytes.HasSuffix(raw, []byte("\n")) {
			break
		}
		var was struct {
			CustomID string       `json:"custom_id"`
			Line     int          `json:"line"`
			Status   tasks.Status `json:"status"`
		}
		if err := json.Unmarshal(raw, &was); err != nil || was.Line == 0 || custom[was.Line] != was.CustomID || !was.Status.Valid() {
			return nil, nil, usagef("%s holds something other than results of %s; name another file, or --fresh to write over it", o.Out, o.File)
		}
		if was.Status == tasks.StatusSucceeded && !done[was.Line] {
			done[was.Line] = true
			keep = append(keep, raw...)
		}
	}
	return done, keep, nil
}

// replaceFile puts content in the place of a file, whole or not at all.
func replaceFile(name string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}
