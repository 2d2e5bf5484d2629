package jsonread

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Sorted writes a JSON value to w as all spellings of it have in common: without white
// space, strings with as few escapes as there may be, numbers as they are written, and the
// members of each object in the order of their names (RFC 8785, 3.2.3). That is what
// jsontext makes with ReorderRawObjects, but nothing of the body is copied: where members
// stand is noted as they go by, 8 bytes each. room is told of the bytes that these notes
// come to take, and its error ends the writing; nil: nobody counts them.
func Sorted(w io.Writer, body []byte, room func(bytes int64) error) error {
	if err := Depth(body); err != nil {
		return err
	}
	s := sorter{body: body, room: room}
	if err := s.read(); err != nil {
		return err
	}
	slices.SortFunc(s.objects, func(a, b object) int { return int(a.at) - int(b.at) })
	s.out = bufio.NewWriter(w)
	s.value(0)
	return s.out.Flush()
}

// member is where a member of an object stands: from its name's quote on, to behind its value.
type member struct{ at, end uint32 }

// object is one whose members are not in order: where it stands, and which are its.
type object struct{ at, end, first, n uint32 }

// nest is an object or array that is being read.
type nest struct {
	at      int
	array   bool
	ordered bool // its members, so far
	name    int  // where the member begins that is being read
	first   int  // of its members among the pending ones
}

type sorter struct {
	body    []byte
	room    func(int64) error
	nests   []nest
	pending []member // of the nests, the innermost's last
	members []member // of objects, in order
	objects []object
	out     *bufio.Writer
}

// read notes the objects whose members are not in order, and says what is wrong with the body.
func (s *sorter) read() error {
	d := jsontext.NewDecoder(bytes.NewBuffer(s.body)) // which it reads in place
	for begun := false; !begun || len(s.nests) > 0; begun = true {
		kind := d.PeekKind()
		var value jsontext.Value
		var err error
		switch kind {
		case '{', '[', '}', ']':
			_, err = d.ReadToken()
		default:
			value, err = d.ReadValue()
		}
		if err != nil {
			return Syntax(err)
		}
		end := int(d.InputOffset())
		if err := s.saw(kind, end-len(value), end); err != nil {
			return err
		}
	}
	if _, err := d.ReadToken(); err == nil || !errors.Is(err, io.EOF) {
		return notJSON("The body is more than one JSON value.")
	}
	return nil
}

// saw takes note of a token.
func (s *sorter) saw(kind jsontext.Kind, at, end int) error {
	switch kind {
	case '{', '[':
		s.nests = append(s.nests, nest{at: end - 1, array: kind == '[', ordered: true, name: -1, first: len(s.pending)})
		return nil
	case '}', ']':
		return s.close(end)
	}
	if top := s.top(); top != nil && !top.array && top.name < 0 {
		top.name = at
		return nil
	}
	return s.ended(end)
}

func (s *sorter) top() *nest {
	if len(s.nests) == 0 {
		return nil
	}
	return &s.nests[len(s.nests)-1]
}

// ended notes the member that a value ends, if it ends one.
func (s *sorter) ended(end int) (err error) {
	top := s.top()
	if top == nil || top.array {
		return nil
	}
	m := member{uint32(top.name), uint32(end)}
	if n := len(s.pending); n > top.first && top.ordered {
		top.ordered = compareNames(s.name(s.pending[n-1]), s.name(m)) < 0
	}
	s.pending, err = add(s, s.pending, m)
	top.name = -1
	return err
}

// close ends the innermost object or array.
func (s *sorter) close(end int) (err error) {
	n := *s.top()
	s.nests = s.nests[:len(s.nests)-1]
	mine := s.pending[n.first:]
	if !n.ordered {
		slices.SortFunc(mine, func(a, b member) int { return compareNames(s.name(a), s.name(b)) })
		o := object{uint32(n.at), uint32(end), uint32(len(s.members)), uint32(len(mine))}
		if s.objects, err = add(s, s.objects, o); err != nil {
			return err
		}
		for _, m := range mine {
			if s.members, err = add(s, s.members, m); err != nil {
				return err
			}
		}
	}
	s.pending = s.pending[:n.first]
	return s.ended(end)
}

// noted is up to how many bytes of notes nobody is told of.
const noted = 32 << 10

// add is append that says how much it takes.
func add[T member | object](s *sorter, list []T, v T) ([]T, error) {
	if len(list) == cap(list) {
		more := max(64, 2*cap(list))
		if bytes := int64(more) * 8; s.room != nil && bytes > noted { // an object counts twice: it has members
			if err := s.room(2 * bytes); err != nil {
				return list, err
			}
		}
		list = append(make([]T, 0, more), list...)
	}
	return append(list, v), nil
}

