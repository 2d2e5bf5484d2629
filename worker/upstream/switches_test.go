package upstream

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

func TestAMemberThatAProviderRefusesIsTakenOutAndNothingElse(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ in, want string }{
		{`{"model":"m"}`, `{"model":"m"}`},
		{`{"stream":true}`, `{}`},
		{`{ "stream" : true }`, `{ }`},
		{`{"stream":true,"model":"m"}`, `{"model":"m"}`},
		{`{ "stream": true , "model":"m" }`, `{ "model":"m" }`},
		{`{"model":"m","stream":true}`, `{"model":"m"}`},
		{`{"model":"m", "stream" : false, "n":1.50}`, `{"model":"m", "n":1.50}`},
		{`{"stream":true,"stream_options":{"include_usage":true},"a":0}`, `{"a":0}`},
		{`{"stream":true,"stream_options":{"x":[1,{}]}}`, `{}`},
		{`{"a":0,"stream":true,"stream_options":null}`, `{"a":0}`},
		{`{"stream":true,"a":0,"stream":false,"b":1,"stream_options":{}}`, `{"a":0,"b":1}`},
		{`{"str\u0065am":true,"nested":{"stream":true}}`, `{"nested":{"stream":true}}`},
	} {
		q := Read("", tasks.Request{Kind: tasks.Raw, Body: []byte(row.in)})
		got, err := q.Body(&Provider{Dialect: OpenAI, NoStream: true})
		if want := strings.ReplaceAll(row.want, " ", ""); err != nil || strings.ReplaceAll(string(got), " ", "") != want || !json.Valid(got) {
			t.Errorf("%s: got %s, %v; want %s", row.in, got, err, row.want)
		}
	}
	q := Read("m", tasks.Request{Kind: tasks.Raw, Body: []byte(`{"stream":true}`), MaxTokens: 7, OutputTokens: 7})
	if got, _ := q.Body(&Provider{Dialect: OpenAI, NoStream: true, TokenLimit: "max_tokens"}); string(got) != `{"max_tokens":7,"model":"m"}` {
		t.Errorf("an emptied body is filled to %s", got)
	}
}

// The limit beside a request is written in the provider's own name for it, and a
// body that has one is left alone.
func TestTheLimitBesideARequestReachesTheProvider(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		p    Provider
		in   string
		most int // OutputTokens: 0 in a record of the release before
		want string
	}{
		{Provider{Dialect: OpenAI}, `{"a":0}`, 7, `{"a":0,"max_completion_tokens":7}`},
		{Provider{Dialect: OpenAI}, `{"max_tokens":null}`, 7, `{"max_tokens":null,"max_completion_tokens":7}`},
		{Provider{Dialect: OpenAI}, `{"max_completion_tokens":null}`, 7, `{"max_completion_tokens":7}`},
		{Provider{Dialect: OpenAI, TokenLimit: "max_tokens"}, `{"a":0,"max_tokens":null}`, 7, `{"a":0,"max_tokens":7}`},
		{Provider{Dialect: OpenAI, TokenLimit: "max_output_tokens"}, `{}`, 7, `{"max_output_tokens":7}`},
		{Provider{Dialect: Anthropic}, `{"a":0}`, 7, `{"a":0,"max_tokens":7}`},
		{Provider{Dialect: OpenAI}, `{"a":0}`, 0, `{"a":0}`},
		{Provider{Dialect: Anthropic}, `{"a":0}`, 0, `{"a":0,"max_tokens":7}`},
	} {
		row.p.NoStream = true
		q := Read("", tasks.Request{Kind: tasks.Raw, Body: []byte(row.in), MaxTokens: 7, OutputTokens: row.most})
		if got, err := q.Body(&row.p); err != nil || string(got) != row.want {
			t.Errorf("%s for %q: got %s, %v; want %s", row.in, row.p.TokenLimit, got, err, row.want)
		}
	}
}

