package web

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// jobPage is one job: what it is, what has happened to it, what may be done with it.
type jobPage struct {
	frame
	Refresh string
	Live    jobView
}

// jobView is the part of the page that is renewed.
type jobView struct {
	Title    string
	At       string
	Fault    string
	ID, Path string
	Tenant   string
	Status   string
	Words    string
	Facts    []fact
	Steps    []step
	Calls    []step
	Metadata []fact
	Error    string // the provider's words, for who may read them
	Withheld bool   // the job is another tenant's: what it holds is shown to who has the scope content
	Result   string // address of the result's page; "": there is none, or not for the viewer
	Curl     string
	Prompt   string // address of the prompt's page; "": not for the viewer
	CanMove  bool
	Final    bool
	CanRetry bool
}

// fact is a line of a list.
type fact struct{ Name, Value string }

// step is a part of a job's life.
type step struct {
	What    string
	From    moment
	Seconds string
	Detail  string
	Bad     bool
}

// found returns a thing that a viewer may see: holder names whose it is. Who may not see it
// is answered, and gets false.
func found[T any](w *Web, rw http.ResponseWriter, r *http.Request, v viewer, thing string,
	holder func(ctx context.Context, id string) (string, error), read func(ctx context.Context, tenant, id string) (T, error),
) (got T, ok bool) {
	ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
	defer cancel()
	id := r.PathValue("id")
	tenant, err := holder(ctx, id)
	if err == nil && !v.sees(tenant) {
		err = tasks.ErrNotFound
	}
	if err == nil {
		got, err = read(ctx, tenant, id)
	}
	if err != nil {
		w.refuse(rw, v, thing, "read", err)
		return got, false
	}
	return got, true
}

// find returns the job of a request, as found does.
func (w *Web) find(rw http.ResponseWriter, r *http.Request, v viewer) (tasks.Job, bool) {
	return found(w, rw, r, v, "job", w.cfg.Jobs.Holder, w.cfg.Jobs.Job)
}

// refuse answers with a page that says what went wrong and leads back. thing is what it
// is about, "job" or "batch".
func (w *Web) refuse(rw http.ResponseWriter, v viewer, thing, what string, err error) {
	var quota *tasks.QuotaError
	var refused *RefusedError
	page := faultPage{frame: w.frame(v, "")}
	status := http.StatusServiceUnavailable
	switch {
	case errors.Is(err, tasks.ErrNotFound):
		status, page.Title = http.StatusNotFound, "There is no such "+thing
		page.Text = "It has been deleted, has outlived results.ttl, or is none of those that your token shows."
	case errors.As(err, &refused):
		status, page.Title, page.Text = refused.Status, "That is refused", refused.Text
	case errors.Is(err, tasks.ErrConflict), errors.Is(err, tasks.ErrFinal):
		status, page.Title = http.StatusConflict, "The "+thing+"'s state does not allow that"
		page.Text = "It has moved on since the page was shown: look at it again."
	case errors.Is(err, tasks.ErrUnknown):
		page.Title, page.Text = "Nobody knows whether that was done", "The connection to Redis broke before the answer came. Look at the "+thing+" again before you repeat it."
	case errors.As(err, &quota):
		status, page.Title = http.StatusTooManyRequests, "The tenant's quota is used up"
		page.Text = "The quota " + quota.Quota + " leaves no room for one more job."
	default:
		w.cfg.Log.Error(what+" "+thing, "error", err)
		page.Title, page.Text = "That did not work just now", "Redis cannot be reached, or did not answer in time. Nothing is lost by that; try again in a moment."
	}
	w.page(rw, status, "fault.html", page)
}

// faultPage says what went wrong.
type faultPage struct {
	frame
	Title, Text string
}

func (w *Web) jobPage(rw http.ResponseWriter, r *http.Request, v viewer) {
	j, ok := w.find(rw, r, v)
	if !ok {
		return
	}
	page := jobPage{frame: w.frame(v, "jobs"), Refresh: w.base + "/console/jobs/" + j.ID, Live: w.jobView(r.Context(), &j, v)}
	w.page(rw, http.StatusOK, "job.html", page)
}

func (w *Web) jobFragment(rw http.ResponseWriter, r *http.Request, v viewer) {
	if j, ok := w.find(rw, r, v); ok {
		w.page(rw, http.StatusOK, "job", w.jobView(r.Context(), &j, v))
	}
}

