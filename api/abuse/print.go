package abuse

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/bits"
	"unicode/utf8"
)

// hashes is how many minima of a text's word 3-grams are kept.
const (
	hashes = 32
	// maxPrinted bounds what is read of a text: its first half and its last, in bytes.
	maxPrinted = 3 << 10
)

// A Print is what is kept of a prompt for a while: keyed hashes, from which nothing of it can
// be read, and which say nothing to who has another key.
type Print struct {
	Exact    uint64       // of the text, without case and spacing
	Template uint64       // of the text with numbers, addresses and quotations left out
	Min      [hashes]byte // MinHash of word 3-grams, the low byte of each; a text of fewer words has what it has
	Length   uint8        // in words, by eighths of a power of two
}

// Key keys the hashes of one tenant: prints of two tenants cannot be compared.
type Key struct{ seed, mix uint64 }

// NewKey derives a tenant's key from a secret of the deployment. Tenants of two secrets have
// nothing in common.
func NewKey(secret []byte, tenant string) Key {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("abuse\x00" + tenant))
	sum := h.Sum(nil)
	return Key{binary.LittleEndian.Uint64(sum), binary.LittleEndian.Uint64(sum[8:]) | 1}
}

// Hash is the keyed hash of a name, such as an address or a token's id.
func (k Key) Hash(name string) uint64 {
	h, by := k.seed, k.by()
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * by
	}
	return finish(h ^ k.mix)
}

// by is what a hash is multiplied by with each byte, and finish spreads it. Neither is
// cryptographic: the seed is secret, and what comes of it stays inside.
func (k Key) by() uint64 { return k.mix&^0xff | 0x1b3 }

func finish(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// Of is the print of a prompt, which may be the JSON that carries it. It reads at most the
// first and last 1.5 KiB, and allocates nothing.
func (k Key) Of(text []byte) Print {
	p := printer{k: k, exact: k.seed, template: k.seed ^ 0x9e3779b97f4a7c15}
	for i := range p.least {
		p.least[i] = ^uint64(0)
	}
	if len(text) <= maxPrinted {
		p.read(text)
	} else {
		p.read(text[:maxPrinted/2])
		p.read(text[len(text)-maxPrinted/2:])
		p.exact ^= uint64(len(text))
	}
	return p.print()
}

// printer reads a text word by word.
type printer struct {
	k               Key
	exact, template uint64
	last            [3]uint64 // words
	words, run      int       // read, and of the JSON string under way
	least           [hashes]uint64
}

func (p *printer) read(text []byte) {
	word, digits, at := p.k.seed, false, false
	length := 0
	end := func() {
		if length > 0 {
			p.word(finish(word), digits, at)
		}
		word, digits, at, length = p.k.seed, false, false, 0
	}
	quoted, by := false, p.k.by()
	for i := 0; i < len(text); i++ {
		c := text[i]
		if isLetter(c) { // most are: nothing else is asked of them
			word = (word ^ uint64(c)) * by
			length++
			continue
		}
		switch {
		case isUpper(c):
			c += 'a' - 'A'
		case isDigit(c):
			digits = true
		case c == '@', c == '/' && length > 0:
			at = true
		case joins(text[i:], at, digits):
		case c == '\\' && quotes(text[i:]):
			end()
			quoted = !quoted
			p.quote(quoted)
			i++
			continue
		case c == '\\':
			end()
			i++ // the letter of an escape is no word
			continue
		default:
			end()
			p.between(c)
			continue
		}
		word = (word ^ uint64(c)) * by
		length++
	}
	end()
	p.quote(false)
}

func isUpper(c byte) bool { return c >= 'A' && c <= 'Z' }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= utf8.RuneSelf }

// joins reports whether a number or an address goes on behind the mark that rest begins with.
func joins(rest []byte, at, digits bool) bool {
	if !at && !digits || len(rest) < 2 || rest[1]|0x20 < '0' || rest[1] == '"' {
		return false
	}
	return rest[0] == '.' || rest[0] == '-' || rest[0] == '_' || rest[0] == ':'
}

// quotes reports whether rest begins with a quotation inside JSON.
func quotes(rest []byte) bool { return len(rest) > 1 && rest[1] == '"' }

// between ends a JSON string: what many bodies have in common, names and roles, makes no 3-gram.
func (p *printer) between(c byte) {
	if c == '"' {
		p.run = 0
	}
}

// quoteMark is the state of a quotation: inside of one words do not count to the template.
const quoteMark = 1 << 30

func (p *printer) quote(open bool) {
	if open {
		p.words |= quoteMark
	} else {
		p.words &^= quoteMark
	}
}

func (p *printer) word(w uint64, digits, at bool) {
	p.exact = finish(p.exact ^ w)
	t := w
	if digits || at {
		t = 1
	}
	if p.words&quoteMark == 0 {
		p.template = finish(p.template ^ t)
	}
	p.last[0], p.last[1], p.last[2] = p.last[1], p.last[2], w
	p.words++
	if p.run++; p.run < 3 {
		return
	}
	// One permutation: each 3-gram has one hash, whose high bits say which of the minima it is for.
	h := finish(p.last[0] ^ bits.RotateLeft64(p.last[1], 21) ^ bits.RotateLeft64(p.last[2], 42))
	if bin, v := h>>59, h<<5; v < p.least[bin] {
		p.least[bin] = v
	}
}

func (p *printer) print() Print {
	out := Print{Exact: p.exact, Template: p.template, Length: uint8(8 * math.Log2(float64(1+p.words&^quoteMark)))}
	empty := true
	for _, v := range p.least {
		empty = empty && v == ^uint64(0)
	}
	for i, v := range p.least {
		// What no 3-gram fell to borrows from the next that has one, so that short texts compare too.
		for j := 1; v == ^uint64(0) && !empty; j++ {
			if w := p.least[(i+j)%hashes]; w != ^uint64(0) {
				v = finish(w + uint64(j))
			}
		}
		if empty {
			v = finish(p.exact + uint64(i))
		}
		out.Min[i] = byte(v >> 40)
	}
	return out
}

// near is how many of the minima have to be equal for two prompts to count as nearly the same: of
// two that have nothing in common fewer than one pair of ten thousand has so many, and of two that
// come of one by changing a fifth of its words in each most have.
const near = 4

// Shape is what is kept of a prompt to compare others with.
type Shape struct {
	Min    [hashes]byte
	Length uint8
}

// Near reports whether a prompt is nearly the same as one before: of about its length, which a
// conversation that goes on is not..
func (p *Print) Near(s *Shape) bool {
	if s.Length == 0 || p.Length > s.Length+1 || s.Length > p.Length+1 {
		return false
	}
	same := 0
	for i := range p.Min {
		if p.Min[i] == s.Min[i] {
			same++
		}
	}
	return same >= near
}
