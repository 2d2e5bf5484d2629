package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks/redistest"
)

var digestMember = regexp.MustCompile(`,"digest":"[0-9a-f]{64}"`)

// former makes of an interrupted run what a program before release 0.1.0 would have left: results
// and a journal without digests, in a folder named by the input and the flags.
func (d *desk) former(folder string) {
	d.t.Helper()
	d.write("out.jsonl", digestMember.ReplaceAllString(d.read("out.jsonl"), ""))
	runs, err := filepath.Glob(filepath.Join(d.data, "runs", "*"))
	if err != nil || len(runs) != 1 {
		d.t.Fatalf("runs %q, %v", runs, err)
	}
	text, err := os.ReadFile(filepath.Join(runs[0], "batch"))
	if err != nil {
		d.t.Fatal(err)
	}
	batch := regexp.MustCompile(`(?m)^batch_\w+$`).FindString(string(text))
	if err := os.WriteFile(filepath.Join(runs[0], "batch"), []byte(batch+"\n"), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(runs[0], folder); err != nil {
		d.t.Fatal(err)
	}
}

func TestResultsOfTheEarlierRelease(t *testing.T) {
	t.Parallel()
	const before = "a\nb\nc\nd\ne\nf\ng\nh\n"
	const all = "1 1 m1: a\n2 2 m1: b\n3 3 m1: c\n4 4 m1: d\n5 5 m1: e\n6 6 m1: f\n7 7 m1: g\n8 8 m1: h"
	refused := "holds results of an earlier release, which do not say what they answer, and nothing shows that"
	for name, c := range map[string]struct {
		change func(d *desk, folder string)
		args   []string
		code   int
		want   string // on stderr
		calls  int    // in all
	}{
		"the same input": {func(*desk, string) {}, nil, 0, "results are in", 8},
		"an edited input": {func(d *desk, _ string) {
			d.write("p.txt", "A\nb\nc\nd\ne\nf\ng\nh\n") // every line number and custom_id as before
		}, nil, 2, refused, -1},
		"another model": {func(*desk, string) {}, []string{"--model", "m2"}, 2, refused, -1},
		"no folder": {func(d *desk, folder string) {
			if err := os.RemoveAll(folder); err != nil {
				d.t.Fatal(err)
			}
		}, nil, 2, refused, -1},
		"a folder without its jobs, as a rerun of edited prompts left": {func(d *desk, folder string) {
			if err := os.Remove(filepath.Join(folder, "batch")); err != nil {
				d.t.Fatal(err)
			}
		}, nil, 2, refused, -1},
		"rows of another run, of the prompts before they were edited": {func(d *desk, _ string) {
			d.write("out.jsonl", strings.ReplaceAll(d.read("out.jsonl"), `"id":"job_`, `"id":"job_X`))
		}, nil, 2, refused, -1},
		"nothing but failures": {func(d *desk, folder string) {
			d.write("out.jsonl", `{"custom_id":"1","line":1,"id":"job_1","status":"failed","result":null,"text":null,"error":{},"usage":null,"attempts":1}`+"\n")
			if err := os.RemoveAll(folder); err != nil {
				d.t.Fatal(err)
			}
		}, nil, 0, "8 succeeded, 0 failed, 0 done before", -1},
		"--fresh": {func(*desk, string) {}, []string{"--model", "m1", "--fresh"}, 0, "8 succeeded, 0 failed, 0 done before", -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			d.write("p.txt", before)
			d.interrupted(2, "@p.txt", "-o", "@out.jsonl", "--model", "m1")
			key := sha256.Sum256([]byte(d.path("out.jsonl") + "\nm1\n1024\n" + before))
			folder := filepath.Join(d.data, "runs", hex.EncodeToString(key[:])[:20])
			d.former(folder)
			c.change(d, folder)
			rows := d.read("out.jsonl")
			if rows == "" {
				t.Fatal("the interrupted run wrote nothing")
			}
			_, calls := d.provider.seen()
			args := c.args
			if args == nil {
				args = []string{"--model", "m1"}
			}
			code, _, stderr := d.run(append([]string{"@p.txt", "-o", "@out.jsonl"}, args...)...)
			if code != c.code || !strings.Contains(stderr, c.want) {
				t.Errorf("code %d; want %d and %q:\n%s", code, c.code, c.want, stderr)
			}
			_, now := d.provider.seen()
			switch {
			case c.code == 2 && (now != calls || d.read("out.jsonl") != rows || !strings.Contains(stderr, "name another file for the results, or --fresh")):
				t.Errorf("%d calls, and the results are %q; want them as they were\n%s", now-calls, d.read("out.jsonl"), stderr)
			case c.code == 0 && texts(t, d.read("out.jsonl")) != all:
				t.Errorf("results\n%s", texts(t, d.read("out.jsonl")))
			case c.calls > 0 && now != c.calls:
				t.Errorf("%d calls; want %d", now, c.calls)
			}
			if c.code == 0 {
				if left, err := filepath.Glob(filepath.Join(d.data, "runs", "*", "batch")); err != nil || len(left) > 0 {
					t.Errorf("left behind: %q, %v", left, err)
				}
			}
		})
	}
}

// TestStartingOverCancelsWhatWaitsInAnExternalRedis: the jobs of the run that
// nobody wants any more would be sent by whoever works there.
func TestStartingOverCancelsWhatWaitsInAnExternalRedis(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	redis := redistest.Start(t, redistest.Options{})
	d.environ = append(d.environ, "SLUICE_REDIS__URL="+redis.URL())
	d.write("p.txt", "a\nb\nc\nd\ne\nf\ng\nh\n")
	d.interrupted(0, "@p.txt", "-o", "@out.jsonl", "--model", "m1")
	_, calls := d.provider.seen()
	d.write("p.txt", "new\n")
	d.ok("@p.txt", "-o", "@out.jsonl", "--model", "m1", "--fresh")
	if got := texts(t, d.read("out.jsonl")); got != "1 1 m1: new" {
		t.Errorf("results\n%s", got)
	}
	if _, now := d.provider.seen(); now != calls+1 {
		t.Errorf("%d calls more; want 1", now-calls)
	}
}
