package store

import (
	"context"
	"fmt"

	"github.com/sluicehq/sluice/tasks"
)

var (
	callOpenScript  = script("call_open")
	callHoldScript  = script("call_hold")
	callSweepScript = script("call_sweep")
)

// OpenCall notes that a caller waits for a job, before that is submitted, and says which
// job: a repeat waits for that of the call before, within [tasks.CallKept]. Where the
// submit of that was never made, the repeat is to make it, under the same id.
func (s *Store) OpenCall(ctx context.Context, c tasks.Call) (tasks.Joined, error) {
	digest, err := s.callName(ctx, c)
	if err != nil {
		return tasks.Joined{}, fmt.Errorf("open a call: %w", err)
	}
	reply, err := s.run(ctx, callOpenScript, args{
		"tenant": c.Tenant, "id": c.ID, "digest": digest, "again": c.Repeat,
		"lease": tasks.CallerLease.Milliseconds(), "gone": tasks.CallerGone.Milliseconds(), "keep": tasks.CallKept.Milliseconds(),
	}).StringSlice()
	if err != nil {
		return tasks.Joined{}, fmt.Errorf("open a call: %w", err)
	}
	return tasks.Joined{ID: reply[0], Prior: reply[1] == "1", Again: reply[2] == "1"}, nil
}

// callName is what stands for what a call asks, among those of its tenant.
func (s *Store) callName(ctx context.Context, c tasks.Call) (string, error) {
	return s.vault.name(ctx, c.Tenant, ofCall, ofUser(c.Tenant, c.Digest))
}

// HoldCall notes what became of a caller of the job c.ID. It is to be said that it waits
// at least each [tasks.CallerLease].
func (s *Store) HoldCall(ctx context.Context, c tasks.Call, became tasks.CallerState) error {
	digest, err := s.callName(ctx, c)
	if err != nil {
		return fmt.Errorf("hold a call: %w", err)
	}
	err = s.run(ctx, callHoldScript, args{
		"tenant": c.Tenant, "id": c.ID, "digest": digest, "what": string(became),
		"lease": tasks.CallerLease.Milliseconds(), "gone": tasks.CallerGone.Milliseconds(), "keep": tasks.CallKept.Milliseconds(),
	}).Err()
	if err != nil {
		return fmt.Errorf("hold a call: %w", err)
	}
	return nil
}

// SweepCalls cancels jobs that wait although their callers have been gone for
// [tasks.CallerGone], some at once, and returns them with id, tenant, pool and attempts.
func (s *Store) SweepCalls(ctx context.Context) ([]tasks.Job, error) {
	reply, err := s.run(ctx, callSweepScript, args{"most": sweepMost}).Slice()
	if err != nil {
		return nil, fmt.Errorf("sweep calls: %w", err)
	}
	return ended(reply), nil
}
