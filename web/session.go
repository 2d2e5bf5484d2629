package web

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const (
	sessionMax    = 12 * time.Hour
	maxLoginBytes = 16 << 10 // a token has at most 8 KiB

	sessionIDBytes = 32
	sessionIDChars = (sessionIDBytes*8 + 5) / 6 // as base64url
	sessionTimeout = 2 * time.Second            // of one question to the store
)

var (
	errSignedOut = errors.New("not signed in")
	errUnsure    = errors.New("nobody can say whether the token was revoked")
)

// Sessions keeps who is signed in, for every process that serves the console. Names
// tell nobody a session's id.
type Sessions interface {
	// SaveSession keeps who for at most ttl.
	SaveSession(ctx context.Context, name string, who []byte, ttl time.Duration) error
	// Session returns what was kept, tasks.ErrNotFound when nothing is. With any other
	// error nobody knows.
	Session(ctx context.Context, name string) ([]byte, error)
	// EndSession forgets it.
	EndSession(ctx context.Context, name string) error
}

// slowed is the error of a token that is not valid, as many others of its address
// before it: how long that has to wait.
type slowed time.Duration

func (slowed) Error() string {
	return "the token is not valid, as many others of this address before it: send a valid one, which passes at once"
}

func (s slowed) tell(rw http.ResponseWriter) {
	rw.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(time.Duration(s).Seconds()))))
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
		switch {
		case errors.Is(err, tasks.ErrUnavailable):
			return viewer{}, err
		case err == nil && id.Unsure && r.Method != http.MethodGet && r.Method != http.MethodHead:
			return viewer{}, errUnsure
		case err != nil:
			if wait := w.cfg.Failed(r); wait > 0 {
				return viewer{}, slowed(wait)
			}
			return viewer{}, errSignedOut
		}
		return w.admit(id)
	default:
		return viewer{}, errSignedOut
	}
	return w.session(r)
}

// session returns the viewer of a request's cookie: errSignedOut when its session was
// never there or has ended, and the store's own error when nobody can tell.
func (w *Web) session(r *http.Request) (viewer, error) {
	id := w.sessionID(r)
	if id == "" {
		return viewer{}, errSignedOut
	}
	ctx, cancel := context.WithTimeout(r.Context(), sessionTimeout)
	defer cancel()
	text, err := w.cfg.Sessions.Session(ctx, w.sessionName(id))
	if errors.Is(err, tasks.ErrNotFound) {
		return viewer{}, errSignedOut
	} else if err != nil {
		return viewer{}, err
	}
	var v viewer
	if err := json.Unmarshal(text, &v); err != nil || !w.cfg.Now().Before(v.Expires) {
		return viewer{}, errSignedOut
	}
	if revoked, err := w.cfg.Revoked(ctx, v.Token); err != nil {
		return viewer{}, err
	} else if revoked {
		return viewer{}, errSignedOut
	}
	return w.admit(Identity{Subject: v.Subject, Tenant: tasks.TenantOf(v.Tenant), Token: v.Token, Scopes: v.Scopes, Models: v.Models, Pools: v.Pools, ExpiresAt: v.Expires})
}

// sessionID is what the request's cookie holds; "" for what is no id of ours.
func (w *Web) sessionID(r *http.Request) string {
	if cookies := r.CookiesNamed(w.cookieName()); len(cookies) == 1 && len(cookies[0].Value) == sessionIDChars {
		return cookies[0].Value
	}
	return ""
}

// sessionName is the name that a session is kept under: who reads the store learns no
// id of it, and under another key all sessions have ended.
func (w *Web) sessionName(id string) string {
	m := hmac.New(sha256.New, w.cfg.SessionKey)
	m.Write([]byte("sluice console session 3\n" + id))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// endSession ends the session of a request's cookie, if there is one.
func (w *Web) endSession(r *http.Request) error {
	id := w.sessionID(r)
	if id == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), sessionTimeout)
	defer cancel()
	return w.cfg.Sessions.EndSession(ctx, w.sessionName(id))
}

// newSession keeps a viewer under a new id, which it returns. The session that the
// browser had has ended: an id from before a sign-in is nobody's after it.
func (w *Web) newSession(r *http.Request, v viewer) (id string, err error) {
	if err := w.endSession(r); err != nil {
		return "", err
	}
	random := make([]byte, sessionIDBytes)
	_, _ = rand.Read(random) // it never fails
	id = base64.RawURLEncoding.EncodeToString(random)
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(r.Context(), sessionTimeout)
	defer cancel()
	return id, w.cfg.Sessions.SaveSession(ctx, w.sessionName(id), text, v.Expires.Sub(w.cfg.Now()))
}

// cookieName binds the cookie to the host where the browser can enforce it
// (RFC 6265bis section 4.1.3.2).
func (w *Web) cookieName() string {
	switch {
	case w.secure && w.base == "":
		return "__Host-sluice_session"
	case w.secure: // the other prefix is for the whole host
		return "__Secure-sluice_session"
	}
	return "sluice_session"
}

// loginPage is what the sign-in shows.
type loginPage struct {
	Fault string
	Next  string
	Fake  bool
}

func (w *Web) login(rw http.ResponseWriter, r *http.Request) {
	next := localPath(r.URL.Query().Get("next"))
	switch _, err := w.who(r); {
	case err == nil:
		http.Redirect(rw, r, w.base+next, http.StatusSeeOther)
		return
	case unknown(err):
		w.away(rw, r, err)
		return
	}
	w.page(rw, http.StatusOK, "login.html", loginPage{Next: next, Fake: w.cfg.Fake})
}

