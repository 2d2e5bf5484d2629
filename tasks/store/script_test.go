package store_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What a script reads of its arguments is always there, and what is sent is read
// and explained.
func TestArgumentsAreTheSameInGoAndLua(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	// By the name of the variable; also is what a chapter reads.
	fileOf, sent, also := map[string]string{}, map[string][]string{}, map[string][]string{}
	for _, file := range files {
		text := strings.Join(readLines(t, file), "\n")
		for _, m := range regexp.MustCompile(`(\w+Script) += script\("(\w+)"\)`).FindAllStringSubmatch(text, -1) {
			fileOf[m[1]] = m[2]
			lua := strings.Join(readLines(t, "lua/"+m[2]+".lua"), "\n")
			if strings.Contains(lua, "answered()") {
				also[m[1]] = append(also[m[1]], "op")
			}
			if strings.Contains(lua, "noted()") {
				also[m[1]] = append(also[m[1]], "act", "acts", "old")
			}
		}
		for _, body := range strings.Split(text, "\nfunc ") {
			for _, m := range regexp.MustCompile(`s\.(?:run\(ctx|move\(ctx, .+?), (\w+), (args\{(?s:.+?)\}|\w+)(?:,|\))`).FindAllStringSubmatch(body, -1) {
				given := m[2]
				if given == "a" { // built in this function
					given = body
				}
				var names []string
				for _, n := range regexp.MustCompile(`"(\w+)": |\ba\["(\w+)"\]`).FindAllStringSubmatch(given, -1) {
					names = append(names, n[1]+n[2])
				}
				slices.Sort(names)
				names = slices.Compact(names)
				if other, ok := sent[m[1]]; ok && !slices.Equal(other, names) {
					t.Errorf("%s is sent %v, and elsewhere %v", m[1], names, other)
				}
				sent[m[1]] = names
			}
		}
	}
	if len(fileOf) < 30 {
		t.Fatalf("%d scripts", len(fileOf))
	}
	use := regexp.MustCompile(`\ba\.(\w+)`)
	for variable, name := range fileOf {
		text := strings.Join(readLines(t, "lua/"+name+".lua"), "\n")
		read := map[string]bool{}
		for _, m := range use.FindAllStringSubmatch(regexp.MustCompile(`--[^\n]*`).ReplaceAllString(text, ""), -1) {
			read[m[1]] = true
			if !slices.Contains(sent[variable], m[1]) {
				t.Errorf("%s.lua reads a.%s, which is not sent", name, m[1])
			}
		}
		head, _, _ := strings.Cut(text, "\n-- Returns ")
		for _, arg := range sent[variable] {
			if !read[arg] && !slices.Contains(also[variable], arg) {
				t.Errorf("%s.lua is sent %s, which it does not read", name, arg)
			}
			if !regexp.MustCompile(`\b` + arg + `\b`).MatchString(head) {
				t.Errorf("%s.lua does not explain the argument %s", name, arg)
			}
		}
		if !strings.Contains(head, "\n-- KEYS     see begin.lua\n-- ARGV[2]  {") || head == text {
			t.Errorf("%s.lua does not open with KEYS, ARGV and Returns", name)
		}
	}
}
