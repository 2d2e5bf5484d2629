package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
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
	maxDepth         = 128 // levels of nested arrays and objects
	maxNameShown     = 64  // bytes of a member's name that a detail repeats
)

// submitMembers are what a submit body may have; null is as good as leaving one
// out, for that is how many clients write what was not set.
var submitMembers = []string{
	"model", "prompt", "messages", "system", "request", "max_tokens", "priority", "not_before", "deadline",
	"webhook_url", "metadata", "fallback_models",
}

// submission is a decoded submit body that has passed every check which needs
// nothing but the body and the clock.
type submission struct {
	job      tasks.Job
	customID string
}

// decodeSubmit reads one submit body, a line of a batch when inBatch. The job's
// request keeps pointing into body. It reads each byte once: values are checked
// as they go by.
//
// It fails with a *problem whose detail names the member at fault.
func decodeSubmit(body []byte, inBatch bool, now time.Time) (submission, error) {
	return decode(body, inBatch, "", now)
}

// decode is decodeSubmit for a body that may name no model: then it is model,
// unless that is empty.
func decode(body []byte, inBatch bool, model string, now time.Time) (submission, error) {
	if err := checkDepth(body); err != nil {
		return submission{}, err
	}
	d := decoder{
		Decoder: jsontext.NewDecoder(bytes.NewBuffer(body)),
		body:    body,
	}
	s, err := d.submit(inBatch, model, now)
	if err != nil {
		return submission{}, syntax(err)
	}
	return s, nil
}

// checkDepth refuses arrays and objects nested deeper than any prompt needs,
// before anything recurses into them.
func checkDepth(body []byte) error {
	depth := 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '"':
			n := stringEnd(body[i+1:])
			if n < 0 {
				return nil // unfinished: the parser will say so
			}
			i += 1 + n
		case '[', '{':
			if depth++; depth > maxDepth {
				return fail(invalidJSON, "Arrays and objects are nested deeper than %d levels.", maxDepth)
			}
		case ']', '}':
			depth--
		}
	}
	return nil
}

// stringEnd returns where the quote is that ends a string, -1 for nowhere.
func stringEnd(rest []byte) int {
	for from := 0; ; {
		n := bytes.IndexByte(rest[from:], '"')
		if n < 0 {
			return -1
		}
		end, escapes := from+n, 0
		for escapes < n && rest[end-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return end
		}
		from = end + 1
	}
}

// syntax turns an error of the JSON parser into a problem that says where, and
// repeats nothing but the names of members.
func syntax(err error) error {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	var s *jsontext.SyntacticError
	if !errors.As(err, &s) {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fail(invalidJSON, "The body ends before its JSON value does.")
		}
		return fail(invalidJSON, "The body is not one JSON object in UTF-8.")
	}
	where := ""
	if s.JSONPointer != "" {
		where = " at " + clip(string(s.JSONPointer))
	}
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return fail(invalidJSON, "The member%s is given twice.", where)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fail(invalidJSON, "The body ends before its JSON value does.")
	}
	return fail(invalidJSON, "Syntax error%s, byte %d.", where, s.ByteOffset)
}

// clip shortens what a caller named to what may be repeated.
func clip(name string) string {
	if len(name) <= maxNameShown {
		return strconv.Quote(name)
	}
	name = name[:maxNameShown]
	for name != "" && !utf8.ValidString(name) {
		name = name[:len(name)-1]
	}
	return strconv.Quote(name + "…")
}

// decoder reads a submit body member by member.
type decoder struct {
	*jsontext.Decoder
	body []byte
}

