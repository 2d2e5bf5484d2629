package store

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/seal"
)

// At most so many bodies of one call are read at once.
const bodiesAtOnce = 8

// What cannot be read from the store of bodies now is asked for again so much later.
const (
	bodyAwayFor    = 5 * time.Second
	bodyMissingFor = time.Minute
)

// large reports whether a body belongs into the store of bodies.
func (s *Store) large(size int) bool { return s.bodies != nil && int64(size) > s.above }

// placed is a body as scripts take it: the field of the record, and what stands there,
// which is the body itself or where it lies.
func placed(body []byte, lies string, here, there string) (field string, value any) {
	if lies != "" {
		return there, lies
	}
	return here, body
}

// prompt is a job's prompt as scripts take it. It is compressed only where records need
// this release to be read anyway: 0.1.0 reads nothing that is compressed.
func (s *Store) prompt(ctx context.Context, j *tasks.Job) (field string, value any, err error) {
	body := j.Request.Body
	if s.bodies != nil || s.vault.seals {
		body = s.codec.small(body)
	}
	if body, err = s.vault.seal(ctx, j.Tenant, body, ofPrompt, j.ID); err != nil {
		return "", nil, fmt.Errorf("seal job %s: %w", j.ID, err)
	}
	field, value = placed(body, j.Request.Lies, "b", "br")
	return field, value, nil
}

// result is a result as the record has it, compressed where prompts are.
func (s *Store) result(b []byte) []byte {
	if s.bodies == nil && !s.vault.seals {
		return b
	}
	return s.codec.smallResult(b)
}

// Unload puts the large prompts of jobs that are not stored yet into the store of
// bodies: Request.Lies says where, and Request.Body is nil then. After an error none is
// there. Create and StageBatch do it by themselves; whoever must not wait for it under
// their locks does it before, and drops them where it does not come to these. It also has
// the keys of their tenants at hand.
func (s *Store) Unload(ctx context.Context, jobs ...*tasks.Job) error {
	var big []*tasks.Job
	for _, j := range jobs {
		if err := s.vault.ready(ctx, j.Tenant); err != nil {
			return fmt.Errorf("seal job %s: %w", j.ID, err)
		}
		if s.large(len(j.Request.Body)) {
			big = append(big, j)
		}
	}
	if len(big) == 0 {
		return nil
	}
	list := make([]bodies.Body, len(big))
	for i, j := range big {
		var err error
		if list[i], err = s.body(ctx, j.Tenant, j.ID, bodies.Prompt, "", j.Request.Body); err != nil {
			return err
		}
	}
	refs, err := s.bodies.PutAll(ctx, list)
	if err != nil {
		return fmt.Errorf("put the prompts of %d jobs: %w", len(big), err)
	}
	for i, j := range big {
		j.Request.Lies, j.Request.Body = refs[i].String(), nil
	}
	return nil
}

// Drop has the prompts removed soon that Unload has put of jobs which nobody comes to store.
func (s *Store) Drop(jobs []tasks.Job) {
	for i := range jobs {
		s.discardText(jobs[i].Request.Lies)
	}
}

// body is a body as it lies elsewhere, which is sealed where all is.
func (s *Store) body(ctx context.Context, tenant, job string, kind bodies.Kind, mark string, body []byte, place ...string) (bodies.Body, error) {
	body, err := s.vault.sealSame(ctx, tenant, body, ofBody, append([]string{job, string(kind)}, place...)...)
	if err != nil {
		return bodies.Body{}, err
	}
	name, err := bodies.New(tasks.TenantOf(tenant), job, kind, mark)
	if err != nil {
		return bodies.Body{}, err
	}
	return bodies.Body{Name: name, Size: int64(len(body)), From: bytes.NewReader(body)}, nil
}

func (s *Store) put(ctx context.Context, tenant, job string, kind bodies.Kind, mark string, body []byte, place ...string) (bodies.Ref, error) {
	b, err := s.body(ctx, tenant, job, kind, mark, body, place...)
	if err != nil {
		return bodies.Ref{}, err
	}
	return s.bodies.Put(ctx, b.Name, b.Size, b.From)
}