func (w *Web) jobView(ctx context.Context, j *tasks.Job, v viewer) jobView {
	now := w.cfg.Now()
	final := j.Status.Final()
	view := jobView{
		Title: string(j.Status) + " – " + j.ID, At: now.UTC().Format("15:04:05 UTC"), ID: j.ID, Path: w.jobPath(j.ID), Tenant: j.Owner(),
		Status: string(j.Status), Words: w.ends(ctx, j, now), Facts: facts(j, now), Steps: w.steps(ctx, j, now), Calls: calls(j, now),
		CanMove: v.moves(j.Owner()), Final: final, CanRetry: final && j.Status != tasks.StatusSucceeded,
		Curl: "curl -H \"Authorization: Bearer $SLUICE_TOKEN\" " + w.cfg.PublicURL + "/v1/jobs/" + j.ID,
	}
	if !v.reads(j.Owner()) {
		view.Withheld = true
		if j.Error != nil {
			view.Error = string(j.Error.Code)
		}
		return view
	}
	view.Prompt = view.Path + "/prompt"
	if len(j.Result) > 0 || j.Error != nil && !v.own(j.Owner()) || !final && w.cfg.Follow != nil {
		view.Result = view.Path + "/result"
	}
	if j.Error != nil {
		view.Error = string(j.Error.Code)
	}
	if !v.own(j.Owner()) { // what it holds is behind the click that is noted
		return view
	}
	if j.Error != nil {
		view.Error += ": " + j.Error.Message
	}
	view.Metadata = written(j)
	return view
}

// written is what its caller wrote beside the prompt.
func written(j *tasks.Job) (out []fact) {
	if j.CustomID != "" {
		out = append(out, fact{"Custom id", j.CustomID})
	}
	for _, key := range slices.Sorted(maps.Keys(j.Metadata)) {
		out = append(out, fact{key, j.Metadata[key]})
	}
	return out
}

func facts(j *tasks.Job, now time.Time) []fact {
	all := []fact{
		{"Tenant", j.Tenant}, {"Model", j.Model}, {"Pool", j.Pool}, {"Priority", string(j.Priority)},
		{"Batch", j.Batch}, {"Provider", j.Provider}, {"Finish", string(j.Finish)},
		{"Accepted", at(j.CreatedAt, now).Clock}, {"Not before", at(j.NotBefore, now).Clock}, {"Deadline", at(j.Deadline, now).Clock},
		{"Deleted by itself", at(j.ExpiresAt, now).Clock},
	}
	if u := j.Usage; u != nil {
		all = append(all, fact{"Input tokens", grouped(u.InputTokens)}, fact{"Output tokens", grouped(u.OutputTokens)})
		if n := u.CacheReadInputTokens + u.CacheCreationInputTokens; n > 0 {
			all = append(all, fact{"Cached input tokens", grouped(n)})
		}
	}
	if cost, ok := j.Cost(); ok {
		all = append(all, fact{"Cost", costWords(cost)})
	}
	return slices.DeleteFunc(all, func(f fact) bool { return f.Value == "" })
}

// costWords says what calls cost, and apart from that what they may have cost besides.
func costWords(c tasks.Cost) string {
	words := c.Amount.String() + " " + tasks.Currency
	if c.Maybe > 0 {
		words += ", and maybe " + c.Maybe.String() + " more"
	}
	return words
}

// steps is what each moment of a job was for.
func (w *Web) steps(ctx context.Context, j *tasks.Job, now time.Time) (out []step) {
	spans, err := w.cfg.Jobs.Timeline(ctx, j.Owner(), j.ID)
	if err != nil && !errors.Is(err, tasks.ErrNotFound) {
		w.cfg.Log.Error("read a timeline for the console", "error", err)
	}
	for _, s := range spans {
		what := string(s.What)
		if s.For != "" {
			what += " for " + s.For.Words().For
		}
		out = append(out, step{What: what, From: at(s.From, now), Seconds: seconds(s.To.Sub(s.From)), Detail: s.Detail})
	}
	return out
}

// calls are a job's calls of its provider.
func calls(j *tasks.Job, now time.Time) (out []step) {
	for i := range j.Log {
		a := &j.Log[i]
		s := step{What: strconv.Itoa(a.N), From: at(a.StartedAt, now), Bad: a.Outcome != tasks.Running && a.Outcome != tasks.Succeeded}
		if !a.EndedAt.IsZero() {
			s.Seconds = seconds(a.EndedAt.Sub(a.StartedAt))
		}
		said := []string{string(a.Outcome), a.Model, a.RequestID}
		if a.Status != 0 {
			said[0] += " " + strconv.Itoa(a.Status)
		}
		if a.MaybeBilled {
			said = append(said, "perhaps billed though nobody saw its end")
		}
		if a.Cost != nil {
			said = append(said, costWords(*a.Cost))
		}
		s.Detail = strings.Join(slices.DeleteFunc(said, func(s string) bool { return s == "" }), ", ")
		out = append(out, s)
	}
	return out
}

