package upstream

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

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
// strings and arrays are appended to, objects are merged, calls of tools and
// parts of content are told apart, other lists of indexed elements are merged by
// index, and what names something (id, type, role, or a name given again) is kept.
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
	if grown, known, err := n.mergeKnown(name, v, depth); known {
		return grown, err
	}
	list := v[0] == '['
	switch {
	case v[0] == '{':
		if n.obj == nil {
			n.obj = new(object)
			n.raw, n.list = nil, nil
		}
		return n.obj.merge(v, depth+1)
	case list && firstHas(v, "index", '0'):
		return n.mergeList(v, depth+1)
	case list && n.list != nil && !filled(v):
		return 0, nil // an empty list beside one that is under way says nothing new
	}
	n.obj, n.list = nil, nil
	return n.join(v), nil
}

// mergeKnown adds a piece of a member that has a rule of its own.
func (n *node) mergeKnown(name string, v jsontext.Value, depth int) (grown int, known bool, err error) {
	switch name {
	case "id", "type", "role":
		return n.keep(v), true, nil
	case "name":
		return 0, bytes.Equal(n.raw, v), nil
	case "content", "thinking":
		if n.list != nil || v[0] == '[' && firstHas(v, "type", '"') {
			grown, err = n.mergeParts(v, depth)
			return grown, true, err
		}
	case "tool_calls":
		if v[0] == '[' {
			grown, err = n.mergeCalls(v, depth+1)
			return grown, true, err
		}
	}
	return 0, false, nil
}

// keep takes in what names something, and lets an empty string undo nothing.
func (n *node) keep(v jsontext.Value) (grown int) {
	if !isNull(n.raw) && len(v) <= len(`""`) {
		return 0
	}
	grown = len(v) - len(n.raw)
	n.raw = bytes.Clone(v)
	return grown
}

var errFound = errors.New("found")

// firstHas reports whether the first element of an array is an object that has
// the member, with a value of that kind: the pieces of an indexed list have an
// index, parts of content a type.
func firstHas(array []byte, member string, kind jsontext.Kind) bool {
	err := eachElement(array, func(v jsontext.Value) error {
		if v.Kind() != '{' {
			return io.EOF
		}
		return cmp.Or(eachMember(v, func(name string, v jsontext.Value, _, _ int) error {
			if name == member && v.Kind() == kind {
				return errFound
			}
			return nil
		}), io.EOF)
	})
	return err == errFound
}

