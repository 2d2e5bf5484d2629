package upstream

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// echo is an answer in which a model or a gateway says something: the key as a rule.
type echo struct {
	name  string
	d     Dialect
	whole bool
	body  func(said ...string) string // in JSON strings without their quotes
}

func sse(data ...string) string {
	var b strings.Builder
	for _, d := range data {
		b.WriteString("data: " + d + "\n\n")
	}
	return b.String()
}

// deltas is a completion's stream: each piece of it in a member of a delta.
func deltas(form string) func(said ...string) string {
	return func(said ...string) string {
		var all []string
		for _, s := range said {
			all = append(all, `{"choices":[{"index":0,"delta":`+fmt.Sprintf(form, s)+`}]}`)
		}
		return sse(append(all, `{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`, "[DONE]")...)
	}
}

// blocks is a message's stream: each piece of it in a delta of one block.
func blocks(block, form string) func(said ...string) string {
	return func(said ...string) string {
		all := []string{
			`{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","content":[],"stop_reason":null,"usage":{"input_tokens":1}}}`,
			`{"type":"content_block_start","index":0,"content_block":` + block + `}`,
		}
		for _, s := range said {
			all = append(all, `{"type":"content_block_delta","index":0,"delta":`+fmt.Sprintf(form, s)+`}`)
		}
		return sse(append(all, `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}`, `{"type":"message_stop"}`)...)
	}
}

func echoes() []echo {
	joined := func(form string) func(...string) string {
		return func(said ...string) string { return fmt.Sprintf(form, strings.Join(said, "")) }
	}
	return []echo{
		{"a text", OpenAI, false, deltas(`{"content":"%s"}`)},
		{"a thought", OpenAI, false, deltas(`{"content":"x","reasoning_content":"%s"}`)},
		{"a refusal", OpenAI, false, deltas(`{"refusal":"%s"}`)},
		{"parts", OpenAI, false, deltas(`{"content":[{"type":"text","text":"%s"}]}`)},
		{"arguments", OpenAI, false, deltas(`{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"%s"}}]}`)},
		{"arguments in an old form", OpenAI, false, deltas(`{"function_call":{"name":"f","arguments":"%s"}}`)},
		{"a member nobody knows", OpenAI, false, deltas(`{"content":"x","odd":{"er":"%s"}}`)},
		{"a whole text", OpenAI, true, joined(`{"choices":[{"message":{"content":"%s"},"finish_reason":"stop"}]}`)},
		{"a whole id", OpenAI, true, joined(`{"id":"%[1]s","choices":[{"message":{"content":"x"},"finish_reason":"stop"}],"%[1]s":1}`)},
		{"a whole call", OpenAI, true, joined(`{"choices":[{"message":{"content":null,"tool_calls":[{"id":"%[1]s","function":{"name":"%[1]s","arguments":"%[1]s"}}]},"finish_reason":"tool_calls"}]}`)},
		{"a text", Anthropic, false, blocks(`{"type":"text","text":""}`, `{"type":"text_delta","text":"%s"}`)},
		{"a thought", Anthropic, false, blocks(`{"type":"thinking","thinking":""}`, `{"type":"thinking_delta","thinking":"%s"}`)},
		{"an input", Anthropic, false, func(said ...string) string {
			all := slices.Concat([]string{`{\"k\":\"`}, said, []string{`\"}`})
			return blocks(`{"type":"tool_use","id":"t","name":"f","input":{}}`, `{"type":"input_json_delta","partial_json":"%s"}`)(all...)
		}},
		{"a whole text", Anthropic, true, joined(`{"type":"message","content":[{"type":"text","text":"%s"}],"stop_reason":"end_turn"}`)},
		{"a whole input", Anthropic, true, joined(`{"type":"message","id":"%[1]s","content":[{"type":"tool_use","id":"t","name":"f","input":{"%[1]s":["%[1]s"]}}],"stop_reason":"tool_use"}`)},
	}
}

