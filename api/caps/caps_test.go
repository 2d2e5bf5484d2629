package caps_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/api/caps"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNobodyTakesTheLastPlaces(t *testing.T) {
	t.Parallel()
	for owners := 1; owners <= 8; owners++ {
		p := caps.NewPlaces(1000, 1000)
		for taken := true; taken; { // all want all
			taken = false
			for o := range owners {
				taken = p.Take(fmt.Sprint(o), 1) || taken
			}
		}
		got := 0
		for p.Take("late", 1) {
			got++
		}
		if want := 1000 / (owners + 1) / 2; got < want {
			t.Errorf("with %d greedy owners one that came late got %d places, want at least %d", owners, got, want)
		}
	}
}

func TestPlacesComeBack(t *testing.T) {
	t.Parallel()
	p := caps.NewPlaces(100, 40)
	held := map[string]int64{}
	rnd := rand.New(rand.NewPCG(1, 2))
	sum := int64(0)
	for range 10_000 {
		who, n := fmt.Sprint(rnd.IntN(5)), 1+rnd.Int64N(9)
		if rnd.IntN(2) == 0 {
			may := held[who]+n <= 40 && held[who]+n <= 100-sum
			if got := p.Take(who, n); got != may {
				t.Fatalf("taking %d of an owner with %d, %d taken in all: %t, want %t", n, held[who], sum, got, may)
			} else if got {
				held[who], sum = held[who]+n, sum+n
			}
		} else if n = min(n, held[who]); n > 0 {
			p.Give(who, n)
			held[who], sum = held[who]-n, sum-n
		}
	}
}

// Eight bodies that together are larger than the room all get through, whether they
// say how large they are or not, and give all back.
func TestLargeBodiesDoNotWaitForEachOtherInVain(t *testing.T) {
	t.Parallel()
	r, err := caps.New(caps.Config{BodyBytes: 64 << 20, BodyPatience: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			b := r.Body("acme", 24<<20)
			defer b.Give(-1)
			if i%2 == 0 {
				if err := b.Expect(t.Context(), 20<<20); err != nil {
					t.Errorf("a large body: %v", err)
				}
			}
			for range 20 {
				if err := b.Take(t.Context(), 1<<20); err != nil {
					t.Errorf("a large body: %v", err)
					return
				}
				runtime.Gosched()
			}
		})
	}
	all.Wait()
	b := r.Body("acme", 32<<20)
	for range 2 { // as a batch does, which is staged as it comes
		if b.Take(t.Context(), 32<<20) != nil {
			t.Error("something was not given back")
		}
		b.Give(32 << 20)
	}
}

// Small bodies beside each other wait for nobody: two large ones of a tenant that are
// slow to come leave room for its others.
func TestSlowLargeBodiesLeaveRoom(t *testing.T) {
	t.Parallel()
	r, err := caps.New(caps.Config{BodyPatience: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := r.Body("acme", 32<<20).Expect(t.Context(), 11<<20); err != nil {
			t.Fatalf("four bodies of 11 MiB: %v", err)
		}
	}
	if err := r.Body("acme", 32<<20).Expect(t.Context(), 11<<20); err == nil {
		t.Error("a fifth took more than half of the room")
	}
	for _, tenant := range []string{"acme", "other"} {
		if err := r.Body(tenant, 32<<20).Take(t.Context(), 1<<20); err != nil {
			t.Errorf("a small one of %s: %v", tenant, err)
		}
	}
	if err := r.Body("other", 32<<20).Expect(t.Context(), 20<<20); err != nil {
		t.Errorf("a large one of another tenant: %v", err)
	}
}
