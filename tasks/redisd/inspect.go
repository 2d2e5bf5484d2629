package redisd

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Inspect asks an external Redis whether accepted jobs are safe in it, and
// returns each shortcoming as a sentence: no append-only file, one that is not
// synced at each write, a policy that evicts keys, or a version below 6.2. Of a
// cluster it asks every master. It changes nothing. The error is one of
// reaching the server.
//
// Managed services often refuse CONFIG; what INFO does not say is then named as
// unknown.
func Inspect(ctx context.Context, rdb redis.UniversalClient) ([]string, error) {
	cluster, ok := rdb.(*redis.ClusterClient)
	if !ok {
		return inspect(ctx, rdb)
	}
	var (
		mu   sync.Mutex
		all  []string
		seen = map[string]bool{}
	)
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		found, err := inspect(ctx, node)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, w := range found {
			if !seen[w] {
				seen[w] = true
				all = append(all, w)
			}
		}
		return nil
	})
	return all, err
}

func inspect(ctx context.Context, rdb redis.Cmdable) ([]string, error) {
	text, err := rdb.Info(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("ask redis for its state: %w", err)
	}
	info := parseInfo(text)
	var found []string
	if v := info["redis_version"]; v != "" && olderThan(v, 6, 2) {
		found = append(found, fmt.Sprintf("redis %s is older than 6.2, the oldest that is supported", v))
	}
	switch info["aof_enabled"] {
	case "0":
		found = append(found, "redis keeps no append-only file (appendonly no): accepted jobs are lost when it crashes")
	case "":
		found = append(found, "redis does not say whether it keeps an append-only file: without one, accepted jobs are lost when it crashes")
	default:
		fsync, err := configGet(ctx, rdb, "appendfsync")
		switch {
		case err != nil || fsync == "":
			found = append(found, "redis does not say how it syncs its append-only file (appendfsync); only always keeps every accepted job over a loss of power")
		case fsync != "always":
			found = append(found, fmt.Sprintf("redis syncs its append-only file with appendfsync %s: jobs accepted in the last moments can be lost with the machine; always keeps them", fsync))
		}
	}
	policy := info["maxmemory_policy"]
	if policy == "" {
		policy, _ = configGet(ctx, rdb, "maxmemory-policy")
	}
	switch policy {
	case "noeviction":
	case "":
		found = append(found, "redis does not say whether it evicts keys (maxmemory-policy); anything but noeviction can drop accepted jobs")
	default:
		found = append(found, fmt.Sprintf("redis evicts keys when it is full (maxmemory-policy %s): accepted jobs can be dropped; noeviction keeps them", policy))
	}
	return found, nil
}

func configGet(ctx context.Context, rdb redis.Cmdable, name string) (string, error) {
	m, err := rdb.ConfigGet(ctx, name).Result()
	return m[name], err
}

// parseInfo reads the answer to INFO: lines of name:value.
func parseInfo(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info
}

// olderThan compares the first two numbers of a version. One that cannot be
// read is not called old.
func olderThan(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, err1 := strconv.Atoi(parts[0])
	b, err2 := strconv.Atoi(parts[1])
	if err1 != nil || err2 != nil {
		return false
	}
	return a < major || a == major && b < minor
}
