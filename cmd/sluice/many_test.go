package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// canned is an API that gives the next of its answers to each call, and writes down what it
// was asked.
type canned struct {
	mu      sync.Mutex
	answers []string
	asked   []string
}

func (c *canned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	c.asked = append(c.asked, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
	if len(c.answers) == 0 {
		http.Error(w, `{"code":"not_found","detail":"No more."}`, 404)
		return
	}
	answer := c.answers[0]
	c.answers = c.answers[1:]
	if problem, ok := strings.CutPrefix(answer, "409 "); ok {
		w.WriteHeader(409)
		answer = problem
	}
	_, _ = io.WriteString(w, answer)
}

// The commands about many jobs ask what their flags say, print nothing that a terminal
// obeys, go on while there is more, and say what was not done.
func TestCommandsAboutManyJobs(t *testing.T) {
	t.Parallel()
	const (
		one  = `{"id":"job_1","status":"failed","model":"m\u001b[2Jx","pool":"p","created_at":"2026-01-01T00:00:00Z","error":{"code":"up\tstream","message":"x"},"waiting":null}`
		two  = `{"id":"job_2","status":"queued","model":"m","pool":"p","created_at":"2026-01-01T00:00:00Z","error":null,"waiting":{"for":"paused"}}`
		half = `{"id":"batch_1","status":"in_progress","created_at":"x","counts":{"total":3,"queued":2,"running":0,"succeeded":1,"failed":0,"canceled":0,"expired":0}}`
		done = `{"id":"batch_1","status":"ended","created_at":"x","counts":{"total":3,"queued":0,"running":0,"succeeded":2,"failed":1,"canceled":0,"expired":0}}`
		dlv  = `{"id":"dlv_1","status":"exhausted","type":"job.failed","about":"job_1","endpoint":null,"reason":"timeout\u009b1m","attempts":10,"created_at":"x"}`
	)
	page := func(rows, next string) string {
		return fmt.Sprintf(`{"data":[%s],"has_more":%t,"next":"%s"}`, rows, next != "", next)
	}
	file := filepath.Join(t.TempDir(), "lines")
	if err := os.WriteFile(file, []byte("{\"model\":\"m\",\"prompt\":\"x\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		args, answers string // with | between them
		asked         string // a pattern; calls are joined by &
		code          int
		out, err      string // patterns
	}{
		{"jobs --status failed --model m --metadata run=1 --since 2026-01-01T00:00:00Z", page(one, ""),
			`GET /v1/jobs\?limit=20&metadata.run=1&model=m&since=2026-01-01T00%3A00%3A00Z&status=failed`, 0, `^ID +STATUS .*\njob_1 +failed +m␛\[2Jx +p +2026-01-01T00:00:00Z +- +up stream\n$`, `^$`},
		{"jobs --limit 0", page(one, "job_1") + "|" + page(two, ""), `^GET /v1/jobs\?limit=100 & GET /v1/jobs\?after=job_1&limit=100$`, 0, `job_1(.|\n)*job_2 .* paused +-\n$`, `^$`},
		{"jobs --limit 1", page(one, "job_1"), `GET /v1/jobs\?limit=1`, 0, `job_1`, `there are more: --limit 10`},
		{"jobs --json", page(one+","+two, ""), ``, 0, `^{"id":"job_1".*}\n{"id":"job_2".*}\n$`, `^$`},
		{"jobs --since soon", "", `^$`, 2, `^$`, `--since: "soon" is neither`},
		{"retry", "", `^$`, 2, `^$`, `give the ids of jobs`},
		{"cancel", "", `^$`, 2, `^$`, `give the ids of jobs`},
		{"retry job_1 --status failed", "", `^$`, 2, `^$`, `exclude one another`},
		{"retry job_1", one, `POST /v1/jobs/job_1/retry`, 0, `^{"id":"job_1"`, `^$`},
		{"cancel job_1", "409 " + `{"code":"already_final","detail":"It has ended."}`, `POST /v1/jobs/job_1/cancel`, 1, `^$`, `409 already_final`},
		{"retry --status failed --batch batch_1", `{"retried":10000,"has_more":true}|{"retried":5,"has_more":false,"too_large":2}`,
			`POST /v1/jobs/retry {"batch":"batch_1","status":"failed"} & POST /v1/jobs/retry {"batch":"batch_1","status":"failed"}`, 0, `^10005 jobs were queued again\n$`, `^2 jobs are larger`},
		{"retry --since 2026-01-01T00:00:00Z", `{"retried":7,"has_more":true,"stopped":{"code":"quota_exceeded","quota":"q","detail":"The quota is used up.","retry_after":10}}`,
			`POST /v1/jobs/retry {"since":"2026-01-01T00:00:00Z"}`, 1, `^7 jobs were queued again\n$`, `The quota is used up. Go on in 10 s`},
		{"cancel job_1 job_2 job_3", `{"canceled":2,"has_more":false}`, `POST /v1/jobs/cancel {"ids":\["job_1","job_2","job_3"\]}`, 1, `^2 jobs were canceled\n$`, `2 of 3 were canceled; the others`},
		{"cancel --status queued --json", `{"canceled":2,"has_more":false}`, ``, 0, `^{"canceled":2,"has_more":false}\n$`, `^$`},
		{"batch submit " + file, half, `POST /v1/batches {"model":"m","prompt":"x"}`, 0, `^{"id":"batch_1"`, `^$`},
		{"batch list --status ended", page(done, ""), `GET /v1/batches\?limit=20&status=ended`, 0, `\nbatch_1 +ended +x +3 +0 +0 +2 +1 +0 +0\n$`, `^$`},
		{"batch get batch_1", half, `GET /v1/batches/batch_1`, 0, `^{"id":"batch_1"`, `^$`},
		{"batch watch batch_1", half + "|" + half + "|" + done, `GET /v1/batches/batch_1\?wait=25 & GET`, 1, `^{"id":"batch_1","status":"ended"`, `^batch_1: 1 of 3 have ended, 1 succeeded\nbatch_1: 3 of 3 have ended, 2 succeeded\nsluice: 1 of 3 jobs did not succeed`},
		{"batch results batch_1", "{\"line\":1}\n{\"line\":2}\n", `GET /v1/batches/batch_1/results`, 0, `^{"line":1}\n{"line":2}\n$`, `^$`},
		{"batch results batch_1 -o " + file, "x", ``, 2, `^$`, `exists`},
		{"batch retry batch_1", `{"retried":1,"has_more":false}`, `POST /v1/batches/batch_1/retry`, 0, `^1 jobs were queued again\n$`, `^$`},
		{"batch cancel batch_1", done, `POST /v1/batches/batch_1/cancel`, 0, `^{"id":"batch_1"`, `^$`},
		{"deliveries --status exhausted", page(dlv, ""), `GET /v1/deliveries\?limit=20&status=exhausted`, 0, `\ndlv_1 +exhausted +job.failed +job_1 +- +10 +x +timeout\x{fffd}1m\n$`, `^$`},
		{"deliveries list --endpoint whe_1 --json", page(dlv, ""), `GET /v1/webhook-endpoints/whe_1/deliveries\?limit=20`, 0, `^{"id":"dlv_1".*}\n$`, `^$`},
		{"deliveries redeliver dlv_1 dlv_2", dlv, `POST /v1/deliveries/dlv_1/redeliver`, 1, `^{"id":"dlv_1"`, `dlv_2: 404`},
		{"tokens revoke tok_1 --reason lost --json", `{}`, `DELETE /v1/tokens/tok_1\?reason=lost`, 0, `^{"id":"tok_1","revoked":true}\n$`, `^$`},
		{"tokens revoke tok_1", `{}`, `DELETE /v1/tokens/tok_1$`, 0, `^$`, `^tok_1 is revoked\n$`},
		{"get job_1 --text --json", "", `^$`, 2, `^$`, `--text and --json can't be used together`},
		{"pools pause p --until 2026-01-01T00:00:00Z --reason why", `{"name":"p"}`, `POST /v1/pools/p/pause {"reason":"why","until":"2026-01-01T00:00:00Z"}`, 0, `^{"name":"p"}`, `^$`},
		{"pools pause p --until soon", "", `^$`, 2, `^$`, `--until: "soon" is neither`},
	} {
		t.Run(row.args, func(t *testing.T) {
			t.Parallel()
			api := &canned{}
			if row.answers != "" {
				api.answers = strings.Split(row.answers, "|")
			}
			server := httptest.NewServer(api)
			defer server.Close()
			var out, errs bytes.Buffer
			code := typeIn(t.Context(), strings.Fields(row.args), []string{"SLUICE_URL=" + server.URL, "SLUICE_TOKEN=t"}, strings.NewReader(""), &out, &errs)
			for what, m := range map[string][2]string{"asked": {strings.Join(api.asked, " & "), row.asked}, "stdout": {out.String(), row.out}, "stderr": {errs.String(), row.err}} {
				if !regexp.MustCompile(m[1]).MatchString(m[0]) {
					t.Errorf("%s is\n%s\nwant %s", what, m[0], m[1])
				}
			}
			if code != row.code {
				t.Errorf("exit %d, want %d", code, row.code)
			}
		})
	}
}
