package store

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/sluicehq/sluice/tasks"
)

var editScript = script("edit")

// edits is how often an edit begins anew because another one came between.
const edits = 8

// Edit changes the priority, deadline and metadata of a tenant's job that waits, as edit
// leaves them; an error of edit's is returned, and nothing has changed. It may be called
// again with the job as it then stands. ErrConflict: the job runs, or has ended.
//
// A job keeps its age: with another priority it stands where it would if it had been
// made with that. What a worker has taken in hand already runs all the same.
func (s *Store) Edit(ctx context.Context, tenant, id string, edit func(*tasks.Job) error) (j tasks.Job, err error) {
	err = operate(ctx, id, func(ctx context.Context, op string) error {
		for range edits {
			said, err := s.edit(ctx, op, tenant, id, edit)
			switch {
			case err != nil:
				return err
			case said == "changed":
				continue
			}
			if err := moveError(said); err != nil {
				return err
			}
			j, err = s.Job(ctx, tenant, id)
			return err
		}
		return fmt.Errorf("change job %s: others change it all the time: %w", id, tasks.ErrConflict)
	})
	return j, err
}

func (s *Store) edit(ctx context.Context, op, tenant, id string, edit func(*tasks.Job) error) (said string, err error) {
	records, err := s.ask(ctx, s.keys.job, []string{id}, shown...)
	if err != nil {
		return "", fmt.Errorf("change job %s: %w", id, err)
	}
	was := records[0]["e"]
	if !owns(tenant, records[0]) {
		return "gone", nil
	}
	j, err := s.unpack(ctx, id, records[0])
	if err != nil {
		return "", err
	}
	before := j
	if err := edit(&j); err != nil {
		return "", err
	}
	e, err := s.edited(ctx, was, &j)
	if err != nil {
		return "", fmt.Errorf("change job %s: %w", id, err)
	}
	sum := sha1.Sum([]byte(was)) // which scripts can take, too: a name of what was read, and no secret
	a := args{
		"op": op, "id": id, "tenant": tenant, "was": hex.EncodeToString(sum[:]),
	}
	if j.Priority != before.Priority {
		a["shift"] = laneShift(j.Priority)
	}
	if milli(j.Deadline) != milli(before.Deadline) {
		a["deadline"] = milli(j.Deadline)
	}
	words, err := s.run(ctx, editScript, a, e).StringSlice()
	if err != nil {
		return "", fmt.Errorf("change job %s: %w", id, err)
	}
	return words[0], nil
}

// edited is an envelope with a job's priority and metadata. Its other members stay as
// they are, also those that a newer release has put in.
func (s *Store) edited(ctx context.Context, was string, j *tasks.Job) (string, error) {
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(was), &members); err != nil {
		return "", err
	}
	var e envelope
	if err := s.hide(ctx, &e, j); err != nil {
		return "", err
	}
	delete(members, "p")
	if j.Priority != tasks.Normal {
		members["p"] = json.RawMessage(encode(j.Priority))
	}
	for name, now := range map[string]any{"md": e.Metadata, "mp": e.Pairs, "c": e.CustomID, "w": e.Webhook} {
		delete(members, name)
		if text := encode(now); text != "null" && text != `""` {
			members[name] = json.RawMessage(text)
		}
	}
	return encode(members), nil
}