// strict is a compatible server that refuses each of some members, as several do.
func strict(t *testing.T, refused ...string) (url string, roots *x509.CertPool) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var members map[string]json.RawMessage
		if err == nil {
			err = json.Unmarshal(body, &members)
		}
		w.Header().Set("Content-Type", "application/json")
		for name := range members {
			if err == nil && slices.Contains(refused, name) {
				err = fmt.Errorf("Unsupported parameter: '%s'", name)
			}
		}
		if _, limit := members["max_tokens"]; err == nil && !limit {
			err = fmt.Errorf("Missing required parameter: 'max_tokens'")
		}
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, `{"error":{"message":%q,"type":"invalid_request_error"}}`, err)
			return
		}
		if string(members["stream"]) == "true" {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, `data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`+"\n\ndata: [DONE]\n\n")
			return
		}
		_, _ = io.WriteString(w, `{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`)
	}))
	t.Cleanup(s.Close)
	roots = x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.URL + "/v1", roots
}

// Groq, Databricks, Azure, Mistral and older vLLM each refuse one of these.
func TestAServerThatRefusesAMemberCanBeUsed(t *testing.T) {
	t.Parallel()
	for _, refuses := range [][]string{
		{"max_completion_tokens"}, {"max_completion_tokens", "stream_options"}, {"max_completion_tokens", "stream_options", "stream"},
	} {
		url, roots := strict(t, refuses...)
		p := Provider{
			Name: "p", Dialect: OpenAI, BaseURL: url, APIKey: "k", Roots: roots, TokenLimit: "max_tokens",
			NoStreamOptions: slices.Contains(refuses, "stream_options"), NoStream: slices.Contains(refuses, "stream"),
		}
		ask := func(p Provider, r tasks.Request) (Answer, string, int64) {
			c, err := New(Config{Provider: p})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			var said strings.Builder
			var charged int64
			a := c.Do(t.Context(), Ask{
				Question: Read("m", r), OnText: func(s string) { said.WriteString(s) }, OnStart: func(n int64, _ Rates) { charged = n },
			})
			return a, said.String(), charged
		}
		requests := map[string]tasks.Request{
			"a prompt":        {Kind: tasks.Text, Body: []byte(`"hi"`), MaxTokens: 9},
			"messages":        {Kind: tasks.Messages, Body: []byte(`{"messages":[{"role":"user","content":"hi"}],"system":"s"}`), MaxTokens: 9},
			"a request":       {Kind: tasks.Raw, Body: []byte(`{"messages":[{"role":"user","content":"hi"}]}`), MaxTokens: 9, OutputTokens: 9},
			"a stream itself": {Kind: tasks.Raw, Body: []byte(`{"stream":true,"stream_options":{"include_usage":true},"max_tokens":9,"messages":[]}`), OutputTokens: 9},
		}
		for name, r := range requests {
			a, said, charged := ask(p, r)
			if a.Outcome != tasks.Succeeded || said != "hello" || tasks.ResultText(a.Result) != "hello" || a.Usage == nil || a.Usage.InputTokens != 7 || a.Usage.OutputTokens != 3 || charged != 7 {
				t.Errorf("%s to a server that refuses %v: %s %q, text %q, usage %+v, charged %d", name, refuses, a.Outcome, a.Message, said, a.Usage, charged)
			}
		}
		// Each switch is needed.
		for name, without := range map[string]func(*Provider){
			"token_limit":    func(p *Provider) { p.TokenLimit = "" },
			"stream_options": func(p *Provider) { p.NoStreamOptions, p.NoStream = false, false },
			"stream":         func(p *Provider) { p.NoStream = false },
			"ca_file":        func(p *Provider) { p.Roots = nil },
		} {
			if name == "stream_options" && !p.NoStreamOptions || name == "stream" && !p.NoStream {
				continue
			}
			changed := p
			without(&changed)
			if a, _, _ := ask(changed, requests["a prompt"]); a.Outcome == tasks.Succeeded {
				t.Errorf("a server that refuses %v answers without the switch %s", refuses, name)
			}
		}
	}
}
