// Command prove shows that no accepted job is lost and none is paid for twice
// without a reason, whatever is killed.
//
// It starts two APIs, three workers and a Redis that writes each command to
// disk, submits jobs, and kills a random worker, an API and Redis with kill -9
// again and again while they are done. Then it holds the jobs' records against
// what the provider has seen. It prints what it counted, and exits with 1 when
// a guarantee was broken. Workers are also stopped (SIGSTOP) for longer than
// their lease and let go on, so that they come back with late results. It is a proof, not a part of the product.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := program(ctx)
	stop()
	os.Exit(code)
}

func program(ctx context.Context) int {
	p := plan{}
	flag.IntVar(&p.jobs, "jobs", 2000, "jobs to submit, four in ten of them in batches")
	flag.Float64Var(&p.rate, "rate", 25, "calls a second that the provider allows")
	flag.DurationVar(&p.latency, "latency", 150*time.Millisecond, "mean time of a call")
	flag.IntVar(&p.workerKills, "worker-kills", 8, "how often a worker is killed")
	flag.IntVar(&p.apiKills, "api-kills", 5, "how often an API is killed")
	flag.IntVar(&p.redisKills, "redis-kills", 5, "how often Redis is killed")
	flag.IntVar(&p.freezes, "freezes", 2, "how often a worker is stopped for longer than its lease, and let go on")
	flag.DurationVar(&p.redisDown, "redis-down", 4*time.Second, "how long Redis stays away at most, and at its last kill")
	flag.Uint64Var(&p.seed, "seed", 0, "of the kills; 0 draws one")
	flag.StringVar(&p.bin, "bin", "", "the program; without it it is built")
	dir := flag.String("dir", "", "an empty folder for data and logs, kept; without it one is made and removed")
	limit := flag.Duration("timeout", 4*time.Minute, "the proof fails when it takes longer")
	flag.Parse()
	if flag.NArg() > 0 || p.jobs < 10 || p.rate <= 0 {
		flag.Usage()
		return 2
	}
	if p.seed == 0 {
		p.seed = uint64(time.Now().UnixNano())
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()

	if *dir == "" {
		made, err := os.MkdirTemp("", "prove")
		if err != nil {
			fmt.Fprintln(os.Stderr, "prove:", err)
			return 1
		}
		defer os.RemoveAll(made)
		*dir = made
	}
	fmt.Printf("%d jobs, 2 APIs, 3 workers, appendfsync always; seed %d\n", p.jobs, p.seed)
	r, err := prove(ctx, p, *dir, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "prove:", err)
		return 1
	}
	r.print(os.Stdout)
	if len(r.broken) > 0 {
		return 1
	}
	return 0
}
