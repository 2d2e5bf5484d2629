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

// Answers keeps the answers to requests that have one answer, and brings
// together those that ask the same at the same time.
type Answers interface {
	// Answer returns what is kept under a digest; nil: nothing.
	Answer(ctx context.Context, digest string) ([]byte, error)
	// KeepAnswer keeps a result for a while, or, when it is nil, only notes that
	// the job has what is kept: the kept copy goes when one of them is deleted.
	KeepAnswer(ctx context.Context, digest, job string, result []byte, d time.Duration) error
	// Join reports whether a job is the one to be asked upstream for all that ask
	// the same; if not, its ticket is void and it waits for that one's answer.
	Join(ctx context.Context, t tasks.Ticket, digest string) (leads bool, next []tasks.Ticket, err error)
}

// digest names a request by all that its answer depends on, and by its tenant:
// one tenant is never answered with what another asked. Requests that a caller
// put in different words or members are different, whatever they mean.
func (w *Worker) digest(p *servedPool, j *tasks.Job) string {
	h := sha256.New()
	for _, part := range []string{
		"sluice answer 2", j.Tenant, p.Provider, j.Asks(), j.Request.Version, j.Request.Beta,
		string(j.Request.Kind), strconv.Itoa(j.Request.MaxTokens), string(j.Request.Body),
	} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		_, _ = h.Write(n[:])
		_, _ = io.WriteString(h, part)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// cacheable reports whether an answer may serve later jobs that ask the same.
func (w *Worker) cacheable(p *servedPool, j *tasks.Job) bool {
	return p.CacheFor > 0 && w.c.Answers != nil && upstream.Repeatable(j.Request)
}

// shareable reports whether jobs that ask the same at the same time share a call.
func (w *Worker) shareable(p *servedPool) bool { return p.Share && w.c.Answers != nil }

// recall ends a job with the answer that the same request of the same tenant
// got before, and reports whether it is done with. It needs no pace and no call.
// What is kept for those that waited for a call is given to nobody else.
func (w *Worker) recall(base context.Context, p *servedPool, job tasks.Job, t tasks.Ticket) bool {
	cached := w.cacheable(p, &job)
	if !cached && (job.Followed == "" || !w.shareable(p)) {
		return false
	}
	digest, outcome := w.digest(p, &job), tasks.Cached
	if job.Followed == digest {
		outcome = tasks.Shared
	} else if !cached {
		return false
	}
	ctx, cancel := context.WithTimeout(base, 2*time.Second)
	result, err := w.c.Answers.Answer(ctx, digest)
	cancel()
	if err != nil || len(result) == 0 {
		return false // it is asked upstream then
	}
	started, next, err := w.c.Record.Start(base, t)
	if err != nil {
		if !tasks.Void(err) {
			w.end(base, p, job, t, tasks.Ending{Status: tasks.StatusRetrying, Attempt: tasks.Attempt{Outcome: tasks.HandedBack}})
		}
		return true
	}
	w.hand(base, next)
	w.m.attempts.WithLabelValues(p.Name, string(outcome)).Inc()
	e := tasks.Ending{Status: tasks.StatusSucceeded, Result: result, Provider: p.Provider, Attempt: tasks.Attempt{Outcome: outcome}}
	if job.Passed > 0 {
		e.Attempt.Model = job.Asks()
	}
	w.keep(base, p, digest, job.ID, nil)
	w.end(base, p, job, t, e)
	w.count(p, job, started, upstream.Answer{Outcome: outcome}, e)
	return true
}

// remember keeps an answer for the next that asks the same.
func (w *Worker) remember(base context.Context, p *servedPool, job tasks.Job, e tasks.Ending) {
	if e.Status != tasks.StatusSucceeded {
		return
	}
	if w.cacheable(p, &job) {
		w.keep(base, p, w.digest(p, &job), job.ID, e.Result)
	}
}

// follow has a job wait for the answer of one that asks the same and is under
// way, and reports whether it does, or is somebody else's by now. A job that
// cannot be joined to others is asked upstream by itself.
func (w *Worker) follow(base context.Context, p *servedPool, job tasks.Job, t tasks.Ticket) bool {
	if !w.shareable(p) {
		return false
	}
	ctx, cancel := context.WithTimeout(base, 2*time.Second)
	defer cancel()
	leads, next, err := w.c.Answers.Join(ctx, t, w.digest(p, &job))
	switch {
	case tasks.Void(err):
		return true
	case err != nil:
		w.log.Warn("a job was not joined to others that ask the same", "job", job.ID, "pool", p.Name, "error", err)
		return false
	}
	w.hand(base, next)
	return !leads
}

func (w *Worker) keep(base context.Context, p *servedPool, digest, job string, result []byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(base), 2*time.Second)
	defer cancel()
	if err := w.c.Answers.KeepAnswer(ctx, digest, job, result, p.CacheFor); err != nil {
		w.log.Warn("an answer was not kept", "pool", p.Name, "error", err)
	}
}
