package config

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/upstream"
)

// certificate is a file with a certificate that is really used.
func certificate(t *testing.T) string {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	name := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestAProvidersSwitches(t *testing.T) {
	ca := certificate(t)
	const local = "providers:\n  local: {dialect: openai, base_url: \"http://127.0.0.1:8000/v1\"%}\npools: {p: {provider: local, models: [\"*\"]}}\n"
	type switches struct {
		stream, options bool
		limit, ca       string
		both            bool // of the headers are sent on
	}
	for _, row := range []struct {
		name, given string
		environ     []string
		want        switches
	}{
		{"none", "", nil, switches{true, true, "max_completion_tokens", "", false}},
		{"all in the file", ", stream: false, stream_options: false, token_limit: max_tokens, forward_headers: [openai-project, OpenAI-Organization], ca_file: " + ca, nil, switches{false, false, "max_tokens", ca, true}},
		{"all in the environment", "", []string{
			"SLUICE_PROVIDERS__LOCAL__STREAM=false", "SLUICE_PROVIDERS__LOCAL__STREAM_OPTIONS=false",
			"SLUICE_PROVIDERS__LOCAL__TOKEN_LIMIT=max_output_tokens", "SLUICE_PROVIDERS__LOCAL__CA_FILE=" + ca,
			"SLUICE_PROVIDERS__LOCAL__FORWARD_HEADERS=OpenAI-Organization,OpenAI-Project",
		}, switches{false, false, "max_output_tokens", ca, true}},
		{"the environment wins", ", stream: false", []string{"SLUICE_PROVIDERS__LOCAL__STREAM=true"}, switches{true, true, "max_completion_tokens", "", false}},
	} {
		c := mustLoad(t, strings.Replace(local, "%", row.given, 1), row.environ...)
		// What is printed says the same again.
		var out bytes.Buffer
		if err := c.Print(&out); err != nil {
			t.Fatal(err)
		}
		for way, c := range map[string]*Config{"given": c, "printed": mustLoad(t, out.String())} {
			p := c.Providers[0]
			if got := (switches{p.Stream, p.StreamOptions, p.TokenLimit, p.CAFile, p.Forwards("OpenAI-Organization") && p.Forwards("OpenAI-Project")}); got != row.want {
				t.Errorf("%s, %s: got %+v, want %+v", row.name, way, got, row.want)
			}
		}
		if roots, err := c.Providers[0].Roots(); err != nil || (roots != nil) != (row.want.ca != "") {
			t.Errorf("%s: the roots are %v, %v", row.name, roots, err)
		}
	}

	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]string{
		", token_limit: max_words":                           "providers.local.token_limit",
		", stream: 7":                                        "providers.local.stream",
		", stream_options: \"no\"":                           "providers.local.stream_options",
		", ca_file: /nosuch.pem":                             "providers.local.ca_file",
		", ca_file: " + empty:                                "providers.local.ca_file",
		", streaming: false":                                 "providers.local.streaming",
		", forward_headers: [Cookie]":                        "providers.local.forward_headers[0]",
		", forward_headers: [OpenAI-Project, Authorization]": "providers.local.forward_headers[1]",
		", egress: [direct, \"http://u:canary@p/path\"]":     "providers.local.egress[1]",
		", egress: [\"http://u:canary@p\", \"http://p:80\"]": "providers.local.egress[1]",
		", egress: [canary]":                                 "providers.local.egress[0]",
		", user_hash: true":                                  "providers.local.user_hash",
		", user_hash: 1, api_key: canary":                    "providers.local.user_hash",
		", ca_file: 7, token_limit: false":                   "providers.local.ca_file providers.local.token_limit",
	} {
		_, faults := load(t, strings.Replace(local, "%", given, 1))
		var keys []string
		for _, f := range faults {
			keys = append(keys, f.Key)
		}
		if got := strings.Join(keys, " "); got != want || strings.Contains(fmt.Sprint(faults), "canary") {
			t.Errorf("%s: the faults are of %q, want %q: %v", given, got, want, faults)
		}
	}
	c := mustLoad(t, "", "ANTHROPIC_API_KEY=k", "OPENAI_API_KEY=k")
	for i, limit := range []string{"max_tokens", "max_completion_tokens"} {
		if p := c.Providers[i]; !p.Stream || !p.StreamOptions || p.TokenLimit != limit {
			t.Errorf("the well-known provider is %+v", p)
		}
	}
}

