package caps_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"testing"

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

func TestWhoseForwardedAddressCounts(t *testing.T) {
	t.Parallel()
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	f := caps.NewFailures(3, trusted)
	for _, c := range []struct {
		peer string
		xff  []string
		want string
	}{
		{"192.0.2.1:999", nil, "192.0.2.1"},
		{"192.0.2.1:999", []string{"198.51.100.7"}, "192.0.2.1"}, // anybody's word
		{"10.0.0.1:999", nil, "10.0.0.1"},
		{"10.0.0.1:999", []string{"198.51.100.7"}, "198.51.100.7"},
		{"10.0.0.1:999", []string{"203.0.113.1, 198.51.100.7"}, "198.51.100.7"}, // the first is the caller's own word
		{"10.0.0.1:999", []string{"203.0.113.1", "198.51.100.7, 10.9.9.9"}, "198.51.100.7"},
		{"10.0.0.1:999", []string{"198.51.100.7:4711"}, "198.51.100.7"},
		{"10.0.0.1:999", []string{"[2001:db8::1]:80"}, "2001:db8::1"},
		{"[::ffff:10.0.0.1]:999", []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		{"10.0.0.1:999", []string{"198.51.100.7, unknown"}, "10.0.0.1"},
		{"[fd00::1]:999", []string{"10.1.1.1"}, "10.1.1.1"},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.xff}}
		if got := f.Address(r).String(); got != c.want {
			t.Errorf("a request from %s, forwarded for %q, is of %s, want %s", c.peer, c.xff, got, c.want)
		}
	}
}

func TestFailuresOfOneAddressSlowNoOther(t *testing.T) {
	t.Parallel()
	f := caps.NewFailures(3, nil)
	from := func(peer string) *http.Request { return &http.Request{RemoteAddr: peer} }
	for i := range 10 {
		if wait := f.Failed(from(fmt.Sprintf("[2001:db8::%d]:1", i+1))); (wait == 0) != (i < 3) {
			t.Errorf("failure %d of a network waits %s", i+1, wait)
		}
	}
	if wait := f.Failed(from("[2001:db8:0:1::1]:1")); wait != 0 {
		t.Errorf("the first failure of another network waits %s", wait)
	}
	if wait := f.Failed(from("192.0.2.1:1")); wait != 0 {
		t.Errorf("the first failure of another address waits %s", wait)
	}
}
