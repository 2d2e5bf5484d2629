package v1

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/header"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/estimate"
)

// The limits of a submit body. openapi.yaml states them too; a test compares.
const (
	defaultMaxTokens = 1024
	mostMaxTokens    = 10_000_000
	maxModel         = 256 // bytes
	maxFallbacks     = 8
	maxMetadata      = 16
	maxMetadataKey   = 64  // characters
	maxMetadataValue = 512 // characters
	maxCustomID      = 128 // characters
	maxURL           = 2048
	maxID            = 64

	maxPatchBody = 256 << 10
)

// submitMembers are what a submit body may have; null is as good as leaving one
// out, for that is how many clients write what was not set.
var submitMembers = []string{
	"model", "prompt", "messages", "system", "request", "max_tokens", "priority", "not_before", "deadline",
	"webhook_url", "metadata", "fallback_models",
}

// bornWithin is how long an id that was handed out can be given with a submit.
const bornWithin = 24 * time.Hour

// checkID refuses what is no id that an answer named of late: ids sort by the time in
// them, which is the caller's to choose no more than anything else's.
func checkID(id, prefix string, now time.Time) error {
	at := tasks.Born(id)
	if !strings.HasPrefix(id, prefix) || at.IsZero() || at.After(now.Add(time.Minute)) || at.Before(now.Add(-bornWithin)) {
		return fault.Fail(fault.InvalidRequest, `"id" must be the one that an answer with the code outcome_unknown named within the last day; leave it out to be given one.`)
	}
	return nil
}

// ReadSubmit reads the body of a submit, as POST /v1/jobs does, which the job has from then
// on. It fails with a *fault.Fault.
func ReadSubmit(body []byte, now time.Time) (tasks.Job, error) { return decodeSubmit(body, false, now) }

// decodeSubmit reads one submit body, a line of a batch when inBatch, and makes
// every check which needs nothing but the body and the clock. The job's request
// keeps pointing into body, which is no other than a line's what it was before. It reads
// each byte once: values are checked as they go by.
//
// It fails with a *fault.Fault whose detail names the member at fault.
func decodeSubmit(body []byte, inBatch bool, now time.Time) (tasks.Job, error) {
	if inBatch {
		return decodeLine(body, "", now)
	}
	r, err := jsonread.New(body)
	if err != nil {
		return tasks.Job{}, wire.Told(err)
	}
	d := decoder{r}
	job, err := d.submit(body, now)
	if err != nil {
		return tasks.Job{}, wire.Told(err)
	}
	job.Bytes = int64(len(body))
	return job, nil
}

// decoder reads a submit body member by member.
type decoder struct{ *jsonread.Reader }

// input is what one of prompt, messages and request was found to be.
type input struct {
	prompt, messages, system, request []byte

	requestModel string
}

// empty names the form that says nothing; "": each says something.
func (in *input) empty() string {
	switch {
	case len(in.prompt) == len(`""`):
		return "prompt"
	case in.messages != nil && len(bytes.TrimSpace(in.messages[1:len(in.messages)-1])) == 0:
		return "messages"
	}
	return ""
}

func (d *decoder) submit(body []byte, now time.Time) (job tasks.Job, err error) {
	var in input
	err = d.Object(func(name string) error {
		switch {
		case d.Kind() == 'n' && (slices.Contains(submitMembers, name) || name == "id"):
			return d.Skip()
		case name == "id":
			if job.ID, err = d.Word(name, maxID); err == nil {
				err = checkID(job.ID, "job_", now)
			}
			return err
		case name == "custom_id":
			return fault.Fail(fault.InvalidRequest, `The member "custom_id" belongs to a line of a batch.`)
		}
		return d.member(name, &job, &in)
	})
	if err != nil {
		return job, err
	}
	if err := in.settle(&job, "", body[:0]); err != nil {
		return job, err
	}
	return job, complete(&job, now)
}

// complete makes the checks that need the whole body.
func complete(job *tasks.Job, now time.Time) error {
	if job.Priority == "" {
		job.Priority = tasks.Normal
	}
	if job.WebhookURL != "" {
		if err := checkURL("webhook_url", job.WebhookURL); err != nil {
			return err
		}
	}
	return checkTimes(job, now)
}