// name is a member's name between its quotes, as it is written.
func (s *sorter) name(m member) []byte {
	text := s.body[m.at+1:]
	return text[:stringEnd(text)]
}

// value writes the value that stands at or behind a place, and returns what is behind it.
func (s *sorter) value(at int) int {
	at = s.skip(at)
	switch s.body[at] {
	case '"':
		return s.text(at)
	case '{':
		i, found := slices.BinarySearchFunc(s.objects, at, func(o object, at int) int { return int(o.at) - at })
		if !found {
			return s.list(at, '}')
		}
		o := s.objects[i]
		for i, m := range s.members[o.first : o.first+o.n] {
			_ = s.out.WriteByte("{,"[min(i, 1)])
			s.member(int(m.at))
		}
		_ = s.out.WriteByte('}')
		return int(o.end)
	case '[':
		return s.list(at, ']')
	}
	end := at
	for end < len(s.body) && !strings.ContainsRune(",]} \t\r\n", rune(s.body[end])) {
		end++
	}
	_, _ = s.out.Write(s.body[at:end])
	return end
}

// list writes an array, or an object in the order in which it stands.
func (s *sorter) list(at int, end byte) int {
	_ = s.out.WriteByte(s.body[at])
	for at = s.skip(at + 1); s.body[at] != end; at = s.skip(at) {
		if s.body[at] == ',' {
			_ = s.out.WriteByte(',')
			at++
		}
		if end == '}' {
			at = s.member(s.skip(at))
		} else {
			at = s.value(at)
		}
	}
	_ = s.out.WriteByte(end)
	return at + 1
}

func (s *sorter) member(at int) int {
	at = s.skip(s.text(at)) + 1 // the colon
	_ = s.out.WriteByte(':')
	return s.value(at)
}

func (s *sorter) skip(at int) int {
	for at < len(s.body) && strings.IndexByte(" \t\r\n", s.body[at]) >= 0 {
		at++
	}
	return at
}

// text writes the string that stands there, and returns what is behind it.
func (s *sorter) text(at int) int {
	rest := s.body[at+1:]
	n := stringEnd(rest)
	_ = s.out.WriteByte('"')
	for left := rest[:n]; len(left) > 0; {
		plain := bytes.IndexByte(left, '\\')
		if plain < 0 {
			plain = len(left)
		}
		_, _ = s.out.Write(left[:plain])
		if left = left[plain:]; len(left) > 0 {
			var r rune
			r, left = letter(left)
			s.escaped(r)
		}
	}
	_ = s.out.WriteByte('"')
	return at + 1 + n + 1
}

// escaped writes a letter that was an escape, as one where it has to be.
func (s *sorter) escaped(r rune) {
	var room [16]byte
	quoted, _ := jsontext.AppendQuote(room[:0], string(r)) // any rune of valid JSON
	_, _ = s.out.Write(quoted[1 : len(quoted)-1])
}

// letter is the first one of a string as it is written, and what is behind it.
func letter(text []byte) (rune, []byte) {
	if text[0] != '\\' {
		r, n := utf8.DecodeRune(text)
		return r, text[n:]
	}
	switch c := text[1]; c {
	case 'b':
		return '\b', text[2:]
	case 'f':
		return '\f', text[2:]
	case 'n':
		return '\n', text[2:]
	case 'r':
		return '\r', text[2:]
	case 't':
		return '\t', text[2:]
	case 'u':
		r := hex(text[2:6])
		if utf16.IsSurrogate(r) {
			return utf16.DecodeRune(r, hex(text[8:12])), text[12:]
		}
		return r, text[6:]
	default:
		return rune(c), text[2:]
	}
}

func hex(digits []byte) (r rune) {
	for _, c := range digits {
		r <<= 4
		switch {
		case c <= '9':
			r |= rune(c - '0')
		default:
			r |= rune(c|0x20-'a') + 10
		}
	}
	return r
}

// compareNames orders names by their letters in UTF-16, as RFC 8785 does.
func compareNames(a, b []byte) int {
	for len(a) > 0 && len(b) > 0 {
		var x, y rune
		x, a = letter(a)
		y, b = letter(b)
		if x != y {
			if u, v := unit(x), unit(y); u != v {
				return int(u - v)
			}
			return int(x - y)
		}
	}
	return len(a) - len(b)
}

// unit is the first of a letter in UTF-16.
func unit(r rune) rune {
	if high, _ := utf16.EncodeRune(r); high != utf8.RuneError {
		return high
	}
	return r
}
