package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// clockAhead is the environment variable by which a worker of this scenario has
// its clock set, in seconds.
const clockAhead = "CLOCK_AHEAD"

// skew: half of the workers have a clock that is wrong, one by half a minute
// ahead, one by as much behind.
func skew(ctx context.Context, b *bench) error {
	wrong := []string{"30", "-30", "0", "0"}
	bin, err := buildSkewed(ctx, filepath.Join(b.dir, "skewed"))
	if err != nil {
		return err
	}
	b.worker = func(i int) (string, []string) { return bin, []string{clockAhead + "=" + wrong[i]} }
	defer func() { b.worker = nil }()
	if err := b.open(ctx, warmUp+b.minute); err != nil {
		return err
	}
	if err := wait(ctx, warmUp); err != nil {
		return err
	}
	begin := time.Now()
	before, err := b.attempts(ctx)
	if err != nil {
		return err
	}
	if err := wait(ctx, b.minute); err != nil {
		return err
	}
	end := time.Now()
	after, err := b.attempts(ctx)
	if err != nil {
		return err
	}
	var off []string
	for i, p := range b.stage.Workers {
		d, err := clockOf(ctx, "http://"+p.Ops)
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
	calls := b.seen(nil)
	accepted, limited, sent := between(calls, begin, end)
	row("used of the allowance", percent(float64(accepted), b.rate*end.Sub(begin).Seconds()), ">= 99 %")
	row("429s, of all calls", fmt.Sprintf("%d of %d", limited, sent), "0")
	return b.finish(ctx, b.minute)
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
	bin := filepath.Join(dir, "sluice")
	out, err := exec.CommandContext(ctx, "go", "build", "-overlay", list, "-o", bin, "github.com/sluicehq/sluice/cmd/sluice").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build with another clock: %w\n%s", err, out)
	}
	return bin, nil
}

// attempts is how many calls each worker has made.
func (b *bench) attempts(ctx context.Context) ([]float64, error) {
	var out []float64
	for _, p := range b.stage.Workers {
		body, _, err := get(ctx, "http://"+p.Ops+"/metrics")
		if err != nil {
			return nil, err
		}
		sum := 0.0
		for line := range strings.Lines(body) {
			var n float64
			if name, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok && strings.HasPrefix(name, "sluice_attempts_total{") {
				if _, err := fmt.Sscan(value, &n); err != nil {
					return nil, fmt.Errorf("read a metric: %w", err)
				}
			}
			sum += n
		}
		out = append(out, sum)
	}
	return out, nil
}

// clockOf is how far a process's clock is ahead of this one's, to a second.
func clockOf(ctx context.Context, url string) (time.Duration, error) {
	_, head, err := get(ctx, url+"/healthz")
	if err != nil {
		return 0, err
	}
	at, err := http.ParseTime(head.Get("Date"))
	if err != nil {
		return 0, fmt.Errorf("read a clock: %w", err)
	}
	return at.Sub(time.Now().Truncate(time.Second)), nil
}

func get(ctx context.Context, url string) (string, http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", nil, err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), res.Header, err
}