// spelt is the key in the forms in which a JSON string may have it.
func spelt(key string) map[string]string {
	escaped, twice := "", ""
	for _, c := range []byte(key) {
		escaped += fmt.Sprintf(`\u%04x`, c)
		twice += fmt.Sprintf(`\\u%04X`, c)
	}
	return map[string]string{
		"as it is": key, "escaped": escaped, "escaped twice": twice, "an escape in it": escaped[:6] + key[1:], "an escape at its end": key[:len(key)-1] + escaped[len(escaped)-6:],
		"after a backslash": `\\` + key, "after a quote": `\"` + key, "after half of it": key[:len(key)/2] + key, "as a bearer": "Bearer " + key + ".",
		"in base64": base64.RawURLEncoding.EncodeToString([]byte(key)), "slashes escaped": strings.ReplaceAll(key, "/", `\/`),
	}
}

// pieces cuts a JSON string into deltas of n bytes, never inside an escape.
func pieces(s string, n int) (all []string) {
	for s != "" {
		cut := 0
		for cut < min(n, len(s)) {
			switch {
			case s[cut] == '\\' && s[cut+1] == 'u':
				cut += 6
			case s[cut] == '\\':
				cut += 2
			default:
				cut++
			}
		}
		all, s = append(all, s[:cut]), s[cut:]
	}
	return all
}

// A model that repeats what a gateway put before it, or a gateway that writes into
// the answer, hands our key to nobody: in no string of the result and in no delta,
// however it is spelt and wherever the stream cuts it.
func TestOurKeyInAnAnswerReachesNobody(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"aaabaaab-aaab", "pK/9+x7=q/Q"} {
		for _, e := range echoes() {
			for form, s := range spelt(key) {
				for _, n := range []int{1, 1000} {
					if e.whole && n < 1000 || e.name == "an input" && (form == "after a quote" || form == "after a backslash") { // no JSON there
						continue
					}
					what := fmt.Sprintf("%s/%s %s in pieces of %d", e.d, e.name, form, n)
					a, told := saying(t, e.d, key, e.body(pieces("is: "+s+" th", n)...))
					if a.Outcome != tasks.Succeeded || !json.Valid(a.Result) {
						t.Fatalf("%s: %s, %s, %s", what, a.Outcome, a.Message, a.Result)
					}
					if told != tasks.ResultText(a.Result) {
						t.Errorf("%s: told %q of the text %q", what, told, tasks.ResultText(a.Result))
					}
					for _, shown := range []string{string(a.Result), unescaped(string(a.Result)), told, fmt.Sprint(a.Message, a.RequestID, a.Finish)} {
						if strings.Contains(shown, key) || strings.Contains(shown, base64.RawStdEncoding.EncodeToString([]byte(key))) || !strings.Contains(string(a.Result), "[key]") {
							t.Fatalf("%s: shown %s", what, shown)
						}
					}
				}
			}
		}
	}
}

// A key in pieces, over blocks, parts or choices, is in no piece, but in the text that
// is joined from them.
func TestOurKeyInPiecesIsNotJoined(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		d    Dialect
		body string // with a key in two pieces
	}{
		"blocks":              {Anthropic, `{"type":"message","content":[{"type":"text","text":"is: %s"},{"type":"tool_use","id":"t","name":"f","input":{"n":1.10}},{"text":"%s.","type":"text"}],"stop_reason":"end_turn"}`},
		"choices":             {OpenAI, `{"choices":[{"index":0,"message":{"content":"is: %s"},"finish_reason":"stop"},{"index":1,"message":{"content":"%s."},"finish_reason":"stop"}],"n":1.10}`},
		"parts":               {OpenAI, `{"choices":[{"message":{"content":[{"type":"text","text":"is: %s"},{"type":"image","text":"x","n":1.10},{"type":"text","text":"%s."}]},"finish_reason":"stop"}]}`},
		"a text, a refusal":   {OpenAI, `{"choices":[{"message":{"content":"is: %s","refusal":"%s."},"finish_reason":"stop"}],"n":1.10}`},
		"a refusal, a choice": {OpenAI, `{"choices":[{"message":{"refusal":"is: %s"},"finish_reason":"stop"},{"message":{"Content":"%s."},"finish_reason":"stop"}],"n":1.10}`},
		"blocks of a stream": {Anthropic, sse(`{"type":"message_start","message":{"type":"message","content":[],"n":1.10}}`,
			`{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"is: %s"}}`, `{"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}`,
			`{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"%s."}}`, `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}`, `{"type":"message_stop"}`)},
	} {
		for _, cut := range []int{1, 7, len(testKey) - 1} {
			a, told := saying(t, c.d, testKey, fmt.Sprintf(c.body, testKey[:cut], testKey[cut:]))
			if said := tasks.ResultText(a.Result); said != "is: [key]." || told != said || !json.Valid(a.Result) || !bytes.Contains(a.Result, []byte("1.10")) {
				t.Errorf("%s, cut at %d: told %q, and the text is %q of %s, %s", name, cut, told, said, a.Result, a.Message)
			}
		}
	}
}

