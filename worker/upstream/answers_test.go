package upstream

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// row is what a provider sent and what it has to be taken for. The files in
// testdata/answers hold rows:
//
//	### openai | what is odd about it
//	200 text/event-stream     the status and the content type; "-" for none
//	Header-Name: value        any number
//	gzip | escaped | torn     the body is compressed; has Go's escapes; is shorter than stated
//	= succeeded               the outcome
//	text "…"                  the text; "" when it is not given
//	finish complete           how the answer ended
//	usage 7 3 [cache read, cache created]
//	says …                    a part of the message
//	cause …                   the kind of the cause
//	holds …                   a part of the result; any number
//	uncut                     where it ends early cannot be told
//	---
//	the body, up to the next row
type row struct {
	kind, name string
	d          Dialect
	status     int
	header     http.Header
	body       []byte
	torn       bool

	outcome tasks.Outcome
	text    string
	finish  tasks.Finish
	usage   *tasks.Usage
	says    string
	cause   CauseKind
	holds   []string
	uncut   bool
}

// rows reads every row of every kind.
func rows(t testing.TB) []row {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "answers", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatal("no rows", err)
	}
	var out []row
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		kind := strings.TrimSuffix(filepath.Base(file), ".txt")
		_, rest, _ := strings.Cut("\n"+string(b), "\n### ")
		for one := range strings.SplitSeq(rest, "\n### ") {
			r, err := readRow(kind, one)
			if err != nil {
				t.Fatalf("%s: %v in\n%s", file, err, one)
			}
			out = append(out, r)
		}
	}
	return out
}

func readRow(kind, s string) (r row, err error) {
	head, body, ok := strings.Cut(s, "\n---\n")
	lines := strings.Split(head, "\n")
	dialect, name, named := strings.Cut(lines[0], " | ")
	if r = (row{kind: kind, name: name, d: Dialect(dialect), header: http.Header{}}); !ok || !named || !r.d.Valid() || len(lines) < 2 {
		return r, fmt.Errorf("no row")
	}
	status, media, _ := strings.Cut(lines[1], " ")
	if r.status, err = strconv.Atoi(status); err != nil {
		return r, err
	}
	if media != "-" {
		r.header.Set("Content-Type", media)
	}
	r.body = []byte(body)
	for _, line := range lines[2:] {
		word, value, _ := strings.Cut(line, " ")
		switch word {
		case "=":
			r.outcome = tasks.Outcome(value)
		case "text":
			r.text, err = strconv.Unquote(value)
		case "finish":
			r.finish = tasks.Finish(value)
		case "usage":
			r.usage = &tasks.Usage{}
			_, err = fmt.Sscanf(value+" 0 0", "%d %d %d %d", &r.usage.InputTokens, &r.usage.OutputTokens, &r.usage.CacheReadInputTokens, &r.usage.CacheCreationInputTokens)
		case "says":
			r.says = value
		case "cause":
			r.cause = CauseKind(value)
		case "holds":
			r.holds = append(r.holds, value)
		case "uncut":
			r.uncut = true
		case "torn":
			r.torn = true
		case "escaped":
			var s string
			s, err = strconv.Unquote(`"` + strings.NewReplacer("\n", `\n`, `"`, `\"`).Replace(string(r.body)) + `"`)
			r.body = []byte(s)
		case "gzip":
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			_, _ = z.Write(r.body)
			_ = z.Close()
			r.body = b.Bytes()
		default:
			name, value, ok := strings.Cut(line, ": ")
			if !ok {
				return r, fmt.Errorf("the line %q", line)
			}
			r.header.Add(name, value)
		}
		if err != nil {
			return r, fmt.Errorf("the line %q: %w", line, err)
		}
	}
	return r, nil
}

// asked is what the provider's answer is taken for, body being the first bytes
// of it; and the text as it was told piece by piece.
func (r *row) asked(t testing.TB, body []byte) (a Answer, said string) {
	t.Helper()
	c, err := New(Config{Provider: Provider{Dialect: r.d, BaseURL: "http://provider.test", APIKey: testKey}, Client: &http.Client{Transport: answering(func() *http.Response {
		return &http.Response{StatusCode: r.status, Header: r.header, Body: io.NopCloser(&teller{bytes.NewReader(body), r.torn})}
	})}})
	if err != nil {
		t.Fatal(err)
	}
	q := ask("hi")
	var b strings.Builder
	q.OnText = func(s string) { b.WriteString(s) }
	a = c.Do(t.Context(), q)
	return a, b.String()
}

// answering is a connection on which one answer comes.
type answering func() *http.Response

func (f answering) RoundTrip(r *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	return f(), nil
}

