package upstream

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// plan is an answer before it is given.
type plan struct {
	first  time.Duration // until the first byte
	tokens []string      // one entry a token; the text is all of them joined
	cutOff bool          // max_tokens came before the natural end
}

// vocabulary is what the fake talks with, one token a word.
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
func (f *Fake) prepare(q *question) plan {
	h := fnv.New64a()
	_, _ = h.Write([]byte(q.model))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(q.text))
	dice := rand.New(rand.NewPCG(f.cfg.Seed, h.Sum64()))

	n := int(math.Max(1, math.Round(lognormal(dice, f.cfg.MeanOutputTokens, f.cfg.OutputSigma))))
	p := plan{first: time.Duration(lognormal(dice, float64(f.cfg.MeanLatency), f.cfg.LatencySigma))}
	if asked, ok := q.length(); ok {
		n = max(1, asked)
	}
	if asked, ok := q.delay(); ok {
		p.first = asked
	}
	if n > q.maxTokens {
		n, p.cutOff = q.maxTokens, true
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
	for _, w := range strings.Fields(clip(prompt, 64)) {
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

// pieceTime is how much of an answer one event of a stream holds, when tokens
// take time; pieceTokens when they take none.
const (
	pieceTime   = 25 * time.Millisecond
	pieceTokens = 32
)

// answer charges and writes the answer of an admitted call, with the fault
// that may stand against it.
func (f *Fake) answer(ctx context.Context, w http.ResponseWriter, x *exchange) {
	p := f.prepare(&x.ask)
	fault := ""
	if x.fault != nil {
		fault = x.fault.Kind
	}
	switch fault {
	case "hang":
		if !f.hang(ctx, x.fault.Delay) {
			panic(http.ErrAbortHandler) // never an answer
		}
	case "reset":
		reset(w)
		return
	}
	if f.wait(ctx, p.first) != nil {
		return
	}

	h := w.Header()
	f.describe(h, x)
	x.call.Status = http.StatusOK
	stream := x.ask.stream && fault != "plain"
	out := &writer{f: f, ctx: ctx, w: w, fault: x.fault, stream: stream}
	var say speaker
	if x.d == OpenAI {
		h["Openai-Processing-Ms"] = []string{strconv.FormatInt(p.first.Milliseconds(), 10)}
		say = &openAISpeaker{x: x, p: &p, at: f.clock.Now().Unix()}
	} else {
		say = &anthropicSpeaker{x: x, p: &p}
	}
	if stream {
		h["Content-Type"] = []string{"text/event-stream; charset=utf-8"}
		h["Cache-Control"] = []string{"no-cache"}
		out.event(say.open())
		if f.cfg.TimePerToken > 0 {
			out.flush()
		}
	}

	step := pieceTokens
	if f.cfg.TimePerToken > 0 {
		step = int(max(1, pieceTime/f.cfg.TimePerToken))
	}
	broken := len(p.tokens) / 2 // where a fault strikes
	for at := 0; at < len(p.tokens); at += step {
		end := min(at+step, len(p.tokens))
		if f.wait(ctx, time.Duration(end-at)*f.cfg.TimePerToken) != nil {
			return // the client is gone; what was produced stays charged
		}
		f.charge(x, (end-at)*x.ask.choices)
		if stream && at <= broken && broken < end && f.strike(out, say, fault, strings.Join(p.tokens[at:end], "")) {
			return
		}
		if stream {
			out.event(say.piece(strings.Join(p.tokens[at:end], "")))
			if f.cfg.TimePerToken > 0 {
				out.flush()
			}
		}
	}
	if stream {
		out.event(say.close())
		x.call.Completed = out.flush() == nil
		return
	}
	body := say.whole()
	h["Content-Type"] = []string{"application/json"}
	switch fault {
	case "cut", "stream_error":
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
		out.add(body[:len(body)/2])
		_ = out.flush() // it is to fail in any case
		panic(http.ErrAbortHandler)
	case "truncated":
		out.add(body[:len(body)/2])
		_ = out.flush()
		return
	case "garbage":
		h["Content-Type"] = []string{"text/html"}
		body = []byte("<html><body>Sign in to continue</body></html>\n")
	}
	out.add(body)
	x.call.Completed = out.flush() == nil && fault != "garbage"
}

// strike breaks a stream off in the way that fault says, and reports whether
// it did.
func (f *Fake) strike(out *writer, say speaker, fault, piece string) bool {
	switch fault {
	case "cut":
		_ = out.flush() // it is to fail in any case
		panic(http.ErrAbortHandler)
	case "truncated":
		event := say.piece(piece)
		out.add(event[:len(event)/2])
	case "stream_error":
		out.event(say.fail())
	case "garbage":
		out.add([]byte("data: <html>Sign in to continue</html>\n\n"))
	default:
		return false
	}
	_ = out.flush()
	return true
}

// charge draws output tokens from the account.
func (f *Fake) charge(x *exchange, tokens int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x.acct.draw(f.clock.Now(), tokens)
	x.call.OutputTokens += int64(tokens)
}

// wait sleeps unless there is nothing to wait for.
func (f *Fake) wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	return f.clock.Sleep(ctx, d)
}

// hang keeps a call waiting for d, or for ever when d is 0, and reports
// whether it is to be answered after all.
func (f *Fake) hang(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		return f.clock.Sleep(ctx, d) == nil
	}
	select {
	case <-ctx.Done():
	case <-f.closed:
	}
	return false
}

