package store

import (
	"context"
	"embed"
	"regexp"
	"strings"

	"github.com/redis/go-redis/v9"
)

//go:embed lua
var lua embed.FS

// script reads a script, with the chapters that it needs before it; a test finds
// what is missing.
func script(name string, chapters ...string) *redis.Script {
	text := "local P = KEYS[1]\n" + luaFile("begin")
	for _, part := range append(chapters, name) {
		text += luaFile(part)
	}
	return redis.NewScript(spellOut(text))
}

// move reads a script that moves jobs, which needs all chapters.
func move(name string) *redis.Script { return script(name, "record", "webhook", "backlog", "finish") }

func luaFile(name string) string {
	b, err := lua.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // it is part of the program
	}
	return string(b)
}

// keyName is what a key's name stands for.
type keyName struct{ params, expr string }

// keyNames are the keys by their names, as lua/keys.lua has them.
var keyNames = func() map[string]keyName {
	out := map[string]keyName{}
	for _, m := range regexp.MustCompile(`(?m)^function keys\.(\w+)\(([^)]*)\) return (.+) end --`).FindAllStringSubmatch(luaFile("keys"), -1) {
		out[m[1]] = keyName{m[2], m[3]}
	}
	return out
}()

var keyUse = regexp.MustCompile(`\bkeys\.(\w+)\(`)

// spellOut puts in the place of each key that a script names what it stands for.
// Calls would make each run of a script dearer by a tenth.
func spellOut(text string) string {
	at := keyUse.FindStringSubmatchIndex(text)
	if at == nil {
		return text
	}
	name := text[at[2]:at[3]]
	key, ok := keyNames[name]
	if !ok {
		panic("store: a script names the key " + name + ", which lua/keys.lua does not")
	}
	args, rest := arguments(text[at[1]:])
	for i, param := range strings.Split(key.params, ", ") {
		if param != "" {
			key.expr = strings.Replace(key.expr, ".. "+param, ".. ("+spellOut(args[i])+")", 1)
		}
	}
	return text[:at[0]] + "(" + key.expr + ")" + spellOut(rest)
}

// arguments splits the arguments of a call from what is behind it.
func arguments(text string) (args []string, rest string) {
	depth, from := 0, 0
	for i, c := range text {
		switch {
		case c == '(' || c == '[' || c == '{':
			depth++
		case c == ',' && depth == 0:
			args, from = append(args, strings.TrimSpace(text[from:i])), i+1
		case c == ')' && depth == 0:
			return append(args, strings.TrimSpace(text[from:i])), text[i+1:]
		case c == ')' || c == ']' || c == '}':
			depth--
		}
	}
	panic("store: a script's call has no end: " + text[:min(60, len(text))])
}

// run runs a script on the store's keys.
func (s *Store) run(ctx context.Context, sc *redis.Script, args ...any) reply {
	return reply{sc.Run(ctx, s.rdb, []string{string(s.keys)}, args...)}
}
