package drain

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/sluicehq/sluice/tasks"
)

// The codes of answers that came and are not taken.
const (
	schemaMismatch    tasks.ErrorCode = "schema_mismatch"
	finishNotAccepted tasks.ErrorCode = "finish_not_accepted"
)

// standard is what an answer has to be to count as one.
type standard struct {
	failOn []tasks.Finish
	schema *jsonschema.Schema // nil: anything will do
}

// newStandard reads the flags. The library for schemas is the one that passes all
// of the official test suite for draft 2020-12 and fetches nothing by itself; here
// it also reads no other file.
func newStandard(o Options) (*standard, error) {
	s := &standard{failOn: o.FailOn}
	for _, f := range o.FailOn {
		if f != tasks.FinishLength && f != tasks.FinishRefused && f != tasks.FinishEmpty && f != tasks.FinishFiltered {
			return nil, usagef("--fail-on %s: there are length, refused, empty and filtered", f)
		}
	}
	if o.Schema == "" {
		return s, nil
	}
	text, err := os.ReadFile(o.Schema)
	if err != nil {
		return nil, wrongUsage{fmt.Errorf("read the schema: %w", err)}
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, usagef("--schema %s: it is not JSON: %w", o.Schema, err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(jsonschema.SchemeURLLoader{})
	if err = c.AddResource("schema.json", doc); err == nil {
		s.schema, err = c.Compile("schema.json")
	}
	if err != nil {
		return nil, usagef("--schema %s: it is not a schema (draft 2020-12) that stands alone: %w", o.Schema, err)
	}
	return s, nil
}

// trusts reports whether every answer will do.
func (s *standard) trusts() bool { return s.schema == nil && len(s.failOn) == 0 }

// judge returns why an answer is not accepted, or nil.
func (s *standard) judge(f tasks.Finish, text string) *tasks.JobError {
	if slices.Contains(s.failOn, f) {
		return &tasks.JobError{Code: finishNotAccepted, Message: fmt.Sprintf("the answer ended as %s, which --fail-on does not accept", f)}
	}
	if s.schema == nil {
		return nil
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err == nil {
		err = s.schema.Validate(v)
	} else {
		err = errNoJSON
	}
	if err != nil {
		return &tasks.JobError{Code: schemaMismatch, Message: "the answer is not what the schema says: " + strings.Join(strings.Fields(err.Error()), " ")}
	}
	return nil
}

// again reports whether another try may bring what was not accepted.
func again(e *tasks.JobError) bool { return e.Code == schemaMismatch }

var errNoJSON = errors.New("the answer is not JSON")