// reset ends the connection with a RST where the protocol has one.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// writer collects what is written, and with the fault "slow" dribbles it.
type writer struct {
	f      *Fake
	ctx    context.Context
	w      http.ResponseWriter
	fault  *Fault
	stream bool
	buf    []byte
}

func (o *writer) event(data []byte) { o.buf = append(o.buf, data...) }
func (o *writer) add(data []byte)   { o.buf = append(o.buf, data...) }

// flush sends what was collected.
func (o *writer) flush() error {
	data := o.buf
	o.buf = o.buf[:0]
	if o.fault == nil || o.fault.Kind != "slow" {
		if _, err := o.w.Write(data); err != nil {
			return err
		}
		if o.stream {
			return http.NewResponseController(o.w).Flush()
		}
		return nil
	}
	delay := o.fault.Delay
	if delay == 0 {
		delay = 50 * time.Millisecond
	}
	const bytesAtATime = 16
	for len(data) > 0 {
		n := min(bytesAtATime, len(data))
		if _, err := o.w.Write(data[:n]); err != nil {
			return err
		}
		if err := http.NewResponseController(o.w).Flush(); err != nil {
			return err
		}
		data = data[n:]
		if err := o.f.wait(o.ctx, delay); err != nil {
			return err
		}
	}
	return nil
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
	x *exchange
	p *plan
}

func (s *anthropicSpeaker) usage(b []byte, output int) []byte {
	return fmt.Appendf(b, `{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":%d,"service_tier":"standard"}`,
		s.x.ask.tokens, output)
}

func (s *anthropicSpeaker) message(content, stop string, output int) []byte {
	b := []byte(`{"model":`)
	b = appendString(b, s.x.ask.model)
	b = append(b, `,"id":"msg_`...)
	b = append(b, strings.TrimPrefix(s.x.id, "req_")...)
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
		s.stop(), s.x.ask.tokens, len(s.p.tokens))
}

func (s *anthropicSpeaker) fail() []byte {
	b := []byte("event: error\ndata: ")
	b = append(b, fakeErrors["529"].body(Anthropic, s.x.id, "")...)
	return append(b, "\n\n"...)
}

func (s *anthropicSpeaker) whole() []byte {
	content := []byte(`[{"type":"text","text":`)
	content = append(appendString(content, strings.Join(s.p.tokens, "")), "}]"...)
	return s.message(string(content), s.stop(), len(s.p.tokens))
}

type openAISpeaker struct {
	x  *exchange
	p  *plan
	at int64
}

func (s *openAISpeaker) frame(b []byte, object string) []byte {
	b = fmt.Appendf(b, `{"id":"chatcmpl-%s","object":"%s","created":%d,"model":`, strings.TrimPrefix(s.x.id, "req_"), object, s.at)
	b = appendString(b, s.x.ask.model)
	return append(b, `,"service_tier":"default","system_fingerprint":"fp_fake"`...)
}

// chunk has the same delta for every choice.
func (s *openAISpeaker) chunk(b []byte, delta, finish string) []byte {
	b = s.frame(append(b, "data: "...), "chat.completion.chunk")
	b = append(b, `,"choices":[`...)
	for i := range s.x.ask.choices {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"index":%d,"delta":%s,"logprobs":null,"finish_reason":%s}`, i, delta, finish)
	}
	b = append(b, ']')
	if s.x.ask.usage {
		b = append(b, `,"usage":null`...)
	}
	return append(b, "}\n\n"...)
}

func (s *openAISpeaker) usage(b []byte) []byte {
	in, out := s.x.ask.tokens, len(s.p.tokens)*s.x.ask.choices
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
	if s.x.ask.usage {
		b = s.frame(append(b, "data: "...), "chat.completion.chunk")
		b = append(b, `,"choices":[],"usage":`...)
		b = append(s.usage(b), "}\n\n"...)
	}
	return append(b, "data: [DONE]\n\n"...)
}

func (s *openAISpeaker) fail() []byte {
	b := []byte("data: ")
	b = append(b, fakeErrors["503"].body(OpenAI, s.x.id, "")...)
	return append(b, "\n\n"...)
}

func (s *openAISpeaker) whole() []byte {
	b := s.frame(nil, "chat.completion")
	b = append(b, `,"choices":[`...)
	text := appendString(nil, strings.Join(s.p.tokens, ""))
	for i := range s.x.ask.choices {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"index":%d,"message":{"role":"assistant","content":%s,"refusal":null},"logprobs":null,"finish_reason":%s}`, i, text, s.stop())
	}
	b = append(b, `],"usage":`...)
	return append(s.usage(b), '}')
}
