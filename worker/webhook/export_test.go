package webhook

// Observe has f see every address on its way to be dialled, and decide.
func (g *Guard) Observe(f func(network, address string, verdict error) error) { g.observe = f }
