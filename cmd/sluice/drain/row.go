package drain

import (
	"bytes"
	"errors"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// row is one line of results, as an earlier run has written it.
type row struct {
	mark           // digest "": of a release that wrote none
	raw     []byte // with its line break
	id      string
	columns []byte
	status  tasks.Status
	code    tasks.ErrorCode // of its error
	finish  tasks.Finish
	text    string
}

// asWritten reads rows whose body repeats a member or has half a surrogate pair; "ID" is no "id".
var asWritten = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

var errNoRow = errors.New("not a line of results")

// readRow reads the members of one line of results that a run goes by. The rest
// is left as it is.
func readRow(raw []byte) (row, error) {
	var in struct {
		ID       string         `json:"id"`
		CustomID *string        `json:"custom_id"`
		Line     int            `json:"line"`
		Sample   int            `json:"sample"`
		Columns  jsontext.Value `json:"columns"`
		Status   tasks.Status   `json:"status"`
		Finish   tasks.Finish   `json:"finish"`
		Text     string         `json:"text"`
		Digest   string         `json:"digest"`
		Error    struct {
			Code tasks.ErrorCode `json:"code"`
		} `json:"error"`
	}
	if json.Unmarshal(raw, &in, asWritten) != nil || in.ID == "" || in.CustomID == nil || in.Line < 1 || !in.Status.Valid() {
		return row{}, errNoRow
	}
	r := row{
		mark: mark{in.Digest, *in.CustomID, in.Line, in.Sample}, raw: raw, id: in.ID, columns: in.Columns,
		status: in.Status, code: in.Error.Code, finish: in.Finish, text: in.Text,
	}
	if _, err := with(raw); err != nil {
		return row{}, errNoRow
	}
	return r, nil
}

// as returns the row as that of a prompt: under its present line, custom_id, sample
// and columns, and byte for byte the same in everything else.
func (r *row) as(p *prompt) ([]byte, error) {
	if r.line == p.Line && r.customID == p.CustomID && r.sample == p.sample && bytes.Equal(r.columns, p.columns) {
		return r.raw, nil
	}
	custom, err := jsontext.AppendQuote(nil, p.CustomID)
	if err != nil {
		return nil, err
	}
	return with(r.raw, append(p.marks(), member{name: "custom_id", value: custom}, member{name: "line", value: number(p.Line)})...)
}

// marks are the members that only some prompts' rows have.
func (p *prompt) marks() []member {
	sample := member{name: "sample", after: "line"}
	if p.sample > 0 {
		sample.value = number(p.sample)
	}
	return []member{sample, {name: "columns", after: "digest", value: p.columns}}
}

func number(n int) []byte { return strconv.AppendInt(nil, int64(n), 10) }

// member is a member of a row as it has to be. One that is missing is put behind
// the member after, or at the end; value nil is none.
type member struct {
	name, after string
	value       []byte
}

// with returns an object with these members, and byte for byte the same in
// everything else.
func with(raw []byte, members ...member) ([]byte, error) {
	d := jsontext.NewDecoder(bytes.NewReader(raw), asWritten)
	if k, err := d.ReadToken(); err != nil || k.Kind() != '{' {
		return nil, errNoRow
	}
	there := map[string]bool{}
	type part struct {
		name string
		text []byte
	}
	head := raw[:d.InputOffset()]
	var parts []part
	for d.PeekKind() == '"' {
		name, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		start := int(d.InputOffset()) - len(name)
		key, _ := jsontext.AppendUnquote(nil, name) // of ours, none is without its escapes
		value, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		end := int(d.InputOffset())
		at := slices.IndexFunc(members, func(m member) bool { return m.name == string(key) })
		switch {
		case at < 0:
			parts = append(parts, part{string(key), raw[start:end]})
		case members[at].value != nil:
			parts = append(parts, part{string(key), slices.Concat(raw[start:end-len(value)], members[at].value)})
		}
		there[string(key)] = true
	}
	if len(members) == 0 {
		return raw, nil
	}
	end := d.InputOffset()
	for _, m := range members {
		if there[m.name] || m.value == nil {
			continue
		}
		made := part{m.name, slices.Concat([]byte(`"`+m.name+`":`), m.value)}
		at := len(parts)
		if i := slices.IndexFunc(parts, func(p part) bool { return p.name == m.after }); i >= 0 {
			at = i + 1
		}
		parts = slices.Insert(parts, at, made)
	}
	out := bytes.Clone(head)
	for i, p := range parts {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, p.text...)
	}
	return append(out, bytes.TrimLeft(raw[end:], " \t\r\n,")...), nil
}

// rows reads results. The last line may have been cut off by a crash.
func rows(old []byte) ([]row, error) {
	var all []row
	for raw := range bytes.Lines(old) {
		whole := bytes.HasSuffix(raw, []byte("\n"))
		if !whole {
			raw = append(bytes.Clone(raw), '\n')
		}
		r, err := readRow(raw)
		if err != nil && !whole && cutOff(raw[:len(raw)-1]) {
			break
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// cutOff reports whether something is the beginning of a line of results.
func cutOff(b []byte) bool {
	first := []byte(`{"custom_id":"`)
	return bytes.HasPrefix(b, first) || bytes.HasPrefix(first, b)
}
