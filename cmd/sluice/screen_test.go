package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestATerminalObeysNoModel was: a model's text could move the cursor, set the title
// and read the keyboard of whoever printed it.
func TestATerminalObeysNoModel(t *testing.T) {
	for in, want := range map[string]string{
		"plain\n\ttext é 😀\r\n": "plain\n\ttext é 😀\n",
		"\x1b[31mred":           "\u241b[31mred",
		"\x1b]0;title\x07":      "\u241b]0;title\u2407",
		"over\rwritten\b\x7f":   "over\u240dwritten\u2408\u2421",
		"\u009b31m":             "\ufffd31m",
		"\x9b31m\xff":           "\ufffd31m\ufffd",
		"\x00":                  "\u2400",
		"fi\u202excod.exe":      "fi\ufffdxcod.exe",
		"\u2066a\u2069\u200fb":  "\ufffda\ufffd\ufffdb",
	} {
		for cut := range len(in) + 1 {
			var out bytes.Buffer
			s := &screen{inTurn: inTurn{to: &out}}
			for _, part := range []string{in[:cut], in[cut:]} {
				if n, err := s.Write([]byte(part)); n != len(part) || err != nil {
					t.Errorf("%q: %d, %v", part, n, err)
				}
			}
			if got := out.String(); got != want && !(strings.Contains(in, "\r\n") && strings.HasSuffix(in[:cut], "\r")) {
				t.Errorf("%q, cut at %d, is shown as %q; want %q", in, cut, got, want)
			}
		}
	}
}

// TestCommandsOnARealTerminal asks a pseudo-terminal what it was told: the sequences
// of the model's text are not among it, and in a file they are as they came.
func TestCommandsOnARealTerminal(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write("p.jsonl", `{"model":"m1","prompt":"\u001b]0;owned\u0007\u001b[2Jboo"}`+"\n")
	said := onTerminal(t, func(tty *os.File) int {
		return typeIn(t.Context(), []string{"run", d.path("p.jsonl")}, d.environ, strings.NewReader(""), tty, tty)
	})
	if rest := strings.NewReplacer("\r\x1b[K", "", "\x1b[?7l", "", "\x1b[?7h", "").Replace(said); strings.Contains(rest, "\x1b") || strings.Contains(rest, "\x07") || !strings.Contains(rest, "boo") || !strings.Contains(rest, "] 100 %  1/1 ") {
		t.Errorf("the terminal was told %q", said)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if terminal(shown(out)) {
		t.Error("a file is taken for a terminal")
	}
}

// What a model wrote reaches a pipe as it is, by whatever command, and a terminal with
// nothing in it that a terminal obeys; --help says so.
func TestATextIsAsItIsInAPipeAndHarmlessOnATerminal(t *testing.T) {
	t.Parallel()
	const text, harmless = "\x1b]0;owned\x07a\u202eb\u2066c\u009bd\r.\n", "\u241b]0;owned\u2407a\ufffdb\ufffdc\ufffdd\u240d.\n"
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	job := fmt.Sprintf(`{"id":"job_1","status":"succeeded","text":%s}`, quoted)
	api := newFakeAPI(t, func(_ int, r asked, w http.ResponseWriter) {
		if strings.HasSuffix(r.uri, "/events") {
			send(w, fmt.Sprintf("id: 1\nevent: delta\ndata: {\"attempt\":1,\"offset\":0,\"text\":%s}", quoted), "id: 2\nevent: status\ndata: "+job, "id: 3\nevent: done\ndata: {}")
			return
		}
		_, _ = io.WriteString(w, job)
	})
	for _, args := range [][]string{{"get", "--text", "job_1"}, {"watch", "job_1"}, {"submit", "--text", "-m", "m", "p"}} {
		t.Run(args[0], func(t *testing.T) {
			t.Parallel()
			if code, stdout, stderr := invoke(t, "", api.environ(), args...); code != 0 || stdout != text {
				t.Errorf("a pipe gets %q, code %d, %q", stdout, code, stderr)
			}
			environ := append([]string{"HOME=" + t.TempDir()}, api.environ()...)
			said := onTerminal(t, func(tty *os.File) int {
				return typeIn(t.Context(), args, environ, strings.NewReader(""), tty, tty)
			})
			if said = strings.ReplaceAll(said, "\r\n", "\n"); !strings.Contains(said, harmless) {
				t.Errorf("a terminal gets %q", said)
			}
			if _, help, _ := invoke(t, "", nil, args[0], "--help"); !strings.Contains(strings.Join(strings.Fields(help), " "), screenHelp) {
				t.Errorf("--help does not say so:\n%s", help)
			}
		})
	}
}

// A log is one line a record: at a terminal in words, else with spans in seconds; what is not
// known is left out.
func TestTheLogIsLegible(t *testing.T) {
	t.Parallel()
	told := []any{"delay", 1500 * time.Millisecond, "at", time.Time{}, "pool", "gpt"}
	var plain, asJSON bytes.Buffer
	log := slog.New(newNotes(&plain)).With("part", "breaker")
	log.Info("not told")
	log.Warn("it waits", told...)
	log.WithGroup("g").Error("it fails", "msg", "b")
	slog.New(newNotes(&plain)).Warn("alone")
	if got, want := plain.String(), "sluice: it waits (part=breaker delay_seconds=1.5 pool=gpt)\nsluice: it fails (part=breaker g.msg=b)\nsluice: alone\n"; got != want {
		t.Errorf("a terminal is told\n%swant\n%s", got, want)
	}
	lines, err := newLog(&asJSON, "info")
	if err != nil {
		t.Fatal(err)
	}
	lines.Info("it waits", told...)
	if got := asJSON.String(); !strings.HasSuffix(got, `"level":"INFO","msg":"it waits","delay_seconds":1.5,"pool":"gpt"}`+"\n") || !strings.HasPrefix(got, `{"time":"2`) {
		t.Errorf("a program is told %s", got)
	}
}

// onTerminal runs something at a pseudo-terminal and returns what that was told.
func onTerminal(t *testing.T, run func(tty *os.File) int) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	tty, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	told := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			all.Write(buf[:n])
			if err != nil {
				told <- all.String()
				return
			}
		}
	}()
	if code := run(tty); code != 0 {
		t.Errorf("code %d", code)
	}
	if err := tty.Close(); err != nil {
		t.Error(err)
	}
	select {
	case said := <-told:
		return said
	case <-time.After(patience):
		t.Fatal("the terminal goes on")
		return ""
	}
}
