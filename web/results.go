package web

import (
	"context"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const (
	resultsType  = "application/x-ndjson"
	resultsWrite = 30 * time.Second // that a browser may take for one piece
)

// batchResults sends what of a batch has ended, a line each, as a file. What cannot be
// sent to its end is broken off, so that it does not look whole.
func (w *Web) batchResults(rw http.ResponseWriter, r *http.Request, v viewer) {
	b, ok := w.findBatch(rw, r, v)
	if !ok || !w.mayRead(rw, r, v, "batch", b.Owner(), b.ID) {
		return
	}
	lines, next, err := w.cfg.Batches.BatchLines(r.Context(), b.Owner(), b.ID, 0)
	if err != nil {
		w.refuse(rw, v, "batch", "read the results of", err)
		return
	}
	name := b.ID + ".jsonl"
	if b.Status != tasks.BatchEnded {
		name = b.ID + "-so-far.jsonl"
	}
	h := rw.Header()
	h.Set("Content-Type", resultsType)
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	rw.WriteHeader(http.StatusOK)
	for {
		_ = http.NewResponseController(rw).SetWriteDeadline(time.Now().Add(resultsWrite)) // not each server has one
		if _, err := rw.Write(lines); err != nil || r.Method == http.MethodHead || next == 0 {
			return
		}
		if lines, next, err = w.cfg.Batches.BatchLines(r.Context(), b.Owner(), b.ID, next); err != nil {
			if context.Cause(r.Context()) == nil {
				w.cfg.Log.Error("the results of a batch are broken off", "batch", b.ID, "error", err)
			}
			panic(http.ErrAbortHandler)
		}
	}
}
