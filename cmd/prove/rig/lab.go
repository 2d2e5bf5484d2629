package rig

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Lab is what a run works with: the program under test and a folder.
type Lab struct {
	Bin string `help:"The program under test; without it, it is built from this module." type:"existingfile" placeholder:"FILE"`
	Dir string `help:"An empty folder for data and logs, which is kept; without it, one is made and removed." type:"path" placeholder:"DIR"`
}

// Open makes the folder and builds the program, unless they were named. The
// function returned removes the folder that was made. The working directory has
// to be inside the module.
func (l *Lab) Open(ctx context.Context) (remove func() error, err error) {
	remove = func() error { return nil }
	if l.Dir != "" {
		err = os.MkdirAll(l.Dir, 0o700)
	} else if l.Dir, err = os.MkdirTemp("", "prove"); err == nil {
		remove = func() error { return os.RemoveAll(l.Dir) }
	}
	if err == nil && l.Bin == "" {
		l.Bin, err = Compile(ctx, l.Dir)
	}
	return remove, err
}

// Compile builds the program, with further flags of go build, into a folder and
// returns its path.
func Compile(ctx context.Context, dir string, flags ...string) (string, error) {
	bin := filepath.Join(dir, "sluice")
	args := append([]string{"build", "-o", bin}, flags...)
	out, err := exec.CommandContext(ctx, "go", append(args, "github.com/sluicehq/sluice/cmd/sluice")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return bin, nil
}

// CompileFormer builds the program of a commit into a folder and returns its path.
func CompileFormer(ctx context.Context, dir, commit string) (string, error) {
	source := filepath.Join(dir, "source")
	if err := os.MkdirAll(source, 0o700); err != nil {
		return "", err
	}
	pack, bin := filepath.Join(dir, "source.tar"), filepath.Join(dir, "sluice-former")
	for _, c := range [][]string{
		{"git", "archive", "--output", pack, commit}, {"tar", "-xf", pack, "-C", source}, {"go", "-C", source, "build", "-o", bin, "./cmd/sluice"},
	} {
		if out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("build the release before, %s: %w\n%s", c[0], err, out)
		}
	}
	return bin, os.RemoveAll(source)
}
