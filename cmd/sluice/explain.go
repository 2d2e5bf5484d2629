package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// ExplainCmd prints a job's timeline.
type ExplainCmd struct {
	ID          string `arg:"" help:"The job's id."`
	JSON        bool   `name:"json" help:"Print what the API answers."`
	ClientFlags `embed:""`
}

// span is a part of a timeline as the API has it.
type span struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Seconds float64   `json:"seconds"`
	What    string    `json:"what"`
	For     *string   `json:"for"`
	Detail  *string   `json:"detail"`
}

// Run prints a table, and of a job that waits what happens next.
func (c *ExplainCmd) Run(ctx context.Context, env *Env) error {
	api, err := c.client(env)
	if err != nil {
		return err
	}
	defer api.close()
	b, err := api.call(ctx, http.MethodGet, "/v1/jobs/"+url.PathEscape(c.ID)+"/timeline", nil, nil)
	if err != nil {
		return err
	}
	if c.JSON {
		return printLine(env.Stdout, b)
	}
	var timeline struct {
		Data []span `json:"data"`
	}
	if err := json.Unmarshal(b, &timeline); err != nil || timeline.Data == nil {
		return errors.New("the answer is not a timeline: is this the address of a Sluice API that has them?")
	}
	j, err := api.getJob(ctx, c.ID, 0, false)
	if err != nil {
		return err
	}
	if err := printSpans(env.Stdout, timeline.Data); err != nil {
		return err
	}
	_, err = fmt.Fprintf(env.Stdout, "\n%s\n", j.next())
	return err
}

// printSpans prints a timeline, and at last how long what took.
func printSpans(out io.Writer, spans []span) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FROM\tSECONDS\tWHAT\tFOR\tDETAIL")
	total := map[string]float64{}
	for _, s := range spans {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.From.Format("2006-01-02 15:04:05.000Z07:00"), decimals(s.Seconds), orDash(&s.What), orDash(s.For), orDash(s.Detail))
		total[s.What] += s.Seconds
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%s s waiting, %s s handover, %s s attempts\n", decimals(total["waiting"]), decimals(total["handover"]), decimals(total["attempt"]))
	return err
}

func decimals(seconds float64) string { return strconv.FormatFloat(seconds, 'f', 3, 64) }

// next says in words what happens next to a job.
func (j *job) next() string {
	switch {
	case j.final():
		if err := j.failure(); err != nil {
			return err.Error() + ". Nothing happens next; POST /v1/jobs/" + j.ID + "/retry queues it again."
		}
		return j.ID + " " + j.Status + "."
	case j.Status == "running":
		return j.ID + " is running: sluice watch " + j.ID + " shows its text as it comes."
	case j.Waiting == nil || j.Waiting.For == nil:
		return j.ID + " is " + j.Status + "; what it waits for cannot be told now: ask again."
	}
	said := tasks.WaitReason(*j.Waiting.For).Words().Next
	if j.Waiting.Position > 0 {
		said += fmt.Sprintf(" It has place %d among its tenant's own.", j.Waiting.Position)
	}
	if at := j.Waiting.Start; at != nil {
		said += " Expected start: " + at.Format(time.RFC3339) + "."
	}
	return j.ID + " is " + j.Status + ". " + said
}
