package store_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

func TestTokensAreKeptListedAndRevoked(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t, redistest.Options{}).Client()
	s := store.New(store.Config{Redis: rdb})
	ctx, now := t.Context(), time.Now().UTC().Truncate(time.Millisecond)
	at := now
	tick := func() time.Time { at = at.Add(time.Millisecond); return at } // acts of one millisecond stand in any order
	var made []tasks.Token
	for i := range 5 {
		tok := tasks.Token{
			ID: store.NewIDAt("tok", tick()), Tenant: "acme", Name: fmt.Sprint("n", i), Subject: "ci", Scopes: []string{"jobs:read", "jobs:write"},
			Models: []string{"claude-*"}, Created: now, By: "ops", Expires: now.Add(time.Hour),
		}
		if i == 4 {
			tok.Pools = []string{"claude", "gpt-*"} // the others are as a release before keeps them
		}
		must(t, s.SaveToken(ctx, tok, tasks.Act{At: tick(), By: "ops", Tenant: "root", Via: "api", Action: "create_token", Target: tok.ID}))
		made = append([]tasks.Token{tok}, made...)
	}
	if got, err := s.Token(ctx, made[0].ID); err != nil || !reflect.DeepEqual(got, made[0]) {
		t.Errorf("got %+v, %v; want %+v", got, err, made[0])
	}
	if _, err := s.Token(ctx, "tok_none"); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("an unknown token: %v", err)
	}
	for _, pools := range []string{"", "[]", "null", "claude"} { // it must not be a token for all pools
		must(t, rdb.HSet(ctx, "sluice:{s}:tok:"+made[0].ID, "p", pools).Err())
		if got, err := s.Token(ctx, made[0].ID); err == nil {
			t.Errorf("pools %q: got %+v", pools, got)
		}
	}
	must(t, rdb.HSet(ctx, "sluice:{s}:tok:"+made[0].ID, "p", `["claude","gpt-*"]`).Err())
	// A record whose time is over leaves no hole in a page.
	must(t, rdb.Del(ctx, "sluice:{s}:tok:"+made[1].ID).Err())
	want := append(made[:1:1], made[2:]...)
	var got []tasks.Token
	for after := ""; ; {
		page, err := s.KeptTokens(ctx, after, 2)
		must(t, err)
		if got = append(got, page.Tokens...); page.Next == "" {
			break
		}
		after = page.Next
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("listed %+v\nwant %+v", got, want)
	}

	none, err := s.Revoked(ctx, 0)
	if err != nil || len(none.List) != 0 {
		t.Fatal(none, err)
	}
	for range 2 { // a repeat changes nothing
		must(t, s.RevokeToken(ctx, made[0].ID, time.Hour, tasks.Act{At: tick(), Action: "revoke_token", Target: made[0].ID, Reason: "lost"}))
	}
	first, err := s.Revoked(ctx, none.Version)
	if err != nil || len(first.List) != 1 || first.List[0].ID != made[0].ID || first.List[0].Until.Before(made[0].Expires) {
		t.Fatalf("revoked %+v, %v", first, err)
	}
	must(t, s.RevokeToken(ctx, "minted offline", 2*time.Hour, tasks.Act{At: tick(), Action: "revoke_token", Target: "minted offline"}))
	next, err := s.Revoked(ctx, first.Version)
	if err != nil || len(next.List) != 1 || next.List[0].ID != "minted offline" || next.List[0].Until.Before(now.Add(2*time.Hour)) {
		t.Fatalf("revoked %+v, %v", next, err)
	}
	if same, err := s.Revoked(ctx, next.Version); err != nil || same.Version != next.Version || len(same.List) != 0 {
		t.Errorf("nothing new: %+v, %v", same, err)
	}
	if all, err := s.Revoked(ctx, next.Version+1e6); err != nil || len(all.List) != 2 {
		t.Errorf("a reader that knows more than Redis: %+v, %v; want all", all, err)
	}
	if tok, err := s.Token(ctx, made[0].ID); err != nil || tok.Revoked.IsZero() {
		t.Errorf("its record: %+v, %v", tok, err)
	}

	must(t, s.Note(ctx, tasks.Act{At: tick(), By: "ops", Tenant: "root", Via: "console", Action: "pause", Target: "claude", Reason: "why"}))
	var acts []string
	for after := ""; ; {
		page, err := s.Acts(ctx, after, 3)
		must(t, err)
		for _, a := range page.Acts {
			acts = append(acts, a.Action+" "+a.Target)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if len(acts) != 8 || acts[0] != "pause claude" || acts[1] != "revoke_token minted offline" || acts[2] != "revoke_token "+made[0].ID || acts[7] != "create_token "+made[4].ID {
		t.Errorf("the audit: %q", acts)
	}
	// A line is written again under its id, as one that was refused.
	twice := tasks.Act{ID: store.NewIDAt("act", tick()), At: tick(), Action: "pause", Target: "gone"}
	must(t, s.Note(ctx, twice))
	twice.Outcome = "not_found"
	must(t, s.Note(ctx, twice))
	again, err := s.Acts(ctx, "", 2)
	must(t, err)
	if again.Acts[0].ID != twice.ID || again.Acts[0].Outcome != "not_found" || again.Acts[1].Target == "gone" {
		t.Errorf("written again: %+v", again.Acts)
	}
	must(t, s.Note(ctx, tasks.Act{At: tick().Add(91 * 24 * time.Hour), Action: "resume", Target: "claude"}))
	if page, err := s.Acts(ctx, "", 10); err != nil || len(page.Acts) != 1 || page.Acts[0].Action != "resume" {
		t.Errorf("91 days later the audit has %+v, %v", page, err)
	}
}

// More revocations than a page has come whole.
func TestManyRevocationsComeInPages(t *testing.T) {
	t.Parallel()
	s := store.New(store.Config{Redis: redistest.Start(t, redistest.Options{}).Client()})
	for i := range 501 {
		must(t, s.RevokeToken(t.Context(), fmt.Sprint("jti-", i), time.Hour, tasks.Act{At: time.Now()}))
	}
	got, err := s.Revoked(t.Context(), 0)
	if err != nil || len(got.List) != 501 {
		t.Errorf("%d, %v; want 501", len(got.List), err)
	}
}
