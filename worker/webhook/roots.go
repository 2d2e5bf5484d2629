package webhook

import (
	"crypto/x509"
	"net/http"
	"slices"
	"sync"

	"github.com/sluicehq/sluice/tasks"
)

// mostOwnCAs is how many endpoints' certificates have connections that are kept for reuse.
const mostOwnCAs = 64

// ways are the clients by the certificates that vouch for receivers. Each has connections
// of its own, so that nobody's go where others' certificates have vouched.
type ways struct {
	make func(*x509.CertPool) *http.Client

	mu     sync.Mutex
	common *http.Client
	roots  *x509.CertPool // nil: the system's
	own    map[tasks.CA]*http.Client
	used   []tasks.CA // of own, the last used at the end
}

// client is the one for an endpoint's certificates; "" is the common one.
func (w *ways) client(ca tasks.CA) *http.Client {
	if ca == "" {
		return w.common
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.Index(w.used, ca); i >= 0 {
		w.used = append(slices.Delete(w.used, i, i+1), ca)
		return w.own[ca]
	}
	if len(w.used) == mostOwnCAs {
		w.own[w.used[0]].CloseIdleConnections() // attempts under way end by themselves
		delete(w.own, w.used[0])
		w.used = slices.Delete(w.used, 0, 1)
	}
	c := w.make(w.with(ca))
	w.own[ca], w.used = c, append(w.used, ca)
	return c
}

// with is the certificates that vouch for all, and an endpoint's own.
func (w *ways) with(ca tasks.CA) *x509.CertPool {
	var roots *x509.CertPool
	if w.roots != nil {
		roots = w.roots.Clone()
	} else if system, err := x509.SystemCertPool(); err == nil {
		roots = system
	} else { // an image without any
		roots = x509.NewCertPool()
	}
	for _, c := range ca.Certificates() {
		roots.AddCert(c)
	}
	return roots
}

// close closes the connections that are kept for reuse.
func (w *ways) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.common.CloseIdleConnections()
	for _, c := range w.own {
		c.CloseIdleConnections()
	}
}
