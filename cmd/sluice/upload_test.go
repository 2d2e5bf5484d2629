package main

import (
	"bytes"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// sent sends the console's form with a file, and returns the answer with its page.
func (r *stage) sent(token, name, content string, fields ...string) (*http.Response, string) {
	r.t.Helper()
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = form.WriteField(fields[i], fields[i+1])
	}
	file, err := form.CreateFormFile("file", name)
	if err == nil {
		_, err = io.WriteString(file, content)
	}
	if err == nil {
		err = form.Close()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.url+"/batches/new", &b)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", form.FormDataContentType())
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res, string(page)
}

const csvOfTwo = "custom_id,text,more\nx,\"two\nlines\",1\n,b,2\n"

// A file of any form that sluice run takes is a batch, as the API would have made it; what
// is refused says so by line and leaves nothing behind.
func TestAFileBecomesABatch(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	cfg := configured(t, server.URL(), claude("http://127.0.0.1:1")+"tenants:\n  small: {queued_jobs: 2}\n")
	r := fronted(t, cfg)
	const line = `{"custom_id":"%","model":"claude-x","prompt":"hi"}` + "\n"
	table := []string{"model", "claude-x", "template", "Say {text}."}
	for name, c := range map[string]struct {
		file, content string
		fields        []string
		ids           string // of the jobs
	}{
		"JSON lines":      {"a.jsonl", strings.ReplaceAll(line, "%", "p") + "\n" + strings.ReplaceAll(line, "%", "q"), nil, "p q"},
		"without a model": {"a.jsonl", `{"prompt":"hi"}` + "\n\n" + `{"prompt":"ho"}`, []string{"model", "claude-x"}, "1 3"},
		"OpenAI's lines":  {"a.jsonl", `{"custom_id":"o","method":"POST","url":"/v1/chat/completions","body":{"model":"claude-x","messages":[{"role":"user","content":"hi"}]}}`, nil, "o"},
		"a JSON list":     {"a.json", `[{"model":"claude-x","prompt":"hi"},{"model":"claude-x","prompt":"ho"}]`, nil, "1 2"},
		"CSV":             {"a.csv", "\ufeff" + csvOfTwo, table, "4 x"},
		"semicolons":      {"a.csv", "text;n\na;1\nb;2\n", table, "2 3"},
		"TSV, packed":     {"a.tsv.gz", gzipped("text\tn\na\t1\n"), table, "2"},
		"plain text":      {"a.txt", "one\n\ntwo\n", []string{"model", "claude-x", "max_tokens", "7"}, "1 3"},
		"so chosen":       {"a.md", "one\n", []string{"model", "claude-x", "lines", "text"}, "1"},
		"a line of 1 MiB": {"a.txt", strings.Repeat("word ", 1<<18) + "\n", []string{"model", "claude-x"}, "1"},
	} {
		res, page := r.sent(r.token, c.file, c.content, c.fields...)
		id, made := strings.CutPrefix(res.Header.Get("Location"), "/batches/")
		if res.StatusCode != http.StatusSeeOther || !made {
			t.Errorf("%s: %s %s", name, res.Status, page)
			continue
		}
		if got := r.customIDs(id); got != c.ids {
			t.Errorf("%s: its jobs are %q; want %q", name, got, c.ids)
		}
	}
	before := r.batches()
	narrowed, err := auth.Mint(auth.MintConfig{
		Secret: stageSecret, Issuer: "sluice", Audience: "sluice", Subject: "nell", Tenant: "acme", TTL: time.Hour,
		Scopes: []string{auth.ScopeJobsRead, auth.ScopeJobsWrite}, Models: []string{"claude-y*"},
	})
	if err != nil {
		t.Fatal(err)
	}
	text := []string{"model", "claude-x"}
	for name, c := range map[string]struct {
		token, file, content string
		fields               []string
		status               int
		wants                []string
	}{
		"faulty lines":     {r.token, "a.jsonl", strings.ReplaceAll(line, "%", "p") + "{\n" + `{"model":"claude-x"}` + "\n" + `{"model":"claude-x","prompt":"hi","x":"\u003cscript>"}` + "\n", nil, 400, []string{`row">2</th>`, `row">3</th>`, `row">4</th>`}},
		"faulty rows":      {r.token, "a.csv", "text,n\na,1\nb\n,2\nc,3,4\n", table, 400, []string{`row">3</th>`, "has 1 fields", `row">5</th>`}},
		"a name twice":     {r.token, "a.csv", "custom_id,text\nx,a\nx,b\n", table, 400, []string{`row">3</th>`, "that of line 2"}},
		"too many faults":  {r.token, "a.jsonl", strings.Repeat("{}\n", 30), nil, 400, []string{`row">20</th>`, "more behind"}},
		"nobody's model":   {r.token, "a.txt", "hi\n", []string{"model", "gpt-9"}, 400, []string{`row">1</th>`, "gpt-9"}},
		"no model":         {r.token, "a.txt", "hi\n", nil, 400, []string{"Name the model"}},
		"no column":        {r.token, "a.csv", csvOfTwo, []string{"model", "claude-x", "template", "{nothing}"}, 400, []string{"The template: there is no column"}},
		"no template":      {r.token, "a.csv", csvOfTwo, text, 400, []string{"column&#39;s name in braces"}},
		"no table":         {r.token, "a.txt", "hi\n", table, 400, []string{"is for tables"}},
		"UTF-16":           {r.token, "a.txt", "\xff\xfeh\x00i\x00", text, 400, []string{"UTF-16", "iconv"}},
		"Latin-1":          {r.token, "a.txt", "hi\nf\xfcr\n", text, 400, []string{`row">2</th>`, "UTF-8"}},
		"a spreadsheet":    {r.token, "a.xlsx", "PK\x03\x04 xl/workbook", text, 400, []string{"spreadsheet"}},
		"nothing":          {r.token, "a.jsonl", " \n", nil, 400, []string{"holds no prompts"}},
		"no gzip":          {r.token, "a.jsonl.gz", "{}", nil, 400, []string{"not gzip"}},
		"gzip that is cut": {r.token, "a.jsonl.gz", gzipped(strings.Repeat(line, 9))[:40], nil, 400, []string{"ends too early"}},
		"an endless field": {r.token, "a.csv", "text\n\"" + strings.Repeat("x", 5<<20), table, 413, []string{"4194304 bytes"}},
		"an endless line":  {r.token, "a.txt", strings.Repeat("x", 5<<20), text, 413, []string{"4194304 bytes"}},
		"above the quota":  {r.mint("small"), "a.txt", "a\nb\nc\n", text, 422, []string{"queued_jobs"}},
		"a narrowed token": {narrowed, "a.txt", "a\n", text, 403, []string{"claude-x"}},
	} {
		res, page := r.sent(c.token, c.file, c.content, c.fields...)
		if res.StatusCode != c.status || !has(page, append(c.wants, `role="alert"`, "<form")...) || strings.Contains(page, "<script>") {
			t.Errorf("%s: %s; want %d with %q in\n%s", name, res.Status, c.status, c.wants, page)
		}
	}
	if now := r.batches(); now != before {
		t.Errorf("%d batches after refusals; want %d", now, before)
	}

	// One form is one batch, however often it is sent; with another file it is refused.
	first, _ := r.sent(r.token, "a.txt", "one\n", "key", "form1", "model", "claude-x")
	again, _ := r.sent(r.token, "a.txt", "one\n", "key", "form1", "model", "claude-x")
	other, page := r.sent(r.token, "a.txt", "two\n", "key", "form1", "model", "claude-x")
	if first.StatusCode != http.StatusSeeOther || first.Header.Get("Location") != again.Header.Get("Location") || other.StatusCode != http.StatusConflict || !has(page, "sent before") {
		t.Errorf("the same form twice, and with another file: %s %s, %s %s, %s", first.Status, first.Header.Get("Location"), again.Status, again.Header.Get("Location"), other.Status)
	}
}

// customIDs are those of a batch's jobs.
func (r *stage) customIDs(batch string) string {
	r.t.Helper()
	ids := map[string]bool{}
	r.until("the batch is unfolded", func() bool {
		var b struct{ Counts struct{ Total int } }
		var page struct {
			Data []struct {
				CustomID string `json:"custom_id"`
			}
		}
		r.call("GET", "/v1/batches/"+batch, "", &b)
		r.call("GET", "/v1/jobs?batch="+url.QueryEscape(batch), "", &page)
		for _, j := range page.Data {
			ids[j.CustomID] = true
		}
		return b.Counts.Total > 0 && len(page.Data) == b.Counts.Total
	})
	return strings.Join(slices.Sorted(maps.Keys(ids)), " ")
}

// batches is how many there are.
func (r *stage) batches() int {
	r.t.Helper()
	n := 0
	for _, token := range []string{r.token, r.mint("small")} {
		as := *r
		as.token = token
		var page struct{ Data []struct{ ID string } }
		as.call("GET", "/v1/batches?limit=100", "", &page)
		n += len(page.Data)
	}
	return n
}
