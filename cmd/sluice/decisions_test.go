package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A decision is found by what it says: its file is named as its title is.
func TestTheFileOfADecisionIsNamedAsItsTitle(t *testing.T) {
	dir := filepath.Join("..", "..", "docs", "adr")
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	title := regexp.MustCompile(`^# (\d+)\. (.+)\n`)
	for i, f := range files {
		text := project(t, filepath.Join("docs", "adr", f.Name()))
		m := title.FindStringSubmatch(text)
		if m == nil {
			t.Errorf("%s does not begin with a number and a title", f.Name())
			continue
		}
		words := regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(m[2]), "-")
		number := strings.Repeat("0", max(0, 4-len(m[1]))) + m[1]
		if want := number + "-" + words + ".md"; f.Name() != want {
			t.Errorf("%s: its title asks for %s", f.Name(), want)
		}
		if m[1] != strings.TrimLeft(f.Name()[:4], "0") || i+1 != len(files) && files[i+1].Name()[:4] == f.Name()[:4] {
			t.Errorf("%s: the number is not its own", f.Name())
		}
		for _, part := range []string{"**Context.**", "**Decision.**", "**Consequences.**"} {
			if strings.Count(text, part) != 1 {
				t.Errorf("%s: %s is not there once", f.Name(), part)
			}
		}
		if n := strings.Count(text, "\n"); n > 45 {
			t.Errorf("%s has %d lines, which is more than a page", f.Name(), n)
		}
	}
}

// The program says the version of the newest heading of CHANGELOG.md.
func TestTheVersionIsTheOneOfTheChangelog(t *testing.T) {
	m := regexp.MustCompile(`(?m)^## (\S+)`).FindStringSubmatch(project(t, "CHANGELOG.md"))
	if m == nil || m[1] != version {
		t.Errorf("sluice version says %s; CHANGELOG.md begins with %q", version, m)
	}
}

// Each release that CHANGELOG.md tells of has its commit in docs/releases.md, and
// that commit says the version.
func TestEveryReleaseHasItsCommit(t *testing.T) {
	commits := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| (\\S+) \\| `([0-9a-f]{40})` \\|$").FindAllStringSubmatch(project(t, "docs/releases.md"), -1) {
		commits[m[1]] = m[2]
	}
	git := func(args ...string) (string, error) {
		out, err := exec.Command("git", append([]string{"-C", "../.."}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	shallow, err := git("rev-parse", "--is-shallow-repository")
	for _, m := range regexp.MustCompile(`(?m)^## (\S+) \(\d{4}-`).FindAllStringSubmatch(project(t, "CHANGELOG.md"), -1) {
		commit := commits[m[1]]
		if commit == "" {
			t.Errorf("docs/releases.md has no commit of %s", m[1])
			continue
		}
		if err != nil || shallow != "false" {
			continue // a copy of the files without their history
		}
		source, err := git("show", commit+":cmd/sluice/version.go")
		if err != nil || !strings.Contains(source, fmt.Sprintf("version = %q", m[1])) {
			t.Errorf("commit %s is not that of %s: %v", commit, m[1], err)
		}
	}
}
