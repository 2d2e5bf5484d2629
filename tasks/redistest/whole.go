package redistest

import (
	"context"
	"encoding"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Move is one call of a script, with all its keys and arguments.
type Move []any

// Moves are the calls of scripts that a client has made.
type Moves struct {
	mu    sync.Mutex
	calls []Move
	texts map[string]string // of scripts, by their digests
}

// Watch has a client's calls of scripts kept. Those that Redis did not know the script
// of are not among them.
func Watch(rdb *redis.Client) *Moves {
	m := &Moves{texts: map[string]string{}}
	rdb.AddHook(m)
	return m
}

// Since returns the calls since it was last asked.
func (m *Moves) Since() []Move {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := m.calls
	m.calls = nil
	return calls
}

// DialHook is part of [redis.Hook].
func (m *Moves) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

// ProcessHook is part of [redis.Hook].
func (m *Moves) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "evalsha" && err == nil || cmd.Name() == "eval" {
			m.mu.Lock()
			if m.calls = append(m.calls, cmd.Args()); cmd.Name() == "eval" {
				text := word(cmd.Args()[1])
				m.texts[redis.NewScript(text).Hash()] = text
			}
			m.mu.Unlock()
		}
		return err
	}
}

// ProcessPipelineHook is part of [redis.Hook].
func (m *Moves) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return next(ctx, cmds) }
}

// State is what all keys of a Redis hold, but not for how long.
type State struct {
	raw, words map[string]string // as Redis dumps it; and in words that are always alike
	kinds      map[string]string
}

// readAll returns of each key its name, its type, what it holds and, if that is asked
// for, how Redis dumps it. What a hash or a set holds has no order of its own.
var readAll = redis.NewScript(`
local out = {}
for _, key in ipairs(redis.call('keys', '*')) do
  local kind, held = redis.call('type', key).ok, {}
  if kind == 'hash' then
    local all = redis.call('hgetall', key)
    for i = 1, #all, 2 do held[#held + 1] = all[i] .. '\0' .. all[i + 1] end
    table.sort(held)
  elseif kind == 'set' then
    held = redis.call('smembers', key)
    table.sort(held)
  elseif kind == 'zset' then
    held = redis.call('zrange', key, 0, -1, 'withscores')
  elseif kind == 'list' then
    held = redis.call('lrange', key, 0, -1)
  else
    held = {redis.call('get', key)}
  end
  for _, v in ipairs({key, kind, table.concat(held, '\0'), ARGV[1] == '1' and redis.call('dump', key) or ''}) do
    out[#out + 1] = v
  end
end
return out`)

// Read reads all keys.
func Read(tb testing.TB, rdb *redis.Client) State {
	tb.Helper()
	return read(tb, rdb, true)
}

// read is Read; without dumps the state cannot be put.
func read(tb testing.TB, rdb *redis.Client, dumps bool) State {
	tb.Helper()
	return states(tb, readAll.Run(tb.Context(), rdb, nil, dumps))
}

// states reads what readAll answered.
func states(tb testing.TB, answer *redis.Cmd) State {
	tb.Helper()
	all, err := answer.StringSlice()
	if err != nil {
		tb.Fatal(err)
	}
	s := State{map[string]string{}, map[string]string{}, map[string]string{}}
	for v := range slices.Chunk(all, 4) {
		s.kinds[v[0]], s.words[v[0]], s.raw[v[0]] = v[1], v[2], v[3]
	}
	return s
}

// persistAll takes from all keys what is set for how long they are there.
var persistAll = redis.NewScript(`for _, key in ipairs(redis.call('keys', '*')) do redis.call('persist', key) end return 1`)

// put puts a state in the place of the one that is there, but for one key, and runs the
// commands behind it. What differs alone is put: a move that is refused leaves most of it.
func (s State) put(tb testing.TB, rdb *redis.Client, there State, but string, behind ...[]any) {
	tb.Helper()
	_, err := rdb.Pipelined(tb.Context(), func(p redis.Pipeliner) error {
		for _, k := range append(s.Differs(there, but), but) {
			p.Del(tb.Context(), k)
			if v, ok := s.raw[k]; ok && k != but {
				p.Restore(tb.Context(), k, 0, v)
			}
		}
		persistAll.Eval(tb.Context(), p, nil)
		for _, args := range behind {
			p.Do(tb.Context(), args...)
		}
		return nil
	})
	if err != nil {
		tb.Fatal(behind, err)
	}
}

// Holds is what a key holds, its parts with a NUL between: alike where they are alike.
func (s State) Holds(key string) string { return s.words[key] }