var anEscape = regexp.MustCompile(`\\u00[0-9a-fA-F]{2}`)

// unescaped takes all escapes out of s, as far as they go.
func unescaped(s string) string {
	for range 3 {
		s = anEscape.ReplaceAllStringFunc(s, func(e string) string {
			c, _ := strconv.ParseUint(e[2:], 16, 8)
			return string(rune(c))
		})
		s = strings.NewReplacer(`\\`, `\`, `\/`, `/`).Replace(s)
	}
	return s
}

// saying is what is made of an answer, and what was told of its text, key being ours.
func saying(t testing.TB, d Dialect, key, body string) (a Answer, told string) {
	t.Helper()
	c, err := New(Config{Provider: Provider{Dialect: d, BaseURL: "http://provider.test", APIKey: key}, Client: &http.Client{Transport: answering(func() *http.Response {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}
	})}})
	if err != nil {
		t.Fatal(err)
	}
	c.client.Transport = answering(func() *http.Response {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: readCloser{strings.NewReader(body)}}
	})
	q := ask("hi")
	var b strings.Builder
	q.OnText = func(s string) { b.WriteString(s) }
	a = c.Do(t.Context(), q)
	return a, b.String()
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// What is no key comes as it was sent: the bytes of the result and the text.
func TestAnAnswerWithoutOurKeyKeepsEveryByte(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		`the-secret-ke`, `the-secret-kez`, `\\\\the-\\u0073ecret`, `\u00e9\u2028`, `a\/b\n\t\"q\"`, `C:\\users\\theo`, `\\u`, `\\u00`, `\\u12 \\\\`, `\\u0074he`, "sk-other", "\u2028é",
	} {
		body := `{"choices":[{"message":{"content":"` + s + `","n":1.10},"finish_reason":"stop"}] , "the-secret":  1e400}`
		a, told := saying(t, OpenAI, testKey, body)
		if string(a.Result) != body || told != tasks.ResultText([]byte(body)) {
			t.Errorf("%s became %s, told as %q", body, a.Result, told)
		}
		for n := 1; n < 8; n++ {
			a, told := saying(t, OpenAI, testKey, deltas(`{"content":"%s"}`)(pieces(s, n)...))
			if !strings.Contains(string(a.Result), `"content":"`+s+`"`) || told != tasks.ResultText([]byte(body)) {
				t.Errorf("%s in pieces of %d became %s, told as %q", s, n, a.Result, told)
			}
		}
	}
}

// A text is told as it comes. Only an end that may be the beginning of the key waits,
// and no longer than until it is known to be none.
func TestTextWaitsOnlyWhileItMayBeTheKey(t *testing.T) {
	t.Parallel()
	next, said := make(chan string), make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for s := range next {
			_, _ = w.Write([]byte(sse(`{"choices":[{"index":0,"delta":{"content":` + strconv.Quote(s) + `}}]}`)))
			w.(http.Flusher).Flush()
		}
		_, _ = w.Write([]byte(sse(`{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`, "[DONE]")))
	}))
	defer server.Close()
	done := make(chan Answer)
	c := newCaller(t, OpenAI, server.URL, nil)
	go func() {
		q := ask("hi")
		q.OnText = func(s string) { said <- s }
		done <- c.Do(t.Context(), q)
	}()
	for _, step := range [][2]string{ // what comes, and what is told before anything else comes
		{"Hello. ", "Hello. "}, {"It is the", "It is "}, {"re: the-secret", "there: "}, {"-kex, the", "the-secret-kex, "},
		{"the", "the"}, {"-secret-key!", "[key]!"}, {"the-the-secret-k", "the-"}, {"ey", "[key]"}, {"end t", "end "},
	} {
		next <- step[0]
		select {
		case got := <-said:
			if got != step[1] {
				t.Errorf("after %q came %q, want %q", step[0], got, step[1])
			}
		case <-time.After(time.Minute):
			t.Errorf("after %q nothing came, want %q", step[0], step[1])
		}
	}
	close(next)
	if a := <-done; a.Outcome != tasks.Succeeded || len(said) != 1 || <-said != "t" {
		t.Error("the end was not told", a.Outcome, a.Message)
	}
}