// members calls visit with the name of each member of the object that comes
// next, and returns the object's bytes; visit consumes the value.
func (d *decoder) members(visit func(name string) error) ([]byte, error) {
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	start := int(d.InputOffset()) - 1
	for d.PeekKind() != '}' {
		raw, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		if err := visit(unquote(raw)); err != nil {
			return nil, err
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	end := int(d.InputOffset())
	return d.body[start:end:end], nil
}

// unquote returns the text of a JSON string that the parser has passed.
func unquote(raw jsontext.Value) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	text, _ := jsontext.AppendUnquote(nil, raw)
	return string(text)
}

// raw consumes the next value and returns its bytes as they stand in the body.
func (d *decoder) raw() ([]byte, error) {
	v, err := d.ReadValue()
	if err != nil {
		return nil, err
	}
	end := int(d.InputOffset())
	return d.body[end-len(v) : end : end], nil
}

// str consumes a string of 1 to most bytes.
func (d *decoder) str(name string, most int) (string, error) {
	if k := d.PeekKind(); k != '"' {
		return "", d.wrong(k, name, "a string")
	}
	v, err := d.ReadValue()
	if err != nil {
		return "", err
	}
	s := unquote(v)
	if s == "" || len(s) > most {
		return "", fail(invalidRequest, "The member %q must be 1 to %d bytes long.", name, most)
	}
	return s, nil
}

// wrong is the error of a value of another kind than wanted: the parser's own
// when there is no value at all.
func (d *decoder) wrong(k jsontext.Kind, name, want string) error {
	switch k {
	case 'n', 't', 'f', '"', '0', '{', '[':
		return fail(invalidRequest, "The member %s must be %s.", clip(name), want)
	}
	if err := d.SkipValue(); err != nil {
		return err
	}
	return fail(invalidRequest, "The member %s must be %s.", clip(name), want)
}

// count consumes a whole number from 1 to mostMaxTokens.
func (d *decoder) count(name string) (int, error) {
	if k := d.PeekKind(); k != '0' {
		return 0, d.wrong(k, name, "a whole number")
	}
	v, err := d.ReadValue()
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(string(v))
	if err != nil || n < 1 || n > mostMaxTokens {
		return 0, fail(invalidRequest, "The member %q must be a whole number from 1 to %d.", name, mostMaxTokens)
	}
	return n, nil
}

// moment consumes an RFC 3339 time.
func (d *decoder) moment(name string) (t time.Time, err error) {
	if k := d.PeekKind(); k != '"' {
		return t, d.wrong(k, name, "a time in the form of RFC 3339")
	}
	v, err := d.ReadValue()
	if err != nil {
		return t, err
	}
	text := unquote(v)
	if err := t.UnmarshalText([]byte(text)); err != nil || !strictTime(text) {
		return time.Time{}, fail(invalidRequest, "The member %q must be a time in the form of RFC 3339, such as 2030-01-31T12:00:00Z.", name)
	}
	return t.UTC().Truncate(time.Millisecond), nil
}

// strictTime refuses what package time takes beyond RFC 3339 (go.dev/issue/54580):
// an hour of one digit, a comma before the fraction, an offset of a day and more.
func strictTime(s string) bool {
	if len(s) < len("2006-01-02T15:04:05Z") || s[len("2006-01-02T15")] != ':' || strings.ContainsRune(s, ',') {
		return false
	}
	if s[len(s)-1] == 'Z' {
		return true
	}
	zone := s[len(s)-len("15:04"):]
	return zone[:2] <= "23" && zone[3:] <= "59"
}

// input is what one of prompt, messages and request was found to be.
type input struct {
	prompt, messages, system, request []byte

	requestModel     string
	requestMaxTokens int
}

func (d *decoder) submit(inBatch bool, model string, now time.Time) (s submission, err error) {
	if k := d.PeekKind(); k != '{' {
		if k == 0 {
			if err := d.SkipValue(); err != nil {
				return s, err
			}
		}
		return s, fail(invalidRequest, "The body must be a JSON object.")
	}
	job := &s.job
	var in input
	_, err = d.members(func(name string) (err error) {
		if d.PeekKind() == 'n' && (slices.Contains(submitMembers, name) || name == "custom_id" && inBatch) {
			return d.SkipValue()
		}
		switch name {
		case "model":
			job.Model, err = d.model(name)
		case "prompt":
			if k := d.PeekKind(); k != '"' {
				return d.wrong(k, name, "a string")
			}
			in.prompt, err = d.raw()
			if err == nil && len(in.prompt) == 2 {
				err = fail(invalidRequest, "The member %q must not be empty.", name)
			}
		case "messages":
			in.messages, err = d.messages()
		case "system":
			in.system, err = d.system()
		case "request":
			err = d.request(&in)
		case "max_tokens":
			job.Request.MaxTokens, err = d.count(name)
		case "priority":
			var word string
			if word, err = d.str(name, 16); err == nil {
				if job.Priority = tasks.Priority(word); !job.Priority.Valid() {
					err = fail(invalidRequest, `The member "priority" must be "high", "normal" or "low".`)
				}
			}
		case "not_before":
			job.NotBefore, err = d.moment(name)
		case "deadline":
			job.Deadline, err = d.moment(name)
		case "webhook_url":
			job.WebhookURL, err = d.str(name, maxURL)
		case "metadata":
			job.Metadata, err = d.metadata()
		case "fallback_models":
			job.Fallback, err = d.fallbacks()
		case "custom_id":
			if !inBatch {
				return fail(invalidRequest, `The member "custom_id" belongs to a line of a batch.`)
			}
			s.customID, err = d.customID()
		default:
			return fail(invalidRequest, "The member %s is unknown.", clip(name))
		}
		return err
	})
	if err != nil {
		return s, err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return s, fail(invalidJSON, "Something follows the JSON object.")
	}
	if err := in.settle(job, model); err != nil {
		return s, err
	}
	if job.Priority == "" {
		job.Priority = tasks.Normal
	}
	if job.WebhookURL != "" {
		if err := checkURL(job.WebhookURL); err != nil {
			return s, err
		}
	}
	return s, checkTimes(job, now)
}

// modelMissing is the fault of a body that names no model.
const modelMissing = `The member "model" is missing.`

// settle puts the one form of input into the job, and model where none is named.
func (in *input) settle(job *tasks.Job, model string) error {
	forms := 0
	for _, form := range [][]byte{in.prompt, in.messages, in.request} {
		if form != nil {
			forms++
		}
	}
	if forms != 1 {
		return fail(invalidRequest, `Exactly one of the members "prompt", "messages" and "request" must be given.`)
	}
	if in.system != nil && in.messages == nil {
		return fail(invalidRequest, `The member "system" goes with "messages".`)
	}
	r := &job.Request
	switch {
	case in.prompt != nil:
		r.Kind, r.Body = tasks.Text, in.prompt
	case in.messages != nil:
		r.Kind = tasks.Messages
		r.Body = make([]byte, 0, len(in.messages)+len(in.system)+32)
		r.Body = append(append(r.Body, `{"messages":`...), in.messages...)
		if in.system != nil {
			r.Body = append(append(r.Body, `,"system":`...), in.system...)
		}
		r.Body = append(r.Body, '}')
	default:
		r.Kind, r.Body = tasks.Raw, in.request
		if job.Model == "" {
			job.Model = in.requestModel
		} else if in.requestModel != "" && in.requestModel != job.Model {
			return fail(invalidRequest, `The members "model" and "request.model" differ.`)
		}
		if r.MaxTokens == 0 {
			r.MaxTokens = in.requestMaxTokens
		} else if in.requestMaxTokens != 0 && in.requestMaxTokens != r.MaxTokens {
			return fail(invalidRequest, `The member "max_tokens" differs from that of "request".`)
		}
	}
	if job.Model == "" {
		job.Model = model
	}
	if job.Model == "" {
		return fail(invalidRequest, modelMissing)
	}
	if r.MaxTokens == 0 {
		r.MaxTokens = defaultMaxTokens
	}
	r.InputTokens = tasks.EstimateTokens(len(r.Body))
	return nil
}

func checkTimes(job *tasks.Job, now time.Time) error {
	if job.Deadline.IsZero() {
		return nil
	}
	if !job.Deadline.After(now) {
		return fail(impossible, `The member "deadline" is in the past.`)
	}
	if !job.NotBefore.IsZero() && !job.Deadline.After(job.NotBefore) {
		return fail(impossible, `The member "deadline" is not after "not_before".`)
	}
	return nil
}

// checkURL refuses what no webhook can be sent to, whatever the configuration.
func checkURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" || u.User != nil || u.Fragment != "" || !isVisible(raw) {
		return fail(webhookURLRefused, `The member "webhook_url" must be an absolute https address without user information and fragment.`)
	}
	return nil
}