// seconds writes a duration as tables do: "0.42 s", "12.3 s", "5 min 20 s".
func seconds(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 2, 64) + " s"
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	}
	return span(d)
}

// resultPage is what a job's provider answered, or was asked.
type resultPage struct {
	frame
	What     string // "Answer" or "Prompt"
	ID, Path string
	Tenant   string
	Text     string
	Cut      bool
	Metadata []fact
	Finish   string
	Status   string // of a job whose answer is to come
	Events   string // address that this comes from; "": it is shown as it is now
	Curl     string // submits the same once more; "": it is too long to be copied
}

// mayRead reports whether the viewer may be shown what an owner's job or batch holds, once the look at another
// tenant's is noted. Who may not is answered.
func (w *Web) mayRead(rw http.ResponseWriter, r *http.Request, v viewer, thing, owner, id string) bool {
	if !v.reads(owner) {
		if v.Admin() { // whose looks that are refused are noted too
			_ = w.note(r.Context(), v, "look", id, func(context.Context) error { return &RefusedError{Status: http.StatusForbidden} })
		}
		w.page(rw, http.StatusForbidden, "fault.html", faultPage{w.frame(v, "jobs"), "What this " + thing + " holds is not shown to you", "It is another tenant's: that needs the scope content, and each look is noted in the audit."})
		return false
	}
	if v.own(owner) {
		return true
	}
	err := w.note(r.Context(), v, "look", id, func(context.Context) error { return nil })
	if err != nil {
		w.refuse(rw, v, thing, "look at", err)
	}
	return err == nil
}

// cut leaves of a text what a page shows.
func (p *resultPage) cut() {
	if len(p.Text) > resultMost {
		p.Text, p.Cut = strings.ToValidUTF8(p.Text[:resultMost], ""), true
	}
}

// note does what somebody asks for with another tenant's job once that is in the audit.
func (w *Web) note(ctx context.Context, v viewer, action, job string, do func(ctx context.Context) error) error {
	noting, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	return w.cfg.Note(noting, v.via("console"), action, job, func(context.Context) error { return do(ctx) })
}

// moving is what somebody does by a button: to which thing, whose that is, and whether
// the viewer may, else which scope would do.
type moving struct {
	thing, action, tenant, id string
	may                       bool
	scope                     string
}

// move does what a button says, and reports whether that was done; else it has
// answered. Another tenant's thing is moved only once that is in the audit: there is no
// move that it does not know.
func (w *Web) move(rw http.ResponseWriter, r *http.Request, v viewer, m moving, do mover) bool {
	if !m.may {
		w.page(rw, http.StatusForbidden, "fault.html", faultPage{w.frame(v, "jobs"), "Your token may not change this " + m.thing, "That needs the scope " + m.scope + " of its tenant, or admin."})
		return false
	}
	act := func(ctx context.Context) error { return do(ctx, v.via("console"), m.tenant, m.id) }
	var err error
	if v.own(m.tenant) {
		err = act(r.Context())
	} else {
		err = w.note(r.Context(), v, m.action, m.id, act)
	}
	if err != nil {
		w.refuse(rw, v, m.thing, m.action, err)
		return false
	}
	w.cfg.Log.Info(m.thing+" moved by hand", "act", m.action, "id", m.id, "subject", v.Subject, "tenant", v.Tenant)
	return true
}

// mover moves a tenant's thing for somebody.
type mover func(ctx context.Context, who Actor, tenant, id string) error

// byAnybody is a move that is the same whoever makes it.
func byAnybody(move func(ctx context.Context, tenant, id string) error) mover {
	return func(ctx context.Context, _ Actor, tenant, id string) error { return move(ctx, tenant, id) }
}

// moveJob returns the handler of a button of a job.
func (w *Web) moveJob(action string, do mover) func(http.ResponseWriter, *http.Request, viewer) {
	return func(rw http.ResponseWriter, r *http.Request, v viewer) {
		j, ok := w.find(rw, r, v)
		if !ok || !w.move(rw, r, v, moving{"job", action, j.Owner(), j.ID, v.moves(j.Owner()), scopeWrite}, do) {
			return
		}
		to := w.jobPath(j.ID)
		if action == "delete" {
			to = w.base + jobsRoot + "?" + jobsFilter{Tenant: j.Owner()}.query("")
		}
		http.Redirect(rw, r, to, http.StatusSeeOther)
	}
}

// deletePage asks whether a job is to go for good.
func (w *Web) deletePage(rw http.ResponseWriter, r *http.Request, v viewer) {
	if j, ok := w.find(rw, r, v); ok {
		w.page(rw, http.StatusOK, "delete.html", jobPage{frame: w.frame(v, "jobs"), Live: w.jobView(r.Context(), &j, v)})
	}
}
