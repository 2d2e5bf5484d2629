package drain

import (
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// load is what a model's lines may take.
type load struct {
	jobs          int
	input, output int64
}

func loadOf(r *tasks.Request) load {
	return load{1, int64(r.InputTokens), max(int64(r.MaxTokens), int64(r.OutputTokens))}
}

func (l load) plus(m load) load { return load{l.jobs + m.jobs, l.input + m.input, l.output + m.output} }

// dryRun tells what a run would ask, and asks nothing.
func dryRun(c *Config, o Options, s *standard, in promptFile) error {
	left, err := unanswered(o, s, in.prompts)
	if err != nil {
		return err
	}
	if all := len(in.prompts); len(left) == 0 {
		fmt.Fprintf(c.Stdout, "nothing is left to ask: all %d jobs were done by an earlier run; --fresh asks again\n", all)
	} else {
		tellLoad(c, left)
		if n := all - len(left); n > 0 {
			fmt.Fprintf(c.Stdout, "%d of %d jobs were done by an earlier run and are left out\n", n, all)
		}
		if leftBehind(c, o, in.raw) {
			fmt.Fprintln(c.Stdout, "an earlier run has left jobs behind: those that were answered are counted here, and are not asked again")
		}
	}
	if n := len(in.invalid); n > 0 {
		fmt.Fprintf(c.Stdout, "%d faulty lines are left out\n", n)
	}
	_, err = fmt.Fprintln(c.Stdout, "nothing was sent")
	return err
}

// leftBehind reports whether the folder of a run holds jobs. What became of them
// stands in the folder's Redis, which is started to ask something.
func leftBehind(c *Config, o Options, raw []byte) bool {
	path := ""
	if o.Out != "" {
		path, _ = realPath(o.Out) // without the file there are no results, but for what the folder has
	}
	return !o.Fresh && c.DataDir != "" && folderOf(c.DataDir, o, path, raw).begun()
}

// tellLoad tells what prompts may take, by model, and how long that is in each pool.
// Input tokens are estimated; output tokens are the most that the lines allow, which
// few answers reach.
func tellLoad(c *Config, left []prompt) {
	var all load
	byModel, byPool := map[string]load{}, map[string]load{}
	for i := range left {
		p := &left[i]
		l := loadOf(&p.Request)
		all, byModel[p.Model], byPool[p.Pool] = all.plus(l), byModel[p.Model].plus(l), byPool[p.Pool].plus(l)
	}
	w := tabwriter.NewWriter(c.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "MODEL\tJOBS\tINPUT TOKENS, ABOUT\tOUTPUT TOKENS, AT MOST\tPRICE, AT MOST\t")
	var cost tasks.Money
	unpriced := 0
	for _, model := range slices.Sorted(maps.Keys(byModel)) {
		l := byModel[model]
		price := "not known"
		if p, ok := c.Prices.Of(model, time.Now()); ok {
			amount := p.Of(tasks.Usage{InputTokens: l.input, OutputTokens: l.output}, tasks.Served{})
			cost += amount
			price = money(amount)
		} else {
			unpriced++
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t\n", model, l.jobs, l.input, l.output, price)
	}
	total := money(cost)
	switch unpriced {
	case 0:
	case len(byModel):
		total = "not known"
	default:
		total += " and more"
	}
	fmt.Fprintf(w, "all\t%d\t%d\t%d\t%s\t\n", all.jobs, all.input, all.output, total)
	_ = w.Flush() // what cannot be written now cannot at the end either, which says so
	for _, p := range c.Pools {
		if l := byPool[p.Name]; l.jobs > 0 {
			d, binds := p.atPace(l)
			fmt.Fprintf(c.Stdout, "pool %s: at most %s at the allowed pace; %s bind\n", p.Name, d, binds)
		}
	}
}

// atPace is how long a pool's allowance takes for a load, and what of it binds.
func (p *Pool) atPace(l load) (time.Duration, string) {
	var longest time.Duration
	binds := "requests"
	for _, d := range []struct {
		what            string
		need, per, free int64
	}{{"requests", int64(l.jobs), p.Requests, p.Burst}, {"input tokens", l.input, p.InputTokens, 0}, {"output tokens", l.output, p.OutputTokens, 0}} {
		if d.per == 0 {
			continue
		}
		if t := time.Duration(float64(max(0, d.need-d.free)) / float64(d.per) * float64(time.Minute)); t > longest {
			longest, binds = t, d.what
		}
	}
	return longest.Round(time.Second), binds
}
