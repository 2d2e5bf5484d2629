package tasks

import "strings"

// WaitWords are what people are told of a reason to wait, wherever they are told.
type WaitWords struct {
	Name string // in a word or two, as a heading has it
	For  string // behind "waits for" or "wait for"
	Why  string // a clause: why the job does not start yet
	Next string // sentences: what happens next, and what can be done about it
}

// WaitReasons are the reasons that callers are told.
var WaitReasons = []WaitReason{
	WaitNotBefore, WaitRequests, WaitInputTokens, WaitOutputTokens, WaitConcurrency,
	WaitTenantShare, WaitRunningJobs, WaitPaused, WaitRetry, WaitReview, WaitNoWorker,
}

// Words puts a reason into words; one of a later release is told by its name.
func (r WaitReason) Words() WaitWords {
	if w, ok := waitWords[r]; ok {
		return w
	}
	name := strings.ReplaceAll(string(r), "_", " ")
	return WaitWords{Name: name, For: name, Why: "it waits for " + name, Next: "It waits for " + name + "."}
}

// waitWords say what each reason is called. They stand here and nowhere else.
var waitWords = map[WaitReason]WaitWords{
	WaitNotBefore: {
		"Start time", "the time that was asked for", "its caller wants it no earlier",
		"It starts at its not_before at the earliest.",
	},
	WaitRequests: {
		"Requests", "the provider's allowance of requests", "the pool's requests a minute are in use",
		"It starts in its turn, as the pool's requests a minute allow.",
	},
	WaitInputTokens: {
		"Input tokens", "the provider's allowance of input tokens", "the pool's input tokens a minute are in use",
		"It starts in its turn, as the pool's input tokens a minute allow.",
	},
	WaitOutputTokens: {
		"Output tokens", "the provider's allowance of output tokens", "the pool's output tokens a minute are in use",
		"It starts in its turn, as the pool's output tokens a minute allow.",
	},
	WaitConcurrency: {
		"Concurrency", "calls under way to end", "as many calls are under way as the pool makes at once",
		"It starts, or is answered, when calls under way have ended.",
	},
	WaitTenantShare: {
		"Tenant's share", "its tenant's turn", "other tenants have their turns: alone in the pool it would have started",
		"It starts in its tenant's turn: other tenants share the pool.",
	},
	WaitRunningJobs: {
		"Running jobs", "one of its tenant's running jobs to end", "its tenant, or its user, has as many jobs with workers as it may have at once",
		"It starts when one of its tenant's jobs that are with workers ends, or of its user's: there are as many as running_jobs or users.running_jobs allows.",
	},
	WaitPaused: {
		"Paused", "its paused pool", "the pool is paused",
		"It starts when its pool goes on: sluice pools says who paused it and why.",
	},
	WaitRetry: {
		"Next try", "its next try", "it is tried again later",
		"It is tried again by itself.",
	},
	WaitReview: {
		"Review", "an admin's review of its tenant", "what its tenant asks for is under review",
		"It starts when an admin releases its tenant.",
	},
	WaitNoWorker: {
		"No worker", "a worker of its pool", "no worker makes calls of the pool",
		"Nothing, until a worker of its pool runs: start sluice worker, and see its /readyz.",
	},
}
