package fake

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"regexp"
	"strings"
)

// Kind is a kind of fault.
type Kind struct {
	Name, Says string
	// Refuses is true of the kinds that refuse a call, at no charge; the others
	// strike an accepted, charged call.
	Refuses bool
}

// strike is a kind that strikes an accepted call. Those with a turn give the whole
// answer, or something in its place, in another form.
type strike struct {
	kind, says string
	turn       func(x *exchange, h http.Header, body []byte) []byte
}

// strikes is the table of the kinds that strike an accepted call. Those after
// "garbage" are what providers and the gateways before them were seen to do.
func strikes() []strike {
	all := []strike{
		{"hang", "no answer until the client leaves, or for the fault's delay", nil},
		{"reset", "the connection is reset before an answer", nil},
		{"cut", "the connection ends in the middle", nil},
		{"truncated", "the body ends in the middle of its JSON, cleanly", nil},
		{"slow", "16 bytes at a time, with the fault's delay between them", nil},
		{"stream_error", "an overload reported inside the stream; a whole answer is cut", nil},
		{"plain", "a whole answer although a stream was asked for", nil},
		{"garbage", "something that is not JSON, with status 200", nil},

		{"no_end", "a stream without its last mark, [DONE] or message_stop", func(_ *exchange, _ http.Header, body []byte) []byte {
			return lastMark.ReplaceAll(body, nil)
		}},
		{"done_only", "OpenAI: [DONE] without a finish_reason; Anthropic: [DONE] in place of message_stop", func(x *exchange, _ http.Header, body []byte) []byte {
			if x.call.Dialect == OpenAI {
				return finishReason.ReplaceAll(body, []byte(`"finish_reason":null`))
			}
			return append(lastMark.ReplaceAll(body, nil), "data: [DONE]\n\n"...)
		}},
		{"done_space", "[DONE] with a space behind it", func(_ *exchange, _ http.Header, body []byte) []byte {
			return append(bytes.TrimSuffix(body, []byte("data: [DONE]\n\n")), "data: [DONE] \n\n"...)
		}},
		{"as_json", "a stream under the type application/json", typed("application/json")},
		{"as_html", "an answer under the type text/html", typed("text/html")},
		{"bom", "a byte order mark before the answer", func(_ *exchange, _ http.Header, body []byte) []byte {
			return append([]byte("\xef\xbb\xbf"), body...)
		}},
		{"gzip", "a compressed answer, whatever was asked for", func(_ *exchange, h http.Header, body []byte) []byte {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			_, _ = z.Write(body) // a buffer takes all
			_ = z.Close()        // as above
			h.Set("Content-Encoding", "gzip")
			return b.Bytes()
		}},
		{"no_usage", "an answer without counts of tokens", func(_ *exchange, _ http.Header, body []byte) []byte {
			return usageMember.ReplaceAll(body, []byte(`"usage":null`))
		}},
		{"filtered", "an answer that the provider's filter ended", reason("content_filter", "refusal")},
		{"broken_off", "an answer that ends with the reason error", reason("error", "error")},
		{"list", "the text as a list of parts, after a thought", func(x *exchange, _ http.Header, body []byte) []byte {
			if x.call.Dialect == Anthropic {
				return body // always a list
			}
			return spokenText.ReplaceAll(body, []byte(`"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":$1}]`))
		}},
		{"error_200", "an error that states 400, with status 200", instead(`{"error":{"message":"maximum context length is 4096 tokens","code":400}}`)},
		{"limit_200", "an error that states 429 in a word, with status 200", instead(`{"error":{"message":"slow down","type":"RateLimitError"}}`)},
		{"hollow", "an object that is no answer, with status 200", instead(`{"code":40101,"msg":"invalid api key","data":null}`)},
		{"echo_text", "a text that repeats the key under which it was asked", func(x *exchange, _ http.Header, body []byte) []byte {
			return bytes.Replace(body, []byte(`"You`), []byte(`"`+x.sent+` You`), 1)
		}},
		{"other_dialect", "an answer in the other dialect", func(x *exchange, h http.Header, _ []byte) []byte {
			h.Set("Content-Type", "application/json")
			p := x.f.cfg.prepare(&x.ask)
			if x.call.Dialect == OpenAI {
				return (&anthropicSpeaker{c: &x.call, q: &x.ask, p: &p}).whole()
			}
			return (&openAISpeaker{c: &x.call, q: &x.ask, p: &p}).whole()
		}},
	}
	for _, c := range callings() {
		all = append(all, strike{c.kind, c.says, c.turn})
	}
	return all
}

var (
	lastMark     = regexp.MustCompile(`(event: message_stop\n)?data: (\[DONE\]|\{"type":"message_stop"\})\n\n$`)
	finishReason = regexp.MustCompile(`"finish_reason":"[a-z_]*"`)
	stopReason   = regexp.MustCompile(`"stop_reason":"[a-z_]*"`)
	usageMember  = regexp.MustCompile(`"usage":\{([^{}]|\{[^{}]*\})*\}`)
	spokenText   = regexp.MustCompile(`"content":("(?:[^"\\]|\\.)+")`)
)

func typed(media string) func(*exchange, http.Header, []byte) []byte {
	return func(_ *exchange, h http.Header, body []byte) []byte {
		h.Set("Content-Type", media)
		return body
	}
}

// reason has an answer end with another word.
func reason(openAI, anthropic string) func(*exchange, http.Header, []byte) []byte {
	return func(_ *exchange, _ http.Header, body []byte) []byte {
		body = finishReason.ReplaceAll(body, []byte(`"finish_reason":"`+openAI+`"`))
		return stopReason.ReplaceAll(body, []byte(`"stop_reason":"`+anthropic+`"`))
	}
}

// instead has an object in the answer's place, as an event of the stream where
// one was asked for.
func instead(object string) func(*exchange, http.Header, []byte) []byte {
	return func(_ *exchange, h http.Header, _ []byte) []byte {
		if strings.HasPrefix(h.Get("Content-Type"), "text/event-stream") {
			return []byte("data: " + object + "\n\n")
		}
		return []byte(object)
	}
}

// turn returns what the call's fault makes of a whole answer, nil when it leaves it.
func (x *exchange) turn() func(*exchange, http.Header, []byte) []byte {
	for _, s := range strikes() {
		if s.kind == x.kind() {
			return s.turn
		}
	}
	return nil
}
