package upstream

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestMessagesShowNoKey(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"key the-secret-key refused":  "key [key] refused",
		"sk-ant-api03-abc_DEF-1 bad":  "[key] bad",
		"a risk-free ask-me line":     "a risk-free ask-me line",
		"line\nbreak\x00":             "line break ",
		"quoted 'sk-proj-***abcd'...": "quoted '[key]'...",
	} {
		if got := newRedactor(testKey).clean(in, maxMessage); got != want {
			t.Errorf("clean(%q): got %q, want %q", in, got, want)
		}
	}
	long := newRedactor("").clean("k: "+strings.Repeat("é", 600), maxMessage)
	if len(long) > maxMessage || !strings.HasSuffix(long, "…") || strings.ContainsRune(long, '�') {
		t.Errorf("a long message became %d bytes, %q", len(long), long[max(0, len(long)-12):])
	}
}

// A gateway may echo the key that it was sent anywhere: in words, types, codes,
// ids, headers, the name of a page, the target of a redirect. Nothing of an answer
// but the model's own text is stored, logged or shown with it.
func TestOurKeyInAnythingThatAProviderSaysIsNotShown(t *testing.T) {
	t.Parallel()
	encoded := base64.StdEncoding.EncodeToString([]byte(testKey))
	for _, key := range []string{testKey, encoded, strings.TrimRight(encoded, "="), "Bearer " + testKey} {
		q, _ := json.Marshal(key)
		long := strings.Repeat("x", 180) + key // a cut falls into the key
		for name, raw := range map[string]string{
			"message":           "401 Unauthorized\r\n\r\n" + `{"error":{"message":` + string(q) + `}}`,
			"type":              "401 Unauthorized\r\n\r\n" + `{"error":{"type":` + string(q) + `,"message":"no"}}`,
			"code":              "401 Unauthorized\r\n\r\n" + `{"error":{"code":` + string(q) + `,"message":"no"}}`,
			"details":           "429 Too Many\r\n\r\n" + `{"type":"error","error":{"type":"rate_limit_error","message":"no","details":{"error_code":` + string(q) + `}}}`,
			"request_id":        "500 Broken\r\n\r\n" + `{"error":{"message":"no"},"request_id":` + string(q) + `}`,
			"request-id":        "500 Broken\r\nRequest-Id: " + key + "\r\nX-Request-Id: " + key + "\r\n\r\n",
			"an unknown member": "422 Odd\r\n\r\n" + `{"why":` + string(q) + `}`,
			"a long one":        "422 Odd\r\n\r\n" + `{"why":"` + long + `"}`,
			"a page":            "404 Not Found\r\n\r\n<title>" + key + "</title>",
			"a page, cut":       "404 Not Found\r\n\r\n<p>" + long + "</p>",
			"a target":          "307 Temporary\r\nLocation: https://thief.example/" + key + "\r\n\r\n",
			"a content type":    "200 OK\r\nContent-Type: text/" + key + "\r\n\r\n<p>" + key,
			"a coding":          "200 OK\r\nContent-Encoding: br\r\nContent-Type: " + key + "\r\n\r\nxxxx",
			"a status line":     "500 " + key + "\r\n\r\n",
			"inside a 200":      "200 OK\r\n\r\n" + `{"code":` + string(q) + `,"msg":` + string(q) + `}`,
			"inside a stream":   "200 OK\r\n\r\ndata: " + `{"error":{"type":` + string(q) + `,"message":"` + long + `"}}` + "\n\n",
			"a reason":          "200 OK\r\n\r\n" + `{"choices":[{"message":{"content":"x"},"finish_reason":"error ` + key + `"}]}`,
			"a word of an end":  "200 OK\r\n\r\n" + `{"choices":[{"message":{"content":"x"},"finish_reason":"` + strings.Repeat("y", 50) + key + `"}]}`,
			"no HTTP":           "",
		} {
			raw = "HTTP/1.1 " + raw
			if name == "no HTTP" {
				raw = key + "\r\n"
			}
			a := newCaller(t, OpenAI, serveBytes(t, []byte(raw), false).url, nil).Do(t.Context(), ask("hi"))
			if a.Outcome == "" {
				t.Fatal("no outcome")
			}
			a.Result = nil
			shown := fmt.Sprintf("%+v", a)
			for _, part := range []string{testKey, testKey[:8], encoded[:10]} {
				if strings.Contains(shown, part) {
					t.Errorf("%s: the key shows in %s", name, shown)
				}
			}
		}
	}
}
