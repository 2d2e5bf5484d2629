package upstream

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// lenient reads JSON as its writer meant it: a name given twice and a lone
// surrogate are the other side's business, and pass unchanged.
var lenient = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

var (
	errNotObject = errors.New("not a JSON object")
	errTrailing  = errors.New("data after the JSON value")
)

// eachMember calls f for every member of the JSON object in data, in order.
// value aliases data; start and end are its offsets there. f may be called before a fault further on is found.
func eachMember(data []byte, f func(name string, value jsontext.Value, start, end int) error) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(data), lenient)

	t, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if t.Kind() != '{' {
		return errNotObject
	}
	for dec.PeekKind() != '}' {
		t, err := dec.ReadToken()
		if err != nil {
			return err
		}
		name := t.String()
		v, err := dec.ReadValue()
		if err != nil {
			return err
		}
		end := int(dec.InputOffset())
		if err := f(name, v, end-len(v), end); err != nil {
			return err
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	if _, err := dec.ReadToken(); err == nil {
		return errTrailing
	} else if err != io.EOF {
		return err
	}
	return nil
}

// eachElement calls f for every element of the JSON array in data.
func eachElement(data []byte, f func(value jsontext.Value) error) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(data), lenient)

	t, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if t.Kind() != '[' {
		return errors.New("not a JSON array")
	}
	for dec.PeekKind() != ']' {
		v, err := dec.ReadValue()
		if err != nil {
			return err
		}
		if err := f(v); err != nil {
			return err
		}
	}
	_, err = dec.ReadToken()
	return err
}

// node is a JSON value that grows from pieces. It is either opaque (raw, as
// its writer spelt it), an object, or a list whose elements carry an index.
type node struct {
	raw  []byte
	obj  *object
	list []element
}

// object is a JSON object under assembly; its members keep their order.
type object struct {
	members []member
	places  map[string]int // of many members
}

type member struct {
	name string
	node node
}

type element struct {
	index int64
	obj   *object
}

// fewMembers is up to how many members are looked through one by one.
const fewMembers = 16

// get returns the member's node, or nil.
func (o *object) get(name string) *node {
	if o.places != nil {
		if i, ok := o.places[name]; ok {
			return &o.members[i].node
		}
		return nil
	}
	for i := range o.members {
		if o.members[i].name == name {
			return &o.members[i].node
		}
	}
	return nil
}

// raw returns the member's value as it came, or nil.
func (o *object) raw(name string) []byte {
	if n := o.get(name); n != nil {
		return n.raw
	}
	return nil
}

// at returns the member's node, added at the end when it was missing.
func (o *object) at(name string) *node {
	if n := o.get(name); n != nil {
		return n
	}
	o.members = append(o.members, member{name: name})
	last := len(o.members) - 1
	if last == fewMembers {
		o.places = make(map[string]int, 4*fewMembers)
		for i := range o.members {
			o.places[o.members[i].name] = i
		}
	} else if o.places != nil {
		o.places[name] = last
	}
	return &o.members[last].node
}

// set gives the member a copy of raw, and returns by how much o grew.
func (o *object) set(name string, raw []byte) int {
	n := o.get(name)
	grown := 0
	if n == nil {
		n = o.at(name)
		grown = len(name) + 4 // two quotes, colon, comma
	}
	grown += len(raw) - len(n.raw)
	n.raw, n.obj, n.list = bytes.Clone(raw), nil, nil
	return grown
}

// load adds the members of the object in data, replacing those that exist; a
// null replaces nothing.
func (o *object) load(data []byte) (grown int, err error) {
	err = eachMember(data, func(name string, v jsontext.Value, _, _ int) error {
		if old := o.get(name); old != nil && isNull(v) {
			return nil
		}
		grown += o.set(name, v)
		return nil
	})
	return grown, err
}

// appendTo writes the object's JSON.
func (o *object) appendTo(b []byte) []byte {
	b = append(b, '{')
	first := true
	for i := range o.members {
		m := &o.members[i]
		if m.node.empty() {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, m.name)
		b = append(b, ':')
		b = m.node.appendTo(b)
	}
	return append(b, '}')
}

func (n *node) empty() bool { return n.raw == nil && n.obj == nil && n.list == nil }

func (n *node) appendTo(b []byte) []byte {
	switch {
	case n.obj != nil:
		return n.obj.appendTo(b)
	case n.list != nil:
		b = append(b, '[')
		for i, e := range n.list {
			if i > 0 {
				b = append(b, ',')
			}
			b = e.obj.appendTo(b)
		}
		return append(b, ']')
	}
	return append(b, n.raw...)
}

// appendString writes s as a JSON string.
func appendString(b []byte, s string) []byte {
	q, _ := jsontext.AppendQuote(b, s) // the error is about bytes that are not UTF-8; it has replaced them
	return q
}

// filled reports whether a string, a list or an object holds anything.
func filled(v jsontext.Value) bool {
	switch v.Kind() {
	case '"':
		return len(v) > len(`""`)
	case '[', '{':
		return len(bytes.TrimSpace(v[1:len(v)-1])) > 0
	}
	return false
}

// isNull reports whether raw is absent or the JSON null.
func isNull(raw []byte) bool { return len(raw) == 0 || raw[0] == 'n' }

// text returns the Go string of a JSON string, and "" for any other value.
func text(raw []byte) string {
	if len(raw) < 2 || raw[0] != '"' {
		return ""
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	b, err := jsontext.AppendUnquote(nil, raw)
	if err != nil && b == nil {
		return ""
	}
	return string(b)
}

// number returns the integer that a JSON number stands for, or a string that
// holds one, clamped to what a token count or an index can be.
func number(raw []byte) (int64, bool) {
	if s := text(raw); s != "" {
		raw = []byte(s)
	}
	if len(raw) == 0 || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, false
	}
	if i, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return i, true
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f != f || f > 1<<53 || f < -(1<<53) {
		return 0, false
	}
	return int64(f), true
}

// count is number for a count of tokens: never negative.
func count(raw []byte) int64 {
	n, _ := number(raw)
	return max(n, 0)
}

// maxElements bounds the index that a stream may name.
const maxElements = 4096

// findElement returns the element with that index, the last if there are more,
// put in its place when it is new.
func findElement(list *[]element, index int64) (o *object, grown int, err error) {
	if index < 0 || index >= maxElements {
		return nil, 0, errors.New("an index out of bounds")
	}
	i, _ := slices.BinarySearchFunc(*list, index+1, func(e element, index int64) int { return cmp.Compare(e.index, index) })
	if i > 0 && (*list)[i-1].index == index {
		return (*list)[i-1].obj, 0, nil
	}
	*list = slices.Insert(*list, i, element{index: index, obj: new(object)})
	return (*list)[i].obj, len(",{}"), nil
}
