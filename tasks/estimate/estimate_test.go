package estimate_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/estimate"
)

// file is the base64 of a file in testdata.
func file(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(b)
}

// The two ways in which a file stands in a body.
func anthropic(kind, media, data string) string {
	return fmt.Sprintf(`{"type":%q,"source":{"type":"base64","media_type":%q,"data":%q}}`, kind, media, data)
}

func dataURL(media, data string) string { return "data:" + media + ";base64," + data }

// filled estimates a body whose one message has these parts, and what it would be
// without them.
func filled(model string, parts ...string) (files int, r tasks.Request) {
	around := func(parts string) tasks.Request {
		r := tasks.Request{Kind: tasks.Raw, Body: fmt.Appendf(nil, `{"model":%q,"messages":[{"role":"user","content":[{"type":"text","text":"What is it?"}%s]}]}`, model, parts)}
		estimate.Fill(model, &r)
		return r
	}
	r = around("," + strings.Join(parts, ","))
	return r.InputTokens - around("").InputTokens, r
}

// A picture of 2.5 MB was counted as 650,000 tokens, and real ones are 1,000.
func TestAFileCountsByItsKindAndNotByItsBytes(t *testing.T) {
	png := func(name string) string { return dataURL("image/png", file(t, name)) }
	for _, row := range []struct {
		name, model, part string
		want              int
	}{
		{"Anthropic, its size", "claude-sonnet-4-5", anthropic("image", "image/png", file(t, "1000x800.png")), 1067},
		{"Anthropic, jpeg scaled down", "claude-sonnet-4-5", anthropic("image", "image/jpeg", file(t, "1600x1200.jpg")), 1600},
		{"Anthropic, small gif", "claude-sonnet-4-5", anthropic("image", "image/gif", file(t, "300x200.gif")), 80},
		{"Anthropic, webp", "claude-sonnet-4-5", anthropic("image", "image/webp", file(t, "640x480.webp")), 410},
		{"Anthropic, a wrong media type", "claude-sonnet-4-5", anthropic("image", "image/jpeg", file(t, "1000x800.png")), 1067},
		{"Anthropic, no picture", "claude-sonnet-4-5", anthropic("image", "image/png", "AAAA"), 1600},
		{"Anthropic, no base64", "claude-sonnet-4-5", anthropic("image", "image/png", "!!!!"), 1600},
		{"Anthropic, by URL", "claude-sonnet-4-5", `{"type":"image","source":{"type":"url","url":"https://x.example/a.png"}}`, 1600},
		{"Anthropic, by id", "claude-sonnet-4-5", `{"type":"image","source":{"type":"file","file_id":"file_1"}}`, 1600},
		{"Anthropic, within a tool's result", "claude-sonnet-4-5", `{"type":"tool_result","content":[` + anthropic("image", "image/png", file(t, "1000x800.png")) + `]}`, 1067},
		{"Anthropic's form, another's model", "local-model", anthropic("image", "image/png", file(t, "1000x800.png")), 1067},
		{"OpenAI's form, Anthropic's model", "anthropic/claude-sonnet-4-5", `{"type":"image_url","image_url":{"url":"` + png("1000x800.png") + `"}}`, 1067},
		{"OpenAI, tiles", "gpt-4o", `{"type":"image_url","image_url":{"url":"` + png("1024x1024.png") + `"}}`, 765},
		{"OpenAI, a tall one", "gpt-4o", `{"type":"image_url","image_url":{"url":"` + png("2048x4096.png") + `","detail":"high"}}`, 1105},
		{"OpenAI, low detail", "gpt-4o", `{"type":"image_url","image_url":{"url":"` + png("2048x4096.png") + `","detail":"low"}}`, 85},
		{"OpenAI, detail before", "gpt-4o", `{"type":"image_url","image_url":{"detail":"low","url":"` + png("2048x4096.png") + `"}}`, 85},
		{"OpenAI, mini", "gpt-4o-mini", `{"type":"image_url","image_url":{"url":"` + png("1024x1024.png") + `"}}`, 2833 + 4*5667},
		{"OpenAI, reasoning", "o3", `{"type":"image_url","image_url":{"url":"` + png("1024x1024.png") + `"}}`, 75 + 4*150},
		{"OpenAI, patches", "gpt-4.1-mini", `{"type":"image_url","image_url":{"url":"` + png("1024x1024.png") + `"}}`, 1659},
		{"OpenAI, patches scaled down", "gpt-4.1-mini", `{"type":"image_url","image_url":{"url":"` + png("1800x2400.png") + `"}}`, 2353},
		{"OpenAI, of a responses body", "gpt-4o", `{"type":"input_image","image_url":"` + png("1024x1024.png") + `"}`, 765},
		{"OpenAI, by URL", "gpt-4o", `{"type":"image_url","image_url":{"url":"https://x.example/a.png"}}`, 1600},
		{"a model that nobody knows", "llava", `{"type":"image_url","image_url":{"url":"` + png("1024x1024.png") + `"}}`, 765},
		{"escaped slashes", "gpt-4o", `{"type":"image_url","image_url":{"url":"` + strings.ReplaceAll(png("1024x1024.png"), "/", `\/`) + `"}}`, 765},
		{"PDF, Anthropic", "claude-sonnet-4-5", anthropic("document", "application/pdf", file(t, "3pages.pdf")), 9000},
		{"PDF, OpenAI", "gpt-4o", `{"type":"file","file":{"filename":"a.pdf","file_data":"` + dataURL("application/pdf", file(t, "3pages.pdf")) + `"}}`, 9000},
		{"PDF, packed", "claude-sonnet-4-5", anthropic("document", "application/pdf", file(t, "2pages-packed.pdf")), 6000},
		{"PDF, unreadable", "claude-sonnet-4-5", anthropic("document", "application/pdf", base64.StdEncoding.EncodeToString(make([]byte, 150_000))), 9000},
		{"PDF, by URL", "claude-sonnet-4-5", `{"type":"document","source":{"type":"url","url":"https://x.example/a.pdf"}}`, 30_000},
		{"PDF, by id", "gpt-4o", `{"type":"file","file":{"file_id":"file-1"}}`, 30_000},
		{"WAV", "gpt-4o-audio-preview", `{"type":"input_audio","input_audio":{"data":"` + file(t, "3s.wav") + `","format":"wav"}}`, 30},
		{"MP3", "gpt-4o-audio-preview", `{"type":"input_audio","input_audio":{"data":"` + file(t, "4s.mp3") + `","format":"mp3"}}`, 40},
		{"three files", "claude-sonnet-4-5", strings.Join([]string{anthropic("image", "image/png", file(t, "1000x800.png")), anthropic("image", "image/png", file(t, "1000x800.png")), anthropic("document", "application/pdf", file(t, "3pages.pdf"))}, ","), 2*1067 + 9000},
	} {
		// What stands around the file is text: its frame is a few tokens.
		if got, _ := filled(row.model, row.part); got < row.want || got > row.want+120 {
			t.Errorf("%s: got %d tokens, want %d and its frame", row.name, got, row.want)
		}
	}
}

