package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

var actNoteScript = script("act_note")

const (
	maxActs  = 100_000 // lines of the audit that are kept at most
	actsKept = 90 * day
)

// oldestAct is what lines sort before that are kept no longer once an act is noted.
func oldestAct(a tasks.Act) string { return NewIDAt("act", a.At.Add(-actsKept)) }

// act is a line of the audit as it is kept, behind its id.
type act struct {
	By     string `json:"by"`
	Tenant string `json:"tenant"`
	Via    string `json:"via"`
	Action string `json:"action"`
	Target string `json:"target"`
	Reason string `json:"reason"`
	At     int64  `json:"at"`

	Outcome string `json:"outcome,omitempty"`
}

// actLine is an act with its id, or a new one: the lines sort by time.
func actLine(a tasks.Act) string {
	if a.ID == "" {
		a.ID = NewIDAt("act", a.At)
	}
	return a.ID + " " + encode(act{a.By, a.Tenant, a.Via, a.Action, a.Target, a.Reason, a.At.UnixMilli(), a.Outcome})
}

// unpackAct reads a line of the audit as it is kept, behind its id.
func unpackAct(id, text string) (tasks.Act, error) {
	var a act
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return tasks.Act{}, fmt.Errorf("read the audit: line %s: %w", id, err)
	}
	return tasks.Act{ID: id, At: fromMilli(a.At), By: a.By, Tenant: a.Tenant, Via: a.Via, Action: a.Action, Target: a.Target, Reason: a.Reason, Outcome: a.Outcome}, nil
}

// Note writes a line of the audit, in the place of one with the same id. Lines are kept for 90 days, at most 100,000 of them.
func (s *Store) Note(ctx context.Context, a tasks.Act) error {
	line, old := actLine(a), oldestAct(a)
	return Sure(ctx, a.Target, func(ctx context.Context) error {
		word, err := s.run(ctx, actNoteScript, args{"act": line, "acts": maxActs, "old": old, "id": a.ID}).Text()
		if err != nil {
			return fmt.Errorf("write the audit: %w", err)
		}
		return moveError(word)
	})
}

// Acts returns lines of the audit after an id, the newest first; after "" from the
// beginning.
func (s *Store) Acts(ctx context.Context, after string, limit int) (page tasks.ActPage, err error) {
	lines, err := s.rdb.ZRevRangeByLex(ctx, s.keys.acts(), &redis.ZRangeBy{Min: "-", Max: below(after), Count: int64(limit) + 1}).Result()
	if err != nil {
		return page, fmt.Errorf("read the audit: %w", redisError(err))
	}
	more := len(lines) > limit
	if more {
		lines = lines[:limit]
	}
	for _, line := range lines {
		id, text, _ := strings.Cut(line, " ")
		a, err := unpackAct(id, text)
		if err != nil {
			return page, err
		}
		page.Acts = append(page.Acts, a)
	}
	if more {
		page.Next = page.Acts[limit-1].ID
	}
	return page, nil
}
