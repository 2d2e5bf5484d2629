package tasks

import "time"

// LedgerDays is how many days a ledger goes back at most.
const LedgerDays = 400

// Standing is how what a tenant may have stands now.
type Standing struct {
	At          time.Time // by Redis's clock
	QueuedJobs  int64     // that wait
	QueuedBytes int64     // of bodies, see Limits
	RunningJobs int64     // with workers, where the tenant has a limit of these
	Day         DayTokens
	Paid        Money // that calls cost, and may have cost, of jobs with tokens set aside
	Pledged     Money // set aside for such jobs
	// Of these what is one user's own, where the standing of one was asked for.
	UserQueuedJobs        int64
	UserRunningJobs       int64
	UserPaid, UserPledged Money
}

// LedgerFilter selects lines of ledgers.
type LedgerFilter struct {
	Tenant string // "": all
	// Since and Until bound the UTC days: those that both touch are in.
	Since, Until time.Time
}

// LedgerLine is what a tenant's calls of one UTC day took, of one account and model. A
// call counts on the day on which it ended.
type LedgerLine struct {
	Day     time.Time // its midnight, UTC
	Tenant  string
	Account string // who was asked: the provider's name
	Model   string
	Spent
}

// Spent is what calls took, as far as is known.
type Spent struct {
	Requests int64 // calls
	Usage
	Cost
}

// Plus is the sum of both.
func (s Spent) Plus(o Spent) Spent {
	return Spent{s.Requests + o.Requests, Usage{
		s.InputTokens + o.InputTokens, s.OutputTokens + o.OutputTokens,
		s.CacheReadInputTokens + o.CacheReadInputTokens, s.CacheCreationInputTokens + o.CacheCreationInputTokens,
	}, s.Cost.Plus(o.Cost)}
}
