package redisd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Facts are what a Redis says of itself, as far as accepted jobs depend on it.
type Facts struct {
	// Loses are the reasons why accepted jobs may not survive, each a sentence.
	Loses []string
	// Notices are what an operator should know besides.
	Notices []string
	// Evicts is the policy by which Redis drops keys when it is full; "" for none.
	Evicts string
	// Evicted is how many keys it has dropped since it started, or since an operator
	// set its statistics back (CONFIG RESETSTAT).
	Evicted int64
	// Replicated says that it takes no write without a replica (min-replicas-to-write).
	Replicated bool
	// Full is the share of its allowed memory in use; 0 where nothing limits it.
	Full float64
	// State tells one state from another: what of INFO the facts are made of, and
	// the run of the server.
	State string

	aof bool
}

// Read makes facts of the answer to INFO. What only CONFIG tells is not among
// them. ok is false while Redis loads its data, or says nothing: its settings are
// not known then. several says that other servers may take its place.
func Read(text string, several bool) (f Facts, ok bool) {
	info := parseInfo(text)
	if info["redis_version"] == "" && info["run_id"] == "" || info["loading"] == "1" {
		return Facts{}, false
	}
	f.Evicted, _ = strconv.ParseInt(info["evicted_keys"], 10, 64)
	used, _ := strconv.ParseFloat(info["used_memory"], 64)
	most, _ := strconv.ParseFloat(info["maxmemory"], 64)
	if most > 0 {
		f.Full = used / most
	}
	for _, name := range []string{"run_id", "redis_version", "role", "aof_enabled", "maxmemory_policy", "maxmemory"} {
		f.State += info[name] + " "
	}
	_, f.Replicated = info["min_slaves_good_slaves"] // said only where it is set
	f.State += fmt.Sprint(f.Replicated, f.Evicted > 0)

	if v := info["redis_version"]; v != "" && olderThan(v, 6, 2) {
		f.Loses = append(f.Loses, fmt.Sprintf("redis %s is older than 6.2, the oldest that is supported", v))
	}
	f.aof = info["aof_enabled"] == "1"
	switch info["aof_enabled"] {
	case "0":
		f.Loses = append(f.Loses, "redis keeps no append-only file (appendonly no): accepted jobs are lost when it crashes")
	case "":
		f.Loses = append(f.Loses, "redis does not say whether it keeps an append-only file: without one, accepted jobs are lost when it crashes")
	}
	f.policy(info["maxmemory_policy"])
	if f.Evicted > 0 {
		f.Evicts = cmp.Or(f.Evicts, evictsUntold(info["maxmemory_policy"]))
		f.Loses = append(f.Loses, fmt.Sprintf("redis has evicted %d keys since it started: accepted jobs may be among them", f.Evicted))
	}
	if info["maxmemory"] == "0" {
		f.Notices = append(f.Notices, "redis has no maxmemory: when the machine's memory is used up it is killed instead of refusing jobs; set it well below that")
	}
	if several && info["role"] != "slave" && !f.Replicated {
		f.Loses = append(f.Loses, "redis accepts writes without a replica (min-replicas-to-write 0): a failover can lose accepted jobs; set it to at least 1")
	}
	return f, true
}

// evictsUntold is the policy of a Redis that has evicted keys and names none.
func evictsUntold(policy string) string {
	if policy == "" {
		return "not said"
	}
	return ""
}

func (f *Facts) policy(name string) {
	switch name {
	case "noeviction":
	case "":
		f.Loses = append(f.Loses, "redis does not say whether it evicts keys (maxmemory-policy); anything but noeviction can drop accepted jobs")
	default:
		f.Evicts = name
		f.Loses = append(f.Loses, fmt.Sprintf("redis evicts keys when it is full (maxmemory-policy %s): accepted jobs can be dropped; noeviction keeps them", name))
	}
}

// errSilent is the error of asking a Redis that does not say how it is set.
var errSilent = errors.New("redis does not say how it is set: it loads its data, or INFO is empty")

// Inspect asks a Redis whether accepted jobs are safe in it: whether it keeps an
// append-only file and syncs it at each write, evicts keys, is older than 6.2, or,
// where several servers may take each other's place, accepts writes without a
// replica. Of a cluster it asks every master. It changes nothing. The error is one
// of reaching the server, or that it does not say.
//
// Managed services often refuse CONFIG; what INFO does not say is then named as
// unknown.
func Inspect(ctx context.Context, rdb redis.UniversalClient, several bool) (Facts, error) {
	return survey(ctx, rdb, several, inspect)
}

// Survey is Inspect without what only CONFIG tells: one question to each master.
func Survey(ctx context.Context, rdb redis.UniversalClient, several bool) (Facts, error) {
	return survey(ctx, rdb, several, look)
}

func survey(ctx context.Context, rdb redis.UniversalClient, several bool, ask func(context.Context, redis.Cmdable, bool) (Facts, error)) (Facts, error) {
	cluster, ok := rdb.(*redis.ClusterClient)
	if !ok {
		return ask(ctx, rdb, several)
	}
	var (
		mu  sync.Mutex
		all Facts
	)
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		f, err := ask(ctx, node, several)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all.add(f)
		return nil
	})
	return all, err
}

// add adds what another server says.
func (f *Facts) add(other Facts) {
	join := func(to *[]string, more []string) {
		for _, s := range more {
			if !slices.Contains(*to, s) {
				*to = append(*to, s)
			}
		}
	}
	join(&f.Loses, other.Loses)
	join(&f.Notices, other.Notices)
	f.Replicated = other.Replicated && (f.Replicated || f.State == "")
	f.Evicts, f.Evicted, f.Full = cmp.Or(f.Evicts, other.Evicts), f.Evicted+other.Evicted, max(f.Full, other.Full)
	states := append(strings.Split(f.State, ", "), other.State)
	slices.Sort(states) // servers answer in any order
	f.State = strings.Trim(strings.Join(states, ", "), ", ")
}

func look(ctx context.Context, rdb redis.Cmdable, several bool) (Facts, error) {
	text, err := rdb.Info(ctx).Result()
	if err != nil {
		return Facts{}, fmt.Errorf("ask redis for its state: %w", err)
	}
	f, ok := Read(text, several)
	if !ok {
		return Facts{}, errSilent
	}
	return f, nil
}

func inspect(ctx context.Context, rdb redis.Cmdable, several bool) (Facts, error) {
	f, err := look(ctx, rdb, several)
	if err != nil || !f.aof {
		return f, err
	}
	fsync, err := configGet(ctx, rdb, "appendfsync")
	switch {
	case err != nil || fsync == "":
		f.Loses = append(f.Loses, "redis does not say how it syncs its append-only file (appendfsync); only always keeps every accepted job over a loss of power")
	case fsync != "always":
		f.Loses = append(f.Loses, fmt.Sprintf("redis syncs its append-only file with appendfsync %s: jobs accepted in the last moments can be lost with the machine; always keeps them", fsync))
	}
	return f, nil
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
