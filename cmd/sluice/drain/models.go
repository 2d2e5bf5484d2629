package drain

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/sluicehq/sluice/tasks"
)

// mostUnknown is after how many identical answers that a model is unknown the
// lines that name it are asked no more.
const mostUnknown = 5

// unknown is what the provider says of a model that it does not know.
type unknown struct {
	words string
	n     int  // answers in a row
	known bool // the model has answered
	given bool // up
}

// suspect takes in how a job of a model has ended, and ends the lines of a model
// that nobody knows.
func (r *runner) suspect(ctx context.Context, j *tasks.Job) error {
	u := r.unknown[j.Model]
	if u == nil {
		u = &unknown{}
		r.unknown[j.Model] = u
	}
	switch {
	case j.Status == tasks.StatusSucceeded:
		u.known = true
	case !namesNoModel(j):
		u.n = 0
	case j.Error.Message == u.words:
		u.n++
	default:
		u.words, u.n = j.Error.Message, 1
	}
	if u.n < mostUnknown || u.known || u.given {
		return nil
	}
	u.given = true
	return r.giveUpModel(ctx, j.Model, u.words)
}

// namesNoModel reports whether a job failed because its provider knows no such model.
func namesNoModel(j *tasks.Job) bool {
	e := j.Error
	if e == nil || e.Code != tasks.UpstreamRejected {
		return false
	}
	if e.UpstreamStatus == http.StatusNotFound {
		return true
	}
	said := strings.ToLower(e.Message)
	if e.UpstreamStatus != http.StatusBadRequest && e.UpstreamStatus != http.StatusForbidden || !strings.Contains(said, "model") {
		return false
	}
	for _, words := range []string{"not found", "not exist", "unknown model", "no such model", "invalid model", "not a valid model", "do not have access"} {
		if strings.Contains(said, words) {
			return true
		}
	}
	return false
}

// giveUpModel asks the open lines of a model no more. The others go on.
func (r *runner) giveUpModel(ctx context.Context, model, words string) error {
	n := 0
	for id, p := range r.open {
		if p.Model != model || p.Fallback != nil {
			continue
		}
		j, err := r.s.Jobs.Cancel(ctx, owner, id)
		if errors.Is(err, tasks.ErrFinal) {
			continue // it has ended, and is written like any other
		}
		if err != nil {
			return err
		}
		j.Error = &tasks.JobError{Code: tasks.CanceledByCaller, Message: fmt.Sprintf("not asked: the provider does not know the model (%s)", words)}
		delete(r.open, id)
		r.count(&j, nil)
		if err := r.put(&j, p, nil); err != nil {
			return err
		}
		n++
	}
	if n > 0 {
		r.say("sluice: the provider does not know the model %q: %d lines were answered %q, and %d more are not asked; correct the model and run the same command again", model, mostUnknown, words, n)
	}
	return nil
}
