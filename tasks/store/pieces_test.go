package store_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// A body of any length is read as it was put, and no command has more than a piece of it.
func TestNoCommandHasMoreThanAPieceOfABody(t *testing.T) {
	t.Parallel()
	h := inPieces(t)
	must(t, h.rdb.ConfigSet(t.Context(), "slowlog-log-slower-than", "0").Err())
	must(t, h.rdb.ConfigSet(t.Context(), "slowlog-max-len", "1000").Err())
	for _, size := range []int{1, bodies.PieceSize - 1, bodies.PieceSize, bodies.PieceSize + 1, 3*bodies.PieceSize + 5} {
		body := make([]byte, size)
		_, _ = rand.Read(body)
		name, err := bodies.New("acme", job("acme").ID, bodies.Prompt, "")
		must(t, err)
		r, err := h.bodies.Put(t.Context(), name, int64(size), bytes.NewReader(body))
		must(t, err)
		if got, err := h.bodies.Read(t.Context(), r, 0); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes: read %d, %v", size, len(got), err)
		}
		if got, err := h.bodies.Read(t.Context(), r, 1); err != nil || !bytes.Equal(got, body[:1]) {
			t.Errorf("the first of %d bytes: %q, %v", size, got, err)
		}
		again, err := h.bodies.Put(t.Context(), name, int64(size), bytes.NewReader(body))
		if err != nil || again != r {
			t.Errorf("put again: %v, %v", again, err)
		}
		key := "sluice:{s}:body:" + name
		if n := h.rdb.LLen(t.Context(), key).Val(); n != int64((size+bodies.PieceSize-1)/bodies.PieceSize) {
			t.Errorf("%d bytes are %d pieces", size, n)
		}
		// A piece that is lost, or there twice, is no body.
		last := h.rdb.LIndex(t.Context(), key, -1).Val()
		for _, harm := range []error{h.rdb.RPush(t.Context(), key, last).Err(), h.rdb.LTrim(t.Context(), key, 0, -3).Err()} {
			must(t, harm)
			if _, err := h.bodies.Read(t.Context(), r, 0); !tasks.Away(err) {
				t.Errorf("%d bytes, harmed: %v", size, err)
			}
		}
		must(t, h.bodies.Delete(t.Context(), r))
	}
	h.lie(0, "all were removed")
	for _, e := range h.rdb.SlowLogGet(t.Context(), -1).Val() {
		for _, arg := range e.Args { // a long one is cut, and its length is told
			if _, more, cut := strings.Cut(arg, "... ("); cut {
				n, err := strconv.Atoi(strings.TrimSuffix(more, " more bytes)"))
				if err != nil || n > bodies.PieceSize {
					t.Errorf("%s has an argument of %d bytes, %v", e.Args[0], n, err)
				}
			}
		}
	}
}

// What is begun and not ended leaves nothing; and where even that is lost, a sweep finds it.
func TestABodyThatIsNotWholeLeavesNoPiece(t *testing.T) {
	t.Parallel()
	h := inPieces(t)
	name, err := bodies.New("acme", job("acme").ID, bodies.Prompt, "")
	must(t, err)
	const size = 2 * bodies.PieceSize
	short := &broken{ReadSeeker: bytes.NewReader(make([]byte, size))}
	if _, err := h.bodies.Put(t.Context(), name, size, short); err == nil {
		t.Error("a body was put that broke off")
	}
	h.lie(0, "it broke off")
	p := store.NewPieces(h.rdb, "")
	must(t, p.Add(t.Context(), name, make([]byte, bodies.PieceSize), 0))
	h.lie(1, "its writer was killed")
	must(t, h.bodies.Sweep(t.Context(), h.Store))
	h.lie(0, "it was swept")
	if n := h.rdb.Exists(t.Context(), "sluice:{s}:body:"+name, "sluice:{s}:pieces").Val(); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}

// broken is a body that can be read once, and half of it again.
type broken struct {
	io.ReadSeeker
	again bool
	left  int
}

func (b *broken) Seek(offset int64, whence int) (int64, error) {
	b.again, b.left = true, bodies.PieceSize
	return b.ReadSeeker.Seek(offset, whence)
}

func (b *broken) Read(p []byte) (int, error) {
	if !b.again {
		return b.ReadSeeker.Read(p)
	}
	if b.left == 0 {
		return 0, errors.New("it broke off")
	}
	n, err := b.ReadSeeker.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// A Redis that takes no more says so, and nothing is left of what it did not take.
func TestPiecesThatRedisHasNoRoomFor(t *testing.T) {
	t.Parallel()
	h := inPieces(t)
	must(t, h.rdb.ConfigSet(t.Context(), "maxmemory", "3mb").Err())
	j := job("acme")
	j.Request.Body = []byte(`"` + strings.Repeat("x", 4<<20) + `"`)
	_, _, err := h.Create(context.WithoutCancel(t.Context()), tasks.Submission{Job: j})
	var of *tasks.BodiesError
	if !errors.As(err, &of) || !errors.Is(err, tasks.ErrFull) {
		t.Errorf("a full Redis: %v", err)
	}
	must(t, h.rdb.ConfigSet(t.Context(), "maxmemory", "0").Err())
	h.lie(0, "Redis was full")
}

// A piece whose answer is lost is sent again by the client, and is there once.
func TestAPieceWhoseAnswerIsLostIsThereOnce(t *testing.T) {
	t.Parallel()
	proxy := redistest.Before(t, redistest.Start(t, redistest.Options{}))
	rdb := proxy.Client(t)
	var sent atomic.Int64
	proxy.Lose(func(command, _ string) bool {
		return strings.Contains(strings.ToLower(command), "eval") && sent.Add(1) == 2
	})
	b, err := bodies.Open(bodies.Config{URL: "redis:", Pieces: store.NewPieces(rdb, "")})
	must(t, err)
	t.Cleanup(b.Close)
	body := bytes.Repeat([]byte("0123456789abcdef"), 3*bodies.PieceSize/16)
	name, err := bodies.New("acme", store.NewID("job"), bodies.Result, "")
	must(t, err)
	ref, err := b.Put(t.Context(), name, int64(len(body)), bytes.NewReader(body))
	must(t, err)
	if got, err := b.Read(t.Context(), ref, 0); err != nil || !bytes.Equal(got, body) || sent.Load() < 4 {
		t.Errorf("read %d bytes of %d after %d commands: %v", len(got), len(body), sent.Load(), err)
	}
}
