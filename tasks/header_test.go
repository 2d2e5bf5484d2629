package tasks_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

func TestHeadersThatMustNotBeSent(t *testing.T) {
	many := map[string]string{}
	for i := range tasks.MaxHeaders {
		many[fmt.Sprint("X-", i)] = "v"
	}
	one := func(name, value string) map[string]string { return map[string]string{name: value} }
	for what, fields := range map[string]map[string]string{
		"none": nil, "eight": many, "a token": one("Authorization", "Bearer a.b-c=="), "every character of a name": one("aZ09!#$%&'*+-.^_`|~", "v"),
		"the longest": one(strings.Repeat("n", 64), strings.Repeat("v", 1024)), "inner spaces": one("X-A", "a  b"), "quotes": one("X-A", `"a\b", ~`),
	} {
		if _, err := tasks.NewHeaders(fields); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	bad := map[string]map[string]string{
		"nine": func() map[string]string { m := maps.Clone(many); m["X-9"] = "v"; return m }(), "one name twice": {"x-a": "v", "X-A": "v"},
		"no name": one("", "v"), "a long name": one(strings.Repeat("n", 65), "v"), "no value": one("X-A", ""), "a long value": one("X-A", strings.Repeat("v", 1025)),
		"a space in front": one("X-A", " v"), "a space behind": one("X-A", "v "), "the mask": one("X-A", tasks.SecretMask),
	}
	for _, c := range "\x00\t\n\r\x1b\x7f\u0080ä\u2028" {
		bad[fmt.Sprintf("%q in a value", c)] = one("X-A", "a"+string(c)+"b")
		bad[fmt.Sprintf("%q in a name", c)] = one("X"+string(c)+"A", "v")
	}
	for _, c := range " ()<>@,;:\\\"/[]?={}" {
		bad[fmt.Sprintf("%q in a name", c)] = one("X"+string(c)+"A", "v")
	}
	for _, name := range []string{
		"Host", "User-Agent", "Accept-Encoding", "Expect", "Content-Type", "Content-Length", "Content-Encoding", "Content-Digest",
		"webhook-id", "webhook-timestamp", "webhook-signature", "webhook-other", "Connection", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection",
		"TE", "Trailer", "Transfer-Encoding", "Upgrade", "HTTP2-Settings",
	} {
		bad[name] = one(name, "v")
		bad[strings.ToUpper(name)] = one(strings.ToUpper(name), "v")
	}
	for what, fields := range bad {
		got, err := tasks.NewHeaders(fields)
		if err == nil {
			t.Errorf("%s: taken", what)
			continue
		}
		if got != nil || strings.Contains(err.Error(), "X-A") {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
}

func TestNobodySeesAHeadersValue(t *testing.T) {
	h, err := tasks.NewHeaders(map[string]string{"x-token": "hunter2"})
	if err != nil {
		t.Fatal(err)
	}
	e := tasks.Endpoint{Headers: h}
	encoded, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprint(h), fmt.Sprintf("%#v", e), fmt.Sprintf("%+v", e), fmt.Sprintf("%q", h), fmt.Sprintf("%x", h), string(encoded)} {
		if strings.Contains(shown, "hunter2") || strings.Contains(shown, "68756e74657232") || !strings.Contains(shown, "X-Token") && !strings.Contains(shown, "582d546f6b656e") {
			t.Errorf("shown as %s", shown)
		}
	}
}

// Whatever is taken, a server reads as one header of that name and value.
func FuzzHeaders(f *testing.F) {
	f.Add("X-A", "v")
	f.Add("Authorization", "Bearer x")
	f.Add("X-A", "a\r\nHost: b")
	f.Fuzz(func(t *testing.T, name, value string) {
		h, err := tasks.NewHeaders(map[string]string{name: value})
		if err != nil {
			return
		}
		var text strings.Builder
		req := httptest.NewRequest(http.MethodPost, "http://example.com/", nil)
		plain := len(req.Header)
		for name, value := range h {
			req.Header.Set(name, value)
		}
		if err := req.Write(&text); err != nil {
			t.Fatal(err)
		}
		if len(req.Header) != plain+1 || req.Header.Get(name) != value || strings.Count(text.String(), "\r\n") != 6 {
			t.Fatalf("%q: %q is sent as\n%s", name, value, text.String())
		}
	})
}
