package drain

import (
	"net/http"
	"strings"

	"github.com/sluicehq/sluice/tasks"
)

// mostUnknown is after how many identical answers that a model is unknown the
// lines that name it are asked no more.
const mostUnknown = 5

// unknownModels are those that the provider may not know, by name.
type unknownModels map[string]*unknownModel

// unknownModel is what the provider says of a model that it does not know.
type unknownModel struct {
	words string
	n     int  // answers in a row
	known bool // the model has answered
	given bool // up
}

// suspect takes in how a job of a model has ended. It reports, once, that nobody
// knows the model, and what the provider says of it.
func (m unknownModels) suspect(j *tasks.Job) (words string, unknown bool) {
	u := m[j.Model]
	if u == nil {
		u = &unknownModel{}
		m[j.Model] = u
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
		return "", false
	}
	u.given = true
	return u.words, true
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
