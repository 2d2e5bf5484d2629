//go:build unix

package main

import (
	"net"
	"os"
	"syscall"
)

// lastCall returns at most so many of those who have connected to l and were not
// accepted, and has the system refuse others from then on. Who connects in the microseconds
// between is cut off.
func lastCall(l net.Listener, most int) []net.Conn {
	raw, ok := l.(syscall.Conn)
	if !ok {
		return nil
	}
	way, err := raw.SyscallConn()
	if err != nil {
		return nil
	}
	var waited []net.Conn
	_ = way.Control(func(listener uintptr) {
		for len(waited) < most {
			fd, _, err := syscall.Accept(int(listener)) // which does not wait: Go's listeners do not block
			if err != nil {
				break
			}
			syscall.CloseOnExec(fd)
			f := os.NewFile(uintptr(fd), "")
			c, err := net.FileConn(f) // which has a descriptor of its own
			_ = f.Close()
			if err == nil {
				waited = append(waited, c)
			}
		}
		_ = syscall.Shutdown(int(listener), syscall.SHUT_RD)
	})
	return waited
}
