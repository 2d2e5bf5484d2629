package config

import (
	"fmt"
	"io"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/egress"
)

// mask stands where a secret is.
const mask = tasks.SecretMask

// Print writes the configuration as YAML that Load reads, with ******** in place
// of every secret. Text that is empty is left out, and so is the fake provider.
func (c *Config) Print(w io.Writer) error {
	if c.UsesFake() {
		if _, err := fmt.Fprintln(w, "# No provider is set for some pools: the built-in fake provider serves them."); err != nil {
			return err
		}
	}
	b, err := yaml.Marshal(plain(reflect.ValueOf(*c)))
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// JSON is the configuration as Print writes it, in JSON.
func (c *Config) JSON() ([]byte, error) {
	b, err := yaml.Marshal(plain(reflect.ValueOf(*c)))
	if err != nil {
		return nil, err
	}
	return yaml.YAMLToJSON(b)
}

// plain turns a part of the configuration into values that the YAML library writes.
func plain(v reflect.Value) any {
	if d, ok := v.Interface().(time.Duration); ok {
		return FormatDuration(d)
	}
	if m, ok := v.Interface().(tasks.Money); ok {
		return float64(m) / float64(tasks.Unit) // a double has fifteen digits, and an amount fewer
	}
	switch {
	case named(v.Type()):
		return plainNamed(v)
	case v.Kind() == reflect.Struct:
		return plainStruct(v)
	case v.Kind() == reflect.Slice && v.Len() == 0:
		return []string{}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		out := []any{}
		for i := range v.Len() {
			out = append(out, plain(v.Index(i)))
		}
		return out
	case v.Kind() == reflect.Map:
		out := yaml.MapSlice{}
		for _, key := range slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }) {
			out = append(out, yaml.MapItem{Key: key.String(), Value: plain(v.MapIndex(key))})
		}
		return out
	}
	return v.Interface()
}

// plainNamed is a mapping by name. The built-in fake provider is not configured.
func plainNamed(v reflect.Value) yaml.MapSlice {
	out := yaml.MapSlice{}
	for i := range v.Len() {
		item := v.Index(i)
		if p, ok := item.Interface().(Provider); ok && p.Fake {
			continue
		}
		name := item.FieldByName("Name").String()
		if last := len(out) - 1; last >= 0 && out[last].Key == name { // prices that follow each other
			list, ok := out[last].Value.([]any)
			if !ok {
				list = []any{out[last].Value}
			}
			out[last].Value = append(list, plain(item))
			continue
		}
		out = append(out, yaml.MapItem{Key: name, Value: plain(item)})
	}
	return out
}

// plainStruct is a mapping of settings; what is not set and has no default is left out.
func plainStruct(v reflect.Value) yaml.MapSlice {
	out := yaml.MapSlice{}
	for i := range v.NumField() {
		f, value := v.Type().Field(i), v.Field(i)
		key := f.Tag.Get("key")
		if key == "" || value.Kind() == reflect.String && value.Len() == 0 || value.Kind() == reflect.Map && value.IsNil() {
			continue
		}
		out = append(out, yaml.MapItem{Key: key, Value: secretly(f.Tag.Get("secret"), value)})
	}
	return out
}

// secretly is a value under the rule of the tag secret: "all" masks it, or the values in it, "url"
// masks the passwords of an address of Redis, "proxy" those of proxies, and without a rule it is plain.
func secretly(how string, v reflect.Value) any {
	if v.Kind() == reflect.Map && how == "all" {
		out := map[string]string{}
		for _, name := range v.MapKeys() {
			out[name.String()] = mask
		}
		return out
	}
	if keys, ok := v.Interface().([]SealKey); ok {
		out := yaml.MapSlice{}
		for _, k := range keys {
			out = append(out, yaml.MapItem{Key: k[0], Value: mask})
		}
		return out
	}
	switch how {
	case "all":
		return mask
	case "proxy":
		out := []string{}
		for _, s := range v.Interface().([]string) {
			out = append(out, maskProxy(s))
		}
		return out
	case "url":
		return maskRedis(v.String())
	}
	return plain(v)
}

// FormatDuration returns d as a file gives it: 10m, not 10m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	for _, tail := range []string{"m0s", "h0m"} {
		if n := len(s) - len(tail); n > 0 && s[n:] == tail {
			s = s[:n+1]
		}
	}
	return s
}

// maskProxy masks the password of a proxy's address, and one that is none whole.
func maskProxy(s string) string {
	way, err := egress.Parse(s)
	if err != nil {
		return mask
	}
	scheme, host, _ := strings.Cut(way.Name, "://")
	if user := way.User(); user != "" {
		return scheme + "://" + url.User(user).String() + ":" + mask + "@" + host
	}
	return way.Name
}

// maskRedis masks the passwords of an address. One that ParseRedis refuses is
// masked whole, since nobody knows where its password is.
func maskRedis(s string) string {
	if _, err := ParseRedis(s); err != nil {
		return mask
	}
	scheme, rest, _ := strings.Cut(s, "://")
	rest, query, hasQuery := strings.Cut(rest, "?")
	authority, path, hasPath := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		if user, _, has := strings.Cut(authority[:at], ":"); has {
			authority = user + ":" + mask + authority[at:]
		}
	}
	out := scheme + "://" + authority
	if hasPath {
		out += "/" + path
	}
	if hasQuery {
		parts := strings.Split(query, "&")
		for i, p := range parts {
			if k, _, _ := strings.Cut(p, "="); k == "sentinel_password" {
				parts[i] = k + "=" + mask
			}
		}
		out += "?" + strings.Join(parts, "&")
	}
	return out
}