func (w *Web) signIn(rw http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(rw, r.Body, maxLoginBytes)
	if err := r.ParseForm(); errors.Is(err, os.ErrDeadlineExceeded) {
		rw.Header().Set("Connection", "close")
		problem(rw, http.StatusRequestTimeout, "the form came too slowly: send it again")
		return
	} else if err != nil {
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
	if errors.Is(err, tasks.ErrUnavailable) {
		again(http.StatusServiceUnavailable, "unavailable", "Redis cannot be reached, so nobody can be signed in now. Try again in a moment.")
		return
	}
	if err != nil {
		if wait := w.cfg.Failed(r); wait > 0 {
			slowed(wait).tell(rw)
			again(http.StatusTooManyRequests, "slowed", "This token is not valid, as many others before it. A valid one is taken at once.")
			return
		}
		w.cfg.Log.Info("sign-in refused", "error", err)
		again(http.StatusUnauthorized, "invalid", "This token is not valid, or no longer.")
		return
	}
	v, err := w.admit(id)
	if err != nil {
		w.cfg.Log.Info("sign-in refused", "subject", id.Subject, "tenant", id.Tenant, "error", err)
		again(http.StatusForbidden, "forbidden", "This token has none of the scopes that open the console: jobs:read, monitor or admin.")
		return
	}
	now := w.cfg.Now()
	if end := now.Add(sessionMax); v.Expires.After(end) {
		v.Expires = end
	}
	if !now.Before(v.Expires) { // the verifier allows for clocks that differ; a session does not
		again(http.StatusUnauthorized, "invalid", "This token is not valid, or no longer.")
		return
	}
	session, err := w.newSession(r, v)
	if err != nil {
		w.cfg.Log.Error("sign in", "error", err)
		again(http.StatusServiceUnavailable, "unavailable", "Redis cannot be reached, so nobody can be signed in now. Try again in a moment.")
		return
	}
	w.signIns.WithLabelValues("accepted").Inc()
	w.cfg.Log.Info("signed in", "subject", v.Subject, "tenant", v.Tenant, "admin", v.is(scopeAdmin))
	cookie := w.cookie(r, session)
	cookie.Expires = v.Expires
	cookie.MaxAge = max(1, int(v.Expires.Sub(now)/time.Second))
	http.SetCookie(rw, cookie)
	http.Redirect(rw, r, w.base+next, http.StatusSeeOther)
}

// signOut ends the session, so that no copy of its cookie is good for anything. While
// nobody can end it the browser keeps it, to end it later.
func (w *Web) signOut(rw http.ResponseWriter, r *http.Request) {
	if err := w.endSession(r); err != nil {
		w.cfg.Log.Error("sign out", "error", err)
		w.page(rw, http.StatusServiceUnavailable, "away.html", awayPage{SignOut: true})
		return
	}
	cookie := w.cookie(r, "")
	cookie.MaxAge = -1
	http.SetCookie(rw, cookie)
	http.Redirect(rw, r, w.base+"/login", http.StatusSeeOther)
}

// https reports whether a browser came over https although public_url is http, and says
// so once: the links that it is given are http.
func (w *Web) https(r *http.Request) bool {
	if w.cfg.HTTPS == nil || !w.cfg.HTTPS(r) {
		return false
	}
	w.mixed.Do(func() {
		w.cfg.Log.Warn("browsers come over https, and public_url is http: links that are handed out are http; set public_url to the address that browsers show", "public_url", w.cfg.PublicURL)
	})
	return true
}

func (w *Web) cookie(r *http.Request, value string) *http.Cookie {
	return &http.Cookie{
		Name: w.cookieName(), Value: value, Path: cmp.Or(w.base, "/"),
		HttpOnly: true, Secure: w.secure || w.https(r), SameSite: http.SameSiteStrictMode,
	}
}

// unknown reports whether an error of who says that nobody knows, rather than who may not.
func unknown(err error) bool {
	return err != nil && !errors.Is(err, errSignedOut) && !errors.Is(err, errForbidden)
}

// awayPage says that Redis is away; SignOut, that a session could not be ended.
type awayPage struct {
	SignOut bool
}

// away answers a request of which nobody knows whose it is, because the sessions
// cannot be read: that signs nobody out.
func (w *Web) away(rw http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		w.cfg.Log.Error("read a session", "error", err)
	}
	rw.Header().Set("Retry-After", "5")
	switch {
	case r.URL.Path == "/console/pools":
		w.page(rw, http.StatusServiceUnavailable, "pools", unread(w.cfg.Now()))
	case navigates(r):
		w.page(rw, http.StatusServiceUnavailable, "away.html", awayPage{})
	default:
		problem(rw, http.StatusServiceUnavailable, "Redis cannot be reached, so nobody can say whether you are signed in; try again, or send a bearer token")
	}
}

// localPath returns where to go after a sign-in: a page of ours, whatever was asked for.
func localPath(next string) string {
	if strings.ContainsAny(next, "\\\r\n") {
		return "/"
	}
	for _, page := range Paths() {
		if slices.Contains([]string{"/", "/login", "/logout"}, page) {
			continue // the first leads nowhere else, from the others nobody comes back
		}
		if next == page || strings.HasPrefix(next, page+"/") || strings.HasPrefix(next, page+"?") {
			return next
		}
	}
	return "/"
}
