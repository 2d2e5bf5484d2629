package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

var (
	tokenSaveScript     = script("token_save")
	tokenRevokeScript   = script("token_revoke")
	tokensRevokedScript = script("tokens_revoked")
)

const (
	maxTokens       = 10_000              // records of tokens
	tokenKept       = 30 * 24 * time.Hour // a record, after its token's end
	revokedMargin   = time.Hour           // that the clocks of issuers and verifiers may differ
	revocationsPage = 250
)

// SaveToken keeps the record of a token and notes who made it. With 10,000 there it is
// a QuotaError.
func (s *Store) SaveToken(ctx context.Context, t tasks.Token, act tasks.Act) error {
	if t.Models == nil {
		t.Models = []string{}
	}
	a := args{"token": t.ID, "tenant": t.Tenant, "keep": milli(t.Expires.Add(tokenKept)), "tokens": maxTokens, "act": actLine(act), "acts": maxActs, "old": oldestAct(act)}
	fields := []any{"t", t.Tenant, "nm", t.Name, "sub", t.Subject, "sc", strings.Join(t.Scopes, " "), "m", encode(t.Models), "ct", milli(t.Created), "by", t.By, "exp", milli(t.Expires)}
	if len(t.Pools) > 0 {
		fields = append(fields, "p", encode(t.Pools))
	}
	return Sure(ctx, t.ID, func(ctx context.Context) error {
		word, err := s.run(ctx, tokenSaveScript, a, fields...).Text()
		if err != nil {
			return fmt.Errorf("save token %s: %w", t.ID, err)
		}
		if word == "full" {
			return &tasks.QuotaError{Quota: "tokens", Limit: maxTokens, RetryAfter: time.Hour}
		}
		return moveError(word)
	})
}

// Token returns the record of a token that the server keeps; ErrNotFound for any other.
func (s *Store) Token(ctx context.Context, id string) (tasks.Token, error) {
	h, err := s.rdb.HGetAll(ctx, s.keys.token(id)).Result()
	if err != nil {
		return tasks.Token{}, fmt.Errorf("read token %s: %w", id, redisError(err))
	}
	return unpackToken(id, h)
}

func unpackToken(id string, h map[string]string) (tasks.Token, error) {
	t := tasks.Token{
		ID: id, Tenant: h["t"], Name: h["nm"], Subject: h["sub"], Scopes: strings.Fields(h["sc"]), By: h["by"],
		Created: fromMilli(atoi(h["ct"])), Expires: fromMilli(atoi(h["exp"])), Revoked: fromMilli(atoi(h["rev"])),
	}
	if h["t"] == "" {
		return tasks.Token{}, fmt.Errorf("read token %s: %w", id, tasks.ErrNotFound)
	}
	// A record whose models cannot be read must not be one for all models.
	if err := json.Unmarshal([]byte(h["m"]), &t.Models); err != nil {
		return tasks.Token{}, fmt.Errorf("read token %s: its models: %w", id, err)
	}
	if pools, narrowed := h["p"]; narrowed {
		if err := json.Unmarshal([]byte(pools), &t.Pools); err != nil || len(t.Pools) == 0 {
			return tasks.Token{}, fmt.Errorf("read token %s: its pools: %w", id, cmp.Or(err, errors.New("there are none")))
		}
	}
	return t, nil
}

// KeptTokens returns the records of tokens after an id, the newest first; after "" from the
// beginning.
func (s *Store) KeptTokens(ctx context.Context, after string, limit int) (page tasks.TokenPage, err error) {
	for len(page.Tokens) <= limit {
		ids, err := s.rdb.ZRevRangeByLex(ctx, s.keys.tokens(), &redis.ZRangeBy{Min: "-", Max: below(after), Count: int64(limit) + 1}).Result()
		if err != nil {
			return page, fmt.Errorf("list tokens: %w", redisError(err))
		}
		if len(ids) == 0 {
			return page, nil
		}
		records, err := s.ask(ctx, s.keys.token, ids)
		if err != nil {
			return page, fmt.Errorf("list tokens: %w", err)
		}
		var gone []any
		for i, h := range records {
			if len(h) == 0 {
				gone = append(gone, ids[i])
			} else if t, err := unpackToken(ids[i], h); err == nil {
				page.Tokens = append(page.Tokens, t)
			}
		}
		if len(gone) > 0 {
			if err := s.rdb.ZRem(ctx, s.keys.tokens(), gone...).Err(); err != nil {
				return page, fmt.Errorf("list tokens: %w", redisError(err))
			}
		}
		after = ids[len(ids)-1]
	}
	page.Tokens = slices.Clip(page.Tokens[:limit])
	page.Next = page.Tokens[limit-1].ID
	return page, nil
}

// below is the end of a range by name that goes down from a name; "" is above all.
func below(after string) string {
	if after == "" {
		return "+"
	}
	return "(" + after
}

// RevokeToken has the token of a jti be good no longer, whoever made it, and notes who
// wanted that. longest is for how long a token of which there is no record may be good yet.
func (s *Store) RevokeToken(ctx context.Context, id string, longest time.Duration, act tasks.Act) error {
	a := args{
		"token": id, "margin": revokedMargin.Milliseconds(), "longest": (longest + revokedMargin).Milliseconds(),
		"act": actLine(act), "acts": maxActs, "old": oldestAct(act),
	}
	return Sure(ctx, id, func(ctx context.Context) error {
		word, err := s.run(ctx, tokenRevokeScript, a).Text()
		if err != nil {
			return fmt.Errorf("revoke token %s: %w", id, err)
		}
		return moveError(word)
	})
}

// Revoked returns what was revoked after a version, 0 for all. While nothing was it costs
// Redis one read.
func (s *Store) Revoked(ctx context.Context, after int64) (tasks.Revocations, error) {
	out := tasks.Revocations{Version: after}
	newest, err := s.rdb.Get(ctx, s.keys.revision()).Int64()
	switch {
	case err != nil && !errors.Is(err, redis.Nil):
		return tasks.Revocations{}, fmt.Errorf("read revoked tokens: %w", redisError(err))
	case newest == after:
		return out, nil
	}
	for {
		reply, err := s.run(ctx, tokensRevokedScript, args{"after": out.Version, "most": revocationsPage}).Slice()
		if err != nil {
			return tasks.Revocations{}, fmt.Errorf("read revoked tokens: %w", err)
		}
		for l := list(reply[2]); len(l) >= 2; l = l[2:] {
			out.List = append(out.List, tasks.Revocation{ID: str(l[0]), Until: fromMilli(num(l[1]))})
		}
		if out.Version = num(reply[0]); out.Version >= num(reply[1]) {
			return out, nil
		}
	}
}
