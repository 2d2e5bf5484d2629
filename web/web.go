// Package web is what an operator sees: the console at /, which says what waits,
// for what, since when and what happens next, each pool at /pools, the jobs at /jobs, the batches at /batches,
// the webhooks at /webhooks, a page to submit at /new, who changed what at /audit, who may
// use how much at /tenants, and asynqmon at /monitoring, all behind a sign-in.
//
// It promises that nothing but the sign-in page and its style is served to
// somebody without the scope jobs:read, monitor or admin; that a token with jobs:read
// shows its own tenant's jobs, monitor the states of everybody's, and admin changes them;
// that what another tenant's job holds is shown only to the scope content, after the look
// is in the audit; that no page of another origin can make a signed-in browser change anything,
// that its pages load nothing from anywhere else, and that a session ends at the
// sign-out, in every process at once, and never outlives the token.
//
// It shows a prompt on a page of its own alone, never keeps a token, and never closes the
// Redis client that it is lent.
package web

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/tasks"
)

// Identity is who a token speaks for.
type Identity struct {
	Subject   string
	Tenant    string
	Token     string // the token's id (jti)
	Scopes    []string
	Models    []string // globs of the models that it may ask; none: all
	Pools     []string // globs of the pools that it may use; none: all
	ExpiresAt time.Time
	Unsure    bool // nobody can say whether the token was revoked: nothing may be changed with it
}

// Actor is who changes something, and where: Via is "console" or "asynqmon".
type Actor struct {
	Subject, Tenant, Via string
	Models               []string // globs of the models that its token may ask; none: all
	Pools                []string // globs of the pools that it may use; none: all
}

// Verifier judges a token. Its errors are logged, so they must not repeat it.
type Verifier interface {
	Verify(ctx context.Context, raw string) (Identity, error)
}

