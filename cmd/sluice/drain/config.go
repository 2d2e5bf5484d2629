package drain

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/pause"
)

// Options are what is asked of a run.
type Options struct {
	File      string // "-" is standard input
	Out       string // "" is standard output
	Text      bool   // each line is a prompt, whatever the file's name
	Template  string // what each row of a table is asked; "" refuses tables
	Model     string // of lines that name none
	MaxTokens int    // for plain text and tables
	Samples   int    // how often each line is asked; 0: once, and the results do not number it

	SkipInvalid bool           // leave faulty lines out
	DryRun      bool           // tell what would be asked
	Fresh       bool           // forget what an earlier run did
	Ordered     bool           // results in the input's order
	Format      string         // "openai" or "anthropic": that vendor's result lines; "" our own
	FailOn      []tasks.Finish // answers that ended so are failures
	Schema      string         // file of a JSON Schema that answers are held to; "": none
	NoProgress  bool           // neither a bar nor lines
}

// wrongUsage is an error of who gave the command.
type wrongUsage struct{ error }

// ExitCode is how an error says with which code the program ends.
func (wrongUsage) ExitCode() int { return 2 }

func usagef(format string, args ...any) error { return wrongUsage{fmt.Errorf(format, args...)} }

// Config is what a run needs of the program around it.
type Config struct {
	Pools   []Pool
	Prices  tasks.Prices                              // the first that matches a model is its price; none: no money is shown
	Match   func(model string) (pool string, ok bool) // required
	DataDir string                                    // where runs keep their folders; "" refuses every run
	// OwnRedis says that each run has a Redis of its own, in its folder. False: all
	// share one that is elsewhere.
	OwnRedis bool
	// Start makes the parts that ask the provider; with OwnRedis their Redis is in
	// dir. The run closes them.
	Start func(ctx context.Context, dir string) (*Service, error)

	Log            *slog.Logger
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Bar            io.Writer // a terminal for the progress bar; nil: there is none
}

// Pool is what a run has to know of a pool.
type Pool struct {
	Name, Dialect string
	Models        []string // globs
	MaxAttempts   int
	Timeout       time.Duration // of a call
	// A minute, 0 being no limit; Burst is how many requests the provider takes at once.
	Requests, InputTokens, OutputTokens, Burst int64
	// Guessed is true where these are a beginning that the provider corrects.
	Guessed bool
}

// Service is a worker and its record, for one run.
type Service struct {
	Record Record
	Jobs   Jobs
	NewID  func(kind string) string
	Adopt  func(*tasks.Job) // lends a job its pool's fallback models
	Pauses map[string]Pause // by pool: every one that there is
	// Waiting says what a job waits for, and Status how the pools stand.
	Waiting func(context.Context, tasks.Job) (tasks.Waiting, error)
	Status  func(context.Context) ([]tasks.PoolStatus, error)
	Meters  map[string]Meter // by pool
	// Ended has the ids of jobs as the worker ends them. One that is missing is found
	// by looking.
	Ended <-chan string
	Run   func(ctx context.Context, front func(context.Context) error) error
	Close func() error
}

// Record is where the jobs are.
type Record interface {
	OpenBatch(ctx context.Context, id, tenant, key string) (tasks.Batch, *tasks.PriorBatch, error)
	StageBatch(ctx context.Context, batch string, jobs []tasks.Job, l tasks.Limits) error
	BatchJobs(ctx context.Context, tenant, batch string, from, n int) (jobs []tasks.Job, more bool, err error)
	Job(ctx context.Context, tenant, id string) (tasks.Job, error)
	Ended(ctx context.Context, ids []string) ([]string, error)
}

// Jobs moves them.
type Jobs interface {
	CommitBatch(ctx context.Context, batch string, c tasks.BatchCommit) (tasks.Batch, error)
	CancelBatch(ctx context.Context, tenant, batch string) (tasks.Batch, error)
	Cancel(ctx context.Context, tenant, id string) (tasks.Job, error)
}

// Pause is a pool's breaker, as a run sees it.
type Pause interface {
	State(ctx context.Context) (pause.State, error)
	// Try lets a pool whose key was refused, or that is out of credit, try again.
	Try(ctx context.Context, by string) error
}

// Meter counts what this process sent to a pool's provider.
type Meter interface {
	Used() (calls, input, output int64)
	Refused() int64 // for pace
}

// attempts is how often a line of a pool may be asked.
func (c *Config) attempts(pool string) int {
	for _, p := range c.Pools {
		if p.Name == pool {
			return p.MaxAttempts
		}
	}
	return 1
}

// timeout is how long a call of a pool may take.
func (c *Config) timeout(pool string) time.Duration {
	for _, p := range c.Pools {
		if p.Name == pool {
			return p.Timeout
		}
	}
	return 0
}

// served says which models there are.
func (c *Config) served() string {
	var globs []string
	for _, p := range c.Pools {
		globs = append(globs, p.Models...)
	}
	if len(globs) == 0 {
		return "no pool is configured"
	}
	return "the pools serve " + strings.Join(globs, ", ")
}

// nameOf is how a file of prompts is called.
func nameOf(file string) string {
	if file == "-" {
		return "standard input"
	}
	return file
}