// member consumes the value of one member of the body.
func (d *decoder) member(name string, job *tasks.Job, in *input) (err error) {
	switch name {
	case "model":
		job.Model, err = d.model(name)
	case "prompt":
		in.prompt, err = d.prompt(name)
	case "messages":
		in.messages, err = d.messages()
	case "system":
		in.system, err = d.system()
	case "request":
		in.request, err = d.request(name, &in.requestModel)
	case "max_tokens":
		job.Request.MaxTokens, err = d.Count(name, mostMaxTokens)
	case "priority":
		job.Priority, err = d.priority(name)
	case "not_before":
		job.NotBefore, err = d.Moment(name)
	case "deadline":
		job.Deadline, err = d.Moment(name)
	case "webhook_url":
		job.WebhookURL, err = d.Word(name, maxURL)
	case "metadata":
		job.Metadata, err = d.metadata()
	case "fallback_models":
		job.Fallback, err = d.fallbacks()
	default:
		err = unknownMember(name)
	}
	return err
}

func unknownMember(name string) error {
	if i := slices.IndexFunc(submitMembers, func(known string) bool { return near(known, name) }); i >= 0 {
		return fault.Fail(fault.InvalidRequest, "The member %s is unknown: did you mean %q? Else leave it out.", jsonread.Clip(name), submitMembers[i])
	}
	return fault.Fail(fault.InvalidRequest, `The member %s is unknown: put it into "request", which goes to the provider as it is, or leave it out.`, jsonread.Clip(name))
}

// near reports whether two names differ as by a slip: in one letter, or in two that changed places.
func near(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 || len(a) < 3 {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	switch {
	case len(a) < len(b):
		return a[i:] == b[i+1:]
	case i == len(a):
		return true
	}
	swapped := i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
	return swapped || a[i+1:] == b[i+1:]
}

// modelMissing is the fault of a body that names no model.
const modelMissing = `The member "model" is missing.`

// settle puts the one form of input into the job, and model where none is named. Messages
// are put together in room: the body that they came in, or nothing.
func (in *input) settle(job *tasks.Job, model string, room []byte) error {
	forms := 0
	for _, form := range [][]byte{in.prompt, in.messages, in.request} {
		if form != nil {
			forms++
		}
	}
	if forms != 1 {
		return fault.Fail(fault.InvalidRequest, `Exactly one of the members "prompt", "messages" and "request" must be given.`)
	}
	if empty := in.empty(); empty != "" {
		return fault.Fail(fault.InvalidRequest, "The member %q must not be empty.", empty)
	}
	if in.system != nil && in.messages == nil {
		return fault.Fail(fault.InvalidRequest, `The member "system" goes with "messages".`)
	}
	r := &job.Request
	switch {
	case in.prompt != nil:
		r.Kind, r.Body = tasks.Text, in.prompt
	case in.messages != nil:
		r.Kind = tasks.Messages
		r.Body = in.together(room)
	default:
		r.Kind, r.Body = tasks.Raw, in.request
		if err := in.agree(job); err != nil {
			return err
		}
	}
	if job.Model = cmp.Or(job.Model, model); job.Model == "" {
		return fault.Fail(fault.InvalidRequest, modelMissing)
	}
	if r.Kind != tasks.Raw {
		r.MaxTokens = cmp.Or(r.MaxTokens, defaultMaxTokens)
	}
	estimate.Fill(job.Model, r)
	return nil
}

// together is the body that messages and system make. It is never longer than the one that
// they came in, and the messages never lie further on in it.
func (in *input) together(room []byte) []byte {
	const head, behind = `{"messages":`, `,"system":`
	system := in.system
	if cap(room) == 0 {
		room = make([]byte, 0, len(head)+len(in.messages)+len(behind)+len(system)+1)
	} else {
		system = bytes.Clone(system) // of which the place is written over
	}
	n := len(head) + len(in.messages)
	copy(room[len(head):n], in.messages)
	copy(room[:len(head)], head)
	room = room[:n]
	if system != nil {
		room = append(append(room, behind...), system...)
	}
	return append(room, '}')
}

// agree refuses a job that says one thing beside "request" and another in it.
func (in *input) agree(job *tasks.Job) error {
	r := &job.Request
	if job.Model = cmp.Or(job.Model, in.requestModel); in.requestModel != "" && in.requestModel != job.Model {
		return fault.Fail(fault.InvalidRequest, `The members "model" and "request.model" differ.`)
	}
	limits := estimate.ReadOutput(r.Endpoint, in.request)
	if r.MaxTokens != 0 && !limits.Agrees(r.MaxTokens) {
		return fault.Fail(fault.InvalidRequest, `The member "max_tokens" differs from the limit in "request": give one of them.`)
	}
	if limits.Limit > 0 {
		r.MaxTokens = 0 // the body says it
	}
	return nil
}

func checkTimes(job *tasks.Job, now time.Time) error {
	if job.Deadline.IsZero() {
		return nil
	}
	if !job.Deadline.After(now) {
		return fault.Fail(fault.ImpossibleTime, `The member "deadline" is in the past.`)
	}
	if !job.NotBefore.IsZero() && !job.Deadline.After(job.NotBefore) {
		return fault.Fail(fault.ImpossibleTime, `The member "deadline" is not after "not_before".`)
	}
	return nil
}

// checkURL refuses what no webhook can be sent to, whatever the configuration.
func checkURL(member, raw string) error {
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" || u.User != nil || u.Fragment != "" || !header.Visible(raw) {
		return fault.Fail(fault.WebhookURLRefused, "The member %q must be an absolute https address without user information and fragment.", member)
	}
	return nil
}

