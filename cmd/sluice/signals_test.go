package main

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAGroupsSignalIsOneWish was: timeout(1) signals the process and then its group,
// which was taken for impatience, so that calls in flight were dropped though paid for.
func TestAGroupsSignalIsOneWish(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			d.write("p.txt", "a\nb\nc\nd\ne\nf\ng\nh\n")
			holding := d.provider.hold(0)
			p, err := startChild(d.dir, append(d.environ, "GORACE=atexit_sleep_ms=0"), Sluice(t), "run", d.path("p.txt"), "-o", d.path("out.jsonl"), "--model", "m1")
			if err != nil {
				t.Fatal(err)
			}
			d.held(holding, nil)
			_, calls := d.provider.seen()
			pid := p.cmd.Process.Pid
			if err := syscall.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(-pid, sig); err != nil {
				t.Fatal(err)
			}
			d.provider.release()
			select {
			case <-p.ended:
			case <-time.After(patience):
				t.Fatal("it does not end")
			}
			said, _ := p.said()
			if code := p.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(said, "8 jobs: ") || !strings.Contains(said, "the same command goes on from there") {
				t.Errorf("code %d\n%s", code, said)
			}
			answered, _ := d.provider.seen()
			if len(answered) < calls {
				t.Errorf("%d calls were under way, and %d answers were waited for", calls, len(answered))
			}
			d.ok("@p.txt", "-o", "@out.jsonl", "--model", "m1")
			if _, now := d.provider.seen(); now != 8 {
				t.Errorf("8 lines cost %d calls", now)
			}
		})
	}
}

// A signal that comes later than half a second is another wish, and ends at once.
func TestASecondSignalLaterEndsAtOnce(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.txt", "a\n")
	holding := d.provider.hold(0)
	p, err := startChild(d.dir, append(d.environ, "GORACE=atexit_sleep_ms=0"), Sluice(t), "run", d.path("p.txt"), "-o", d.path("out.jsonl"), "--model", "m1")
	if err != nil {
		t.Fatal(err)
	}
	d.held(holding, nil)
	begun := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ended := false; !ended; {
		if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil && time.Since(begun) < oneWish {
			t.Fatalf("it ended after %s", time.Since(begun))
		}
		select {
		case <-p.ended:
			ended = true
		case <-tick.C:
		case <-time.After(patience):
			t.Fatal("it does not end")
		}
	}
	if took := time.Since(begun); took < oneWish || took > patience/2 {
		t.Errorf("it ended after %s", took)
	}
}
