package caps

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What bodies of every size take as they come is counted before it is taken, whether they
// say how long they are, and however they end: all that large ones lie in is never more
// than the room, and comes back to it.
func TestMemoryOfBodiesIsCounted(t *testing.T) {
	t.Parallel()
	const most, longest = 12 << 20, 4 << 20
	r, err := New(Config{BodyBytes: most, BodyPatience: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			for range 4 {
				b := r.Body("acme", longest)
				n := 1 + rnd.IntN(longest)
				if rnd.IntN(2) == 0 {
					n = 1 << rnd.IntN(22)
				}
				if rnd.IntN(2) == 0 {
					if err := b.Expect(t.Context(), int64(n)); err != nil {
						t.Errorf("expect %d bytes: %v", n, err)
					}
				}
				var have []byte
				var err error
				for cap(have) <= n { // the end shows behind it
					if have, err = b.Grow(t.Context(), have); err != nil {
						t.Errorf("grow to %d bytes: %v", n, err)
						return
					}
					if got := int64(cap(have)); got > b.held+beyond {
						t.Errorf("%d bytes in hand, and %d are counted", got, b.held)
					}
					have = have[:min(n, cap(have))]
				}
				r.memory.mu.Lock()
				sum := r.memory.sum
				r.memory.mu.Unlock()
				if sum > most {
					t.Errorf("%d bytes are lent and kept, of %d", sum, most)
				}
				if rnd.IntN(3) == 0 {
					b.Give(-1) // something may still read it
				} else {
					b.Spent()
				}
			}
		})
	}
	all.Wait()
	kept := int64(0)
	for _, u := range r.memory.kept {
		kept += int64(cap(u.b)) - beyond
	}
	if r.memory.sum != kept || !r.bodies.Take("acme", most) {
		t.Errorf("%d bytes are counted and %d are there, and the room has not all of its own back", r.memory.sum, kept)
	}
}

// A large body lies where the one before it lay, unless that may still be read.
func TestMemoryOfASpentBodyIsTheNextOnes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		lies := func(end func(*Body)) *byte {
			b := r.Body("acme", 32<<20)
			if err := b.Expect(t.Context(), 5<<20); err != nil {
				t.Fatal(err)
			}
			have, err := b.Grow(t.Context(), make([]byte, largeBody))
			if err != nil {
				t.Fatal(err)
			}
			if len(have) != largeBody || cap(have) != 5<<20+beyond {
				t.Errorf("%d bytes of %d", len(have), cap(have))
			}
			end(b)
			return &have[0]
		}
		first := lies((*Body).Spent)
		second := lies(func(b *Body) { b.Give(-1) })
		if first != second {
			t.Error("the memory of a body that was spent was not used again")
		}
		if third := lies((*Body).Spent); third == second {
			t.Error("what may still be read was given to another")
		}
		<-time.After(keepUnused)
		synctest.Wait()
		if r.memory.sum != 0 || len(r.memory.kept) != 0 {
			t.Errorf("%d bytes are kept that nobody asks for", r.memory.sum)
		}
	})
}

// A body that is as long as its caller says takes little more memory on its way than it has,
// and one that is shorter takes little more than a few times of what came.
func TestABodyOfKnownLengthIsNotCopiedAgainAndAgain(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ says, comes, took int }{
		{20 << 10, 20 << 10, 29 << 10},
		{60 << 10, 60 << 10, 69 << 10},
		{0, 20 << 10, 56 << 10},
		{1 << 20, 8 << 10, 24 << 10},
		{60 << 10, 9 << 10, 69 << 10},
		{100 << 10, 100 << 10, 125 << 10},
	} {
		r, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		b := r.Body("acme", 32<<20)
		if err := b.Expect(t.Context(), int64(row.says)); err != nil {
			t.Fatal(err)
		}
		var have []byte
		took := 0
		for cap(have) <= row.comes { // the end shows behind it
			if have, err = b.Grow(t.Context(), have[:cap(have)]); err != nil {
				t.Fatal(err)
			}
			if took += cap(have); int64(cap(have)) > b.held+beyond {
				t.Errorf("%+v: %d bytes in hand, and %d are counted", row, cap(have), b.held)
			}
		}
		if took > row.took {
			t.Errorf("%d bytes that were said to be %d took %d, want at most %d", row.comes, row.says, took, row.took)
		}
		b.Spent()
	}
}
