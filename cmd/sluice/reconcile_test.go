package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeAttempt is a call as the API shows it.
func fakeAttempt(id, outcome string, maybe bool, usage, cost string) string {
	return fmt.Sprintf(`{"request_id":%q,"outcome":%q,"ended_at":"2026-11-01T00:00:00Z","maybe_billed":%t,"usage":%s,"cost":%s}`, id, outcome, maybe, usage, cost)
}

func TestAReportIsReconciledRequestByRequest(t *testing.T) {
	t.Parallel()
	const usage, cost = `{"input_tokens":10,"cache_read_input_tokens":5,"cache_creation_input_tokens":0,"output_tokens":4}`, `{"amount":0.001,"currency":"USD","maybe":0}`
	const doubt = `{"amount":0,"currency":"USD","maybe":0.02}`
	pages := [][]string{
		{
			`{"id":"job_1","upstream":{"attempts":[` + fakeAttempt("r1", "succeeded", false, usage, cost) + `]}}`,
			`{"id":"job_2","upstream":{"attempts":[` + fakeAttempt("r2", "rate_limited", false, "null", `{"amount":0,"maybe":0}`) + "," + fakeAttempt("r3", "succeeded", false, usage, cost) + `]}}`,
		},
		{
			`{"id":"job_3","upstream":{"attempts":[` + fakeAttempt("", "worker_lost", true, "null", doubt) + "," + fakeAttempt("r4", "network_error", true, "null", doubt) + `]}}`,
			`{"id":"job_4","upstream":{"attempts":[` + fakeAttempt("r5", "succeeded", false, usage, "null") + "," + fakeAttempt("r1", "shared", false, usage, cost) + `]}}`,
			`{"id":"job_5","upstream":null}`,
		},
	}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, more := pages[0], `true,"next":"job_2"`
		if r.URL.Query().Get("after") != "" {
			page, more = pages[1], "false"
		}
		_, _ = fmt.Fprintf(w, `{"data":[%s],"has_more":%s}`, strings.Join(page, ","), more)
	}))
	defer api.Close()
	const head = "Request ID,input_tokens,cache_read_input_tokens,output_tokens,cost\n"
	const same = "r1,10,5,4,0.001\nr3,10,5,4,0.0010000004\nr4,10,0,4,0.01\nr5,10,5,4,0.5\n"
	for name, tc := range map[string]struct {
		report string
		code   int
		want   []string // in what is printed
	}{
		"the same":     {head + same, 0, []string{"the same: 3; only ours: 0; only theirs: 0; other tokens: 0; other cost: 0", "charged by the report: 1, not in it: 0, with no request id: 1, at most 0.02 USD"}},
		"a mark":       {"\ufeff" + head + same, 0, []string{"the same: 3"}},
		"JSON lines":   {`{"id":"r1","usage":{"prompt_tokens":15,"completion_tokens":4}}` + "\n" + `{"id":"r3","cost":"0.001"}` + "\n" + `{"request_id":"r5","id":"x","prompt_tokens":null}` + "\n", 0, []string{"the same: 3", "not in it: 1"}},
		"explained":    {head + same + "r9,1,1,1,0.02\n", 0, []string{"only_theirs", "r9", "may be those with no request id"}},
		"dearer":       {head + same + "r9,1,1,1,0.03\n", 1, []string{"only theirs: 1"}},
		"two of them":  {head + same + "r8,1,1,1,0.01\nr9,1,1,1,0.01\n", 1, []string{"only theirs: 2"}},
		"only ours":    {head + strings.Replace(same, "r3,10,5,4,0.0010000004\n", "", 1), 1, []string{"only_ours  r3"}},
		"other tokens": {head + strings.Replace(same, "r3,10,5,4", "r3,10,5,5", 1), 1, []string{"tokens  r3", "15 + 4", "15 + 5"}},
		"other cost":   {head + strings.Replace(same, "r1,10,5,4,0.001", "r1,10,5,4,0.002", 1), 1, []string{"cost  r1", "0.001", "0.002"}},
		"in two rows":  {head + strings.Replace(same, "r1,10,5,4,0.001", "r1,10,0,0,0.0005\nr1,0,5,4,0.0005", 1), 0, []string{"the same: 3", "theirs: 4 requests"}},
		"input alone":  {"request_id,input_tokens\nr1,10\nr3,15\nr4,10\nr5,10\n", 0, []string{"the same: 3"}},
		"other input":  {"request_id,input_tokens\nr1,10\nr3,14\nr4,10\nr5,10\n", 1, []string{"tokens  r3"}},
		"whole prompt": {"request_id,prompt_tokens\nr1,10\nr3,15\nr4,10\nr5,15\n", 1, []string{"tokens  r1", "other tokens: 1"}},
		"output alone": {"request_id,output_tokens\nr1,4\nr3,4\nr4,1\nr5,5\n", 1, []string{"tokens  r5", "other tokens: 1"}},
		"escapes":      {`{"id":"\u00721"}` + "\n" + `{"id":"r3"}` + "\n" + `{"id":"r5"}` + "\n", 0, []string{"the same: 3"}},
		"dollars":      {"request_id,amount,currency\nr1,1e-3,usd\nr3,$.001,USD\nr5,1.,\n", 0, []string{"the same: 3"}},
		"other money":  {"request_id,amount,currency\nr1,0.001,EUR\n", 2, []string{`line 2: currency is "EUR"`}},
		"too much":     {head + "r1,10,5,4,1e999999999\n", 2, []string{`line 2: cost is "1e999999999"`}},
		"by day":       {"date,input_tokens\n2026-11-01,5\n", 2, []string{"no column of request ids"}},
		"no amount":    {head + "r1,10,5,4,many\n", 2, []string{`line 2: cost is "many"`}},
		"no number":    {head + "r1,-1,5,4,0\n", 2, []string{"line 2: input_tokens"}},
		"no id":        {head + ",10,5,4,0\n", 2, []string{"line 2 has no request id"}},
		"a list":       {"[]", 2, []string{"give JSON lines"}},
		"empty":        {"", 2, []string{"it is empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			code := program(t.Context(), []string{"reconcile", "-", "--url", api.URL}, []string{"SLUICE_TOKEN=x", "HOME=/"}, strings.NewReader(tc.report), &out, &out)
			for _, want := range tc.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("it does not say %q", want)
				}
			}
			if code != tc.code || t.Failed() {
				t.Errorf("exit %d, want %d:\n%s", code, tc.code, &out)
			}
		})
	}
}

