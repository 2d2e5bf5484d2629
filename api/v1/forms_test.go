package v1_test

import (
	"strings"
	"testing"

	"github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/tasks"
)

// TestLinesThatPeopleHave was: a file that OpenAI's or Anthropic's batch API takes
// was refused with "the member is unknown", as was any provider's body.
func TestLinesThatPeopleHave(t *testing.T) {
	const chat = `[{"role":"user","content":"hi"}]`
	for _, c := range []struct{ line, kind, body, id, fault string }{
		{`{"custom_id":"a","model":"m","prompt":"hi"}`, "prompt", `"hi"`, "a", ""},
		{`{"model":"m","messages":` + chat + `,"max_tokens":9}`, "messages", `{"messages":` + chat + `}`, "1", ""},
		{`{"model":"m","messages":` + chat + `,"metadata":{"k":"v"},"priority":"low"}`, "messages", `{"messages":` + chat + `}`, "1", ""},
		{`{"model":"m","request":{"messages":` + chat + `,"n":2}}`, "request", `{"messages":` + chat + `,"n":2}`, "1", ""},
		// OpenAI's batch line
		{`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":` + chat + `,"temperature":0.10}}`, "request", `{"model":"m","messages":` + chat + `,"temperature":0.10}`, "a", ""},
		{`{"custom_id":"a","body":{"model":"m","messages":` + chat + `}}`, "request", `{"model":"m","messages":` + chat + `}`, "a", ""},
		{`{"custom_id":null,"method":null,"url":null,"body":{"model":"m"}}`, "request", `{"model":"m"}`, "1", ""},
		{`{"custom_id":"a","method":"post","url":"https://x/v1/chat/completions/","body":{"model":"m"}}`, "request", `{"model":"m"}`, "a", ""},
		{`{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":"hi"}}`, "", "", "", `The member "url" names another endpoint than "/v1/chat/completions", the only one that is asked.`},
		{`{"custom_id":"a","method":"GET","url":"/v1/chat/completions","body":{"model":"m"}}`, "", "", "", `The member "method" must be "POST".`},
		{`{"custom_id":"a","method":"POST","url":"/v1/chat/completions"}`, "", "", "", `The member "body" is missing.`},
		{`{"custom_id":"a","body":{"model":"m"},"prompt":"hi"}`, "", "", "", `The member "prompt" does not belong to a batch line of OpenAI`},
		{`{"custom_id":"a","body":"x"}`, "", "", "", `The member "body" must be an object.`},
		// Anthropic's
		{`{"custom_id":"a","params":{"model":"m","max_tokens":5,"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],"messages":` + chat + `}}`, "request",
			`{"model":"m","max_tokens":5,"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],"messages":` + chat + `}`, "a", ""},
		{`{"custom_id":"a","params":{"model":"m"},"model":"m"}`, "", "", "", `The member "model" does not belong to a batch line of Anthropic`},
		// a provider's body
		{`{"model":"m","messages":` + chat + `,"temperature":0}`, "request", `{"model":"m","messages":` + chat + `,"temperature":0}`, "1", ""},
		{`{"model":"m","messages":` + chat + `,"temperature":0,"metadata":{"row":1},"max_tokens":-1}`, "request", `{"model":"m","messages":` + chat + `,"temperature":0,"metadata":{"row":1},"max_tokens":-1}`, "1", ""},
		{`{"custom_id":"a", "model":"m", "messages":` + chat + `, "stop":["}"], "seed":123456789012345678901234567890}`, "request", `{"model":"m","messages":` + chat + `,"stop":["}"],"seed":123456789012345678901234567890}`, "a", ""},
		{`{"model":"m","max_completion_tokens":5,"messages":` + chat + `}`, "request", `{"model":"m","max_completion_tokens":5,"messages":` + chat + `}`, "1", ""},
		{`{"model":"m","messages":` + chat + `,"tools":[],"system":"s"}`, "request", `{"model":"m","messages":` + chat + `,"tools":[],"system":"s"}`, "1", ""},
		{`{"model":"m","messages":` + chat + `,"temperature":0,"priority":"low"}`, "", "", "", `The member "temperature" is unknown: put it into "request"`},
		{`{"model":"m","prompt":"hi","temperature":0}`, "", "", "", `The member "temperature" is unknown: put it into "request"`},
		// what is none of these
		{`{"instruction":"Give three tips.","input":""}`, "", "", "", `It is none of the lines that are taken: a submit body ("prompt", "messages" or "request")`},
		{`{"conversations":[{"from":"human","value":"hi"}]}`, "", "", "", `It has "conversations".`},
		{`{"model":"m","input":"hi"}`, "", "", "", `It is none of the lines that are taken`},
		{`"hi"`, "", "", "", "must be a JSON object"},
		{`{}`, "", "", "", `Exactly one of the members "prompt", "messages" and "request" must be given.`},
	} {
		for _, form := range []struct {
			file string
			list bool
		}{{c.line, false}, {"\xef\xbb\xbf" + c.line + "\r\n", false}, {"[" + c.line + "]", true}, {`{"requests":[` + c.line + `]}`, true}, {"\xef\xbb\xbf{\"jobs\": [\n" + c.line + "\n]}\n", true}} {
			var got []tasks.Job
			said := ""
			l := v1.Lines{List: form.list, Match: func(string) (string, bool) { return "p", true }, Fault: func(f *v1.LineFault) error {
				said = f.Error()
				if string(f.Raw) != c.line {
					t.Errorf("%s: the faulty line is %q", form.file, f.Raw)
				}
				return nil
			}}
			err := l.Read(strings.NewReader(form.file), func(j tasks.Job) error { got = append(got, j); return nil })
			switch {
			case c.fault != "" && (err != nil || !strings.HasPrefix(said, "Line 1: ") || !strings.Contains(said, c.fault) || len(got) > 0):
				t.Errorf("%s: %v, %q; want %q", form.file, err, said, c.fault)
			case c.fault == "" && (err != nil || said != "" || len(got) != 1):
				t.Errorf("%s: %v, %q, %d jobs", form.file, err, said, len(got))
			case c.fault == "" && (string(got[0].Request.Kind) != c.kind || string(got[0].Request.Body) != c.body || got[0].CustomID != c.id || got[0].Model != "m"):
				t.Errorf("%s: %+v\nbody %s\nwant %s", form.file, got[0], got[0].Request.Body, c.body)
			}
		}
	}
}