// Config is what the console is made from.
type Config struct {
	// Redis lends asynqmon the client that the process already has: its
	// MakeRedisClient must return the same redis.UniversalClient each time.
	// Required.
	Redis asynq.RedisConnOpt
	// Verifier judges the token of a sign-in or of an Authorization field. Required.
	Verifier Verifier
	// SeparateUsers says that each subject of a tenant is shown only what is its own.
	SeparateUsers bool
	// PublicURL is the address that browsers use. When it is https, the session
	// cookie is sent over https only. When it has a path, addresses begin with that, while
	// requests come without it. Empty means plain http on any name.
	PublicURL string
	// Status says how the pools are. It is asked every two seconds for each open
	// page. Required.
	Status func(context.Context) ([]tasks.PoolStatus, error)
	// PoolOf names the pool of a queue of Asynq's; false: it is none's. Nil: asynqmon's
	// pauses and resumes are Asynq's alone.
	PoolOf func(queue string) (pool string, ok bool)
	// Ours says which queues asynqmon shows and changes. Nil: all.
	Ours func(queue string) bool
	// Pause and Resume change a pool for an admin; an unknown pool is tasks.ErrNotFound.
	// Nil hides the button.
	Pause  func(ctx context.Context, pool, reason string, until time.Time, who Actor) error // until is zero for an operator's resume
	Resume func(ctx context.Context, pool string, who Actor) error
	// Processes lists the processes that are there, for who operates. Nil: nobody is told.
	Processes func(ctx context.Context) ([]tasks.Process, error)
	// Memory is what Redis has in use of most bytes, and what it is expected to take besides for results of accepted jobs; most is 0
	// where nothing limits it, or it does not say. Nil: nobody is told.
	Memory func() (used, promised, most int64)
	// Pools is asked by the page of a pool for what it tells of everybody's jobs. Nil: nothing.
	Pools Pools
	// Jobs is asked by the pages of jobs. Nil: there are none.
	Jobs Jobs
	// Batches is asked by the pages of batches. Nil: there are none.
	Batches Batches
	// Webhooks is asked by the pages of webhooks. Nil: there are none.
	Webhooks Webhooks
	// Audit lists who changed what, the newest first, after an id or from the beginning.
	// Nil: there is no such page.
	Audit func(ctx context.Context, after string, limit int) (tasks.ActPage, error)
	// Tenants is asked by the page of the tenants. Nil: there is none.
	Tenants Tenants
	// Flagged lists the tenants of which something out of the ordinary was found, and Release frees one, with the
	// line of the audit; of whom nothing is kept it is tasks.ErrNotFound. Nil, both of them: nobody watches.
	Flagged func(ctx context.Context) ([]Flagged, error)
	Release func(ctx context.Context, tenant string, act tasks.Act) error
	// Submit takes in what is written into the page that submits. Nil: there is none.
	Submit Submitter
	// Upload takes a file in as a batch. Nil: there is no such page.
	Upload Uploader
	// Usage is asked by the page of what calls took. Nil: there is none.
	Usage Usage
	// Follow sends a job's events, its text among them, until the request ends. It fails before it has
	// written anything. Nil: an answer is shown once it is there.
	Follow func(rw http.ResponseWriter, r *http.Request, who Actor, owner, id string) error
	// Partials is the text that has come so far, for browsers without a script. Required with Follow.
	Partials Partials
	// Note writes into the audit what somebody does with another tenant's job or batch:
	// "look", "cancel", "retry" or "delete", or with its webhooks: "test" or "redeliver". Then it
	// calls do, and returns its error, which the line then tells of. Required with Jobs, Batches or Webhooks.
	Note func(ctx context.Context, who Actor, action, id string, do func(ctx context.Context) error) error
	// Fake says that the built-in fake provider answers; the console then says so.
	Fake bool
	// Notices returns further lines that an operator must see, such as a Redis that
	// forgets. It is asked for each page: facts change. Nil means none.
	Notices func() []string
	// Version is the program's, shown in the footer. Empty shows none.
	Version string
	// Sessions keeps who is signed in, for every process that serves the console. Required.
	Sessions Sessions
	// Revoked reports whether the token of a session was revoked, which ends the session;
	// with an error nobody can say. Nil: none is.
	Revoked func(ctx context.Context, token string) (bool, error)
	// SessionKey is of the secret that tokens are signed with: with another one no
	// session of before is known. Empty means that sessions outlive a change of keys.
	SessionKey []byte
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	// Log is told of sign-ins, of every change, and of faults. Nil means nobody.
	Log *slog.Logger
	// Failed counts a token that was refused, and returns how long whose request it is has
	// to wait before the next; 0 while there were few. Nil counts nothing.
	Failed func(*http.Request) time.Duration
	// HTTPS reports whether a browser's request came over https, as far as is known, where
	// PublicURL does not say so: its cookie is then sent over https only. Nil: none did.
	HTTPS func(*http.Request) bool
	// Metrics counts sign-ins. Nil means none.
	Metrics prometheus.Registerer

	every      time.Duration // of tests: between two events of a stream
	mostUpload int64         // likewise: bytes of a form with a file
}

// Web serves the console and asynqmon. It starts nothing that would have to be stopped;
// Run notes what the pages show of the last hour, and Drain ends the pages' streams before a server waits for them.
type Web struct {
	cfg     Config
	mixed   sync.Once // of a browser's https and an http of PublicURL
	secure  bool
	base    string // the path of PublicURL, which is of every address of ours; mostly ""
	pages   *template.Template
	handler http.Handler
	signIns *prometheus.CounterVec
	streams *streams
	history history
	every   time.Duration // between two events of a stream
}

//go:embed assets
var assets embed.FS

