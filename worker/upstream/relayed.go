package upstream

import (
	"bytes"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// relayed tells the events of a stream as they come. Its methods do nothing on nil:
// nobody is told then.
//
// Our key is taken out of each event, and out of texts that come in pieces: an event
// whose text may end with the beginning of the key waits for what follows.
type relayed struct {
	redact redactor
	to     func(raw []byte)
	left   int64 // bytes that may be told yet
	usage  bool  // a chunk with nothing but the count of tokens is told as well

	told   bool // something was
	closed bool // all was
	texts  map[string]*heard
	held   []event
}

// toldMost is how many bytes of events are told of an answer of at most so many bytes. A
// piece of a few letters stands in an event of hundreds of bytes. Redis keeps them in one
// string, which ends at 512 MiB.
func toldMost(result int64) int64 { return max(result, min(8*min(result, 1<<30), 256<<20)) }

// mostQuiet is how many events wait for a text that does not go on: it has ended then.
const mostQuiet = 16

// heard is a text as far as it was heard.
type heard struct {
	*scan
	quiet int // events since it went on
}

// event is one that waits.
type event struct {
	raw, data []byte
	kind      string
	pieces    []piece
}

// piece is what stands in one string of an event's data that adds to a text.
type piece struct {
	text       string // which one
	start, end int    // in the data
}

// all reports whether the stream was told to its end.
func (r *relayed) all() bool { return r != nil && r.closed }

// add takes in the event that s has read last.
func (r *relayed) add(s *events) {
	if r == nil || !r.usage && onlyUsage(s.data) {
		return
	}
	if len(r.redact.words) == 0 {
		r.tell(s.raw)
		return
	}
	e := r.clean(s)
	e.pieces = piecesOf(e.data)
	r.held = append(r.held, e)
	r.listen(e.pieces)
	for _, t := range r.texts {
		if len(t.held) == 0 && len(t.letters) == 0 {
			continue
		}
		if t.quiet++; t.quiet <= mostQuiet {
			return
		}
		t.end()
		t.out = t.out[:0]
	}
	r.give()
}

// close takes in the closing event, or the end without one, of a stream that is an answer.
func (r *relayed) close(s *events) {
	if r == nil {
		return
	}
	r.give()
	if s.has {
		r.tell(r.clean(s).raw)
	}
	r.closed = r.left >= 0
}

// fail takes in the provider's own error. Before any other event it is told to nobody,
// for another attempt may follow.
func (r *relayed) fail(s *events) {
	if r == nil || !r.told || len(s.raw) == 0 {
		return
	}
	r.held = nil // it may be the beginning of the key
	r.tell([]byte(redactKeys(string(r.clean(s).raw))))
	r.closed = r.left >= 0
}

func (r *relayed) tell(raw []byte) {
	if r.left -= int64(len(raw)); r.left < 0 {
		r.left = -1 // for good
		return
	}
	r.told = true
	r.to(raw)
}

// give tells all that waits.
func (r *relayed) give() {
	for _, e := range r.held {
		r.tell(e.raw)
	}
	r.held = r.held[:0]
}

// clean returns a copy of an event without our key in any of its strings.
func (r *relayed) clean(s *events) event {
	e := event{raw: bytes.Clone(s.raw), data: bytes.Clone(s.data), kind: string(s.kind)}
	if r.redact.clear(e.raw) {
		return e
	}
	data := r.redact.result(e.data)
	spoilt := !bytes.Equal(data, e.data)
	for _, w := range r.redact.words {
		spoilt = spoilt || bytes.Contains(e.raw, w.text)
	}
	if spoilt {
		for _, w := range r.redact.words {
			data = bytes.ReplaceAll(data, w.text, []byte(mask)) // outside of strings
		}
		e.rewrite(data)
		e.kind = r.redact.text(e.kind)
	}
	return e
}

// rewrite gives an event other data.
func (e *event) rewrite(data []byte) {
	e.data, e.raw = data, nil
	if e.kind != "" {
		e.raw = append(append(append(e.raw, "event: "...), e.kind...), '\n')
	}
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		e.raw = append(append(append(e.raw, "data: "...), line...), '\n')
	}
	e.raw = append(e.raw, '\n')
}

