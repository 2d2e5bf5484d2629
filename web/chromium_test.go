package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// theChromium is the browser that all tests share: to start one takes seconds.
var theChromium = &chromium{waiting: map[int]chan message{}, logs: map[string][]string{}}

// chromium is a headless browser, spoken to by the DevTools protocol over two pipes.
type chromium struct {
	once   sync.Once
	err    error
	folder string
	cmd    *exec.Cmd
	in     *os.File
	done   chan struct{} // closed when it writes no more

	mu      sync.Mutex
	id      int
	waiting map[int]chan message
	logs    map[string][]string // what pages wrote into their logs, by session
}

// message is one of the protocol: a result by its id, or an event.
type message struct {
	ID                int
	SessionID, Method string
	Result            json.RawMessage
	Error             *struct{ Message string }
	Params            struct{ Entry struct{ Text string } }
}

// start starts the browser, once.
func (c *chromium) start(path string) error {
	c.once.Do(func() { c.err = c.run(path) })
	return c.err
}

func (c *chromium) run(path string) error {
	// Not t.TempDir: Chromium's children may still write while it is taken away.
	var err error
	if c.folder, err = os.MkdirTemp("", "browser"); err != nil {
		return err
	}
	reads, in, err := os.Pipe()
	if err != nil {
		return err
	}
	out, writes, err := os.Pipe()
	if err != nil {
		return errors.Join(err, reads.Close(), in.Close())
	}
	c.cmd = exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--user-data-dir="+c.folder, "--remote-debugging-pipe")
	c.cmd.ExtraFiles = []*os.File{reads, writes} // the protocol's 3 and 4
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = c.cmd.Start()
	if err = errors.Join(err, reads.Close(), writes.Close()); err != nil {
		c.cmd = nil
		return errors.Join(err, in.Close(), out.Close())
	}
	c.in, c.done = in, make(chan struct{})
	go c.listen(out)
	return nil
}

// listen hands out what the browser says until it is gone.
func (c *chromium) listen(out *os.File) {
	defer close(c.done)
	defer out.Close()
	r := bufio.NewReader(out)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(bytes.TrimSuffix(text, []byte{0}), &m) != nil {
			continue // an event of another form than those that we ask for
		}
		c.mu.Lock()
		if m.Method == "Log.entryAdded" {
			c.logs[m.SessionID] = append(c.logs[m.SessionID], m.Params.Entry.Text)
		}
		answer := c.waiting[m.ID]
		delete(c.waiting, m.ID)
		c.mu.Unlock()
		if answer != nil {
			answer <- m
		}
	}
}

// call calls a method and reads its result.
func (c *chromium) call(ctx context.Context, session, method string, params map[string]any, result any) error {
	c.mu.Lock()
	c.id++
	asked := map[string]any{"id": c.id, "method": method}
	if params != nil {
		asked["params"] = params
	}
	if session != "" {
		asked["sessionId"] = session
	}
	text, err := json.Marshal(asked)
	if err == nil {
		_, err = c.in.Write(append(text, 0))
	}
	answer := make(chan message, 1)
	c.waiting[c.id] = answer
	c.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return errors.New(m.Error.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(m.Result, result)
	case <-c.done:
		return errors.New("the browser is gone")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// said returns what a page has written into its log.
func (c *chromium) said(session string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logs[session]
}

// stop ends the browser, if it was started.
func (c *chromium) stop() error {
	if c.cmd == nil {
		return nil
	}
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	_ = c.cmd.Wait() // killed
	<-c.done
	return errors.Join(c.in.Close(), os.RemoveAll(c.folder))
}
