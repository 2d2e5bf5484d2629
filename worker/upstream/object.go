package upstream

import (
	"bytes"
	"errors"
	"io"
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
}

type member struct {
	name string
	node node
}

type element struct {
	index int64
	obj   *object
}

// get returns the member's node, or nil.
func (o *object) get(name string) *node {
	for i := range o.members {
		if o.members[i].name == name {
			return &o.members[i].node
		}
	}
	return nil
}

// at returns the member's node, added at the end when it was missing.
func (o *object) at(name string) *node {
	if n := o.get(name); n != nil {
		return n
	}
	o.members = append(o.members, member{name: name})
	return &o.members[len(o.members)-1].node
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

// number returns the integer that a JSON number stands for, clamped to what a
// token count or an index can be.
func number(raw []byte) (int64, bool) {
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

// join appends a piece of a value that arrives in pieces: strings and arrays
// grow, anything else is replaced, and a null adds nothing. Strings are joined
// as they are spelt, so a surrogate pair cut in two becomes whole again.
func (n *node) join(piece []byte) (grown int) {
	if isNull(piece) {
		if n.empty() {
			n.raw = bytes.Clone(piece)
			return len(piece)
		}
		return 0
	}
	old := len(n.raw)
	switch {
	case old >= 2 && n.raw[0] == '"' && piece[0] == '"':
		n.raw = append(n.raw[:old-1], piece[1:]...)
	case old >= 2 && n.raw[0] == '[' && piece[0] == '[':
		n.raw = joinArrays(n.raw, piece)
	default:
		n.raw = bytes.Clone(piece)
	}
	return len(n.raw) - old
}

// joinArrays appends the elements of the array b to the array a.
func joinArrays(a, b []byte) []byte {
	left := bytes.TrimRight(a[:len(a)-1], " \t\r\n")
	right := bytes.TrimLeft(b[1:], " \t\r\n")
	if len(left) > 1 && right[0] != ']' {
		left = append(left, ',')
	}
	return append(left, right...)
}

// merge adds the members of a delta to o, as a client of OpenAI's stream does:
// strings and arrays are appended to, objects are merged, lists of indexed
// elements are merged by index, and what names something (id, type, role, or a
// name given again) is kept.
func (o *object) merge(delta []byte, depth int) (grown int, err error) {
	if depth > 32 {
		return 0, errors.New("a delta nested too deeply")
	}
	err = eachMember(delta, func(name string, v jsontext.Value, _, _ int) error {
		n := o.get(name)
		if n == nil {
			n = o.at(name)
			grown += len(name) + 4
		}
		g, err := n.merge(name, v, depth)
		grown += g
		return err
	})
	return grown, err
}

// merge adds a piece of the member name.
func (n *node) merge(name string, v jsontext.Value, depth int) (grown int, err error) {
	if isNull(v) {
		return n.join(v), nil
	}
	switch name {
	case "id", "type", "role":
		if !isNull(n.raw) && len(v) <= len(`""`) {
			return 0, nil
		}
		grown = len(v) - len(n.raw)
		n.raw = bytes.Clone(v)
		return grown, nil
	case "name":
		if bytes.Equal(n.raw, v) {
			return 0, nil
		}
	}
	switch {
	case v[0] == '{':
		if n.obj == nil {
			n.obj = new(object)
			n.raw, n.list = nil, nil
		}
		return n.obj.merge(v, depth+1)
	case v[0] == '[' && indexed(v):
		return n.mergeList(v, depth+1)
	case n.list != nil && v[0] == '[' && len(joinArrays([]byte("[]"), v)) == len("[]"):
		return 0, nil // an empty list beside one that is under way says nothing new
	}
	n.obj, n.list = nil, nil
	return n.join(v), nil
}

var errIndexed = errors.New("has an index")

// indexed reports whether the first element of an array is an object with an
// index, as the pieces of a tool call have.
func indexed(array []byte) bool {
	err := eachElement(array, func(v jsontext.Value) error {
		if v.Kind() == '{' {
			return eachMember(v, func(name string, v jsontext.Value, _, _ int) error {
				if name == "index" && v.Kind() == '0' {
					return errIndexed
				}
				return nil
			})
		}
		return io.EOF
	})
	return err == errIndexed
}

// maxElements bounds the index that a stream may name.
const maxElements = 4096

func (n *node) mergeList(array []byte, depth int) (grown int, err error) {
	n.raw, n.obj = nil, nil
	err = eachElement(array, func(v jsontext.Value) error {
		piece := new(object)
		if _, err := piece.load(v); err != nil {
			return err
		}
		var index int64
		if at := piece.get("index"); at != nil {
			index, _ = number(at.raw)
			at.raw = nil // it belongs to the stream, not to the answer
		}
		e, g, err := findElement(&n.list, index)
		if err != nil {
			return err
		}
		grown += g
		g, err = e.merge(piece.appendTo(nil), depth)
		grown += g
		return err
	})
	return grown, err
}

// findElement returns the element with that index, put in its place when it is new.
func findElement(list *[]element, index int64) (o *object, grown int, err error) {
	if index < 0 || index >= maxElements {
		return nil, 0, errors.New("an index out of bounds")
	}
	i := 0
	for ; i < len(*list); i++ {
		if (*list)[i].index == index {
			return (*list)[i].obj, 0, nil
		}
		if (*list)[i].index > index {
			break
		}
	}
	*list = append(*list, element{})
	copy((*list)[i+1:], (*list)[i:])
	(*list)[i] = element{index: index, obj: new(object)}
	return (*list)[i].obj, 3, nil
}
