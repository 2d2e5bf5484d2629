package store

import (
	"bytes"
	"cmp"
	"fmt"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// A prompt in Redis is compressed (Zstandard, RFC 8878) where that saves an eighth:
// shorter ones are not worth the time, and what is sealed or random already gains nothing.
const (
	compressFrom = 1 << 10  // bytes
	promptMost   = 64 << 20 // bytes of one that is read, well above what is taken in
)

// A result in Redis is compressed likewise, from less on: an answer is mostly the form that
// its provider gives all of them, which stands in words. Longer ones stay as they are, so
// that what a page of results has in Redis bounds what it takes in memory.
const (
	resultFrom  = 128
	resultWords = 1 << 10 // up to which it is written against the words alone
	resultTo    = 16 << 10
)

// words are what answers have in common, the most frequent last. Results in Redis are
// written against them: they stay as they are for ever, and others get another number.
const (
	words1   = 1
	words1As = `{"id":"chatcmpl-","object":"chat.completion","created":17,"model":"gpt-","choices":[{"index":0,"message":{"role":"assistant","content":"","refusal":null,"annotations":[],"tool_calls":[{"id":"call_","type":"function","function":{"name":"","arguments":"{}"}}]},"logprobs":null,"finish_reason":"tool_calls"},"finish_reason":"length"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":1,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_"}` +
		`{"id":"resp_","object":"response","created_at":17,"status":"completed","error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":null,"output":[{"type":"message","id":"msg_","status":"completed","role":"assistant","content":[{"type":"output_text","text":"","annotations":[]}]}],"parallel_tool_calls":true,"previous_response_id":null,"reasoning":{"effort":null,"summary":null},"store":true,"temperature":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_p":1.0,"truncation":"disabled","usage":{"input_tokens":1,"input_tokens_details":{"cached_tokens":0},"output_tokens":1,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":1},"user":null,"metadata":{}}` +
		`{"type":"thinking","thinking":"","signature":""},{"type":"tool_use","id":"toolu_01","name":"","input":{}}],"stop_reason":"tool_use","stop_reason":"max_tokens",` +
		`{"model":"claude-","id":"msg_01","type":"message","role":"assistant","content":[{"type":"text","text":""}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":1,"service_tier":"standard"}}`
)

// frame begins what is compressed. No prompt or result does: each is a value of JSON.
var frame = []byte{0x28, 0xb5, 0x2f, 0xfd}

// wordsFrame begins what is written against words1 in S2, which is the second byte. No JSON
// begins so, and nothing that is sealed.
var wordsFrame = []byte{0xfe, words1}

// words1S2 is words1 for S2.
var words1S2 = sync.OnceValue(func() *s2.Dict { return s2.MakeDict([]byte(words1As), nil) })

// codec compresses prompts and results; it may be used from anywhere at once.
type codec struct{ prompts, results *zstd.Encoder }

func newCodec() codec {
	options := []zstd.EOption{zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(64 << 10), zstd.WithEncoderConcurrency(4), zstd.WithLowerEncoderMem(true), zstd.WithAllLitEntropyCompression(true)}
	// No error comes of these options.
	prompts, _ := zstd.NewWriter(nil, options...)
	results, _ := zstd.NewWriter(nil, append(options, zstd.WithEncoderDictRaw(words1, []byte(words1As)))...)
	return codec{prompts, results}
}

// reader reads what any codec has compressed.
var reader = sync.OnceValue(func() *zstd.Decoder {
	r, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(4), zstd.WithDecoderMaxMemory(promptMost), zstd.WithDecoderLowmem(true), zstd.WithDecoderDictRaw(words1, []byte(words1As)))
	return r
})

// small is a prompt as the record has it.
func (c codec) small(body []byte) []byte {
	if len(body) < compressFrom {
		return body
	}
	return shorter(c.prompts, body)
}

// smallResult is a result as the record has it. A short one is nearly all words: S2 writes it in
// as few bytes as Zstandard, which first takes its own time for its tables, ten times as long.
func (c codec) smallResult(result []byte) []byte {
	switch {
	case len(result) < resultFrom || len(result) > resultTo:
		return result
	case len(result) > resultWords:
		return shorter(c.results, result)
	}
	short := make([]byte, len(wordsFrame), len(wordsFrame)+s2.MaxEncodedLen(len(result)))
	copy(short, wordsFrame)
	return gains(append(short, words1S2().Encode(short[len(short):cap(short)], result)...), result)
}

func shorter(in *zstd.Encoder, b []byte) []byte {
	return gains(in.EncodeAll(b, make([]byte, 0, len(b))), b)
}

// gains is what was compressed, where that saves enough.
func gains(short, b []byte) []byte {
	if len(short) > len(b)-len(b)/8 {
		return b
	}
	return short
}

// whole is what was compressed, or b itself where nothing was.
func whole(b []byte) ([]byte, error) {
	var body []byte
	var err error
	switch {
	case bytes.HasPrefix(b, wordsFrame):
		b = b[len(wordsFrame):]
		if n, wrong := s2.DecodedLen(b); wrong != nil || n > resultWords {
			return nil, fmt.Errorf("decompress: %w", cmp.Or(wrong, s2.ErrTooLarge))
		}
		body, err = words1S2().Decode(nil, b)
	case bytes.HasPrefix(b, frame):
		body, err = reader().DecodeAll(b, nil)
	default:
		return b, nil
	}
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return body, nil
}
