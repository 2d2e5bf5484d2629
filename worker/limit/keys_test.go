package limit

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks/redistest"
)

func TestKeysAndChannelAreNamedTheSameInGoAndLua(t *testing.T) {
	t.Parallel()
	text := luaText(t, "state")
	var documented, unpacked []string
	for i, m := range regexp.MustCompile(`(?m)^-- KEYS\[(\d)\] (\w+)`).FindAllStringSubmatch(text, -1) {
		if m[1] != fmt.Sprint(i+1) {
			t.Errorf("KEYS[%s] is documented at place %d", m[1], i+1)
		}
		documented = append(documented, m[2])
	}
	for _, m := range regexp.MustCompile(`(?m)^local ([A-Z, ]+) = KEYS`).FindAllStringSubmatch(text, -1) {
		unpacked = append(unpacked, strings.Split(strings.ToLower(m[1]), ", ")...)
	}
	if !slices.Equal(documented, keyNames[:]) || !slices.Equal(unpacked, keyNames[:]) {
		t.Errorf("documented %v, read as %v; Go has %v", documented, unpacked, keyNames)
	}
	if !strings.Contains(text, "the channel is called "+channelName+".") {
		t.Errorf("state.lua does not call the channel %q", channelName)
	}
}

// Two Sluices on one Redis are two: neither keys nor messages meet.
func TestPrefixesShareNothing(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	l := Limits{RequestsPerMinute: 60, InputTokensPerMinute: 60_000, Concurrency: 1}
	ours := newGate(t, rdb, l, func(c *Config) { c.Prefix = "ours" })
	theirs := newGate(t, rdb, l)
	start(t, ours)
	eventually(t, "subscribed", ours.subscribed.Load)
	take(t, ours, Need{ID: "a", Class: "c"})
	taking(t.Context(), ours, Need{ID: "b", Class: "c"})
	eventually(t, "in line", func() bool { return rdb.ZCard(t.Context(), "ours:limit:{p}:waiting").Val() == 1 })
	if err := theirs.Hold(t.Context(), time.Hour, "refused"); err != nil {
		t.Fatal(err)
	}
	if heard, err := rdb.Publish(t.Context(), "sluice:limit:{p}:say", "x").Result(); err != nil || heard != 0 {
		t.Errorf("%d listen to the channel of another prefix, %v; want none", heard, err)
	}
	if s := state(t, ours); s.HeldFor != 0 || s.InFlight != 1 {
		t.Errorf("held for %v, %d in flight; want not held, 1", s.HeldFor, s.InFlight)
	}
	want := Keys("ours", "p")
	for _, key := range rdb.Keys(t.Context(), "*").Val() {
		if !slices.Contains(want, key) && key != "sluice:limit:{p}:gate" {
			t.Errorf("key %s is not named in keys.go", key)
		}
	}
}