func (d *decoder) model(name string) (string, error) {
	m, err := d.str(name, maxModel)
	if err != nil {
		return "", err
	}
	for i := range len(m) {
		if m[i] < ' ' || m[i] == 0x7f {
			return "", fail(invalidRequest, "The member %q must not hold control characters.", name)
		}
	}
	return m, nil
}

// messages consumes a list of at least one object, each with a role and
// something to say. The rest is the provider's matter.
func (d *decoder) messages() ([]byte, error) {
	if k := d.PeekKind(); k != '[' {
		return nil, d.wrong(k, "messages", "a list of objects")
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	start := int(d.InputOffset()) - 1
	n := 0
	for ; d.PeekKind() != ']'; n++ {
		at := "messages[" + strconv.Itoa(n) + "]"
		if k := d.PeekKind(); k != '{' {
			return nil, d.wrong(k, at, "an object")
		}
		role, content := false, false
		_, err := d.members(func(name string) error {
			switch name {
			case "role":
				role = true
				if k := d.PeekKind(); k != '"' {
					return d.wrong(k, at+".role", "a string")
				}
			case "content":
				content = true
				if k := d.PeekKind(); k != '"' && k != '[' && k != 'n' {
					return d.wrong(k, at+".content", "a string or a list")
				}
			case "tool_calls", "function_call":
				content = true // an assistant's turn may be nothing but calls
			}
			return d.SkipValue()
		})
		if err != nil {
			return nil, err
		}
		if !role || !content {
			return nil, fail(invalidRequest, `The member %q must have "role" and "content".`, at)
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fail(invalidRequest, `The member "messages" must not be empty.`)
	}
	end := int(d.InputOffset())
	return d.body[start:end:end], nil
}

func (d *decoder) system() ([]byte, error) {
	if k := d.PeekKind(); k != '"' && k != '[' {
		return nil, d.wrong(k, "system", "a string or a list of text blocks")
	}
	return d.raw()
}

// request consumes the provider's own body and takes note of what the queue
// has to know of it.
func (d *decoder) request(in *input) error {
	if k := d.PeekKind(); k != '{' {
		return d.wrong(k, "request", "an object")
	}
	var err error
	in.request, err = d.members(func(name string) (err error) {
		switch name {
		case "model":
			in.requestModel, err = d.model("request.model")
			return err
		case "max_tokens", "max_completion_tokens", "max_output_tokens":
			if d.PeekKind() == 'n' {
				return d.SkipValue()
			}
			n, err := d.count("request." + name)
			in.requestMaxTokens = max(in.requestMaxTokens, n)
			return err
		}
		return d.SkipValue()
	})
	return err
}

func (d *decoder) metadata() (map[string]string, error) {
	if k := d.PeekKind(); k != '{' {
		return nil, d.wrong(k, "metadata", "an object of strings")
	}
	pairs := map[string]string{}
	_, err := d.members(func(key string) error {
		at := "metadata." + key
		if key == "" || utf8.RuneCountInString(key) > maxMetadataKey {
			return fail(invalidRequest, `A key in "metadata" must be 1 to %d characters long.`, maxMetadataKey)
		}
		if k := d.PeekKind(); k != '"' {
			return d.wrong(k, at, "a string")
		}
		v, err := d.ReadValue()
		if err != nil {
			return err
		}
		value := unquote(v)
		if utf8.RuneCountInString(value) > maxMetadataValue {
			return fail(invalidRequest, "The member %s must be at most %d characters long.", clip(at), maxMetadataValue)
		}
		if len(pairs) == maxMetadata {
			return fail(invalidRequest, `The member "metadata" must not have more than %d pairs.`, maxMetadata)
		}
		pairs[key] = value
		return nil
	})
	return pairs, err
}

func (d *decoder) fallbacks() ([]string, error) {
	if k := d.PeekKind(); k != '[' {
		return nil, d.wrong(k, "fallback_models", "a list of strings")
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	models := []string{} // an empty list asks for no other model, whatever the pool's own list
	for d.PeekKind() != ']' {
		m, err := d.model("fallback_models")
		if err != nil {
			return nil, err
		}
		if len(models) == maxFallbacks {
			return nil, fail(invalidRequest, `The member "fallback_models" must not list more than %d models.`, maxFallbacks)
		}
		models = append(models, m)
	}
	_, err := d.ReadToken()
	return models, err
}

func (d *decoder) customID() (string, error) {
	id, err := d.str("custom_id", 4*maxCustomID)
	if err != nil {
		return "", err
	}
	if utf8.RuneCountInString(id) > maxCustomID {
		return "", fail(invalidRequest, `The member "custom_id" must be at most %d characters long.`, maxCustomID)
	}
	return id, nil
}

// providerHeaders keeps the caller's anthropic-version and anthropic-beta.
func providerHeaders(h http.Header, r *tasks.Request) error {
	version, beta := h["Anthropic-Version"], h["Anthropic-Beta"]
	if len(version) > 0 {
		if len(version) > 1 || len(version[0]) > 64 || !isVisible(version[0]) || version[0] == "" {
			return fail(invalidRequest, "The anthropic-version header must be one word of at most 64 characters.")
		}
		r.Version = version[0]
	}
	if len(beta) > 0 {
		r.Beta = strings.Join(beta, ",")
		if len(r.Beta) > 1024 || !isVisible(strings.NewReplacer(" ", "", "\t", "").Replace(r.Beta)) && r.Beta != "" {
			return fail(invalidRequest, "The anthropic-beta header must be at most 1024 ASCII characters.")
		}
	}
	return nil
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
	for _, part := range []string{r.Method, route, strings.Join(r.Header["Anthropic-Version"], ","), strings.Join(r.Header["Anthropic-Beta"], ",")} {
		_, _ = io.WriteString(f.sum, part+"\n")
	}
	return f
}

// add takes in one JSON value. Numbers count as they are written: rounding them
// to a float would make two seeds one.
func (f fingerprint) add(body []byte) error {
	v := jsontext.Value(bytes.Clone(body))
	if err := v.Format(jsontext.ReorderRawObjects(true)); err != nil {
		return err
	}
	_, _ = f.sum.Write(append(v, '\n'))
	return nil
}

func (f fingerprint) String() string { return hex.EncodeToString(f.sum.Sum(nil)) }
