package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Proc is a child process that may be killed and started again.
type Proc struct {
	Name, Path string
	Args, Env  []string // Env nil: this process's own
	Log        string   // the file that takes its output
	Ops        string   // its address for /readyz and /metrics; "" when it has none

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts the process. It does not wait until it is ready.
func (p *Proc) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return fmt.Errorf("start %s: it runs", p.Name)
	}
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.Env, out, out
	// An interrupt at the terminal is for the one that asks, which ends its children.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	return nil
}

// Kill ends the process as kill -9 does, with those that it has started, and returns
// when it is gone. One that does not run is no error.
func (p *Proc) Kill() error { return p.end(syscall.SIGKILL) }

// Stop ends the process as an orderly stop does, and returns when it is gone.
func (p *Proc) Stop() error { return p.end(syscall.SIGTERM) }

func (p *Proc) end(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", p.Name, err)
	}
	<-p.done
	// Those that it started itself, as nginx does its workers, are of its group.
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end what %s has started: %w", p.Name, err)
	}
	p.cmd = nil
	return nil
}

// Signal sends the process a signal.
func (p *Proc) Signal(sig os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return fmt.Errorf("signal %s: it does not run", p.Name)
	}
	return p.cmd.Process.Signal(sig)
}

// Runs reports whether the process was started, and not ended since by its owner.
func (p *Proc) Runs() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil
}

// ended reports whether the process ended by itself.
func (p *Proc) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// AwaitReady waits until /readyz says so.
func (p *Proc) AwaitReady(ctx context.Context) error {
	err := Until(ctx, 30*time.Second, p.Name+" is ready", func(ctx context.Context) (bool, error) {
		if p.ended() {
			return false, fmt.Errorf("%s ended before it was ready", p.Name)
		}
		a, err := p.Get(ctx, "/readyz")
		return err == nil && a.Status == http.StatusOK, nil
	})
	if err != nil {
		text, _ := os.ReadFile(p.Log)
		return fmt.Errorf("%w; the end of its log:\n%s", err, text[max(0, len(text)-2000):])
	}
	return nil
}

// Get asks the process at its operator's address.
func (p *Proc) Get(ctx context.Context, path string) (Answer, error) {
	c, err := Dial(ctx, p.Ops)
	if err != nil {
		return Answer{}, err
	}
	defer c.Close()
	return c.Do(ctx, Request(http.MethodGet, p.Ops, path, nil))
}

// Counters reads the process's metrics: each counter, summed over its series.
func (p *Proc) Counters(ctx context.Context) (map[string]float64, error) {
	a, err := p.Get(ctx, "/metrics")
	if err != nil {
		return nil, fmt.Errorf("read the metrics of %s: %w", p.Name, err)
	}
	sum, err := counters(bytes.NewReader(a.Body))
	if err != nil {
		return nil, fmt.Errorf("read the metrics of %s: %w", p.Name, err)
	}
	return sum, nil
}

func counters(metrics io.Reader) (map[string]float64, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(metrics)
	if err != nil {
		return nil, err
	}
	sum := map[string]float64{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			sum[name] += m.GetCounter().GetValue()
		}
	}
	return sum, nil
}

// Profile takes a processor profile over d and writes it to a file.
func (p *Proc) Profile(ctx context.Context, file string, d time.Duration) error {
	a, err := p.Get(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(d.Seconds()))))
	if err == nil {
		err = os.WriteFile(file, a.Body, 0o600)
	}
	if err != nil {
		return fmt.Errorf("profile %s: %w", p.Name, err)
	}
	return nil
}

// ticksPerSecond is Linux's USER_HZ, in which /proc counts for every program.
const ticksPerSecond = 100

// CPU is the processor time that the process has used, to a hundredth of a
// second. It is known on Linux alone.
func (p *Proc) CPU() (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0, fmt.Errorf("processor time of %s: it does not run", p.Name)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("processor time of %s: %w", p.Name, err)
	}
	// The name, in parentheses, may hold spaces; utime and stime are the 14th
	// and 15th fields of all.
	_, rest, _ := bytes.Cut(text, []byte(") "))
	fields := strings.Fields(string(rest))
	if len(fields) < 13 {
		return 0, fmt.Errorf("processor time of %s: %d fields", p.Name, len(fields))
	}
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0, fmt.Errorf("processor time of %s: %w", p.Name, err)
	}
	return time.Duration(user+system) * time.Second / ticksPerSecond, nil
}

// PeakMemory is the most bytes of memory that the process has had at a time. It is
// known on Linux alone.
func (p *Proc) PeakMemory() (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0, fmt.Errorf("memory of %s: it does not run", p.Name)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("memory of %s: %w", p.Name, err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0, fmt.Errorf("memory of %s: %w", p.Name, err)
	}
	return kib << 10, nil
}
