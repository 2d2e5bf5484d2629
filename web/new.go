package web

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sluicehq/sluice/tasks"
)

// maxNewBytes is how large a form with a prompt may be; longer ones go to the API.
const maxNewBytes = 1 << 20

// NewJob is what somebody writes into the page that submits.
type NewJob struct {
	Model, Prompt, System string
	MaxTokens             int // 0: the default
	Priority              tasks.Priority
}

// RefusedError is a submit that was not taken in, and why, in words for whoever wrote it.
type RefusedError struct {
	Status int // of HTTP
	Text   string
	Lines  []FaultyLine // of a file, that it was refused for
	More   bool         // there may be others
	Err    error        // what Text says in words; nil: nothing else
}

// FaultyLine is what is wrong with a line of a file. It repeats nothing of the line.
type FaultyLine struct {
	Line int
	Text string
}

func (e *RefusedError) Error() string { return e.Text }

func (e *RefusedError) Unwrap() error { return e.Err }

type newPage struct {
	frame
	Job        NewJob
	Tokens     string // as typed
	Priorities []tasks.Priority
	Fault      string
}

var priorities = []tasks.Priority{tasks.High, tasks.Normal, tasks.Low}

func (w *Web) newForm(rw http.ResponseWriter, _ *http.Request, v viewer) {
	w.page(rw, http.StatusOK, "new.html", newPage{frame: w.frame(v, "new"), Job: NewJob{Priority: tasks.Normal}, Priorities: priorities})
}

// submit takes a job in for the viewer's tenant and shows it.
func (w *Web) submit(rw http.ResponseWriter, r *http.Request, v viewer) {
	page := newPage{frame: w.frame(v, "new"), Priorities: priorities}
	again := func(status int, fault string) {
		page.Fault = fault
		w.page(rw, status, "new.html", page)
	}
	r.Body = http.MaxBytesReader(rw, r.Body, maxNewBytes)
	if err := r.ParseForm(); err != nil {
		again(http.StatusRequestEntityTooLarge, "The form could not be read: a prompt may have up to 1 MiB here. Larger ones go to POST /v1/jobs.")
		return
	}
	page.Job = NewJob{
		Model: strings.TrimSpace(r.PostForm.Get("model")), Prompt: r.PostForm.Get("prompt"), System: r.PostForm.Get("system"), Priority: tasks.Priority(r.PostForm.Get("priority")),
	}
	page.Tokens = strings.TrimSpace(r.PostForm.Get("max_tokens"))
	switch {
	case !utf8.ValidString(page.Job.Model + page.Job.Prompt + page.Job.System):
		again(http.StatusBadRequest, "What was sent is no text in UTF-8.")
		return
	case !v.is(scopeWrite):
		again(http.StatusForbidden, "Your token may not submit: that needs the scope jobs:write.")
		return
	case page.Tokens != "":
		n, err := strconv.Atoi(page.Tokens)
		if err != nil || n < 1 {
			again(http.StatusBadRequest, "Write the most tokens of the answer as a whole number, 1 or more, or leave that empty.")
			return
		}
		page.Job.MaxTokens = n
	}
	id, err := w.cfg.Submit(r.Context(), v.via("console"), page.Job)
	var refused *RefusedError
	switch {
	case err == nil && w.cfg.Follow != nil && v.is(scopeRead):
		http.Redirect(rw, r, w.jobPath(id)+"/result", http.StatusSeeOther) // where its answer arrives
	case err == nil:
		http.Redirect(rw, r, w.jobPath(id), http.StatusSeeOther)
	case errors.As(err, &refused):
		again(refused.Status, refused.Text)
	default:
		w.refuse(rw, v, "job", "submit", err)
	}
}

// Submitter takes a job in for the tenant of who, and returns its id. What it does not
// take is a *[RefusedError].
type Submitter func(ctx context.Context, who Actor, n NewJob) (id string, err error)
