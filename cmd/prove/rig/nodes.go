package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// NodesConfig says what Nodes are made of.
type NodesConfig struct {
	// Dir is an empty folder for their data and logs.
	Dir string
	// Cluster makes three primaries with a replica each; otherwise it is a primary
	// with two replicas, and three sentinels.
	Cluster bool
	// Args are further arguments of each redis-server, such as
	// "--min-replicas-to-write", "1". Each writes its append-only file at each command.
	Args []string
	// Delay has everything between a primary and its first replicas take that much
	// longer, until a failover; not for a cluster.
	Delay time.Duration
}

// Nodes are several servers of Redis that take each other's place.
type Nodes struct {
	URL     string // as redis.url takes it
	Servers []*Node

	cluster   bool
	sentinels []*Proc
	watch     []*redis.SentinelClient
	slow      []*far
}

// Node is one server of Nodes.
type Node struct {
	*Proc
	Addr string
	RDB  *redis.Client // of this server; it does not try again
}

const (
	awayAfter = time.Second // how long a server is silent when the others call it dead
	master    = "proof"
)

// StartNodes starts the servers and returns when every replica is in step.
func StartNodes(ctx context.Context, c NodesConfig) (*Nodes, error) {
	n := &Nodes{cluster: c.Cluster}
	err := n.open(ctx, c)
	if err == nil {
		err = n.AwaitInStep(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Nodes) open(ctx context.Context, c NodesConfig) error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	number := 3
	if c.Cluster {
		number = 6
	}
	for i := range number {
		if err := n.add(ctx, c, i); err != nil {
			return err
		}
	}
	if c.Cluster {
		return n.join(ctx)
	}
	return n.follow(ctx, c)
}

// add starts a server, which is nobody's replica.
func (n *Nodes) add(ctx context.Context, c NodesConfig, i int) error {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return fmt.Errorf("a real Redis is needed: %w", err)
	}
	addr, err := FreeAddress()
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(addr)
	name := fmt.Sprintf("redis-%d", i+1)
	dir := filepath.Join(c.Dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	args := []string{
		"--dir", dir, "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "yes", "--appendfsync", "always",
		"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--loglevel", "notice",
	}
	if c.Cluster {
		bus, err := FreeAddress()
		if err != nil {
			return err
		}
		_, busPort, _ := net.SplitHostPort(bus)
		args = append(args, "--cluster-enabled", "yes", "--cluster-port", busPort,
			"--cluster-node-timeout", strconv.FormatInt(awayAfter.Milliseconds(), 10))
	}
	s := &Node{
		Addr: addr,
		Proc: &Proc{Name: name, Path: path, Args: append(args, c.Args...), Env: environ(), Log: filepath.Join(c.Dir, name+".log")},
		RDB: redis.NewClient(&redis.Options{
			Addr: addr, MaxRetries: -1, DialerRetries: 1, DialTimeout: awayAfter, ReadTimeout: awayAfter,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		}),
	}
	n.Servers = append(n.Servers, s)
	if err := s.Start(); err != nil {
		return err
	}
	return s.awaitAnswer(ctx)
}

func (s *Node) awaitAnswer(ctx context.Context) error {
	return Until(ctx, 20*time.Second, s.Name+" answers", func(ctx context.Context) (bool, error) {
		c, err := net.Dial("tcp", s.Addr) // the client complains aloud where there is nobody
		if err != nil {
			return false, nil
		}
		return errors.Join(c.Close(), s.RDB.Ping(ctx).Err()) == nil, nil
	})
}

// follow makes the second and third server replicas, and starts the sentinels.
func (n *Nodes) follow(ctx context.Context, c NodesConfig) error {
	first := n.Servers[0].Addr
	for _, s := range n.Servers[1:] {
		to := first
		if c.Delay > 0 {
			f, err := startFar(first, 2*c.Delay)
			if err != nil {
				return err
			}
			n.slow, to = append(n.slow, f), f.addr()
		}
		host, port, _ := net.SplitHostPort(to)
		if err := s.RDB.ReplicaOf(ctx, host, port).Err(); err != nil {
			return fmt.Errorf("make %s a replica: %w", s.Name, err)
		}
	}
	var addrs []string
	for i := range 3 {
		addr, err := FreeAddress()
		if err != nil {
			return err
		}
		_, port, _ := net.SplitHostPort(addr)
		_, primary, _ := net.SplitHostPort(first)
		name := fmt.Sprintf("sentinel-%d", i+1)
		file := filepath.Join(c.Dir, name+".conf")
		text := fmt.Sprintf(`bind 127.0.0.1
port %s
dir %q
sentinel monitor %[3]s 127.0.0.1 %[4]s 2
sentinel down-after-milliseconds %[3]s %[5]d
sentinel failover-timeout %[3]s 5000
sentinel parallel-syncs %[3]s 2
`, port, c.Dir, master, primary, awayAfter.Milliseconds())
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
		p := &Proc{Name: name, Path: n.Servers[0].Path, Args: []string{file, "--sentinel"}, Env: environ(), Log: filepath.Join(c.Dir, name+".log")}
		n.sentinels, addrs = append(n.sentinels, p), append(addrs, addr)
		if err := p.Start(); err != nil {
			return err
		}
		n.watch = append(n.watch, redis.NewSentinelClient(&redis.Options{
			Addr: addr, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		}))
	}
	n.URL = "redis+sentinel://" + strings.Join(addrs, ",") + "/" + master
	return Until(ctx, 20*time.Second, "the sentinels know each other and the replicas", func(ctx context.Context) (bool, error) {
		for _, w := range n.watch {
			m, err := w.Master(ctx, master).Result()
			if err != nil || m["num-slaves"] != "2" || m["num-other-sentinels"] != "2" {
				return false, nil
			}
		}
		return true, nil
	})
}

// join makes a cluster of the servers: the first three have the slots, and each of
// the others follows one of them.
func (n *Nodes) join(ctx context.Context) error {
	const slots = 16384
	var ids, addrs []string
	for i, s := range n.Servers {
		id, err := s.RDB.Do(ctx, "CLUSTER", "MYID").Text()
		if err != nil {
			return err
		}
		ids, addrs = append(ids, id), append(addrs, s.Addr)
		if err := s.RDB.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			return err
		}
		if i < 3 {
			if err := s.RDB.ClusterAddSlotsRange(ctx, i*slots/3, (i+1)*slots/3-1).Err(); err != nil {
				return err
			}
		}
		if i == 0 {
			continue
		}
		host, port, _ := net.SplitHostPort(n.Servers[0].Addr)
		bus := n.Servers[0].Args[slices.Index(n.Servers[0].Args, "--cluster-port")+1]
		if err := s.RDB.Do(ctx, "CLUSTER", "MEET", host, port, bus).Err(); err != nil {
			return err
		}
	}
	n.URL = "redis+cluster://" + strings.Join(addrs, ",")
	for i, s := range n.Servers {
		err := Until(ctx, 20*time.Second, "the cluster knows all of its servers", func(ctx context.Context) (bool, error) {
			if i >= 3 {
				return s.RDB.ClusterReplicate(ctx, ids[i-3]).Err() == nil, nil // not before it knows the primary
			}
			info, err := s.RDB.ClusterInfo(ctx).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:6"), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// role is what a server says of itself in INFO replication; empty while it is away.
func (s *Node) role(ctx context.Context) map[string]string {
	text, err := s.RDB.InfoMap(ctx, "replication").Result()
	if err != nil {
		return nil
	}
	return text["Replication"]
}

// Primary is the server that has a key, as the others say; nil when they know none.
func (n *Nodes) Primary(ctx context.Context, key string) *Node {
	addr := ""
	if !n.cluster {
		for _, w := range n.watch {
			if at, err := w.GetMasterAddrByName(ctx, master).Result(); err == nil {
				addr = net.JoinHostPort(at[0], at[1])
				break
			}
		}
	} else {
		for _, s := range n.Servers {
			slot, err := s.RDB.ClusterKeySlot(ctx, key).Result()
			if err != nil {
				continue
			}
			shards, err := s.RDB.ClusterShards(ctx).Result()
			if err != nil {
				continue
			}
			for _, shard := range shards {
				has := slices.ContainsFunc(shard.Slots, func(r redis.SlotRange) bool { return r.Start <= slot && slot <= r.End })
				for _, node := range shard.Nodes {
					if has && node.Role == "master" && node.Health == "online" {
						addr = net.JoinHostPort("127.0.0.1", strconv.FormatInt(node.Port, 10))
					}
				}
			}
			break
		}
	}
	i := slices.IndexFunc(n.Servers, func(s *Node) bool { return s.Addr == addr })
	if i < 0 {
		return nil
	}
	return n.Servers[i]
}

// AwaitOther waits until another server than was has the key, and takes writes.
func (n *Nodes) AwaitOther(ctx context.Context, was *Node, key string) error {
	// Sentinels whose election fails hold another after twice failover-timeout, and
	// those that had no processor wait for 30 s.
	return Until(ctx, time.Minute, "another server has taken the place of "+was.Name, func(ctx context.Context) (bool, error) {
		p := n.Primary(ctx, key)
		return p != nil && p != was && p.role(ctx)["role"] == "master", nil
	})
}

// AwaitInStep waits until every server answers, and every replica has what its
// primary has.
func (n *Nodes) AwaitInStep(ctx context.Context) error {
	primaries := 1
	if n.cluster {
		primaries = 3
	}
	return Until(ctx, time.Minute, "every replica is in step", func(ctx context.Context) (bool, error) {
		masters := 0
		for _, s := range n.Servers {
			switch r := s.role(ctx); {
			case r["role"] == "master":
				masters++
			case r["role"] == "slave" && r["master_link_status"] == "up" && r["master_sync_in_progress"] == "0":
			default:
				return false, nil
			}
		}
		return masters == primaries, nil
	})
}

// quicken ends what NodesConfig.Delay began.
func (n *Nodes) quicken() error {
	var errs []error
	for _, f := range n.slow {
		errs = append(errs, f.close())
	}
	n.slow = nil
	return errors.Join(errs...)
}

// Close ends every server.
func (n *Nodes) Close() error {
	errs := []error{n.quicken()}
	for _, w := range n.watch {
		errs = append(errs, w.Close())
	}
	for _, p := range n.sentinels {
		errs = append(errs, p.Kill())
	}
	for _, s := range n.Servers {
		errs = append(errs, s.Kill(), s.RDB.Close())
	}
	return errors.Join(errs...)
}
