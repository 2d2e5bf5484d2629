package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// errorBodyWait bounds the wait for an error's body: the status has already said most.
const errorBodyWait = 5 * time.Second

// Do makes one call and says how it ended; every failure is an Outcome.
//
// A context that is cancelled makes it tasks.CallCanceled, and one whose
// deadline passed tasks.Timeout; why the context ended is for the caller to
// know. Do returns when the call is over or the context is.
func (c *Caller) Do(ctx context.Context, ask Ask) Answer {
	finish := func() {}
	if ask.OnText != nil {
		told := c.redact.stream(ask.OnText)
		ask.OnText, finish = told.add, told.end
	}
	if ask.OnEvent != nil {
		ask.events = &relayed{redact: c.redact, to: ask.OnEvent, left: toldMost(c.maxResult), usage: c.provider.Dialect != OpenAI || ask.Question.asksUsage()}
	}
	a := c.do(ctx, ask)
	a.clean(c.redact)
	a.Streamed = ask.events.all()
	if a.Outcome == tasks.Succeeded {
		finish() // of a text that broke off nobody needs what may be a part of the key
	}
	return a
}

func (c *Caller) do(ctx context.Context, ask Ask) Answer {
	ask.Question.as(c.provider.Models)
	ask.Question.user = c.provider.userOf(ask.Owner)
	body, err := ask.Question.Body(&c.provider)
	if err != nil {
		return Answer{Outcome: tasks.Rejected, Message: err.Error()}
	}
	asked := &ask.Question.request
	if !c.provider.Dialect.Serves(asked.Endpoint) {
		return Answer{Outcome: tasks.Rejected, Message: fmt.Sprintf("a provider of the dialect %s has no %s", c.provider.Dialect, asked.Endpoint)}
	}
	if !sendable(asked) {
		return Answer{Outcome: tasks.Rejected, Message: "a header field of the caller's for the provider holds a character that no header may carry"}
	}

	callCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, sent, err := c.request(callCtx, asked, body)
	if err != nil {
		return Answer{Outcome: tasks.Rejected, Message: "the call cannot be built"}
	}
	if c.provider.TraceContext {
		set(req.Header, "Traceparent", ask.Traceparent)
	}
	resp, err := c.send(req, sent, ask.Leave, cancel)
	if err != nil {
		return c.unanswered(ctx, err, sent.whole.Load())
	}
	defer resp.Body.Close()

	a := c.begin(resp)
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		c.read(ctx, cancel, ask, resp, &a)
		return a
	}
	c.refused(&a, resp, cancel)
	return a
}

// send sends a request, or gives it up before all of it has left when leave is closed.
func (c *Caller) send(req *http.Request, sent *outgoing, leave <-chan struct{}, cancel context.CancelFunc) (*http.Response, error) {
	if leave == nil {
		return c.client.Do(req)
	}
	answered, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-leave:
			if !sent.whole.Load() {
				cancel()
			}
		case <-answered:
		}
	}()
	resp, err := c.client.Do(req)
	close(answered)
	<-watched
	return resp, err
}

// refused takes in an answer without a 2xx status. What there is of its body is enough.
func (c *Caller) refused(a *Answer, resp *http.Response, cancel context.CancelFunc) {
	text, _ := readBriefly(resp, maxErrorBody, cancel)
	text = c.redact.body(text)
	status := resp.StatusCode
	if jsontext.Value(text).Kind() == '{' && len(text) <= maxRefusal && jsontext.Value(text).IsValid(lenient) {
		a.Refusal = text
	}
	p, _ := readProblem(text)
	if p.code == strconv.Itoa(status) {
		p.code = "" // it says no more than the status
	}
	c.explain(a, p, status, text, serverTime(resp.Header, a.HeadersAt))
	a.MaybeBilled = billable(status)
	switch {
	case status < 400:
		a.blame(redirected(resp))
	case aside(status, text):
		cause := stranger(resp, nil)
		if cause.Message = a.Message; status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
			cause.Message = UnknownPath(status, a.Message)
		}
		a.blame(cause)
	}
}

