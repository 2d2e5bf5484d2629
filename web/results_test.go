package web

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// What of a batch has ended is a file for who may read it, and what failed of it may be run again.
func TestABatchsResultsAreDownloaded(t *testing.T) {
	t.Parallel()
	s := newJobsSite(t, today)
	id, other := s.batch("acme", 3), s.batch("globex", 1)
	jar := s.signIn("own")
	if p := s.do(jar, "GET", "/batches/"+id, nil); strings.Contains(p.body, `id="download"`) || strings.Contains(p.body, `id="retry-failed"`) {
		t.Errorf("nothing has ended, and is offered:\n%s", p.body)
	}
	if a := s.do(jar, "GET", "/batches/"+id+"/results", nil); a.StatusCode != 200 || a.body != "" || !strings.Contains(a.Header.Get("Content-Disposition"), id+"-so-far.jsonl") {
		t.Errorf("before anything has ended: %d %q, %q", a.StatusCode, a.body, a.Header.Get("Content-Disposition"))
	}
	for _, batch := range []string{id, other} {
		s.want(s.as("change", "POST", "/batches/"+batch+"/cancel"), 303)
	}
	s.mu.Lock()
	s.noted = nil
	s.mu.Unlock()
	s.want(s.do(jar, "GET", "/batches/"+id, nil), 200, `href="/batches/`+id+`/results"`, "Download the results<", `href="/jobs/retry?batch=`+id+`&amp;tenant=acme"`)
	a := s.do(jar, "GET", "/batches/"+id+"/results", nil)
	if n := strings.Count(a.body, " canceled\n"); n != 3 || a.Header.Get("Content-Type") != "application/x-ndjson" || a.Header.Get("Content-Disposition") != `attachment; filename="`+id+`.jsonl"` {
		t.Errorf("%d lines as %q, %q, want 3", n, a.Header.Get("Content-Type"), a.Header.Get("Content-Disposition"))
	}
	s.want(s.do(jar, "GET", "/batches/"+other+"/results", nil), 404)
	s.want(s.as("look", "GET", "/batches/"+other+"/results"), 403, "the scope content")
	if p := s.as("look", "GET", "/batches/"+other); strings.Contains(p.body, `id="download"`) || strings.Contains(p.body, `id="retry-failed"`) {
		t.Errorf("monitor is offered what it may not:\n%s", p.body)
	}
	if s.audit() != "" {
		t.Errorf("noted %q before anybody looked at another's", s.audit())
	}
	s.want(s.as("reads-all", "GET", "/batches/"+other+"/results"), 200, " canceled\n")
	if s.audit() != "olga look "+other {
		t.Errorf("noted %q", s.audit())
	}
	asked := s.do(jar, "GET", "/jobs/retry?batch="+id, nil)
	s.want(asked, 200, "Run again 3 jobs?", "<dd>"+id+"</dd>")
}

// lame tells a part of a batch, and then fails.
type lame struct{ shelf }

func (lame) BatchLines(_ context.Context, _, _ string, from int) ([]byte, int, error) {
	if from == 0 {
		return []byte("one\n"), 1, nil
	}
	return nil, 0, tasks.ErrUnavailable
}

// A file that cannot be sent to its end is broken off: nobody takes it for whole.
func TestResultsThatCannotBeReadToTheirEndAreBrokenOff(t *testing.T) {
	t.Parallel()
	s := newJobsSite(t, func(c *Config) { c.Batches = lame{c.Batches.(shelf)} })
	id := s.batch("acme", 2)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/batches/"+id+"/results", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer own")
	resp, err := s.Client().Do(req)
	if err == nil {
		defer resp.Body.Close()
		var body []byte
		body, err = io.ReadAll(resp.Body)
		t.Logf("%d %q", resp.StatusCode, body)
	}
	if err == nil {
		t.Error("half a file looks whole")
	}
	if !strings.Contains(s.log.String(), "broken off") {
		t.Errorf("logged %s", s.log)
	}
}
