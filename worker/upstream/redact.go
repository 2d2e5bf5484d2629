package upstream

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// maxMessage caps a message and what is told to operators, in bytes.
const maxMessage = 500

// maxID caps the provider's name of a call.
const maxID = 128

// minKey is the length below which a key is no secret, but a placeholder that a
// server of one's own asks for ("k", "none", "ollama"), and a part of other words.
const minKey = 8

// redactor takes our key out of what a provider said, however it spelt it: a
// gateway may echo what it was sent, in an error, in an id, and in the words that
// it has a model say.
type redactor struct{ words []word }

// word is a spelling of the key, with how much of it is spelt by the end of each
// of its beginnings, as Knuth, Morris and Pratt look for it.
type word struct {
	text []byte
	back []int
}

func newRedactor(key string) (r redactor) {
	if len(key) < minKey {
		return r
	}
	seen := map[string]bool{}
	for _, spelling := range []string{
		key, url.QueryEscape(key), url.PathEscape(key), base64.RawStdEncoding.EncodeToString([]byte(key)), base64.RawURLEncoding.EncodeToString([]byte(key)),
	} {
		spelling = strings.ReplaceAll(spelling, `\`, "") // see scan
		if spelling == "" || seen[spelling] {
			continue
		}
		seen[spelling] = true
		w := word{[]byte(spelling), make([]int, len(spelling)+1)}
		for i, k := 1, 0; i < len(spelling); i++ {
			k = w.next(k, spelling[i])
			w.back[i+1] = k
		}
		r.words = append(r.words, w)
	}
	return r
}

// next returns how much of the word is spelt when c comes after its first k bytes.
func (w *word) next(k int, c byte) int {
	for k > 0 && (k == len(w.text) || w.text[k] != c) {
		k = w.back[k]
	}
	if w.text[k] == c {
		k++
	}
	return k
}

// clean returns s without a key, as one line of at most n bytes. The key goes
// before the end is cut off, since a part of it may be enough.
func (r redactor) clean(s string, n int) string { return clip(redactKeys(r.text(s)), n) }

// body returns the body of an error without our key, before a part of it is cut out.
func (r redactor) body(b []byte) []byte { return []byte(r.text(string(b))) }

// pieceOf is where the pieces of a result's text stand, see [tasks.ResultText].
var pieceOf = regexp.MustCompile(`(?i)^/(content|choices/\d+/message/(content|refusal))(/\d+/text)?$`)

// joined returns a result whose text, joined from its pieces, holds no key that no
// piece holds by itself. The first piece gets the text then, and the others none.
func (r redactor) joined(doc []byte) []byte {
	if len(r.words) == 0 {
		return doc
	}
	said := tasks.ResultText(doc)
	rest := r.text(said)
	if rest == said {
		return doc
	}
	var out []byte
	copied := 0
	dec := jsontext.NewDecoder(bytes.NewReader(doc), lenient)
	for {
		if dec.PeekKind() != '"' {
			if _, err := dec.ReadToken(); err != nil {
				break // the end
			}
			continue
		}
		v, err := dec.ReadValue()
		if err != nil {
			break
		}
		kind, n := dec.StackIndex(dec.StackDepth())
		if kind == '{' && n%2 == 1 || !pieceOf.MatchString(string(dec.StackPointer())) {
			continue // a name, or no piece
		}
		end := int(dec.InputOffset())
		out = appendString(append(out, doc[copied:end-len(v)]...), rest)
		rest, copied = "", end
	}
	return append(out, doc[copied:]...)
}

// redactKeys blanks whatever looks like a key, masked or whole: providers
// quote the key that they refuse.
func redactKeys(s string) string {
	var b strings.Builder
	for {
		i := strings.Index(s, "sk-")
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		if i > 0 && keyByte(s[i-1]) { // inside a word, such as "risk-free"
			b.WriteString(s[:i+3])
			s = s[i+3:]
			continue
		}
		b.WriteString(s[:i])
		end := i + 3
		for end < len(s) && keyByte(s[end]) {
			end++
		}
		b.WriteString("[key]")
		s = s[end:]
	}
}

func keyByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '*'
}
