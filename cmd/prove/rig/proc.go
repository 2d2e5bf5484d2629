package rig

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
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

// Kill ends the process as kill -9 does, and returns when it is gone. One that
// does not run is no error.
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

// Ended reports whether the process ended by itself.
func (p *Proc) Ended() bool {
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
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return until(ctx, 30*time.Second, p.Name+" is ready", func() bool {
		r, err := client.Get("http://" + p.Ops + "/readyz")
		if err != nil {
			return false
		}
		_ = r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
}
