package v1

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// The forms of a line of a batch, or of a file of prompts. Each may have a
// "custom_id":
//
//	a submit body           {"model","prompt" or "messages" or "request",…}
//	OpenAI's batch line     {"custom_id","method","url","body"}
//	Anthropic's batch line  {"custom_id","params"}
//	a provider's body       {"model","messages",…} with any member that a submit body has not
//
// The last three are a submit body's "request": they go upstream byte for byte,
// a provider's body without its custom_id.
//
// Sources: developers.openai.com/api/docs/guides/batch,
// platform.claude.com/docs/en/api/creating-message-batches.

// line is what was found of one line.
type line struct {
	input
	customID            string
	maxTokens, metadata []byte // as they stand: a provider's own rules are others than ours
	method, url         string
	body, params        []byte
	own                 []string // members that a submit body alone has
	others              []string // members that no submit body has
	members             []string // all but custom_id
}

// decodeLine reads one line and makes every check which needs nothing but the line
// and the clock. It names no model where model says so: then it is that, unless
// model is empty. The job's request keeps pointing into raw.
//
// It fails with a *fault.Fault whose detail names the member at fault.
func decodeLine(raw []byte, model string, now time.Time) (job tasks.Job, err error) {
	r, err := jsonread.New(raw)
	if err != nil {
		return job, wire.Told(err)
	}
	d, l := decoder{r}, line{}
	if err := d.Object(func(name string) error { return d.lineMember(name, &job, &l) }); err != nil {
		return tasks.Job{}, wire.Told(err)
	}
	if err := l.settle(&job, raw, model); err != nil {
		return tasks.Job{}, wire.Told(err)
	}
	job.CustomID, job.Bytes = l.customID, int64(len(raw))
	return job, complete(&job, now)
}

// lineMember consumes the value of one member of a line.
func (d *decoder) lineMember(name string, job *tasks.Job, l *line) (err error) {
	if name == "custom_id" {
		if d.Kind() != 'n' {
			l.customID, err = d.customID()
			return err
		}
		return d.Skip()
	}
	l.members = append(l.members, name)
	ours := slices.Contains(submitMembers, name)
	if d.Kind() == 'n' && (ours || name == "method" || name == "url") {
		return d.Skip()
	}
	switch name {
	case "method":
		l.method, err = d.Word(name, 16)
	case "url":
		l.url, err = d.Word(name, maxURL)
	case "body":
		l.body, err = d.request(name, &l.requestModel)
	case "params":
		l.params, err = d.request(name, &l.requestModel)
	case "max_tokens":
		l.maxTokens, err = d.Raw()
	case "metadata":
		l.metadata, err = d.Raw()
	case "model", "messages", "system":
		return d.member(name, job, &l.input)
	default:
		if ours {
			l.own = append(l.own, name)
			return d.member(name, job, &l.input)
		}
		l.others = append(l.others, name)
		return d.Skip()
	}
	return err
}

// settle finds the line's form and puts what it asks into the job.
func (l *line) settle(job *tasks.Job, raw []byte, model string) (err error) {
	switch {
	case l.body != nil || l.method != "" || l.url != "":
		err = l.openAI()
	case l.params != nil:
		l.request, err = l.params, l.only("Anthropic", "params")
	case len(l.others) == 0:
		err = l.submitted(job)
	default:
		err = l.providers(job, raw)
	}
	if err != nil {
		return err
	}
	return l.input.settle(job, model, nil)
}

// openAI takes a batch line of OpenAI.
func (l *line) openAI() error {
	if err := l.only("OpenAI", "method", "url", "body"); err != nil {
		return err
	}
	switch {
	case l.body == nil:
		return fault.Fail(fault.InvalidRequest, `The member "body" is missing.`)
	case l.method != "" && !strings.EqualFold(l.method, "POST"):
		return fault.Fail(fault.InvalidRequest, `The member "method" must be "POST".`)
	case l.url != "" && !strings.HasSuffix(strings.TrimRight(l.url, "/"), "/chat/completions"):
		return fault.Fail(fault.InvalidRequest, `The member "url" names another endpoint than "/v1/chat/completions", the only one that is asked.`)
	}
	l.request = l.body
	return nil
}

// providers takes a provider's body.
func (l *line) providers(job *tasks.Job, raw []byte) error {
	switch {
	case len(l.own) > 0:
		return unknownMember(l.others[0])
	case l.messages == nil:
		return fault.Fail(fault.InvalidRequest, `It is none of the lines that are taken: a submit body ("prompt", "messages" or "request"), OpenAI's batch line ("body"), Anthropic's ("params"), or a provider's body ("messages"). It has %s.`, listed(l.members))
	}
	l.request, l.requestModel, job.Model = raw, job.Model, ""
	if l.customID != "" {
		l.request = without(raw, "custom_id")
	}
	l.messages, l.system = nil, nil
	return nil
}

// submitted reads what a submit body and a provider's have both, by our rules.
func (l *line) submitted(job *tasks.Job) error {
	for _, m := range []struct {
		name string
		raw  []byte
	}{{"max_tokens", l.maxTokens}, {"metadata", l.metadata}} {
		if m.raw == nil {
			continue
		}
		r, err := jsonread.New(m.raw)
		if err != nil {
			return err
		}
		d := decoder{r}
		if err := d.member(m.name, job, &l.input); err != nil {
			return err
		}
	}
	return nil
}

// only refuses members that the batch line of a provider has not.
func (l *line) only(whose string, names ...string) error {
	for _, m := range l.members {
		if !slices.Contains(names, m) {
			return fault.Fail(fault.InvalidRequest, `The member %s does not belong to a batch line of %s, which has "custom_id", %s.`, jsonread.Clip(m), whose, listed(names))
		}
	}
	return nil
}

// listed names members.
func listed(names []string) string {
	const most = 8
	var b strings.Builder
	for i, name := range names {
		if i == most {
			return b.String() + ", …"
		}
		b.WriteString(cmp.Or(strings.Repeat(", ", min(i, 1)), ""))
		b.WriteString(jsonread.Clip(name))
	}
	return cmp.Or(b.String(), "no members")
}

// without returns an object that was read already without one of its members.
func without(object []byte, member string) []byte {
	d := jsontext.NewDecoder(bytes.NewReader(object))
	out := []byte{'{'}
	_, _ = d.ReadToken() // it was read before: nothing fails here
	for d.PeekKind() == '"' {
		name, _ := d.ReadValue()
		start := int(d.InputOffset()) - len(name)
		same := jsonread.Unquote(name) == member
		if d.SkipValue() != nil {
			break
		}
		if same {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, object[start:d.InputOffset()]...)
	}
	return append(out, '}')
}
