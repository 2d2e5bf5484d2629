package outage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// clockAhead is the environment variable by which a worker of this scenario has
// its clock set, in seconds.
const clockAhead = "CLOCK_AHEAD"

// setClocks gives half of the workers a clock that is wrong, one by half a
// minute ahead, one by as much behind.
func (t *trial) setClocks(ctx context.Context, lab *rig.Lab) error {
	wrong := []string{"30", "-30", "0", "0"}
	bin, err := buildSkewed(ctx, filepath.Join(lab.Dir, "skewed"))
	t.worker = func(i int) (string, []string) { return bin, []string{clockAhead + "=" + wrong[i]} }
	return err
}

// skew: half of the workers have a clock that is wrong.
func (t *trial) skew(ctx context.Context) error {
	begin := time.Now()
	before, err := t.attempts(ctx)
	if err != nil {
		return err
	}
	if err := rig.Wait(ctx, t.minute); err != nil {
		return err
	}
	end := time.Now()
	after, err := t.attempts(ctx)
	if err != nil {
		return err
	}
	var off []string
	for i, p := range t.stage.Workers {
		d, err := clockOf(ctx, p)
		if err != nil {
			return err
		}
		off = append(off, fmt.Sprintf("%+.0f", d.Seconds()))
		after[i] -= before[i]
	}
	row("clocks of the workers, seconds ahead", strings.Join(off, " "), "half of them wrong by 30")
	all := after[0] + after[1] + after[2] + after[3]
	row("calls by those whose clock is wrong, of all", percent(after[0]+after[1], all), "45 to 55 %")
	row("calls of each worker", fmt.Sprintf("%.0f %.0f %.0f %.0f", after[0], after[1], after[2], after[3]), "")
	accepted, limited, sent := between(t.seen(nil), begin, end)
	row("used of the allowance", percent(float64(accepted), t.allowed(end.Sub(begin))), ">= 99 %")
	row("429s, of all calls", fmt.Sprintf("%d of %d", limited, sent), "0")
	return nil
}

// buildSkewed builds the program with a time.Now that CLOCK_AHEAD moves. A Go
// program asks the kernel for the time, so its clock cannot be moved from
// outside.
func buildSkewed(ctx context.Context, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("ask for GOROOT: %w", err)
	}
	file := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	const asks = "\tsec, nsec, mono := runtimeNow()\n"
	moved := bytes.Replace(source, []byte(asks), []byte(asks+"\tsec += ahead\n"), 1)
	if bytes.Equal(moved, source) {
		return "", errors.New("this Go asks for the time in another way than is known here")
	}
	moved = bytes.Replace(moved, []byte("import (\n"), []byte("import (\n\t\"syscall\"\n"), 1)
	moved = append(moved, `
var ahead = func() (sec int64) {
	text, _ := syscall.Getenv("`+clockAhead+`")
	sign := int64(1)
	for _, c := range text {
		if c == '-' {
			sign = -1
		} else {
			sec = 10*sec + int64(c-'0')
		}
	}
	return sign * sec
}()
`...)
	instead := filepath.Join(dir, "time.go")
	if err := os.WriteFile(instead, moved, 0o600); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: instead}})
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", err
	}
	return rig.Compile(ctx, dir, "-overlay", list)
}

// attempts is how many calls each worker has made.
func (t *trial) attempts(ctx context.Context) ([]float64, error) {
	var out []float64
	for _, p := range t.stage.Workers {
		counters, err := p.Counters(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, counters["sluice_attempts_total"])
	}
	return out, nil
}

// clockOf is how far a process's clock is ahead of this one's, to a second.
func clockOf(ctx context.Context, p *rig.Proc) (time.Duration, error) {
	a, err := p.Get(ctx, "/healthz")
	if err != nil {
		return 0, err
	}
	at, err := http.ParseTime(a.Header.Get("Date"))
	if err != nil {
		return 0, fmt.Errorf("read a clock: %w", err)
	}
	return at.Sub(time.Now().Truncate(time.Second)), nil
}
