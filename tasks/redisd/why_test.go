package redisd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/sluicehq/sluice/tasks/redisd"
)

func TestWhySaysWhatIsWrongWithRedisAndNoMore(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 6379}, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("WRONGPASS invalid username-password pair or user is disabled."), "password"},
		{errors.New("NOAUTH Authentication required."), "password"},
		{errors.New("ERR invalid password"), "password"},
		{errors.New("NOPERM this user has no permissions to run the 'evalsha' command"), "permit"},
		{errors.New("ERR Error running script: The user executing the script can't run this command or subcommand"), "permit"},
		{errors.New("READONLY You can't write against a read only replica."), "read-only"},
		{errors.New("NOREPLICAS Not enough good replicas to write."), "replicas"},
		{errors.New("OOM command not allowed when used memory > 'maxmemory'."), "full"},
		{errors.New("MISCONF Redis is configured to save RDB snapshots"), "disk"},
		{errors.New("LOADING Redis is loading the dataset in memory"), "loads"},
		{errors.New("MASTERDOWN Link with MASTER is down"), "without its primary"},
		{errors.New("no replica confirms the write"), "replica"},
		{errors.New("CLUSTERDOWN The cluster is down"), "cluster"},
		{errors.New("ERR max number of clients reached"), "maxclients"},
		{errors.New("BUSY Redis is busy running a script."), "busy"},
		{errors.New("ERR unknown command 'evalsha'"), "does not know"},
		{errors.New("redis: all sentinels specified in configuration are unreachable"), "Sentinel"},
		{errors.New("tls: failed to verify certificate: x509: certificate signed by unknown authority"), "certificate"},
		{context.DeadlineExceeded, "in time"},
		{fmt.Errorf("read: %w", refused), "reached"},
		{errors.New("EOF"), "reached"},
		{errors.New("ERR upstream failure at 10.0.0.9"), "in the log"},
	} {
		got := redisd.Why(c.err)
		if !strings.Contains(got, c.want) || c.want == "" && got != "" || strings.Contains(got, "10.0.0.9") {
			t.Errorf("Why(%v) = %q; want it to hold %q and no address", c.err, got, c.want)
		}
	}
}

// While Redis loads, what it says of itself is not how it is set.
func TestReadOfALoadingRedisIsNothing(t *testing.T) {
	for text, want := range map[string]bool{
		"": false,
		"redis_version:7.0.15\r\nrun_id:a\r\nloading:1\r\naof_enabled:0\r\n": false,
		"redis_version:7.0.15\r\nrun_id:a\r\nloading:0\r\naof_enabled:0\r\n": true,
	} {
		if _, ok := redisd.Read(text, false); ok != want {
			t.Errorf("Read(%q): %v; want %v", text, ok, want)
		}
	}
}
