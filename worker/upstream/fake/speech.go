package fake

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// plan is an answer before it is given.
type plan struct {
	first  time.Duration // until the first byte
	tokens []string      // one entry a token; the text is all of them joined
	cutOff bool          // max_tokens came before the natural end
}

// vocabulary is what the provider talks with, one token a word.
func vocabulary() [96]string {
	return [...]string{
		"the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are",
		"as", "with", "his", "they", "at", "be", "this", "have", "from", "or", "one", "had",
		"by", "word", "but", "not", "what", "all", "were", "we", "when", "your", "can", "said",
		"there", "use", "an", "each", "which", "she", "do", "how", "their", "if", "will", "up",
		"other", "about", "out", "many", "then", "them", "these", "so", "some", "her", "would", "make",
		"like", "him", "into", "time", "has", "look", "two", "more", "write", "go", "see", "number",
		"no", "way", "could", "people", "my", "than", "first", "water", "been", "call", "who", "its",
		"now", "find", "long", "down", "day", "did", "get", "come", "made", "may", "part", "over",
	}
}

// prepare decides an answer by the prompt, the model and the seed alone.
func (cfg *Config) prepare(q *question) plan {
	h := fnv.New64a()
	_, _ = h.Write([]byte(q.model))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(q.text))
	dice := rand.New(rand.NewPCG(cfg.Seed, h.Sum64()))

	n := int(math.Max(1, math.Round(lognormal(dice, cfg.MeanOutputTokens, cfg.OutputSigma))))
	p := plan{first: time.Duration(lognormal(dice, float64(cfg.MeanLatency), cfg.LatencySigma))}
	if asked, ok := q.length(); ok {
		n = max(1, asked)
	}
	if asked, ok := q.delay(); ok {
		p.first = asked
	}
	if n > q.maxTokens {
		n, p.cutOff = q.maxTokens, true
	}
	if q.path == embeddings {
		return p
	}
	p.tokens = speak(dice, q.last, n)
	return p
}

// lognormal draws from the lognormal with that mean; sigma is that of its
// logarithm.
func lognormal(dice *rand.Rand, mean, sigma float64) float64 {
	z := dice.NormFloat64() // always drawn, so that one setting does not shift another
	if mean <= 0 || sigma == 0 {
		return math.Max(0, mean)
	}
	return math.Exp(math.Log(mean) - sigma*sigma/2 + sigma*z)
}

// speak makes n tokens of text: it repeats how the prompt begins, so that an
// answer can be told to belong to its prompt, and goes on at random.
func speak(dice *rand.Rand, prompt string, n int) []string {
	words := vocabulary()
	out := make([]string, 0, n)
	out = append(out, "You", " wrote:")
	for _, w := range strings.Fields(strings.ToValidUTF8(prompt[:min(len(prompt), 64)], "")) {
		out = append(out, " "+w)
	}
	out = append(out, ".")
	for sentence := 0; len(out) < n; sentence++ {
		w := words[dice.IntN(len(words))]
		if sentence%12 == 0 {
			w = strings.ToUpper(w[:1]) + w[1:]
		}
		if sentence%12 == 11 {
			w += "."
		}
		out = append(out, " "+w)
	}
	return out[:n]
}

// speaker words an answer in a dialect.
type speaker interface {
	open() []byte
	piece(text string) []byte
	close() []byte
	fail() []byte
	whole() []byte
}

type anthropicSpeaker struct {
	c *Call
	q *question
	p *plan
}

func (s *anthropicSpeaker) usage(b []byte, output int) []byte {
	return fmt.Appendf(b, `{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":%d,"service_tier":"standard"}`,
		s.q.tokens, output)
}

func (s *anthropicSpeaker) message(content, stop string, output int) []byte {
	b := []byte(`{"model":`)
	b = appendString(b, s.q.model)
	b = append(b, `,"id":"msg_`...)
	b = append(b, strings.TrimPrefix(s.c.RequestID, "req_")...)
	b = append(b, `","type":"message","role":"assistant","content":`...)
	b = append(b, content...)
	b = append(b, `,"stop_reason":`...)
	b = append(b, stop...)
	b = append(b, `,"stop_sequence":null,"usage":`...)
	return append(s.usage(b, output), '}')
}

func (s *anthropicSpeaker) stop() string {
	if s.p.cutOff {
		return `"max_tokens"`
	}
	return `"end_turn"`
}

func (s *anthropicSpeaker) open() []byte {
	b := []byte("event: message_start\ndata: {\"type\":\"message_start\",\"message\":")
	b = append(b, s.message("[]", "null", 1)...)
	return append(b, "}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n"...)
}

