package store

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What a script names is there: its own, a chapter's or Lua's. Anything else would fail only
// where it is met.
func TestEveryScriptHasWhatItNames(t *testing.T) {
	t.Parallel()
	known := strings.Fields(`and break do else elseif end false for function if in local nil not or repeat return then true until while
		ARGV KEYS cjson ipairs math next pairs pcall redis select string table tonumber tostring type unpack`)
	declared := []*regexp.Regexp{regexp.MustCompile(`\b(?:local|for) (?:function )?([\w, \n]+)`), regexp.MustCompile(`function ?\w*\(([^)]*)\)`)}
	field := regexp.MustCompile(`[{,]\s*\w+ = `) // of a table
	chapter := strings.Fields("keys begin operation fits room account record webhook backlog finish")
	scripts, longest := 0, 0
	files, err := filepath.Glob("lua/*.lua")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".lua")
		if slices.Contains(chapter, name) {
			continue
		}
		text := luaNoNames.ReplaceAllString(luaComment.ReplaceAllString(assembled(name), ""), " ")
		own := slices.Clone(known)
		for _, d := range declared {
			for _, m := range d.FindAllStringSubmatch(text, -1) {
				own = append(own, strings.FieldsFunc(m[1], func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })...)
			}
		}
		for _, used := range named(field.ReplaceAllString(text, "{")) {
			if !slices.Contains(own, used) {
				t.Errorf("%s.lua needs %s, which nobody has", name, used)
			}
		}
		scripts, longest = scripts+1, max(longest, len(text))
	}
	if scripts < 40 || longest < 20_000 {
		t.Fatalf("%d scripts of up to %d bytes", scripts, longest)
	}
}

// Only what is needed is linked, in its order; what only a seldom part needs stands in it.
func TestLink(t *testing.T) {
	t.Parallel()
	all := parts(`-- A chapter.
local few, many = 1, 2
local function low() return few end
local function lower() return many end -- many
local function rare(j) -- seldom
  return lower() + low() + later('rare', j.low)
end
later = function(...) -- seldom
  return lowest()
end
local function lowest() return 3 end
`)
	for _, c := range []struct{ main, want string }{
		{"return 1", ""},
		{"return x.rare, 'rare'", ""},
		{"return low()", "local few, many = 1, 2\nlocal function low() return few end\n"},
		{"return low() or rare(1)", "local few, many = 1, 2\nlocal function low() return few end\n" +
			"local rare\nrare = function(...)\nlocal function lower() return many end \n" +
			"later = function(...)\nlocal function lowest() return 3 end\nlater = function(...) \n  return lowest()\nend\nreturn later(...)\nend\n" +
			"rare = function(j) \n  return lower() + low() + later('rare', j.low)\nend\nreturn rare(...)\nend\n"},
		{"return low, lower, lowest, rare, later", "local few, many = 1, 2\nlocal function low() return few end\nlocal function lower() return many end \n" +
			"local function rare(j) \n  return lower() + low() + later('rare', j.low)\nend\nlater = function(...) \n  return lowest()\nend\nlocal function lowest() return 3 end\n"},
	} {
		if got := link(named(c.main), all); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.main, got, c.want)
		}
	}
}
