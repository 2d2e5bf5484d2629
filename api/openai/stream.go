package openai

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/relay"
	"github.com/sluicehq/sluice/tasks"
)

// telling tells the events of one response: as the provider sent them, but for the id of
// the response, which is the one that it has here
// (developers.openai.com/api/docs/api-reference/responses-streaming).
type telling struct {
	form  *relay.Form
	id    []byte // of the response, as JSON
	after int64  // events up to this number are left out; -1: none
	told  int64  // the number of the last event that was told, or left out
	// stays says that the response is kept whatever its end: its stream ends with it.
	stays bool

	wait []byte // what has come of an event
	line int    // where its last line begins
	seen int    // so much of wait has no end of a line behind line
}

func (a *API) telling(after int64, stays bool) *telling {
	return &telling{form: &a.form, after: after, told: after, stays: stays}
}

// Begin has the events told under the response's id.
func (t *telling) Begin(job *tasks.Job) { t.id = jsonwrite.AppendString(nil, responseID(job.ID)) }

// Told is what goes out of the provider's bytes: whole events.
func (t *telling) Told(raw []byte, last bool) (out []byte) {
	t.wait = append(t.wait, raw...)
	begun := 0
	for {
		end := t.end(last)
		if end < 0 {
			break
		}
		out = t.event(out, t.wait[begun:end])
		begun = end
	}
	if last && begun < len(t.wait) {
		out = t.event(out, t.wait[begun:])
		begun = len(t.wait)
	}
	if begun > 0 {
		t.wait = append(t.wait[:0], t.wait[begun:]...)
		t.line, t.seen = t.line-begun, t.seen-begun
	}
	if len(t.wait) == 0 {
		t.wait, t.line, t.seen = nil, 0, 0 // one event may have been large
	}
	return out
}

// end is where the event ends that has begun, behind its empty line; -1: it has not come.
func (t *telling) end(last bool) int {
	for {
		from := max(t.seen, t.line)
		n := bytes.IndexAny(t.wait[from:], "\r\n")
		if n < 0 {
			t.seen = len(t.wait)
			return -1
		}
		at := from + n
		next := at + 1
		if t.wait[at] == '\r' {
			if next == len(t.wait) && !last { // perhaps an LF comes, which belongs to it
				t.seen = at
				return -1
			}
			if next < len(t.wait) && t.wait[next] == '\n' {
				next++
			}
		}
		empty := at == t.line
		if t.line = next; empty {
			return next
		}
	}
}

// event appends one event, under our id; of one that was told before, nothing.
func (t *telling) event(out, raw []byte) []byte {
	kind, data, at := dataOf(raw)
	number, start, end := int64(-1), 0, 0
	if r, err := jsonread.New(data); err == nil {
		_ = r.Object(func(name string) error { // what is no object is told as it is
			v, err := r.Raw()
			switch name {
			case "sequence_number":
				if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
					number = n
				}
			case "response":
				if _, from, to := member(v, "id"); to > 0 {
					base := r.Offset() - len(v)
					start, end = base+from, base+to
				}
			}
			return err
		})
	}
	if number >= 0 {
		if number <= t.after {
			return out
		}
		t.told = number
	}
	switch {
	case end == 0:
		return append(out, raw...)
	case at < 0: // its data is on several lines
		return relay.Event(out, kind, splice(data, start, end, t.id))
	}
	out = append(append(out, raw[:at+start]...), t.id...)
	return append(out, raw[at+end:]...)
}

// dataOf returns the type and the data of an event, and where in it the data stands; -1:
// it is on several lines.
func dataOf(raw []byte) (kind string, data []byte, at int) {
	at = -1
	for from := 0; from < len(raw); {
		n := bytes.IndexAny(raw[from:], "\r\n")
		if n < 0 {
			n = len(raw) - from
		}
		field, value, _ := bytes.Cut(raw[from:from+n], []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case string(field) == "event":
			kind = string(value)
		case string(field) == "data" && data == nil:
			data, at = value[:len(value):len(value)], from+n-len(value)
		case string(field) == "data":
			data, at = append(append(data, '\n'), value...), -1
		}
		from += n + 1
	}
	return kind, data, at
}

// Ended is the stream of a response that has ended before anything of it was told.
func (t *telling) Ended(job *tasks.Job, request string) []byte {
	if job.Status != tasks.StatusSucceeded && (!t.stays || job.Status == tasks.StatusCanceled) {
		_, body := t.form.Failed(job, request)
		return t.Failed(body)
	}
	return t.Told(responseEvents(responseOf(job), t.after), true)
}

