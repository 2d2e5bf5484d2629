package desk

import (
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/tasks/trace"
)

// ended ends the span of a submit: it failed, was the repeat of what that id names, or
// made jobs of these pools.
func ended(s *trace.Submit, err error, repeat bool, id string, pools ...string) {
	switch {
	case s == nil:
	case err != nil:
		k, _ := fault.Classify(err)
		s.End(k.Code, "")
	case repeat:
		s.End("", id)
	default:
		s.End("", "", pools...)
	}
}
