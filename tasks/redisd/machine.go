package redisd

import (
	"os"
	"strconv"
	"strings"
)

// unknownMemory is what a machine is taken to have that does not say.
const unknownMemory = 4 << 30

// machineMemory is how many bytes this machine has, or the container around this
// process where that may use less. root is "/", but for tests.
func machineMemory(root string) int64 {
	most := int64(0)
	atMost := func(n int64) {
		if n > 0 && (most == 0 || n < most) {
			most = n
		}
	}
	number := func(text string) int64 {
		n, _ := strconv.ParseInt(strings.TrimSpace(text), 10, 64) // "max" is no limit
		return n
	}
	if b, err := os.ReadFile(root + "proc/meminfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if kib, ok := strings.CutPrefix(line, "MemTotal:"); ok {
				atMost(number(strings.TrimSuffix(strings.TrimSpace(kib), "kB")) << 10)
			}
		}
	}
	for _, file := range []string{"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(root + file); err == nil {
			atMost(number(string(b)))
		}
	}
	if most == 0 {
		return unknownMemory
	}
	return most
}
