package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// client is one keep-alive connection that sends requests made beforehand. It
// is as light as it can be, since it shares the processors with what it
// measures. Not for use by several goroutines.
type client struct {
	conn net.Conn
	in   *bufio.Reader
	body []byte
}

func dial(ctx context.Context, addr string) (*client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return &client{conn: conn, in: bufio.NewReaderSize(conn, 8<<10)}, nil
}

func (c *client) close() { _ = c.conn.Close() } // nothing is lost by it

// answerTimeout is the longest that any single answer may take.
const answerTimeout = 2 * time.Minute

// do sends a whole request and reads its answer. The body is valid until the
// next call.
func (c *client) do(request []byte) (status int, body []byte, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return 0, nil, fmt.Errorf("send a request: %w", err)
	}
	if _, err := c.conn.Write(request); err != nil {
		return 0, nil, fmt.Errorf("send a request: %w", err)
	}
	status, c.body, err = readAnswer(c.in, c.body[:0])
	return status, c.body, err
}

// post makes a POST request for do.
func post(addr, path, token, mediaType string, body []byte, headers ...string) []byte {
	b := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n", path, addr, mediaType, len(body))
	if token != "" {
		b = fmt.Appendf(b, "Authorization: Bearer %s\r\n", token)
	}
	for _, h := range headers {
		b = append(append(b, h...), "\r\n"...)
	}
	return append(append(b, "\r\n"...), body...)
}

var errNotHTTP = errors.New("the answer is not HTTP/1.1")

// readAnswer reads an answer and appends its body to into.
func readAnswer(in *bufio.Reader, into []byte) (status int, body []byte, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, into, fmt.Errorf("read an answer: %w", err)
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, into, errNotHTTP
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, into, errNotHTTP
	}
	length, chunked := 0, false
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, into, fmt.Errorf("read an answer's header: %w", err)
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, into, errNotHTTP
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		}
	}
	if !chunked {
		body, err = readN(in, into, length)
		return status, body, err
	}
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, into, fmt.Errorf("read a chunk: %w", err)
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return 0, into, errNotHTTP
		}
		if into, err = readN(in, into, int(size)); err != nil {
			return 0, into, err
		}
		if _, err := in.Discard(2); err != nil {
			return 0, into, fmt.Errorf("read a chunk: %w", err)
		}
		if size == 0 {
			return status, into, nil
		}
	}
}

func readN(in *bufio.Reader, into []byte, n int) ([]byte, error) {
	at := len(into)
	if cap(into) < at+n {
		into = append(make([]byte, 0, at+n), into...)
	}
	into = into[:at+n]
	if _, err := io.ReadFull(in, into[at:]); err != nil {
		return into, fmt.Errorf("read a body: %w", err)
	}
	return into, nil
}
