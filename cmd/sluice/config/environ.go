package config

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// Environment holds the environment's variables by their names.
type Environment map[string]string

// NewEnvironment reads variables as [os.Environ] returns them. Of two with one
// name the later counts.
func NewEnvironment(environ []string) Environment {
	e := Environment{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			e[k] = v
		}
	}
	return e
}

// names are the variables in a stable order, outer keys before inner ones, so
// that an inner one changes what an outer one gave.
func (e Environment) names() []string {
	names := make([]string, 0, len(e))
	for k := range e {
		names = append(names, k)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := strings.Count(a, "__") - strings.Count(b, "__"); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return names
}

// notSettings are the variables SLUICE_… that are no settings: one chooses the
// file, one is a flag, the others are for the commands that ask the API.
var notSettings = []string{"SLUICE_CONFIG", "SLUICE_URL", "SLUICE_TOKEN", "SLUICE_TOKEN_FILE", "SLUICE_LOG_LEVEL"}

// serviceLink matches what Kubernetes and Docker links put into every
// container's environment for a service whose name begins with "sluice". No
// setting ends like that.
var serviceLink = regexp.MustCompile(`^SLUICE(_[A-Z0-9]+)*_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// overlay puts the settings of the environment over those of the file. An
// empty variable counts as one that is not set.
func (r *reader) overlay(root *node, e Environment) {
	for _, name := range e.names() {
		words, ours := strings.CutPrefix(name, "SLUICE_")
		if !ours || e[name] == "" || slices.Contains(notSettings, name) || serviceLink.MatchString(name) {
			continue
		}
		if path, key, _ := resolve(root, strings.Split(words, "__")); path != nil {
			r.put(root, path, &node{kind: raw, value: e[name], where: name}, key)
			continue
		}
		r.overlayFile(root, e, name)
	}
}

// overlayFile puts the secret in place that the file of a variable …_FILE holds.
func (r *reader) overlayFile(root *node, e Environment, name string) {
	setting := strings.TrimSuffix(name, "_FILE")
	path, key, secret := resolve(root, strings.Split(strings.TrimPrefix(setting, "SLUICE_"), "__"))
	if path == nil || !secret {
		r.fault(name, "environment", "is not a setting")
		return
	}
	if e[setting] != "" {
		r.fault(key, name, "given twice: %s and %s", setting, name)
		return
	}
	value, err := ReadSecret(e[name])
	if err != nil {
		r.fault(key, name, "%v", err)
		return
	}
	r.put(root, path, &node{kind: raw, value: value, where: name}, key)
}

// put sets the value at path, making the mappings on the way.
func (r *reader) put(n *node, path []string, v *node, key string) {
	for _, name := range path[:len(path)-1] {
		c := n.child(name)
		if c != nil && c.kind == raw {
			// A whole mapping given by an outer variable.
			parsed := (&reader{}).parse(c.where, []byte(c.value))
			parsed.where = c.where
			c = parsed
			n.set(name, c)
		}
		if c == nil || c.kind == null {
			c = &node{kind: mapping, where: v.where}
			n.set(name, c)
		}
		if c.kind != mapping {
			r.fault(key, v.where, "%s is not a mapping", name)
			return
		}
		n = c
	}
	n.set(path[len(path)-1], v)
}

// ReadSecret returns the secret that a file holds, without the newline at its
// end. An empty file is an error.
func ReadSecret(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return s, nil
}

// resolve finds the setting that the words of a variable mean, as in POOLS,
// CLAUDE, TIMEOUT. A name that the operator chose is found without regard to
// case, "_" standing for "-" too; a new one is in small letters. path is nil
// when there is no such setting.
func resolve(root *node, words []string) (path []string, key string, secret bool) {
	t := reflect.TypeFor[Config]()
	n := root
	for i := 0; i < len(words); i++ {
		f, ok := field(t, strings.ToLower(words[i]))
		if !ok || words[i] != strings.ToUpper(words[i]) {
			return nil, "", false
		}
		name := f.Tag.Get("key")
		path = append(path, name)
		secret = f.Tag.Get("secret") != ""
		if n != nil {
			n = n.child(name)
		}
		t = f.Type
		if named(t) {
			if i+1 == len(words) {
				break // the whole mapping
			}
			i++
			if words[i] == "" {
				return nil, "", false
			}
			name = strings.ToLower(words[i])
			if n != nil {
				for _, e := range n.entries {
					if strings.ToUpper(strings.ReplaceAll(e.key, "-", "_")) == words[i] {
						name = e.key
					}
				}
				n = n.child(name)
			}
			path = append(path, name)
			t = t.Elem()
			continue
		}
		if t.Kind() != reflect.Struct && i+1 < len(words) {
			return nil, "", false
		}
	}
	return path, strings.Join(path, "."), secret
}
