package bodies

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// PieceSize is how many bytes of a body in Redis one command writes: all others wait
// for so long, and no longer.
const PieceSize = 256 << 10

// Pieces is a Redis in which bodies lie as lists of pieces, beside an index of their names
// by when they were put.
type Pieces interface {
	// Count is how many pieces a body has, 0 when there is none.
	Count(ctx context.Context, name string) (int64, error)
	// Add adds a piece. The first takes the place of whatever has the name.
	Add(ctx context.Context, name string, piece []byte, i int64) error
	// Piece is the i-th piece; a body that has none of that number is [fs.ErrNotExist].
	Piece(ctx context.Context, name string, i int64) ([]byte, error)
	// Remove removes bodies; one that is not there is removed.
	Remove(ctx context.Context, names []string) error
	// Each calls visit with each body.
	Each(ctx context.Context, visit func(name string, put time.Time) error) error
}

// shelf is a backend of pieces in Redis: for those that have no folder which all processes
// share, and no bucket. A body of many MiB in one command holds up all others for as long
// as it takes Redis to copy it some six times.
type shelf struct{ in Pieces }

func (s shelf) close() {}

func (s shelf) put(ctx context.Context, name, _ string, size int64, body io.ReadSeeker) (string, error) {
	// A name stands for one content: after a lost answer all of it may be there, and of use.
	n, err := s.in.Count(ctx, name)
	if err != nil || n == (size+PieceSize-1)/PieceSize {
		return name, err
	}
	if err = s.add(ctx, name, size, body); err != nil {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), tryWithin)
		defer cancel()
		_ = s.in.Remove(end, []string{name}) // what is left, a sweep finds
	}
	return name, err
}

func (s shelf) add(ctx context.Context, name string, size int64, body io.Reader) error {
	b := make([]byte, min(size, PieceSize))
	for at := int64(0); at < size; {
		b = b[:min(size-at, PieceSize)]
		if _, err := io.ReadFull(body, b); err != nil {
			return fmt.Errorf("%d bytes or less in place of %d: %w", at+int64(len(b)), size, err)
		}
		if err := s.in.Add(ctx, name, b, at/PieceSize); err != nil {
			return err
		}
		at += int64(len(b))
	}
	return nil
}

func (s shelf) open(ctx context.Context, name string) (io.ReadCloser, error) {
	first, err := s.in.Piece(ctx, name, 0)
	if err != nil {
		return nil, err
	}
	return &taken{ctx: ctx, in: s.in, name: name, at: 1, rest: first}, nil
}

// taken is a body in pieces that is being read.
type taken struct {
	ctx  context.Context // of Open, as the files' and the bucket's
	in   Pieces
	name string
	at   int64 // the next piece
	rest []byte
}

func (t *taken) Read(p []byte) (int, error) {
	if len(t.rest) == 0 {
		next, err := t.in.Piece(t.ctx, t.name, t.at)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
		t.at, t.rest = t.at+1, next
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

func (t *taken) Close() error { return nil }

func (s shelf) remove(ctx context.Context, names []string) error { return s.in.Remove(ctx, names) }

func (s shelf) list(ctx context.Context, visit func(name string, put time.Time) error) error {
	return s.in.Each(ctx, visit)
}
