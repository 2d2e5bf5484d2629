package bench

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"
)

// watchRedis makes Redis note every command, to be told by redisTime where its
// time went. It costs a little itself, so it is only done when asked for.
func (st *stack) watchRedis(ctx context.Context) error {
	if !st.slow {
		return nil
	}
	for name, value := range map[string]string{"slowlog-max-len": "1000000", "slowlog-log-slower-than": "0"} {
		if err := st.RDB.ConfigSet(ctx, name, value).Err(); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if err := st.RDB.SlowLogReset(ctx).Err(); err != nil {
		return fmt.Errorf("empty the slow log: %w", err)
	}
	return nil
}

// redisTime prints the time that Redis spent on each kind of command since
// watchRedis, for each of the jobs.
func (st *stack) redisTime(ctx context.Context, jobs int) error {
	if !st.slow {
		return nil
	}
	if err := st.RDB.ConfigSet(ctx, "slowlog-log-slower-than", "-1").Err(); err != nil {
		return fmt.Errorf("end the slow log: %w", err)
	}
	log, err := st.RDB.SlowLogGet(ctx, -1).Result()
	if err != nil {
		return fmt.Errorf("read the slow log: %w", err)
	}
	kinds := kindsOf(log)
	fmt.Printf("\nRedis's own time, %d commands\n\n", len(log))
	t := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "calls\ta job\tus a call\tus a job\t  command\t")
	for _, k := range kinds[:min(len(kinds), 25)] {
		us := float64(k.spent.Microseconds())
		fmt.Fprintf(t, "%d\t%.2f\t%.0f\t%.0f\t  %s\t\n", k.calls, float64(k.calls)/float64(jobs), us/float64(k.calls), us/float64(jobs), k.name)
	}
	return t.Flush()
}

// kind is what one kind of command took.
type kind struct {
	name  string
	calls int
	spent time.Duration
}

// kindsOf adds up commands by their kind, those that took the longest first.
func kindsOf(log []redis.SlowLog) []*kind {
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
	return slices.SortedFunc(maps.Values(kinds), func(a, b *kind) int { return cmp.Compare(b.spent, a.spent) })
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
	return identifier.ReplaceAllStringFunc(key, func(word string) string {
		if strings.ContainsAny(word, "0123456789") {
			return "*"
		}
		return word
	})
}

var identifier = regexp.MustCompile(`[^:{}_.-]{10,}`)
