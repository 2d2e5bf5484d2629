package main

import (
	"fmt"
	"io"
	"log/slog"

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

// newLog writes JSON, or plain text for a reader at a terminal.
func newLog(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q is none of debug, info, warn, error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	if terminal(w) {
		return slog.New(slog.NewTextHandler(w, o)), nil
	}
	return slog.New(slog.NewJSONHandler(w, o)), nil
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