// clean is the one exit for the strings that came from a provider.
func (a *Answer) clean(r redactor) {
	a.Message = r.clean(a.Message, maxMessage)
	a.Cause.Message, a.Cause.Detail = r.clean(a.Cause.Message, maxMessage), r.clean(a.Cause.Detail, maxMessage)
	a.Result = r.joined(r.result(a.Result))
	a.Refusal = r.result(a.Refusal)
	if a.RequestID = r.text(a.RequestID); len(a.RequestID) > maxID || !printable(a.RequestID) {
		a.RequestID = ""
	}
	a.Finish = tasks.Finish(r.clean(string(a.Finish), maxFinish))
}

// begin returns what the headers of an answer say.
func (c *Caller) begin(resp *http.Response) Answer {
	c.answered.Store(true)
	now := c.now()
	a := Answer{
		Status:      resp.StatusCode,
		RequestID:   parseRequestID(c.provider.Dialect, resp.Header),
		Rates:       parseRates(resp.Header, now),
		HeadersAt:   now,
		ShouldRetry: parseShouldRetry(resp.Header),

		Organization: organization(resp.Header),
	}
	a.RetryAfter, a.HasRetryAfter = parseRetryAfter(resp.Header, now)
	return a
}

// readBriefly reads at most n bytes, and for no longer than errorBodyWait.
func readBriefly(resp *http.Response, n int64, cancel context.CancelFunc) ([]byte, error) {
	defer time.AfterFunc(errorBodyWait, cancel).Stop()
	r, err := plain(resp)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, n))
}

// request builds the one HTTP request of a call.
func (c *Caller) request(ctx context.Context, asked *tasks.Request, body []byte) (*http.Request, *outgoing, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address(asked.Endpoint), nil)
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
	if c.provider.NoStream || asked.Endpoint != tasks.Chat {
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
		set(h, "OpenAI-Beta", r.OpenAI.Beta)
		if c.provider.Organization {
			set(h, tasks.OpenAIOrganization, r.OpenAI.Organization)
		}
		if c.provider.Project {
			set(h, tasks.OpenAIProject, r.OpenAI.Project)
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
	set(h, "Anthropic-Beta", r.Beta)
}

// set sets a field that there is.
func set(h http.Header, name, value string) {
	if value != "" {
		h.Set(name, value)
	}
}

// sendable reports whether a header can carry what the caller's had for the provider.
func sendable(r *tasks.Request) bool {
	for _, value := range []string{r.Version, r.Beta, r.OpenAI.Beta, r.OpenAI.Organization, r.OpenAI.Project} {
		if !printable(value) {
			return false
		}
	}
	return true
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
func (c *Caller) unanswered(ctx context.Context, err error, sent bool) Answer {
	a := Answer{MaybeBilled: sent}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && !sent {
		err = fmt.Errorf("no connection to %s: %w", c.url, ctx.Err())
	} else if cutShort(ctx, &a) {
		return a
	}
	a.blame(connection(err, sent))
	if a.Cause.Kind == Broken {
		if cause, ok := c.secured(ctx); ok {
			a.blame(cause)
		}
	}
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

// explain classifies a problem that the provider reported; came is the body.
func (c *Caller) explain(a *Answer, p problem, status int, came []byte, now time.Time) {
	a.Outcome, a.Doubt = classify(c.provider.Dialect, status, p), doubt(c.provider.Dialect, status, p)
	if a.RequestID == "" {
		_ = eachMember(came, func(name string, v jsontext.Value, _, _ int) error { // what is no object has no id
			if name == "request_id" {
				a.RequestID = text(v)
			}
			return nil
		})
	}
	if a.Outcome == tasks.SpendLimited {
		a.ResumeAt = resumeAt(p, now)
	}
	if a.Message = p.words(); p.message == "" {
		// An envelope that is not known here, or a page.
		means, words := strings.ToLower(http.StatusText(status)), excerpt(came)
		if a.Message == "" && means != "" && strings.Contains(strings.ToLower(words), means) {
			a.Message = words
			return
		}
		said := []string{cmp.Or(a.Message, means, "the provider answered with an error")}
		if words != "" {
			said = append(said, words)
		}
		a.Message = strings.Join(said, ": ")
	}
}