// Failed is an error as an event, in the form that is documented and in the one that is
// sent: SDKs know an error by the second.
func (t *telling) Failed(body []byte) []byte {
	inner := relay.ReadObject(relay.ReadObject(body).Get("error"))
	if inner == nil {
		inner = relay.Object{{Name: "message", Value: jsonwrite.AppendString(nil, string(body))}}
	}
	t.told++
	out := relay.Object{{Name: "type", Value: json.RawMessage(`"error"`)}}
	for _, name := range []string{"code", "message", "param"} {
		v := inner.Get(name)
		if v == nil {
			v = json.RawMessage("null")
		}
		out = append(out, relay.Member{Name: name, Value: v})
	}
	out = append(out, relay.Member{Name: "sequence_number", Value: strconv.AppendInt(nil, t.told, 10)}, relay.Member{Name: "error", Value: inner.JSON()})
	return relay.Event(nil, "error", out.JSON())
}

// responseEvents is the stream of a response that came whole, or failed. Of one all of
// which was told up to the number after, it has the last event once more, under the next
// number: that has the whole response.
func responseEvents(body []byte, after int64) (out []byte) {
	response := relay.ReadObject(body)
	n := int64(0)
	event := func(kind, rest string) {
		out = relay.Event(out, kind, []byte(`{"type":"`+kind+`","sequence_number":`+strconv.FormatInt(n, 10)+rest+`}`))
		n++
	}
	begun := slices.Clone(response)
	for name, value := range map[string]string{"status": `"in_progress"`, "output": "[]", "usage": "null", "error": "null", "incomplete_details": "null"} {
		begun.Set(name, value)
	}
	start := `,"response":` + string(begun.JSON())
	event("response.created", start)
	event("response.in_progress", start)
	for i, item := range relay.ReadList(response.Get("output")) {
		itemEvents(item, `"output_index":`+strconv.Itoa(i), event)
	}
	end := "response.completed"
	if s := response.Text("status"); s == "incomplete" || s == "failed" {
		end = "response." + s
	}
	if n <= after {
		out, n = out[:0], after+1
	}
	event(end, `,"response":`+string(body))
	return out
}

// itemEvents tells an item of the output: as it begins, what it grows by where that is
// known, and as it is.
func itemEvents(raw []byte, place string, event func(kind, rest string)) {
	item := relay.ReadObject(raw)
	begun := slices.Clone(item)
	kind := item.Text("type")
	grows := map[string]string{"function_call": "arguments", "custom_tool_call": "input", "mcp_call": "arguments"}[kind]
	switch {
	case kind == "message":
		begun.Set("content", "[]")
	case grows != "":
		begun.Set(grows, `""`)
	}
	begun.Set("status", `"in_progress"`)
	event("response.output_item.added", ","+place+`,"item":`+string(begun.JSON()))
	id := ""
	if v := item.Get("id"); v != nil {
		id = `,"item_id":` + string(v)
	}
	switch {
	case kind == "message":
		for j, part := range relay.ReadList(item.Get("content")) {
			partEvents(part, id+","+place+`,"content_index":`+strconv.Itoa(j), event)
		}
	case grows != "" && item.Get(grows) != nil:
		value := string(item.Get(grows))
		event("response."+kind+"_"+grows+".delta", id+","+place+`,"delta":`+value)
		event("response."+kind+"_"+grows+".done", id+","+place+`,"`+grows+`":`+value)
	}
	event("response.output_item.done", ","+place+`,"item":`+string(item.JSON()))
}

// partEvents tells a part of a message's content.
func partEvents(raw []byte, place string, event func(kind, rest string)) {
	part := relay.ReadObject(raw)
	member := map[string]string{"output_text": "text", "refusal": "refusal"}[part.Text("type")]
	text := part.Get(member)
	begun := slices.Clone(part)
	if text != nil {
		begun.Set(member, `""`)
	}
	event("response.content_part.added", place+`,"part":`+string(begun.JSON()))
	if text != nil {
		kind := "response." + part.Text("type")
		if string(text) != `""` {
			event(kind+".delta", place+`,"delta":`+string(text))
		}
		event(kind+".done", place+`,"`+member+`":`+string(text))
	}
	event("response.content_part.done", place+`,"part":`+string(part.JSON()))
}