// Calls that have no request id, of which nobody counted tokens, or that have no price, are told no more surely than they are known.
func TestWhatIsNotSureOfACallIsNotReconciledAsIfItWere(t *testing.T) {
	t.Parallel()
	const usage = `{"input_tokens":10,"output_tokens":4}`
	for name, tc := range map[string]struct {
		attempt, report string
		code            int
		want            string
	}{
		"nobody counted it":    {fakeAttempt("r1", "succeeded", false, "null", `{"amount":0,"maybe":0.02}`), `{"id":"r1","input_tokens":9,"cost":0.01}`, 0, "charged by the report: 1"},
		"nobody saw its price": {fakeAttempt("", "worker_lost", true, "null", "null"), `{"id":"r9","cost":0.01}`, 0, "of which nobody knows the price"},
		"it was charged":       {fakeAttempt("", "succeeded", false, usage, `{"amount":0.01,"maybe":0}`), `{"id":"r9","cost":0.01}`, 0, "charged, with no request id: 1, 0.01 USD"},
		"it was cheaper":       {fakeAttempt("", "succeeded", false, usage, `{"amount":0.01,"maybe":0}`), `{"id":"r9","cost":0.02}`, 1, "only theirs: 1"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "jobs.jsonl")
			if err := os.WriteFile(file, []byte(`{"id":"job_1","upstream":{"attempts":[`+tc.attempt+"]}}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			code := program(t.Context(), []string{"reconcile", "-", "--jobs", file}, []string{"HOME=/"}, strings.NewReader(tc.report), &out, &out)
			if code != tc.code || !strings.Contains(out.String(), tc.want) {
				t.Errorf("exit %d, want %d and %q:\n%s", code, tc.code, tc.want, &out)
			}
		})
	}
}

// A report longer than any memory is compared file by file, also with jobs from files.
func TestALongReportIsReconciled(t *testing.T) {
	t.Parallel()
	const n = 2000
	var jobs, report bytes.Buffer
	for i := range n {
		fmt.Fprintf(&jobs, `{"id":"job_%d","upstream":{"attempts":[%s]}}`+"\n", i, fakeAttempt(fmt.Sprintf("r%d", i), "succeeded", false, `{"input_tokens":1,"output_tokens":2}`, `{"amount":0.5,"maybe":0}`))
		fmt.Fprintf(&report, `{"request_id":"r%d","input_tokens":1,"output_tokens":2,"cost":0.5}`+"\n", n-i)
	}
	file := filepath.Join(t.TempDir(), "jobs.jsonl")
	if err := os.WriteFile(file, jobs.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code := program(t.Context(), []string{"reconcile", "-", "--jobs", file, "--json"}, []string{"HOME=/"}, &report, &out, io.Discard)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if code != 1 || len(lines) != 3 || !strings.Contains(out.String(), `{"what":"only_ours","request_id":"r0","job":"job_0","ours":{"input_tokens":1,"output_tokens":2,"cost":0.5},"theirs":null}`) ||
		!strings.Contains(out.String(), `"request_id":"r2000"`) || !strings.Contains(lines[2], `"same":1999`) || !strings.Contains(lines[2], `"ours":{"requests":2000,"input_tokens":2000,"output_tokens":4000,"cost":1000}`) {
		t.Errorf("exit %d: %s", code, &out)
	}
}
