package rig

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Conn is one keep-alive connection that sends requests made beforehand. It is
// light, since it shares the processors with what it measures. Not for use by
// several goroutines.
type Conn struct {
	conn net.Conn
	in   *bufio.Reader
}

// Answer is what a server said.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Dial connects to an address.
func Dial(ctx context.Context, addr string) (*Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return &Conn{conn: conn, in: bufio.NewReaderSize(conn, 8<<10)}, nil
}

// Close ends the connection.
func (c *Conn) Close() { _ = c.conn.Close() } // nothing is lost by it

// answerTimeout is the longest that any single answer may take.
const answerTimeout = 2 * time.Minute

// Do sends a whole request and reads its answer. After an error the connection
// is of no more use.
func (c *Conn) Do(ctx context.Context, request []byte) (a Answer, err error) {
	defer context.AfterFunc(ctx, c.Close)()
	if err = c.conn.SetDeadline(time.Now().Add(answerTimeout)); err == nil {
		_, err = c.conn.Write(request)
	}
	if err == nil {
		a, err = readAnswer(c.in)
	}
	if err != nil {
		return a, fmt.Errorf("send a request and read its answer: %w", errors.Join(ctx.Err(), err))
	}
	return a, nil
}

// Expect sends a request that has to be answered with that status.
func (c *Conn) Expect(ctx context.Context, status int, request []byte) error {
	a, err := c.Do(ctx, request)
	if err == nil && a.Status != status {
		err = fmt.Errorf("the answer is %d, want %d: %.300s", a.Status, status, a.Body)
	}
	return err
}

func readAnswer(in *bufio.Reader) (Answer, error) {
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return Answer{}, err
	}
	body, err := io.ReadAll(res.Body)
	return Answer{res.StatusCode, res.Header, body}, err
}

// Request makes a request for Do; headers are lines such as "Prefer: wait=30".
func Request(method, addr, path string, body []byte, headers ...string) []byte {
	b := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", method, path, addr, len(body))
	for _, h := range headers {
		b = append(append(b, h...), "\r\n"...)
	}
	return append(append(b, "\r\n"...), body...)
}

// AskRequest makes a request of a prompt for the provider, past Sluice.
func AskRequest(addr, key, model, prompt string, maxTokens int) []byte {
	return CallRequest(addr, "/v1/messages", key, model, prompt, maxTokens)
}

// CallRequest makes the same request for a path, where key is good.
func CallRequest(addr, path, key, model, prompt string, maxTokens int) []byte {
	body := fmt.Appendf(nil, `{"model":%q,"max_tokens":%d,"messages":[{"role":"user","content":%q}]}`, model, maxTokens, prompt)
	return Request(http.MethodPost, addr, path, body, "Content-Type: application/json", "X-Api-Key: "+key, "Anthropic-Version: 2023-06-01")
}
