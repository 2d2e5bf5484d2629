package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
)

var (
	bundleClaimScript = script("bundle_claim")
	bundleSaveScript  = script("bundle_save")
)

// joining is what the script of a start takes of a job that goes into a bundle; nil: it does not.
func joining(j *tasks.Joining) any {
	return args{
		"id": j.Bundle, "kind": j.Kind, "account": j.Account, "model": j.Model, "endpoint": string(j.Endpoint), "bytes": j.Bytes, "spill": milli(j.Spill),
		"mostJobs": j.MostJobs, "mostBytes": j.MostBytes, "mostAge": j.MostAge.Milliseconds(),
	}
}

// ClaimBundle takes up the bundle of a pool that has been due for longest, for that long. With none due it
// has no ID, and wait is until the next is; below 0: there is none.
func (s *Store) ClaimBundle(ctx context.Context, pool string, lease time.Duration) (b tasks.Bundle, wait time.Duration, err error) {
	reply, err := s.run(ctx, bundleClaimScript, args{"pool": pool, "lease": lease.Milliseconds()}).Slice()
	if err != nil {
		return b, 0, fmt.Errorf("take up a bundle of pool %s: %w", pool, err)
	}
	if len(reply) == 1 {
		return b, time.Duration(num(reply[0])) * time.Millisecond, nil
	}
	h := pairs(reply[2])
	b = tasks.Bundle{
		ID: str(reply[1]), Pool: pool, Account: h["ac"], Kind: h["k"], Model: h["md"], Endpoint: tasks.Path(h["ep"]), State: tasks.BundleState(h["s"]), Fence: atoi(h["f"]),
		GatheredAt: fromMilli(atoi(h["ct"])), SentAt: fromMilli(atoi(h["at"])), Spill: fromMilli(atoi(h["sp"])), Batch: h["bt"], File: h["fi"], Lines: int(atoi(h["ln"])), Sends: int(atoi(h["sn"])),
	}
	for id, value := range pairs(reply[3]) {
		fence, tenant, _ := strings.Cut(value, " ")
		b.Members = append(b.Members, tasks.Ticket{ID: id, Fence: atoi(fence), Pool: pool, Tenant: tenant})
	}
	return b, 0, nil
}

// SaveBundle notes how far a bundle has come, and when it is due again. ErrLost: another worker has taken
// it up meanwhile.
func (s *Store) SaveBundle(ctx context.Context, b tasks.Bundle, next time.Duration) error {
	_, err := s.move(ctx, "note how far bundle "+b.ID+" has come", bundleSaveScript, args{"id": b.ID, "pool": b.Pool, "fence": b.Fence, "next": max(0, next.Milliseconds())},
		"s", string(b.State), "at", milli(b.SentAt), "bt", b.Batch, "fi", b.File, "ln", b.Lines, "sn", b.Sends)
	return err
}

// DropBundle ends a bundle of which nothing is left to do.
func (s *Store) DropBundle(ctx context.Context, b tasks.Bundle) error {
	_, err := s.move(ctx, "end bundle "+b.ID, bundleSaveScript, args{"id": b.ID, "pool": b.Pool, "fence": b.Fence, "next": -1})
	return err
}

// InBundle returns those of a bundle's members that are still in it: the others were
// canceled, deleted, or have ended.
func (s *Store) InBundle(ctx context.Context, members []tasks.Ticket) (in []tasks.Ticket, err error) {
	const many = 256
	for len(members) > 0 {
		part := members[:min(many, len(members))]
		members = members[len(part):]
		ids := make([]string, len(part))
		for i, t := range part {
			ids[i] = t.ID
		}
		records, err := s.ask(ctx, s.keys.job, ids, "s", "f")
		if err != nil {
			return nil, fmt.Errorf("read the members of a bundle: %w", err)
		}
		for i, t := range part {
			if records[i]["s"] == string(tasks.StatusRunning) && atoi(records[i]["f"]) == t.Fence {
				in = append(in, t)
			}
		}
	}
	return in, nil
}

// Bundled returns a member of a bundle with its prompt. ErrLost: it is in it no more.
func (s *Store) Bundled(ctx context.Context, t tasks.Ticket) (tasks.Job, error) {
	records, err := s.ask(ctx, s.keys.job, []string{t.ID})
	if err != nil {
		return tasks.Job{}, fmt.Errorf("read job %s: %w", t.ID, err)
	}
	h := records[0]
	if h["s"] != string(tasks.StatusRunning) || atoi(h["f"]) != t.Fence {
		return tasks.Job{}, tasks.ErrLost
	}
	j, err := s.unpack(ctx, t.ID, h)
	if err == nil {
		j.Request.Body, err = whole(j.Request.Body)
	}
	if lies := h["br"]; err == nil && lies != "" {
		j.Request.Body, err = s.fetch(ctx, j.Tenant, j.ID, bodies.Prompt, lies, 0)
	}
	return j, err
}

// inBundle is where the bundle of a running job stands; nil: it is in none.
func (s *Store) inBundle(ctx context.Context, id string) (*tasks.InBundle, error) {
	if id == "" {
		return nil, nil
	}
	records, err := s.ask(ctx, s.keys.bundle, []string{id}, "s", "bt", "sp")
	if err != nil {
		return nil, fmt.Errorf("read bundle %s: %w", id, err)
	}
	h := records[0]
	return &tasks.InBundle{ID: id, State: tasks.BundleState(h["s"]), Batch: h["bt"], Spill: fromMilli(atoi(h["sp"]))}, nil
}
