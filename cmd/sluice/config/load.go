package config

import (
	"cmp"
	"fmt"
	"reflect"
	"strings"
)

// Load reads the configuration: the file at path, overridden by environ, over
// the defaults. An empty path means the file that SLUICE_CONFIG names, or else
// sluice.yaml of the working folder, which need not exist. Load returns every
// fault at once; the configuration may be used only when there is none.
func Load(path string, environ []string) (*Config, Faults) {
	e := NewEnvironment(environ)
	r := &reader{}
	file := cmp.Or(path, e["SLUICE_CONFIG"])
	root, found := r.file(cmp.Or(file, "sluice.yaml"), file != "")
	c := r.config(root, e)
	if found {
		c.File = cmp.Or(file, "sluice.yaml")
	}
	return c, r.faults
}

// config makes a configuration of a file, whose values are in root, and of e.
func (r *reader) config(root *node, e Environment) *Config {
	c := defaults(e)
	r.overlay(root, e)
	r.decode(root, reflect.ValueOf(c).Elem(), "")
	c.complete(r, root, e)
	(&validator{reader: r, root: root, known: len(r.faults)}).config(c)
	return c
}

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
