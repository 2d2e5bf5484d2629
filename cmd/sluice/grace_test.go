package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// A caller that is slow to send its body holds a stop up for as long as --grace
// says, and no longer.
func TestAStoppingAPIHoldsARequestForItsGrace(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, redistest.Options{})
	body := prompt("claude-sonnet-4-5", "hello")
	for grace, status := range map[string]int{"100ms": 0, "25s": http.StatusAccepted} {
		t.Run(grace, func(t *testing.T) {
			t.Parallel()
			api := start(t, []string{"SLUICE_REDIS__URL=" + redis.URL()}, "api", "--grace", grace)
			var address string
			eventually(t, "the API listens", func() bool {
				m := regexp.MustCompile(`"msg":"listening","address":"([^"]+)"`).FindStringSubmatch(api.stderr.String())
				if m != nil {
					address = m[1]
				}
				return m != nil
			})
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			from := bufio.NewReader(conn)
			fmt.Fprintf(conn, "POST /v1/jobs HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
				address, token(t, "acme"), len(body))
			if line, err := from.ReadString('\n'); err != nil || !strings.Contains(line, "100") {
				t.Fatalf("the body is not asked for: %q, %v", line, err)
			}
			if _, err := from.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, body[:5]); err != nil {
				t.Fatal(err)
			}

			stopped := time.Now()
			api.signal(syscall.SIGTERM)
			got := 0
			if status != 0 {
				eventually(t, "the API takes no more connections", func() bool {
					c, err := net.Dial("tcp", address)
					if err == nil {
						c.Close()
					}
					return err != nil
				})
				if _, err := io.WriteString(conn, body[5:]); err != nil {
					t.Fatal(err)
				}
			}
			if res, err := http.ReadResponse(from, nil); err == nil {
				res.Body.Close()
				got = res.StatusCode
			}
			if code := api.exits(); code != 0 || got != status {
				t.Errorf("answer %d, exit code %d; want %d, 0", got, code, status)
			}
			// Not even ten seconds, which would be a bound of the program's own.
			if took := time.Since(stopped); took > 9*time.Second {
				t.Errorf("stopped after %s", took)
			}
		})
	}
}
