package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// The configuration is read into a tree of values first, each with the place it
// came from, so that every fault can be named at once; only then into Config.

// kind is what a value is written as.
type kind int

const (
	null kind = iota
	text
	integer
	float
	boolean
	mapping
	sequence
	raw // from the environment: the type of the setting decides what it is
)

// node is one value of the configuration.
type node struct {
	kind    kind
	value   string  // of a scalar, as written
	where   string  // the line of the file, or the environment variable
	entries []entry // of a mapping, in order
	items   []*node // of a sequence
}

// entry is one key of a mapping and its value.
type entry struct {
	key  string
	node *node
}

// child is the value under key, or nil.
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

// parse reads YAML whose top level is a mapping; name is what faults call it.
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

// yamlWalk turns the nodes of the YAML library into ours.
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

// node reads the value under key.
func (w *yamlWalk) node(n ast.Node, key string) *node {
	out := &node{where: w.where(n)}
	if out.scalar(n) {
		return out
	}
	switch n := n.(type) {
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

// scalar reads a value without parts; it reports whether from is one.
func (n *node) scalar(from ast.Node) bool {
	switch from := from.(type) {
	case *ast.NullNode:
		n.kind = null
	case *ast.StringNode:
		n.kind, n.value = text, from.Value
	case *ast.LiteralNode:
		n.kind, n.value = text, from.Value.Value
	case *ast.IntegerNode:
		n.kind, n.value = integer, fmt.Sprint(from.Value)
	case *ast.FloatNode:
		n.kind, n.value = float, from.Token.Value
	case *ast.InfinityNode, *ast.NanNode:
		n.kind, n.value = float, "NaN"
	case *ast.BoolNode:
		n.kind, n.value = boolean, fmt.Sprint(from.Value)
	default:
		return false
	}
	return true
}

// entry adds one key of a mapping to out.
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

// join is the path of a key under prefix.
func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}