// New returns the handler, or every fault of the configuration at once. It
// connects to nothing.
func New(c Config) (*Web, error) {
	public, err := c.check()
	if err != nil {
		return nil, err
	}
	c.fill()
	w := &Web{
		cfg:    c,
		secure: public.Scheme == "https",
		base:   strings.TrimRight(public.EscapedPath(), "/"),
		every:  cmp.Or(c.every, streamEvery), streams: &streams{by: map[string]int{}, shows: map[string]*showing{}, closed: make(chan struct{})},
		signIns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_console_sign_ins_total",
			Help: "Attempts to sign in to the console, by result: accepted, invalid (the token), slowed (the address, for many of those), forbidden (its scopes) or unavailable (Redis).",
		}, []string{"result"}),
	}
	if w.pages, err = template.New("").Funcs(template.FuncMap{"base": func() string { return w.base }}).ParseFS(assets, "assets/*.html"); err != nil {
		return nil, fmt.Errorf("web: read templates: %w", err)
	}
	if c.Metrics != nil {
		if err := c.Metrics.Register(w.signIns); err != nil {
			return nil, fmt.Errorf("web: register metrics: %w", err)
		}
	}
	monitoring, err := w.monitoring()
	if err != nil {
		return nil, err
	}
	w.handler, err = w.ownOrigin(public, w.routes(monitoring))
	return w, err
}

// check returns what PublicURL says, or every fault of the configuration at once.
func (c *Config) check() (*url.URL, error) {
	var faults []error
	need := func(ok bool, text string) {
		if !ok {
			faults = append(faults, errors.New(text))
		}
	}
	need(c.Redis != nil, "web: Redis is required")
	need(c.Verifier != nil, "web: Verifier is required")
	need(c.Status != nil, "web: Status is required")
	need(c.Sessions != nil, "web: Sessions is required")
	need(c.Jobs == nil && c.Batches == nil && c.Webhooks == nil || c.Note != nil, "web: Note is required with Jobs, Batches or Webhooks")
	need(c.Follow == nil || c.Partials != nil, "web: Partials is required with Follow")
	need(c.Upload == nil || c.Batches != nil, "web: Batches is required with Upload")
	need(c.Batches == nil && c.Submit == nil && c.Webhooks == nil || c.Jobs != nil, "web: Jobs is required with Batches, Submit or Webhooks")
	public, err := url.Parse(c.PublicURL)
	need(err == nil && (c.PublicURL == "" || public.Host != "" && (public.Scheme == "http" || public.Scheme == "https")),
		"public_url: must be an absolute http or https address")
	return public, errors.Join(faults...)
}

