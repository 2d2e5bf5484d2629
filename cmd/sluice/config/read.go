package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// The configuration is read into a tree that knows where each value came from,
// so that every fault can be named at once; only then is it given types.

type kind int

const (
	null kind = iota
	text
	integer
	float
	boolean
	mapping
	sequence
	raw // from the environment: what it is depends on what is asked for
)

// node is one value of the configuration.
type node struct {
	kind    kind
	value   string // of a scalar, as written
	where   string
	entries []entry // of a mapping, in order
	items   []*node // of a sequence
}

type entry struct {
	key  string
	node *node
}

func (n *node) child(key string) *node {
	for _, e := range n.entries {
		if e.key == key {
			return e.node
		}
	}
	return nil
}

// set puts a value under a key, in place of what was there.
func (n *node) set(key string, v *node) {
	for i := range n.entries {
		if n.entries[i].key == key {
			n.entries[i].node = v
			return
		}
	}
	n.entries = append(n.entries, entry{key, v})
}

// Environment is the process's environment as a map.
type Environment map[string]string

// NewEnvironment reads the form of [os.Environ].
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

// reader collects the faults of one Load.
type reader struct {
	faults Faults
}

func (r *reader) fault(key, where, format string, args ...any) {
	r.faults = append(r.faults, Fault{Key: key, Text: fmt.Sprintf(format, args...), Where: where})
}

// file reads a configuration file. It returns an empty mapping when there is
// nothing in it or it cannot be read.
func (r *reader) file(name string, required bool) (root *node, found bool) {
	root = &node{kind: mapping}
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return root, false
	}
	if err != nil {
		r.fault("", "", "read the configuration: %v", err)
		return root, false
	}
	return r.parse(name, b), true
}

func (r *reader) parse(name string, b []byte) *node {
	empty := &node{kind: mapping}
	file, err := parser.ParseBytes(b, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		// The library's full text quotes the lines around, and its message may
		// end with a word of the file: either may be a secret.
		var e yaml.Error
		if errors.As(err, &e) && e.GetToken() != nil {
			p := e.GetToken().Position
			message, _, _ := strings.Cut(e.GetMessage(), `"`)
			r.fault("", fmt.Sprintf("%s:%d", name, p.Line), "not valid YAML: %s", strings.TrimRight(message, ": "))
		} else {
			r.fault("", name, "not valid YAML")
		}
		return empty
	}
	var body ast.Node
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if body != nil {
			r.fault("", name, "holds more than one YAML document")
			break
		}
		body = d.Body
	}
	if body == nil {
		return empty
	}
	w := &yamlWalk{reader: r, name: name, anchors: map[string]*node{}}
	root := w.node(body, "")
	if root.kind == null {
		return empty
	}
	if root.kind != mapping {
		r.fault("", name, "the top level is not a mapping of keys")
		return empty
	}
	return root
}

// yamlWalk turns YAML nodes into ours.
type yamlWalk struct {
	*reader
	name    string
	anchors map[string]*node
}

func (w *yamlWalk) where(n ast.Node) string {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return fmt.Sprintf("%s:%d", w.name, t.Position.Line)
	}
	return w.name
}

func (w *yamlWalk) node(n ast.Node, key string) *node {
	out := &node{where: w.where(n)}
	switch n := n.(type) {
	case *ast.NullNode:
	case *ast.StringNode:
		out.kind, out.value = text, n.Value
	case *ast.LiteralNode:
		out.kind, out.value = text, n.Value.Value
	case *ast.IntegerNode:
		out.kind, out.value = integer, fmt.Sprint(n.Value)
	case *ast.FloatNode:
		out.kind, out.value = float, n.Token.Value
	case *ast.InfinityNode, *ast.NanNode:
		out.kind, out.value = float, "NaN"
	case *ast.BoolNode:
		out.kind, out.value = boolean, fmt.Sprint(n.Value)
	case *ast.AnchorNode:
		v := w.node(n.Value, key)
		w.anchors[n.Name.GetToken().Value] = v
		return v
	case *ast.AliasNode:
		v, ok := w.anchors[n.Value.GetToken().Value]
		if !ok {
			w.fault(key, out.where, "an alias to an anchor that does not stand before it")
			return out
		}
		return v
	case *ast.TagNode:
		v := w.node(n.Value, key)
		if n.Start.Value == "!!str" && v.kind != mapping && v.kind != sequence {
			v.kind = text
		}
		return v
	case *ast.MappingValueNode:
		out.kind = mapping
		w.entry(out, n, key)
	case *ast.MappingNode:
		out.kind = mapping
		for _, v := range n.Values {
			w.entry(out, v, key)
		}
		w.merge(out, n.Values, key)
	case *ast.SequenceNode:
		out.kind = sequence
		for i, v := range n.Values {
			out.items = append(out.items, w.node(v, fmt.Sprintf("%s[%d]", key, i)))
		}
	default:
		w.fault(key, out.where, "cannot be read: YAML of the type %s", n.Type())
	}
	return out
}

func (w *yamlWalk) entry(out *node, n *ast.MappingValueNode, prefix string) {
	if n.Key.IsMergeKey() {
		return
	}
	name := n.Key.GetToken().Value
	key := join(prefix, name)
	v := w.node(n.Value, key)
	v = &node{kind: v.kind, value: v.value, entries: v.entries, items: v.items, where: w.where(n.Key)}
	if first := out.child(name); first != nil {
		w.fault(key, v.where, "given twice; first at %s", first.where)
		return
	}
	out.entries = append(out.entries, entry{name, v})
}

// merge adds what "<<" brings and the mapping itself does not say.
func (w *yamlWalk) merge(out *node, values []*ast.MappingValueNode, prefix string) {
	for _, v := range values {
		if !v.Key.IsMergeKey() {
			continue
		}
		from := w.node(v.Value, prefix)
		list := []*node{from}
		if from.kind == sequence {
			list = from.items
		}
		for _, m := range list {
			if m.kind != mapping {
				w.fault(join(prefix, "<<"), from.where, "merges something that is not a mapping")
				continue
			}
			for _, e := range m.entries {
				if out.child(e.key) == nil {
					out.entries = append(out.entries, e)
				}
			}
		}
	}
}

func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

// notSettings are variables with our prefix that are no settings: they choose
// the file, serve the client commands or a flag.
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

// ReadSecret reads a file that holds one secret; the newline at its end is not
// part of it.
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
