package limit

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What a script reads of its arguments is always there, also when it is zero, and
// what is sent is read and explained.
func TestArgumentsAreTheSameInGoAndLua(t *testing.T) {
	t.Parallel()
	keys := func(v any) []string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		return slices.Sorted(maps.Keys(m))
	}
	uses := regexp.MustCompile(`\ba\.(\w+)`)
	all := keys(&common{})
	for _, c := range []struct {
		script *script
		args   arguments
		parts  [][]string // names inside an argument
	}{
		{takeScript, &takeArgs{}, [][]string{keys(callArgs{})}},
		{settleScript, &settleArgs{Headers: &headersArgs{}}, [][]string{keys(headersArgs{})}},
		{renewScript, &renewArgs{}, nil},
		{steerScript, &steerArgs{}, nil},
		{leaveScript, &common{}, nil},
		{peekScript, &common{}, nil},
		{describeScript, &common{}, nil},
	} {
		sent, read := keys(c.args), map[string]bool{}
		for _, file := range append(slices.Clone(c.script.chapters), c.script.name) {
			for _, m := range uses.FindAllStringSubmatch(code(t, file), -1) {
				read[m[1]] = true
			}
		}
		for name := range read {
			if !slices.Contains(sent, name) {
				t.Errorf("%s.lua or a chapter of it reads a.%s, which is not sent", c.script.name, name)
			}
		}
		own := slices.DeleteFunc(sent, func(name string) bool { return slices.Contains(all, name) })
		for _, name := range own {
			if !read[name] {
				t.Errorf("%s.lua is sent %s, which it does not read", c.script.name, name)
			}
		}
		head, _, _ := strings.Cut(luaText(t, c.script.name), "\n-- Returns")
		for _, name := range slices.Concat(append(c.parts, own)...) {
			if !regexp.MustCompile(`\b` + name + `\b`).MatchString(head) {
				t.Errorf("%s.lua does not explain the argument %s", c.script.name, name)
			}
		}
	}
	for _, name := range all {
		if !strings.Contains(luaText(t, "state"), "\n--   "+name+" ") {
			t.Errorf("state.lua does not explain the argument %s", name)
		}
	}
}

func TestEveryScriptSaysWhatItTakesAndReturns(t *testing.T) {
	t.Parallel()
	files, err := luaFiles.ReadDir("lua")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, s := range scripts {
		used[s.name] = true
		for _, c := range s.chapters {
			used[c] = true
		}
		head, _, _ := strings.Cut(luaText(t, s.name), "\nlocal ")
		if !strings.HasPrefix(head, "-- "+s.name) || !strings.Contains(head, "ARGV") || !strings.Contains(head, "KEYS") || !strings.Contains(head, "Returns") {
			t.Errorf("%s.lua does not open with what it takes and returns", s.name)
		}
	}
	if head, _, _ := strings.Cut(luaText(t, "state"), "\nlocal "); !strings.Contains(head, "KEYS") || !strings.Contains(head, "ARGV") {
		t.Error("state.lua does not open with its KEYS and ARGV")
	}
	for _, f := range files {
		if name := strings.TrimSuffix(f.Name(), ".lua"); !used[name] {
			t.Errorf("no script needs %s", f.Name())
		}
	}
}

var scripts = []*script{takeScript, settleScript, renewScript, steerScript, leaveScript, peekScript, describeScript}

func luaText(t testing.TB, name string) string {
	t.Helper()
	b, err := luaFiles.ReadFile("lua/" + name + ".lua")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A script is preceded by the chapters that define what it uses, and by no other.
func TestScriptsNameTheChaptersThatTheyNeed(t *testing.T) {
	t.Parallel()
	chapters := map[string]bool{}
	for _, s := range scripts {
		for _, c := range s.chapters {
			chapters[c] = true
		}
	}
	from := map[string]string{} // a name to the chapter that defines it
	define := regexp.MustCompile(`(?m)^local (?:function )?(\w+(?:, \w+)*)`)
	for c := range chapters {
		for _, m := range define.FindAllStringSubmatch(code(t, c), -1) {
			for _, name := range strings.Split(m[1], ", ") {
				from[name] = c
			}
		}
	}
	word := regexp.MustCompile(`[.\w]+`)
	var need func(file string, found map[string]bool)
	need = func(file string, found map[string]bool) {
		for _, w := range word.FindAllString(code(t, file), -1) {
			name, _, _ := strings.Cut(w, ".")
			if c := from[name]; c != "" && c != file && !found[c] {
				found[c] = true
				need(c, found)
			}
		}
	}
	for _, s := range scripts {
		found := map[string]bool{}
		need(s.name, found)
		got, want := slices.Sorted(slices.Values(s.chapters)), slices.Sorted(maps.Keys(found))
		if !slices.Equal(got, want) {
			t.Errorf("%s.lua is preceded by %v, it uses %v", s.name, got, want)
		}
	}
}
