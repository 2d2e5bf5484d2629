package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// An answer is watched by its own tenant as it comes, for as long as the session is good;
// who may see another's sees what there is of it, and that is noted.
func TestAnAnswerIsWatchedAsItComes(t *testing.T) {
	t.Parallel()
	over := make(chan string, 8)
	s := newJobsSite(t, func(c *Config) {
		c.every = 5 * time.Millisecond
		c.Submit = func(context.Context, Actor, NewJob) (string, error) { return "job_new", nil }
		c.Follow = func(rw http.ResponseWriter, r *http.Request, who Actor, owner, id string) error {
			rw.Header().Set("Content-Type", "text/event-stream")
			for i, text := range []string{"lost", "so far: ", hostile} {
				b, _ := json.Marshal(map[string]any{"attempt": min(i+1, 2), "offset": max(0, i-1), "text": text})
				_, _ = fmt.Fprintf(rw, "event: delta\ndata: %s\n\n", b)
			}
			_, _ = fmt.Fprint(rw, "event: status\ndata: {\"status\":\"running\"}\n\n")
			_ = http.NewResponseController(rw).Flush()
			<-r.Context().Done()
			over <- who.Subject + " " + owner
			return nil
		}
	}, func(c *Config) { c.Partials = c.Jobs.(shelf).Store })
	id := s.job("acme", "claude-x", "")
	page := "/jobs/" + id + "/result"
	s.want(s.as("own", "GET", page), 200, `data-src="/jobs/`+id+`/events"`, ">queued<", "answer.js", "refresh")
	s.want(s.as("own", "GET", "/jobs/"+id), 200, "Watch the answer")
	s.want(s.as("look", "GET", page), 403)
	s.want(s.as("hooks", "GET", "/jobs/"+s.job("globex", "claude-x", "")+"/events"), 404)
	if a := s.as("reads-all", "GET", page); strings.Contains(a.body, "/events") || strings.Contains(a.body, "answer.js") || s.audit() != "olga look "+id {
		t.Errorf("another's: noted %q,\n%s", s.audit(), a.body)
	}
	s.want(s.as("reads-all", "GET", "/jobs/"+id+"/events"), 403)
	jar := s.signIn("own")
	if a := s.do(jar, "POST", "/new", url.Values{"model": {"m"}, "prompt": {"p"}}); a.Header.Get("Location") != "/jobs/job_new/result" {
		t.Errorf("a submit leads to %q", a.Header.Get("Location"))
	}
	s.listen(jar, "/jobs/"+id+"/events").until("status", "running")
	s.do(jar, "POST", "/logout", nil)
	if who := <-over; who != "carl acme" {
		t.Errorf("the stream of %s ended", who)
	}

	b := newBrowser(t)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Authorization", "Bearer own")
		s.Config.Handler.ServeHTTP(w, r)
	}))
	defer front.Close()
	if dom := b.shows(front.URL+page, ">running<", "so far: &lt;script&gt;alert(1)"); strings.Contains(dom, "lost") {
		t.Errorf("the text of an attempt that was given up is shown:\n%s", dom)
	}
}
