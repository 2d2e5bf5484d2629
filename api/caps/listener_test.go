package caps_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api/caps"
)

// hall is a server with room for so many connections, whose requests to /hold wait.
func hall(t *testing.T, most int) (dial func() net.Conn, held chan struct{}) {
	t.Helper()
	room, err := caps.New(caps.Config{Connections: most})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	held = make(chan struct{}, most)
	over := make(chan struct{})
	l := room.Listen(raw)
	server := &http.Server{ReadHeaderTimeout: time.Minute, ConnState: l.Became, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			held <- struct{}{}
			<-over
		}
	})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		close(over)
		_ = server.Close()
		<-done
	})
	return func() net.Conn {
		c, err := net.Dial("tcp", raw.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}, held
}

func get(t *testing.T, c net.Conn, path string) {
	t.Helper()
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

func status(t *testing.T, c net.Conn) int {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("read an answer: %v", err)
	}
	_ = r.Body.Close()
	if r.StatusCode == 503 && r.Header.Get("Retry-After") == "" {
		t.Error("a 503 without Retry-After")
	}
	return r.StatusCode
}

func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	dial, _ := hall(t, 10)
	mine := dial()
	get(t, mine, "/")
	if got := status(t, mine); got != 200 {
		t.Fatalf("the first request: %d", got)
	}
	for range 50 { // that never say a word
		dial()
	}
	late := dial()
	get(t, late, "/")
	if got := status(t, late); got != 200 {
		t.Errorf("a request after 50 silent connections: %d, want 200", got)
	}
	get(t, mine, "/") // it is idle, and was not the one to go
	if got := status(t, mine); got != 200 {
		t.Errorf("a request on a connection that was there before: %d, want 200", got)
	}
}

func TestAConnectionTooManyIsToldToComeAgain(t *testing.T) {
	t.Parallel()
	dial, held := hall(t, 10)
	for range 5 { // an address has no more than are free
		c := dial()
		get(t, c, "/hold")
		<-held
	}
	if got := status(t, dial()); got != 503 {
		t.Errorf("one connection more: %d, want 503", got)
	}
}
