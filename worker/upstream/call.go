package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const (
	// maxErrorBody caps what is read of an error's body; the rest is not needed.
	maxErrorBody = 64 << 10
	// errorBodyWait bounds the wait for it: the status has already said most.
	errorBodyWait = 5 * time.Second
	// drainWait and maxDrain bound what is spent to give a connection back whole.
	drainWait = 250 * time.Millisecond
	maxDrain  = 64 << 10
)

// Do makes one call and says how it ended; every failure is an Outcome.
//
// A context that is cancelled makes it tasks.CallCanceled, and one whose
// deadline passed tasks.Timeout; why the context ended is for the caller to
// know. Do returns when the call is over or the context is.
func (c *Caller) Do(ctx context.Context, ask Ask) Answer {
	body, err := ask.Question.Body(&c.provider)
	if err != nil {
		return Answer{Outcome: tasks.Rejected, Message: err.Error()}
	}
	asked := &ask.Question.request
	if !printable(asked.Version) || !printable(asked.Beta) {
		return Answer{Outcome: tasks.Rejected, Message: "anthropic-version or anthropic-beta holds a character that no header may carry"}
	}

	callCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, sent, err := c.request(callCtx, asked, body)
	if err != nil {
		return Answer{Outcome: tasks.Rejected, Message: "the call cannot be built"}
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return unanswered(ctx, err, sent.whole.Load())
	}
	defer resp.Body.Close()

	a := c.begin(resp)
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		c.read(ctx, cancel, ask, resp, &a)
		return a
	}
	text, _ := readBriefly(resp.Body, maxErrorBody, cancel) // what there is of it is enough
	c.explain(&a, parseProblem(text), resp.StatusCode, a.HasRetryAfter, serverTime(resp.Header, a.HeadersAt))
	a.MaybeBilled = billable(resp.StatusCode)
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		a.blame(redirected(resp))
	}
	return a
}

// begin returns what the headers of an answer say.
func (c *Caller) begin(resp *http.Response) Answer {
	now := c.now()
	a := Answer{
		Status:      resp.StatusCode,
		RequestID:   parseRequestID(c.provider.Dialect, resp.Header),
		Rates:       parseRates(resp.Header, now),
		HeadersAt:   now,
		ShouldRetry: parseShouldRetry(resp.Header),
	}
	a.RetryAfter, a.HasRetryAfter = parseRetryAfter(resp.Header, now)
	return a
}

// readBriefly reads at most n bytes, and for no longer than errorBodyWait.
func readBriefly(r io.Reader, n int64, cancel context.CancelFunc) ([]byte, error) {
	defer time.AfterFunc(errorBodyWait, cancel).Stop()
	return io.ReadAll(io.LimitReader(r, n))
}

// request builds the one HTTP request of a call.
func (c *Caller) request(ctx context.Context, asked *tasks.Request, body []byte) (*http.Request, *outgoing, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, nil)
	if err != nil {
		return nil, nil, err
	}
	sent := &outgoing{}
	req.ContentLength = int64(len(body))
	// With GetBody the transport may move a request of which no byte was written
	// from a connection that turns out dead to another one. It never sends twice
	// what may have arrived, since a POST without an idempotency key is not replayed.
	req.GetBody = func() (io.ReadCloser, error) {
		sent.whole.Store(false)
		return &outgoingBody{rest: body, sent: sent}, nil
	}
	req.Body, _ = req.GetBody()

	h := req.Header
	h.Set("Content-Type", "application/json")
	if c.provider.NoStream {
		h.Set("Accept", "application/json")
	} else {
		h.Set("Accept", "text/event-stream, application/json")
	}
	h.Set("Accept-Encoding", "identity")
	c.sign(h, asked)
	return req, sent, nil
}

// sign sets the headers that say who asks, and in which version.
func (c *Caller) sign(h http.Header, r *tasks.Request) {
	h.Set("User-Agent", c.userAgent)
	key := c.provider.APIKey
	if c.provider.Dialect == OpenAI {
		if key != "" {
			h.Set("Authorization", "Bearer "+key)
		}
		return
	}
	if key != "" {
		h.Set("X-Api-Key", key)
	}
	version := r.Version
	if version == "" {
		version = DefaultVersion
	}
	h.Set("Anthropic-Version", version)
	if r.Beta != "" {
		h.Set("Anthropic-Beta", r.Beta)
	}
}

// outgoing remembers whether the whole body was handed to the connection. As
// long as it was not, no provider can have acted on the request.
type outgoing struct{ whole atomic.Bool }

type outgoingBody struct {
	rest []byte
	sent *outgoing
}

func (b *outgoingBody) Read(p []byte) (int, error) {
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	if len(b.rest) == 0 {
		b.sent.whole.Store(true)
		return n, io.EOF
	}
	return n, nil
}

func (b *outgoingBody) Close() error { return nil }

// unanswered classifies a call to which no status arrived.
func unanswered(ctx context.Context, err error, sent bool) Answer {
	a := Answer{MaybeBilled: sent}
	if ended(ctx, &a) {
		return a
	}
	a.blame(connection(err, sent))
	switch {
	case !sent:
		a.Outcome = tasks.ConnectError
	case a.Cause.Kind == TimedOut:
		a.Outcome = tasks.Timeout
	default:
		a.Outcome = tasks.CutOff
	}
	return a
}