// What is no file stays text, however it looks.
func TestWhatOnlyLooksLikeAFileIsText(t *testing.T) {
	for name, part := range map[string]string{
		"a text document":    `{"type":"document","source":{"type":"text","media_type":"text/plain","data":"` + strings.Repeat("word ", 800) + `"}}`,
		"data of a tool":     `{"type":"tool_use","input":{"data":"` + strings.Repeat("word ", 800) + `"}}`,
		"a text with base64": `{"type":"text","text":"` + strings.Repeat("data", 1000) + `"}`,
		"an unknown scheme":  `{"type":"image_url","image_url":{"url":"data:text/plain,` + strings.Repeat("word ", 800) + `"}}`,
	} {
		if got, _ := filled("claude-sonnet-4-5", part); got < 1000 || got > 1060 {
			t.Errorf("%s: got %d tokens, want about 1,000", name, got)
		}
	}
	r := tasks.Request{Kind: tasks.Text, Body: []byte(`"` + strings.Repeat("word ", 800) + `"`)}
	if estimate.Fill("m", &r); r.InputTokens != tasks.EstimateTokens(4002) {
		t.Errorf("a prompt: got %d", r.InputTokens)
	}
}

// A quota of 100,000 tokens let 3,000 lines without a limit in, and "n":128 counted once.
func TestTheOutputIsCountedAsTheBodySaysIt(t *testing.T) {
	for _, row := range []struct {
		model, members string
		beside         int
		want           int
		open           bool
	}{
		{"gpt-4o", `"max_tokens":100`, 0, 100, false},
		{"gpt-4o", `"max_completion_tokens":100`, 0, 100, false},
		{"gpt-4o", `"max_output_tokens":100`, 0, 16_384, true}, // ignored by most servers
		{"gpt-4o", `"max_output_tokens":100,"max_tokens":50`, 0, 50, false},
		{"gpt-4o", `"max_output_tokens":100`, 100, 100, false},
		{"gpt-4o", `"max_tokens":100,"max_completion_tokens":200`, 0, 200, false},
		{"gpt-4o", `"max_tokens":1e2`, 0, 100, false},
		{"gpt-4o", `"max_tokens":100,"n":4`, 0, 400, false},
		{"gpt-4o", `"n":4,"max_tokens":100,"best_of":8`, 0, 800, false},
		{"gpt-4o", `"max_tokens":100,"n":1000000000`, 0, 12_800, false},
		{"gpt-4o", `"max_tokens":99999999999999999999`, 0, 10_000_000, false},
		{"gpt-4o", `"n":2`, 50, 100, false},
		{"gpt-4o", `"max_tokens":null`, 50, 50, false},
		{"gpt-4o", `"x":{"max_tokens":5}`, 0, 16_384, true},
		{"gpt-4o", `"max_tokens":-1`, 0, 16_384, true},
		{"gpt-4o", `"max_tokens":0`, 0, 16_384, true},
		{"gpt-4o", `"max_tokens":null`, 0, 16_384, true},
		{"gpt-4o", `"max_tokens":"100"`, 0, 16_384, true},
		{"gpt-4o", `"n":3`, 0, 3 * 16_384, true},
		{"claude-sonnet-4-5", `"a":1`, 0, 64_000, true},
		{"claude-3-haiku-20240307", `"a":1`, 0, 4096, true},
		{"claude-opus-4-20250514", `"a":1`, 0, 32_000, true},
		{"openai/gpt-5-mini", `"a":1`, 0, 128_000, true},
		{"llama-3", `"a":1`, 0, 32_768, true},
	} {
		r := tasks.Request{Kind: tasks.Raw, MaxTokens: row.beside, Body: []byte(`{"messages":[],` + row.members + `}`)}
		estimate.Fill(row.model, &r)
		limit := int64(row.want)
		if row.open {
			limit = 0
		}
		if r.OutputTokens != row.want || r.Open != row.open || r.Cap() != limit || r.Tokens() != int64(r.InputTokens+row.want) || r.MaxTokens != row.beside {
			t.Errorf("%s {%s} beside %d: got %d, open %t; want %d, open %t", row.model, row.members, row.beside, r.OutputTokens, r.Open, row.want, row.open)
		}
	}
}

func FuzzFill(f *testing.F) {
	for _, seed := range []string{`{}`, `{"data":"`, `{"a":[{"type":"image","source":{"data":"AA","media_type":"image/png"}}`, `{"max_tokens":1,"url":"data:;base64,"}`, `[1,{"file_data":"data:"}]`, strings.Repeat(`{"data":`, 300)} {
		f.Add([]byte(seed))
	}
	f.Add([]byte(anthropic("document", "application/pdf", file(f, "2pages-packed.pdf"))))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := tasks.Request{Kind: tasks.Raw, Body: body}
		if estimate.Fill("m", &r); r.InputTokens < 0 || r.OutputTokens < 1 {
			t.Errorf("%q: %d in, %d out", body, r.InputTokens, r.OutputTokens)
		}
	})
}
