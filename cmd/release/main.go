// Command release builds what a release is made of, from the source in this folder: a static
// program for each system in an archive of its own, an SBOM of each (CycloneDX 1.6), and the
// checksums of all of it.
//
//	go run ./cmd/release --out dist
//
// The same source and toolchain make the same bytes, wherever and whenever: paths are left out
// of the programs, and archives have the time of the commit. --check builds one of them twice,
// the second time from a copy of the source in another folder, and fails where they differ.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// targets are the systems that a release is for.
var targets = []target{{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "amd64"}, {"darwin", "arm64"}}

type target struct{ system, processor string }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	dir := flags.String("out", "dist", "folder for what is built; it is emptied first")
	check := flags.Bool("check", false, "build one program twice, from two folders, and compare")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *check {
		return reproduces(ctx, out)
	}
	version, at, err := source(ctx)
	if err != nil {
		return err
	}
	if err := empty(*dir); err != nil {
		return err
	}
	for _, t := range targets {
		if err := release(ctx, *dir, version, at, t); err != nil {
			return fmt.Errorf("%s/%s: %w", t.system, t.processor, err)
		}
	}
	if err := checksums(*dir); err != nil {
		return err
	}
	list, err := os.ReadFile(filepath.Join(*dir, sums))
	if err == nil {
		_, err = out.Write(list)
	}
	return err
}

// source is the version of the source and the time of its commit.
func source(ctx context.Context) (version string, at time.Time, err error) {
	line, err := exec.CommandContext(ctx, "go", "run", "./cmd/sluice", "version").Output()
	if err != nil {
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w\n%s", err, failed.Stderr)
		}
		return "", at, fmt.Errorf("ask for the version: %w", err)
	}
	fields := strings.Fields(string(line))
	if len(fields) < 2 {
		return "", at, fmt.Errorf("%q is no version", line)
	}
	seconds, err := exec.CommandContext(ctx, "git", "log", "-1", "--format=%ct").Output()
	if err != nil {
		return "", at, fmt.Errorf("ask for the time of the commit: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(seconds)), 10, 64)
	return fields[1], time.Unix(n, 0).UTC(), err
}

// release builds one system's program, its archive and its SBOM.
func release(ctx context.Context, dir, version string, at time.Time, t target) error {
	name := fmt.Sprintf("sluice-%s-%s-%s", version, t.system, t.processor)
	program := filepath.Join(dir, name)
	if err := build(ctx, ".", program, t); err != nil {
		return err
	}
	bom, err := sbom(program, name, version, at)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, name+".cdx.json"), bom, 0o644); err != nil {
		return err
	}
	files := map[string]string{"sluice": program, "README.md": "README.md", "CHANGELOG.md": "CHANGELOG.md"}
	if err := archive(filepath.Join(dir, name+".tar.gz"), files, at); err != nil {
		return err
	}
	return os.Remove(program)
}

// build builds the program of the source in folder for a system.
func build(ctx context.Context, folder, to string, t target) error {
	to, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=auto", "-ldflags=-s -w -buildid=", "-o", to, "./cmd/sluice")
	cmd.Dir, cmd.Env = folder, append(os.Environ(), "CGO_ENABLED=0", "GOOS="+t.system, "GOARCH="+t.processor)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, said)
	}
	return nil
}

// empty makes the folder of a release, without what a release before left there. It touches no
// folder that has anything else.
func empty(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.IsDir() || !strings.HasPrefix(f.Name(), "sluice-") && f.Name() != "SHA256SUMS" {
			return fmt.Errorf("%s has %s, which is of no release: name an empty folder", dir, f.Name())
		}
	}
	for _, f := range files {
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// reproduces builds this system's program here and in a clone elsewhere.
func reproduces(ctx context.Context, out io.Writer) error {
	work, err := os.MkdirTemp("", "sluice-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var made [2][sha256.Size]byte
	for i := range made {
		folder := filepath.Join(work, fmt.Sprintf("copy-%d", i), strings.Repeat("x", 9*i+1))
		if said, err := exec.CommandContext(ctx, "git", "clone", "-q", ".", folder).CombinedOutput(); err != nil {
			return fmt.Errorf("clone the source: %w\n%s", err, said)
		}
		program := filepath.Join(work, fmt.Sprint("program-", i))
		if err := build(ctx, folder, program, target{runtime.GOOS, runtime.GOARCH}); err != nil {
			return err
		}
		b, err := os.ReadFile(program)
		if err != nil {
			return err
		}
		made[i] = sha256.Sum256(b)
	}
	if made[0] != made[1] {
		return fmt.Errorf("two builds of one commit differ: %x and %x", made[0], made[1])
	}
	_, err = fmt.Fprintf(out, "two builds of one commit are the same: %x\n", made[0])
	return err
}

// sums is the name of the file of checksums.
const sums = "SHA256SUMS"

// checksums writes those of all files of a folder, as sha256sum -c reads them.
func checksums(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var lines []string
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%x  %s\n", sha256.Sum256(b), e.Name()))
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[66:], b[66:]) })
	return os.WriteFile(filepath.Join(dir, sums), []byte(strings.Join(lines, "")), 0o644)
}
