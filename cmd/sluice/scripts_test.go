package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// A script of Redis is not rolled back: what is refused after its first write
// leaves half a move. A full Redis, a replica or one that cannot write its disk
// refuses the first write or none, but a user's permissions are asked of each
// command. So whatever is neither a read nor a write, above all what speaks to
// channels, which no user may since Redis 7 unless told so, goes by pcall. TIME is
// what scripts begin with.
func TestNoScriptStopsHalfWay(t *testing.T) {
	t.Parallel()
	plain := []string{"time"}
	rdb := redistest.New(t)
	for _, category := range []string{"read", "write"} {
		names, err := rdb.Do(t.Context(), "ACL", "CAT", category).StringSlice()
		if err != nil {
			t.Fatal(err)
		}
		plain = append(plain, names...)
	}
	call := regexp.MustCompile(`redis\.(p?call)\(\s*['"](\w+)['"]`)
	protected := 0
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != "..":
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".lua" && filepath.Ext(path) != ".go":
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range call.FindAllSubmatch(text, -1) {
			switch {
			case string(m[1]) == "pcall":
				protected++
			case !slices.Contains(plain, strings.ToLower(string(m[2]))):
				t.Errorf("%s: %s…: by redis.pcall, so that a refusal does not end the script", path, m[0])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !t.Failed() && protected < 10 {
		t.Errorf("only %d calls by pcall are found; there are more", protected)
	}
}

// Every folder of scripts has them tried against a Redis that refuses: see
// [redistest.Refuse].
func TestEveryFolderOfScriptsIsTried(t *testing.T) {
	t.Parallel()
	folders := map[string]bool{}
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if err == nil && filepath.Ext(path) == ".lua" {
			folders[strings.TrimSuffix(filepath.Dir(path), string(filepath.Separator)+"lua")] = true
		}
		return err
	})
	if err != nil || len(folders) < 4 {
		t.Fatalf("%d folders of scripts: %v", len(folders), err)
	}
	for folder := range folders {
		tests, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(tests, func(file string) bool {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Contains(string(text), "redistest.Refuse(")
		}) {
			t.Errorf("the scripts of %s are not tried with redistest.Refuse", folder)
		}
	}
}
