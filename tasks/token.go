package tasks

import (
	"path"
	"strings"
	"time"
)

// Token is the record of a token that the server keeps. The token itself is never kept.
type Token struct {
	ID      string // the token's jti
	Tenant  string
	Name    string // what an operator calls it
	Subject string
	Scopes  []string
	Models  []string // globs of the models that it may ask; none: all
	Pools   []string // globs of the pools that it may use; none: all
	Created time.Time
	By      string // who made it
	Expires time.Time
	Revoked time.Time // zero: it is not
}

// TokenPage is a page of tokens, newest first.
type TokenPage struct {
	Tokens []Token
	Next   string // the id to go on after; "" at the end
}

// Revocation is a token that is no longer good.
type Revocation struct {
	ID    string    // the token's jti
	Until time.Time // when no token of it can be good any more
}

// Revocations are those that a reader has not seen.
type Revocations struct {
	Version int64 // to ask from the next time; one below the reader's own says that some were lost
	List    []Revocation
}

// Act is a line of the audit: what somebody did to something.
type Act struct {
	ID     string // set by whoever keeps it, unless its line is to be written again, and sorts by time
	At     time.Time
	By     string // the subject of a token
	Tenant string // of that token
	Via    string // "api", "console", "asynqmon" or "shell"
	Action string // such as "pause", "create_token" or "set_tenant"
	Target string // the pool's name or the token's id
	Reason string

	Outcome string // "": it was done; else the code of the error that refused it, or "outcome_unknown"
}

// ActPage is a page of the audit, newest first.
type ActPage struct {
	Acts []Act
	Next string // the id to go on after; "" at the end
}

// MatchModel reports whether one of these globs names a model, or a pool. A "/" in a model's
// name is an ordinary character here, which [path.Match] does not see it as. A
// glob that is malformed names none.
func MatchModel(globs []string, model string) bool {
	flat := func(s string) string { return strings.ReplaceAll(s, "/", "\x00") }
	for _, g := range globs {
		if ok, err := path.Match(flat(g), flat(model)); err == nil && ok {
			return true
		}
	}
	return false
}
