package main

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The manual, the Makefile and the README's figures name the commands that
// there are, and no others.
func TestTheCommandsAreDocumented(t *testing.T) {
	parser, err := kong.New(&CLI{})
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, leaf := range parser.Model.Leaves(true) {
		commands = append(commands, leaf.Name)
	}
	slices.Sort(commands)
	named := func(text, pattern string) (names []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			names = append(names, m[len(m)-1])
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
	manual, _, _ := strings.Cut(read(t, "main.go"), "package main")
	if got := named(manual, `(?m)^//\t(\w+)   `); !slices.Equal(got, commands) {
		t.Errorf("the manual has the commands %q, want %q", got, commands)
	}
	makefile := read(t, "../../Makefile")
	if got := named(makefile, `go run \./cmd/prove (\w+)`); !slices.Equal(got, commands) {
		t.Errorf("the Makefile runs the commands %q, want %q", got, commands)
	}
	targets := named(makefile, `(?m)^([\w-]+):[^\n]*\n\tgo run \./cmd/prove `)
	_, figures, _ := strings.Cut(read(t, "../../README.md"), "\n## Figures\n")
	figures, _, _ = strings.Cut(figures, "\n## ")
	if got := named(figures, "`make ([\\w-]+)`"); !slices.Equal(got, targets) {
		t.Errorf("the README's figures are made by %q, want %q", got, targets)
	}
}

func TestWrongUsageEndsWith2(t *testing.T) {
	for _, args := range []string{
		"", "nothing", "kill --jobs 5", "kill --rate 0", "kill more", "outage --minute 1s", "outage --only rain", "hooks fast", "hostile --only rain", "room --memory 1", "abuse --tenants 3", "room --answer 0", "hostile --rounds 0", "hostile --leave 100", "pace --only gold", "submit --aof never", "memory --bin /nowhere",
	} {
		if got := program(context.Background(), strings.Fields(args)); got != 2 {
			t.Errorf("prove %s ends with %d, want 2", args, got)
		}
	}
}
