package config

import (
	"cmp"
	"reflect"
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
