package store_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A script that calls what no chapter before it has would fail only where it does.
func TestEveryScriptHasTheChaptersThatItNeeds(t *testing.T) {
	all := []string{"record", "webhook", "backlog", "finish"}
	chapterOf, bodyOf := map[string]string{}, map[string]string{}
	function := map[string]bool{}
	head := regexp.MustCompile(`^(?:local function (\w+)|(\w+) = function)\(`)
	for _, chapter := range append([]string{"begin"}, all...) {
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
					chapters[m[2]] = append(all, "begin")
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
