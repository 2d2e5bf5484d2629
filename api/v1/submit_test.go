package v1_test

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/tasks"
)

const hello = `{"model":"claude-x","prompt":"Say hello."}`

// with returns a submit body with further members.
func with(members string) string { return `{"model":"claude-x","prompt":"x",` + members + `}` }

// A body in any of the three forms survives decoding byte for byte, nothing
// panics, and what is refused is refused with 400, 413 or 422.
func FuzzSubmit(f *testing.F) {
	for _, seed := range []string{
		hello, with(`"max_tokens":1,"priority":"low","metadata":{"a":"b"},"fallback_models":["gpt-5"],"custom_id":"x"`),
		`{"model":"claude-x","messages":[{"role":"user","content":[{"type":"text","text":"x"}]}],"system":"s"}`,
		`{"request":{"model":"gpt-5","max_tokens":3,"x":[1,2,{"y":null}]}}`, with(`"deadline":"2030-01-01T00:00:00Z","not_before":null`),
		`{"mod\u0065l":"claude-x","prompt":"\ud83d\ude00"}`, "{", "[]", `{"model":`, "\xff",
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, body []byte, inBatch bool) {
		given := bytes.Clone(body)
		job, status, detail := v1.Decode(given, inBatch, now)
		if !bytes.Equal(given, body) && (inBatch || job.Request.Kind != tasks.Messages) {
			t.Fatal("decoding changed the body")
		}
		if status != 0 {
			if status != 400 && status != 413 && status != 422 {
				t.Fatalf("refused with %d: %s", status, detail)
			}
			if strings.IndexFunc(detail, func(r rune) bool { return r < ' ' }) >= 0 {
				t.Fatalf("the detail holds control characters: %q", detail)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatalf("what is not JSON was accepted: %q", body)
		}
		if job.Model == "" || max(job.Request.MaxTokens, job.Request.OutputTokens) < 1 || !job.Priority.Valid() || !json.Valid(job.Request.Body) {
			t.Fatalf("a job came out half: %+v", job)
		}
		if job.Request.Kind != tasks.Messages && !bytes.Contains(body, job.Request.Body) {
			t.Fatalf("the caller's bytes were changed: %q from %q", job.Request.Body, body)
		}
	})
}

// Both forms of a batch are read the same, whatever the chunks that they come in.
func FuzzBatch(f *testing.F) {
	f.Add([]byte(hello+"\n"+hello), 1)
	f.Add([]byte(`{"jobs":[`+hello+`, {"a":[1]} ]}`), 3)
	f.Add([]byte("\n\r\n  {}\n[]\n\xff\n{\"a\":\"\\n\"}"), 2)
	f.Add([]byte(`{"jobs":[1,"x",null],"jobs":[]}`), 7)
	f.Add([]byte(`{"id":"batch_1","jobs":[{}]}`), 4)
	f.Add([]byte(`{"jobs":[{}],"id":"batch_1"}`), 4)
	f.Fuzz(func(t *testing.T, body []byte, size int) {
		type read func(io.Reader, int64, int, func(int, []byte) error) error
		for name, read := range map[string]read{"lines": v1.ReadLines, "document": v1.ReadDocument} {
			all := func(r io.Reader) (lines []string, status int) {
				last := 0
				err := read(r, 100, 50, func(line int, raw []byte) error {
					if line <= last || len(raw) == 0 || int64(len(raw)) > 100 {
						t.Fatalf("%s: line %d after %d: %q", name, line, last, raw)
					}
					last = line
					lines = append(lines, string(raw))
					return nil
				})
				if err != nil {
					status = v1.StatusOf(err)
				}
				return lines, status
			}
			whole, status := all(bytes.NewReader(body))
			if status != 0 && status != 400 && status != 413 {
				t.Fatalf("%s: refused with %d", name, status)
			}
			pieces, again := all(&slow{body, 1 + abs(size)%17})
			if status != again || strings.Join(whole, "\n") != strings.Join(pieces, "\n") {
				t.Fatalf("%s: whole %d %q, in pieces %d %q", name, status, whole, again, pieces)
			}
			if name == "document" {
				for _, line := range whole {
					if !json.Valid([]byte(line)) {
						t.Fatalf("an element is not JSON: %q", line)
					}
				}
			}
		}
	})
}

func abs(n int) int {
	if n < 0 {
		return -(n + 1)
	}
	return n
}

// slow reads a few bytes at a time.
type slow struct {
	rest []byte
	n    int
}

func (s *slow) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest[:min(s.n, len(s.rest))])
	s.rest = s.rest[n:]
	return n, nil
}

func BenchmarkDecodeSubmit(b *testing.B) {
	body := []byte(`{"model":"claude-x","max_tokens":100,"metadata":{"a":"b"},"prompt":"` + strings.Repeat("a", 1024) + `"}`)
	now := time.Now()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, status, detail := v1.Decode(body, false, now); status != 0 {
			b.Fatal(detail)
		}
	}
}

// What messages and system make is the same wherever they stand in a body, and as long as
// one pleases: it is put together in the body itself, and in a line beside it.
func TestMessagesArePutTogetherInTheirBody(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, n := range []int{0, 1, 10, 1000} {
		messages := `[{"role":"user","content":"` + strings.Repeat("m", n) + `"}]`
		for _, system := range []string{"", `""`, `"` + strings.Repeat("s", n) + `"`, `[{"type":"text","text":"` + strings.Repeat("s", 2*n) + `"}]`} {
			want := `{"messages":` + messages + `}`
			members := []string{`"model":"x"`, `"messages":` + messages}
			if system != "" {
				want = strings.TrimSuffix(want, "}") + `,"system":` + system + `}`
				members = append(members, `"system":`+system)
			}
			for range members { // each comes first once, and last
				members = append(members[1:], members[0])
				for _, between := range []string{",", " ,\n\t "} {
					body := "{" + strings.Join(members, between) + "}"
					for _, inBatch := range []bool{false, true} {
						given := []byte(body)
						job, status, detail := v1.Decode(given, inBatch, now)
						if status != 0 || string(job.Request.Body) != want || job.Bytes != int64(len(body)) {
							t.Fatalf("%s (a line: %t): %d %s: %s, %d bytes; want %s", body, inBatch, status, detail, job.Request.Body, job.Bytes, want)
						}
						if inBatch && string(given) != body {
							t.Fatalf("the line became %s", given)
						}
					}
				}
			}
		}
	}
}