func (d *decoder) model(name string) (string, error) {
	m, err := d.Word(name, maxModel)
	if err != nil {
		return "", err
	}
	for i := range len(m) {
		if m[i] < ' ' || m[i] == 0x7f {
			return "", fault.Fail(fault.InvalidRequest, "The member %q must not hold control characters.", name)
		}
	}
	return m, nil
}

func (d *decoder) prompt(name string) ([]byte, error) {
	if k := d.Kind(); k != '"' {
		return nil, d.Wrong(k, name, "a string")
	}
	return d.Raw()
}

func (d *decoder) priority(name string) (tasks.Priority, error) {
	word, err := d.Word(name, 16)
	p := tasks.Priority(word)
	if err == nil && !p.Valid() {
		err = fault.Fail(fault.InvalidRequest, `The member "priority" must be "high", "normal" or "low".`)
	}
	return p, err
}

// messages consumes a list of objects, each with a role and
// something to say. The rest is the provider's matter.
func (d *decoder) messages() ([]byte, error) {
	if k := d.Kind(); k != '[' {
		return nil, d.Wrong(k, "messages", "a list of objects")
	}
	return d.List(func(i int) error {
		return d.message("messages[" + strconv.Itoa(i) + "]")
	})
}

func (d *decoder) message(at string) error {
	if k := d.Kind(); k != '{' {
		return d.Wrong(k, at, "an object")
	}
	role, content := false, false
	_, err := d.Members(func(name string) error {
		switch name {
		case "role":
			role = true
			if k := d.Kind(); k != '"' {
				return d.Wrong(k, at+".role", "a string")
			}
		case "content":
			content = true
			if k := d.Kind(); k != '"' && k != '[' && k != 'n' {
				return d.Wrong(k, at+".content", "a string or a list")
			}
		case "tool_calls", "function_call":
			content = true // an assistant's turn may be nothing but calls
		}
		return d.Skip()
	})
	if err == nil && (!role || !content) {
		err = fault.Fail(fault.InvalidRequest, `The member %q must have "role" and "content".`, at)
	}
	return err
}

func (d *decoder) system() ([]byte, error) {
	if k := d.Kind(); k != '"' && k != '[' {
		return nil, d.Wrong(k, "system", "a string or a list of text blocks")
	}
	return d.Raw()
}

