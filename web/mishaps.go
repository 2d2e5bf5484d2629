package web

import (
	"fmt"
	"strings"

	"github.com/sluicehq/sluice/tasks"
)

// mishapRow is what went wrong in a pool by one cause.
type mishapRow struct {
	What, Cause, Count string
	Last, Path         string // the job that was the last, where the viewer sees everybody's
}

// lastHour says in one line what went wrong in a pool in the last hour.
func lastHour(m *tasks.Mishaps) string {
	if len(m.Calls)+len(m.Jobs)+len(m.Diverted) == 0 {
		return "Nothing went wrong in the last hour."
	}
	refused := m.Refused()
	words := []string{grouped(refused) + " of its calls were refused with 429"}
	switch refused {
	case 0:
		words[0] = "none of its calls was refused with 429"
	case 1:
		words[0] = "1 of its calls was refused with 429"
	}
	var others []tasks.Mishap
	for _, c := range m.Calls {
		if o := tasks.Outcome(c.Cause); o != tasks.RateLimited && o != tasks.RampLimited {
			others = append(others, c)
		}
	}
	words = append(words, counted(others, "1 other call failed", "%s other calls failed"), counted(m.Jobs, "1 job failed", "%s jobs failed"))
	if len(m.Diverted) > 0 {
		words = append(words, counted(m.Diverted, "1 job went to a fallback", "%s jobs went to fallbacks"))
	}
	return "In the last hour " + strings.Join(words, "; ") + "."
}

// counted says how many there are in all, and of each.
func counted(list []tasks.Mishap, one, many string) string {
	var sum int64
	var each []string
	for _, m := range list {
		sum += m.Count
		each = append(each, grouped(m.Count)+" "+m.Cause)
	}
	switch sum {
	case 0:
		return "no" + strings.TrimPrefix(many, "%s")
	case 1:
		return one + ": " + list[0].Cause
	}
	return fmt.Sprintf(many, grouped(sum)) + ": " + strings.Join(each, ", ")
}

// mishapRows are what went wrong in a pool in the last hour. Which jobs these were is told to who operates.
func (w *Web) mishapRows(m *tasks.Mishaps, v viewer) (rows []mishapRow) {
	for _, kind := range []struct {
		what string
		list []tasks.Mishap
	}{{"job failed", m.Jobs}, {"call failed", m.Calls}, {"job went to a fallback", m.Diverted}} {
		for _, one := range kind.list {
			row := mishapRow{What: kind.what, Cause: one.Cause, Count: grouped(one.Count)}
			if v.Operates() {
				row.Last, row.Path = one.Last, w.shownAt(one.Last)
			}
			rows = append(rows, row)
		}
	}
	return rows
}
