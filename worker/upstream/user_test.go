package upstream

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// On the wire, a provider that is to know is told a hash of whose the job is where the caller
// named nobody, and nothing else of the body changes; what the caller named stays.
func TestAProviderIsToldWhomACallIsFor(t *testing.T) {
	t.Parallel()
	const is = "HASH"
	messages := `"messages":[{"role":"user","content":"hi"}]`
	raw := func(at tasks.Path, body string) tasks.Request {
		return tasks.Request{Kind: tasks.Raw, Endpoint: at, Body: []byte(body)}
	}
	text := tasks.Request{Kind: tasks.Text, Body: []byte(`"hi"`), MaxTokens: 7}
	many := tasks.Request{Kind: tasks.Messages, Body: []byte(`{"system":"s",` + messages + `}`)}
	for _, row := range []struct {
		d    Dialect
		r    tasks.Request
		want string // what is sent
	}{
		{Anthropic, text, `{"model":"m","max_tokens":7,` + messages + `,"metadata":{"user_id":"HASH"}}`},
		{Anthropic, many, `{"model":"m","system":"s",` + messages + `,"metadata":{"user_id":"HASH"}}`},
		{OpenAI, text, `{"model":"m","max_completion_tokens":7,` + messages + `,"safety_identifier":"HASH"}`},
		{OpenAI, many, `{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"hi"}],"safety_identifier":"HASH"}`},
		{Anthropic, raw(tasks.Chat, `{"model":"m", "x":1.50}`), `{"model":"m", "x":1.50,"metadata":{"user_id":"HASH"}}`},
		{Anthropic, raw(tasks.Chat, `{"metadata":null,"model":"m"}`), `{"metadata":{"user_id":"HASH"},"model":"m"}`},
		{Anthropic, raw(tasks.Chat, `{"metadata":{ "a":1 },"model":"m"}`), `{"metadata":{ "a":1,"user_id":"HASH" },"model":"m"}`},
		{Anthropic, raw(tasks.Chat, `{"metadata":{"user_id":null},"model":"m"}`), `{"metadata":{"user_id":"HASH"},"model":"m"}`},
		{Anthropic, raw(tasks.Chat, `{"metadata":{"user_id":"his"},"model":"m"}`), `{"metadata":{"user_id":"his"},"model":"m"}`},
		{Anthropic, raw(tasks.Chat, `{"metadata":{"user_id":""},"model":"m"}`), `{"metadata":{"user_id":""},"model":"m"}`},
		{Anthropic, raw(tasks.Chat, `{"metadata":7,"model":"m"}`), `{"metadata":7,"model":"m"}`},
		{OpenAI, raw(tasks.Chat, `{"model":"m","metadata":{"a":"b"}}`), `{"model":"m","metadata":{"a":"b"},"safety_identifier":"HASH"}`},
		{OpenAI, raw(tasks.Chat, `{"model":"m","safety_identifier":null}`), `{"model":"m","safety_identifier":"HASH"}`},
		{OpenAI, raw(tasks.Chat, `{"model":"m","safety_identifier":"his"}`), `{"model":"m","safety_identifier":"his"}`},
		{OpenAI, raw(tasks.Chat, `{"model":"m","user":"his"}`), `{"model":"m","user":"his"}`},
		{OpenAI, raw(tasks.Chat, `{"model":"m","user":null}`), `{"model":"m","user":null,"safety_identifier":"HASH"}`},
		{OpenAI, raw(tasks.Responses, `{"model":"m","input":"hi"}`), `{"model":"m","input":"hi","safety_identifier":"HASH"}`},
		{OpenAI, raw(tasks.Responses, `{"model":"m","safety_identifier":"his"}`), `{"model":"m","safety_identifier":"his"}`},
		{OpenAI, raw(tasks.Embeddings, `{"model":"m","input":"hi"}`), `{"model":"m","input":"hi"}`},
	} {
		var got []byte
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got, _ = io.ReadAll(r.Body)
			w.WriteHeader(http.StatusBadRequest)
		}))
		ask := func(key []byte, owner string) string {
			c, err := New(Config{Provider: Provider{Dialect: row.d, BaseURL: s.URL, NoStream: true, UserKey: key}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.Do(t.Context(), Ask{Question: Read("m", row.r), Owner: owner})
			if !json.Valid(got) || bytes.Contains(got, []byte("acme")) {
				t.Errorf("%s %s: sent is %s", row.d, row.r.Body, got)
			}
			return string(got)
		}
		before := (&tasks.Job{Tenant: "acme", Model: "m", Request: row.r}).Digest()
		hash := regexp.MustCompile(`"[0-9a-f]{32}"`)
		told := ask([]byte("key"), "acme/ada")
		if sent := hash.ReplaceAllString(told, `"`+is+`"`); sent != row.want {
			t.Errorf("%s %s: sent is %s, want %s", row.d, row.r.Body, sent, row.want)
		}
		tells := strings.Contains(row.want, is)
		if again := ask([]byte("key"), "acme/ada"); again != told {
			t.Errorf("%s: asked again it is %s, was %s", row.d, again, told)
		}
		for _, other := range []string{ask([]byte("key"), "acme/bob"), ask([]byte("key"), "acme"), ask([]byte("another"), "acme/ada")} {
			if (other != told) != tells {
				t.Errorf("%s %s: another user, tenant or key is told as %s, this one as %s", row.d, row.r.Body, other, told)
			}
		}
		for _, none := range []string{ask(nil, "acme/ada"), ask([]byte("key"), "")} {
			if hash.MatchString(none) {
				t.Errorf("%s %s: told unasked: %s", row.d, row.r.Body, none)
			}
		}
		if after := (&tasks.Job{Tenant: "acme", Model: "m", Request: row.r}).Digest(); after != before {
			t.Errorf("%s %s: its digest has changed", row.d, row.r.Body)
		}
		s.Close()
	}
}
