package abuse

import (
	"math"
	"math/bits"
)

// distinct counts distinct hashes: a HyperLogLog of 64 registers, whose error is about 13 %,
// and exact nearly while few are counted.
type distinct [64]uint8

// add counts a hash, and reports whether that changed anything: of one that was there it does not.
func (d *distinct) add(h uint64) bool {
	i, was := h&63, d[h&63]
	d[i] = max(was, uint8(bits.LeadingZeros64(h|63)+1)&0x3f) // at most 59
	return d[i] != was
}

// count is the estimate, by linear counting while registers are empty.
func (d *distinct) count() float64 {
	sum, empty := 0.0, 0
	for _, r := range d {
		sum += math.Float64frombits((1023 - uint64(r)) << 52) // 2 to the -r
		if r == 0 {
			empty++
		}
	}
	n := 0.709 * 64 * 64 / sum
	if n <= 2.5*64 && empty > 0 {
		return 64 * math.Log(64/float64(empty))
	}
	return n
}

// topSize is how many hashes a top keeps.
const topSize = 8

// top is the most frequent hashes of a stream (Misra and Gries): a count is too low by at most a
// ninth of the stream, and never too high. Counts fade, so that what is counted is of late.
type top [topSize]tally

type tally struct {
	Hash  uint64
	Count float32
	Hours uint8 // at whose end it was there
}

// add counts a hash, and reports whether it was there.
func (t *top) add(h uint64) bool {
	free := -1
	for i := range t {
		if t[i].Count == 0 {
			free = i
		} else if t[i].Hash == h {
			t[i].Count++
			return true
		}
	}
	if free >= 0 {
		t[free] = tally{Hash: h, Count: 1}
		return false
	}
	for i := range t {
		if t[i].Count--; t[i].Count < 0.05 {
			t[i] = tally{}
		}
	}
	return false
}

// fade leaves share of each count.
func (t *top) fade(share float32) {
	for i := range t {
		if t[i].Count *= share; t[i].Count < 0.05 {
			t[i] = tally{}
		}
	}
}

// known is a Bloom filter of hashes that are a tenant's habit.
type known [128]byte

func (k *known) add(h uint64) {
	for i := range 3 {
		b := h >> (i * 20) & 1023
		k[b/8] |= 1 << (b % 8)
	}
}

func (k *known) has(h uint64) bool {
	for i := range 3 {
		if b := h >> (i * 20) & 1023; k[b/8]&(1<<(b%8)) == 0 {
			return false
		}
	}
	return true
}

// full reports whether a third of the bits are set: then it takes strangers for known.
func (k *known) full() bool {
	n := 0
	for _, b := range k {
		n += bits.OnesCount8(b)
	}
	return n > 1024/3
}
