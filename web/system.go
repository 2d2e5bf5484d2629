package web

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const (
	presentFor = 5 * time.Second // after a process last said that it is there
	namesMost  = 8               // of processes on one line
)

// system says on what all of it runs: which processes are there, and how much of Redis's memory is in use.
func (w *Web) system(ctx context.Context, now time.Time) (all []fact) {
	if w.cfg.Processes != nil {
		list, err := w.cfg.Processes(ctx)
		if err != nil {
			w.cfg.Log.Error("list processes for the console", "error", err)
			all = append(all, fact{"Processes", "cannot be read just now"})
		} else {
			all = append(all, fact{"Workers", processes(list, true, now)}, fact{"APIs alone", processes(list, false, now)})
		}
	}
	if w.cfg.Memory != nil {
		all = append(all, fact{"Memory of Redis", memory(w.cfg.Memory())})
	}
	return all
}

// processes names those that work, or that do not, with their versions.
func processes(list []tasks.Process, works bool, now time.Time) string {
	var names []string
	for _, p := range list {
		if p.Works == works && now.Sub(p.Seen) < presentFor {
			names = append(names, p.Name+", version "+p.Version)
		}
	}
	switch n := len(names); {
	case n == 0:
		return "none"
	case n > namesMost:
		names = append(names[:namesMost], fmt.Sprintf("and %s more, %s in all", grouped(int64(n-namesMost)), grouped(int64(n))))
	}
	return strings.Join(names, "; ")
}

// memory says how near Redis is to its limit.
func memory(used, promised, most int64) string {
	words := mebibytes(used) + " in use"
	if most > 0 {
		words += fmt.Sprintf(" of %s (%d %%)", mebibytes(most), 100*used/most)
	}
	words += ", " + mebibytes(promised) + " expected for results of accepted jobs"
	if most == 0 {
		words += "; no limit is known"
	}
	return words
}
