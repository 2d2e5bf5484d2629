package caps

import (
	"sync"
	"time"
)

// memory is what large bodies lie in, one after the other in the same: what each would
// leave for the collector piles up to several times of it where that has little time.
// What it has lent and kept is never more than most.
type memory struct {
	most int64

	mu   sync.Mutex
	sum  int64    // bytes that are lent or kept
	kept []unused // the oldest first
}

// unused is memory that nobody has at present.
type unused struct {
	b     []byte
	since time.Time
}

// keepUnused is how long memory that nobody asks for is kept.
const keepUnused = 10 * time.Second

// step is what memory for large bodies is a multiple of, so that it fits the next.
func step(n int64) int64 {
	const by = 1 << 20
	return (n + by - 1) / by * by
}

// beyond is how much longer memory is than what is charged for it: the end of a body
// shows where there is room for more.
const beyond = 512

// lend returns memory of n bytes, which [step] has made, and some.
func (m *memory) lend(n int64) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := len(m.kept) - 1; i >= 0; i-- {
		if b := m.kept[i].b; int64(cap(b)) == n+beyond {
			m.kept = append(m.kept[:i], m.kept[i+1:]...)
			return b[:0]
		}
	}
	for len(m.kept) > 0 && m.sum+n > m.most {
		m.dropLocked()
	}
	m.sum += n
	return make([]byte, 0, n+beyond)
}

// back takes memory back that nobody reads any more.
func (m *memory) back(b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = append(m.kept, unused{b, time.Now()})
	time.AfterFunc(keepUnused, m.trim)
}

// lost says that n bytes will not come back.
func (m *memory) lost(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sum -= n
}

// trim leaves to the collector what nobody has asked for.
func (m *memory) trim() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.kept) > 0 && time.Since(m.kept[0].since) >= keepUnused {
		m.dropLocked()
	}
}

func (m *memory) dropLocked() {
	m.sum -= int64(cap(m.kept[0].b)) - beyond
	m.kept[0] = unused{}
	m.kept = m.kept[1:]
}
