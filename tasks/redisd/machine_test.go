package redisd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks/redisd"
)

func TestMemoryIsTheMachinesOrItsContainers(t *testing.T) {
	const meminfo = "MemTotal:        8000000 kB\nMemFree:         1 kB\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"machine":              {map[string]string{"proc/meminfo": meminfo}, 8000000 << 10},
		"container, version 2": {map[string]string{"proc/meminfo": meminfo, "sys/fs/cgroup/memory.max": "512000000\n"}, 512000000},
		"container, no limit":  {map[string]string{"proc/meminfo": meminfo, "sys/fs/cgroup/memory.max": "max\n"}, 8000000 << 10},
		"container, version 1": {map[string]string{"proc/meminfo": meminfo, "sys/fs/cgroup/memory/memory.limit_in_bytes": "600000000\n"}, 600000000},
		"version 1, no limit":  {map[string]string{"proc/meminfo": meminfo, "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8000000 << 10},
		"a unit of systemd, version 2": {map[string]string{"proc/self/cgroup": "0::/system.slice/sluice.service\n", "sys/fs/cgroup/system.slice/sluice.service/memory.max": "max\n",
			"sys/fs/cgroup/system.slice/memory.max": "500000000\n", "proc/meminfo": meminfo}, 500000000},
		"of several the least": {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "300000000\n",
			"sys/fs/cgroup/a/memory.max": "500000000\n", "proc/meminfo": meminfo}, 300000000},
		"version 1 of another path": {map[string]string{"proc/self/cgroup": "12:cpu,cpuacct:/x\n5:memory:/docker/1\nnonsense\n", "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "400000000\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1\n", "proc/meminfo": meminfo}, 400000000},
		"one that does not say":  {nil, 4 << 30},
		"one that says nonsense": {map[string]string{"proc/meminfo": "MemTotal: ?\n"}, 4 << 30},
	} {
		root := t.TempDir() + "/"
		for file, text := range c.files {
			if err := os.MkdirAll(filepath.Dir(root+file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(root+file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := redisd.MachineMemory(root); got != c.want {
			t.Errorf("%s: %d bytes; want %d", name, got, c.want)
		}
		container := c.want
		if strings.HasPrefix(name, "one that") || container == 8000000<<10 {
			container = 0 // nothing around it says anything
		}
		if got := redisd.ContainerOf(root); got != container {
			t.Errorf("%s: a container of %d bytes; want %d", name, got, container)
		}
	}
}