func (n *node) mergeList(array []byte, depth int) (grown int, err error) {
	n.raw, n.obj = nil, nil
	err = eachElement(array, func(v jsontext.Value) error {
		piece, index, _, err := readPiece(v)
		if err != nil {
			return err
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

// readPiece reads an element of a list, and takes its index out: that belongs to
// the stream, not to the answer.
func readPiece(v jsontext.Value) (piece *object, index int64, ok bool, err error) {
	piece = new(object)
	if _, err := piece.load(v); err != nil {
		return nil, 0, false, err
	}
	if at := piece.get("index"); at != nil {
		index, ok = number(at.raw)
		at.raw = nil
	}
	return piece, index, ok, nil
}

// mergeCalls adds pieces of calls of tools. A call is known by its id, else by
// its index, else by the order: servers send all calls under index 0, or none, or
// name the id in the first piece alone.
func (n *node) mergeCalls(array []byte, depth int) (grown int, err error) {
	n.raw, n.obj = nil, nil
	if n.list == nil {
		n.list = []element{}
	}
	alone := true // no piece of this list was placed by order
	err = eachElement(array, func(v jsontext.Value) error {
		if v.Kind() != '{' {
			return nil
		}
		piece, index, indexed, err := readPiece(v)
		if err != nil {
			return err
		}
		at := n.callOf(piece, index, indexed, alone)
		alone = alone && indexed
		if at < 0 {
			if !indexed {
				index = maxElements // behind those that have an index
			}
			if index < 0 || index > maxElements || len(n.list) >= maxElements {
				return errors.New("an index out of bounds")
			}
			at = n.lastBelow(index + 1)
			n.list = slices.Insert(n.list, at, element{index: index, obj: new(object)})
			grown += len(",{}")
		}
		g, err := n.list[at].obj.merge(piece.appendTo(nil), depth)
		grown += g
		return err
	})
	return grown, err
}

// callOf returns the place of the call that a piece continues; -1: it begins one.
func (n *node) callOf(piece *object, index int64, indexed, alone bool) int {
	id := text(piece.raw("id"))
	at := len(n.list) - 1
	switch {
	case indexed:
		at = n.lastBelow(index+1) - 1
		if at >= 0 && n.list[at].index != index {
			at = -1
		}
	case id != "":
		for at >= 0 && text(n.list[at].obj.raw("id")) != id {
			at--
		}
	case !alone:
		at = -1
	}
	if at < 0 || begins(piece, n.list[at].obj, indexed) {
		return -1
	}
	return at
}

// begins reports whether a piece begins another call than the one that it would
// continue by its index or by the order.
func begins(piece, call *object, indexed bool) bool {
	id, old := text(piece.raw("id")), text(call.raw("id"))
	if id != "" && old != "" {
		return id != old
	}
	again := named(piece)
	if again == "" || named(call) == "" {
		return false
	}
	// It names a function once more; perhaps the call before is whole.
	return !indexed && again != named(call) || jsontext.Value(arguments(call)).IsValid(lenient)
}

// lastBelow returns how many elements have an index below that one.
func (n *node) lastBelow(index int64) int {
	i, _ := slices.BinarySearchFunc(n.list, index, func(e element, index int64) int { return cmp.Compare(e.index, index) })
	return i
}

// named returns the name of the function that a call calls.
func named(call *object) string {
	return text(within(call, "function", "name"))
}

// arguments returns the arguments of a call so far.
func arguments(call *object) []byte {
	raw := within(call, "function", "arguments")
	if len(raw) > 0 && raw[0] == '"' {
		return []byte(text(raw))
	}
	return raw
}

// within returns the raw value of a member of a member, assembled or as it came.
func within(o *object, name, inner string) (raw []byte) {
	n := o.get(name)
	switch {
	case n == nil:
		return nil
	case n.obj != nil:
		return n.obj.raw(inner)
	case len(n.raw) > 0 && n.raw[0] == '{':
		_ = eachMember(n.raw, func(name string, v jsontext.Value, _, _ int) error { // read once already
			if name == inner {
				raw = v
			}
			return nil
		})
	}
	return raw
}

// mergeParts adds to a content that is a list of parts, or becomes one: a string
// is a part of text. A piece of the kind of the last part continues it, so that
// the list is what the answer would hold if it were not streamed.
func (n *node) mergeParts(v jsontext.Value, depth int) (grown int, err error) {
	before := 0
	if n.list == nil {
		before = len(n.raw)
		old := n.raw
		n.raw, n.obj, n.list = nil, nil, []element{}
		if len(old) > len(`""`) && old[0] == '"' {
			grown += n.addPart(textPart(old), depth)
		}
	}
	if v.Kind() == '"' {
		if len(v) > len(`""`) {
			grown += n.addPart(textPart(v), depth)
		}
		return grown - before, nil
	}
	err = eachElement(v, func(part jsontext.Value) error {
		switch part.Kind() {
		case '"':
			grown += n.addPart(textPart(part), depth)
		case '{':
			grown += n.addPart(part, depth)
		}
		return nil
	})
	return grown - before, err
}

func textPart(s []byte) []byte {
	return append(append([]byte(`{"type":"text","text":`), s...), '}')
}

// addPart adds a part, or what continues the last one.
func (n *node) addPart(part []byte, depth int) (grown int) {
	piece := new(object)
	if _, err := piece.load(part); err != nil {
		return 0 // read once already
	}
	kind := text(piece.raw("type"))
	last := len(n.list) - 1
	continues := last >= 0 && (kind == "text" || kind == "thinking") && text(n.list[last].obj.raw("type")) == kind
	if !continues {
		n.list = append(n.list, element{obj: new(object)})
		last++
		grown += len(",{}")
	}
	g, err := n.list[last].obj.merge(part, depth+1)
	if err != nil {
		return grown // too deep: what has come stays
	}
	return grown + g
}
