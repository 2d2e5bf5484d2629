package limit

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// fields reads the table of fields in a chapter's head: name to the other columns.
func fields(t *testing.T, chapter string) map[string][]string {
	t.Helper()
	_, table, ok := strings.Cut(luaText(t, chapter), "\n--   field ")
	if !ok {
		t.Fatalf("%s.lua has no table of fields", chapter)
	}
	found := map[string][]string{}
	for i, l := range strings.Split(table, "\n") {
		row, ok := strings.CutPrefix(l, "--   ")
		switch {
		case i == 0 || strings.HasPrefix(row, " "): // its head; a row goes on
		case !ok:
			return found
		default:
			columns := regexp.MustCompile(`\s{2,}`).Split(row, 4)
			found[columns[0]] = columns[1:]
		}
	}
	return found
}

func luaNames(t *testing.T) []string {
	t.Helper()
	files, err := luaFiles.ReadDir("lua")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".lua"))
	}
	return names
}

// code is a Lua file without its comments.
func code(t *testing.T, name string) string {
	return regexp.MustCompile(`(?m)--.*$`).ReplaceAllString(luaText(t, name), "")
}

func TestEveryFieldOfTheStateIsInItsTable(t *testing.T) {
	t.Parallel()
	table := fields(t, "state")
	read, writers := map[string]bool{}, map[string][]string{}
	use := regexp.MustCompile(`\bs\.(\w+)`)
	for _, name := range luaNames(t) {
		text := code(t, name)
		for _, m := range use.FindAllStringSubmatch(text, -1) {
			read[m[1]] = true
		}
		for _, field := range written(text) {
			writers[field] = append(writers[field], name)
		}
	}
	for field := range read {
		if table[field] == nil {
			t.Errorf("the table in state.lua has no row for s.%s", field)
		}
	}
	for field, columns := range table {
		if !read[field] {
			t.Errorf("the table in state.lua has %s, which no script uses", field)
		}
		got := slices.Compact(slices.Sorted(slices.Values(writers[field])))
		if got == nil {
			got = []string{"state"} // written once
		}
		want := slices.Sorted(slices.Values(strings.Fields(columns[1])))
		if !slices.Equal(got, want) {
			t.Errorf("%s is written by %v, the table says %v", field, got, want)
		}
	}
}

// written finds the fields of s that are assigned to, also by a local name of a
// list: local level = s.level.
func written(text string) (fields []string) {
	alias := regexp.MustCompile(`(?m)^\s*local ([\w, ]+) = (s\.\w+(?:, s\.\w+)*)$`)
	write := regexp.MustCompile(`([\w.\[\], ]+?) = `)
	target := regexp.MustCompile(`^(?:s\.)?(\w+)(?:\[\w+\])?$`)
	also := map[string]string{}
	for _, m := range alias.FindAllStringSubmatch(text, -1) {
		for i, local := range strings.Split(m[1], ", ") {
			also[local] = strings.TrimPrefix(strings.Split(m[2], ", ")[i], "s.")
		}
	}
	for _, m := range write.FindAllStringSubmatch(text, -1) {
		for _, left := range strings.Split(m[1], ", ") {
			left = left[strings.LastIndex(left, " ")+1:]
			field := target.FindStringSubmatch(left)
			switch {
			case field == nil:
			case strings.HasPrefix(left, "s."):
				fields = append(fields, field[1])
			case also[field[1]] != "" && strings.Contains(left, "["):
				fields = append(fields, also[field[1]])
			}
		}
	}
	return fields
}

// What a real Redis holds after every script has run is what the tables say.
func TestWhatIsStoredIsInTheTables(t *testing.T) {
	t.Parallel()
	limits := simLimits
	limits.Concurrency = 4
	s := newSim(t, simConfig{limits: limits, burst: 10, loads: always(loadA), n: 2, slots: 20, headers: "end", seed: 1})
	g := s.gates[0]
	for after, do := range map[float64]func() error{
		5:  func() error { return g.SoftRefusal(t.Context()) },
		6:  func() error { return g.Ramp(t.Context(), time.Second, "ramp_limited") },
		20: func() error { return g.Resume(t.Context(), 1) },
	} {
		s.at(after, func() { s.check(do()) })
	}
	s.run(s.now + 45)

	stored := func(script string, argv ...any) map[string]any {
		t.Helper()
		text, err := s.rdb.Eval(t.Context(), script, g.keys, argv...).Text()
		if err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	one := `return cjson.encode(cmsgpack.unpack(redis.call('HGET', KEYS[tonumber(ARGV[1])], redis.call('HKEYS', KEYS[tonumber(ARGV[1])])[1])))`
	for _, c := range []struct {
		chapter string
		got     map[string]any
	}{
		{"state", stored(`return cjson.encode(cmsgpack.unpack(redis.call('GET', KEYS[1])))`)},
		{"ledger", stored(one, 3)},
		{"learn", stored(one, 4)},
		{"line", stored(one, 7)},
	} {
		got, want := slices.Sorted(maps.Keys(c.got)), slices.Sorted(maps.Keys(fields(t, c.chapter)))
		if !slices.Equal(got, want) {
			t.Errorf("%s.lua: stored %v, the table says %v", c.chapter, got, want)
		}
	}
}

// A state of another release is told by its version.
func TestStateOfAnotherVersion(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	c := onClock(t, rdb, Limits{RequestsPerMinute: 60})
	c.wait(Need{})
	set := func(version string) {
		t.Helper()
		err := rdb.Eval(t.Context(), `local s = cmsgpack.unpack(redis.call('GET', KEYS[1]))
			s.version = tonumber(ARGV[1])
			redis.call('SET', KEYS[1], cmsgpack.pack(s))
			return 1`, c.g.keys, version).Err()
		if err != nil {
			t.Fatal(err)
		}
	}
	set("2")
	before := rdb.Get(t.Context(), c.g.keys[0]).Val()
	_, err := c.g.ask(t.Context(), []*waiter{{key: "a/x/1"}})
	if err == nil || !strings.Contains(err.Error(), "has version 2 and this process reads 1") {
		t.Errorf("a later version: got %v, want an error that names both versions", err)
	}
	if rdb.Get(t.Context(), c.g.keys[0]).Val() != before || rdb.ZCard(t.Context(), c.g.keys[1]).Val() != 1 {
		t.Error("a later version: the state was changed")
	}
	set("") // from before there were versions
	if a, _ := c.ask(c.g, Need{}); a.status != "hold" || !near(a.wait, 1, 1e-3) {
		t.Errorf("no version: got %s %v, want a hold of 1 s as after a loss", a.status, a.wait)
	}
}
