package store

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// A prompt in Redis is compressed (Zstandard, RFC 8878) where that saves an eighth:
// shorter ones are not worth the time, and what is sealed or random already gains nothing.
const (
	compressFrom = 1 << 10  // bytes
	promptMost   = 64 << 20 // bytes of one that is read, well above what is taken in
)

// frame begins what is compressed. No prompt does: each is a value of JSON.
var frame = []byte{0x28, 0xb5, 0x2f, 0xfd}

// codec compresses and reads prompts; it may be used from anywhere at once.
type codec struct {
	in  *zstd.Encoder
	out *zstd.Decoder
}

func newCodec() codec {
	// No error comes of these options.
	in, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(64<<10), zstd.WithEncoderConcurrency(4), zstd.WithLowerEncoderMem(true), zstd.WithAllLitEntropyCompression(true))
	out, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(4), zstd.WithDecoderMaxMemory(promptMost), zstd.WithDecoderLowmem(true))
	return codec{in, out}
}

// small is a prompt as the record has it.
func (c codec) small(body []byte) []byte {
	if len(body) < compressFrom {
		return body
	}
	short := c.in.EncodeAll(body, make([]byte, 0, len(body)))
	if len(short) > len(body)-len(body)/8 {
		return body
	}
	return short
}

// whole is what small was given.
func (c codec) whole(b []byte) ([]byte, error) {
	if !bytes.HasPrefix(b, frame) {
		return b, nil
	}
	body, err := c.out.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("decompress the prompt: %w", err)
	}
	return body, nil
}
