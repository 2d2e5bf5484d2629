package api

import (
	"bytes"
	"hash/fnv"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// The answers are written by hand: a result has to come out byte for byte as
// the provider sent it, which no marshaller does, and this is the hot path.

// timeFormat is RFC 3339 with the milliseconds that the record has.
const timeFormat = "2006-01-02T15:04:05.000Z"

// object writes one JSON object, member by member.
type object struct {
	b     []byte
	begun bool
}

func (o *object) name(name string) {
	if o.begun {
		o.b = append(o.b, ',')
	} else {
		o.b, o.begun = append(o.b, '{'), true
	}
	o.b = append(append(append(o.b, '"'), name...), '"', ':')
}

func (o *object) end() []byte {
	if !o.begun {
		o.b = append(o.b, '{')
	}
	return append(o.b, '}')
}

func (o *object) str(name, v string) { o.name(name); o.b = appendString(o.b, v) }

// optional writes null for "".
func (o *object) optional(name, v string) {
	if v == "" {
		o.null(name)
		return
	}
	o.str(name, v)
}

func (o *object) num(name string, v int64)    { o.name(name); o.b = strconv.AppendInt(o.b, v, 10) }
func (o *object) boolean(name string, v bool) { o.name(name); o.b = strconv.AppendBool(o.b, v) }
func (o *object) null(name string)            { o.raw(name, "null") }
func (o *object) raw(name string, v string)   { o.name(name); o.b = append(o.b, v...) }

// time writes null for the zero time.
func (o *object) time(name string, t time.Time) {
	if t.IsZero() {
		o.null(name)
		return
	}
	o.name(name)
	o.b = append(t.UTC().AppendFormat(append(o.b, '"'), timeFormat), '"')
}

// within runs write on an object inside this one.
func (o *object) within(name string, write func(*object)) {
	o.name(name)
	inner := object{b: o.b}
	write(&inner)
	o.b = inner.end()
}

// job appends a job as callers see it. waiting is nil, or has a zero For, when
// it waits for nothing.
func (a *API) job(b []byte, j *tasks.Job, waiting *tasks.Waiting) []byte {
	o := object{b: b}
	o.str("id", j.ID)
	o.str("object", "job")
	o.str("status", string(j.Status))
	o.str("model", j.Model)
	o.str("pool", j.Pool)
	o.str("priority", string(j.Priority))
	o.num("attempts", int64(j.Attempts))
	o.time("created_at", j.CreatedAt)
	o.time("not_before", j.NotBefore)
	o.time("deadline", j.Deadline)
	o.time("started_at", j.StartedAt)
	o.time("finished_at", j.FinishedAt)
	o.time("expires_at", j.ExpiresAt)
	if waiting == nil || waiting.For == "" {
		o.null("waiting")
	} else {
		o.within("waiting", func(o *object) {
			o.str("for", string(waiting.For))
			o.num("position", waiting.Position)
			o.time("estimated_start_at", wholeSecond(waiting.EstimatedStart))
		})
	}
	writeOutcome(&o, j)
	a.writeUpstream(&o, j)
	o.within("metadata", func(o *object) {
		for _, key := range slices.Sorted(maps.Keys(j.Metadata)) {
			if o.begun {
				o.b = append(o.b, ',')
			} else {
				o.b, o.begun = append(o.b, '{'), true
			}
			o.b = append(appendString(o.b, key), ':')
			o.b = appendString(o.b, j.Metadata[key])
		}
	})
	if j.Batch != "" {
		o.str("batch", j.Batch)
		o.str("custom_id", j.CustomID)
		o.num("line", int64(j.Line))
	}
	o.within("links", func(o *object) {
		self := a.jobURL(j.ID)
		o.str("self", self)
		o.str("events", self+"/events")
		o.str("cancel", self+"/cancel")
		if j.Batch != "" {
			o.str("batch", a.batchURL(j.Batch))
		}
	})
	return o.end()
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

// writeOutcome writes result, text, error and usage, as a job and a line of a
// batch's results both have them.
func writeOutcome(o *object, j *tasks.Job) {
	if j.Status == tasks.StatusSucceeded && len(j.Result) > 0 {
		o.name("result")
		o.b = append(o.b, j.Result...)
		o.str("text", tasks.ResultText(j.Result))
	} else {
		o.null("result")
		o.null("text")
	}
	if e := j.Error; e == nil {
		o.null("error")
	} else {
		o.within("error", func(o *object) {
			o.str("code", string(e.Code))
			o.str("message", e.Message)
			if e.UpstreamStatus == 0 {
				o.null("upstream_status")
			} else {
				o.num("upstream_status", int64(e.UpstreamStatus))
			}
			o.boolean("maybe_billed", e.MaybeBilled)
		})
	}
	if u := j.Usage; u == nil {
		o.null("usage")
	} else {
		o.within("usage", func(o *object) {
			o.num("input_tokens", u.InputTokens)
			o.num("output_tokens", u.OutputTokens)
			o.num("cache_read_input_tokens", u.CacheReadInputTokens)
			o.num("cache_creation_input_tokens", u.CacheCreationInputTokens)
		})
	}
}

func (a *API) writeUpstream(o *object, j *tasks.Job) {
	provider := j.Provider
	switch {
	case provider == "" && len(j.Log) == 0:
		o.null("upstream")
		return
	case provider == "":
		provider = a.Pools.Provider(j.Pool) // the record has it once an attempt has ended
	}
	o.within("upstream", func(o *object) {
		o.optional("provider", provider)
		o.name("request_ids")
		o.b = append(o.b, '[')
		n := 0
		for i := range j.Log {
			if id := j.Log[i].RequestID; id != "" {
				if n++; n > 1 {
					o.b = append(o.b, ',')
				}
				o.b = appendString(o.b, id)
			}
		}
		o.b = append(o.b, ']')
		o.name("attempts")
		o.b = append(o.b, '[')
		for i := range j.Log {
			if i > 0 {
				o.b = append(o.b, ',')
			}
			entry, at := object{b: o.b}, &j.Log[i]
			entry.num("n", int64(at.N))
			entry.time("started_at", at.StartedAt)
			entry.time("ended_at", at.EndedAt)
			entry.str("outcome", string(at.Outcome))
			if at.Status == 0 {
				entry.null("status")
			} else {
				entry.num("status", int64(at.Status))
			}
			entry.optional("request_id", at.RequestID)
			entry.optional("model", at.Model)
			entry.boolean("maybe_billed", at.MaybeBilled)
			o.b = entry.end()
		}
		o.b = append(o.b, ']')
	})
}

// resultLine appends a finished job in the form of the run command's output,
// which has the digest of what was asked as well; "" leaves it out.
func resultLine(b []byte, j *tasks.Job, digest string) []byte {
	o := object{b: b}
	o.str("custom_id", j.CustomID)
	o.num("line", int64(j.Line))
	o.str("id", j.ID)
	o.str("status", string(j.Status))
	single := *j
	single.Result = oneLine(j.Result)
	writeOutcome(&o, &single)
	o.num("attempts", int64(j.Attempts))
	if digest != "" {
		o.str("digest", digest)
	}
	return append(o.end(), '\n')
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
	o := object{b: b}
	o.str("id", g.ID)
	o.str("object", "batch")
	o.str("status", string(g.Status))
	o.within("counts", func(o *object) {
		o.num("total", g.Counts.Total)
		o.num("queued", g.Counts.Queued)
		o.num("running", g.Counts.Running)
		o.num("succeeded", g.Counts.Succeeded)
		o.num("failed", g.Counts.Failed)
		o.num("canceled", g.Counts.Canceled)
		o.num("expired", g.Counts.Expired)
	})
	o.time("created_at", g.CreatedAt)
	o.time("ended_at", g.EndedAt)
	o.time("expires_at", g.ExpiresAt)
	o.time("estimated_end_at", a.estimatedEnd(g))
	o.within("links", func(o *object) {
		self := a.batchURL(g.ID)
		o.str("self", self)
		o.str("results", self+"/results")
		o.str("cancel", self+"/cancel")
		o.str("jobs", a.base+"/v1/jobs?batch="+url.QueryEscape(g.ID))
	})
	return o.end()
}

// estimatedEnd takes it that the rest goes at the pace of what is done; zero
// while nothing is.
func (a *API) estimatedEnd(g *tasks.Batch) time.Time {
	done := g.Counts.Succeeded + g.Counts.Failed + g.Counts.Canceled + g.Counts.Expired
	if g.Status == tasks.BatchEnded || done == 0 {
		return time.Time{}
	}
	now := a.Now()
	each := now.Sub(g.CreatedAt) / time.Duration(done)
	if each < 0 {
		return time.Time{}
	}
	return wholeSecond(now.Add(each * time.Duration(max(g.Counts.Total-done, 0))))
}

// jobETag is strong: it changes with everything that the answer shows. The
// record's version stands for all but what is worked out at reading.
func (a *API) jobETag(j *tasks.Job, w *tasks.Waiting) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(a.base))
	if w != nil && w.For != "" {
		o := object{}
		o.str("for", string(w.For))
		o.num("position", w.Position)
		o.time("at", wholeSecond(w.EstimatedStart))
		_, _ = h.Write(o.b)
	}
	return `"` + strconv.FormatInt(j.Version, 10) + "-" + strconv.FormatUint(h.Sum64(), 36) + `"`
}

