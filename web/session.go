package web

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	sessionMax    = 12 * time.Hour
	maxLoginBytes = 16 << 10 // a token has at most 8 KiB
)

var (
	errSignedOut = errors.New("not signed in")
	errForbidden = errors.New("neither monitor nor admin")
)

// viewer is who looks at a page.
type viewer struct {
	Subject string    `json:"sub"`
	Tenant  string    `json:"tenant"`
	Admin   bool      `json:"admin"`
	Expires time.Time `json:"exp"`
}

// admit returns the viewer that an identity is, or errForbidden.
func admit(id Identity) (viewer, error) {
	admin := slices.Contains(id.Scopes, scopeAdmin)
	if !admin && !slices.Contains(id.Scopes, scopeMonitor) {
		return viewer{}, errForbidden
	}
	return viewer{Subject: id.Subject, Tenant: id.Tenant, Admin: admin, Expires: id.ExpiresAt}, nil
}

// who returns whose request it is: by its Authorization field when it has one,
// else by its cookie.
func (w *Web) who(r *http.Request) (viewer, error) {
	switch fields := r.Header.Values("Authorization"); len(fields) {
	case 0:
	case 1:
		scheme, token, _ := strings.Cut(fields[0], " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return viewer{}, errSignedOut
		}
		id, err := w.cfg.Verifier.Verify(r.Context(), strings.Trim(token, " "))
		if err != nil {
			return viewer{}, errSignedOut
		}
		return admit(id)
	default:
		return viewer{}, errSignedOut
	}
	cookie, err := r.Cookie(w.cookieName())
	if err != nil {
		return viewer{}, errSignedOut
	}
	return w.open(cookie.Value)
}

// cookieName binds the cookie to the host where the browser can enforce it
// (RFC 6265bis section 4.1.3.2).
func (w *Web) cookieName() string {
	if w.secure {
		return "__Host-sluice_session"
	}
	return "sluice_session"
}

// seal writes a session down so that open knows it for its own.
func (w *Web) seal(v viewer) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	body := base64.RawURLEncoding.EncodeToString(text)
	return body + "." + base64.RawURLEncoding.EncodeToString(w.mac(body)), nil
}

// open returns the viewer of a cookie that is genuine and has not ended.
func (w *Web) open(value string) (viewer, error) {
	body, tag, _ := strings.Cut(value, ".")
	sum, err := base64.RawURLEncoding.DecodeString(tag)
	if err != nil || !hmac.Equal(sum, w.mac(body)) {
		return viewer{}, errSignedOut
	}
	text, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return viewer{}, errSignedOut
	}
	var v viewer
	if err := json.Unmarshal(text, &v); err != nil || !w.cfg.Now().Before(v.Expires) {
		return viewer{}, errSignedOut
	}
	return v, nil
}

func (w *Web) mac(body string) []byte {
	m := hmac.New(sha256.New, w.cfg.SessionKey)
	// The prefix keeps the key's other uses, and later forms of the cookie, apart.
	m.Write([]byte("sluice console session 1\n" + body))
	return m.Sum(nil)
}

// loginPage is what the sign-in shows.
type loginPage struct {
	Fault string
	Next  string
	Fake  bool
}

func (w *Web) login(rw http.ResponseWriter, r *http.Request) {
	next := localPath(r.URL.Query().Get("next"))
	if _, err := w.who(r); err == nil {
		http.Redirect(rw, r, next, http.StatusSeeOther)
		return
	}
	w.page(rw, http.StatusOK, "login.html", loginPage{Next: next, Fake: w.cfg.Fake})
}

func (w *Web) signIn(rw http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(rw, r.Body, maxLoginBytes)
	if err := r.ParseForm(); err != nil {
		w.page(rw, http.StatusBadRequest, "login.html", loginPage{Fault: "The form could not be read.", Next: "/", Fake: w.cfg.Fake})
		return
	}
	next := localPath(r.PostForm.Get("next"))
	again := func(status int, result, fault string) {
		w.signIns.WithLabelValues(result).Inc()
		w.page(rw, status, "login.html", loginPage{Fault: fault, Next: next, Fake: w.cfg.Fake})
	}
	// A token is often pasted with what stood round it.
	token := strings.TrimSpace(r.PostForm.Get("token"))
	token = strings.TrimSpace(strings.TrimPrefix(token, "Bearer "))
	id, err := w.cfg.Verifier.Verify(r.Context(), token)
	if err != nil {
		w.cfg.Log.Info("sign-in refused", "error", err)
		again(http.StatusUnauthorized, "invalid", "This token is not valid, or no longer.")
		return
	}
	v, err := admit(id)
	if err != nil {
		w.cfg.Log.Info("sign-in refused", "subject", id.Subject, "tenant", id.Tenant, "error", err)
		again(http.StatusForbidden, "forbidden", "This token has neither the scope monitor nor admin.")
		return
	}
	if end := w.cfg.Now().Add(sessionMax); v.Expires.After(end) {
		v.Expires = end
	}
	value, err := w.seal(v)
	if err != nil {
		w.cfg.Log.Error("seal session", "error", err)
		problem(rw, http.StatusInternalServerError, "the session cannot be written")
		return
	}
	w.signIns.WithLabelValues("accepted").Inc()
	w.cfg.Log.Info("signed in", "subject", v.Subject, "tenant", v.Tenant, "admin", v.Admin)
	cookie := w.cookie(value)
	cookie.Expires = v.Expires
	cookie.MaxAge = max(1, int(v.Expires.Sub(w.cfg.Now())/time.Second))
	http.SetCookie(rw, cookie)
	http.Redirect(rw, r, next, http.StatusSeeOther)
}

func (w *Web) signOut(rw http.ResponseWriter, r *http.Request) {
	cookie := w.cookie("")
	cookie.MaxAge = -1
	http.SetCookie(rw, cookie)
	http.Redirect(rw, r, "/login", http.StatusSeeOther)
}

func (w *Web) cookie(value string) *http.Cookie {
	return &http.Cookie{
		Name: w.cookieName(), Value: value, Path: "/",
		HttpOnly: true, Secure: w.secure, SameSite: http.SameSiteStrictMode,
	}
}

// localPath returns where to go after a sign-in: a page of ours, whatever was asked for.
func localPath(next string) string {
	if next == monitoringRoot || strings.HasPrefix(next, monitoringRoot+"/") && !strings.ContainsAny(next, "\\\r\n") {
		return next
	}
	return "/"
}
