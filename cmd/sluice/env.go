package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/sluicehq/sluice/cmd/sluice/config"
)

// Env is what a command may touch of the world around it.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Environ        []string
	Log            *slog.Logger

	vars     config.Environment
	config   string // --config
	levelSet bool   // somebody asked for a log level
}

// Config reads the configuration. Its error names every fault.
func (e *Env) Config() (*config.Config, error) {
	c, faults := config.Load(e.config, e.Environ)
	if len(faults) > 0 {
		return nil, faults
	}
	return c, nil
}

// wrongUsage is an error of the command line: exit code 2.
type wrongUsage struct{ error }

// ExitCode is how an error says with which code the program ends.
func (wrongUsage) ExitCode() int { return 2 }

// forReader is the log of a command that somebody looks at: unless a level was asked for,
// warnings alone, and at a terminal each as one short line.
func (e *Env) forReader() *slog.Logger {
	switch {
	case e.levelSet:
		return e.Log
	case terminal(e.Stderr):
		return slog.New(newNotes(e.Stderr))
	}
	return slog.New(slog.NewJSONHandler(e.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: legible}))
}

// newLog writes JSON, or plain text for a reader at a terminal.
func newLog(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q is none of debug, info, warn, error", level)
	}
	o := &slog.HandlerOptions{Level: l, ReplaceAttr: legible}
	if terminal(w) {
		return slog.New(slog.NewTextHandler(w, o)), nil
	}
	return slog.New(slog.NewJSONHandler(w, o)), nil
}

// legible writes spans of time in seconds, which their names then say, and leaves out a moment
// that is not known.
func legible(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindDuration:
		return slog.Float64(a.Key+"_seconds", a.Value.Duration().Seconds())
	case slog.KindTime:
		if a.Value.Time().IsZero() {
			return slog.Attr{}
		}
	}
	return a
}

// notes writes what is logged as warnings and errors as one line each: what is said, and behind
// it what of.
type notes struct {
	mu    *sync.Mutex
	to    io.Writer
	attrs *bytes.Buffer // that of writes to
	of    slog.Handler
}

func newNotes(to io.Writer) *notes {
	n := &notes{mu: &sync.Mutex{}, to: to, attrs: &bytes.Buffer{}}
	n.of = slog.NewTextHandler(n.attrs, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
			return slog.Attr{}
		}
		return legible(groups, a)
	}})
	return n
}

// Enabled, Handle, WithAttrs and WithGroup are what a logger asks of its handler.
func (n *notes) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (n *notes) Handle(ctx context.Context, r slog.Record) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attrs.Reset()
	if err := n.of.Handle(ctx, r); err != nil {
		return err
	}
	line := "sluice: " + r.Message
	if of := strings.TrimSpace(n.attrs.String()); of != "" {
		line += " (" + of + ")"
	}
	_, err := io.WriteString(n.to, line+"\n")
	return err
}

func (n *notes) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &notes{n.mu, n.to, n.attrs, n.of.WithAttrs(attrs)}
}

func (n *notes) WithGroup(name string) slog.Handler {
	return &notes{n.mu, n.to, n.attrs, n.of.WithGroup(name)}
}

// firstSet returns the first string that is not empty.
func firstSet(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
