// Package jsonread reads what a caller sends as JSON, strictly and once: values
// are checked as they go by, and keep pointing into the body.
//
// It promises that every failure is an [Error] that names the member or the
// place at fault and repeats no value, and that nothing recurses into a body
// before its depth is checked. It knows no route and no form of answer: a
// dialect makes its own answer of an [Error].
package jsonread

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxDepth is the most levels of nested arrays and objects.
const MaxDepth = 128

const maxNameShown = 64 // bytes of a member's name that a detail repeats

// Error is what is wrong with a body.
type Error struct {
	Syntax bool // it is not JSON at all; else a value is not what its member takes
	Detail string
	at     int64 // the byte of the body, of a syntax error
}

func (e *Error) Error() string { return e.Detail }

func notJSON(format string, args ...any) *Error {
	return &Error{Syntax: true, Detail: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) *Error {
	return &Error{Detail: fmt.Sprintf(format, args...)}
}

// MaxMembers is the most members of an object, with those of the objects that it lies in:
// the parser keeps the names of all of them, in some ten times their bytes.
const MaxMembers = 100_000

// Depth refuses arrays and objects nested deeper than any prompt needs, before
// anything recurses into them, and more members than a parser is to remember. What is not
// JSON passes: the parser will say so.
func Depth(body []byte) error {
	depth, open := 0, 0
	var members [MaxDepth + 1]int
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case ':':
			members[depth]++
			if open++; open > MaxMembers {
				return notJSON("Objects have more than %d members.", MaxMembers)
			}
		case '"':
			n := stringEnd(body[i+1:])
			if n < 0 {
				return nil
			}
			i += 1 + n
		case '[', '{':
			if depth++; depth > MaxDepth {
				return notJSON("Arrays and objects are nested deeper than %d levels.", MaxDepth)
			}
		case ']', '}':
			if depth > 0 {
				open, members[depth] = open-members[depth], 0
				depth--
			}
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

// Syntax says where the JSON parser failed, and repeats nothing but the names of members.
func Syntax(err error) *Error {
	var s *jsontext.SyntacticError
	if !errors.As(err, &s) {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return notJSON("The body ends before its JSON value does.")
		}
		return notJSON("The body is not one JSON object in UTF-8.")
	}
	where := ""
	if s.JSONPointer != "" {
		where = " at " + Clip(string(s.JSONPointer))
	}
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return notJSON("The member%s is given twice.", where)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return notJSON("The body ends before its JSON value does.")
	}
	return &Error{Syntax: true, Detail: fmt.Sprintf("Syntax error%s, byte %d%s.", where, s.ByteOffset, rule(s.Err)), at: s.ByteOffset}
}

// syntax is [Syntax], and tells the line and the column as well, both from 1; of a body of one line the column alone.
func (r *Reader) syntax(err error) *Error {
	e := Syntax(err)
	if e.at < 0 || e.at > int64(len(r.body)) || !strings.Contains(e.Detail, ", byte ") {
		return e
	}
	before := r.body[:e.at]
	line, begin := 1+bytes.Count(before, []byte{'\n'}), 1+bytes.LastIndexByte(before, '\n')
	place := fmt.Sprintf(", column %d, byte ", 1+utf8.RuneCount(before[begin:]))
	if line > 1 {
		place = fmt.Sprintf(", line %d%s", line, place)
	}
	e.Detail = strings.Replace(e.Detail, ", byte ", place, 1)
	return e
}

// rules are what is often written in place of JSON, by what the parser says of it.
var rules = []struct{ says, rule string }{
	{"surrogate", "half of a surrogate pair is escaped there, as a cut emoji leaves it"},
	{"invalid UTF-8", "what stands there is not UTF-8"},
	{"non-control character", `a line break, a tab or another control character in a text is written as an escape, as in \n`},
	{"escape sequence", "there is no such escape; a backslash is written twice"},
	{`'\'' at start`, "names and texts stand between double quotes"},
	{"'}' at start", "nothing may stand after the last comma"},
	{"']' at start", "nothing may stand after the last comma"},
	{"'/' at start", "JSON has no comments"},
	{"'#' at start", "JSON has no comments"},
	{"at start of string", "a name between double quotes has to stand there"},
	{"after object name", "a colon has to stand there"},
	{"after object value", "a comma or the end has to stand there"},
	{"after array", "a comma or the end has to stand there"},
	{"at start of value", "a text between double quotes, a number, true, false, null, a list or an object has to stand there"},
	{"in number", "it is not a number as JSON has them"},
}

// rule says which rule of JSON was broken, with nothing of what was written; "" for one
// that is not known.
func rule(err error) string {
	if err == nil {
		return ""
	}
	for _, r := range rules {
		if strings.Contains(err.Error(), r.says) {
			return ": " + r.rule
		}
	}
	return ""
}

// Clip quotes what a caller named, shortened to what may be repeated.
func Clip(name string) string {
	if len(name) <= maxNameShown {
		return strconv.Quote(name)
	}
	name = name[:maxNameShown]
	for name != "" && !utf8.ValidString(name) {
		name = name[:len(name)-1]
	}
	return strconv.Quote(name + "…")
}

// Unquote returns the text of a JSON string that the parser has passed.
func Unquote(raw jsontext.Value) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	text, _ := jsontext.AppendUnquote(nil, raw)
	return string(text)
}

// Unknown is the error of a member that the object does not have.
func Unknown(name string) error { return invalid("The member %s is unknown.", Clip(name)) }

// Reader reads one body value by value. Each of its methods fails with an
// [*Error], or with the error of the function that it was given.
type Reader struct {
	d    *jsontext.Decoder
	body []byte
}

