package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docs/design.md is held to the packages and functions that there are.

const house = "github.com/sluicehq/sluice/"

func TestTheRoomsOfTheDesignAreThePackages(t *testing.T) {
	out, err := exec.Command("go", "list", house+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := strings.Fields(strings.ReplaceAll(string(out), house, ""))
	var rooms []string
	for line := range strings.Lines(project(t, "docs/design.md")) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 {
			continue
		}
		for _, m := range regexp.MustCompile("`([a-z/]+)`").FindAllStringSubmatch(line, -1) {
			rooms = append(rooms, m[1])
			if !slices.Contains(packages, m[1]) {
				t.Errorf("docs/design.md has a room %s, which is no package", m[1])
			}
		}
	}
	for _, p := range packages {
		// What is under a room of api or of a program is told by its own page.
		parent, _, _ := strings.Cut(p, "/")
		if strings.HasPrefix(p, "cmd/") {
			parent = strings.Join(strings.SplitN(p, "/", 3)[:2], "/")
		}
		if !slices.Contains(rooms, p) && (parent == "tasks" || parent == "worker" || !slices.Contains(rooms, parent)) {
			t.Errorf("docs/design.md has no room %s", p)
		}
	}
}

func TestTheTripsOfTheDesignNameFunctionsThatThereAre(t *testing.T) {
	named := regexp.MustCompile("`((?:api|cmd|tasks|worker|web)[a-z/]*)\\.([A-Za-z]+(?:\\.[A-Za-z]+)?)`").FindAllStringSubmatch(project(t, "docs/design.md"), -1)
	if len(named) < 20 {
		t.Errorf("docs/design.md names %d functions", len(named))
	}
	known := map[string][]string{}
	for _, m := range named {
		if m[2] == "go" {
			continue // a file
		}
		if known[m[1]] == nil {
			known[m[1]] = declared(t, m[1])
		}
		if !slices.Contains(known[m[1]], m[2]) {
			t.Errorf("docs/design.md names %s.%s, which is not there", m[1], m[2])
		}
	}
}

// declared are the functions, methods, types, constants and variables of a package.
func declared(t *testing.T, path string) (names []string) {
	t.Helper()
	dir := filepath.Join("..", "..", filepath.FromSlash(path))
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, f.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				name := d.Name.Name
				if d.Recv != nil {
					of := d.Recv.List[0].Type
					if star, ok := of.(*ast.StarExpr); ok {
						of = star.X
					}
					if id, ok := of.(*ast.Ident); ok {
						name = id.Name + "." + name
					}
				}
				names = append(names, name)
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						names = append(names, s.Name.Name)
					case *ast.ValueSpec:
						for _, n := range s.Names {
							names = append(names, n.Name)
						}
					}
				}
			}
		}
	}
	return names
}
