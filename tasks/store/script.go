package store

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

//go:embed lua
var lua embed.FS

// script is a script with what it needs of the chapters. It is put together when it is
// first run: a command that needs few scripts, or none, does not wait for all of them.
func script(name string) func() *redis.Script {
	return sync.OnceValue(func() *redis.Script { return redis.NewScript(assembled(name)) })
}

// assembled is the text of a script. In a function of their own the parts take what begin
// has without a search of the stack, each of their functions at each run.
func assembled(name string) string {
	own := spelled(name)
	return "local P = KEYS[1]\n" + spelled("begin") + "return (function()\n" + link(named(own), chapters()) + own + "\nend)()"
}

// chapters are what scripts have in common, in an order in which each finds what it
// needs above itself, but for what begin.lua names.
var chapters = sync.OnceValue(func() (all []part) {
	for _, name := range []string{"operation", "fits", "room", "account", "record", "webhook", "backlog", "finish", "bundle"} {
		all = append(all, parts(spelled(name))...)
	}
	return all
})

// spelled is a file of scripts, its keys spelled out.
func spelled(name string) string { return spellOut(luaFile(name)) }

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
var keyNames = sync.OnceValue(func() map[string]keyName {
	out := map[string]keyName{}
	for _, m := range regexp.MustCompile(`(?m)^function keys\.(\w+)\(([^)]*)\) return (.+) end --`).FindAllStringSubmatch(luaFile("keys"), -1) {
		out[m[1]] = keyName{m[2], m[3]}
	}
	return out
})

var keyUse = regexp.MustCompile(`keys\.(\w+)\(`)

// spellOut puts in the place of each key that a script names what it stands for.
// Calls would make each run of a script dearer by a tenth.
func spellOut(text string) string {
	var out strings.Builder
	for {
		at := keyUse.FindStringSubmatchIndex(text)
		if at == nil {
			out.WriteString(text)
			return out.String()
		}
		name := text[at[2]:at[3]]
		key, ok := keyNames()[name]
		if !ok {
			panic("store: a script names the key " + name + ", which lua/keys.lua does not")
		}
		args, rest := arguments(text[at[1]:])
		for i, param := range strings.Split(key.params, ", ") {
			if param != "" {
				key.expr = strings.Replace(key.expr, ".. "+param, ".. ("+spellOut(args[i])+")", 1)
			}
		}
		out.WriteString(text[:at[0]] + "(" + key.expr + ")")
		text = rest
	}
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

// args are a script's arguments by name; run adds those that every script takes.
type args map[string]any

// run runs a script on the store's keys. rows are what is many or of any bytes,
// behind the arguments that have names (lua/begin.lua).
func (s *Store) run(ctx context.Context, sc func() *redis.Script, a args, rows ...any) reply {
	a["ttl"] = s.ttl.Milliseconds()
	now := ""
	if s.now != nil {
		now = strconv.FormatInt(s.now().UnixMilli(), 10)
	}
	return reply{sc().Run(ctx, s.rdb, []string{string(s.keys)}, append([]any{now, encode(a)}, rows...)...)}
}

// anys turns ids into rows of a script.
func anys(ids []string) []any {
	rows := make([]any, len(ids))
	for i, id := range ids {
		rows[i] = id
	}
	return rows
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return ""
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("store: encode %T: %v", v, err)) // plain structs of strings and numbers
	}
	return string(b)
}

// reply is what a script has answered. What is none of its answers is ErrFull or
// ErrUnavailable.
type reply struct{ cmd *redis.Cmd }

func (r reply) Err() error                     { return redisError(r.cmd.Err()) }
func (r reply) Int64() (int64, error)          { return checked(r.cmd.Int64()) }
func (r reply) Text() (string, error)          { return checked(r.cmd.Text()) }
func (r reply) Slice() ([]any, error)          { return checked(r.cmd.Slice()) }
func (r reply) StringSlice() ([]string, error) { return checked(r.cmd.StringSlice()) }

func checked[T any](v T, err error) (T, error) { return v, redisError(err) }

// redisError turns what Redis or the way to it says in place of an answer into the
// errors of package tasks. That there is nothing is an answer.
func redisError(err error) error {
	if errors.Is(err, redis.Nil) {
		return err
	}
	return tasks.NotNow(err)
}

// tickets reads id, fence and pool in turn.
func tickets(v any) []tasks.Ticket {
	list, _ := v.([]any)
	out := make([]tasks.Ticket, 0, len(list)/3)
	for i := 0; i+2 < len(list); i += 3 {
		out = append(out, tasks.Ticket{ID: str(list[i]), Fence: num(list[i+1]), Pool: str(list[i+2])})
	}
	return out
}

func str(v any) string { s, _ := v.(string); return s }

func num(v any) int64 {
	switch n := v.(type) {
	case int64:
		return n
	case string:
		return atoi(n)
	}
	return 0
}

func list(v any) []any { l, _ := v.([]any); return l }

func words(v any) []string {
	l := list(v)
	out := make([]string, len(l))
	for i := range l {
		out[i] = str(l[i])
	}
	return out
}

// pairs turns HGETALL's answer, as a script returns it, into a map.
func pairs(v any) map[string]string {
	l := list(v)
	h := make(map[string]string, len(l)/2)
	for i := 0; i+1 < len(l); i += 2 {
		h[str(l[i])] = str(l[i+1])
	}
	return h
}

func atoi(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64) // scripts alone write these
	return n
}