// request consumes the provider's own body and takes note of what the queue
// has to know of it.
func (d *decoder) request(at string, model *string) ([]byte, error) {
	if k := d.Kind(); k != '{' {
		return nil, d.Wrong(k, at, "an object")
	}
	return d.Members(func(name string) (err error) {
		switch {
		case name == "model":
			*model, err = d.model(at + ".model")
			return err
		case estimate.IsLimit(name):
			return d.limit(at + "." + name)
		}
		return d.Skip()
	})
}

// limit consumes a body's limit of output tokens: a whole number, or null, that is
// for the provider to judge, since some take -1 or 0 for none.
func (d *decoder) limit(name string) error {
	k := d.Kind()
	if k == 'n' {
		return d.Skip()
	}
	if k != '0' {
		return d.Wrong(k, name, "a whole number")
	}
	v, err := d.Raw()
	if err == nil && bytes.ContainsAny(v, ".eE") {
		err = fault.Fail(fault.InvalidRequest, "The member %q must be a whole number.", name)
	}
	return err
}

func (d *decoder) metadata() (map[string]string, error) {
	if k := d.Kind(); k != '{' {
		return nil, d.Wrong(k, "metadata", "an object of strings")
	}
	pairs := map[string]string{}
	_, err := d.Members(func(key string) error {
		value, err := d.pair(key)
		if err != nil {
			return err
		}
		if len(pairs) == maxMetadata {
			return fault.Fail(fault.InvalidRequest, `The member "metadata" must not have more than %d pairs.`, maxMetadata)
		}
		pairs[key] = value
		return nil
	})
	return pairs, err
}

// pair consumes the value of a pair of metadata.
func (d *decoder) pair(key string) (string, error) {
	at := "metadata." + key
	if key == "" || utf8.RuneCountInString(key) > maxMetadataKey {
		return "", fault.Fail(fault.InvalidRequest, `A key in "metadata" must be 1 to %d characters long.`, maxMetadataKey)
	}
	value, err := d.Text(at)
	if err == nil && utf8.RuneCountInString(value) > maxMetadataValue {
		err = fault.Fail(fault.InvalidRequest, "The member %s must be at most %d characters long.", jsonread.Clip(at), maxMetadataValue)
	}
	return value, err
}

func (d *decoder) fallbacks() ([]string, error) {
	if k := d.Kind(); k != '[' {
		return nil, d.Wrong(k, "fallback_models", "a list of strings")
	}
	models := []string{} // an empty list asks for no other model, whatever the pool's own list
	_, err := d.List(func(int) error {
		m, err := d.model("fallback_models")
		if err == nil && len(models) == maxFallbacks {
			err = fault.Fail(fault.InvalidRequest, `The member "fallback_models" must not list more than %d models.`, maxFallbacks)
		}
		models = append(models, m)
		return err
	})
	return models, err
}

func (d *decoder) customID() (string, error) {
	id, err := d.Word("custom_id", 4*maxCustomID)
	if err != nil {
		return "", err
	}
	if utf8.RuneCountInString(id) > maxCustomID {
		return "", fault.Fail(fault.InvalidRequest, `The member "custom_id" must be at most %d characters long.`, maxCustomID)
	}
	return id, nil
}

// fingerprint digests what an Idempotency-Key stands for: the route, the
// headers that are sent upstream, and the content, whose members may come in
// any order and with any white space.
type fingerprint struct {
	sum interface {
		io.Writer
		Sum(b []byte) []byte
	}
}

func newFingerprint(r *http.Request, route string) fingerprint {
	f := fingerprint{sum: sha256.New()}
	for _, part := range append([]string{r.Method, route}, header.Told(r.Header)...) {
		_, _ = io.WriteString(f.sum, part+"\n")
	}
	return f
}

// add takes in one JSON value that was read. Numbers count as they are written: rounding
// them to a float would make two seeds one. room is as for [jsonread.Sorted].
func (f fingerprint) add(body []byte, room func(bytes int64) error) error {
	if err := jsonread.Sorted(f.sum, body, room); err != nil {
		return wire.Told(err)
	}
	_, _ = f.sum.Write([]byte{'\n'})
	return nil
}

func (f fingerprint) String() string { return hex.EncodeToString(f.sum.Sum(nil)) }