// bodyETag is a strong entity tag of a small answer.
func bodyETag(body []byte) string {
	h := fnv.New64a()
	_, _ = h.Write(body)
	return `"` + strconv.FormatUint(h.Sum64(), 36) + `"`
}

func (a *API) jobURL(id string) string   { return a.base + "/v1/jobs/" + id }
func (a *API) batchURL(id string) string { return a.base + "/v1/batches/" + id }

func appendPool(b []byte, p *tasks.PoolStatus) []byte {
	o := object{b: b}
	o.str("name", p.Name)
	o.str("state", string(p.State))
	o.time("since", p.Since)
	o.optional("reason", p.Reason)
	o.optional("paused_by", p.PausedBy)
	o.time("expected_resume_at", p.ExpectedResumeAt)
	o.num("queued", p.Queued)
	o.num("running", p.Running)
	o.time("oldest_queued_at", p.OldestQueuedAt)
	o.within("allowance", func(o *object) {
		for _, a := range p.Allowance {
			o.within(string(a.Dimension), func(o *object) {
				o.num("limit", a.Limit)
				o.name("used")
				o.b = strconv.AppendFloat(o.b, min(max(a.Used, 0), 1), 'f', 4, 64)
			})
		}
	})
	return o.end()
}

func appendPools(b []byte, pools []tasks.PoolStatus) []byte {
	b = append(b, '[')
	for i := range pools {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendPool(b, &pools[i])
	}
	return append(b, ']')
}
