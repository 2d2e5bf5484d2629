package upstream

import (
	"bytes"
	"strconv"
	"strings"
)

const (
	mask = "[key]"
	// none is no byte of a key.
	none = 0xff
	// maxSlashes is up to how many backslashes in a row are taken for an escape's:
	// a JSON string inside a JSON string doubles them.
	maxSlashes = 16
	// scanAtOnce is how many bytes wait until they are given on together.
	scanAtOnce = 512
)

// scan reads a text that comes in pieces, and gives it on without the words. A
// backslash counts for nothing, and a byte's \u escape for that byte: the text
// may be JSON, as a tool's arguments are, and somebody will read it as that.
//
// Nothing is held but an end that may become a word. Time is linear.
type scan struct {
	words []word
	at    []int  // how much of each word the end of what is held spells
	out   []byte // to be given on
	held  []byte
	found bool  // a word, since this was last set to false
	from  []int // where each byte of the text begins in held: an escape is longer

	escape  []byte // as it came: what may be an escape
	letters []byte // its bytes of the text: backslashes first
	starts  []int  // of each in escape
	slashes int
}

func (r redactor) scan() *scan { return &scan{words: r.words, at: make([]int, len(r.words))} }

// read takes in the next byte of the text, which came as raw.
func (s *scan) read(c byte, raw []byte) {
	switch {
	case len(s.letters) == 0 && c != '\\':
		s.put(c, raw)
		return
	case len(s.letters) == s.slashes && c != '\\' && c != 'u': // a letter after backslashes
		s.put(c, append(s.escape, raw...))
		s.forget()
		return
	case len(s.letters) == s.slashes && c == '\\' && s.slashes < maxSlashes:
		s.slashes++
	case len(s.letters) == s.slashes && c == 'u':
	case len(s.letters) > s.slashes && hex(c):
	default:
		s.literally()
		s.read(c, raw)
		return
	}
	s.letters, s.starts = append(s.letters, c), append(s.starts, len(s.escape))
	s.escape = append(s.escape, raw...)
	if digits := s.letters[s.slashes:]; len(digits) == len("u0000") {
		s.put(codePoint(digits[1:]), s.escape)
		s.forget()
	}
}

// literally puts what was no escape.
func (s *scan) literally() {
	letters := s.letters[s.slashes:]
	if len(letters) == 0 && s.slashes > 0 {
		s.put(none, s.escape)
	}
	for i, c := range letters {
		begin, end := 0, len(s.escape)
		if i > 0 {
			begin = s.starts[s.slashes+i]
		}
		if i+1 < len(letters) {
			end = s.starts[s.slashes+i+1]
		}
		s.put(c, s.escape[begin:end])
	}
	s.forget()
}

func (s *scan) forget() {
	s.escape, s.letters, s.starts, s.slashes = s.escape[:0], s.letters[:0], s.starts[:0], 0
}

func (s *scan) put(c byte, raw []byte) {
	s.from = append(s.from, len(s.held))
	s.held = append(s.held, raw...)
	found := 0
	for i := range s.words {
		w := &s.words[i]
		s.at[i] = w.next(s.at[i], c)
		if s.at[i] == len(w.text) {
			found = max(found, s.at[i])
		}
	}
	switch {
	case found > 0:
		s.found = true
		s.out = append(append(s.out, s.held[:s.from[len(s.from)-found]]...), mask...)
		s.held, s.from = s.held[:0], s.from[:0]
		clear(s.at)
	case len(s.from) > len(s.words[0].text)*4+scanAtOnce:
		s.give()
	}
}

// give gives on what is no beginning of a word.
func (s *scan) give() {
	keep := 0
	for _, k := range s.at {
		keep = max(keep, k)
	}
	sure := len(s.from) - keep
	end := len(s.held)
	if keep > 0 {
		end = s.from[sure]
	}
	s.out = append(s.out, s.held[:end]...)
	s.held = append(s.held[:0], s.held[end:]...)
	s.from = append(s.from[:0], s.from[sure:]...)
	for i := range s.from {
		s.from[i] -= end
	}
}