// fill puts in place what is left out.
func (c *Config) fill() {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Revoked == nil {
		c.Revoked = func(context.Context, string) (bool, error) { return false, nil }
	}
	if c.Failed == nil {
		c.Failed = func(*http.Request) time.Duration { return 0 }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.SessionKey = slices.Clone(c.SessionKey)
}

// routes lists every route, with who calls it and what a repeat does.
func (w *Web) routes(monitoring http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", w.login)                                               // anybody
	mux.HandleFunc("POST /login", w.signIn)                                             // the form; a repeat signs in again
	mux.HandleFunc("POST /logout", w.signOut)                                           // anybody; a repeat changes nothing
	mux.HandleFunc("GET /console/style.css", w.asset("style.css", "text/css"))          // every page, also the sign-in
	mux.HandleFunc("GET /console/favicon.svg", w.asset("favicon.svg", "image/svg+xml")) // every page
	mux.HandleFunc("GET /console/console.js", w.asset("console.js", "text/javascript")) // the console
	mux.HandleFunc("GET /console/answer.js", w.asset("answer.js", "text/javascript"))   // the page of an answer that is to come
	mux.Handle("GET /{$}", w.guard(w.console))                                          // monitor
	mux.HandleFunc("GET /console", w.root)                                              // anybody; it leads to /
	mux.HandleFunc("GET /console/{$}", w.root)                                          // likewise
	mux.Handle("GET /console/pools", w.guard(w.fragment))                               // the console's script, every 2 s
	mux.Handle("GET /pools/{pool}", w.guard(w.poolPage))                                // jobs:read, monitor
	mux.Handle("GET /console/pools/{pool}", w.guard(w.poolFragment))                    // the pool's script, every 2 s
	mux.Handle("GET /console/pools/{pool}/pause", w.guard(w.pauseForm))                 // admin
	mux.Handle("POST /console/pools/{pool}/pause", w.guard(w.pause))                    // admin; a repeat replaces the reason
	mux.Handle("POST /console/pools/{pool}/resume", w.guard(w.resume))                  // admin; a repeat changes nothing
	if w.cfg.Jobs != nil {
		mux.Handle("GET /jobs", w.guard(w.jobsPage))                                                     // jobs:read, monitor
		mux.Handle("GET /jobs/retry", w.guard(w.askMany(w.retryMany())))                                 // jobs:write, admin
		mux.Handle("POST /jobs/retry", w.guard(w.moveMany(w.retryMany())))                               // jobs:write, admin; a repeat moves what is left
		mux.Handle("GET /jobs/cancel", w.guard(w.askMany(w.cancelMany())))                               // jobs:write, admin
		mux.Handle("POST /jobs/cancel", w.guard(w.moveMany(w.cancelMany())))                             // jobs:write, admin; a repeat moves what is left
		mux.Handle("GET /jobs/{id}", w.guard(w.jobPage))                                                 // jobs:read, monitor
		mux.Handle("GET /jobs/{id}/result", w.guard(w.result))                                           // jobs:read; of other tenants content, and it is noted
		mux.Handle("GET /jobs/{id}/events", w.guard(w.followJob))                                        // jobs:read of its tenant: the answer's script
		mux.Handle("GET /jobs/{id}/prompt", w.guard(w.prompt))                                           // jobs:read; of other tenants content, and it is noted
		mux.Handle("GET /jobs/{id}/delete", w.guard(w.deletePage))                                       // jobs:write, admin
		mux.Handle("POST /jobs/{id}/delete", w.guard(w.moveJob("delete", byAnybody(w.cfg.Jobs.Delete)))) // jobs:write, admin; a repeat finds no job
		mux.Handle("POST /jobs/{id}/cancel", w.guard(w.moveJob("cancel", byAnybody(w.cfg.Jobs.Cancel)))) // jobs:write, admin; a repeat is refused
		mux.Handle("POST /jobs/{id}/retry", w.guard(w.moveJob("retry", w.cfg.Jobs.Retry)))               // jobs:write, admin; a repeat is refused
		mux.Handle("GET /console/jobs", w.guard(part(w, "jobs", w.jobsList)))                            // the list's script, every 2 s
		mux.Handle("GET /console/jobs/{id}", w.guard(w.jobFragment))                                     // the job's script, every 2 s
	}
	w.batchRoutes(mux)
	if w.cfg.Usage != nil {
		mux.Handle("GET /usage", w.guard(w.usagePage)) // jobs:read of one's own, monitor
	}
	if w.cfg.Webhooks != nil {
		mux.Handle("GET /webhooks", w.guard(w.webhooksPage))                                                                // jobs:read, monitor
		mux.Handle("GET /webhooks/{id}", w.guard(w.deliveryPage))                                                           // jobs:read, monitor; its answers webhooks:write, admin
		mux.Handle("POST /webhooks/{id}/redeliver", w.guard(w.sendHook("delivery", "redeliver", w.cfg.Webhooks.Redeliver))) // webhooks:write, admin; a repeat sends once more
		mux.Handle("POST /webhooks/{id}/test", w.guard(w.sendHook("endpoint", "test", w.cfg.Webhooks.TestEndpoint)))        // webhooks:write, admin; a repeat sends another
		mux.Handle("GET /console/webhooks", w.guard(part(w, "webhooks", w.webhooksList)))                                   // the list's script, every 2 s
		mux.Handle("GET /console/webhooks/{id}", w.guard(w.deliveryFragment))                                               // the delivery's script, every 2 s
	}
	if w.cfg.Audit != nil {
		mux.Handle("GET /audit", w.guard(w.auditPage))                           // admin
		mux.Handle("GET /console/audit", w.guard(part(w, "audit", w.auditList))) // the list's script, every 2 s
	}
	if w.cfg.Tenants != nil {
		mux.Handle("GET /tenants", w.guard(w.tenantsPage))                     // monitor; the tokens admin
		mux.Handle("POST /tenants/tokens/{id}/revoke", w.guard(w.revokeToken)) // admin; a repeat changes nothing
		if w.cfg.Release != nil {
			mux.Handle("GET /tenants/{tenant}/release", w.guard(w.releaseForm)) // admin
			mux.Handle("POST /tenants/{tenant}/release", w.guard(w.release))    // admin; a repeat changes nothing
		}
		mux.Handle("GET /console/tenants", w.guard(part(w, "tenants", w.tenantsList))) // the list's script, every 2 s
	}
	if w.cfg.Submit != nil {
		mux.Handle("GET /new", w.guard(w.newForm)) // jobs:read
		mux.Handle("POST /new", w.guard(w.submit)) // jobs:write; a repeat submits another
	}
	mux.Handle("GET /monitoring", monitoring)         // monitor
	mux.Handle("GET /monitoring/", monitoring)        // monitor
	mux.Handle("POST /monitoring/api/", monitoring)   // admin
	mux.Handle("DELETE /monitoring/api/", monitoring) // admin
	return w.answersOptions(mux)
}

// batchRoutes lists those of batches.
func (w *Web) batchRoutes(mux *http.ServeMux) {
	if w.cfg.Batches != nil {
		mux.Handle("GET /batches", w.guard(w.batchesPage))                             // jobs:read, monitor
		mux.Handle("GET /batches/{id}", w.guard(w.batchPage))                          // jobs:read, monitor
		mux.Handle("GET /batches/{id}/results", w.guard(w.batchResults))               // jobs:read; of other tenants content, and it is noted
		mux.Handle("POST /batches/{id}/cancel", w.guard(w.cancelBatch))                // jobs:write, admin; a repeat is refused
		mux.Handle("GET /console/batches", w.guard(part(w, "batches", w.batchesList))) // the list's script, every 2 s
		mux.Handle("GET /console/batches/{id}", w.guard(w.batchFragment))              // the batch's script, every 2 s
	}
	if w.cfg.Upload != nil {
		mux.Handle("GET /batches/new", w.guard(w.uploadForm)) // jobs:read, monitor
		mux.Handle("POST /batches/new", w.guard(w.upload))    // jobs:write; a repeat of the form finds the same batch
	}
}

// answersOptions answers OPTIONS with the methods of a route, as balancers ask, and a
// method that a route has not with the same list.
func (w *Web) answersOptions(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if tidy := path.Clean(r.URL.Path); tidy != r.URL.Path && tidy+"/" != r.URL.Path {
			w.lost(rw, r) // the mux would redirect, and knows nothing of the path of public_url
			return
		}
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(rw, r)
			return
		}
		allow := http.MethodOptions
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete} {
			if _, pattern := mux.Handler(&http.Request{Method: method, Host: r.Host, URL: r.URL}); pattern != "" {
				allow += ", " + method
			}
		}
		switch {
		case allow == http.MethodOptions:
			w.lost(rw, r)
		case r.Method == http.MethodOptions:
			rw.Header().Set("Allow", allow)
			rw.WriteHeader(http.StatusNoContent)
		default:
			rw.Header().Set("Allow", allow)
			w.stray(rw, r, http.StatusMethodNotAllowed, "This address shows nothing", "It takes "+allow+".")
		}
	})
}

