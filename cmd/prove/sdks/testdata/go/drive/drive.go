// Package drive is the other side of prove sdks: a line of JSON on standard input is a
// command for an SDK, and one on standard output what came of it. Commands run beside
// each other. Its fields are those of drive.mjs.
package drive

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// Command is what an SDK is to do.
type Command struct {
	N             int
	Do            string
	Base, Key     string
	Retries       *int
	Timeout       int // ms
	Headers       map[string]string
	Params        json.RawMessage
	ID, Text      string
	Limit         int64
	Before, After string
	StartingAfter int64 `json:"starting_after"`
	Secret        string
	Sent          map[string]string

	// Of "many".
	Each            string
	Count, Parallel int
}

// Into reads the parameters.
func (c *Command) Into(params any) error { return json.Unmarshal(c.Params, params) }

// Failure is an error as the SDK has it.
type Failure struct {
	Class   string          `json:"class"`
	Status  int             `json:"status"`
	Message string          `json:"message"`
	Request string          `json:"request"`
	Body    json.RawMessage `json:"body,omitempty"`
}

// Raw is an answer of an SDK, which keeps what it has read.
func Raw(r interface{ RawJSON() string }, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return json.RawMessage(r.RawJSON()), nil
}

// Serve does what it is told until standard input ends.
func Serve(do func(context.Context, *Command) (any, error), explain func(error) (Failure, bool)) {
	var mu sync.Mutex
	var running sync.WaitGroup
	told := func(err error) Failure {
		if f, ok := explain(err); ok {
			return f
		}
		class := "Error"
		if errors.Is(err, context.DeadlineExceeded) {
			class = "Timeout"
		}
		return Failure{Class: class, Message: err.Error()}
	}
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			break
		}
		c := new(Command)
		if err := json.Unmarshal(line, c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		running.Go(func() {
			var said struct {
				N     int      `json:"n"`
				Out   any      `json:"out"`
				Error *Failure `json:"error,omitempty"`
			}
			said.N = c.N
			var err error
			if c.Do == "many" {
				said.Out = many(c, do, told)
			} else if said.Out, err = do(context.Background(), c); err != nil {
				f := told(err)
				said.Out, said.Error = nil, &f
			}
			mu.Lock()
			defer mu.Unlock()
			if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(2)
			}
		})
	}
	running.Wait()
}

func many(c *Command, do func(context.Context, *Command) (any, error), told func(error) Failure) any {
	var out struct {
		Answered int       `json:"answered"`
		Errors   []Failure `json:"errors"`
	}
	var mu sync.Mutex
	numbers := make(chan int)
	var running sync.WaitGroup
	for range c.Parallel {
		running.Go(func() {
			for i := range numbers {
				one := *c
				one.Do = c.Each
				one.Params = json.RawMessage(strings.ReplaceAll(string(c.Params), "#", strconv.Itoa(i)))
				_, err := do(context.Background(), &one)
				mu.Lock()
				if err != nil {
					out.Errors = append(out.Errors, told(err))
				} else {
					out.Answered++
				}
				mu.Unlock()
			}
		})
	}
	for i := range c.Count {
		numbers <- i
	}
	close(numbers)
	running.Wait()
	return out
}
