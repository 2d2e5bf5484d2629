package worker

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"io"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream"
)

// Answers keeps the answers to repeatable requests, and joins identical requests
// that are under way at once.
type Answers interface {
	// Named is what stands for a digest in the record, which the others are given.
	Named(ctx context.Context, tenant, digest string) (string, error)
	// Answer returns the result that is kept under a digest; nil: none.
	Answer(ctx context.Context, tenant, digest string) ([]byte, error)
	// KeepAnswer keeps a result for d. With a nil result it only notes that the job
	// was answered with the kept copy, which goes when one of its jobs is deleted.
	KeepAnswer(ctx context.Context, tenant, digest, job string, result []byte, d time.Duration) error
	// Join reports whether a job leads the identical requests under way: it is asked
	// upstream for all. If not, its ticket is void and it waits for the leader's answer.
	Join(ctx context.Context, t tasks.Ticket, digest string) (leads bool, next []tasks.Ticket, err error)
}

// identify reads the request, once for all steps, and names it where the pool
// keeps or shares answers.
func (a *attempt) identify(base context.Context) {
	a.question = upstream.Read(a.job.Asks(), a.job.Request)
	a.cacheable = a.p.CacheFor > 0 && a.question.Repeatable()
	if !a.cacheable && !a.p.Share {
		return
	}
	ctx, cancel := context.WithTimeout(base, 2*time.Second)
	defer cancel()
	var err error
	if a.digest, err = a.w.c.Answers.Named(ctx, a.job.Tenant, digest(a.p, &a.job)); err != nil {
		a.log.Warn("a job is asked by itself, since its request cannot be named", "job", a.job.ID, "pool", a.p.Name, "error", err)
		a.digest, a.cacheable = "", false
	}
}

// digest names a request by all that its answer depends on, and by its tenant:
// no tenant is answered with another's answer. Requests with different bytes are
// different, even if they mean the same.
func digest(p *servedPool, j *tasks.Job) string {
	h := sha256.New()
	parts := []string{
		"sluice answer 2" + string(j.Request.Endpoint), j.Owner(), p.providers(), j.Asks(), j.Request.Version, j.Request.Beta,
		string(j.Request.Kind), strconv.Itoa(j.Request.MaxTokens), string(j.Request.Body),
	}
	if o := j.Request.OpenAI; o != (tasks.OpenAIFields{}) {
		parts = append(parts, o.Beta, o.Organization, o.Project)
	}
	for _, part := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		_, _ = h.Write(n[:])
		_, _ = io.WriteString(h, part)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// recall ends a job with the answer that the same request of the same tenant
// got before, and reports whether it is done with. It needs no pace and no call.
// An answer that is kept for the followers of a call serves no other job.
func (a *attempt) recall(base context.Context) bool {
	outcome := tasks.Cached
	switch {
	case a.digest == "":
		return false
	case a.job.Followed == a.digest:
		outcome = tasks.Shared
	case !a.cacheable:
		return false
	}
	ctx, cancel := context.WithTimeout(base, 2*time.Second)
	result, err := a.w.c.Answers.Answer(ctx, a.job.Tenant, a.digest)
	cancel()
	if err != nil || len(result) == 0 {
		return false // it is asked upstream then
	}
	a.w.mu.Lock()
	a.ticket.Asks = tasks.Asked{} // there is none
	a.w.mu.Unlock()
	started, next, err := a.w.c.Record.Start(base, a.ticket)
	if err != nil {
		if !tasks.Void(err) {
			a.handBack(base, tasks.HandedBack)
		}
		return true
	}
	a.w.hand(base, next)
	a.started, a.answer = started, upstream.Answer{Outcome: outcome, Result: result, Finish: upstream.Finish(a.p.Dialect, a.job.Request.Endpoint, result)}
	a.w.m.attempts.WithLabelValues(a.p.Name, string(outcome)).Inc()
	a.keep(base, nil)
	e := a.ending(base, verdict{status: tasks.StatusSucceeded})
	a.count(e, a.record(base, e))
	return true
}

// remember keeps an answer for the next that asks the same.
func (a *attempt) remember(base context.Context, e tasks.Ending) {
	if a.cacheable && e.Status == tasks.StatusSucceeded {
		a.keep(base, e.Result)
	}
}

// follow has a job wait for the answer of one that asks the same and is under
// way, and reports whether it does, or is somebody else's by now. A job that
// cannot be joined to others is asked upstream by itself.
func (a *attempt) follow(base context.Context) bool {
	if !a.p.Share || a.digest == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(base, 2*time.Second)
	defer cancel()
	leads, next, err := a.w.c.Answers.Join(ctx, a.ticket, a.digest)
	switch {
	case tasks.Void(err):
		return true
	case err != nil:
		a.log.Warn("a job was not joined to others that ask the same", "job", a.job.ID, "pool", a.p.Name, "error", err)
		return false
	}
	a.leads = leads
	a.w.hand(base, next)
	return !leads
}

func (a *attempt) keep(base context.Context, result []byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(base), 2*time.Second)
	defer cancel()
	if err := a.w.c.Answers.KeepAnswer(ctx, a.job.Tenant, a.digest, a.job.ID, result, a.p.CacheFor); err != nil {
		a.log.Warn("an answer was not kept", "pool", a.p.Name, "error", err)
	}
}
