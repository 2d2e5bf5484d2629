package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// watchRedis makes Redis note every command, to be told by redisTime where its
// time went. It costs a little itself, so it is only done when asked for.
func (st *stack) watchRedis(ctx context.Context) error {
	if !st.b.slow {
		return nil
	}
	for name, value := range map[string]string{"slowlog-max-len": "1000000", "slowlog-log-slower-than": "0"} {
		if err := st.rdb.ConfigSet(ctx, name, value).Err(); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if err := st.rdb.SlowLogReset(ctx).Err(); err != nil {
		return fmt.Errorf("empty the slow log: %w", err)
	}
	return nil
}

// redisTime prints the time that Redis spent on each kind of command since
// watchRedis, of so many jobs.
func (st *stack) redisTime(ctx context.Context, jobs int) error {
	if !st.b.slow {
		return nil
	}
	if err := st.rdb.ConfigSet(ctx, "slowlog-log-slower-than", "-1").Err(); err != nil {
		return fmt.Errorf("end the slow log: %w", err)
	}
	log, err := st.rdb.SlowLogGet(ctx, -1).Result()
	if err != nil {
		return fmt.Errorf("read the slow log: %w", err)
	}
	type kind struct {
		name  string
		calls int
		spent time.Duration
	}
	kinds := map[string]*kind{}
	for _, e := range log {
		name := commandKind(e.Args)
		k := kinds[name]
		if k == nil {
			k = &kind{name: name}
			kinds[name] = k
		}
		k.calls++
		k.spent += e.Duration
	}
	var list []*kind
	for _, k := range kinds {
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b *kind) int { return cmp.Compare(b.spent, a.spent) })
	fmt.Printf("\nRedis's own time, %d commands\n\n", len(log))
	t := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "calls\ta job\tus a call\tus a job\t  command\t")
	for _, k := range list[:min(len(list), 25)] {
		us := float64(k.spent.Microseconds())
		fmt.Fprintf(t, "%d\t%.2f\t%.0f\t%.0f\t  %s\t\n", k.calls, float64(k.calls)/float64(jobs), us/float64(k.calls), us/float64(jobs), k.name)
	}
	return t.Flush()
}

// commandKind names a command, and a script by its digest's beginning and its
// first keys, without what differs from job to job.
func commandKind(args []string) string {
	if len(args) == 0 {
		return ""
	}
	name := strings.ToLower(args[0])
	if (name != "evalsha" && name != "eval") || len(args) < 4 {
		return name
	}
	digest := args[1][:min(8, len(args[1]))]
	var keys []string
	for _, k := range args[3:min(len(args), 5)] {
		if len(k) > 40 {
			k = k[:40] + "..."
		}
		keys = append(keys, masked(k))
	}
	return name + " " + digest + " " + strings.Join(keys, " ")
}

// masked replaces what looks like an identifier: ten or more letters and
// digits of which some are digits.
func masked(key string) string {
	parts := strings.FieldsFunc(key, func(r rune) bool { return strings.ContainsRune(":{}_-.", r) })
	for _, p := range parts {
		if len(p) >= 10 && strings.ContainsAny(p, "0123456789") {
			key = strings.Replace(key, p, "*", 1)
		}
	}
	return key
}
