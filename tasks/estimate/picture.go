package estimate

import (
	"bufio"
	"encoding/binary"
	"image"
	_ "image/gif" // the forms that both providers take; WebP is read here
	_ "image/jpeg"
	_ "image/png"
	"math"
	"strings"
)

// model is what the providers publish of a family of models.
type model struct {
	prefix string
	output int // the most tokens of one answer
	// A picture costs base and perTile for each tile of 512 pixels, or perPatch for
	// each patch of 32; none of them: its form tells.
	base, perTile int
	perPatch      float64
	anthropic     bool
}

// models lists them; the first whose prefix fits counts, and the last is for all others.
func models() []model {
	claude := func(prefix string, output int) model { return model{prefix: prefix, output: output, anthropic: true} }
	tiles := func(prefix string, output, base, perTile int) model {
		return model{prefix: prefix, output: output, base: base, perTile: perTile}
	}
	patches := func(prefix string, output int, perPatch float64) model {
		return model{prefix: prefix, output: output, perPatch: perPatch}
	}
	return []model{
		claude("claude-3-5-", 8192), claude("claude-3-7-", 64_000), claude("claude-3-", 4096),
		claude("claude-opus-4-1", 32_000), claude("claude-opus-4-2", 32_000), claude("claude-opus-4-0", 32_000), claude("claude-", 64_000),
		tiles("gpt-4o-mini", 16_384, 2833, 5667), tiles("gpt-4o", 16_384, 85, 170), tiles("chatgpt-4o", 16_384, 85, 170),
		patches("gpt-4.1-mini", 32_768, 1.62), patches("gpt-4.1-nano", 32_768, 2.46), tiles("gpt-4.1", 32_768, 85, 170),
		tiles("gpt-4.5", 16_384, 85, 170), tiles("gpt-4-", 4096, 85, 170), tiles("gpt-4", 8192, 85, 170), tiles("gpt-3.5", 4096, 85, 170),
		patches("gpt-5-mini", 128_000, 1.62), patches("gpt-5-nano", 128_000, 2.46), tiles("gpt-5", 128_000, 70, 140),
		patches("o4-mini", 100_000, 1.72), tiles("o1-mini", 65_536, 75, 150), tiles("o1-preview", 32_768, 75, 150),
		tiles("o1", 100_000, 75, 150), tiles("o3", 100_000, 75, 150), tiles("o4", 100_000, 75, 150),
		{output: 32_768},
	}
}

// row finds a model, also behind the name of who resells it ("openai/gpt-4o").
func row(table []model, name string) model {
	name = name[strings.LastIndexByte(name, '/')+1:]
	for _, m := range table {
		if strings.HasPrefix(name, m.prefix) {
			return m
		}
	}
	return table[len(table)-1]
}

// picture counts one; ours says that the part has Anthropic's form.
func (m model) picture(file *bufio.Reader, detail string, anthropic bool) int {
	anthropic = m.anthropic || anthropic && m.base == 0 && m.perPatch == 0
	if m.base == 0 && m.perPatch == 0 {
		m.base, m.perTile = 85, 170
	}
	if !anthropic && detail == "low" && m.perPatch == 0 {
		return m.base
	}
	w, h, ok := size(file)
	switch {
	case !ok:
		return imageTokens
	case anthropic:
		scale := min(1, 1568/max(w, h))
		return int(min(math.Ceil(w*scale*h*scale/750), imageTokens))
	case m.perPatch > 0:
		return int(math.Ceil(patches(w, h) * m.perPatch))
	}
	scale := min(1, 2048/max(w, h))
	w, h = w*scale, h*scale
	scale = min(1, 768/min(w, h))
	return m.base + m.perTile*int(cover(w*scale, 512)*cover(h*scale, 512))
}

// patches is how many patches of 32 pixels cover a picture that is scaled to at most 1,536.
func patches(w, h float64) float64 {
	const most, side = 1536, 32
	if n := cover(w, side) * cover(h, side); n <= most {
		return n
	}
	scale := math.Sqrt(most * side * side / (w * h))
	across, down := w*scale/side, h*scale/side
	fit := min(math.Floor(across)/across, math.Floor(down)/down)
	return cover(w*scale*fit, side) * cover(h*scale*fit, side)
}

// cover is how many pieces cover a length; a hair's breadth is not one more.
func cover(length, piece float64) float64 { return max(1, math.Ceil(length/piece-1e-6)) }

// size reads a picture's width and height from its head.
func size(file *bufio.Reader) (w, h float64, ok bool) {
	head, err := file.Peek(30)
	if err != nil || string(head[:4]) != "RIFF" || string(head[8:12]) != "WEBP" {
		c, _, err := image.DecodeConfig(file)
		return float64(c.Width), float64(c.Height), err == nil && c.Width > 0 && c.Height > 0
	}
	// The three forms of the WebP container specification.
	switch string(head[12:16]) {
	case "VP8 ":
		w, h = float64(binary.LittleEndian.Uint16(head[26:])&0x3fff), float64(binary.LittleEndian.Uint16(head[28:])&0x3fff)
	case "VP8L":
		b := binary.LittleEndian.Uint32(head[21:])
		w, h = float64(b&0x3fff+1), float64(b>>14&0x3fff+1)
	case "VP8X":
		w = float64(binary.LittleEndian.Uint32(head[24:])&0xffffff + 1)
		h = float64(binary.LittleEndian.Uint32(head[26:])>>8 + 1)
	}
	return w, h, w > 0 && h > 0
}
