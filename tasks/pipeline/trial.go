package pipeline

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// Trial is one try at something that scripts of a [Client] do. Each script that is
// asked with its context is sent once, never again by the library, so that it is
// known of each whether it may have run.
type Trial struct{ lost, answered atomic.Bool }

type trialKey struct{}

// Try returns a context for one try, and what becomes known of it.
func Try(ctx context.Context) (context.Context, *Trial) {
	t := new(Trial)
	return context.WithValue(ctx, trialKey{}, t), t
}

// Doubt reports whether a script may have run: its answer did not come, or it came,
// and what the try has failed for came after it.
func (t *Trial) Doubt() bool { return t.lost.Load() || t.answered.Load() }

// processor runs any command: a client or a pipeline.
type processor interface {
	Process(ctx context.Context, cmd redis.Cmder) error
}

// eval sends a script and returns at once where to is a pipeline; sent says then how
// often it has reached a connection. With only, the library does not send it again.
func eval(ctx context.Context, to processor, only bool, name, text string, keys []string, args []any) (cmd *redis.Cmd, sent *written) {
	sent = &written{text: text}
	words := make([]any, 0, 3+len(keys)+len(args))
	words = append(words, name, sent, len(keys))
	for _, k := range keys {
		words = append(words, k)
	}
	cmd = redis.NewCmd(ctx, append(words, args...)...)
	if len(keys) > 0 {
		cmd.SetFirstKeyPos(3) // a cluster goes by it
	}
	if only {
		_ = to.Process(ctx, once{cmd})
	} else {
		_ = to.Process(ctx, cmd)
	}
	return cmd, sent
}

// judge notes what the answer to a script, or the want of one, says. Redis's own
// error is an answer: the script did not run.
func (t *Trial) judge(cmd *redis.Cmd, sent *written) {
	var said redis.Error
	switch err := cmd.Err(); {
	case err == nil, errors.Is(err, redis.Nil):
		t.answered.Store(true)
	case errors.As(err, &said):
	case sent.times.Load() > 0:
		t.lost.Store(true)
	}
}

// once is a command that the library does not send again after an error.
type once struct{ *redis.Cmd }

// NoRetry is asked by the library.
func (once) NoRetry() bool { return true }

// written is an argument that counts how often it was put on a connection: the
// library asks for its text just then.
type written struct {
	text  string
	times atomic.Int64
}

// MarshalBinary is asked by the library.
func (w *written) MarshalBinary() ([]byte, error) {
	w.times.Add(1)
	return []byte(w.text), nil
}