// lost answers for an address that is nobody's.
func (w *Web) lost(rw http.ResponseWriter, r *http.Request) {
	w.stray(rw, r, http.StatusNotFound, "There is no such page", "Nothing is at this address.")
}

// monitoring is asynqmon behind the sign-in: monitor looks, admin changes, and each
// change is in the log.
func (w *Web) monitoring() (http.Handler, error) {
	watch, err := newMonitoring(w.cfg.Redis, w.base, true, w.cfg.Ours)
	if err != nil {
		return nil, err
	}
	change, err := newMonitoring(w.cfg.Redis, w.base, false, w.cfg.Ours)
	if err != nil {
		return nil, err
	}
	return w.guard(func(rw http.ResponseWriter, r *http.Request, v viewer) {
		if !v.Operates() {
			w.refused(rw, r, v, http.StatusForbidden, "Your token does not show queues and tasks", "That needs the scope monitor or admin.")
			return
		}
		if !v.Admin() {
			watch.ServeHTTP(rw, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.cfg.Log.Info("changed by asynqmon", "subject", v.Subject, "tenant", v.Tenant, "method", r.Method, "path", r.URL.Path)
			if w.poolChanged(rw, r, v) {
				return
			}
		}
		change.ServeHTTP(rw, r)
	}), nil
}

// ownOrigin refuses what a page of another origin sends, and sets the fields that
// every answer carries.
func (w *Web) ownOrigin(public *url.URL, next http.Handler) (http.Handler, error) {
	origins := http.NewCrossOriginProtection()
	if public.Host != "" {
		// Behind a proxy the Host field may be another than the one in the address bar.
		if err := origins.AddTrustedOrigin(public.Scheme + "://" + public.Host); err != nil {
			return nil, fmt.Errorf("public_url: %w", err)
		}
	}
	origins.SetDenyHandler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.cfg.Log.Warn("refused a request of another origin; is public_url the address that browsers use?",
			"method", r.Method, "path", r.URL.Path, "origin", clip(r.Header.Get("Origin")), "public_url", w.cfg.PublicURL)
		fault := "A page of another origin may not do this. If this is the page of Sluice itself, the operator has to set public_url to the address that the browser shows"
		if from, err := url.Parse(r.Header.Get("Origin")); err == nil && from.Host != "" && from.User == nil && len(from.Host) < 256 && (from.Scheme == "http" || from.Scheme == "https") {
			fault += ", which begins with " + from.Scheme + "://" + from.Host
		}
		if r.URL.Path == "/login" {
			w.page(rw, http.StatusForbidden, "login.html", loginPage{Fault: fault + ".", Next: "/", Fake: w.cfg.Fake})
			return
		}
		w.stray(rw, r, http.StatusForbidden, "That was not done", fault+".")
	}))
	return secured(origins.Handler(next)), nil
}