// ended sets the outcome of a call whose context is over.
func ended(ctx context.Context, a *Answer) bool {
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

// explain classifies a problem that the provider reported.
func (c *Caller) explain(a *Answer, p problem, status int, waits bool, now time.Time) {
	a.Outcome, a.Doubt = classify(c.provider.Dialect, status, p, waits), doubt(status, p)
	if a.RequestID == "" {
		a.RequestID = safeID(p.requestID)
	}
	if a.Outcome == tasks.SpendLimited {
		a.ResumeAt = resumeAt(p, now)
	}
	a.Message = safeMessage(p, c.provider.APIKey)
	if a.Message == "" {
		a.Message = strings.ToLower(http.StatusText(status))
		if a.Message == "" {
			a.Message = "the provider answered with an error"
		}
	}
}

// assembler puts a dialect's stream together.
type assembler interface {
	// event takes one event in and reports whether it was the closing one.
	event(kind string, data []byte) (done bool, err error)
	// grown is about how many bytes the result has so far, never much less.
	grown() int
	// counted returns the usage, the input charged, and whether both are final.
	counted() (tasks.Usage, int64, bool)
	result() ([]byte, error)
	// instead returns what the provider has said so far in place of an answer, or
	// nil; it is asked for when no answer came.
	instead() *providerError
}

// read takes in an answer with a 2xx status.
func (c *Caller) read(ctx context.Context, cancel context.CancelFunc, ask Ask, resp *http.Response, a *Answer) {
	var err error
	switch media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); {
	case media == "text/event-stream":
		err = c.readStream(ask, resp.Body, a)
	default:
		// The first byte tells a JSON answer from a stream under another name.
		r := bufio.NewReader(resp.Body)
		var first byte
		first, err = firstByte(r)
		switch {
		case err != nil:
		case first == '{':
			err = c.readWhole(ask, r, a)
		case media == "" || media == "text/plain" || media == "application/octet-stream":
			err = c.readStream(ask, r, a)
		default:
			err = errNoAnswer
		}
	}
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
		c.explain(a, p, instead.status, true, serverTime(resp.Header, c.now()))
		return
	}
	unread(ctx, resp, a, err)
}

// unread classifies an answer that could not be read to its end.
func unread(ctx context.Context, resp *http.Response, a *Answer, err error) {
	var netErr net.Error
	switch {
	case errors.Is(err, errTooLarge):
		a.Outcome, a.Message = tasks.TooLarge, "the answer is larger than a result may be"
	case ended(ctx, a):
	case errors.Is(err, errNoAnswer):
		a.Outcome = tasks.ServerError
		a.blame(stranger(resp))
	case errors.Is(err, errMalformed):
		a.Outcome, a.Message = tasks.CutOff, "the answer broke off or does not fit the dialect"
	case errors.As(err, &netErr) && netErr.Timeout():
		a.Outcome, a.Message = tasks.Timeout, "no complete answer in time"
	default:
		a.Outcome, a.Message = tasks.CutOff, "the answer ended before its closing event"
	}
}

var errNoAnswer = errors.New("not an answer of the API")

// firstByte returns the first byte that is not white space, and consumes nothing.
func firstByte(r *bufio.Reader) (byte, error) {
	for n := 1; ; n++ {
		b, err := r.Peek(n)
		if err != nil {
			return 0, err
		}
		switch b[n-1] {
		case ' ', '\t', '\r', '\n':
		default:
			return b[n-1], nil
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
	if c.provider.Dialect == OpenAI {
		asm = &completionStream{onText: ask.OnText, onTick: started}
	} else {
		asm = &messageStream{onText: ask.OnText, onTick: started}
	}
	defer func() {
		usage, charged, final := asm.counted()
		a.ChargedInput = charged
		if final {
			a.Usage = &usage
		}
	}()
	stream := newEvents(r, int(min(c.maxResult, 1<<30))+(64<<10))
	result, err := c.assemble(stream, asm)
	if err == nil {
		finish, e := judge(c.provider.Dialect, result)
		if e == nil {
			a.Result, a.Finish = result, finish
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

// assemble reads a stream up to its closing event.
func (c *Caller) assemble(stream *events, asm assembler) ([]byte, error) {
	for {
		kind, data, err := stream.next()
		if err != nil {
			return nil, err
		}
		done, err := asm.event(kind, data)
		if err != nil {
			return nil, err
		}
		if int64(asm.grown()) > c.maxResult {
			return nil, errTooLarge
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

// readWhole takes an answer that came as one JSON object, byte for byte.
func (c *Caller) readWhole(ask Ask, r io.Reader, a *Answer) error {
	body, err := io.ReadAll(io.LimitReader(r, c.maxResult+1))
	if err != nil {
		return err
	}
	if int64(len(body)) > c.maxResult {
		return errTooLarge
	}
	shape, err := outlined(body)
	if err != nil {
		return errMalformed
	}
	if c.provider.Dialect == OpenAI {
		if u, charged, ok := openAIUsage(shape.usage); ok {
			a.Usage, a.ChargedInput = &u, charged
		}
	} else {
		m := &messageStream{}
		if m.count(shape.usage, true) == nil {
			if u, charged, ok := m.counted(); ok {
				a.Usage, a.ChargedInput = &u, charged
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
