package config

import (
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

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

func field(t reflect.Type, key string) (reflect.StructField, bool) {
	if t.Kind() != reflect.Struct {
		return reflect.StructField{}, false
	}
	for i := range t.NumField() {
		if f := t.Field(i); key != "" && f.Tag.Get("key") == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func childKeys(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if k := t.Field(i).Tag.Get("key"); k != "" {
			keys = append(keys, k)
		}
	}
	return keys
}

// decode gives a value of the tree its type. What is null is left as it is.
func (r *reader) decode(n *node, v reflect.Value, key string) {
	if n.kind == null {
		return
	}
	if n.kind == raw {
		if n = r.unraw(n, v.Type(), key); n == nil {
			return
		}
	}
	if v.Type() == reflect.TypeFor[time.Duration]() {
		r.duration(n, v, key)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		r.structure(n, v, key)
	case reflect.Slice:
		if named(v.Type()) {
			r.names(n, v, key)
		} else {
			r.list(n, v, key)
		}
	case reflect.String:
		if n.kind != text {
			r.fault(key, n.where, "has to be text%s", quoteHint(n))
			return
		}
		v.SetString(n.value)
	case reflect.Bool:
		if n.kind != boolean {
			r.fault(key, n.where, "has to be true or false")
			return
		}
		v.SetBool(n.value == "true")
	case reflect.Int, reflect.Int64:
		if i, ok := whole(n); ok {
			v.SetInt(i)
		} else {
			r.fault(key, n.where, "has to be a whole number")
		}
	case reflect.Float64:
		f, err := strconv.ParseFloat(n.value, 64)
		if (n.kind != float && n.kind != integer) || err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			r.fault(key, n.where, "has to be a number")
			return
		}
		v.SetFloat(f)
	default:
		panic("a setting of a type that is not read: " + key)
	}
}

func quoteHint(n *node) string {
	if n.kind == integer || n.kind == float || n.kind == boolean {
		return "; put it in quotes"
	}
	return ""
}

// whole reads a whole number, also one written as 2e6.
func whole(n *node) (int64, bool) {
	switch n.kind {
	case integer:
		i, err := strconv.ParseInt(n.value, 10, 64)
		return i, err == nil
	case float:
		f, err := strconv.ParseFloat(strings.ReplaceAll(n.value, "_", ""), 64)
		return int64(f), err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53
	}
	return 0, false
}

// unraw reads a value of the environment as what the setting is: text is taken
// as it stands, a list also with commas, all else as YAML, which JSON is too.
func (r *reader) unraw(n *node, t reflect.Type, key string) *node {
	if t.Kind() == reflect.String || t == reflect.TypeFor[time.Duration]() {
		return &node{kind: text, value: n.value, where: n.where}
	}
	trimmed := strings.TrimSpace(n.value)
	if t == reflect.TypeFor[[]string]() && !strings.HasPrefix(trimmed, "[") && !strings.HasPrefix(trimmed, "- ") {
		list := &node{kind: sequence, where: n.where}
		for item := range strings.SplitSeq(trimmed, ",") {
			list.items = append(list.items, &node{kind: text, value: strings.TrimSpace(item), where: n.where})
		}
		return list
	}
	// Parsed as the value of a key, so that scalars are fine.
	sub := &reader{}
	root := sub.parse(n.where, []byte("v: "+strings.ReplaceAll(n.value, "\n", "\n   ")+"\n"))
	if len(sub.faults) > 0 || len(root.entries) != 1 {
		r.fault(key, n.where, "cannot be read as YAML or JSON")
		return nil
	}
	out := root.entries[0].node
	place(out, n.where)
	return out
}

func place(n *node, where string) {
	n.where = where
	for _, e := range n.entries {
		place(e.node, where)
	}
	for _, i := range n.items {
		place(i, where)
	}
}

func (r *reader) duration(n *node, v reflect.Value, key string) {
	if n.kind != text {
		r.fault(key, n.where, "has to be a duration with its unit, as in 10m or 1h30m")
		return
	}
	d, err := time.ParseDuration(n.value)
	if err != nil {
		r.fault(key, n.where, "%q is not a duration; write it as in 10m or 1h30m", n.value)
		return
	}
	v.SetInt(int64(d))
}

func (r *reader) structure(n *node, v reflect.Value, key string) {
	if n.kind != mapping {
		r.fault(key, n.where, "has to be a mapping of the keys %s", strings.Join(childKeys(v.Type()), ", "))
		return
	}
	for _, e := range n.entries {
		f, ok := field(v.Type(), e.key)
		if !ok {
			r.fault(join(key, e.key), e.node.where, "unknown key; here are %s", strings.Join(childKeys(v.Type()), ", "))
			continue
		}
		r.decode(e.node, v.FieldByIndex(f.Index), join(key, f.Tag.Get("key")))
	}
}

// names reads a mapping of names into a slice, in its order.
func (r *reader) names(n *node, v reflect.Value, key string) {
	if n.kind != mapping {
		r.fault(key, n.where, "has to be a mapping of names")
		return
	}
	if key == "tenants" {
		// The others start from "default", wherever it stands.
		slices.SortStableFunc(n.entries, func(a, b entry) int {
			switch {
			case a.key == "default" && b.key != "default":
				return -1
			case b.key == "default" && a.key != "default":
				return 1
			}
			return 0
		})
	}
	for _, e := range n.entries {
		item := reflect.New(v.Type().Elem()).Elem()
		switch key {
		case "pools":
			item.Set(reflect.ValueOf(defaultPool()))
		case "tenants":
			item.Set(v.Index(0)) // defaults put it there
		}
		item.FieldByName("Name").SetString(e.key)
		r.decode(e.node, item, join(key, e.key))
		if key == "tenants" && e.key == "default" {
			v.Index(0).Set(item)
			continue
		}
		v.Set(reflect.Append(v, item))
	}
}

func (r *reader) list(n *node, v reflect.Value, key string) {
	if n.kind != sequence {
		r.fault(key, n.where, "has to be a list")
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(n.items))
	for i, item := range n.items {
		e := reflect.New(v.Type().Elem()).Elem()
		if item.kind == null {
			r.fault(key+"["+strconv.Itoa(i)+"]", item.where, "is empty")
			continue
		}
		r.decode(item, e, key+"["+strconv.Itoa(i)+"]")
		out = reflect.Append(out, e)
	}
	v.Set(out)
}