// Paths returns what of the address space belongs to this handler: each with
// what is under it, but "/" by itself.
func Paths() []string {
	return []string{"/", "/login", "/logout", "/console", "/monitoring", "/jobs", "/batches", "/webhooks", "/pools", "/tenants", "/audit", "/usage", "/new"}
}

func (w *Web) ServeHTTP(rw http.ResponseWriter, r *http.Request) { w.handler.ServeHTTP(rw, r) }

// secured sets the fields that every answer carries. asynqmon replaces the policy
// by its own.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		h := rw.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cache-Control", "no-store")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		// Not no-referrer: browsers then send "Origin: null" with our own forms.
		h.Set("Referrer-Policy", "same-origin")
		next.ServeHTTP(rw, r)
	})
}

// guard lets through who may look, and sends the others to the sign-in.
func (w *Web) guard(next func(http.ResponseWriter, *http.Request, viewer)) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		v, err := w.who(r)
		var slow slowed
		switch {
		case err == nil && wantsEvents(r):
			w.stream(rw, r, v, next)
		case err == nil:
			next(rw, r, v)
		case errors.As(err, &slow):
			slow.tell(rw)
			problem(rw, http.StatusTooManyRequests, slow.Error())
		case unknown(err):
			w.away(rw, r, err)
		case errors.Is(err, errForbidden):
			w.stray(rw, r, http.StatusForbidden, "Your token shows nothing here", "The token needs the scope jobs:read, monitor or admin.")
		case navigates(r):
			to := w.base + "/login"
			if r.URL.Path != "/" {
				to += "?next=" + url.QueryEscape(r.URL.RequestURI())
			}
			http.Redirect(rw, r, to, http.StatusSeeOther)
		default:
			challenge := "Bearer"
			if len(r.Header.Values("Authorization")) > 0 {
				challenge = `Bearer error="invalid_token"`
			}
			rw.Header().Set("WWW-Authenticate", challenge)
			problem(rw, http.StatusUnauthorized, "sign in at /login, or send a bearer token")
		}
	})
}

