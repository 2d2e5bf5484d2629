package drain

import (
	"fmt"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/pool"
)

// priceOf is what a model costs; ok is false where nobody has said.
func priceOf(prices []Price, model string) (price Price, ok bool) {
	for _, p := range prices {
		if pool.Serves([]string{p.Model}, model) {
			return p, true
		}
	}
	return Price{}, false
}

// of is what these tokens cost.
func (p *Price) of(u *tasks.Usage) float64 {
	return (float64(u.InputTokens)*p.Input + float64(u.OutputTokens)*p.Output +
		float64(u.CacheReadInputTokens)*p.CacheRead + float64(u.CacheCreationInputTokens)*p.CacheWrite) / 1e6
}

// money is an amount for people.
func money(amount float64) string {
	if amount > 0 && amount < 0.1 {
		return fmt.Sprintf("$%.4f", amount)
	}
	return fmt.Sprintf("$%.2f", amount)
}
