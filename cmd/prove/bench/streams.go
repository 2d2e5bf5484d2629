package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// Streams compares what callers who stream are told with what the provider sent, byte
// for byte, and measures how far the first event is behind.
type Streams struct {
	Options
	Calls    int `default:"200" help:"Streams."`
	Events   int `default:"50" help:"Deltas of each."`
	Parallel int `default:"8" help:"Streams at once."`
}

// source is a provider whose answers are numbered events, 2 ms apart. It keeps each
// call's, and when the first left, by what the call asks.
type source struct {
	events int
	mu     sync.Mutex
	sent   map[string][]byte
	first  map[string]time.Time
}

// ServeHTTP answers a call to /v1/messages.
func (s *source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Method != http.MethodPost {
		_, _ = io.WriteString(w, `{"data":[]}`) // a list of models that nobody needs
		return
	}
	name := nameOf(body)
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	tell := func(kind, rest string) {
		e := fmt.Appendf(nil, "event: %s\ndata: {\"type\":\"%s\"%s}\n\n", kind, kind, rest)
		s.mu.Lock()
		if s.sent[name] == nil {
			s.first[name] = time.Now()
		}
		s.sent[name] = append(s.sent[name], e...)
		s.mu.Unlock()
		_, _ = w.Write(e) // who has gone shows in what it was told
		_ = control.Flush()
	}
	tell("message_start", `,"message":{"id":"msg","type":"message","role":"assistant","content":[],"model":"claude-x","stop_reason":null,"usage":{"input_tokens":9,"output_tokens":1}}`)
	tell("content_block_start", `,"index":0,"content_block":{"type":"text","text":""}`)
	for i := range s.events {
		if rig.Wait(r.Context(), 2*time.Millisecond) != nil {
			return
		}
		tell("content_block_delta", fmt.Sprintf(`,"index":0,"delta":{"type":"text_delta","text":"%d of %s "}`, i, name))
	}
	tell("content_block_stop", `,"index":0`)
	tell("message_delta", `,"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":99}`)
	tell("message_stop", "")
}

// nameOf finds the word "stream-" and a number in a body.
func nameOf(body []byte) string {
	_, after, _ := bytes.Cut(body, []byte(`"stream-`))
	name, _, _ := bytes.Cut(after, []byte(`"`))
	return string(name)
}

// Run streams.
func (s *Streams) Run(ctx context.Context, lab *rig.Lab) (err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	from := &source{events: s.Events, sent: map[string][]byte{}, first: map[string]time.Time{}}
	server := &http.Server{Handler: from, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		_ = server.Close()
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}()
	stage, err := lab.Stage(ctx, rig.Config{
		Name: "streams", APIs: 1, Workers: 1, OneKey: true, TCP: true, Provider: &rig.Provider{Addr: l.Addr().String()}, Flags: []string{"--log-level", "warn"},
		RedisArgs: []string{"--appendfsync", s.fsync("always")},
		Pool:      "limits: {requests_per_minute: 6000000, request_burst: 100000, concurrency: 64}",
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.Close()) }()
	return s.stream(ctx, stage, from)
}

func (s *Streams) stream(ctx context.Context, stage *rig.Stage, from *source) error {
	transport := &http.Transport{MaxIdleConnsPerHost: s.Parallel}
	defer transport.CloseIdleConnections()
	late := make([]time.Duration, s.Calls)
	var wrong atomic.Int64
	calls, ctx := errgroup.WithContext(ctx)
	calls.SetLimit(s.Parallel)
	for i := range s.Calls {
		calls.Go(func() error {
			name := fmt.Sprint(i)
			told, first, err := listen(ctx, transport, stage, name)
			if err != nil {
				return fmt.Errorf("stream %d: %w", i, err)
			}
			from.mu.Lock()
			defer from.mu.Unlock()
			if late[i] = first.Sub(from.first[name]); !bytes.Equal(told, from.sent[name]) {
				wrong.Add(1)
			}
			return nil
		})
	}
	if err := calls.Wait(); err != nil {
		return err
	}
	behind := milliseconds(late[min(len(late)/10, warmUps):])
	err := report(fmt.Sprintf("streams: %d of %d deltas each, %d at once, API and worker in separate processes", s.Calls, s.Events, s.Parallel), []figure{
		atMost("streams that differ from the provider's", "%.0f", float64(wrong.Load()), 0, fmt.Sprintf("of %d events", s.Calls*(s.Events+5))),
		atMost("first event behind the provider's, p50", "%.2f ms", percentile(behind, 0.5), 5, ""),
		atMost("first event behind the provider's, p99", "%.2f ms", percentile(behind, 0.99), 20, ""),
	})
	if n := wrong.Load(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d streams were not told as the provider sent them", n))
	}
	return err
}

// listen makes one call with a stream and returns its events, without our keep-alives,
// and when the first came.
func listen(ctx context.Context, transport http.RoundTripper, stage *rig.Stage, name string) (told []byte, first time.Time, err error) {
	body := `{"model":"claude-x","max_tokens":16,"stream":true,"messages":[{"role":"user","content":"stream-` + name + `"}]}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+stage.Addrs[0]+"/anthropic/v1/messages", strings.NewReader(body))
	if err != nil {
		return nil, first, err
	}
	req.Header.Set("Authorization", "Bearer "+stage.Token)
	req.Header.Set("Content-Type", "application/json")
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, first, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, first, fmt.Errorf("the answer is %s", res.Status)
	}
	in := bufio.NewReader(res.Body)
	for {
		line, err := in.ReadBytes('\n')
		if first.IsZero() && bytes.HasPrefix(line, []byte("event: message_start")) {
			first = time.Now()
		}
		if told = append(told, line...); errors.Is(err, io.EOF) {
			return bytes.ReplaceAll(told, []byte("event: ping\ndata: {\"type\": \"ping\"}\n\n"), nil), first, nil
		} else if err != nil {
			return nil, first, err
		}
	}
}
