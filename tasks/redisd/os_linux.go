package redisd

import "syscall"

// procAttr puts the child in a group of its own, so that a Ctrl-C at the
// terminal does not reach it before its clients are done, and has it stopped
// in order when this process dies.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
