package web

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/sluicehq/sluice/tasks"
)

// prompt shows what a job asks. Another tenant's is noted before anything is shown.
func (w *Web) prompt(rw http.ResponseWriter, r *http.Request, v viewer) {
	j, ok := w.find(rw, r, v)
	if !ok || !w.mayRead(rw, r, v, "job", j.Owner(), j.ID) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
	defer cancel()
	j, err := w.cfg.Jobs.Prompt(ctx, j.Owner(), j.ID)
	if err != nil {
		w.refuse(rw, v, "job", "read the prompt of", err)
		return
	}
	page := resultPage{frame: w.frame(v, "jobs"), What: "Prompt", ID: j.ID, Path: w.jobPath(j.ID), Tenant: j.Owner(), Text: promptText(&j.Request), Metadata: written(&j)}
	switch body, err := submitBody(&j); {
	case len(j.Request.Body) == 0:
		page.Text = "It is no longer kept: a prompt is while its job may run, or run again."
	case err == nil && len(body) <= resultMost:
		page.Curl = "curl -H \"Authorization: Bearer $SLUICE_TOKEN\" -H 'Content-Type: application/json' " + w.cfg.PublicURL + "/v1/jobs -d " + quotedForShell(string(body))
	}
	page.cut()
	w.page(rw, http.StatusOK, "result.html", page)
}

// promptText is what a request asks, for a reader: a text as it is, else JSON on many lines.
func promptText(r *tasks.Request) string {
	var text string
	if r.Kind == tasks.Text && json.Unmarshal(r.Body, &text) == nil {
		return text
	}
	var out bytes.Buffer
	if json.Indent(&out, r.Body, "", "  ") != nil {
		return string(r.Body)
	}
	return out.String()
}

// submitBody is a body of POST /v1/jobs that asks the same once more. What was not_before,
// deadline and webhook of this one is not of another.
func submitBody(j *tasks.Job) ([]byte, error) {
	all := map[string]any{"model": j.Model}
	switch j.Request.Kind {
	case tasks.Messages:
		var parts map[string]json.RawMessage
		if err := json.Unmarshal(j.Request.Body, &parts); err != nil {
			return nil, err
		}
		for name, part := range parts {
			all[name] = part
		}
	case tasks.Raw:
		all["request"] = json.RawMessage(j.Request.Body)
	default:
		all["prompt"] = json.RawMessage(j.Request.Body)
	}
	if j.Request.MaxTokens > 0 {
		all["max_tokens"] = j.Request.MaxTokens
	}
	if j.Priority != tasks.Normal {
		all["priority"] = j.Priority
	}
	if len(j.Fallback) > 0 {
		all["fallback_models"] = j.Fallback
	}
	if len(j.Metadata) > 0 {
		all["metadata"] = j.Metadata
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(all)
	return bytes.TrimSpace(out.Bytes()), err
}

// quotedForShell is a text as one word of a POSIX shell.
func quotedForShell(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
