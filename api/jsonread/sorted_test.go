package jsonread

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// library is what jsontext makes of a value: fingerprints of requests are kept over releases.
func library(body string) (string, error) {
	v := jsontext.Value(body)
	err := v.Format(jsontext.ReorderRawObjects(true))
	return string(v), err
}

var spellings = []string{
	`{}`, ` [ ] `, `"x"`, ` 1 `, `-0`, `1e5`, `null`, "\n{ \"b\" : [ 1 , { \"d\":1 , \"c\":{} } ] ,\t\"a\":\"\" }\r\n",
	`{"b":1,"a":{"z":[{"y":1,"x":2},{"x":1,"y":2}],"k":true}}`, `[{"b":1,"a":1},{"a":1,"b":1},[[{"b":{"d":4,"c":3},"a":0}]]]`,
	`{"\u0062":1,"a":2}`, `{"ab":1,"a":2,"":3}`, `{"\ud83d\ude00":1,"\ufb33":2,"é":3,"\r":4,"1":5,"€":6,"\u0080":7}`,
	`["\u0041\/\\\"\b\f\n\r\t\u001f\u007f\u2028 😀 \ud83d\ude00\u00e9<>&"]`, `{"a\"b":1,"a":2,"a\\":3}`,
	`{"s":"{\"b\":1,\"a\":2}","a":"]}"}`, `{"b":"","a":[]}`,
}

func TestSortedIsWhatTheLibraryMakes(t *testing.T) {
	t.Parallel()
	for _, body := range spellings {
		same(t, body)
	}
	dice := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		same(t, value(dice, 4))
	}
}

func same(t *testing.T, body string) {
	t.Helper()
	want, bad := library(body)
	var got bytes.Buffer
	before := strings.Clone(body)
	err := Sorted(&got, []byte(body), nil)
	if (err == nil) != (bad == nil) || err == nil && got.String() != want || body != before {
		t.Errorf("%q is %q, %v; want %q, %v", body, &got, err, want, bad)
	}
}

// value is any one, of so many levels.
func value(dice *rand.Rand, deep int) string {
	space := func() string { return []string{"", " ", "\n\t"}[dice.IntN(3)] }
	text := func() string {
		letters := []string{"a", "b", `\u0061`, `\/`, `\n`, `\"`, "é", "😀", `\ud83d\ude01`, "\uffff", `\u0000`}
		var b strings.Builder
		for range dice.IntN(4) {
			b.WriteString(letters[dice.IntN(len(letters))])
		}
		return `"` + b.String() + `"`
	}
	var parts []string
	switch n := dice.IntN(6); {
	case deep > 0 && n < 2:
		for range dice.IntN(4) {
			parts = append(parts, space()+text()+space()+":"+value(dice, deep-1))
		}
		return space() + "{" + strings.Join(parts, ",") + space() + "}" + space()
	case deep > 0 && n < 4:
		for range dice.IntN(4) {
			parts = append(parts, value(dice, deep-1))
		}
		return space() + "[" + strings.Join(parts, ",") + space() + "]" + space()
	case n == 4:
		return space() + text()
	}
	return space() + []string{"1", "-1.50e+7", "true", "null", "false"}[dice.IntN(5)] + space()
}

func TestSortedSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		``: "ends before", ` `: "ends before", `{"a":1`: "ends before", `{"a":1,"a":2}`: "given twice", `{"a":[{"b":1,"\u0062":1}]}`: "given twice",
		`[1,]`: "Syntax error", `{} {}`: "more than one", `{}x`: "more than one", `"\ud800"`: "surrogate", "\"\xff\"": "not UTF-8", strings.Repeat("[", 200): "deeper", `]`: "Syntax error",
	} {
		var e *Error
		if err := Sorted(&bytes.Buffer{}, []byte(body), nil); !errors.As(err, &e) || !strings.Contains(e.Detail, want) {
			t.Errorf("%q: %v; want %q", body, err, want)
		}
	}
}

// A long body is not copied, and notes that take much are counted. It runs alone: what
// others take would count too.
func TestSortedCopiesNothing(t *testing.T) {
	long := fmt.Appendf(nil, `{"b":"%s\n%[1]s","a":["%[1]s"]}`, strings.Repeat("x", 1<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := Sorted(io.Discard, long, nil); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 64<<10 {
		t.Errorf("%d bytes are taken for a body of %d", took, len(long))
	}
	many := []byte("[" + strings.Repeat(`{"b":1,"a":1},`, 5000) + "1]")
	var counted int64
	if err := Sorted(io.Discard, many, func(n int64) error { counted += n; return nil }); err != nil || counted < 5000*32 {
		t.Errorf("of %d bytes %d are counted for notes, %v", len(many), counted, err)
	}
	if err := Sorted(io.Discard, many, func(int64) error { return errors.ErrUnsupported }); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("without room: %v", err)
	}
}

func FuzzSorted(f *testing.F) {
	for _, body := range spellings {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if Depth([]byte(body)) == nil {
			same(t, body)
		}
	})
}
