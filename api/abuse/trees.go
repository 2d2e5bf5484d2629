package abuse

import "math/rand/v2"

// Trees are Half-Space Trees (Tan, Ting and Liu, IJCAI 2011): a streaming model of what is
// common, in the form of the library river. They do badly where anomalies come packed, as abuse
// does: so their score stands beside the rules, and never acts alone.
type Trees struct {
	height, window int
	nodes          []split // tree by tree, each as a heap: the children of i are 2i+1 and 2i+2
	seen           int
	warm           bool
}

type split struct {
	on           int
	at           float64
	latest, past float64 // masses
}

// random is what the trees are drawn with.
type random interface{ Float64() float64 }

// NewTrees returns a model of points whose features are from 0 to 1.
func NewTrees(seed uint64, trees, height, window, features int) *Trees {
	return newTrees(rand.New(rand.NewPCG(seed, seed)), trees, height, window, features) // no secret
}

func newTrees(r random, trees, height, window, features int) *Trees {
	t := &Trees{height: height, window: window}
	size := 1<<(height+1) - 1
	for range trees {
		tree := make([]split, size)
		low, high := make([]float64, features), make([]float64, features)
		for i := range high {
			high[i] = 1
		}
		draw(r, tree, 0, low, high)
		t.nodes = append(t.nodes, tree...)
	}
	return t
}

// draw cuts a node of a tree: the feature by the length of what is left of it, the place away
// from the edges.
func draw(r random, tree []split, node int, low, high []float64) {
	if 2*node+1 >= len(tree) {
		return
	}
	sum := 0.0
	for i := range low {
		sum += high[i] - low[i]
	}
	on, part := 0, r.Float64()*sum
	for part -= high[0] - low[0]; part >= 0 && on < len(low)-1; part -= high[on] - low[on] {
		on++
	}
	const padding = 0.15
	a, b := low[on], high[on]
	at := a + padding*(b-a) + (1-2*padding)*(b-a)*r.Float64()
	tree[node] = split{on: on, at: at}
	high[on] = at
	draw(r, tree, 2*node+1, low, high)
	high[on], low[on] = b, at
	draw(r, tree, 2*node+2, low, high)
	low[on] = a
}

// next is the child of a node that a point falls into.
func (s *split) next(node int, x []float64) int {
	if x[s.on] < s.at {
		return 2*node + 1
	}
	return 2*node + 2
}

// Learn takes a point in.
func (t *Trees) Learn(x []float64) {
	size := 1<<(t.height+1) - 1
	for tree := 0; tree < len(t.nodes); tree += size {
		for node, depth := 0, 0; ; depth++ {
			t.nodes[tree+node].latest++
			if depth == t.height {
				break
			}
			node = t.nodes[tree+node].next(node, x)
		}
	}
	if t.seen++; t.seen < t.window {
		return
	}
	t.seen, t.warm = 0, true
	for i := range t.nodes {
		t.nodes[i].past, t.nodes[i].latest = t.nodes[i].latest, 0
	}
}

// Score is from 0, as common as can be, to 1; 0 before the first window is over.
func (t *Trees) Score(x []float64) float64 {
	if !t.warm {
		return 0
	}
	size := 1<<(t.height+1) - 1
	sum, least := 0.0, 0.1*float64(t.window)
	for tree := 0; tree < len(t.nodes); tree += size {
		for node, depth := 0, 0; ; depth++ {
			s := &t.nodes[tree+node]
			sum += s.past * float64(int(1)<<depth)
			if s.past < least || depth == t.height {
				break
			}
			node = s.next(node, x)
		}
	}
	return 1 - sum/float64(len(t.nodes)/size*t.window*size)
}