// fan does n things, so many at once, and returns the first error, after which no more
// are begun.
func fan(n, many int, do func(i int) error) error {
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		next  int
		first error
	)
	for range min(n, many) {
		all.Go(func() {
			for {
				mu.Lock()
				i := next
				if first != nil || i == n {
					mu.Unlock()
					return
				}
				next++
				mu.Unlock()
				if err := do(i); err != nil {
					mu.Lock()
					first = errors.Join(first, err)
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return first
}

// unloadResult puts a large result and returns where it lies. Put again by this process, as after an error of Redis, the same answer has the
// same name, so that an outage leaves no pile of copies. The hour in it keeps a name from
// being put again when a sweep may be about to remove it.
func (s *Store) unloadResult(ctx context.Context, tenant string, t tasks.Ticket, e *tasks.Ending) (string, error) {
	mark := hmac.New(sha256.New, s.secret)
	fmt.Fprintf(mark, "%s %d %d ", t.ID, t.Fence, time.Now().Unix()/3600)
	mark.Write(e.Result)
	ref, err := s.put(ctx, tenant, t.ID, bodies.Result, base32.StdEncoding.EncodeToString(mark.Sum(nil))[:26], e.Result)
	if err != nil {
		return "", fmt.Errorf("put the result of job %s: %w", t.ID, err)
	}
	return ref.String(), nil
}

// fetch reads the body of a job or file from where a record says that it lies, or, where
// it is longer than most bytes, at least so many of it, of which only their number says
// anything; 0 is all.
func (s *Store) fetch(ctx context.Context, tenant, owner string, kind bodies.Kind, lies string, most int64, place ...string) ([]byte, error) {
	ref, err := bodies.Parse(lies)
	if err != nil {
		return nil, err
	}
	if s.bodies == nil {
		return nil, &tasks.BodiesError{Missing: true, Err: errors.New("bodies.url is not set")}
	}
	if most > 0 && s.vault.ring != nil {
		most += seal.Overhead
	}
	b, err := s.bodies.Read(ctx, ref, most)
	if err != nil || seal.Sealed(b) && int64(len(b)) < ref.Size {
		return b, err
	}
	return s.vault.open(ctx, tenant, b, ofBody, append([]string{owner, string(kind)}, place...)...)
}

// whole reads a job's result where that lies elsewhere.
func (s *Store) whole(ctx context.Context, j *tasks.Job, lies string, most int64) (err error) {
	if lies == "" {
		return nil
	}
	if j.Result, err = s.fetch(ctx, j.Tenant, j.ID, bodies.Result, lies, most); err != nil {
		return fmt.Errorf("read the result of job %s: %w", j.ID, err)
	}
	return nil
}

// loose are the bodies of a script's answer that no record refers to any more.
func loose(texts []string) []bodies.Ref {
	var refs []bodies.Ref
	for _, text := range texts {
		if r, err := bodies.Parse(text); err == nil {
			refs = append(refs, r)
		}
	}
	return refs
}

// discard has bodies removed soon.
func (s *Store) discard(refs []bodies.Ref) {
	if s.bodies != nil {
		s.bodies.Discard(refs...)
	}
}

// removeWithin is how long the caller of a deletion waits for it.
const removeWithin = 5 * time.Second

// remove removes bodies whose job was deleted before its caller is told; what is still
// there after a while is removed later.
func (s *Store) remove(ctx context.Context, texts []string) {
	refs := loose(texts)
	if s.bodies == nil || len(refs) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeWithin)
	defer cancel()
	if s.bodies.Delete(ctx, refs...) != nil {
		s.discard(refs)
	}
}

// discardText does so with one of which the reference is there, or "".
func (s *Store) discardText(lies string) {
	if r, err := bodies.Parse(lies); err == nil {
		s.discard([]bodies.Ref{r})
	}
}

// unused has the result of an ending removed that the record did not take: unless it is
// the one that the record has, of the same ending whose first answer was lost.
func (s *Store) unused(ctx context.Context, id, lies string) {
	if lies == "" {
		return
	}
	has, err := s.rdb.HGet(ctx, s.keys.job(id), "rr").Result()
	if errors.Is(err, redis.Nil) || err == nil && has != lies {
		s.discardText(lies)
	}
}

// putOffSealed gives a job back whose prompt cannot be opened now, likewise.
func (s *Store) putOffSealed(ctx context.Context, t tasks.Ticket, why *tasks.SealError) error {
	e := tasks.Ending{Status: tasks.StatusRetrying, Delay: bodyMissingFor, Error: &tasks.JobError{
		Code: tasks.BodyUnavailable, Message: "the prompt is sealed, and what would open it is not there",
	}}
	if _, err := s.end(ctx, t, &e, 0, written{outcome: s.shows(&e)}); err != nil {
		return err
	}
	return fmt.Errorf("read the prompt of job %s: %w: %w", t.ID, tasks.ErrLost, why.Err)
}

// putOff gives a job back whose prompt cannot be read now: it waits and holds no place.
func (s *Store) putOff(ctx context.Context, t tasks.Ticket, why *tasks.BodiesError) error {
	e := tasks.Ending{Status: tasks.StatusRetrying, Delay: bodyAwayFor, Error: &tasks.JobError{
		Code: tasks.BodyUnavailable, Message: "the prompt cannot be read from the store of bodies at present",
	}}
	if why.Missing {
		e.Delay, e.Error.Message = bodyMissingFor, "the store of bodies does not have the prompt"
	}
	if _, err := s.end(ctx, t, &e, 0, written{outcome: s.shows(&e)}); err != nil {
		return err
	}
	return fmt.Errorf("read the prompt of job %s: %w: %w", t.ID, tasks.ErrLost, why.Err)
}

// BodiesTurn reports whether this process is to look for bodies that no record refers
// to. No other is, for every.
func (s *Store) BodiesTurn(ctx context.Context, every time.Duration) (bool, error) {
	mine, err := s.rdb.SetNX(ctx, s.keys.bodiesSwept(), s.name, every).Result()
	if err != nil {
		return false, fmt.Errorf("ask for a turn: %w", redisError(err))
	}
	return mine, nil
}

// Orphans returns those names of bodies that no record refers to. What a record that
// cannot be read refers to nobody knows: its bodies are none.
func (s *Store) Orphans(ctx context.Context, names []string) ([]string, error) {
	cmds, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, name := range names {
			owner := bodies.Owner(name)
			if rest, ok := strings.CutPrefix(owner, "file_"); ok {
				p.LRange(ctx, s.keys.content("file-"+rest), 0, -1)
			} else {
				p.HMGet(ctx, s.keys.job(owner), "br", "rr")
			}
		}
		return nil
	})
	var refusal redis.Error
	if err != nil && !errors.As(err, &refusal) {
		return nil, fmt.Errorf("look for %d bodies in the records: %w", len(names), redisError(err))
	}
	var orphans []string
	for i, c := range cmds {
		var said []string
		var err error
		switch c := c.(type) {
		case *redis.StringSliceCmd:
			said, err = c.Result()
		case *redis.SliceCmd:
			said, err = words(c.Val()), c.Err()
		}
		if err == nil && !slices.ContainsFunc(loose(said), func(r bodies.Ref) bool { return r.Name == names[i] }) {
			orphans = append(orphans, names[i])
		}
	}
	return orphans, nil
}