// New returns a reader at the beginning of a body that is not nested too deeply.
func New(body []byte) (*Reader, error) {
	if err := Depth(body); err != nil {
		return nil, err
	}
	return &Reader{d: jsontext.NewDecoder(bytes.NewBuffer(body)), body: body}, nil
}

// Kind returns the kind of the next value, token or end: see [jsontext.Kind]; 0
// where there is none.
func (r *Reader) Kind() jsontext.Kind { return r.d.PeekKind() }

// Skip consumes the next value.
func (r *Reader) Skip() error {
	if err := r.d.SkipValue(); err != nil {
		return r.syntax(err)
	}
	return nil
}

func (r *Reader) token() error {
	if _, err := r.d.ReadToken(); err != nil {
		return r.syntax(err)
	}
	return nil
}

func (r *Reader) value() (jsontext.Value, error) {
	v, err := r.d.ReadValue()
	if err != nil {
		return nil, r.syntax(err)
	}
	return v, nil
}

// Object reads a body that must be one object as [Reader.Members] does, and fails
// when anything follows.
func (r *Reader) Object(visit func(name string) error) error {
	if k := r.Kind(); k != '{' && k != 0 {
		return invalid("The body must be a JSON object.")
	}
	if _, err := r.Members(visit); err != nil {
		return err
	}
	if _, err := r.d.ReadToken(); !errors.Is(err, io.EOF) {
		return notJSON("Something follows the JSON object.")
	}
	return nil
}

// Members calls visit with the name of each member of the object that comes
// next, and returns the object's bytes; visit consumes the value.
func (r *Reader) Members(visit func(name string) error) ([]byte, error) {
	return r.between('}', func() error {
		name, err := r.value()
		if err != nil {
			return err
		}
		return visit(Unquote(name))
	})
}

// List calls visit with the position of each element of the list that comes
// next, and returns the list's bytes; visit consumes the element.
func (r *Reader) List(visit func(i int) error) ([]byte, error) {
	i := -1
	return r.between(']', func() error {
		i++
		return visit(i)
	})
}

func (r *Reader) between(end jsontext.Kind, visit func() error) ([]byte, error) {
	if err := r.token(); err != nil {
		return nil, err
	}
	start := int(r.d.InputOffset()) - 1
	for r.Kind() != end {
		if err := visit(); err != nil {
			return nil, err
		}
	}
	if err := r.token(); err != nil {
		return nil, err
	}
	stop := int(r.d.InputOffset())
	return r.body[start:stop:stop], nil
}

// Offset is where the last value that was consumed ends in the body.
func (r *Reader) Offset() int { return int(r.d.InputOffset()) }

// Raw consumes the next value and returns its bytes as they stand in the body.
func (r *Reader) Raw() ([]byte, error) {
	v, err := r.value()
	if err != nil {
		return nil, err
	}
	end := int(r.d.InputOffset())
	return r.body[end-len(v) : end : end], nil
}

// Text consumes a string of any length; name is how an error calls it.
func (r *Reader) Text(name string) (string, error) {
	if k := r.Kind(); k != '"' {
		return "", r.Wrong(k, name, "a string")
	}
	v, err := r.value()
	if err != nil {
		return "", err
	}
	return Unquote(v), nil
}

// longestEscape is how many bytes stand for one of a text at most, as in \u0041.
const longestEscape = 6

// Word consumes a string of 1 to most bytes.
func (r *Reader) Word(name string, most int) (string, error) {
	if k := r.Kind(); k != '"' {
		return "", r.Wrong(k, name, "a string")
	}
	v, err := r.value()
	if err != nil {
		return "", err
	}
	s := ""
	if len(v) <= longestEscape*most+2 { // a longer one is not copied to be refused
		s = Unquote(v)
	}
	if s == "" || len(s) > most {
		return "", invalid("The member %q must be 1 to %d bytes long.", name, most)
	}
	return s, nil
}

// Wrong is the error of a value of another kind than wanted: the parser's own
// when there is no value at all.
func (r *Reader) Wrong(k jsontext.Kind, name, want string) error {
	switch k {
	case 'n', 't', 'f', '"', '0', '{', '[':
	default:
		if err := r.Skip(); err != nil {
			return err
		}
	}
	return invalid("The member %s must be %s.", Clip(name), want)
}

// Count consumes a whole number from 1 to most.
func (r *Reader) Count(name string, most int) (int, error) {
	if k := r.Kind(); k != '0' {
		return 0, r.Wrong(k, name, "a whole number")
	}
	v, err := r.value()
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(string(v))
	if err != nil || n < 1 || n > most {
		return 0, invalid("The member %q must be a whole number from 1 to %d.", name, most)
	}
	return n, nil
}

// Moment consumes an RFC 3339 time, kept to the millisecond.
func (r *Reader) Moment(name string) (t time.Time, err error) {
	if k := r.Kind(); k != '"' {
		return t, r.Wrong(k, name, "a time in the form of RFC 3339")
	}
	v, err := r.value()
	if err != nil {
		return t, err
	}
	t, ok := Time(Unquote(v))
	if !ok {
		return t, invalid("The member %q must be a time in the form of RFC 3339, such as 2030-01-31T12:00:00Z.", name)
	}
	return t, nil
}

// Time reads an RFC 3339 time, kept to the millisecond.
func Time(text string) (t time.Time, ok bool) {
	if err := t.UnmarshalText([]byte(text)); err != nil || !strictTime(text) {
		return time.Time{}, false
	}
	return t.UTC().Truncate(time.Millisecond), true
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