// navigates reports whether a request is of somebody who can be shown a page,
// not of a script or a client of the API.
func navigates(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || len(r.Header.Values("Authorization")) > 0 ||
		strings.HasPrefix(r.URL.Path, monitoringRoot+"/api/") || fragment(r) {
		return false
	}
	accept := r.Header.Get("Accept")
	return accept == "" || strings.Contains(accept, "text/html") || strings.Contains(accept, "*/*")
}

// fragment reports whether a request is of a page's script, for a part of it.
func fragment(r *http.Request) bool {
	for _, of := range []string{"/console/jobs", "/console/batches", "/console/webhooks", "/console/tenants", "/console/audit"} {
		if r.URL.Path == of || strings.HasPrefix(r.URL.Path, of+"/") {
			return true
		}
	}
	pool, ok := strings.CutPrefix(r.URL.Path, "/console/pools/")
	return r.URL.Path == "/console/pools" || ok && !strings.Contains(pool, "/")
}

// refused says why something is not done: to somebody in a browser with a page that leads
// back, else with Problem Details.
func (w *Web) refused(rw http.ResponseWriter, r *http.Request, v viewer, status int, title, text string) {
	if len(r.Header.Values("Authorization")) > 0 || fragment(r) || strings.HasPrefix(r.URL.Path, monitoringRoot+"/api/") {
		problem(rw, status, title+". "+text)
		return
	}
	w.page(rw, status, "fault.html", faultPage{w.frame(v, ""), title, text})
}

// stray is refused for a request whose sender nobody has asked for, and shows a page to a
// browser that says it wants one.
func (w *Web) stray(rw http.ResponseWriter, r *http.Request, status int, title, text string) {
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		problem(rw, status, title+". "+text)
		return
	}
	w.refused(rw, r, viewer{}, status, title, text)
}

// problem answers with RFC 9457 Problem Details.
func problem(rw http.ResponseWriter, status int, detail string) {
	rw.Header().Set("Content-Type", "application/problem+json")
	rw.WriteHeader(status)
	// A connection that is gone is not worth a word.
	_ = json.NewEncoder(rw).Encode(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{"about:blank", http.StatusText(status), status, detail})
}

// root leads to where the console begins.
func (w *Web) root(rw http.ResponseWriter, r *http.Request) {
	http.Redirect(rw, r, w.base+"/", http.StatusSeeOther)
}

// asset serves one embedded file; New has parsed the folder, so it is there.
func (w *Web) asset(name, kind string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		text, err := assets.ReadFile("assets/" + name)
		if err != nil {
			problem(rw, http.StatusNotFound, "no such file")
			return
		}
		rw.Header().Set("Content-Type", kind+"; charset=utf-8")
		_, _ = rw.Write(text)
	}
}

// part returns the handler of the part of a page that its script renews: a list, by the
// name of its template.
func part[T any](w *Web, name string, list func(context.Context, *http.Request, viewer) (T, int)) func(http.ResponseWriter, *http.Request, viewer) {
	return func(rw http.ResponseWriter, r *http.Request, v viewer) {
		ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
		defer cancel()
		listed, status := list(ctx, r, v)
		w.page(rw, status, name, listed)
	}
}

// page writes a template, whole or not at all.
func (w *Web) page(rw http.ResponseWriter, status int, name string, data any) {
	var out strings.Builder
	if err := w.pages.ExecuteTemplate(&out, name, data); err != nil {
		w.cfg.Log.Error("render page", "page", name, "error", err)
		problem(rw, http.StatusInternalServerError, "the page cannot be shown")
		return
	}
	rw.Header().Set("Content-Type", "text/html; charset=utf-8")
	rw.WriteHeader(status)
	_, _ = rw.Write([]byte(out.String()))
}

// clip bounds what of a caller's text is logged.
func clip(s string) string { return s[:min(len(s), 200)] }
