package fake

import (
	"maps"
	"net/http"
	"time"
)

// Stats is what happened at a Provider since it started or was reset.
type Stats struct {
	Calls       int64            `json:"calls"`     // arrived at a model
	Accepted    int64            `json:"accepted"`  // passed the limits and were charged
	Completed   int64            `json:"completed"` // were answered whole
	RateLimited int64            `json:"rate_limited"`
	Refused     map[string]int64 `json:"refused"` // by the bucket that was short, or by the fault or fault of the request
	InFlight    int64            `json:"in_flight"`
	MaxInFlight int64            `json:"max_in_flight"`
	// The first and the last time that a call was accepted; null when none was.
	FirstAcceptedAt *time.Time `json:"first_accepted_at"`
	LastAcceptedAt  *time.Time `json:"last_accepted_at"`
	InputTokens     int64      `json:"input_tokens"`
	OutputTokens    int64      `json:"output_tokens"`
	// Prompts is how many distinct prompts were seen, by the text of the last
	// user message, and SentTwice how many of them were accepted more than once.
	Prompts   int64 `json:"prompts"`
	SentTwice int64 `json:"sent_twice"`
	// Keys are the same totals for each dialect and key, by a digest of the key.
	Keys map[string]KeyStats `json:"keys"`
	// Detail counts by prompt, by the hex SHA-256 of its text.
	Detail map[string]PromptStats `json:"detail,omitempty"`
}

// Call is one call to a model, as the provider saw it.
type Call struct {
	Dialect      Dialect
	Key          string // the first 12 hex digits of the key's SHA-256
	Prompt       string // hex SHA-256 of the text of the last user message
	RequestID    string
	At           time.Time // when it arrived
	Status       int       // 0 when it was left without one
	Accepted     bool      // it passed the limits and was charged
	Completed    bool      // its answer was written whole
	Refused      string    // why it was not accepted, such as "requests" or "529"
	InputTokens  int64     // charged
	OutputTokens int64     // charged
	Batch        string    // the id of the batch that it was a line of; "": none
}

// KeyStats are the totals of one key in one dialect.
type KeyStats struct {
	Calls           int64      `json:"calls"`
	Accepted        int64      `json:"accepted"`
	RateLimited     int64      `json:"rate_limited"`
	FirstAcceptedAt *time.Time `json:"first_accepted_at"`
	LastAcceptedAt  *time.Time `json:"last_accepted_at"`
	InputTokens     int64      `json:"input_tokens"`
	OutputTokens    int64      `json:"output_tokens"`
}

// PromptStats are the totals of one prompt.
type PromptStats struct {
	Calls     int32 `json:"calls"`
	Accepted  int32 `json:"accepted"`
	Completed int32 `json:"completed"`
}

// ledger is Stats under way. Its owner locks.
type ledger struct {
	total   Stats
	keys    map[string]*KeyStats
	prompts map[string]*PromptStats
}

func newLedger() ledger {
	return ledger{
		total:   Stats{Refused: make(map[string]int64)},
		keys:    make(map[string]*KeyStats),
		prompts: make(map[string]*PromptStats),
	}
}

func (l *ledger) arrive() {
	l.total.Calls++
	l.total.InFlight++
	l.total.MaxInFlight = max(l.total.MaxInFlight, l.total.InFlight)
}

// see counts a prompt's arrival and returns how often it has arrived.
func (l *ledger) see(prompt string, most int) int {
	p := l.prompts[prompt]
	if p == nil {
		if len(l.prompts) >= most {
			return 1
		}
		p = new(PromptStats)
		l.prompts[prompt] = p
	}
	p.Calls++
	return int(p.Calls)
}

func (l *ledger) key(c *Call) *KeyStats {
	name := string(c.Dialect) + "/" + c.Key
	k := l.keys[name]
	if k == nil {
		k = new(KeyStats)
		l.keys[name] = k
	}
	return k
}

func (l *ledger) accept(c *Call, now time.Time) {
	l.total.Accepted++
	k := l.key(c)
	k.Accepted++
	if l.total.FirstAcceptedAt == nil {
		l.total.FirstAcceptedAt = &now
	}
	if k.FirstAcceptedAt == nil {
		k.FirstAcceptedAt = &now
	}
	l.total.LastAcceptedAt, k.LastAcceptedAt = &now, &now
	l.total.InputTokens += c.InputTokens
	k.InputTokens += c.InputTokens
	if p := l.prompts[c.Prompt]; p != nil {
		p.Accepted++
		if p.Accepted == 2 {
			l.total.SentTwice++
		}
	}
}

func (l *ledger) leave(c *Call) {
	// A reset while the call ran has forgotten its arrival.
	l.total.InFlight = max(0, l.total.InFlight-1)
	if c.Refused != "" {
		l.total.Refused[c.Refused]++
	}
	limited := c.Status == http.StatusTooManyRequests
	if limited {
		l.total.RateLimited++
	}
	if c.Completed {
		l.total.Completed++
		if p := l.prompts[c.Prompt]; p != nil {
			p.Completed++
		}
	}
	l.total.OutputTokens += c.OutputTokens
	if c.Key == "" {
		return
	}
	k := l.key(c)
	k.Calls++
	if limited {
		k.RateLimited++
	}
	k.OutputTokens += c.OutputTokens
}

// stats returns the counts so far; detail adds those by prompt.
func (l *ledger) stats(detail bool) Stats {
	s := l.total
	s.Refused = maps.Clone(s.Refused)
	s.Prompts = int64(len(l.prompts))
	s.Keys = make(map[string]KeyStats, len(l.keys))
	for name, k := range l.keys {
		s.Keys[name] = *k
	}
	if detail {
		s.Detail = make(map[string]PromptStats, len(l.prompts))
		for digest, p := range l.prompts {
			s.Detail[digest] = *p
		}
	}
	return s
}