// Whatever is echoed, reading it takes time in proportion to its length.
func TestAnEchoTakesLinearTime(t *testing.T) {
	t.Parallel()
	key := strings.Repeat("a", 150) + "b"
	for name, unit := range map[string]string{
		"the beginning of the key": "a", "escapes": `\u0061`, "backslashes": `\\`, "beginnings of escapes": `\\u00`, "keys": key, "nearly keys": key[1:],
	} {
		r := newRedactor(key)
		doc := func(size int) []byte { return []byte(`{"x":"` + strings.Repeat(unit, size/len(unit)) + `"}`) }
		took := func(doc []byte) (time.Duration, []byte) {
			began := time.Now()
			out := r.result(doc)
			return time.Since(began), out
		}
		small, doc128 := doc(32<<10), doc(128<<10)
		a, _ := took(small)
		b, out := took(doc128)
		// Four times the bytes; a square would be sixteen times. A machine that is busy
		// with something else gets more tries.
		for tries := 0; b > 10*a && b > 150*time.Millisecond; tries++ {
			if tries == 5 {
				t.Errorf("%s: %d bytes took %v, and %d bytes %v", name, len(small), a, len(doc128), b)
				break
			}
			again, _ := took(small)
			more, _ := took(doc128)
			a, b = max(a, again), min(b, more)
		}
		if !json.Valid(out) || name != "keys" && name != "escapes" && !bytes.Equal(out, doc128) {
			t.Errorf("%s: %d bytes became %d", name, len(doc128), len(out))
		}
	}
}

func FuzzRedactor(f *testing.F) {
	for _, s := range []string{"the-secret-key", `\u0074he-secret-key`, `\\the-secret-key\"`, `\\u0074he-secret-key`, "the-secret-the-secret-key", `\`, `\\\u`} {
		f.Add(s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, s string, n uint8) {
		r := newRedactor(testKey)
		if doc := []byte(`{"x":"` + s + `"}`); json.Valid(doc) {
			out := r.result(doc)
			controls := regexp.MustCompile(`\\[bfnrt]`) // their letters spell nothing
			if !json.Valid(out) || bytes.Contains(controls.ReplaceAll(bytes.ReplaceAll(out, []byte(`\\`), nil), nil), []byte(testKey)) || !bytes.Contains(out, []byte("[key]")) && !bytes.Equal(out, doc) {
				t.Fatalf("%s became %s", doc, out)
			}
			var before, after map[string]string
			if json.Unmarshal(doc, &before) == nil && json.Unmarshal(out, &after) == nil && before["x"] != "" && r.text(before["x"]) != after["x"] {
				t.Fatalf("%q as a text is %q, and in JSON %q", before["x"], r.text(before["x"]), after["x"])
			}
		}
		var b strings.Builder
		told := r.stream(func(s string) { b.WriteString(s) })
		for rest := s; rest != ""; {
			cut := min(int(n%9)+1, len(rest))
			told.add(rest[:cut])
			rest = rest[cut:]
		}
		told.end()
		if b.String() != r.text(s) || strings.Contains(b.String(), testKey) {
			t.Fatalf("%q in pieces of %d is %q, and at once %q", s, n%9+1, b.String(), r.text(s))
		}
	})
}
