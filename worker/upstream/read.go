package upstream

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

const (
	// maxErrorBody caps what is read of an error's body; the rest is not needed.
	maxErrorBody = 64 << 10
	// maxRefusal is the longest body of an error that is kept whole.
	maxRefusal = 16 << 10
	// drainWait and maxDrain bound what is spent to give a connection back whole.
	drainWait = 250 * time.Millisecond
	maxDrain  = 64 << 10
)

// assembler puts a dialect's stream together.
type assembler interface {
	// event takes one event in and reports whether it was the closing one.
	event(kind string, data []byte) (done bool, err error)
	// ended reports whether the answer is whole though the closing event is missing.
	ended() bool
	// grown is about how many bytes the result has so far, never much less.
	grown() int
	// counted returns the usage, the input charged, and whether both are final.
	counted() (tasks.Usage, int64, bool)
	// served returns how the provider says that it serves the call.
	served() tasks.Served
	result() ([]byte, error)
	// instead returns what the provider has said so far in place of an answer, or
	// nil; it is asked for when no answer came.
	instead() *providerError
}

// read takes in an answer with a 2xx status.
func (c *Caller) read(ctx context.Context, cancel context.CancelFunc, ask Ask, resp *http.Response, a *Answer) {
	err := c.take(ask, resp, a)
	if err == nil {
		a.Outcome = tasks.Succeeded
		drain(cancel, resp.Body)
		return
	}
	a.MaybeBilled = true
	var instead *providerError
	if errors.As(err, &instead) {
		p := instead.problem
		if p.message == "" && instead.came != "" {
			p.message = fmt.Sprintf("the provider answered %d with %s", resp.StatusCode, instead.came)
		}
		if words := excerpt(c.redact.body(instead.body)); words != "" {
			p.message += ": " + words
		}
		c.explain(a, p, instead.status, nil, serverTime(resp.Header, c.now()))
		if instead.strange {
			a.Cause = stranger(resp, nil)
			a.Cause.Message = a.Message
		}
		return
	}
	unread(ctx, resp, a, err)
}

