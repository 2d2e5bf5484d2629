package tasks_test

import (
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

func question(change func(*tasks.Job)) tasks.Job {
	j := tasks.Job{Model: "m", Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"Say hello."`), MaxTokens: 1024}}
	if change != nil {
		change(&j)
	}
	return j
}

func body(kind tasks.Kind, b string) func(*tasks.Job) {
	return func(j *tasks.Job) { j.Request.Kind, j.Request.Body = kind, []byte(b) }
}

// TestADigestIsTheSameInEveryRelease holds the encoding: files of results keep
// digests, and another one would make every line of them be paid for again.
func TestADigestIsTheSameInEveryRelease(t *testing.T) {
	for name, c := range map[string]struct {
		job  tasks.Job
		want string
	}{
		"text":     {question(nil), "e90a13de7886b7bea1875b2e950137b54ddf00c52062c3e582934aa23f3e9471"},
		"messages": {question(body(tasks.Messages, `{"messages":[{"role":"user","content":"é\n"}],"system":"Be brief."}`)), "f41126c83a47128d5068bd6d4b217c24421debac7a2bbd2db03379ee3e0da564"},
		"request":  {question(body(tasks.Raw, `{"model":"m","messages":[],"temperature":0.70,"n":1e400,"stream":false,"stop":null}`)), "62ca8422ab9d34862a8bf23527a2a500ad8f618ab9befb70e9fbbefcb8009694"},
		"all parameters": {question(func(j *tasks.Job) {
			j.Request.Version, j.Request.Beta, j.Fallback = "2023-06-01", "a,b", []string{"x", "y"}
		}), "088478fa02201f9ffa9c32a38bc8396814316e6e62eaffcd8d69332e7f087d32"},
	} {
		if got := c.job.Digest(); got != c.want {
			t.Errorf("%s: %s; want %s", name, got, c.want)
		}
	}
}

func TestADigestIsOfWhatIsAsked(t *testing.T) {
	raw := `{"model":"m","tools":[{"a":1,"b":2}],"x":"a\u0062"}`
	groups := []map[string]tasks.Job{ // one digest within a group, another in each
		{
			"text": question(nil),
			"who, when and under which name": question(func(j *tasks.Job) {
				j.ID, j.Tenant, j.Batch, j.CustomID, j.Line, j.Pool, j.Priority = "job_1", "acme", "batch_1", "c", 7, "p", tasks.High
				j.Metadata, j.WebhookURL, j.Attempts = map[string]string{"a": "b"}, "https://x.example", 2
				j.Request.InputTokens = 9
			}),
			"other escapes": question(body(tasks.Text, `"Say\u0020hello\u002e"`)),
		},
		{"another model": question(func(j *tasks.Job) { j.Model = "m2" })},
		{"another limit": question(func(j *tasks.Job) { j.Request.MaxTokens = 1025 })},
		{"another prompt": question(body(tasks.Text, `"Say hello"`))},
		{"case": question(body(tasks.Text, `"say hello."`))},
		{"white space in the prompt": question(body(tasks.Text, `"Say  hello."`))},
		{"version": question(func(j *tasks.Job) { j.Request.Version = "1" })},
		{"beta": question(func(j *tasks.Job) { j.Request.Beta = "1" })},
		{"OpenAI's beta": question(func(j *tasks.Job) { j.Request.OpenAI.Beta = "1" })},
		{"organisation": question(func(j *tasks.Job) { j.Request.OpenAI.Organization = "1" })},
		{"project": question(func(j *tasks.Job) { j.Request.OpenAI.Project = "1" })},
		{"no fallback wanted": question(func(j *tasks.Job) { j.Fallback = []string{} })},
		{"a fallback": question(func(j *tasks.Job) { j.Fallback = []string{"x"} })},
		{"two fallbacks": question(func(j *tasks.Job) { j.Fallback = []string{"x", "y"} })},
		{"their order": question(func(j *tasks.Job) { j.Fallback = []string{"y", "x"} })},
		{"messages": question(body(tasks.Messages, `{"messages":[{"role":"user","content":"Say hello."}]}`))},
		{
			"request":              question(body(tasks.Raw, raw)),
			"request, laid out":    question(body(tasks.Raw, "{ \"model\" : \"m\",\n\t\"tools\": [ { \"a\": 1, \"b\": 2 } ], \"x\": \"ab\" }")),
			"request, all escaped": question(body(tasks.Raw, `{"\u006dodel":"m","tools":[{"a":1,"b":2}],"x":"ab"}`)),
			"request, one escape":  question(body(tasks.Raw, `{"model":"m","tools":[{"a":1,"b":2}],"x":"a\u0062"}`)),
		},
		{"members in another order": question(body(tasks.Raw, `{"model":"m","tools":[{"b":2,"a":1}],"x":"ab"}`))},
		{"a number spelt otherwise": question(body(tasks.Raw, `{"model":"m","tools":[{"a":1.0,"b":2}],"x":"ab"}`))},
		{"a string for a number": question(body(tasks.Raw, `{"model":"m","tools":[{"a":"1","b":2}],"x":"ab"}`))},
		{"a list in a list": question(body(tasks.Raw, `{"a":[[1],2]}`))},
		{"two lists": question(body(tasks.Raw, `{"a":[[1,2]]}`))},
		{"null": question(body(tasks.Raw, `{"a":null}`))},
		{"true": question(body(tasks.Raw, `{"a":true}`))},
		{"false": question(body(tasks.Raw, `{"a":false}`))},
		{"the word": question(body(tasks.Raw, `{"a":"true"}`))},
	}
	seen := map[string]string{}
	for _, g := range groups {
		first, digest := "", ""
		for name, j := range g {
			got := j.Digest()
			if first == "" {
				if other, twice := seen[got]; twice {
					t.Errorf("%q and %q have one digest", name, other)
				}
				first, digest, seen[got] = name, got, name
			} else if got != digest {
				t.Errorf("%q and %q are the same question with two digests", first, name)
			}
		}
	}
}
