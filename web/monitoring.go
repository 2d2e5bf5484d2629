package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"maps"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynqmon"
)

const monitoringRoot = "/monitoring"

// monitoring is asynqmon with its edges taken off: no outside fonts, no source
// maps, a policy of its own, real content types, and 404 for what does not exist.
// It leaves to its caller who may see it.
type monitoring struct {
	app    http.Handler // knows its paths with the base before them
	index  []byte
	policy string
	ours   func(queue string) bool
}

// newMonitoring renders asynqmon's page once, to know which scripts are in it.
func newMonitoring(redis asynq.RedisConnOpt, base string, readOnly bool, ours func(queue string) bool) (*monitoring, error) {
	if ours == nil {
		ours = func(string) bool { return true }
	}
	// Its Close would close the client that we are lent, so it is never called;
	// it starts nothing else.
	app := asynqmon.New(asynqmon.Options{
		RootPath:         base + monitoringRoot,
		RedisConnOpt:     redis,
		ReadOnly:         readOnly,
		PayloadFormatter: asynqmon.PayloadFormatterFunc(describe),
		ResultFormatter:  asynqmon.ResultFormatterFunc(describe),
	})
	req, err := http.NewRequest(http.MethodGet, base+monitoringRoot+"/", nil)
	if err != nil {
		return nil, err
	}
	var page buffer
	app.ServeHTTP(&page, req)
	if !bytes.Contains(page.body.Bytes(), []byte("</html>")) {
		return nil, errors.New("web: asynqmon has no page")
	}
	// Away with the fonts of another host, and with a manifest that browsers fetch without the cookie.
	index := regexp.MustCompile(`<link rel="(?:stylesheet" href="https?://[^"]*"|manifest" [^>]*?)/?>`).ReplaceAll(page.body.Bytes(), nil)
	index = bytes.Replace(index, []byte(`<div id="root">`), fmt.Appendf(nil, aside+`<div id="root">`, html.EscapeString(base+"/")), 1)
	scripts := "'self'"
	for _, inline := range regexp.MustCompile(`(?s)<script>(.*?)</script>`).FindAllSubmatch(index, -1) {
		sum := sha256.Sum256(inline[1])
		scripts += " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return &monitoring{
		app:   based(base, app),
		index: index,
		ours:  ours,
		// Its styles are written by script at run time, so they cannot be named in advance.
		policy: "default-src 'self'; script-src " + scripts + "; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
			"font-src 'none'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
	}, nil
}

// poolChanged carries out a pause or resume of a pool's queue in the viewer's name: done
// by Asynq alone it would be nobody's, and a resume would not hold. It reports whether
// that is what was asked.
func (w *Web) poolChanged(rw http.ResponseWriter, r *http.Request, v viewer) bool {
	name, asked := strings.CutPrefix(r.URL.Path, monitoringRoot+"/api/queues/")
	if !asked || r.Method != http.MethodPost || w.cfg.PoolOf == nil {
		return false
	}
	at := max(0, strings.LastIndexByte(name, ':')) // a queue's own name may hold one
	queue, act := name[:at], strings.TrimPrefix(name[at:], ":")
	pool, ours := w.cfg.PoolOf(queue)
	var err error
	switch {
	case !ours:
		return false
	case act == "pause" && w.cfg.Pause != nil:
		err = w.cfg.Pause(r.Context(), pool, "paused in asynqmon", time.Time{}, v.via("asynqmon"))
	case act == "resume" && w.cfg.Resume != nil:
		err = w.cfg.Resume(r.Context(), pool, v.via("asynqmon"))
	default:
		return false
	}
	if err != nil {
		w.cfg.Log.Error("change pool", "act", act, "pool", pool, "error", err)
		problem(rw, http.StatusServiceUnavailable, "the pool could not be changed; try again")
		return true
	}
	rw.WriteHeader(http.StatusNoContent)
	return true
}

// aside stands above asynqmon's page.
const aside = `<p style="margin:0;padding:6px 16px;font:14px sans-serif;background:#fff8e1;color:#333">` +
	`asynqmon shows the tasks in Asynq: the few jobs of each pool that are handed out, and what is running. It does not show the jobs that wait for their turn, ` +
	`nor prompts and results: see <a href="%s">the console</a>. Pause and Resume of a pool's queue here are yours, as in the console.</p>`

// based puts base before the path of each request.
func based(base string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		r.URL.Path = base + r.URL.Path
		if r.URL.RawPath != "" {
			r.URL.RawPath = base + r.URL.RawPath
		}
		next.ServeHTTP(rw, r)
	})
}

