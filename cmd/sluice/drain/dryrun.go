package drain

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// load is what a model's lines may take.
type load struct {
	jobs          int
	input, output int64
}

func (l *load) add(r *tasks.Request) {
	l.jobs++
	l.input += int64(r.InputTokens)
	l.output += max(int64(r.MaxTokens), int64(r.OutputTokens))
}

// dryRun tells what a run would ask, and asks nothing. Input tokens are estimated;
// output tokens are the most that the lines allow, which few answers reach.
func dryRun(c *Config, o Options, s *standard, in promptFile) error {
	left, err := unanswered(o, s, in.prompts)
	if err != nil {
		return err
	}
	var models []string
	byModel, byPool := map[string]*load{}, map[string]*load{}
	for i := range left {
		p := &left[i]
		if byModel[p.Model] == nil {
			byModel[p.Model] = &load{}
			models = append(models, p.Model)
		}
		if byPool[p.Pool] == nil {
			byPool[p.Pool] = &load{}
		}
		byModel[p.Model].add(&p.Request)
		byPool[p.Pool].add(&p.Request)
	}
	w := tabwriter.NewWriter(c.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "MODEL\tJOBS\tINPUT TOKENS, ABOUT\tOUTPUT TOKENS, AT MOST\tPRICE, AT MOST\t")
	var all load
	var cost float64
	unpriced := 0
	for _, model := range models {
		l := byModel[model]
		price := "not known"
		if p, ok := priceOf(c.Prices, model); ok {
			amount := p.of(&tasks.Usage{InputTokens: l.input, OutputTokens: l.output})
			cost += amount
			price = money(amount)
		} else {
			unpriced++
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t\n", model, l.jobs, l.input, l.output, price)
		all.jobs, all.input, all.output = all.jobs+l.jobs, all.input+l.input, all.output+l.output
	}
	total := money(cost)
	switch {
	case unpriced > 0 && unpriced == len(models):
		total = "not known"
	case unpriced > 0:
		total += " and more"
	}
	fmt.Fprintf(w, "all\t%d\t%d\t%d\t%s\t\n", all.jobs, all.input, all.output, total)
	if err := w.Flush(); err != nil {
		return err
	}
	if n := len(in.prompts) - len(left); n > 0 {
		fmt.Fprintf(c.Stdout, "%d of %d jobs were done by an earlier run and are left out\n", n, len(in.prompts))
	}
	if n := len(in.invalid); n > 0 {
		fmt.Fprintf(c.Stdout, "%d faulty lines are left out\n", n)
	}
	for _, p := range c.Pools {
		if l := byPool[p.Name]; l != nil {
			d, binds := p.atPace(l)
			fmt.Fprintf(c.Stdout, "pool %s: at most %s at the allowed pace; %s bind\n", p.Name, d, binds)
		}
	}
	_, err = fmt.Fprintln(c.Stdout, "nothing was sent")
	return err
}

// atPace is how long a pool's allowance takes for a load, and what of it binds.
func (p *Pool) atPace(l *load) (time.Duration, string) {
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
