package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks/redisd"
)

// redisConn is this process's way to Redis, embedded or not.
type redisConn struct {
	embedded *redisd.Server // nil: an external Redis
	target   config.RedisTarget
	most     int64 // redis.max_connections; 0: each client has what it asks for
	calls    *atomic.Int64
	opened   []redis.UniversalClient
	registry prometheus.Registerer
}

// openRedis starts the embedded Redis or reads how to reach the configured one,
// which may come later.
func openRedis(ctx context.Context, cfg *config.Config, log *slog.Logger, reg prometheus.Registerer) (*redisConn, error) {
	r := &redisConn{most: cfg.Redis.MaxConnections, calls: new(atomic.Int64), registry: reg}
	if cfg.Redis.URL == "" {
		if cfg.DataDir == "" {
			return nil, errors.New("data_dir is needed for the embedded Redis; or set redis.url")
		}
		server, err := redisd.Start(ctx, redisd.Config{Dir: cfg.DataDir, MaxMemory: cfg.Redis.MaxMemory, AllowMemory: true, Log: log})
		if err != nil {
			return nil, fmt.Errorf("start the embedded Redis: %w", err)
		}
		r.embedded = server
	} else {
		target, err := cfg.Redis.Target()
		if err != nil {
			return nil, err
		}
		r.target = target
	}
	if reg != nil {
		reg.MustRegister(
			prometheus.NewCounterFunc(prometheus.CounterOpts{
				Name: "sluice_redis_calls_total", Help: "Round trips to Redis; a pipeline is one.",
			}, func() float64 { return float64(r.calls.Load()) }),
		)
	}
	return r, nil
}

// beside is how many bytes the embedded Redis takes at most; 0: it is elsewhere.
func (r *redisConn) beside() int64 {
	if r.embedded == nil {
		return 0
	}
	return r.embedded.MaxMemory()
}

// ordinary is the number of connections that the clients' own numbers are made for.
// Those who listen have one each beside them.
const ordinary = 200

// open opens a client with room for conns connections at once, or for its share of
// redis.max_connections where that is not the ordinary number.
func (r *redisConn) open(conns int) redis.UniversalClient {
	if r.most > 0 {
		conns = max(2, int(int64(conns)*r.most/ordinary))
	}
	var c redis.UniversalClient
	if r.embedded != nil {
		o := *r.embedded.Options()
		o.PoolSize = conns
		c = redis.NewClient(&o)
	} else {
		c = r.target.Client(conns)
	}
	c.AddHook(callCounter{r.calls})
	r.opened = append(r.opened, c)
	return c
}

// cluster reports whether keys may lie on different servers.
func (r *redisConn) cluster() bool { return r.embedded == nil && r.target.Kind == config.ClusterRedis }

// several reports whether other servers may take this one's place.
func (r *redisConn) several() bool {
	return r.embedded == nil && r.target.Kind != config.SingleRedis
}

// plain is the client that was opened first, as it is: of a cluster a ClusterClient.
func (r *redisConn) plain() redis.UniversalClient { return r.opened[0] }

// close closes every client, then the embedded server.
func (r *redisConn) close() error {
	var errs []error
	for _, c := range r.opened {
		errs = append(errs, c.Close())
	}
	if r.embedded != nil {
		errs = append(errs, r.embedded.Close())
	}
	return errors.Join(errs...)
}

// run supervises the embedded server until ctx ends.
func (r *redisConn) run(ctx context.Context) error {
	if r.embedded == nil {
		<-ctx.Done()
		return nil
	}
	return r.embedded.Run(ctx)
}

// lent is a client that asynqmon may use and must not close.
type lent struct{ redis.UniversalClient }

// MakeRedisClient is what Asynq asks of a connection.
func (l lent) MakeRedisClient() interface{} { return l.UniversalClient }

// Close leaves the client open: its owner closes it.
func (l lent) Close() error { return nil }

// callCounter counts round trips.
type callCounter struct{ n *atomic.Int64 }

func (c callCounter) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (c callCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.n.Add(1)
		return next(ctx, cmd)
	}
}

func (c callCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.n.Add(1)
		return next(ctx, cmds)
	}
}
