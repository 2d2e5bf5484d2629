package config

import (
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/seal"
)

// field finds the field of the struct t whose key is key.
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

// named reports whether t is a mapping of names that keeps its order.
func named(t reflect.Type) bool {
	if t.Kind() != reflect.Slice || t.Elem().Kind() != reflect.Struct {
		return false
	}
	_, ok := t.Elem().FieldByName("Name")
	return ok
}

// childKeys are the keys of the struct t, in its order.
func childKeys(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if k := t.Field(i).Tag.Get("key"); k != "" {
			keys = append(keys, k)
		}
	}
	return keys
}

// decode writes a value of the tree into the setting v. A null changes nothing:
// v keeps its default.
func (r *reader) decode(n *node, v reflect.Value, key string) {
	if n.kind == null {
		return
	}
	if n.kind == raw {
		if n = r.unraw(n, v.Type(), key); n == nil {
			return
		}
	}
	switch v.Type() {
	case reflect.TypeFor[time.Duration]():
		r.duration(n, v, key)
		return
	case reflect.TypeFor[tasks.Money]():
		r.money(n, v, key)
		return
	case reflect.TypeFor[[]SealKey]():
		r.sealKeys(n, v, key)
		return
	}
	switch {
	case v.Kind() == reflect.Struct:
		r.structure(n, v, key)
	case named(v.Type()):
		r.names(n, v, key)
	case v.Kind() == reflect.Slice:
		r.list(n, v, key)
	case v.Kind() == reflect.Map:
		r.dictionary(n, v, key)
	default:
		r.scalar(n, v, key)
	}
}

func (r *reader) scalar(n *node, v reflect.Value, key string) {
	switch v.Kind() {
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
		i, ok := whole(n)
		if !ok {
			r.fault(key, n.where, "has to be a whole number, and is %q; 2000000 may be written as 2e6", n.value)
			return
		}
		v.SetInt(i)
	case reflect.Float64:
		f, ok := number(n)
		if !ok {
			r.fault(key, n.where, "has to be a number, and is %q", n.value)
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

// number reads a number that is finite.
func number(n *node) (float64, bool) {
	if n.kind != float && n.kind != integer {
		return 0, false
	}
	f, err := strconv.ParseFloat(n.value, 64)
	return f, err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
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
	// As the value of a key, since a file's top level has to be a mapping.
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

// place says of a value and of all that is in it that it came from where.
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

// money reads an amount as it is written, digit by digit.
func (r *reader) money(n *node, v reflect.Value, key string) {
	if n.kind != integer && n.kind != float {
		r.fault(key, n.where, "has to be an amount, as in 3 or 0.075")
		return
	}
	m, err := tasks.ParseMoney(n.value)
	if err != nil {
		r.fault(key, n.where, "%v", err)
		return
	}
	v.SetInt(int64(m))
}

func (r *reader) structure(n *node, v reflect.Value, key string) {
	if v.Type() == reflect.TypeFor[Seal]() && (n.kind == text && n.value == "off" || n.kind == boolean && n.value == "false") {
		v.FieldByName("Off").SetBool(true)
		return
	}
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
		if key == "prices" && e.node.kind == sequence {
			r.pricesOf(e, v, join(key, e.key))
			continue
		}
		item := blank(key, v)
		item.FieldByName("Name").SetString(e.key)
		r.decode(e.node, item, join(key, e.key))
		if key == "tenants" && e.key == "default" {
			v.Index(0).Set(item)
			continue
		}
		v.Set(reflect.Append(v, item))
	}
}

// blank is an item of the names of a key before any of its settings is read.
func blank(key string, list reflect.Value) reflect.Value {
	item := reflect.New(list.Type().Elem()).Elem()
	switch key {
	case "providers":
		item.Set(reflect.ValueOf(defaultProvider()))
	case "pools":
		item.Set(reflect.ValueOf(defaultPool()))
	case "prices":
		item.Set(reflect.ValueOf(defaultPrice()))
	case "tenants":
		item.Set(list.Index(0)) // defaults put it there
	}
	return item
}

// pricesOf reads the prices of one name that follow each other.
func (r *reader) pricesOf(e entry, v reflect.Value, key string) {
	if len(e.node.items) == 0 {
		r.fault(key, e.node.where, "is empty")
	}
	for i, n := range e.node.items {
		p := defaultPrice()
		p.Name = e.key
		r.decode(n, reflect.ValueOf(&p).Elem(), key+"["+strconv.Itoa(i)+"]")
		v.Set(reflect.Append(v, reflect.ValueOf(p)))
	}
}

// sealKeys reads master keys by their names. A fault quotes none of them.
func (r *reader) sealKeys(n *node, v reflect.Value, key string) {
	if n.kind != mapping {
		r.fault(key, n.where, "has to be a mapping of names, each with a key of 32 bytes in base64, as openssl rand -base64 32 makes one")
		return
	}
	var keys []SealKey
	for _, e := range n.entries {
		at := join(key, e.key)
		if e.node.kind != text && e.node.kind != raw {
			r.fault(at, e.node.where, "has to be text%s", quoteHint(e.node))
			continue
		}
		secret, err := seal.ParseKey(strings.TrimSpace(e.node.value))
		if err != nil {
			r.fault(at, e.node.where, "has to be 32 bytes in base64, as openssl rand -base64 32 makes them: it %v", err)
			continue
		}
		keys = append(keys, SealKey{e.key, string(secret)})
	}
	v.Set(reflect.ValueOf(keys))
}

func (r *reader) list(n *node, v reflect.Value, key string) {
	if n.kind != sequence {
		r.fault(key, n.where, "has to be a list")
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(n.items))
	for i, item := range n.items {
		e := reflect.New(v.Type().Elem()).Elem()
		if e.Type() == reflect.TypeFor[Account]() {
			e.Set(reflect.ValueOf(defaultAccount()))
		}
		if item.kind == null {
			r.fault(key+"["+strconv.Itoa(i)+"]", item.where, "is empty")
			continue
		}
		r.decode(item, e, key+"["+strconv.Itoa(i)+"]")
		out = reflect.Append(out, e)
	}
	v.Set(out)
}

// dictionary reads a mapping whose keys are anything that an operator may write.
func (r *reader) dictionary(n *node, v reflect.Value, key string) {
	if n.kind != mapping {
		r.fault(key, n.where, "has to be a mapping")
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, e := range n.entries {
		item := reflect.New(v.Type().Elem()).Elem()
		if e.node.kind == null {
			r.fault(join(key, e.key), e.node.where, "is empty")
			continue
		}
		r.decode(e.node, item, join(key, e.key))
		out.SetMapIndex(reflect.ValueOf(e.key), item)
	}
	v.Set(out)
}