// teller is a body; a torn one ends before its stated length.
type teller struct {
	io.Reader
	torn bool
}

func (b *teller) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF && b.torn {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// What providers and the servers before them were seen to send is taken for
// what it is.
func TestWhatProvidersSend(t *testing.T) {
	t.Parallel()
	all := rows(t)
	seen := map[string]bool{}
	for _, r := range all {
		name := r.kind + "/" + string(r.d) + "/" + r.name
		if seen[name] {
			t.Errorf("two rows %s", name)
		}
		seen[name] = true
		t.Run(name, func(t *testing.T) {
			a, said := r.asked(t, r.body)
			if a.Outcome != r.outcome || a.Finish != r.finish || tasks.ResultText(a.Result) != r.text {
				t.Errorf("got %s, finish %q, text %q, %q\nwant %s, finish %q, text %q", a.Outcome, a.Finish, tasks.ResultText(a.Result), a.Message, r.outcome, r.finish, r.text)
			}
			if a.Cause.Kind != r.cause {
				t.Errorf("cause %q, %q; want %q", a.Cause.Kind, a.Cause.Detail, r.cause)
			}
			for _, part := range r.holds {
				if !bytes.Contains(a.Result, []byte(part)) {
					t.Errorf("result\n%s\nwant in it\n%s", a.Result, part)
				}
			}
			if !strings.Contains(a.Message, r.says) || len(a.Message) > maxMessage {
				t.Errorf("says %q, want %q in it", a.Message, r.says)
			}
			for _, status := range []string{strconv.Itoa(r.status), http.StatusText(r.status)} {
				said := func(s string) int { return strings.Count(strings.ToLower(s), strings.ToLower(status)) }
				if status != "" && said(a.Message) > max(1, said(string(r.body))) {
					t.Errorf("says %q twice: %q", status, a.Message)
				}
			}
			if r.usage != nil && (a.Usage == nil || *a.Usage != *r.usage) || r.usage == nil && a.Usage != nil {
				t.Errorf("usage: got %+v, want %+v", a.Usage, r.usage)
			}
			if ok := a.Outcome == tasks.Succeeded; ok != (a.Result != nil) || ok == (a.Message != "") || ok && said != r.text {
				t.Errorf("%s with result %s, message %q, and the text was told as %q", a.Outcome, a.Result, a.Message, said)
			}
		})
	}
	t.Logf("%d rows", len(all))
	if len(all) < 150 {
		t.Errorf("only %d rows", len(all))
	}
}

// Wherever an answer ends early, it is either no success or the whole answer: its
// last mark alone may be missing.
func TestAnAnswerCutAnywhereIsNoSuccess(t *testing.T) {
	t.Parallel()
	var cuts atomic.Int64
	t.Cleanup(func() {
		if n := cuts.Load(); n < 10_000 && !t.Failed() {
			t.Errorf("only %d cuts", n)
		}
	})
	all := rows(t)
	for _, name := range []string{"anthropic/text", "anthropic/rich", "openai/text", "openai/tools"} {
		d, _, _ := strings.Cut(name, "/")
		_, body, _ := bytes.Cut(fixture(t, name+".http"), []byte("\r\n\r\n"))
		all = append(all, row{kind: "fixture", name: name, d: Dialect(d), status: 200, header: http.Header{"Content-Type": {"text/event-stream"}}, body: body, outcome: tasks.Succeeded})
	}
	for i, r := range all {
		if r.outcome != tasks.Succeeded || r.uncut {
			continue
		}
		t.Run(r.kind+" "+r.name, func(t *testing.T) {
			t.Parallel()
			whole, _ := r.asked(t, r.body)
			for cut := range len(bytes.TrimRight(r.body, " \t\r\n")) {
				step := 3 // answers of one kind have their ends in common; each has another third of them cut
				if cut > 40 && cut < len(r.body)-200 {
					step = 29
				}
				if (cut+i)%step != 0 {
					continue
				}
				a, _ := r.asked(t, r.body[:cut])
				cuts.Add(1)
				if a.Outcome != tasks.Succeeded {
					if a.Result != nil || a.Message == "" || !a.MaybeBilled {
						t.Fatalf("cut at %d: %s, result %s, %q, maybe billed %v", cut, a.Outcome, a.Result, a.Message, a.MaybeBilled)
					}
					continue
				}
				if tasks.ResultText(a.Result) != tasks.ResultText(whole.Result) || a.Finish != whole.Finish || bytes.Contains(a.Result, []byte("tool_calls")) && !bytes.Equal(a.Result, whole.Result) {
					t.Fatalf("cut at %d of %d succeeded with\n%s\nthe whole answer is\n%s", cut, len(r.body), a.Result, whole.Result)
				}
			}
		})
	}
}
