package main

import (
	"io"
	"os"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-isatty"
)

// screenHelp is what the commands say that print a model's text.
const screenHelp = "A file or a pipe gets the text as it is. On a terminal control characters are shown as pictures of them."

// screen is a terminal that obeys nothing of what it shows: what a model, a
// provider or a caller wrote may hold sequences that move the cursor, change the
// window's title or read the keyboard. A file and a pipe get every byte as it is.
type screen struct {
	inTurn
	part []byte // of a character whose rest has not come
}

// inTurn is a stream that the log and a command write to by turns.
type inTurn struct {
	mu sync.Mutex
	to io.Writer
}

func (w *inTurn) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}

// shown is the stream as a reader sees it: a screen where it is a terminal.
func shown(stream io.Writer) io.Writer {
	if f, ok := stream.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		return &screen{inTurn: inTurn{to: stream}}
	}
	return &inTurn{to: stream}
}

// Write shows control characters, but for line breaks and tabs, as their pictures
// (U+2400), and those of the second set and of the order of writing as U+FFFD.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := append(s.part, p...)
	s.part = nil
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		if !utf8.FullRune(b) {
			s.part = append([]byte(nil), b...)
			break
		}
		r, n := utf8.DecodeRune(b)
		switch {
		case r == '\n' || r == '\t':
			out = append(out, byte(r))
		case r == '\r' && len(b) > 1 && b[1] == '\n': // the line break of the other kind
		case r < ' ':
			out = utf8.AppendRune(out, 0x2400+r)
		case r == 0x7f:
			out = utf8.AppendRune(out, 0x2421)
		case r >= 0x80 && r < 0xa0, unicode.Is(unicode.Bidi_Control, r):
			out = utf8.AppendRune(out, utf8.RuneError)
		default:
			out = utf8.AppendRune(out, r)
		}
		b = b[n:]
	}
	if _, err := s.to.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// terminal reports whether somebody sits at the other end of a stream.
func terminal(stream any) bool {
	_, ok := stream.(*screen)
	return ok
}

// rawTerminal is the terminal itself, for what this program wants it to obey.
func rawTerminal(stream io.Writer) io.Writer {
	if s, ok := stream.(*screen); ok {
		return &s.inTurn
	}
	return stream
}
