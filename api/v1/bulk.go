package v1

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/header"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

const (
	maxBulkBody = 1 << 20
	bulkTimeout = time.Minute // that the answer may take, whatever the server's write timeout
)

// bulk is one of the two moves of many jobs at once.
type bulk struct {
	done     string         // the member of the answer that counts jobs
	statuses []tasks.Status // that it is for
	move     func(ctx context.Context, c desk.Caller, sel tasks.Selection) (desk.Bulk, error)
}

func (a *API) retries() bulk {
	return bulk{"retried", []tasks.Status{tasks.StatusFailed, tasks.StatusCanceled, tasks.StatusExpired}, a.desk.RetryAll}
}

func (a *API) cancellations() bulk {
	return bulk{"canceled", []tasks.Status{tasks.StatusQueued, tasks.StatusScheduled, tasks.StatusRetrying, tasks.StatusRunning}, a.desk.CancelAll}
}

// RetryJobs is POST /v1/jobs/retry.
func (a *API) RetryJobs(c echo.Context) error { return a.moveMany(c, a.retries()) }

// CancelJobs is POST /v1/jobs/cancel.
func (a *API) CancelJobs(c echo.Context) error { return a.moveMany(c, a.cancellations()) }

func (a *API) moveMany(c echo.Context, m bulk) error {
	body, err := wire.Read(c.Response(), c.Request(), maxBulkBody, jsonType)
	if err != nil {
		return err
	}
	sel, err := readSelection(body, m.statuses)
	if err != nil {
		return wire.Told(err)
	}
	return a.moved(c, m, sel, body)
}

// RetryBatch is POST /v1/batches/{id}/retry.
func (a *API) RetryBatch(c echo.Context) error {
	id, err := objectID(c, "batch_")
	if err != nil {
		return err
	}
	body, err := wire.Read(c.Response(), c.Request(), a.c.MaxBody, "")
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(body)) > 0 {
		return fault.Fail(fault.InvalidRequest, `The retry of a batch takes no body. To retry some of its jobs, send {"batch": …, "status": …} to POST /v1/jobs/retry.`)
	}
	m := a.retries()
	return a.moved(c, m, tasks.Selection{Batch: id, Statuses: m.statuses}, nil)
}

// moved carries a bulk move out. body is what asked for it, nil where the path says all.
func (a *API) moved(c echo.Context, m bulk, sel tasks.Selection, body []byte) error {
	r, h := c.Request(), c.Response().Header()
	key, err := header.IdempotencyKey(r.Header)
	if err != nil {
		return err
	}
	f := newFingerprint(r, r.URL.Path)
	if body != nil {
		if err := f.add(body, nil); err != nil {
			return err
		}
	}
	_ = http.NewResponseController(c.Response()).SetWriteDeadline(time.Now().Add(bulkTimeout))
	answer, replayed, err := a.desk.Once(r.Context(), a.c.Caller(c), key, f.String(), func() ([]byte, error) {
		b, err := m.move(r.Context(), a.c.Caller(c), sel)
		_ = http.NewResponseController(c.Response()).SetWriteDeadline(time.Now().Add(bulkTimeout)) // it may have waited for its turn
		if err != nil {
			return nil, err
		}
		setRateLimit(h, b.Grant)
		return bulkAnswer(m, &b), nil
	})
	if err != nil {
		return err
	}
	if replayed {
		h.Set("Idempotency-Replayed", "true")
	}
	wire.JSON(c.Response(), http.StatusOK, answer)
	return nil
}

// bulkAnswer says what was moved, and what was not and why.
func bulkAnswer(m bulk, b *desk.Bulk) []byte {
	var o jsonwrite.Object
	o.Num(m.done, int64(b.Jobs))
	o.Bool("has_more", b.More)
	if b.TooLarge > 0 {
		o.Num("too_large", int64(b.TooLarge))
	}
	if b.Stopped != nil {
		k, f := fault.Classify(b.Stopped)
		o.Within("stopped", func(o *jsonwrite.Object) {
			o.Str("code", k.Code)
			o.Str("quota", b.Stopped.Quota)
			o.Str("detail", f.Detail)
			o.Num("retry_after", seconds(f.RetryAfter))
		})
	}
	return append(o.End(), '\n')
}

// readSelection reads which jobs a bulk move is for. It fails with an error whose detail
// names the member at fault.
func readSelection(body []byte, statuses []tasks.Status) (sel tasks.Selection, err error) {
	r, err := jsonread.New(body)
	if err != nil {
		return sel, err
	}
	var given []string
	sel.Statuses = statuses
	err = r.Object(func(name string) (err error) {
		given = append(given, name)
		switch name {
		case "batch":
			if sel.Batch, err = r.Text(name); err == nil && !isObjectID(sel.Batch, "batch_") {
				err = fault.Fail(fault.InvalidRequest, `The member "batch" must be a batch's id.`)
			}
		case "status":
			var text string
			if text, err = r.Text(name); err == nil && !slices.Contains(statuses, tasks.Status(text)) {
				err = fault.Fail(fault.InvalidRequest, `The member "status" must be one of %v.`, statuses)
			}
			sel.Statuses = []tasks.Status{tasks.Status(text)}
		case "since":
			sel.Since, err = r.Moment(name)
		case "until":
			sel.Until, err = r.Moment(name)
		case "ids":
			sel.IDs, err = readIDs(r, name)
		default:
			err = jsonread.Unknown(name)
		}
		return err
	})
	switch {
	case err != nil:
	case len(given) == 0:
		err = fault.Fail(fault.InvalidRequest, `It says nothing of which jobs: give "batch", "status", "since" or "until", or "ids".`)
	case sel.IDs != nil && len(given) > 1:
		err = fault.Fail(fault.InvalidRequest, `The member "ids" names the jobs: leave the other members out.`)
	}
	return sel, err
}

// readIDs consumes a list of ids of jobs.
func readIDs(r *jsonread.Reader, name string) (ids []string, err error) {
	if k := r.Kind(); k != '[' {
		return nil, r.Wrong(k, name, "a list of ids of jobs")
	}
	_, err = r.List(func(i int) error {
		id, err := r.Text(name)
		switch {
		case err != nil:
			return err
		case !isObjectID(id, "job_"):
			return fault.Fail(fault.InvalidRequest, `The member "ids" must be a list of ids of jobs, which begin with "job_": element %d is none.`, i+1)
		case i == tasks.MostMoved:
			return fault.Fail(fault.InvalidRequest, `The member "ids" must have at most %d elements.`, tasks.MostMoved)
		}
		ids = append(ids, id)
		return nil
	})
	if err == nil && len(ids) == 0 {
		err = fault.Fail(fault.InvalidRequest, `The member "ids" must have at least one element.`)
	}
	return ids, err
}
