package config

import (
	"fmt"
	"strings"
)

// Fault is one thing wrong with a configuration.
type Fault struct {
	Key   string // the setting's path; "" for the file as a whole
	Text  string // what is wrong; never the value of a secret
	Where string // the line of the file, or the environment variable; "" when nothing was given
}

// Error is what String is.
func (f Fault) Error() string { return f.String() }

// String puts the key first.
func (f Fault) String() string {
	s := f.Text
	if f.Key != "" {
		s = f.Key + ": " + s
	}
	if f.Where != "" {
		s += " (" + f.Where + ")"
	}
	return s
}

// Faults are all that is wrong with a configuration, as one error.
type Faults []Fault

func (e Faults) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the configuration has %d fault", len(e))
	if len(e) != 1 {
		b.WriteByte('s')
	}
	for _, f := range e {
		b.WriteString("\n  " + f.String())
	}
	return b.String()
}
