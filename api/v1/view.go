package v1

import (
	"bytes"
	"cmp"
	"hash/fnv"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// job appends a job as callers see it. waiting is nil, or has a zero For, when
// it waits for nothing.
func (a *API) job(b []byte, j *tasks.Job, waiting *tasks.Waiting) []byte {
	o := jsonwrite.Object{B: b}
	o.Str("id", j.ID)
	o.Str("object", "job")
	o.Str("status", string(j.Status))
	o.Str("model", j.Model)
	o.Str("pool", j.Pool)
	o.Str("priority", string(j.Priority))
	o.Num("attempts", int64(j.Attempts))
	o.Time("created_at", j.CreatedAt)
	o.Time("not_before", j.NotBefore)
	o.Time("deadline", j.Deadline)
	o.Time("started_at", j.StartedAt)
	o.Time("finished_at", j.FinishedAt)
	o.Time("expires_at", j.ExpiresAt)
	if waiting == nil || waiting.For == "" {
		o.Null("waiting")
	} else {
		o.Within("waiting", func(o *jsonwrite.Object) {
			o.Str("for", string(waiting.For))
			o.Num("position", waiting.Position)
			o.Time("estimated_start_at", waiting.EstimatedStart)
			o.Time("estimated_start_at_p90", waiting.EstimatedStart90)
			o.Time("as_of", waiting.AsOf)
			o.Bool("degraded", waiting.Degraded)
		})
	}
	writeOutcome(&o, j)
	a.writeUpstream(&o, j)
	o.Within("metadata", func(o *jsonwrite.Object) {
		for _, key := range slices.Sorted(maps.Keys(j.Metadata)) {
			o.Pair(key, j.Metadata[key])
		}
	})
	if j.Batch != "" {
		o.Str("batch", j.Batch)
		o.Str("custom_id", j.CustomID)
		o.Num("line", int64(j.Line))
	}
	o.Within("links", func(o *jsonwrite.Object) {
		self := a.jobURL(j.ID)
		o.Str("self", self)
		o.Str("events", self+"/events")
		o.Str("cancel", self+"/cancel")
		if j.Batch != "" {
			o.Str("batch", a.batchURL(j.Batch))
		}
	})
	return o.End()
}

// wholeSecond rounds an estimate: it is no more exact, and an entity tag that
// changed with each millisecond would never match.
func wholeSecond(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	if whole := t.Truncate(time.Second); whole.Before(t) {
		return whole.Add(time.Second) // never before the moment that it is counted from
	}
	return t
}

// writeOutcome writes result, text, finish, error, usage and cost, as a job and a line of a
// batch's results both have them.
func writeOutcome(o *jsonwrite.Object, j *tasks.Job) {
	if j.Status == tasks.StatusSucceeded && len(j.Result) > 0 {
		o.Name("result")
		o.B = append(o.B, j.Result...)
		o.Str("text", tasks.ResultText(j.Result))
	} else {
		o.Null("result")
		o.Null("text")
	}
	o.Optional("finish", string(j.Finish))
	if e := j.Error; e == nil {
		o.Null("error")
	} else {
		o.Within("error", func(o *jsonwrite.Object) {
			o.Str("code", string(e.Code))
			o.Str("message", e.Message)
			o.OptionalNum("upstream_status", int64(e.UpstreamStatus))
			o.Bool("maybe_billed", e.MaybeBilled)
		})
	}
	writeUsage(o, j.Usage)
	if cost, ok := j.Cost(); ok {
		writeCost(o, &cost)
	}
}

func writeUsage(o *jsonwrite.Object, u *tasks.Usage) {
	if u == nil {
		o.Null("usage")
		return
	}
	o.Within("usage", func(o *jsonwrite.Object) {
		o.Num("input_tokens", u.InputTokens)
		o.Num("output_tokens", u.OutputTokens)
		o.Num("cache_read_input_tokens", u.CacheReadInputTokens)
		o.Num("cache_creation_input_tokens", u.CacheCreationInputTokens)
	})
}

// writeCost writes amounts of money as numbers with all their digits.
func writeCost(o *jsonwrite.Object, c *tasks.Cost) {
	if c == nil {
		o.Null("cost")
		return
	}
	o.Within("cost", func(o *jsonwrite.Object) {
		o.Raw("amount", c.Amount.String())
		o.Str("currency", tasks.Currency)
		o.Raw("maybe", c.Maybe.String())
	})
}

func (a *API) writeUpstream(o *jsonwrite.Object, j *tasks.Job) {
	provider := j.Provider
	switch {
	case provider == "" && len(j.Log) == 0:
		o.Null("upstream")
		return
	case provider == "":
		provider = a.c.Pools.Provider(j.Pool) // the record has it once an attempt has ended
	}
	o.Within("upstream", func(o *jsonwrite.Object) {
		o.Optional("provider", provider)
		var ids []string
		account := ""
		for i := range j.Log {
			account = cmp.Or(j.Log[i].Account, account)
			if id := j.Log[i].RequestID; id != "" {
				ids = append(ids, id)
			}
		}
		o.Optional("account", account)
		o.Strs("request_ids", ids)
		o.List("attempts", len(j.Log), func(b []byte, i int) []byte {
			entry, at := jsonwrite.Object{B: b}, &j.Log[i]
			entry.Num("n", int64(at.N))
			entry.Time("started_at", at.StartedAt)
			entry.Time("ended_at", at.EndedAt)
			entry.Str("outcome", string(at.Outcome))
			entry.OptionalNum("status", int64(at.Status))
			entry.Optional("request_id", at.RequestID)
			entry.Optional("model", at.Model)
			entry.Bool("maybe_billed", at.MaybeBilled)
			if at.Batch != "" {
				entry.Str("native_batch", at.Batch)
			}
			entry.Optional("account", at.Account)
			writeUsage(&entry, at.Usage)
			writeCost(&entry, at.Cost)
			return entry.End()
		})
	})
}

// resultLine appends a finished job in the form of the run command's output,
// which has the digest of what was asked as well; "" leaves it out.
func resultLine(b []byte, j *tasks.Job, digest string) []byte {
	o := jsonwrite.Object{B: b}
	o.Str("custom_id", j.CustomID)
	o.Num("line", int64(j.Line))
	o.Str("id", j.ID)
	o.Str("status", string(j.Status))
	single := *j
	single.Result = oneLine(j.Result)
	writeOutcome(&o, &single)
	o.Num("attempts", int64(j.Attempts))
	if digest != "" {
		o.Str("digest", digest)
	}
	return append(o.End(), '\n')
}

// oneLine returns a JSON value without line breaks between its tokens. Strings
// and numbers stay as they are written.
func oneLine(v []byte) []byte {
	if bytes.IndexByte(v, '\n') < 0 && bytes.IndexByte(v, '\r') < 0 {
		return v
	}
	c := jsontext.Value(bytes.Clone(v))
	if err := c.Compact(); err != nil {
		return nil
	}
	return c
}

func (a *API) batch(b []byte, g *tasks.Batch) []byte {
	o := jsonwrite.Object{B: b}
	o.Str("id", g.ID)
	o.Str("object", "batch")
	o.Str("status", string(g.Status))
	o.Within("counts", func(o *jsonwrite.Object) {
		o.Num("total", g.Counts.Total)
		o.Num("queued", g.Counts.Queued)
		o.Num("running", g.Counts.Running)
		o.Num("succeeded", g.Counts.Succeeded)
		o.Num("failed", g.Counts.Failed)
		o.Num("canceled", g.Counts.Canceled)
		o.Num("expired", g.Counts.Expired)
	})
	o.Time("created_at", g.CreatedAt)
	o.Time("ended_at", g.EndedAt)
	o.Time("expires_at", g.ExpiresAt)
	o.Time("estimated_end_at", a.estimatedEnd(g))
	o.Within("links", func(o *jsonwrite.Object) {
		self := a.batchURL(g.ID)
		o.Str("self", self)
		o.Str("results", self+"/results")
		o.Str("cancel", self+"/cancel")
		o.Str("jobs", a.base+"/v1/jobs?batch="+url.QueryEscape(g.ID))
	})
	return o.End()
}

// estimatedEnd takes it that the rest goes at the pace of what is done; zero
// while nothing is.
func (a *API) estimatedEnd(g *tasks.Batch) time.Time {
	done := g.Counts.Succeeded + g.Counts.Failed + g.Counts.Canceled + g.Counts.Expired
	if g.Status == tasks.BatchEnded || done == 0 {
		return time.Time{}
	}
	now := a.c.Now()
	each := now.Sub(g.CreatedAt) / time.Duration(done)
	if each < 0 {
		return time.Time{}
	}
	return wholeSecond(now.Add(each * time.Duration(max(g.Counts.Total-done, 0))))
}

// jobETag changes with what the answer shows. The record's version stands for all but what
// is worked out at reading. Of a job that waits it is weak: an estimate that is the same to the
// second, and as of when it is, make no other answer.
func (a *API) jobETag(j *tasks.Job, w *tasks.Waiting) string {
	h, weak := fnv.New64a(), ""
	_, _ = h.Write([]byte(a.base))
	if w != nil && w.For != "" {
		o := jsonwrite.Object{}
		o.Str("for", string(w.For))
		o.Num("position", w.Position)
		o.Time("at", wholeSecond(w.EstimatedStart))
		o.Time("late", wholeSecond(w.EstimatedStart90))
		o.Bool("degraded", w.Degraded)
		_, _ = h.Write(o.B)
		weak = "W/"
	}
	return weak + `"` + strconv.FormatInt(j.Version, 10) + "-" + strconv.FormatUint(h.Sum64(), 36) + `"`
}

func (a *API) jobURL(id string) string   { return a.base + "/v1/jobs/" + id }
func (a *API) batchURL(id string) string { return a.base + "/v1/batches/" + id }

// appendPool writes a pool; with detail for an admin.
func appendPool(b []byte, p *tasks.PoolStatus, detail bool) []byte {
	o := jsonwrite.Object{B: b}
	o.Str("name", p.Name)
	o.Str("state", string(p.State))
	o.Time("since", p.Since)
	o.Optional("reason", p.Reason)
	if detail {
		o.Optional("detail", p.Detail)
	}
	o.Optional("paused_by", p.PausedBy)
	o.Time("expected_resume_at", p.ExpectedResumeAt)
	o.Time("next_probe_at", p.NextProbeAt)
	o.Num("queued", p.Queued)
	o.Num("scheduled", p.Scheduled)
	o.Time("next_scheduled_at", p.NextScheduledAt)
	o.Num("running", p.Running)
	o.Optional("waiting_for", string(p.WaitsFor))
	o.Time("drained_at", p.DrainedAt)
	o.Time("oldest_queued_at", p.OldestQueuedAt)
	writeAllowance(&o, p.Allowance)
	writeScore(&o, &p.Estimates)
	writeMishaps(&o, &p.Mishaps)
	return o.End()
}

// writeMishaps writes what went wrong in a pool in the last hour.
func writeMishaps(o *jsonwrite.Object, m *tasks.Mishaps) {
	o.Within("last_hour", func(o *jsonwrite.Object) {
		o.Num("refused", m.Refused())
		for _, kind := range []struct {
			name string
			list []tasks.Mishap
		}{{"calls_failed", m.Calls}, {"jobs_failed", m.Jobs}, {"jobs_diverted", m.Diverted}} {
			o.Within(kind.name, func(o *jsonwrite.Object) {
				for _, one := range kind.list {
					o.Num(one.Cause, one.Count)
				}
			})
		}
	})
}

// writeAllowance writes how much of each dimension is used.
func writeAllowance(o *jsonwrite.Object, list []tasks.Allowance) {
	o.Within("allowance", func(o *jsonwrite.Object) {
		for _, a := range list {
			o.Within(string(a.Dimension), func(o *jsonwrite.Object) {
				o.Num("limit", a.Limit)
				o.Name("used")
				o.B = strconv.AppendFloat(o.B, min(max(a.Used, 0), 1), 'f', 4, 64)
			})
		}
	})
}

// writeScore writes how right the forecasts of a pool have been; null where there were none.
func writeScore(o *jsonwrite.Object, s *tasks.Score) {
	o.Within("estimates", func(o *jsonwrite.Object) {
		o.Num("samples", s.Samples)
		for _, of := range []struct {
			name  string
			value float64
		}{{"ratio_p10", s.P10}, {"ratio_p50", s.P50}, {"ratio_p90", s.P90}, {"coverage_p90", s.Coverage}} {
			if s.Samples == 0 {
				o.Null(of.name)
				continue
			}
			o.Name(of.name)
			o.B = strconv.AppendFloat(o.B, of.value, 'f', 4, 64)
		}
		o.Num("censored", s.Censored)
	})
}

// answerPage answers with a page of n objects; next goes on after it, and "" means
// that nothing is left.
func answerPage(c echo.Context, n int, next string, each func(b []byte, i int) []byte) error {
	o := jsonwrite.Object{}
	o.List("data", n, each)
	o.Bool("has_more", next != "")
	o.Optional("next", next)
	wire.JSON(c.Response(), http.StatusOK, append(o.End(), '\n'))
	return nil
}

// answerTagged answers with body, or with 304 when the caller has it.
func answerTagged(c echo.Context, etag string, body func() []byte) error {
	h := c.Response().Header()
	h.Set("ETag", etag)
	h.Set("Cache-Control", "private, no-cache")
	if c.Request().Method == http.MethodGet && wire.Matches(c.Request().Header, etag) {
		c.Response().WriteHeader(http.StatusNotModified)
		return nil
	}
	wire.JSON(c.Response(), http.StatusOK, append(body(), '\n'))
	return nil
}