// end gives on all that is held: the text is over.
func (s *scan) end() {
	s.literally()
	s.out = append(s.out, s.held...)
	s.held, s.from = s.held[:0], s.from[:0]
	clear(s.at)
}

// clear reports whether nothing of a text needs a closer look.
func (r redactor) clear(text []byte) bool {
	if bytes.IndexByte(text, '\\') >= 0 {
		return len(r.words) == 0
	}
	for i := range r.words {
		if bytes.Contains(text, r.words[i].text) {
			return false
		}
	}
	return true
}

// text returns s without our key.
func (r redactor) text(s string) string {
	b := []byte(s)
	if r.clear(b) {
		return s
	}
	scan := r.scan()
	for i, c := range b {
		scan.read(c, b[i:i+1])
	}
	scan.end()
	return string(scan.out)
}

// result returns a JSON document without our key in any of its strings, and every
// other byte of it as it is.
func (r redactor) result(doc []byte) []byte {
	if r.clear(doc) {
		return doc
	}
	s := r.scan()
	s.out = make([]byte, 0, len(doc))
	for rest := doc; len(rest) > 0; {
		open := bytes.IndexByte(rest, '"') + 1
		if open == 0 {
			open = len(rest)
		}
		s.out = append(s.out, rest[:open]...)
		rest = rest[open:]
		end := 0
		for end < len(rest) && rest[end] != '"' {
			end += escaped(rest[end:])
		}
		if inside := rest[:end]; r.clear(inside) {
			s.out = append(s.out, inside...)
		} else {
			s.string(inside)
		}
		rest = rest[end:]
		if len(rest) > 0 {
			s.out, rest = append(s.out, '"'), rest[1:]
		}
	}
	return s.out
}

// escaped returns the length of the first byte or escape of what stands in a JSON string.
func escaped(s []byte) int {
	n := 1
	if s[0] == '\\' {
		n = 2
		if len(s) > 1 && s[1] == 'u' {
			n = len(`\u0000`)
		}
	}
	return min(n, len(s))
}

// string reads what stands in a JSON string.
func (s *scan) string(inside []byte) {
	s.inside(inside)
	s.end()
}

// inside reads a part of what stands in a JSON string.
func (s *scan) inside(inside []byte) {
	for len(inside) > 0 {
		n := escaped(inside)
		c := inside[0]
		if n > 1 {
			switch c = inside[1]; c {
			case '"', '\\', '/':
			case 'u':
				c = codePoint(inside[2:n])
			default:
				c = none // a control character
			}
		}
		s.read(c, inside[:n])
		inside = inside[n:]
	}
}

// codePoint returns the byte of an escape's digits, none for what is not ASCII.
func codePoint(digits []byte) byte {
	n, err := strconv.ParseUint(string(digits), 16, 32)
	if err != nil || n >= 0x80 {
		return none
	}
	return byte(n)
}

func hex(c byte) bool { return strings.IndexByte("0123456789abcdefABCDEF", c) >= 0 }

// telling gives a text on, piece by piece, without our key.
type telling struct {
	scan *scan // nil: there is no key
	to   func(string)
}

func (r redactor) stream(to func(string)) *telling {
	t := &telling{to: to}
	if len(r.words) > 0 {
		t.scan = r.scan()
	}
	return t
}

// add takes in the next piece.
func (t *telling) add(piece string) {
	if t.scan == nil {
		t.to(piece)
		return
	}
	b := []byte(piece)
	for i, c := range b {
		t.scan.read(c, b[i:i+1])
	}
	t.scan.give()
	t.tell()
}

// end tells what is held.
func (t *telling) end() {
	if t.scan != nil {
		t.scan.end()
		t.tell()
	}
}

func (t *telling) tell() {
	if out := string(t.scan.out); out != "" {
		t.scan.out = t.scan.out[:0]
		t.to(out)
	}
}
