// Package jsonwrite writes a JSON object member by member onto a buffer.
//
// It promises that what is appended raw comes out byte for byte: a result has
// to leave as the provider sent it, which no marshaller does, and this is the
// hot path. It never looks at a value by reflection, and knows no form of answer.
package jsonwrite

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// timeFormat is RFC 3339 with the milliseconds that the record has.
const timeFormat = "2006-01-02T15:04:05.000Z"

// Object is one JSON object under way. The zero value begins one; B may hold
// what goes before.
type Object struct {
	B     []byte
	begun bool
}

func (o *Object) begin() {
	if o.begun {
		o.B = append(o.B, ',')
	} else {
		o.B, o.begun = append(o.B, '{'), true
	}
}

// Name begins a member, whose value is to be appended to B. The name needs no escaping.
func (o *Object) Name(name string) {
	o.begin()
	o.B = append(append(append(o.B, '"'), name...), '"', ':')
}

// End closes the object and returns the buffer.
func (o *Object) End() []byte {
	if !o.begun {
		o.B = append(o.B, '{')
	}
	return append(o.B, '}')
}

// Pair writes a member whose name may be anything.
func (o *Object) Pair(name, v string) {
	o.begin()
	o.B = append(AppendString(o.B, name), ':')
	o.B = AppendString(o.B, v)
}

// Str writes a string.
func (o *Object) Str(name, v string) { o.Name(name); o.B = AppendString(o.B, v) }

// Optional writes a string, and null for "".
func (o *Object) Optional(name, v string) {
	if v == "" {
		o.Null(name)
		return
	}
	o.Str(name, v)
}

// Num writes a whole number.
func (o *Object) Num(name string, v int64) { o.Name(name); o.B = strconv.AppendInt(o.B, v, 10) }

// Raw writes a member whose value is JSON already.
func (o *Object) Raw(name, v string) { o.Name(name); o.B = append(o.B, v...) }

// Bool writes true or false.
func (o *Object) Bool(name string, v bool) { o.Name(name); o.B = strconv.AppendBool(o.B, v) }

// Null writes null.
func (o *Object) Null(name string) { o.Name(name); o.B = append(o.B, "null"...) }

// Time writes a time, and null for the zero time.
func (o *Object) Time(name string, t time.Time) {
	if t.IsZero() {
		o.Null(name)
		return
	}
	o.Name(name)
	o.B = append(t.UTC().AppendFormat(append(o.B, '"'), timeFormat), '"')
}

// OptionalNum writes a whole number, and null for 0.
func (o *Object) OptionalNum(name string, v int64) {
	if v == 0 {
		o.Null(name)
		return
	}
	o.Num(name, v)
}

// Within runs write on an object inside this one.
func (o *Object) Within(name string, write func(*Object)) {
	o.Name(name)
	inner := Object{B: o.B}
	write(&inner)
	o.B = inner.End()
}

// List writes a list of n elements, each appended by each.
func (o *Object) List(name string, n int, each func(b []byte, i int) []byte) {
	o.Name(name)
	o.B = append(o.B, '[')
	for i := range n {
		if i > 0 {
			o.B = append(o.B, ',')
		}
		o.B = each(o.B, i)
	}
	o.B = append(o.B, ']')
}

// Strs writes a list of strings.
func (o *Object) Strs(name string, list []string) {
	o.List(name, len(list), func(b []byte, i int) []byte { return AppendString(b, list[i]) })
}

// AppendString appends a quoted string. Invalid UTF-8 is replaced.
func AppendString(b []byte, s string) []byte {
	b, _ = jsontext.AppendQuote(b, s) // invalid UTF-8 is its only error
	return b
}
