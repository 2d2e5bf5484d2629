package worker

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream"
)

// Answers keeps the answers to requests that have one answer.
type Answers interface {
	// Answer returns what is kept under a digest; nil: nothing.
	Answer(ctx context.Context, digest string) ([]byte, error)
	// KeepAnswer keeps a result for a while, or, when it is nil, only notes that
	// the job has what is kept: the kept copy goes when one of them is deleted.
	KeepAnswer(ctx context.Context, digest, job string, result []byte, d time.Duration) error
}

// digest names a request by all that its answer depends on, and by its tenant:
// one tenant is never answered with what another asked. It is "" for a request
// that is not to be answered from memory.
func (w *Worker) digest(p *pool, j *tasks.Job) string {
	if p.CacheFor <= 0 || w.c.Answers == nil || !upstream.Repeatable(j.Request) {
		return ""
	}
	h := sha256.New()
	for _, part := range []string{"sluice answer 1", j.Tenant, p.Provider, j.Asks(), j.Request.Version, j.Request.Beta, string(j.Request.Body)} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		_, _ = h.Write(n[:])
		_, _ = io.WriteString(h, part)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// recall ends a job with the answer that the same request of the same tenant
// got before, and reports whether it is done with. It needs no pace and no call.
func (w *Worker) recall(base context.Context, p *pool, job tasks.Job, t tasks.Ticket) bool {
	digest := w.digest(p, &job)
	if digest == "" {
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
		if errors.Is(err, tasks.ErrUnavailable) || errors.Is(err, tasks.ErrFull) {
			w.end(base, p, job, t, tasks.Ending{Status: tasks.StatusRetrying, Attempt: tasks.Attempt{Outcome: tasks.HandedBack}})
		}
		return true
	}
	w.hand(base, next)
	w.m.attempts.WithLabelValues(p.Name, string(tasks.Cached)).Inc()
	e := tasks.Ending{Status: tasks.StatusSucceeded, Result: result, Provider: p.Provider, Attempt: tasks.Attempt{Outcome: tasks.Cached}}
	if job.Passed > 0 {
		e.Attempt.Model = job.Asks()
	}
	w.keep(base, p, digest, job.ID, nil)
	w.end(base, p, job, t, e)
	w.count(base, p, job, started, upstream.Answer{Outcome: tasks.Cached}, e)
	return true
}

// remember keeps an answer for the next that asks the same.
func (w *Worker) remember(base context.Context, p *pool, job tasks.Job, e tasks.Ending) {
	if e.Status != tasks.StatusSucceeded {
		return
	}
	if digest := w.digest(p, &job); digest != "" {
		w.keep(base, p, digest, job.ID, e.Result)
	}
}

func (w *Worker) keep(base context.Context, p *pool, digest, job string, result []byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(base), 2*time.Second)
	defer cancel()
	if err := w.c.Answers.KeepAnswer(ctx, digest, job, result, p.CacheFor); err != nil {
		w.log.Warn("an answer was not kept", "pool", p.Name, "error", err)
	}
}
