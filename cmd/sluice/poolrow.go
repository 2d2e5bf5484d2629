package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// poolRow is what the API says of a pool.
type poolRow struct {
	Name      string     `json:"name"`
	State     string     `json:"state"`
	PausedBy  *string    `json:"paused_by"`
	Reason    *string    `json:"reason"`
	Resume    *time.Time `json:"expected_resume_at"`
	Queued    int64      `json:"queued"` // those for later as well
	Scheduled int64      `json:"scheduled"`
	Running   int64      `json:"running"`
	For       *string    `json:"waiting_for"`
	Drained   *time.Time `json:"drained_at"`
	Oldest    *time.Time `json:"oldest_queued_at"`
	Allowance map[string]struct {
		Limit int64   `json:"limit"`
		Used  float64 `json:"used"`
	} `json:"allowance"`
}

// poolTable writes pools as rows of a table whose cells are apart by tabulators.
func poolTable(w io.Writer, pools []poolRow, now time.Time) {
	fmt.Fprintln(w, "POOL\tSTATE\tBY\tQUEUED\tLATER\tRUNNING\tOLDEST\tFOR\tALLOWANCE\tNEXT\tREASON")
	for i := range pools {
		p := &pools[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", clean(p.Name), clean(p.State), orDash(p.PausedBy),
			p.Queued-p.Scheduled, p.Scheduled, p.Running, age(p.Oldest, now), orDash(p.For), p.used(), p.next(now), orDash(p.Reason))
	}
}

// used is the allowance's dimension of which most is used.
func (p *poolRow) used() string {
	most, name := -1.0, "-"
	for _, dimension := range slices.Sorted(maps.Keys(p.Allowance)) {
		if used := p.Allowance[dimension].Used; used > most {
			most, name = used, fmt.Sprintf("%s %.0f %%", clean(strings.ReplaceAll(dimension, "_", " ")), 100*used)
		}
	}
	return name
}

// next is when the pool goes on that is paused, or when what waits is done.
func (p *poolRow) next(now time.Time) string {
	what, at := "drained in ", p.Drained
	if p.State == "paused" {
		what, at = "back in ", p.Resume
	}
	switch {
	case at == nil:
		return "-"
	case p.State == "paused" && !at.After(now):
		return "back any moment"
	}
	return what + max(0, at.Sub(now)).Truncate(time.Second).String()
}

// age is how long ago something was, in whole seconds.
func age(at *time.Time, now time.Time) string {
	if at == nil {
		return "-"
	}
	return max(0, now.Sub(*at)).Truncate(time.Second).String()
}