func (s *anthropicSpeaker) piece(text string) []byte {
	b := []byte("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":")
	return append(appendString(b, text), "}}\n\n"...)
}

func (s *anthropicSpeaker) close() []byte {
	return fmt.Appendf(nil, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":%s,\"stop_sequence\":null},\"usage\":{\"input_tokens\":%d,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":%d}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
		s.stop(), s.q.tokens, len(s.p.tokens))
}

func (s *anthropicSpeaker) fail() []byte {
	b := []byte("event: error\ndata: ")
	b = append(b, refusals["529"].body(Anthropic, s.c.RequestID, "")...)
	return append(b, "\n\n"...)
}

func (s *anthropicSpeaker) whole() []byte {
	content := []byte(`[{"type":"text","text":`)
	content = append(appendString(content, strings.Join(s.p.tokens, "")), "}]"...)
	return s.message(string(content), s.stop(), len(s.p.tokens))
}

type openAISpeaker struct {
	c  *Call
	q  *question
	p  *plan
	at int64
}

func (s *openAISpeaker) frame(b []byte, object string) []byte {
	b = fmt.Appendf(b, `{"id":"chatcmpl-%s","object":"%s","created":%d,"model":`, strings.TrimPrefix(s.c.RequestID, "req_"), object, s.at)
	b = appendString(b, s.q.model)
	return append(b, `,"service_tier":"default","system_fingerprint":"fp_fake"`...)
}

// chunk has the same delta for every choice.
func (s *openAISpeaker) chunk(b []byte, delta, finish string) []byte {
	b = s.frame(append(b, "data: "...), "chat.completion.chunk")
	b = append(b, `,"choices":[`...)
	for i := range s.q.choices {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"index":%d,"delta":%s,"logprobs":null,"finish_reason":%s}`, i, delta, finish)
	}
	b = append(b, ']')
	if s.q.usage {
		b = append(b, `,"usage":null`...)
	}
	return append(b, "}\n\n"...)
}

func (s *openAISpeaker) usage(b []byte) []byte {
	in, out := s.q.tokens, len(s.p.tokens)*s.q.choices
	return fmt.Appendf(b, `{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`,
		in, out, in+out)
}

func (s *openAISpeaker) stop() string {
	if s.p.cutOff {
		return `"length"`
	}
	return `"stop"`
}

func (s *openAISpeaker) open() []byte {
	return s.chunk(nil, `{"role":"assistant","content":"","refusal":null}`, "null")
}

func (s *openAISpeaker) piece(text string) []byte {
	return s.chunk(nil, string(append(appendString([]byte(`{"content":`), text), '}')), "null")
}

func (s *openAISpeaker) close() []byte {
	b := s.chunk(nil, "{}", s.stop())
	if s.q.usage {
		b = s.frame(append(b, "data: "...), "chat.completion.chunk")
		b = append(b, `,"choices":[],"usage":`...)
		b = append(s.usage(b), "}\n\n"...)
	}
	return append(b, "data: [DONE]\n\n"...)
}

func (s *openAISpeaker) fail() []byte {
	b := []byte("data: ")
	b = append(b, refusals["503"].body(OpenAI, s.c.RequestID, "")...)
	return append(b, "\n\n"...)
}

func (s *openAISpeaker) whole() []byte {
	b := s.frame(nil, "chat.completion")
	b = append(b, `,"choices":[`...)
	text := appendString(nil, strings.Join(s.p.tokens, ""))
	for i := range s.q.choices {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"index":%d,"message":{"role":"assistant","content":%s,"refusal":null},"logprobs":null,"finish_reason":%s}`, i, text, s.stop())
	}
	b = append(b, `],"usage":`...)
	return append(s.usage(b), '}')
}

// listModels words a list of models.
func listModels(d Dialect, models []string) []byte {
	var b []byte
	for i, m := range models {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, `{"id":`...), m)
		if d == Anthropic {
			b = appendString(append(b, `,"type":"model","display_name":`...), m)
			b = append(b, `,"created_at":"2025-01-01T00:00:00Z"}`...)
		} else {
			b = append(b, `,"object":"model","created":1735689600,"owned_by":"fake"}`...)
		}
	}
	if d == Anthropic {
		return fmt.Appendf(nil, `{"data":[%s],"has_more":false,"first_id":%q,"last_id":%q}`, b, models[0], models[len(models)-1])
	}
	return fmt.Appendf(nil, `{"object":"list","data":[%s]}`, b)
}
