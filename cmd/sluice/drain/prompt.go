package drain

import (
	"encoding/json"
	"strconv"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/estimate"
)

// prompt is one line of the input, and the digest by which it is known again.
type prompt struct {
	tasks.Job
	digest  string
	sample  int    // which of several answers to the line; 0: there is one
	columns []byte // of a table: those that are not asked, as a JSON object; nil: no table
	place   int    // among all prompts
	tries   int    // answers to it that the schema refused
}

// mark is what an answer, or a job that will bring one, is known by.
type mark struct {
	digest, customID string
	line, sample     int
}

func (m mark) knownBy() mark { return m }

// match gives each of what came a prompt that asks the same and is not done: that of
// its custom_id, else that of its line, else the first. It returns the prompts' indexes,
// -1 for none, and marks them as done.
func match[T interface{ knownBy() mark }](all []prompt, came []T, done []bool) []int {
	type named struct {
		digest, name string
		sample       int
	}
	type placed struct {
		digest       string
		line, sample int
	}
	byName, byLine, open := map[named]int{}, map[placed]int{}, map[string][]int{}
	for i := range all {
		if p := &all[i]; !done[i] {
			byName[named{p.digest, p.CustomID, p.sample}] = i
			byLine[placed{p.digest, p.Line, p.sample}] = i
			open[p.digest] = append(open[p.digest], i)
		}
	}
	out := make([]int, len(came))
	for i := range out {
		out[i] = -1
	}
	give := func(find func(m mark) (int, bool)) {
		for i := range came {
			if out[i] >= 0 {
				continue
			}
			if at, ok := find(came[i].knownBy()); ok && !done[at] {
				out[i], done[at] = at, true
			}
		}
	}
	give(func(m mark) (int, bool) { at, ok := byName[named{m.digest, m.customID, m.sample}]; return at, ok })
	give(func(m mark) (int, bool) { at, ok := byLine[placed{m.digest, m.line, m.sample}]; return at, ok })
	give(func(m mark) (int, bool) {
		list := open[m.digest]
		for len(list) > 0 && done[list[0]] {
			list = list[1:]
		}
		open[m.digest] = list
		if len(list) == 0 {
			return 0, false
		}
		return list[0], true
	})
	return out
}

// undone are the prompts that are not done.
func undone(all []prompt, done []bool) (left []prompt) {
	for i := range all {
		if !done[i] {
			left = append(left, all[i])
		}
	}
	return left
}

// textPrompt is a prompt that is nothing but a text.
func (c *Config) textPrompt(o Options, line int, text string) prompt {
	pool, _ := c.Match(o.Model)
	body, _ := json.Marshal(text) // a string is always JSON
	p := prompt{Job: tasks.Job{
		Model: o.Model, Pool: pool, Priority: tasks.Normal, Line: line, CustomID: strconv.Itoa(line),
		Request: tasks.Request{Kind: tasks.Text, Body: body, MaxTokens: o.MaxTokens},
	}}
	estimate.Fill(o.Model, &p.Request)
	return p
}
