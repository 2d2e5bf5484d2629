package web

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sluicehq/sluice/tasks"
)

// Flagged is a tenant of which something out of the ordinary was found.
type Flagged struct {
	Tenant string
	Action string   // what is done about it
	Found  []string // by which rules, each with its measure
}

// releasePage asks for the reason of a release, on a page of its own as that of a pause.
type releasePage struct {
	Viewer       viewer
	Tenant, Path string
	Reason       string
	MaxReason    int
	Fault        string
}

// flags are the tenants with something found of them, by name. What cannot be read marks nobody.
func (w *Web) flags(ctx context.Context) map[string]Flagged {
	if w.cfg.Flagged == nil {
		return nil
	}
	list, err := w.cfg.Flagged(ctx)
	if err != nil {
		w.cfg.Log.Error("list flagged tenants for the console", "error", err)
	}
	of := make(map[string]Flagged, len(list))
	for _, f := range list {
		of[f.Tenant] = f
	}
	return of
}

func (w *Web) releasePath(tenant string) string {
	return w.base + tenantsRoot + "/" + url.PathEscape(tenant) + "/release"
}

func (w *Web) releaseForm(rw http.ResponseWriter, r *http.Request, v viewer) {
	if !w.mayRelease(rw, r, v) {
		return
	}
	name := r.PathValue("tenant")
	w.page(rw, http.StatusOK, "release.html", releasePage{Viewer: v, Tenant: name, Path: w.releasePath(name), MaxReason: tasks.MaxReason})
}

// release says that what was found of a tenant is no abuse. Its line of the audit is written with that.
func (w *Web) release(rw http.ResponseWriter, r *http.Request, v viewer) {
	if !w.mayRelease(rw, r, v) {
		return
	}
	name := r.PathValue("tenant")
	form := releasePage{Viewer: v, Tenant: name, Path: w.releasePath(name), MaxReason: tasks.MaxReason}
	r.Body = http.MaxBytesReader(rw, r.Body, maxLoginBytes)
	if err := r.ParseForm(); err != nil {
		form.Fault = "The form could not be read."
		w.page(rw, http.StatusBadRequest, "release.html", form)
		return
	}
	form.Reason = strings.TrimSpace(r.PostForm.Get("reason"))
	if !reasonable(form.Reason) {
		form.Fault = fmt.Sprintf("Say why, in one line of at most %d characters: whoever looks next needs to know.", tasks.MaxReason)
		w.page(rw, http.StatusUnprocessableEntity, "release.html", form)
		return
	}
	err := tasks.ErrNotFound
	if len(name) <= idMost {
		err = w.cfg.Release(r.Context(), name, v.act(w.cfg.Now(), "release_tenant", name, form.Reason))
	}
	if err != nil {
		w.refuse(rw, v, "tenant", "release", err)
		return
	}
	w.cfg.Log.Info("tenant released by hand", "of", name, "subject", v.Subject, "tenant", v.Tenant)
	http.Redirect(rw, r, w.base+tenantsRoot, http.StatusSeeOther)
}

// mayRelease answers for itself when the viewer may not.
func (w *Web) mayRelease(rw http.ResponseWriter, r *http.Request, v viewer) bool {
	if !v.Admin() {
		w.refused(rw, r, v, http.StatusForbidden, "Your token may not release tenants", "This needs the scope admin.")
	}
	return v.Admin()
}

// reasonable reports whether a reason is one line that can be read.
func reasonable(reason string) bool {
	return reason != "" && utf8.RuneCountInString(reason) <= tasks.MaxReason && utf8.ValidString(reason) &&
		strings.IndexFunc(reason, func(c rune) bool { return !unicode.IsPrint(c) }) < 0
}
