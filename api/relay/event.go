package relay

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/sluicehq/sluice/api/jsonwrite"
)

// Event appends a server-sent event whose data is JSON, on one line; without a kind, the
// event has data alone.
func Event(b []byte, kind string, data []byte) []byte {
	if kind != "" {
		b = append(append(append(b, "event: "...), kind...), '\n')
	}
	var line bytes.Buffer
	if json.Compact(&line, data) != nil { // no JSON
		line.Reset()
		line.Write(jsonwrite.AppendString(nil, string(data)))
	}
	b = append(append(b, "data: "...), line.Bytes()...)
	return append(b, "\n\n"...)
}

// Member is a member of a JSON object, its value as it stands there.
type Member struct {
	Name  string
	Value json.RawMessage
}

// Object is a JSON object, in its own order.
type Object []Member

// ReadObject reads an object; what is none has no members.
func ReadObject(doc []byte) (o Object) {
	dec := json.NewDecoder(bytes.NewReader(doc))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return o
		}
		var m Member
		m.Name, _ = name.(string)
		if dec.Decode(&m.Value) != nil {
			return o
		}
		o = append(o, m)
	}
	return o
}

// ReadList reads a list; what is none has no elements.
func ReadList(doc []byte) (list []json.RawMessage) {
	_ = json.Unmarshal(doc, &list)
	return list
}

// Get returns the value of a member, nil where there is none.
func (o Object) Get(name string) json.RawMessage {
	if i := o.find(name); i >= 0 {
		return o[i].Value
	}
	return nil
}

// Text returns the text of a member that is a string, "" of any other.
func (o Object) Text(name string) (s string) {
	_ = json.Unmarshal(o.Get(name), &s)
	return s
}

// Set gives a member a value, as JSON, where the object has it.
func (o Object) Set(name, value string) {
	if i := o.find(name); i >= 0 {
		o[i].Value = json.RawMessage(value)
	}
}

// Without returns the object without some members.
func (o Object) Without(names ...string) Object {
	return slices.DeleteFunc(slices.Clone(o), func(m Member) bool { return slices.Contains(names, m.Name) })
}

func (o Object) find(name string) int {
	return slices.IndexFunc(o, func(m Member) bool { return m.Name == name })
}

// JSON writes the object.
func (o Object) JSON() []byte {
	b := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(jsonwrite.AppendString(b, m.Name), ':')
		b = append(b, m.Value...)
	}
	return append(b, '}')
}
