package fake

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// pieceTime is how much of an answer one event of a stream holds, when tokens
// take time; pieceTokens when they take none.
const (
	pieceTime   = 25 * time.Millisecond
	pieceTokens = 32
)

// answer charges and writes the answer of an admitted call, with the fault
// that may stand against it.
func (x *exchange) answer(ctx context.Context, w http.ResponseWriter) {
	p := x.f.cfg.prepare(&x.ask)
	switch x.kind() {
	case "hang":
		if !x.hang(ctx, x.fault.Delay) {
			panic(http.ErrAbortHandler) // never an answer
		}
	case "reset":
		reset(w)
		return
	}
	if x.f.cfg.wait(ctx, p.first) != nil {
		return
	}
	h := w.Header()
	x.describe(h)
	x.call.Status = http.StatusOK
	if x.call.Dialect == OpenAI {
		h["Openai-Processing-Ms"] = []string{strconv.FormatInt(p.first.Milliseconds(), 10)}
	}
	out := &writer{ctx: ctx, cfg: &x.f.cfg, w: w, fault: x.fault, stream: x.ask.stream && x.kind() != "plain"}
	if say := x.speaker(&p); out.stream {
		x.stream(out, h, say, &p)
	} else {
		x.whole(out, h, say, &p)
	}
}

// kind is that of the fault that strikes the call, or "".
func (x *exchange) kind() string {
	if x.fault == nil {
		return ""
	}
	return x.fault.Kind
}

func (x *exchange) speaker(p *plan) speaker {
	if x.call.Dialect == OpenAI {
		say := openAISpeaker{c: &x.call, q: &x.ask, p: p, at: x.f.cfg.Clock.Now().Unix()}
		switch x.ask.path {
		case responses:
			return &responseSpeaker{openAISpeaker: say}
		case embeddings:
			return &embeddingSpeaker{say}
		}
		return &say
	}
	return &anthropicSpeaker{c: &x.call, q: &x.ask, p: p}
}

// produce charges the answer piece by piece as time passes, and hands each to
// say, if it is set, until say is false. It reports whether the answer is whole;
// what was produced stays charged when the client has gone.
func (x *exchange) produce(ctx context.Context, p *plan, say func(at, end int) bool) bool {
	perToken := x.f.cfg.TimePerToken
	step := pieceTokens
	if perToken > 0 {
		step = int(max(1, pieceTime/perToken))
	}
	for at := 0; at < len(p.tokens); at += step {
		end := min(at+step, len(p.tokens))
		if x.f.cfg.wait(ctx, time.Duration(end-at)*perToken) != nil {
			return false
		}
		x.charge((end - at) * x.ask.choices)
		if say != nil && !say(at, end) {
			return false
		}
	}
	return true
}

func (x *exchange) stream(out *writer, h http.Header, say speaker, p *plan) {
	h["Content-Type"] = []string{"text/event-stream; charset=utf-8"}
	h["Cache-Control"] = []string{"no-cache"}
	out.add(say.open())
	turn := x.turn()
	timed := x.f.cfg.TimePerToken > 0 && turn == nil
	if timed {
		_ = out.flush() // a client that has gone shows as time passes
	}
	broken := len(p.tokens) / 2 // where a fault strikes
	if !x.produce(out.ctx, p, func(at, end int) bool {
		piece := say.piece(strings.Join(p.tokens[at:end], ""))
		if at <= broken && broken < end && x.strike(out, say, piece) {
			return false
		}
		out.add(piece)
		if timed {
			_ = out.flush() // as above
		}
		return true
	}) {
		return
	}
	out.add(say.close())
	if turn != nil {
		out.buf = turn(x, h, out.buf)
	}
	x.call.Completed = out.flush() == nil
}

func (x *exchange) whole(out *writer, h http.Header, say speaker, p *plan) {
	if !x.produce(out.ctx, p, nil) {
		return
	}
	body := say.whole()
	h["Content-Type"] = []string{"application/json"}
	switch x.kind() {
	case "cut", "stream_error":
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
		out.add(body[:len(body)/2])
		_ = out.flush() // it is to fail in any case
		panic(http.ErrAbortHandler)
	case "truncated":
		out.add(body[:len(body)/2])
		_ = out.flush()
		return
	case "garbage":
		h["Content-Type"] = []string{"text/html"}
		body = []byte("<html><body>Sign in to continue</body></html>\n")
	}
	if turn := x.turn(); turn != nil {
		body = turn(x, h, body)
	}
	out.add(body)
	x.call.Completed = out.flush() == nil && x.kind() != "garbage"
}

// strike breaks a stream off at that piece as the fault says, and reports
// whether it did.
func (x *exchange) strike(out *writer, say speaker, piece []byte) bool {
	switch x.kind() {
	case "cut":
		_ = out.flush() // it is to fail in any case
		panic(http.ErrAbortHandler)
	case "truncated":
		out.add(piece[:len(piece)/2])
	case "stream_error":
		out.add(say.fail())
	case "garbage":
		out.add([]byte("data: <html>Sign in to continue</html>\n\n"))
	default:
		return false
	}
	_ = out.flush()
	return true
}

// charge draws output tokens from the account.
func (x *exchange) charge(tokens int) {
	x.f.mu.Lock()
	defer x.f.mu.Unlock()
	x.acct.draw(x.f.cfg.Clock.Now(), tokens)
	x.call.OutputTokens += int64(tokens)
}

// hang keeps a call waiting for d, or for ever when d is 0, and reports
// whether it is to be answered after all.
func (x *exchange) hang(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		return x.f.cfg.Clock.Sleep(ctx, d) == nil
	}
	select {
	case <-ctx.Done():
	case <-x.f.closed:
	}
	return false
}

// reset ends the connection with a RST where the protocol has one.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// writer collects what is written, and with the fault "slow" dribbles it.
type writer struct {
	ctx    context.Context
	cfg    *Config
	w      http.ResponseWriter
	fault  *Fault
	stream bool
	buf    []byte
}

func (o *writer) add(data []byte) { o.buf = append(o.buf, data...) }

// flush sends what was collected.
func (o *writer) flush() error {
	data := o.buf
	o.buf = o.buf[:0]
	if o.fault == nil || o.fault.Kind != "slow" {
		if _, err := o.w.Write(data); err != nil {
			return err
		}
		if o.stream {
			return http.NewResponseController(o.w).Flush()
		}
		return nil
	}
	delay := o.fault.Delay
	if delay == 0 {
		delay = 50 * time.Millisecond
	}
	const bytesAtATime = 16
	for len(data) > 0 {
		n := min(bytesAtATime, len(data))
		if _, err := o.w.Write(data[:n]); err != nil {
			return err
		}
		if err := http.NewResponseController(o.w).Flush(); err != nil {
			return err
		}
		data = data[n:]
		if err := o.cfg.wait(o.ctx, delay); err != nil {
			return err
		}
	}
	return nil
}
