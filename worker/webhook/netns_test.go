//go:build linux

package webhook_test

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/worker/webhook"
)

// inNamespace is set for the child that runs in a network namespace of its own.
const inNamespace = "SLUICE_TEST_NETNS"

// The corpus is dialled in earnest, in a network namespace where every address
// there is belongs to this machine and has listeners: a connection that the guard
// lets through is taken and seen. Nothing leaves the namespace. Where the system
// gives nobody a namespace the test is skipped, in CI it fails.
func TestCorpusInNetworkNamespace(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		if _, err := exec.LookPath("ip"); err != nil {
			absent(t, "ip is not on PATH (Debian: iproute2)")
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCorpusInNetworkNamespace$", "-test.v")
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if uid := os.Getuid(); uid != 0 { // a user namespace makes anybody root of a network of his own
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			absent(t, "no network namespace: "+err.Error())
		}
		if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "--- PASS") {
			t.Fatalf("in the namespace: %v\n%s", err, &out)
		}
		return
	}
	for _, args := range []string{"link set lo up", "route add local 0.0.0.0/0 dev lo", "-6 route add local ::/0 dev lo"} {
		if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	traps := map[string]*trap{}
	for _, port := range []string{"22", "80", "443", "6379", "8080", "8443", "9090"} {
		traps[port] = newTrap(t, port)
	}
	// caught returns the local addresses of the connections since the last call.
	// Listeners hand out connections in order: when the one to the mark is out, so
	// are all before it.
	caught := func() []string {
		var all []string
		for port, tr := range traps {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(mark, port), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			for addr := range tr.taken {
				if host, _, _ := net.SplitHostPort(addr); host == mark {
					break
				}
				all = append(all, addr)
			}
		}
		return all
	}
	// The trap catches what it should when no guard stands before it.
	for _, addr := range []string{"169.254.169.254:443", "10.0.0.1:6379", "[fd00:ec2::254]:80", "127.0.0.1:22"} {
		c, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if got := caught(); len(got) != 1 || got[0] != addr {
			t.Fatalf("an unguarded connection to %s: caught %v", addr, got)
		}
	}

	lines, names := corpus(t)
	g := corpusGuard(t, names)
	s := newSender(t, webhook.SenderConfig{Guard: g})
	for _, l := range lines {
		// Through a sender, where the URL's text is judged first.
		s.Send(t.Context(), delivery(l.url))
		got := caught()
		if wanted := l.save == "ok" && l.dial != "denied" && l.dial != "-"; (len(got) > 0) != wanted && l.dial != "mixed" {
			t.Errorf("line %d: Send to %q connected to %v, wanted: %v", l.n, l.url, got, wanted)
		}
		// And by the dialer alone.
		if req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.url, nil); err == nil {
			transport := &http.Transport{DialContext: g.DialContext}
			if resp, err := transport.RoundTrip(req); err == nil {
				resp.Body.Close()
			}
		}
		direct := caught()
		if l.dial != "mixed" && (len(direct) > 0) != (l.dial == "allowed") {
			t.Errorf("line %d: %q connected to %v, want %s", l.n, l.url, direct, l.dial)
		}
		for _, addr := range append(got, direct...) {
			if host, _, _ := net.SplitHostPort(addr); host != "93.184.216.34" && host != "2606:2800:220:1:248:1893:25c8:1946" && host != "198.41.0.4" {
				t.Errorf("line %d: %q reached %s", l.n, l.url, addr)
			}
		}
	}
}

// mark is an address that stands in no URL of the corpus.
const mark = "93.184.216.200"

// trap takes connections on one port of every address and closes them.
type trap struct{ taken chan string }

func newTrap(t *testing.T, port string) *trap {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	tr := &trap{taken: make(chan string, 64)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tr.taken <- c.LocalAddr().String()
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return tr
}
