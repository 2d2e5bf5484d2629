package redisd

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// unknownMemory is what a machine is taken to have that does not say.
const unknownMemory = 4 << 30

// machineMemory is how many bytes this machine has, or the container around this
// process where that may use less. root is "/", but for tests.
func machineMemory(root string) int64 {
	most := containerMemory(root)
	if b, err := os.ReadFile(root + "proc/meminfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if kib, ok := strings.CutPrefix(line, "MemTotal:"); ok {
				most = lower(most, bytesIn(strings.TrimSuffix(strings.TrimSpace(kib), "kB"))<<10)
			}
		}
	}
	if most == 0 {
		return unknownMemory
	}
	return most
}

// ContainerMemory is how many bytes the container, or the unit of systemd, around this
// process may use; 0: nothing says so.
func ContainerMemory() int64 { return containerMemory("/") }

// containerMemory reads the limits of cgroups, of version 2 or 1: that of this process's
// own group, and of those around it.
func containerMemory(root string) (most int64) {
	const v1, v2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"
	files := []string{v2 + "/memory.max", v1 + "/memory.limit_in_bytes"}
	groups, _ := os.ReadFile(root + "proc/self/cgroup") // not there: no cgroups
	for line := range strings.Lines(string(groups)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		top, file := v2, "memory.max"
		if part[1] != "" {
			if !slices.Contains(strings.Split(part[1], ","), "memory") {
				continue
			}
			top, file = v1, "memory.limit_in_bytes"
		}
		for dir := path.Clean("/" + part[2]); dir != "/"; dir = path.Dir(dir) {
			files = append(files, top+dir+"/"+file)
		}
	}
	for _, file := range files {
		if b, err := os.ReadFile(root + file); err == nil {
			most = lower(most, bytesIn(string(b)))
		}
	}
	return most
}

// bytesIn reads a number; 0 where there is none, as "max", or one that is no limit.
func bytesIn(text string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if n >= 1<<60 {
		return 0
	}
	return n
}

// lower is the lower one of two limits, of which 0 is none.
func lower(a, b int64) int64 {
	if a <= 0 || b > 0 && b < a {
		return max(b, 0)
	}
	return a
}
