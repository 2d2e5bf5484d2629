package jsonread

import (
	"bytes"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// Whoever wrote something else than JSON is told which rule was broken, and nothing of
// what was written.
func TestASyntaxErrorNamesTheRule(t *testing.T) {
	for given, want := range map[string]string{
		`{"p":"\ud83d"}`:     "half of a surrogate pair",
		`{"p":"x \udc00 y"}`: "half of a surrogate pair",
		"{\"p\":\"\xe9\"}":   "not UTF-8",
		"{\"p\":\"a\nb\"}":   "written as an escape",
		"{\"p\":\"a\tb\"}":   "written as an escape",
		`{"p":"\x41"}`:       "no such escape",
		`{'p':1}`:            "double quotes",
		`{"p":'x'}`:          "double quotes",
		`{p:1}`:              "double quotes",
		`{"a":1,}`:           "after the last comma",
		`[1,]`:               "after the last comma",
		`// x`:               "no comments",
		`# x`:                "no comments",
		`{"p" 1}`:            "a colon",
		`{"a":1 "b":2}`:      "a comma or the end",
		`[1 2]`:              "a comma or the end",
		`{"p":01}`:           "a comma or the end",
		`{"p":NaN}`:          "a number, true",
		`{"p":None}`:         "a number, true",
		`{"p":-Infinity}`:    "not a number",
		`SECRET`:             "a number, true",
	} {
		_, err := jsontext.NewDecoder(bytes.NewBufferString(given)).ReadValue()
		if err == nil {
			t.Errorf("%s is read", given)
			continue
		}
		if said := Syntax(err).Detail; !strings.Contains(said, want) || !strings.Contains(said, "byte ") || strings.Contains(said, "SECRET") {
			t.Errorf("%s: %q, want %q", given, said, want)
		}
	}
}
