package store_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A script that calls what no chapter before it has would fail only where it does.
func TestEveryScriptHasTheChaptersThatItNeeds(t *testing.T) {
	t.Parallel()
	moves := []string{"fits", "room", "account", "record", "webhook", "backlog", "finish"}
	chapterOf, bodyOf := map[string]string{}, map[string]string{}
	function := map[string]bool{}
	head := regexp.MustCompile(`^(?:local function (\w+)|(\w+) = function)\(`)
	for _, chapter := range append([]string{"begin", "operation"}, moves...) {
		name := ""
		for _, line := range readLines(t, "lua/"+chapter+".lua") {
			line, _, _ = strings.Cut(line, "--")
			if m := head.FindStringSubmatch(line); m != nil {
				name = m[1] + m[2]
				chapterOf[name], function[name] = chapter, true
			} else if m := regexp.MustCompile(`^local (\w+)(?:, \w+)* =`).FindStringSubmatch(line); m != nil {
				name = m[1]
				chapterOf[name] = chapter
			}
			bodyOf[name] += line + "\n"
		}
	}
	chapters := map[string][]string{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for _, line := range readLines(t, file) {
			if m := regexp.MustCompile(`= (script|move)\("(\w+)"(.*)\)$`).FindStringSubmatch(line); m != nil {
				chapters[m[2]] = append(strings.FieldsFunc(m[3], func(r rune) bool { return strings.ContainsRune(`", `, r) }), "begin")
				if m[1] == "move" {
					chapters[m[2]] = append(chapters[m[2]], moves...)
				}
			}
		}
	}
	if len(chapters) < 28 || len(chapterOf) < 40 {
		t.Fatalf("%d scripts, %d functions", len(chapters), len(chapterOf))
	}
	word := regexp.MustCompile(`(?:^|[^\w.])([a-zA-Z]\w*)(\(?)`)
	for script, has := range chapters {
		seen := map[string]bool{}
		var need func(text string)
		need = func(text string) {
			for _, m := range word.FindAllStringSubmatch(text, -1) {
				w := m[1]
				if chapterOf[w] == "" || seen[w] || function[w] && m[2] == "" { // a variable may have a function's name
					continue
				}
				seen[w] = true
				if !strings.Contains(" "+strings.Join(has, " ")+" ", " "+chapterOf[w]+" ") {
					t.Errorf("%s.lua needs %s, of %s.lua, which it is not given", script, w, chapterOf[w])
				}
				need(bodyOf[w])
			}
		}
		body := strings.Join(readLines(t, "lua/"+script+".lua"), "\n")
		body = regexp.MustCompile(`--[^\n]*|'[^'\n]*'|local [\w, ]+ =`).ReplaceAllString(body, "")
		need(body)
	}
}

// What a script reads of its arguments is always there, and what is sent is read
// and explained.
func TestArgumentsAreTheSameInGoAndLua(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	// By the name of the variable; also is what a chapter reads.
	fileOf, sent, also := map[string]string{}, map[string][]string{}, map[string]string{}
	for _, file := range files {
		text := strings.Join(readLines(t, file), "\n")
		for _, m := range regexp.MustCompile(`(\w+Script) += (?:script|move)\("(\w+)".*`).FindAllStringSubmatch(text, -1) {
			if fileOf[m[1]] = m[2]; strings.Contains(m[0], `"operation"`) {
				also[m[1]] = "op"
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
			if !read[arg] && arg != also[variable] {
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