// listen reads the pieces of the event that came last. A text in which they complete
// the key is written anew.
func (r *relayed) listen(pieces []piece) {
	last := &r.held[len(r.held)-1]
	for _, p := range pieces {
		t := r.texts[p.text]
		if t == nil {
			if r.texts == nil {
				r.texts = map[string]*heard{}
			}
			t = &heard{scan: r.redact.scan()}
			r.texts[p.text] = t
		}
		t.found, t.quiet = false, 0
		t.inside(last.data[p.start:p.end])
		t.give()
		if t.out = t.out[:0]; t.found {
			r.mask(p.text)
		}
	}
}

// mask writes a text anew in all events that wait: the first piece gets it whole,
// without the key, and the others none.
func (r *relayed) mask(text string) {
	s := r.redact.scan()
	for _, e := range r.held {
		for _, p := range e.pieces {
			if p.text == text {
				s.inside(e.data[p.start:p.end])
			}
		}
	}
	s.end()
	rest := s.out
	for i := range r.held {
		e := &r.held[i]
		var out []byte
		copied := 0
		for _, p := range e.pieces {
			if p.text == text {
				out = append(append(out, e.data[copied:p.start]...), rest...)
				rest, copied = nil, p.end
			}
		}
		if copied > 0 {
			e.rewrite(append(out, e.data[copied:]...))
			e.pieces = piecesOf(e.data)
		}
	}
}

// adds is where the strings stand that add to a text: all of a delta but its labels.
var (
	adds        = regexp.MustCompile(`^(/choices/\d+/message|(/choices/\d+)?/delta)/|^/delta$|^/content_block/(text|thinking)$`)
	labels      = regexp.MustCompile(`/(type|role|id)$`)
	choiceIndex = regexp.MustCompile(`^/choices/[^/]*/index$`)
)

// piecesOf returns the pieces of texts in an event's data, in order. Those of a choice of
// OpenAI's, or of an item of a response, belong to its texts alone.
func piecesOf(data []byte) (all []piece) {
	if jsontext.Value(data).Kind() != '{' {
		return nil
	}
	dec := jsontext.NewDecoder(bytes.NewReader(data), lenient)
	index, item := "", ""
	for {
		if kind := dec.PeekKind(); kind != '"' && kind != '0' {
			if _, err := dec.ReadToken(); err != nil {
				return all // the end
			}
			continue
		}
		v, err := dec.ReadValue()
		if err != nil {
			return all
		}
		if kind, n := dec.StackIndex(dec.StackDepth()); kind == '{' && n%2 == 1 {
			continue // a name
		}
		at := string(dec.StackPointer())
		if v.Kind() == '0' {
			if choiceIndex.MatchString(at) {
				index = string(v)
			}
			continue
		}
		switch {
		case at == "/item_id":
			item = string(v)
			for i := range all {
				all[i].text += item
			}
		case adds.MatchString(at) && !labels.MatchString(at):
			end := int(dec.InputOffset())
			all = append(all, piece{textOf(at, index) + item, end - len(v) + 1, end - 1})
		}
	}
}

// textOf is the text that the string at a pointer adds to, in a choice of that index.
func textOf(at, index string) string {
	if choice, inside := strings.CutPrefix(at, "/choices/"); inside {
		at = index + choice[strings.IndexByte(choice, '/'):]
	}
	return strings.Replace(at, "/content_block/", "/delta/", 1)
}

// onlyUsage reports whether a chunk of a completion brings nothing but the count of tokens.
func onlyUsage(data []byte) bool {
	usage, choices := false, true
	err := eachMember(data, func(name string, v jsontext.Value, _, _ int) error {
		switch name {
		case "usage":
			usage = v.Kind() == '{'
		case "choices":
			choices = false
			return eachElement(v, func(jsontext.Value) error { choices = true; return nil })
		}
		return nil
	})
	return err == nil && usage && !choices
}