func (m *monitoring) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Content-Security-Policy", m.policy)
	rest := strings.TrimPrefix(path.Clean(r.URL.Path), monitoringRoot)
	if r.Method == http.MethodHead { // asynqmon knows it not; the server leaves the body out
		r = r.Clone(r.Context())
		r.Method = http.MethodGet
	}
	switch {
	case strings.HasPrefix(rest, "/api/queues/") && !m.ours(queueOf(rest)):
		problem(rw, http.StatusNotFound, "no such queue")
	case slices.Contains([]string{"/api/queues", "/api/queue_stats", "/api/servers"}, rest):
		m.lists(rw, r)
	case strings.HasPrefix(rest, "/api/"):
		m.app.ServeHTTP(&mended{ResponseWriter: rw}, r)
	case strings.HasSuffix(rest, ".map"):
		problem(rw, http.StatusNotFound, "no such file")
	case strings.HasPrefix(rest, "/static/"):
		rw.Header().Set("Cache-Control", "private, max-age=86400") // the names hold a hash of the content
		m.app.ServeHTTP(&mended{ResponseWriter: rw, svg: strings.HasSuffix(rest, ".svg")}, r)
	case strings.Count(rest, "/") == 1 && path.Ext(rest) != "":
		m.app.ServeHTTP(&mended{ResponseWriter: rw}, r)
	default: // a place within the page, which finds its way by itself
		rw.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = rw.Write(m.index)
	}
}

// queueOf is the queue of a path below /api/queues/. What is done with all of it follows
// the last colon of its part; a queue's own name may hold one.
func queueOf(rest string) string {
	name, more, _ := strings.Cut(strings.TrimPrefix(rest, "/api/queues/"), "/")
	for _, act := range []string{":pause", ":resume"} {
		if more == "" {
			name = strings.TrimSuffix(name, act)
		}
	}
	return name
}

// lists answers with what asynqmon lists of all queues of Redis, but for what is not
// ours: another Sluice, or another program, may have queues there.
func (m *monitoring) lists(rw http.ResponseWriter, r *http.Request) {
	var all map[string]any
	var b buffer
	m.app.ServeHTTP(&b, r)
	if err := json.Unmarshal(b.body.Bytes(), &all); err != nil {
		problem(rw, http.StatusServiceUnavailable, "Redis does not answer; try again")
		return
	}
	if list, ok := all["queues"].([]any); ok {
		all["queues"] = slices.DeleteFunc(list, func(q any) bool {
			name, _ := q.(map[string]any)["queue"].(string)
			return !m.ours(name)
		})
	}
	if byQueue, ok := all["stats"].(map[string]any); ok {
		maps.DeleteFunc(byQueue, func(name string, _ any) bool { return !m.ours(name) })
	}
	if list, ok := all["servers"].([]any); ok {
		all["servers"] = slices.DeleteFunc(list, func(s any) bool {
			serves, _ := s.(map[string]any)["queue_priorities"].(map[string]any)
			return !slices.ContainsFunc(slices.Collect(maps.Keys(serves)), m.ours)
		})
	}
	text, err := json.Marshal(all)
	if err != nil {
		problem(rw, http.StatusInternalServerError, "asynqmon's answer cannot be read")
		return
	}
	rw.Header().Set("Content-Type", "application/json; charset=utf-8")
	_, _ = rw.Write(text)
}

// mended mends what asynqmon answers: JSON that is not called so, and the page in
// place of a file or call that does not exist. Only the page comes without a type
// and begins with a tag.
type mended struct {
	http.ResponseWriter
	svg     bool
	begun   bool
	missing bool
}

func (m *mended) WriteHeader(status int) {
	m.begun = true
	if m.svg {
		m.Header().Set("Content-Type", "image/svg+xml")
	}
	m.ResponseWriter.WriteHeader(status)
}

func (m *mended) Write(b []byte) (int, error) {
	if !m.begun {
		if m.Header().Get("Content-Type") == "" {
			if m.missing = bytes.HasPrefix(b, []byte("<")); m.missing {
				m.begun = true
				m.Header().Set("Cache-Control", "no-store")
				problem(m.ResponseWriter, http.StatusNotFound, "no such file or call")
				return len(b), nil
			}
			m.Header().Set("Content-Type", "application/json; charset=utf-8")
		}
		m.WriteHeader(http.StatusOK)
	}
	if m.missing {
		return len(b), nil
	}
	return m.ResponseWriter.Write(b)
}

// buffer keeps an answer.
type buffer struct {
	header http.Header
	body   bytes.Buffer
}

func (b *buffer) Header() http.Header {
	if b.header == nil {
		b.header = make(http.Header)
	}
	return b.header
}
func (b *buffer) WriteHeader(int)             {}
func (b *buffer) Write(p []byte) (int, error) { return b.body.Write(p) }

// describe is all that asynqmon shows of a payload or result: the id and the
// attempt when it is what Sluice puts into a task, else its size.
func describe(_ string, data []byte) string {
	if len(data) == 0 {
		return ""
	}
	var task struct {
		ID      string `json:"id"`
		Attempt int    `json:"attempt"`
	}
	if err := json.Unmarshal(data, &task); err != nil || !identifier(task.ID) {
		return fmt.Sprintf("%d bytes, not shown", len(data))
	}
	return fmt.Sprintf(`{"id":%q,"attempt":%d}`, task.ID, task.Attempt)
}

// identifier reports whether s has the form of an id: a short prefix and a ULID.
// Anything else could be text of a caller.
func identifier(s string) bool {
	prefix, id, _ := strings.Cut(s, "_")
	if len(prefix) == 0 || len(prefix) > 8 || len(id) != 26 {
		return false
	}
	for i := range len(prefix) {
		if prefix[i] < 'a' || prefix[i] > 'z' {
			return false
		}
	}
	for i := range len(id) {
		if b := id[i]; (b < '0' || b > '9') && (b < 'A' || b > 'Z') {
			return false
		}
	}
	return true
}