// An address that nothing can be asked at is refused, wherever one is configured.
func TestAddressesThatCannotBeAsked(t *testing.T) {
	for given, want := range map[string]string{
		"http://127.0.0.1:8000/v1": "", "https://host": "", "http://[::1]:8000": "", "https://host:443/a/b/": "",
		"http://host:/v1": "colon", "http://http://host/v1": "colon", "http://[::1]:/v1": "colon", "http://host:0": "colon", "http://host:65536/v1": "colon",
		"http://host:x/v1": "address like", "host:8000/v1": "address like", "https:///v1": "address like", "https//host": "address like", "ftp://host": "address like",
		"http://user:pw@host": "password", "http://host?x=1": "query", "http://host/#a": "fragment",
	} {
		err := CheckURL(given)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", given, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "pw@") {
			t.Errorf("%s: the error quotes it: %v", given, err)
		}
	}
	for key, file := range map[string]string{
		"providers.p.base_url": "providers: {p: {dialect: openai, base_url: 'http://host:/v1', api_key: k}}\npools: {p: {provider: p, models: ['*']}}\n",
		"public_url":           "public_url: 'http://host:'\n",
		"redis.url":            "redis: {url: 'redis://host:/0'}\n",
		"listen":               "listen: '127.0.0.1:'\n",
		"ops_listen":           "ops_listen: '127.0.0.1:70000'\n",
	} {
		if _, faults := load(t, file, "ANTHROPIC_API_KEY=k"); len(faults) != 1 || faults[0].Key != key {
			t.Errorf("%s: %v", key, faults)
		}
	}
	for _, base := range []string{"http://127.0.0.1/v1/chat/completions", "http://127.0.0.1/v1/messages/"} {
		if _, faults := load(t, "providers: {p: {dialect: openai, base_url: '"+base+"'}}\npools: {p: {provider: p, models: ['*']}}\n"); len(faults) != 1 || !strings.Contains(faults[0].Error(), "leave it away") {
			t.Errorf("%s: %v", base, faults)
		}
	}
}

// Without a key, each SDK is answered at its own mount, and one that asks for the other's
// models is told so.
func TestTheFakesServeTheirOwnModels(t *testing.T) {
	c := mustLoad(t, "")
	var members []pool.Member
	for _, p := range c.Pools {
		provider, _ := c.ProviderOf(p.Name)
		members = append(members, pool.Member{Spec: pool.Spec{Name: p.Name, Dialect: upstream.Dialect(provider.Dialect), Models: p.Models}})
	}
	set := pool.NewSet(nil, time.Now, members...)
	for model, want := range map[string]string{
		"claude-sonnet-4-5": "anthropic", "gpt-4o": "openai", "chatgpt-4o-latest": "openai", "o3-mini": "openai", "text-embedding-3-small": "openai",
		"llama-3": "anthropic openai", "opus": "anthropic openai",
	} {
		var got []string
		for _, dialect := range []string{"anthropic", "openai"} {
			if _, ok := set.MatchIn(dialect, model); ok {
				got = append(got, dialect)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s is served in %s; want %s", model, got, want)
		}
	}
}

// What is printed of ways to a provider is one of the same ways, without their passwords.
func TestPasswordsOfProxiesAreNotPrinted(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "providers:\n  p: {dialect: openai, base_url: \"http://127.0.0.1:8000/v1\", egress: [direct, \"http://us%40er:can@ary@p:3128\", \"socks5://u:canary@q\"]}\n")
	var out bytes.Buffer
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); strings.Contains(s, "ary") || !strings.Contains(s, "http://us%40er:********@p:3128") {
		t.Errorf("it is printed as\n%s", s)
	}
	was, _ := c.Providers[0].Ways()
	again, err := mustLoad(t, out.String()).Providers[0].Ways()
	if err != nil || len(again) != 3 {
		t.Fatalf("%v, %v", again, err)
	}
	for i := range again {
		if again[i].Name != was[i].Name || again[i].User() != was[i].User() {
			t.Errorf("%q is %q", was[i].Name, again[i].Name)
		}
	}
}
