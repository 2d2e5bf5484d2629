package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/fzipp/gocyclo"
)

// A function fits a screen, and who reads it can hold its ways in mind.
const (
	mostLines    = 70
	mostBranches = 15
)

// lists are the functions whose length is that of a list: routes, and the wiring of a
// service.
var lists = []string{"*API.routes", "*service.build", "*service.run"}

func TestFunctionsFitAScreen(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-f", `{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}`, "../../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := strings.Fields(string(out))
	if len(files) < 100 {
		t.Fatalf("only %d files were found", len(files))
	}
	var listed []string
	for _, path := range files {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := f.Name.Name
			if f.Recv != nil {
				name = types.ExprString(f.Recv.List[0].Type) + "." + name
			}
			if n := gocyclo.Complexity(f); n > mostBranches {
				t.Errorf("%s: %s has a cyclomatic complexity of %d; at most %d", path, name, n, mostBranches)
			}
			if slices.Contains(lists, name) {
				listed = append(listed, name)
			} else if n := set.Position(f.End()).Line - set.Position(f.Pos()).Line + 1; n > mostLines {
				t.Errorf("%s: %s has %d lines; at most %d", path, name, n, mostLines)
			}
		}
	}
	slices.Sort(listed)
	if want := slices.Sorted(slices.Values(lists)); !slices.Equal(listed, want) {
		t.Errorf("the lists are %q, and the program has %q of them", want, listed)
	}
}
