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

// The names of all members that are open at once are remembered, and no more of them.
func TestMembersThatAParserHasToRemember(t *testing.T) {
	t.Parallel()
	object := func(members int) string {
		return "{" + strings.TrimSuffix(strings.Repeat(`"a::{[":1,`, members), ",") + "}"
	}
	const half = MaxMembers / 2
	for body, ok := range map[string]bool{
		object(MaxMembers):     true,
		object(MaxMembers + 1): false,
		"[" + object(MaxMembers) + "," + object(MaxMembers) + "]":                         true, // one after the other
		strings.TrimSuffix(object(half), "}") + `,"in":` + object(half-1) + "}":           true,
		strings.TrimSuffix(object(half), "}") + `,"in":` + object(half) + "}":             false,
		`{"a":` + object(MaxMembers-1) + `,"b":` + object(MaxMembers-2) + `}`:             true,
		strings.Repeat("]", 300) + strings.Repeat("}", 300) + object(MaxMembers):          true, // the parser refuses it
		`{"p":"` + strings.Repeat("a: {", 2*MaxMembers) + `"}`:                            true,
		`[` + strings.TrimSuffix(strings.Repeat(`{"a":{"b":1}},`, MaxMembers), ",") + `]`: true,
		strings.Repeat(`{"a":`, MaxDepth) + "1" + strings.Repeat("}", MaxDepth):           true,
		strings.Repeat(`[`, MaxDepth) + object(1) + strings.Repeat("]", MaxDepth):         false, // too deep
	} {
		if err := Depth([]byte(body)); (err == nil) != ok {
			t.Errorf("%.60s (%d bytes): %v", body, len(body), err)
		}
	}
}
