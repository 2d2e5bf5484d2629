//go:build unix && !linux

package redisd

import "syscall"

// procAttr puts the child in a group of its own, so that a Ctrl-C at the
// terminal does not reach it before its clients are done. These systems cannot
// tell a child of its parent's death; the next start stops what was left.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