// Differs returns the keys that hold something else in another state, but for one.
func (s State) Differs(other State, but string) (keys []string) {
	for key, words := range s.words {
		if there, ok := other.words[key]; (!ok || there != words) && key != but {
			keys = append(keys, key)
		}
	}
	for key := range other.words {
		if _, ok := s.words[key]; !ok && key != but {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Refused is what came of a move of which Redis refused something.
type Refused struct {
	What  string // that was refused
	Key   string // that was of another type than it should be, if that was it
	Said  any    // what the script answered
	Err   error
	Moved []string // keys that hold something else than before
	Left  []string // keys that hold something else than after the whole move
	State State    // afterwards
	Whole State    // after the whole move
}

// Half reports whether the move was made by halves: something has moved, and an error
// was answered or not all has moved.
func (r Refused) Half() bool { return len(r.Moved) > 0 && (r.Err != nil || len(r.Left) > 0) }

func (r Refused) String() string {
	return fmt.Sprintf("with %s: %v, %v; moved: %v; not as it should be: %v", r.What, r.Said, r.Err, r.Moved, r.Left)
}

// refusals are what Redis may refuse of a command in a script, whatever the key: how it
// comes to that and how it ends. A name says of which kind of commands, if not of all.
func refusals() map[string][2][]any {
	config := func(name, on, off string) [2][]any {
		return [2][]any{{"config", "set", name, on}, {"config", "set", name, off}}
	}
	all := map[string][2][]any{
		"no memory left": config("maxmemory", "1", "0"),
		"too few replicas, as a Redis that cannot write its disk": config("min-replicas-to-write", "1", "0"),
	}
	for _, kind := range []string{"read", "write", "keyspace", "hash", "list", "sortedset", "string", "pubsub", "fast", "slow", "dangerous"} {
		all["no permission for "+kind] = [2][]any{permitted("-@"+kind, "+eval", "+evalsha"), permitted()}
	}
	return all
}

// mover is the user of Redis that makes the moves.
const mover = "mover"

func permitted(but ...string) []any {
	rules := []any{"acl", "setuser", mover, "reset", "on", ">" + mover, "~*", "&*", "+@all"}
	for _, rule := range but {
		rules = append(rules, rule)
	}
	return rules
}

// Refuse makes a move from a state again and again: each time one of the keys that
// it reads or writes is of another type, or Redis refuses a kind of commands, or all
// that write. What came of each is judged. Without any of these the move has to change
// something. A key that is new and for which skip is true has a name that is made in the script.
func Refuse(tb testing.TB, rdb *redis.Client, from State, move Move, skip func(key string) bool, judge func(Refused)) {
	tb.Helper()
	do := func(c *redis.Client, args []any) (any, error) { return c.Do(tb.Context(), args...).Result() }
	if _, err := do(rdb, permitted()); err != nil {
		tb.Fatal(err)
	}
	options := *rdb.Options()
	options.Username, options.Password = mover, mover
	as := redis.NewClient(&options)
	defer as.Close()
	from.put(tb, rdb, read(tb, rdb, false), "")
	if _, err := do(as, move); err != nil {
		tb.Fatal(err)
	}
	after := read(tb, rdb, false)
	if len(after.Differs(from, "")) == 0 {
		tb.Fatal("nothing moved")
	}
	there := after
	try := func(r Refused, prepare []any, end ...[]any) {
		from.put(tb, rdb, there, r.Key, prepare)
		r.Said, r.Err = do(as, move)
		var found *redis.Cmd
		if _, err := rdb.Pipelined(tb.Context(), func(p redis.Pipeliner) error {
			for _, args := range end {
				p.Do(tb.Context(), args...)
			}
			found = readAll.EvalSha(tb.Context(), p, nil, false)
			return nil
		}); err != nil {
			tb.Fatal(end, err)
		}
		r.State, r.Whole = states(tb, found), after
		there = r.State
		r.Moved, r.Left = r.State.Differs(from, r.Key), r.State.Differs(after, r.Key)
		judge(r)
	}
	for _, key := range keysOf(from, after) {
		kind := from.kinds[key]
		if kind == "" {
			kind = after.kinds[key]
			if skip != nil && skip(key) {
				continue
			}
		}
		other := []any{"rpush", key, "of another type"}
		if kind == "list" {
			other = []any{"set", key, "of another type"}
		}
		try(Refused{What: key + " of another type", Key: key}, other)
	}
	for what, how := range refusals() {
		try(Refused{What: what}, how[0], how[1])
	}
}

func keysOf(states ...State) (keys []string) {
	for _, s := range states {
		for key := range s.kinds {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// Script names the file of a folder that a move is of: that whose first line stands
// last in the script, behind those of its chapters. Its client must have been watched
// when it first made such a move.
func (m *Moves) Script(tb testing.TB, move Move, folder string) string {
	tb.Helper()
	text := m.text(move)
	name, last := "", -1
	for _, file := range Scripts(tb, folder) {
		if at := strings.LastIndex(text, firstLine(tb, file)); at > last {
			name, last = strings.TrimSuffix(filepath.Base(file), ".lua"), at
		}
	}
	return name
}

// Once runs act, which is to call the named script of a folder once, and returns that
// move. Other scripts may be called as well.
func (m *Moves) Once(tb testing.TB, folder, script string, act func() error) Move {
	tb.Helper()
	m.Since()
	if err := act(); err != nil {
		tb.Fatal(err)
	}
	calls := slices.DeleteFunc(m.Since(), func(move Move) bool { return m.Script(tb, move, folder) != script })
	if len(calls) != 1 {
		tb.Fatalf("%s was called %d times", script, len(calls))
	}
	return calls[0]
}

func (m *Moves) text(move Move) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if text := word(move[1]); fmt.Sprint(move[0]) == "eval" {
		return text
	}
	return m.texts[word(move[1])]
}

// word is an argument of a command as it is sent.
func word(v any) string {
	if m, ok := v.(encoding.BinaryMarshaler); ok {
		b, _ := m.MarshalBinary() // else the command would not have been sent
		v = string(b)
	}
	return fmt.Sprint(v)
}

// Scripts returns the files of a folder that are scripts.
func Scripts(tb testing.TB, folder string) []string {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.lua"))
	if err != nil || len(files) == 0 {
		tb.Fatalf("%d scripts in %s: %v", len(files), folder, err)
	}
	return files
}

func firstLine(tb testing.TB, file string) string {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}
