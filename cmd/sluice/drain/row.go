package drain

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// row is one line of results, as an earlier run has written it.
type row struct {
	raw      []byte // with its line break
	id       string
	customID string
	line     int
	status   tasks.Status
	digest   string // "": of a release that wrote none

	customAt, lineAt span // where the values are in raw
	end              int  // of the last member in raw
}

type span struct{ from, to int }

var errNoRow = errors.New("not a line of results")

// readRow reads the members of one line of results that a run goes by. The rest
// is left as it is.
func readRow(raw []byte) (row, error) {
	var in struct {
		ID       string       `json:"id"`
		CustomID string       `json:"custom_id"`
		Line     int          `json:"line"`
		Status   tasks.Status `json:"status"`
		Digest   string       `json:"digest"`
	}
	if json.Unmarshal(raw, &in) != nil {
		return row{}, errNoRow
	}
	r := row{raw: raw, id: in.ID, customID: in.CustomID, line: in.Line, status: in.Status, digest: in.Digest}
	if r.find() != nil || r.id == "" || r.line < 1 || r.customAt.to == 0 || r.lineAt.to == 0 || !r.status.Valid() {
		return row{}, errNoRow
	}
	return r, nil
}

// find finds the two values that a run may have to change, and the row's end.
func (r *row) find() error {
	// A provider's body may repeat a member, and hold half a surrogate pair.
	d := jsontext.NewDecoder(bytes.NewReader(r.raw), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			return err
		}
		key := name.String()
		value, err := d.ReadValue()
		if err != nil {
			return err
		}
		r.end = int(d.InputOffset())
		switch at := (span{r.end - len(value), r.end}); key {
		case "custom_id":
			r.customAt = at
		case "line":
			r.lineAt = at
		}
	}
	return nil
}

// with returns a row of an earlier release with its digest.
func (r *row) with(digest string) (row, error) {
	raw := append(bytes.Clone(r.raw[:r.end]), `,"digest":"`+digest+`"`...)
	return readRow(append(raw, r.raw[r.end:]...))
}

// as returns the row as that of a prompt: under its present line and custom_id,
// and byte for byte the same in everything else.
func (r *row) as(p *prompt) ([]byte, error) {
	if r.line == p.Line && r.customID == p.CustomID {
		return r.raw, nil
	}
	custom, err := jsontext.AppendQuote(nil, p.CustomID)
	if err != nil {
		return nil, err
	}
	line := strconv.AppendInt(nil, int64(p.Line), 10)
	at, text := [2]span{r.customAt, r.lineAt}, [2][]byte{custom, line}
	if r.lineAt.from < r.customAt.from {
		at, text = [2]span{r.lineAt, r.customAt}, [2][]byte{line, custom}
	}
	return bytes.Join([][]byte{r.raw[:at[0].from], text[0], r.raw[at[0].to:at[1].from], text[1], r.raw[at[1].to:]}, nil), nil
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
