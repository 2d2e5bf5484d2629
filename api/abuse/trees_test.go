package abuse

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// twister draws as Python's random.Random does (MT19937), so that trees are those of river.
type twister struct {
	s [624]uint32
	i int
}

func newTwister(seed uint32) *twister {
	t := &twister{i: 624}
	t.s[0] = 19650218
	for i := 1; i < 624; i++ {
		t.s[i] = 1812433253*(t.s[i-1]^t.s[i-1]>>30) + uint32(i)
	}
	i := 1
	for range 624 {
		t.s[i] = (t.s[i] ^ (t.s[i-1]^t.s[i-1]>>30)*1664525) + seed
		if i++; i >= 624 {
			t.s[0], i = t.s[623], 1
		}
	}
	for range 623 {
		t.s[i] = (t.s[i] ^ (t.s[i-1]^t.s[i-1]>>30)*1566083941) - uint32(i)
		if i++; i >= 624 {
			t.s[0], i = t.s[623], 1
		}
	}
	t.s[0] = 1 << 31
	return t
}

func (t *twister) next() uint32 {
	if t.i >= 624 {
		for i := range 624 {
			y := t.s[i]&(1<<31) | t.s[(i+1)%624]&(1<<31-1)
			t.s[i] = t.s[(i+397)%624] ^ y>>1 ^ (y&1)*0x9908b0df
		}
		t.i = 0
	}
	y := t.s[t.i]
	t.i++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

func (t *twister) Float64() float64 {
	a, b := t.next()>>5, t.next()>>6
	return (float64(a)*67108864 + float64(b)) / 9007199254740992
}

// The scores in the documentation of river's HalfSpaceTrees (n_trees=5, height=3, window_size=3, seed=42).
func TestTreesScoreAsRiver(t *testing.T) {
	t.Parallel()
	trees := newTrees(newTwister(42), 5, 3, 3, 1)
	xs := []float64{0.5, 0.45, 0.43, 0.44, 0.445, 0.45, 0}
	want := []string{"0.107", "0.071", "0.107", "0.107", "0.107", "0.071", "0.853"}
	for _, x := range xs[:3] {
		trees.Learn([]float64{x})
	}
	for i, x := range xs {
		trees.Learn([]float64{x})
		if got := fmt.Sprintf("%.3f", trees.Score([]float64{x})); got != want[i] {
			t.Errorf("score of %v: got %s, river has %s", x, got, want[i])
		}
	}
}

// box is a node of a tree as the paper has it: a region, and the points of the last two windows in it.
// Masses are counted by looking at every point again.
func slowScore(t *Trees, past [][]float64, x []float64) float64 {
	size := 1<<(t.height+1) - 1
	sum := 0.0
	for tree := 0; tree < len(t.nodes); tree += size {
		points := past
		node, weight := 0, 1.0
		for {
			sum += float64(len(points)) * weight
			if float64(len(points)) < 0.1*float64(t.window) || 2*node+1 >= size {
				break
			}
			s := t.nodes[tree+node]
			left := x[s.on] < s.at
			var rest [][]float64
			for _, p := range points {
				if (p[s.on] < s.at) == left {
					rest = append(rest, p)
				}
			}
			points, weight = rest, weight*2
			if node = 2*node + 2; left {
				node--
			}
		}
	}
	trees := float64(len(t.nodes) / size)
	return 1 - sum/(trees*float64(t.window)*float64(size))
}

// Against masses that are counted anew for each score, over many features.
func TestTreesAgainstCounting(t *testing.T) {
	t.Parallel()
	const window, features = 50, 6
	trees := NewTrees(7, 10, 6, window, features)
	r := rand.New(rand.NewPCG(1, 2))
	var latest, past [][]float64
	for i := range 500 {
		x := make([]float64, features)
		for j := range x {
			x[j] = r.Float64() * r.Float64()
		}
		got, want := trees.Score(x), 0.0
		if past != nil {
			want = slowScore(trees, past, x)
		}
		if d := got - want; d > 1e-12 || d < -1e-12 {
			t.Fatalf("point %d: got %v, want %v", i, got, want)
		}
		trees.Learn(x)
		if latest = append(latest, x); len(latest) == window {
			latest, past = nil, latest
		}
	}
}
