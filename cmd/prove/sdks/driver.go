package sdks

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// sdk is an official SDK, unmodified.
type sdk struct {
	name    string // package and version
	dialect string
	node    bool
	args    []string // of its driver; the first of a program in Go is its name
	// resends is false of one that does not send a batch again whose connection broke.
	resends bool
	// returns is false of one that does not ask again when its own time has passed.
	returns bool
	// types are the names of the errors of a status; those of Go have one type for all.
	types map[int]string
}

// before are the types of errors that all SDKs for Node had first.
var before = map[int]string{
	400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError",
	409: "ConflictError", 422: "UnprocessableEntityError", 429: "RateLimitError", 500: "InternalServerError",
	502: "InternalServerError", 503: "InternalServerError", 504: "InternalServerError", 529: "InternalServerError",
}

// since are those that Anthropic's has more since version 1.
var since = map[int]string{
	402: "PaymentRequiredError", 408: "RequestTimeoutError", 413: "ContentTooLargeError",
	503: "ServiceUnavailableError", 504: "GatewayTimeoutError", 529: "OverloadedError",
}

func all() []*sdk {
	newest := map[int]string{}
	for _, types := range []map[int]string{before, since} {
		for status, name := range types {
			newest[status] = name
		}
	}
	return []*sdk{
		{"@anthropic-ai/sdk 1.14.0", "anthropic", true, []string{"anthropic.mjs", "@anthropic-ai/sdk"}, true, true, newest},
		{"@anthropic-ai/sdk 0.137.0", "anthropic", true, []string{"anthropic.mjs", "anthropic-before"}, true, true, before},
		{"anthropic-sdk-go v1.84.0", "anthropic", false, []string{"anthropic"}, true, true, nil},
		{"anthropic-sdk-go/v2 v2.15.0", "anthropic", false, []string{"anthropic2"}, false, true, nil},
		{"openai (npm) 7.59.0", "openai", true, []string{"openai.mjs"}, true, true, before},
		{"openai-go/v3 v3.99.0", "openai", false, []string{"openai"}, true, false, nil},
	}
}

// command is what an SDK is to do; drive.mjs says how it is told.
type command struct {
	N             int               `json:"n"`
	Do            string            `json:"do"`
	Base          string            `json:"base"`
	Key           string            `json:"key"`
	Retries       *int              `json:"retries,omitempty"` // nil: the SDK's own
	Timeout       int64             `json:"timeout,omitempty"` // ms; 0: the SDK's own
	Headers       map[string]string `json:"headers,omitempty"`
	Params        any               `json:"params,omitempty"`
	ID            string            `json:"id,omitempty"`
	Text          string            `json:"text,omitempty"`
	Limit         int               `json:"limit,omitempty"`
	Before        string            `json:"before,omitempty"`
	After         string            `json:"after,omitempty"`
	StartingAfter int               `json:"starting_after,omitempty"`
	Secret        string            `json:"secret,omitempty"`
	Sent          map[string]string `json:"sent,omitempty"`
	Each          string            `json:"each,omitempty"`
	Count         int               `json:"count,omitempty"`
	Parallel      int               `json:"parallel,omitempty"`
}

// failure is an error as an SDK has it.
type failure struct {
	Class   string          `json:"class"`
	Kinds   []string        `json:"kinds"` // the types that it is one of
	Status  int             `json:"status"`
	Message string          `json:"message"`
	Request string          `json:"request"`
	Body    json.RawMessage `json:"body"`
}

func (f *failure) Error() string {
	return fmt.Sprintf("%s %d: %.300s %.300s", f.Class, f.Status, f.Message, f.Body)
}

// driver is a program that has an SDK do what it is told.
type driver struct {
	*sdk
	cmd *exec.Cmd
	in  io.WriteCloser

	mu    sync.Mutex
	n     int
	asked map[int]chan said
	ended error
}

type said struct {
	N     int             `json:"n"`
	Out   json.RawMessage `json:"out"`
	Error *failure        `json:"error"`
}

// start starts the driver of an SDK. Programs are those in Go, in that folder.
func (k *sdk) start(programs string) (*driver, error) {
	d := &driver{sdk: k, asked: map[int]chan said{}}
	if k.node {
		d.cmd = exec.Command("node", k.args...)
		d.cmd.Dir = filepath.Join(testdata, "npm")
	} else {
		d.cmd = exec.Command(filepath.Join(programs, k.args[0]), k.args[1:]...)
	}
	d.cmd.Stderr = os.Stderr
	var err error
	if d.in, err = d.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the driver of %s: %w", k.name, err)
	}
	go d.listen(out)
	return d, nil
}

// listen hands each answer to who waits for it, until the driver ends.
func (d *driver) listen(out io.Reader) {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		var s said
		if err == nil {
			err = json.Unmarshal(line, &s)
		}
		d.mu.Lock()
		if err != nil {
			d.ended = fmt.Errorf("the driver of %s has ended: %w", d.name, err)
			for _, told := range d.asked {
				close(told)
			}
			d.asked = nil
			d.mu.Unlock()
			return
		}
		if told := d.asked[s.N]; told != nil {
			told <- s
			delete(d.asked, s.N)
		}
		d.mu.Unlock()
	}
}

// ask has the SDK do something. What the SDK fails with is a *failure.
func (d *driver) ask(ctx context.Context, c command) (json.RawMessage, error) {
	told := make(chan said, 1)
	d.mu.Lock()
	d.n++
	c.N = d.n
	line, err := json.Marshal(c)
	if err == nil && d.ended != nil {
		err = d.ended
	}
	if err == nil {
		d.asked[c.N] = told
		_, err = d.in.Write(append(line, '\n'))
	}
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case s, ok := <-told:
		switch {
		case !ok:
			return nil, d.ended
		case s.Error != nil:
			return nil, s.Error
		}
		return s.Out, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %s: %w", d.name, c.Do, ctx.Err())
	}
}

// close ends the driver.
func (d *driver) close() {
	_ = d.in.Close()
	end := time.AfterFunc(2*time.Second, func() { _ = d.cmd.Process.Kill() })
	defer end.Stop()
	_ = d.cmd.Wait() // how it ended is told by what it answered
}

// build compiles the drivers in Go into a folder, which takes minutes and 2 GB the first
// time.
func build(ctx context.Context, folder string, chosen []*sdk) error {
	args := []string{"build", "-o", folder + string(filepath.Separator)}
	for _, k := range chosen {
		if !k.node {
			args = append(args, "./"+k.args[0])
		}
	}
	if len(args) == 3 {
		return nil
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(testdata, "go")
	// They are no part of what is proved: the race detector is not for them.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return len(e) > 8 && e[:8] == "GOFLAGS=" })
	cmd.Env = append(cmd.Env, "GOFLAGS=-p=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the drivers: %w\n%s", err, out)
	}
	return nil
}
