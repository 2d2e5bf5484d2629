package web

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// multiform is a multipart body by hand; a part is a field, or a file where its name has one.
func multiform(parts ...string) string {
	var b strings.Builder
	for i := 0; i < len(parts); i += 2 {
		fmt.Fprintf(&b, "--X\r\nContent-Disposition: form-data; name=%s\r\n\r\n%s\r\n", parts[i], parts[i+1])
	}
	return b.String() + "--X--\r\n"
}

// post sends a body of any kind.
func (s *site) post(jar http.CookieJar, body io.Reader, kind string, fields ...string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), "POST", s.URL+"/batches/new", body)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	client := http.Client{Transport: s.Client().Transport, Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{resp, string(text)}
}

// What is no form with a file is refused with a page that has the form again, and who may
// not submit, or is signed out while the file comes, hands in nothing.
func TestTheFormOfAFile(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []NewBatch
	during := func() {}
	s := newJobsSite(t, func(c *Config) {
		c.mostUpload = 4 << 20
		c.Upload = func(_ context.Context, who Actor, n NewBatch) (string, error) {
			during()
			b, err := io.ReadAll(n.File)
			if err != nil {
				return "", err
			}
			mu.Lock()
			defer mu.Unlock()
			n.File = nil
			n.Name += " of " + who.Tenant + ": " + string(b)
			got = append(got, n)
			return "batch_1", nil
		}
	})
	const kind = "multipart/form-data; boundary=X"
	file := `"file"; filename="a.txt"`
	own := s.signIn("own")
	a := s.post(own, strings.NewReader(multiform(`"key"`, "k1", `"model"`, " m1 ", `"template"`, "a\r\nb", `"max_tokens"`, "7", `"lines"`, "text", file, "hi\n")), kind)
	if a.StatusCode != 303 || a.Header.Get("Location") != "/batches/batch_1" || len(got) != 1 ||
		fmt.Sprint(got[0]) != fmt.Sprint(NewBatch{Key: "console-k1", Name: "a.txt of acme: hi\n", Text: true, Model: "m1", Template: "a\nb", MaxTokens: 7}) {
		t.Errorf("%d to %q: %+v", a.StatusCode, a.Header.Get("Location"), got)
	}
	got = nil
	for name, c := range map[string]struct {
		body, kind string
		status     int
		wants      string
	}{
		"another form":      {"model=m1", "application/x-www-form-urlencoded", 415, "not the form"},
		"no boundary":       {multiform(file, "hi"), "multipart/form-data", 415, "not the form"},
		"no file":           {multiform(`"model"`, "m1"), kind, 400, "no file"},
		"no file chosen":    {multiform(`"file"; filename=""`, ""), kind, 400, "no file"},
		"a file too early":  {multiform(`"model"`, hostile, `"max_tokens"`, "x", file, "hi"), kind, 400, "whole number"},
		"a long field":      {multiform(`"template"`, strings.Repeat("x", 65<<10), file, "hi"), kind, 400, "longer than 64 KiB"},
		"no text":           {multiform(`"model"`, "\xff", file, "hi"), kind, 400, "UTF-8"},
		"a key of nobody's": {multiform(`"key"`, strings.Repeat("k", 100), file, "hi"), kind, 400, "key is none"},
		"a form that ends":  {"--X\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm", kind, 400, "to its end"},
	} {
		a := s.post(own, strings.NewReader(c.body), c.kind)
		if s.want(a, c.status, c.wants, "<form", `role="alert"`); strings.Contains(a.body, "<script>") {
			t.Errorf("%s: a script in\n%s", name, a.body)
		}
	}
	good := multiform(file, strings.Repeat("x", 1<<20))
	s.want(s.post(s.signIn("look"), strings.NewReader(good), kind), 403, "jobs:write")
	s.want(s.post(own, strings.NewReader(good), kind, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"), 403)
	s.want(s.post(own, io.MultiReader(strings.NewReader("--X\r\nContent-Disposition: form-data; name="+file+"\r\n\r\n"), io.LimitReader(zeros{}, 8<<20)), kind), 413, "up to 256 MiB")
	during = func() { s.do(own, "POST", "/logout", nil) }
	s.want(s.post(own, strings.NewReader(good), kind), 401, "signed out while")
	if len(got) > 0 {
		t.Errorf("handed in: %+v", got)
	}
	s.want(s.as("own", "GET", "/batches"), 200, "/batches/new")
	if a := s.as("look", "GET", "/batches?tenant=acme"); strings.Contains(a.body, "/batches/new") {
		t.Error("who may not submit is led to the form")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
