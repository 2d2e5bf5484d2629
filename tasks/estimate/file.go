package estimate

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// mostInflated is how many bytes of a PDF's packed objects are looked at.
const mostInflated = 4 << 20

var (
	pageObject  = regexp.MustCompile(`/Type\s*/Page[^s\w]`)
	linearPages = regexp.MustCompile(`/Linearized\s[^>]*?/N\s+(\d+)`)
	packed      = regexp.MustCompile(`/Type\s*/ObjStm[^>]*>>\s*stream\r?\n`)
)

// pages is how many pages a PDF of n bytes has: by its page objects, packed ones
// too, else by its size.
func pages(file io.Reader, n int) int {
	pdf, _ := io.ReadAll(file) // as far as it is base64
	if m := linearPages.FindSubmatch(pdf[:min(len(pdf), 2048)]); m != nil {
		if count, err := strconv.Atoi(string(m[1])); err == nil && count > 0 && count < 100_000 {
			return count
		}
	}
	count := len(pageObject.FindAllIndex(pdf, -1))
	left := int64(mostInflated)
	for _, at := range packed.FindAllIndex(pdf, -1) {
		z, err := zlib.NewReader(bytes.NewReader(pdf[at[1]:]))
		if err != nil {
			continue
		}
		objects, _ := io.ReadAll(io.LimitReader(z, left)) // as far as it can be read
		left -= int64(len(objects))
		count += len(pageObject.FindAllIndex(objects, -1))
	}
	if count > 0 {
		return count
	}
	return max(1, n/bytesPerPage)
}

// seconds is how long a recording of n bytes lasts: a WAV by its head, an MP3 by
// the rate of its first frame, anything else at 128 kbit a second; at least 1.
func seconds(file *bufio.Reader, media string, n int) int {
	rate := 16_000
	switch head, _ := file.Peek(64); {
	case len(head) > 44 && string(head[:4]) == "RIFF" && string(head[8:12]) == "WAVE":
		rate = int(min(binary.LittleEndian.Uint32(head[28:]), 1<<30))
	case strings.HasSuffix(media, "pcm16"):
		rate = 2 * 24_000
	default:
		if r := mp3Rate(file); r > 0 {
			rate = r
		}
	}
	return max(1, n/max(1, rate))
}

// mp3Rate is the bytes a second of an MP3 (ISO 11172-3, layer III); 0: it is none.
func mp3Rate(file *bufio.Reader) int {
	if b, err := file.Peek(10); err == nil && string(b[:3]) == "ID3" {
		_, _ = file.Discard(10 + int(b[6])<<21 + int(b[7])<<14 + int(b[8])<<7 + int(b[9]))
	}
	b, err := file.Peek(4)
	if err != nil || b[0] != 0xff || b[1]&0xfe != 0xfa {
		return 0
	}
	kbit := [16]int{0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0}
	return kbit[b[2]>>4] * 1000 / 8
}
