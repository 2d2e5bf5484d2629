package store

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// part is what a chapter of scripts has at its top level: a function, or what functions share.
type part struct {
	name   string
	also   []string // further names
	text   string
	seldom bool // most runs do without it
	uses   []string
}

var (
	partHead   = regexp.MustCompile(`^(?:local function (\w+)\(|local (\w+(?:, \w+)*)|(\w+) = function\()`)
	luaComment = regexp.MustCompile(`--[^\n]*`)
	luaNoNames = regexp.MustCompile(`'[^'\n]*'|\.\.`)
	seldomMark = " -- seldom\n"
)

// parts splits a chapter.
func parts(chapter string) (list []part) {
	for line := range strings.Lines(chapter) {
		seldom := strings.HasSuffix(line, seldomMark)
		line = luaComment.ReplaceAllString(line, "")
		if m := partHead.FindStringSubmatch(line); m != nil {
			names := strings.Split(m[1]+m[2]+m[3], ", ")
			list = append(list, part{name: names[0], also: names[1:], seldom: seldom})
		}
		if len(list) > 0 {
			list[len(list)-1].text += line
		}
	}
	for i := range list {
		list[i].uses = named(list[i].text)
	}
	return list
}

// named are the names in a text that may be of parts: those of fields, and what is quoted, are not.
func named(text string) (names []string) {
	text = luaNoNames.ReplaceAllString(luaComment.ReplaceAllString(text, ""), " ")
	for path := range strings.FieldsFuncSeq(text, noPath) {
		name := path[:len(path)-len(strings.TrimLeftFunc(path, isName))]
		if name != "" && !unicode.IsDigit(rune(name[0])) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func isName(c rune) bool { return c == '_' || unicode.IsLetter(c) || unicode.IsDigit(c) }

// noPath is false within a name and the fields behind it, as in job.tenant.
func noPath(c rune) bool { return c != '.' && c != ':' && !isName(c) }

// link returns those of the parts that names need, in their order. Each run of a script makes its
// functions anew, which may take longer than what they do: so what only a seldom part needs
// is made by that part's first call.
func link(names []string, all []part) string {
	need := reach(names, all, -1)
	inside := map[int]map[int]bool{} // by seldom part: what is reached by it alone
	for i := range need {
		if all[i].seldom {
			inside[i] = map[int]bool{}
			without := reach(names, all, i)
			for j := range need {
				if j != i && !without[j] {
					inside[i][j] = true
				}
			}
		}
	}
	var text strings.Builder
	for i := range all {
		hidden := false
		for other := range inside {
			hidden = hidden || inside[other][i]
		}
		switch own := inside[i]; {
		case !need[i] || hidden:
		case len(own) > 0:
			text.WriteString(all[i].late(link(all[i].uses, only(all, own))))
		default:
			text.WriteString(all[i].text)
		}
	}
	return text.String()
}

// only are the parts of those indexes.
func only(all []part, of map[int]bool) (list []part) {
	for i := range all {
		if of[i] {
			list = append(list, all[i])
		}
	}
	return list
}

// late is the text of a function that makes what it needs, and itself, when it is first called.
func (p *part) late(inner string) string {
	head, text := "", p.text
	if rest, local := strings.CutPrefix(text, "local function "+p.name); local {
		head, text = "local "+p.name+"\n", p.name+" = function"+rest
	}
	return head + p.name + " = function(...)\n" + inner + text + "return " + p.name + "(...)\nend\n"
}

// reach are the parts, by index, that names need, on ways that do not pass a part but.
func reach(names []string, all []part, but int) map[int]bool {
	of := map[string]int{}
	for i, p := range all {
		of[p.name] = i
		for _, name := range p.also {
			of[name] = i
		}
	}
	found := map[int]bool{}
	names = slices.Clone(names)
	for len(names) > 0 {
		i, ok := of[names[0]]
		names = names[1:]
		if ok && i != but && !found[i] {
			found[i] = true
			names = append(names, all[i].uses...)
		}
	}
	return found
}