// take reads an answer by its first byte: what a server calls its answer is
// often wrong, and what it sends is not.
func (c *Caller) take(ask Ask, resp *http.Response, a *Answer) error {
	r, err := plain(resp)
	if err != nil {
		return err
	}
	head, err := opening(r)
	if err != nil {
		return err
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch first := head[0]; {
	case first == '{':
		return c.readWhole(ask, r, a)
	case eventField.Match(head), media == "text/event-stream" && first != '<' && first != '[':
		return c.readStream(ask, r, a)
	}
	came, _ := io.ReadAll(io.LimitReader(r, maxErrorBody)) // what there is of it is enough
	if said := stated(bytes.TrimSpace(came), ""); head[0] == '[' && said.stated {
		return said
	}
	return &strangerError{c.redact.body(came)}
}

// unread classifies an answer that could not be read to its end.
func unread(ctx context.Context, resp *http.Response, a *Answer, err error) {
	var netErr net.Error
	var strange *strangerError
	switch {
	case errors.Is(err, errTooLarge):
		a.Outcome, a.Message = tasks.TooLarge, tooLargeMessage
	case cutShort(ctx, a):
	case errors.As(err, &strange):
		a.Outcome = tasks.ServerError
		a.blame(stranger(resp, strange.came))
	case errors.Is(err, errEncoded):
		a.Outcome = tasks.ServerError
		a.blame(encoded(resp))
	case errors.Is(err, errMalformed):
		a.Outcome, a.Message = tasks.CutOff, "the answer broke off or does not fit the dialect"
	case errors.As(err, &netErr) && netErr.Timeout():
		a.Outcome, a.Message = tasks.Timeout, "no complete answer in time"
	default:
		a.Outcome, a.Message = tasks.CutOff, "the answer ended before its closing event"
		if cause, ok := wayside(err); ok {
			a.blame(cause)
		}
	}
}

// strangerError is an answer that is neither an object nor a stream.
type strangerError struct{ came []byte }

func (e *strangerError) Error() string { return "not an answer of the API" }

// errEncoded is an answer in a coding that is not read.
var errEncoded = errors.New("a content coding that was not asked for")

// plain returns the body without a byte order mark, and unpacked: some servers
// compress whatever they are asked for, and say so or not.
func plain(resp *http.Response) (*bufio.Reader, error) {
	r := bufio.NewReader(resp.Body)
	first, _ := r.Peek(3) // an error comes again when it is read
	switch coding := strings.ToLower(resp.Header.Get("Content-Encoding")); {
	case bytes.HasPrefix(first, []byte("\x1f\x8b")):
		unpacked, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = bufio.NewReader(unpacked)
		first, _ = r.Peek(3) // as above
	case coding == "br", coding == "zstd", coding == "deflate", coding == "compress":
		return nil, errEncoded
	}
	if bytes.HasPrefix(first, []byte("\xef\xbb\xbf")) {
		_, _ = r.Discard(3) // it has been read
	}
	return r, nil
}

// eventField is how a stream head: with a comment or one of its fields.
var eventField = regexp.MustCompile(`^(data|event|id|retry)?:`)

// opening returns the first bytes that are not white space, and consumes none.
func opening(r *bufio.Reader) ([]byte, error) {
	for n := 1; ; n++ {
		b, err := r.Peek(n)
		if err != nil {
			return nil, err
		}
		switch b[n-1] {
		case ' ', '\t', '\r', '\n':
		default:
			if strings.IndexByte("deir", b[n-1]) >= 0 {
				b, _ = r.Peek(n + len("retry")) // what there is of it
			}
			return b[n-1:], nil
		}
	}
}

// drain reads what follows the closing event, normally nothing but the end, so
// that the connection can be used again.
func drain(cancel context.CancelFunc, r io.Reader) {
	patience := time.AfterFunc(drainWait, cancel)
	defer patience.Stop()
	_, _ = io.CopyN(io.Discard, r, maxDrain) // the answer is complete whatever comes
}

// readStream assembles the result from a stream.
func (c *Caller) readStream(ask Ask, r io.Reader, a *Answer) error {
	var asm assembler
	var started func(inputTokens int64)
	if ask.OnStart != nil {
		started = func(inputTokens int64) { ask.OnStart(inputTokens, a.Rates) }
	}
	switch {
	case c.provider.Dialect != OpenAI:
		asm = &messageStream{onText: ask.OnText, onTick: started}
	case ask.Question.request.Endpoint == tasks.Responses:
		asm = &responseStream{onText: ask.OnText, onTick: started}
	default:
		asm = &completionStream{onText: ask.OnText, onTick: started, most: ask.Question.choices()}
	}
	defer func() {
		usage, charged, final := asm.counted()
		a.ChargedInput = charged
		if final {
			a.Usage, a.Served = &usage, asm.served()
		}
	}()
	stream := newEvents(r, int(min(c.maxResult, 1<<30))+(64<<10))
	stream.keep = ask.events != nil
	result, err := c.assemble(ask, stream, asm)
	if err == nil {
		finish, e := judge(c.provider.Dialect, ask.Question.request.Endpoint, result)
		if e == nil && !asm.ended() {
			e = asm.instead() // the closing event alone also closes what was given up, with an error in an envelope of its own
		}
		if e == nil {
			a.Result, a.Finish = result, finish
			ask.events.close(stream)
			return nil
		}
		err = e
	}
	var vague *providerError
	switch {
	case errors.As(err, &vague) && !vague.stated,
		errors.Is(err, errMalformed), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		if e := asm.instead(); e != nil {
			return e
		}
	}
	return err
}

// assemble reads a stream up to its closing event, or to a clean end at which the
// answer is whole.
func (c *Caller) assemble(ask Ask, stream *events, asm assembler) ([]byte, error) {
	large := false
	for {
		done, err := read(ask, stream, asm)
		if err != nil {
			return nil, err
		}
		if int64(asm.grown()) > c.maxResult {
			return nil, errTooLarge
		}
		if !large && asm.grown() > SmallBytes {
			if large = true; ask.OnLarge != nil {
				if err := ask.OnLarge(); err != nil {
					return nil, err
				}
			}
		}
		if !done {
			continue
		}
		result, err := asm.result()
		if err == nil && int64(len(result)) > c.maxResult {
			return nil, errTooLarge
		}
		return result, err
	}
}

// read takes in one event, and reports whether the answer is whole.
func read(ask Ask, stream *events, asm assembler) (done bool, err error) {
	kind, data, err := stream.next()
	if errors.Is(err, io.EOF) && asm.ended() {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	done, err = asm.event(kind, data)
	switch said := (*providerError)(nil); {
	case errors.As(err, &said):
		ask.events.fail(stream)
	case err == nil && !done:
		ask.events.add(stream)
	}
	return done, err
}

// roomy is a reader that asks for room once more than SmallBytes are to be read.
type roomy struct {
	r    io.Reader
	room func() error // nil: there is enough, or it has been asked for
	n    int
}

// Read reads once there is room.
func (r *roomy) Read(p []byte) (int, error) {
	if r.room != nil && r.n+len(p) > SmallBytes {
		if r.n < SmallBytes {
			p = p[:SmallBytes-r.n]
		} else {
			room := r.room
			r.room = nil
			if err := room(); err != nil {
				return 0, err
			}
		}
	}
	n, err := r.r.Read(p)
	r.n += n
	return n, err
}

// readWhole takes an answer that came as one JSON object, byte for byte.
func (c *Caller) readWhole(ask Ask, r io.Reader, a *Answer) error {
	body, err := io.ReadAll(&roomy{r: io.LimitReader(r, c.maxResult+1), room: ask.OnLarge})
	if err != nil {
		return err
	}
	if int64(len(body)) > c.maxResult {
		return errTooLarge
	}
	shape, err := outlined(body)
	if errors.Is(err, errTrailing) {
		return c.readLines(ask, body, a)
	}
	if err != nil {
		return errMalformed
	}
	shape.endpoint = ask.Question.request.Endpoint
	if c.provider.Dialect == OpenAI {
		if u, charged, ok := shape.counted(); ok {
			a.Usage, a.ChargedInput, a.Served = &u, charged, servedAt(shape.tier)
		}
	} else {
		m := &messageStream{}
		if m.count(shape.usage, true) == nil {
			if u, charged, ok := m.counted(); ok {
				a.Usage, a.ChargedInput, a.Served = &u, charged, m.served()
			}
		}
	}
	if ask.OnStart != nil && a.Usage != nil {
		ask.OnStart(a.ChargedInput, a.Rates)
	}
	if e := shape.judge(c.provider.Dialect, body); e != nil {
		return e
	}
	if ask.OnText != nil {
		if s := tasks.ResultText(body); s != "" {
			ask.OnText(s)
		}
	}
	a.Result, a.Finish = body, shape.finish(c.provider.Dialect)
	return nil
}

// readLines takes a stream whose events came as JSON values one after the other, as
// lines without "data:" are. One that does not even begin as the dialect's is of
// another API.
func (c *Caller) readLines(ask Ask, body []byte, a *Answer) error {
	first, stream := asEvents(body)
	err := c.readStream(ask, bytes.NewReader(stream), a)
	var said *providerError
	if err == nil || errors.As(err, &said) && said.stated {
		return err
	}
	if _, e := judge(c.provider.Dialect, ask.Question.request.Endpoint, first); e != nil && e.strange {
		return e
	}
	return err
}

// asEvents returns the first of the JSON values in body, and all of them as
// server-sent events; what is no JSON at the end is one more.
func asEvents(body []byte) (first, stream []byte) {
	for rest := body; ; {
		dec := jsontext.NewDecoder(bytes.NewBuffer(rest), lenient)
		v, err := dec.ReadValue()
		if err != nil {
			if rest = bytes.TrimSpace(rest); len(rest) > 0 {
				stream = append(append(stream, "data: "...), rest...)
			}
			return first, stream
		}
		rest = rest[dec.InputOffset():]
		if err := v.Compact(lenient); err != nil {
			return first, stream
		}
		if first == nil {
			first = bytes.Clone(v)
		}
		stream = append(append(append(stream, "data: "...), v...), "\n\n"...)
	}
}

// cutShort sets the outcome of a call whose context is over.
func cutShort(ctx context.Context, a *Answer) bool {
	switch err := ctx.Err(); {
	case err == nil:
		return false
	case errors.Is(err, context.DeadlineExceeded):
		a.Outcome, a.Message = tasks.Timeout, "no complete answer in time"
	default:
		a.Outcome, a.Message = tasks.CallCanceled, "the call was cut off"
	}
	return true
}
